//! The session's rules: DataFusion's own lists with ours in their places.
//!
//! - [`checked_arithmetic`]: arithmetic fails rather than wraps.
//! - [`subqueries`]: subqueries of every correlated shape, as joins.
//! - [`filter_barrier`]: filters stay above what gives a row for no input.
//! - [`recursion`]: a bound on recursive queries.
//! - [`top_k`]: sorts with a large limit may spill.
//!
//! **Invariant:** our logical rules are analyzer rules. DataFusion checks a plan's subqueries right
//! after analysis and folds constants right after that; both would come too early for optimizer
//! rules.

mod checked_arithmetic;
mod filter_barrier;
mod recursion;
mod subqueries;
#[cfg(test)]
mod tests;
mod top_k;

use std::sync::Arc;

use datafusion::optimizer::{Analyzer, AnalyzerRule, Optimizer, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;

/// DataFusion's analyzer rules, then checked arithmetic, then the unnesting of subqueries.
pub(crate) fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let mut rules = Analyzer::new().rules;
    rules.push(Arc::new(checked_arithmetic::CheckedArithmetic));
    rules.push(Arc::new(subqueries::UnnestSubqueries));
    rules
}

/// DataFusion's optimizer rules, the pushing of filters guarded.
pub(crate) fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    filter_barrier::guarded(Optimizer::new().rules)
}

/// DataFusion's physical rules and the bound on heaps, then the bound on recursion.
///
/// The bound comes last: no rule of DataFusion's knows its node.
pub(crate) fn physical_optimizer_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = top_k::bounded(PhysicalOptimizer::new().rules);
    rules.push(Arc::new(recursion::BoundRecursion));
    rules
}
