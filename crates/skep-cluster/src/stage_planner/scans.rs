//! Scans of files: each partition reads its own files, and a narrow scan is split rather than its
//! rows sent around.
//!
//! DataFusion lets the partitions of a scan take each other's files: the first to be idle takes the
//! next file of all. In one process that balances; over tasks, each would read every file. The
//! planner therefore declares each scan's partitioning, which switches that off and, unlike the
//! session's setting, goes wherever the plan goes.
//!
//! DataFusion puts a round robin over a scan that it found too small to split, to use more cores.
//! Between processes that would send every row to save decoding some. The planner splits the scan
//! by bytes, down to `min_scan_bytes_per_task`, and drops the round robin; a scan that is not worth
//! more tasks loses it too; so does one behind filters, projections, and joins that it probes. A scan that would be worth it and cannot be split (compressed text,
//! one Arrow stream) keeps its round robin, as an exchange.

use std::sync::Arc;

use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::config::ConfigOptions;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::error::Result;
use datafusion::physical_expr::Partitioning;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};
use skep_engine::planned_bytes;

use super::cut::StageOptions;
use super::joins::emits_build_rows;

const RECOMPUTE: ReplaceChildrenOptions =
    ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);

/// Binds each partition of a scan to the files that it was given.
pub(super) fn pinned(scan: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let Some((exec, config)) = file_scan(scan) else { return Arc::clone(scan) };
    if config.output_partitioning.is_some() || config.file_groups.len() <= 1 {
        return Arc::clone(scan);
    }
    let mut config = config.clone();
    config.output_partitioning = Some(Partitioning::UnknownPartitioning(config.file_groups.len()));
    Arc::new(exec.clone().with_data_source(Arc::new(config)))
}

/// Returns what stands below a round robin with its scan made wide enough, if it can be done
/// without.
///
/// # Errors
/// If DataFusion cannot split the files.
pub(super) fn widened(
    below: &Arc<dyn ExecutionPlan>,
    options: &StageOptions,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some((exec, config)) = file_scan(below) {
        let wanted = wanted_tasks(config, options);
        if wanted <= config.file_groups.len() {
            return Ok(Some(Arc::clone(below)));
        }
        let mut splitting = ConfigOptions::new();
        splitting.optimizer.repartition_file_min_size = 0;
        return exec.repartitioned(wanted, &splitting);
    }
    let is_rowwise =
        below.is::<FilterExec>() || below.is::<ProjectionExec>() || below.is::<CooperativeExec>();
    if let Some(join) = below.downcast_ref::<HashJoinExec>()
        && *join.partition_mode() == PartitionMode::CollectLeft
        && !emits_build_rows(*join.join_type())
    {
        let Some(right) = widened(join.right(), options)? else { return Ok(None) };
        let children = vec![Arc::clone(join.left()), right];
        return Arc::clone(below).replace_children(children, RECOMPUTE).map(Some);
    }
    let children = below.children();
    let (true, [child]) = (is_rowwise, children.as_slice()) else { return Ok(None) };
    let Some(child) = widened(child, options)? else { return Ok(None) };
    Arc::clone(below).replace_children(vec![child], RECOMPUTE).map(Some)
}

fn wanted_tasks(config: &FileScanConfig, options: &StageOptions) -> usize {
    let tasks = planned_bytes(config).div_ceil(options.min_scan_bytes_per_task.max(1));
    usize::try_from(tasks).unwrap_or(usize::MAX).min(options.target_partitions)
}

fn file_scan(plan: &Arc<dyn ExecutionPlan>) -> Option<(&DataSourceExec, &FileScanConfig)> {
    let exec = plan.downcast_ref::<DataSourceExec>()?;
    Some((exec, exec.data_source().downcast_ref::<FileScanConfig>()?))
}
