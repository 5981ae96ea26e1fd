//! The session's rules: DataFusion's own lists with ours in their places.
//!
//! - [`checked_arithmetic`]: arithmetic fails rather than wraps.
//! - [`in_lists`]: lists of computed values, compared one by one.
//! - [`subqueries`]: subqueries of every correlated shape, as joins.
//! - [`recursion`]: a bound on recursive queries.
//!
//! **Invariant:** our logical rules are analyzer rules. DataFusion checks a plan's subqueries right
//! after analysis and folds constants right after that; both would come too early for optimizer
//! rules.

mod checked_arithmetic;
mod in_lists;
mod recursion;
mod subqueries;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::optimizer::{Analyzer, AnalyzerRule, Optimizer, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;

/// DataFusion's analyzer rules, then computed lists and checked arithmetic, then the unnesting of
/// subqueries.
pub(crate) fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let mut rules = Analyzer::new().rules;
    rules.push(Arc::new(in_lists::ComputedLists));
    rules.push(Arc::new(checked_arithmetic::CheckedArithmetic));
    rules.push(Arc::new(subqueries::UnnestSubqueries));
    rules
}

/// DataFusion's optimizer rules.
pub(crate) fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    Optimizer::new().rules
}

/// DataFusion's physical rules, then the bound on recursion.
///
/// The bound comes last: no rule of DataFusion's knows its node.
pub(crate) fn physical_optimizer_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    rules.push(Arc::new(recursion::BoundRecursion));
    rules
}
