//! Aggregates over grouping sets of no columns: DataFusion's message counts sets by their columns.

use std::sync::Arc;

use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, PhysicalGroupBy};

/// Returns how many grouping sets an aggregate has that groups by none but empty ones.
pub(super) fn empty_groups(plan: &dyn ExecutionPlan) -> Option<usize> {
    let groups = plan.downcast_ref::<AggregateExec>()?.group_expr();
    (groups.is_empty() && groups.has_grouping_set()).then(|| groups.groups().len())
}

/// Gives an aggregate that DataFusion has read its grouping sets again.
///
/// # Errors
/// If it is none.
pub(super) fn decode(
    groups: usize,
    plan: &Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(aggregate) = plan.downcast_ref::<AggregateExec>() else {
        return internal_err!("{} is no aggregate", plan.name());
    };
    let group_by = PhysicalGroupBy::new(Vec::new(), Vec::new(), vec![Vec::new(); groups], true);
    let complete = AggregateExec::try_new(
        *aggregate.mode(),
        group_by,
        aggregate.aggr_expr().to_vec(),
        aggregate.filter_expr().to_vec(),
        Arc::clone(aggregate.input()),
        aggregate.input_schema(),
    )?;
    Ok(Arc::new(complete.with_limit_options(aggregate.limit_options())))
}
