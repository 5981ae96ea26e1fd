//! What is needed to make the rows of a cached table again, the same as they were.
//!
//! The physical plan is kept, not the query: its scans name the files and the pieces of them that
//! were read, so a file that was added since is not read, and one that changed is found out.
//!
//! **Invariant:** each partition of a scan reads its own files. DataFusion lets the partitions of a
//! scan take each other's; declaring the partitioning switches that off.

use std::sync::Arc;

use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::config::ConfigOptions;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::error::Result as DfResult;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::Partitioning;
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::ObjectStoreExt;

use super::scan::CacheScanExec;
use super::tables::MAX_PARTITIONS;
use crate::error::{Error, Result};
use crate::files::{explain_failure, planned_bytes};

/// Files that are looked at at the same time.
const CONCURRENCY: usize = 16;
/// Files of fewer bytes are not split: loading them is not worth another partition.
const MIN_SPLIT_BYTES: usize = 1 << 20;

/// How much of files becomes one partition: what is dropped or lost is made again by the partition,
/// and so much is read in a tenth of a second; of a store that is too small, what is left free is less
/// than one. Tasks read several.
const PARTITION_BYTES: u64 = 16 << 20;
/// Of large tables it is more: so much, unless that are fewer partitions than this for each task that
/// runs at a time. What is known of a partition has its price, too.
const LARGE_PARTITION_BYTES: u64 = 128 << 20;
const TURNS: u64 = 64;

/// How a cached table is made.
#[derive(Debug)]
pub(crate) struct Lineage {
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    sources: Vec<Source>,
    /// Whether partition `p` comes out the same whenever it is made, from its own files alone.
    pub(crate) is_narrow: bool,
}

/// A file as it was when the table was cached.
#[derive(Debug, Clone)]
struct Source {
    store: ObjectStoreUrl,
    meta: ObjectMeta,
}

