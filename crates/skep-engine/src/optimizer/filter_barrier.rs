//! Keeps filters above the operators that give a row without reading one.
//!
//! DataFusion pushes a filter below an aggregate if every column of it is grouped by, which holds
//! for a filter without columns under any aggregate.
//! An aggregate without GROUP BY, or with an empty grouping set, gives its row for no input too:
//! `SELECT count(*) FROM t HAVING (SELECT min(a) FROM t) = 99` must give none.
//! Filters lose their columns late, when `NOT k = k` is simplified or a projection puts a constant
//! for a name, so the pushing itself is guarded and not the statement.
//!
//! A volatile filter asks anew for every row, so it must also see the rows that it was written
//! for: groups, not what they are made of.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Aggregate, Expr, Filter, LogicalPlan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

const GUARDED: &str = "push_down_filter";

/// DataFusion's optimizer rules with a guard around the one that pushes filters down.
pub(super) fn guarded(
    rules: Vec<Arc<dyn OptimizerRule + Send + Sync>>,
) -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let guard =
        |rule: Arc<dyn OptimizerRule + Send + Sync>| -> Arc<dyn OptimizerRule + Send + Sync> {
            if rule.name() == GUARDED { Arc::new(FilterBarrier { inner: rule }) } else { rule }
        };
    rules.into_iter().map(guard).collect()
}

#[derive(Debug)]
struct FilterBarrier {
    inner: Arc<dyn OptimizerRule + Send + Sync>,
}

impl OptimizerRule for FilterBarrier {
    fn name(&self) -> &'static str {
        GUARDED
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.inner.apply_order()
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        match barrier_below(&plan) {
            Barrier::None => self.inner.rewrite(plan, config),
            Barrier::All => Ok(Transformed::no(plan)),
            Barrier::Volatile => {
                let (volatile, input) = without_volatile(plan)?;
                let rewritten = match input {
                    LogicalPlan::Filter(_) => self.inner.rewrite(input, config)?,
                    other => Transformed::no(other),
                };
                rewritten.map_data(|input| match conjunction(volatile) {
                    Some(predicate) => {
                        Filter::try_new(predicate, Arc::new(input)).map(LogicalPlan::Filter)
                    }
                    None => Ok(input),
                })
            }
        }
    }
}

/// What must not pass the operator below a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Barrier {
    None,
    Volatile,
    All,
}

/// Looks through filters upon filters, since the rule merges them on its way.
fn barrier_below(plan: &LogicalPlan) -> Barrier {
    let mut node = plan;
    let mut is_volatile = false;
    while let LogicalPlan::Filter(filter) = node {
        is_volatile |= filter.predicate.is_volatile();
        node = &filter.input;
    }
    match node {
        _ if !matches!(plan, LogicalPlan::Filter(_)) => Barrier::None,
        LogicalPlan::Aggregate(aggregate) if gives_row_for_none(aggregate) => Barrier::All,
        LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) | LogicalPlan::Window(_)
            if is_volatile =>
        {
            Barrier::Volatile
        }
        _ => Barrier::None,
    }
}

/// Grouping sets count whether or not one of them is empty: DataFusion's rule knows none of their
/// columns, so a filter without columns is all that it would push.
fn gives_row_for_none(aggregate: &Aggregate) -> bool {
    aggregate.group_expr.iter().all(|expr| matches!(expr, Expr::GroupingSet(_)))
}

/// Takes the volatile terms out of filters upon filters; the others stay in one.
fn without_volatile(plan: LogicalPlan) -> Result<(Vec<Expr>, LogicalPlan)> {
    let mut predicates = Vec::new();
    let mut node = plan;
    while let LogicalPlan::Filter(filter) = node {
        // The inner terms come first, as they were.
        predicates.splice(0..0, split_conjunction_owned(filter.predicate));
        node = Arc::unwrap_or_clone(filter.input);
    }
    let (volatile, stable): (Vec<_>, Vec<_>) = predicates.into_iter().partition(Expr::is_volatile);
    if let Some(predicate) = conjunction(stable) {
        node = LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(node))?);
    }
    Ok((volatile, node))
}
