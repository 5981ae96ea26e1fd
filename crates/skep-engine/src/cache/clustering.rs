//! Choosing among the ways in which one plan is cached: the one whose rows lie as an operator wants
//! them, so that nothing has to change place.

use std::fmt;
use std::sync::{Arc, Weak};

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Distribution, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;

use super::scan::CacheScanExec;
use super::tables::CachedTables;

/// The physical rule. It has to run before DataFusion's that puts exchanges in.
pub(crate) struct ChooseClustering {
    tables: Weak<CachedTables>,
}

impl ChooseClustering {
    /// Makes the rule for the tables of a process.
    pub(crate) fn new(tables: &Arc<CachedTables>) -> Self {
        Self { tables: Arc::downgrade(tables) }
    }
}

impl PhysicalOptimizerRule for ChooseClustering {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(tables) = self.tables.upgrade() else { return Ok(plan) };
        if !tables.has_choices() {
            return Ok(plan);
        }
        plan.transform_up(|node| {
            let wanted = node.input_distribution_requirements();
            let mut children: Vec<_> = node.children().into_iter().map(Arc::clone).collect();
            let mut is_changed = false;
            for (child, distribution) in children.iter_mut().zip(wanted.into_per_child()) {
                if let Distribution::KeyPartitioned(keys) = distribution
                    && let Some(other) = reclustered(child, &keys, &tables)?
                {
                    *child = other;
                    is_changed = true;
                }
            }
            match is_changed {
                true => Ok(Transformed::yes(replace_children_if_necessary(node, children)?)),
                false => Ok(Transformed::no(node)),
            }
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "choose_clustering"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Returns a plan over the rows that are clustered by these keys, if there are any and the plan does
/// not read them yet.
fn reclustered(
    plan: &Arc<dyn ExecutionPlan>,
    keys: &[Arc<dyn PhysicalExpr>],
    tables: &CachedTables,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(columns) = columns_of(keys) else { return Ok(None) };
    if let Some(scan) = plan.downcast_ref::<CacheScanExec>() {
        let other = scan.clustered_by(&columns, tables)?;
        return Ok(other.map(|scan| Arc::new(scan) as Arc<dyn ExecutionPlan>));
    }
    let Some(below) = keys_below(plan, &columns) else { return Ok(None) };
    let [child] = plan.children()[..] else { return Ok(None) };
    match reclustered(child, &below, tables)? {
        Some(child) => Ok(Some(replace_children_if_necessary(Arc::clone(plan), vec![child])?)),
        None => Ok(None),
    }
}

fn columns_of(keys: &[Arc<dyn PhysicalExpr>]) -> Option<Vec<usize>> {
    keys.iter().map(|key| Some(key.downcast_ref::<Column>()?.index())).collect()
}

/// Returns what columns of an operator's output are in its input.
fn keys_below(
    plan: &Arc<dyn ExecutionPlan>,
    columns: &[usize],
) -> Option<Vec<Arc<dyn PhysicalExpr>>> {
    let input = plan.children().first()?.schema();
    let column = |index: usize| -> Option<Arc<dyn PhysicalExpr>> {
        Some(Arc::new(Column::new(input.fields().get(index)?.name(), index)))
    };
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let all = projection.expr();
        return columns.iter().map(|index| Some(Arc::clone(&all.get(*index)?.expr))).collect();
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        return match filter.projection() {
            Some(kept) => columns.iter().map(|index| column(*kept.get(*index)?)).collect(),
            None => columns.iter().map(|index| column(*index)).collect(),
        };
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        let is_partial = *aggregate.mode() == AggregateMode::Partial;
        let groups = aggregate.group_expr();
        if !is_partial || !groups.is_single() {
            return None;
        }
        let all = groups.expr();
        return columns.iter().map(|index| Some(Arc::clone(&all.get(*index)?.0))).collect();
    }
    if plan.is::<CooperativeExec>() {
        return columns.iter().map(|index| column(*index)).collect();
    }
    None
}

impl fmt::Debug for ChooseClustering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChooseClustering").finish_non_exhaustive()
    }
}