impl Lineage {
    /// Takes over a plan, and the context of the session that cached it.
    ///
    /// # Errors
    /// If DataFusion cannot put the plan together again.
    pub(crate) fn new(plan: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> DfResult<Self> {
        let plan = plan.transform_up(|node| Ok(pinned(node))).data()?;
        let plan = let_go(plan)?;
        let sources = sources_of(&plan, None)?;
        let is_narrow = is_narrow(&plan)?;
        Ok(Self { plan, context, sources, is_narrow })
    }

    pub(crate) fn partition_count(&self) -> usize {
        self.plan.output_partitioning().partition_count()
    }

    pub(crate) fn context(&self) -> &Arc<TaskContext> {
        &self.context
    }

    /// Returns what makes the partitions.
    pub(crate) fn plan(&self) -> &Arc<dyn ExecutionPlan> {
        &self.plan
    }

    /// Says which files it reads, and how they were.
    pub(crate) fn sources_text(&self) -> String {
        format!("{:?}", self.sources)
    }

    /// Returns an instance of the plan that has never run: operators keep what they did.
    ///
    /// # Errors
    /// If an operator cannot be set back.
    pub(crate) fn fresh(&self) -> Result<Run> {
        let plan = reset_plan_states(Arc::clone(&self.plan))?;
        let plan = let_go(plan)?;
        Ok(Run { plan, context: Arc::clone(&self.context) })
    }

    /// Looks whether the files are as they were: those that `partition` is made from, or all.
    ///
    /// # Errors
    /// [`Error::File`] naming the first that changed or is gone, [`Error::Unavailable`] if its store
    /// does not answer.
    pub(crate) async fn check_sources(&self, table: &str, partition: Option<usize>) -> Result<()> {
        match partition {
            Some(_) => check_all(&sources_of(&self.plan, partition)?, &self.context, table).await,
            None => check_all(&self.sources, &self.context, table).await,
        }
    }
}

/// Looks whether the files that a partition of a plan reads for a cached table are as they were when
/// it was planned.
///
/// # Errors
/// [`Error::File`] naming the first that changed or is gone, [`Error::Unavailable`] if its store
/// does not answer.
pub async fn check_sources(
    plan: &Arc<dyn ExecutionPlan>,
    partition: usize,
    context: &TaskContext,
    table: &str,
) -> Result<()> {
    check_all(&sources_of(plan, Some(partition))?, context, table).await
}

/// Looks whether all files that a plan reads for a cached table are as they were when it was planned.
///
/// # Errors
/// As [`check_sources`].
pub async fn check_files(
    plan: &Arc<dyn ExecutionPlan>,
    context: &TaskContext,
    table: &str,
) -> Result<()> {
    check_all(&sources_of(plan, None)?, context, table).await
}

async fn check_all(sources: &[Source], context: &TaskContext, table: &str) -> Result<()> {
    let runtime = context.runtime_env();
    // Futures of owned parts: borrowed ones would not be provably sendable.
    let checks: Vec<_> = sources
        .iter()
        .cloned()
        .map(|source| {
            let (store, table) = (runtime.object_store(&source.store), table.to_owned());
            async move {
                let store = store.map_err(Error::from)?;
                source.check(store.head(&source.meta.location).await, &table)
            }
        })
        .collect();
    futures::stream::iter(checks).buffer_unordered(CONCURRENCY).try_collect::<()>().await
}

/// Returns the files that a partition of a plan reads, or all. Below what is not known to read its
/// partition of each input alone, they are all.
fn sources_of(plan: &Arc<dyn ExecutionPlan>, partition: Option<usize>) -> DfResult<Vec<Source>> {
    let mut sources = Vec::new();
    add_sources(plan, partition, &mut sources)?;
    Ok(sources)
}

fn add_sources(
    plan: &Arc<dyn ExecutionPlan>,
    partition: Option<usize>,
    sources: &mut Vec<Source>,
) -> DfResult<()> {
    let Some(partition) = partition else {
        plan.apply(|node| {
            if let Some((_, config)) = file_scan(node) {
                config.file_groups.iter().for_each(|group| add_files(config, group, sources));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        return Ok(());
    };
    if let Some((_, config)) = file_scan(plan) {
        if let Some(group) = config.file_groups.get(partition) {
            add_files(config, group, sources);
        }
        return Ok(());
    }
    if plan.is::<UnionExec>() {
        let mut first = 0;
        for child in plan.children() {
            let count = child.output_partitioning().partition_count();
            if (first..first + count).contains(&partition) {
                return add_sources(child, Some(partition - first), sources);
            }
            first += count;
        }
        return Ok(());
    }
    let is_alike =
        plan.is::<FilterExec>() || plan.is::<ProjectionExec>() || plan.is::<CooperativeExec>();
    for child in plan.children() {
        add_sources(child, is_alike.then_some(partition), sources)?;
    }
    Ok(())
}

fn add_files(config: &FileScanConfig, group: &FileGroup, sources: &mut Vec<Source>) {
    for file in group.iter() {
        let (store, meta) = (config.object_store_url.clone(), file.object_meta.clone());
        // A file that is read in pieces is one file.
        let is_known = sources
            .last()
            .is_some_and(|last| last.store == store && last.meta.location == meta.location);
        if !is_known {
            sources.push(Source { store, meta });
        }
    }
}

/// Returns whether a plan reads a table that others keep.
///
/// # Errors
/// Never; DataFusion's walk could.
pub(super) fn reads_hosted(plan: &Arc<dyn ExecutionPlan>) -> DfResult<bool> {
    plan.exists(|node| {
        let scan = node.downcast_ref::<CacheScanExec>();
        Ok(scan.is_some_and(|scan| scan.hosted_table().is_some()))
    })
}

impl Source {
    fn check(&self, found: Result<ObjectMeta, object_store::Error>, table: &str) -> Result<()> {
        let failed = |message: String, missing| {
            Err(Error::File {
                path: self.path(),
                format: None,
                message,
                missing,
                hint: Some(format!("REFRESH TABLE {table} caches what is there now")),
            })
        };
        match found {
            Ok(now) => {
                let was = &self.meta;
                let has_other_tag =
                    matches!((&now.e_tag, &was.e_tag), (Some(now), Some(was)) if now != was);
                if now.size == was.size && now.last_modified == was.last_modified && !has_other_tag
                {
                    return Ok(());
                }
                failed(format!("it has changed since table \"{table}\" was cached"), false)
            }
            Err(object_store::Error::NotFound { .. }) => {
                failed(format!("it is gone since table \"{table}\" was cached"), true)
            }
            Err(error) => Err(datafusion::error::DataFusionError::from(error).into()),
        }
    }

    fn path(&self) -> String {
        match self.store.as_str() {
            "file:///" => format!("/{}", self.meta.location),
            store => format!("{store}{}", self.meta.location),
        }
    }
}

/// One run of a lineage. Each partition of it is executed once.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
}

impl Run {
    /// Returns a run of another plan over this one's.
    ///
    /// # Errors
    /// Those of making that plan.
    pub(super) fn under(
        self,
        above: impl FnOnce(Arc<dyn ExecutionPlan>) -> DfResult<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Self> {
        Ok(Self { plan: above(self.plan)?, context: self.context })
    }

    /// Starts a partition.
    ///
    /// # Errors
    /// What keeps the plan from running.
    pub(crate) fn execute(&self, partition: usize) -> DfResult<SendableRecordBatchStream> {
        self.plan.execute(partition, Arc::clone(&self.context))
    }

    /// Turns what a partition failed with into an error that names the file to blame, if one is.
    pub(crate) async fn explain(&self, error: datafusion::error::DataFusionError) -> Error {
        let (plan, context) = (Arc::clone(&self.plan), Arc::clone(&self.context));
        // In a task of its own: what looks at files is large, and rarely needed.
        let looking =
            SpawnedTask::spawn(async move { explain_failure(&plan, &context, error).await });
        match looking.join().await {
            Ok(error) => error,
            Err(error) => Error::Internal { message: error.to_string(), source: None },
        }
    }
}

pub(super) fn file_scan(
    plan: &Arc<dyn ExecutionPlan>,
) -> Option<(&DataSourceExec, &FileScanConfig)> {
    let exec = plan.downcast_ref::<DataSourceExec>()?;
    Some((exec, exec.data_source().downcast_ref::<FileScanConfig>()?))
}

/// Lets all scans of other cached tables in a plan take what there is when they run.
///
/// # Errors
/// If DataFusion cannot put the plan together again.
pub(super) fn let_go(plan: Arc<dyn ExecutionPlan>) -> DfResult<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| Ok(unpinned(node))).data()
}

/// Lets a scan of another cached table take what there is when it runs.
fn unpinned(plan: Arc<dyn ExecutionPlan>) -> Transformed<Arc<dyn ExecutionPlan>> {
    match plan.downcast_ref::<CacheScanExec>() {
        Some(scan) => Transformed::yes(Arc::new(scan.unpinned())),
        None => Transformed::no(plan),
    }
}

/// Returns whether a plan only reads, row by row, however its rows are dealt out.
fn is_rowwise(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let is_here = file_scan(plan).is_some()
        || plan.is::<FilterExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<CooperativeExec>()
        || is_round_robin(plan);
    is_here && plan.children().into_iter().all(is_rowwise)
}

fn is_round_robin(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let repartition = plan.downcast_ref::<RepartitionExec>();
    repartition.is_some_and(|of| matches!(of.partitioning(), Partitioning::RoundRobinBatch(_)))
}

/// Splits the files of a plan that only reads, so that as many partitions load at once as there may
/// be and none is large, and deals no rows out: then each partition can be made again for itself.
/// Other plans stay.
///
/// # Errors
/// If DataFusion cannot split the files.
pub(super) fn widened(
    plan: Arc<dyn ExecutionPlan>,
    target: usize,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    if !is_rowwise(&plan) {
        return Ok(plan);
    }
    let mut options = ConfigOptions::new();
    options.optimizer.repartition_file_min_size = MIN_SPLIT_BYTES;
    plan.transform_up(|node| {
        if is_round_robin(&node) {
            return Ok(Transformed::yes(Arc::clone(node.children()[0])));
        }
        if let Some((_, config)) = file_scan(&node) {
            let count = partition_count(planned_bytes(config), target);
            if let Some(split) = node.repartitioned(count, &options)? {
                return Ok(Transformed::yes(split));
            }
        }
        Ok(Transformed::no(node))
    })
    .data()
}

/// Returns into how many partitions files of so many bytes are cut: turns of as many as run at once.
fn partition_count(bytes: u64, target: usize) -> usize {
    let width = target.max(1) as u64;
    let size = (bytes / (width * TURNS)).clamp(PARTITION_BYTES, LARGE_PARTITION_BYTES);
    let turns = bytes.div_ceil(size * width).max(1);
    usize::try_from(turns * width).unwrap_or(MAX_PARTITIONS).min(MAX_PARTITIONS)
}

/// Binds each partition of a scan to the files that it was given.
fn pinned(plan: Arc<dyn ExecutionPlan>) -> Transformed<Arc<dyn ExecutionPlan>> {
    let Some((exec, config)) = file_scan(&plan) else { return Transformed::no(plan) };
    if config.output_partitioning.is_some() || config.file_groups.len() <= 1 {
        return Transformed::no(plan);
    }
    let mut config = config.clone();
    config.output_partitioning = Some(Partitioning::UnknownPartitioning(config.file_groups.len()));
    Transformed::yes(Arc::new(exec.clone().with_data_source(Arc::new(config))))
}

/// Returns whether a plan only reads files, row by row: the operators that are known to give the
/// same rows in the same order for the same files, each partition from its own.
fn is_narrow(plan: &Arc<dyn ExecutionPlan>) -> DfResult<bool> {
    let is_known = file_scan(plan).is_some()
        || plan.is::<FilterExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<UnionExec>()
        || plan.is::<CooperativeExec>()
        || plan.downcast_ref::<CacheScanExec>().is_some_and(CacheScanExec::is_narrow);
    if !is_known {
        return Ok(false);
    }
    let mut is_repeatable = true;
    plan.apply_expressions(&mut |expr| {
        is_repeatable &= !is_volatile(expr);
        Ok(TreeNodeRecursion::Continue)
    })?;
    for child in plan.children() {
        is_repeatable = is_repeatable && is_narrow(child)?;
    }
    Ok(is_repeatable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_cut_into_turns_of_partitions_that_are_small_until_there_are_many() {
        const MB: u64 = 1 << 20;
        for (bytes, target, expected) in [
            (0, 4, 4),
            (63 * MB, 4, 4),
            (65 * MB, 4, 8),
            (1154 * MB, 4, 76),
            (64 * 16 * 4 * MB, 4, 64 * 4),
            // 30 MB each, and 128 at most.
            (64 * 30 * 4 * MB, 4, 64 * 4),
            (100 * 1024 * MB, 4, 800),
            (100 * 1024 * MB, 0, 800),
            (u64::MAX / 2, 4, MAX_PARTITIONS),
        ] {
            assert_eq!(partition_count(bytes, target), expected, "{bytes} in {target}");
        }
    }
}
