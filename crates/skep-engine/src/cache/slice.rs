//! Rows of a cached table that are not kept, straight from the files that they were made from: only
//! the columns that a query wants, and nothing is encoded or stored on the way.
//!
//! **Invariant:** a plan that is made here gives the rows that the scan would give for the same
//! partitions. Whoever runs it looks first whether the files are as they were.

use std::sync::Arc;

use datafusion::arrow::compute::CastOptions;
use datafusion::arrow::util::display::FormatOptions;
use datafusion::common::config::ConfigOptions;
use datafusion::datasource::physical_plan::FileGroup;
use datafusion::error::Result;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_optimizer::projection_pushdown::ProjectionPushdown;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};

use super::lineage::file_scan;
use super::scan::CacheScanExec;

/// Returns a plan of these partitions of another one, which are ascending; `None` if that does more
/// than read files, row by row, each partition its own.
///
/// Shape: partition `i` is partition `partitions[i]`.
///
/// # Errors
/// If DataFusion cannot put the plan together again.
pub fn slice_of_files(
    plan: &Arc<dyn ExecutionPlan>,
    partitions: &[usize],
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some((exec, config)) = file_scan(plan) {
        let group = |partition: &usize| config.file_groups.get(*partition).cloned();
        let Some(groups) = partitions.iter().map(group).collect::<Option<Vec<FileGroup>>>() else {
            return Ok(None);
        };
        let mut config = config.clone();
        // Declared, so that no partition reads the files of another.
        config.output_partitioning = Some(Partitioning::UnknownPartitioning(groups.len()));
        config.file_groups = groups;
        return Ok(Some(Arc::new(exec.clone().with_data_source(Arc::new(config)))));
    }
    if plan.is::<UnionExec>() {
        return slice_of_union(plan, partitions);
    }
    if plan.is::<CooperativeExec>() {
        return slice_of_files(plan.children()[0], partitions);
    }
    if !plan.is::<FilterExec>() && !plan.is::<ProjectionExec>() {
        return Ok(None);
    }
    match slice_of_files(plan.children()[0], partitions)? {
        Some(child) => {
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Arc::clone(plan).replace_children(vec![child], options).map(Some)
        }
        None => Ok(None),
    }
}

fn slice_of_union(
    plan: &Arc<dyn ExecutionPlan>,
    partitions: &[usize],
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let mut inputs = Vec::new();
    let mut first = 0;
    for child in plan.children() {
        let count = child.output_partitioning().partition_count();
        let own = partitions.iter().filter(|partition| (first..first + count).contains(partition));
        let own: Vec<usize> = own.map(|partition| partition - first).collect();
        first += count;
        if own.is_empty() {
            continue;
        }
        match slice_of_files(child, &own)? {
            Some(input) => inputs.push(input),
            None => return Ok(None),
        }
    }
    // One input is what it is: unions of one are not allowed.
    match inputs.len() {
        1 => Ok(inputs.pop()),
        _ => UnionExec::try_new(inputs).map(Some),
    }
}

impl CacheScanExec {
    /// Returns a plan that gives the rows of this scan out of one that makes the cached rows, or a
    /// slice of it: its columns are the cached ones, by their places.
    ///
    /// Shape: the columns of the scan, the partitions of `plan`.
    ///
    /// # Errors
    /// If a column is of a type that cannot be made into the cached one.
    pub fn over_lineage(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let made = plan.schema();
        let (read, schema) = self.columns_read();
        // As cached rows are cast when they are kept.
        let options = CastOptions { safe: true, format_options: FormatOptions::default() };
        let expressions = read.iter().zip(schema.fields()).map(|(place, field)| {
            let column = Arc::new(Column::new(made.field(*place).name(), *place));
            let expression: Arc<dyn PhysicalExpr> =
                match made.field(*place).data_type() == field.data_type() {
                    true => column,
                    false => {
                        let options = Some(options.clone());
                        Arc::new(CastExpr::new(column, field.data_type().clone(), options))
                    }
                };
            Ok((expression, field.name().clone()))
        });
        let expressions = expressions.collect::<Result<Vec<_>>>()?;
        let mut rows: Arc<dyn ExecutionPlan> =
            Arc::new(ProjectionExec::try_new(expressions, plan)?);
        if let Some(condition) = self.conditions().over_projected() {
            rows = Arc::new(FilterExec::try_new(condition, rows)?);
        }
        if self.width() < read.len() {
            let given = schema.fields().iter().enumerate().take(self.width());
            let given = given.map(|(place, field)| {
                let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), place));
                (column, field.name().clone())
            });
            rows = Arc::new(ProjectionExec::try_new(given, rows)?);
        }
        let options = ConfigOptions::new();
        let rows = ProjectionPushdown::new().optimize(rows, &options)?;
        let rows = FilterPushdown::new().optimize(rows, &options)?;
        Ok(Arc::new(CooperativeExec::new(rows)))
    }
}
