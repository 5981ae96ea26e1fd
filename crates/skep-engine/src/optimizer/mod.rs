//! The session's rules: DataFusion's own lists with ours in their places.
//!
//! - [`checked_arithmetic`]: arithmetic fails rather than wraps.
//! - [`decimal_scales`]: constants with the scale of what they are added to.
//! - [`in_lists`]: lists of computed values, compared one by one.
//! - [`subqueries`]: subqueries of every correlated shape, as joins.
//! - [`filter_barrier`]: filters stay above what gives a row for no input.
//! - [`recursion`]: a bound on recursive queries.
//! - [`null_equality`]: `=` stays `=` in a join by `IS NOT DISTINCT FROM`.
//! - [`pushdown`]: filters that reach the right one of the columns that share a name.
//! - [`top_k`]: sorts with a large limit may spill.
//! - [`yielding`]: joins that multiply rows can be stopped.
//!
//! **Invariant:** our logical rules are analyzer rules, but for those that stand by a rule of
//! DataFusion's optimizer. DataFusion checks a plan's subqueries right after analysis and folds
//! constants right after that; both would come too early for optimizer rules.

mod checked_arithmetic;
mod columns;
mod decimal_scales;
mod filter_barrier;
mod in_lists;
mod null_equality;
mod pushdown;
mod recursion;
mod subqueries;
#[cfg(test)]
mod tests;
mod top_k;
mod yielding;

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::optimizer::{Analyzer, AnalyzerRule, Optimizer, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;

use crate::cache::{CacheScope, CachedTables, ChooseClustering, CodeGroups, SubstituteCached};

/// DataFusion's names for its rules that push filters down, before and after other rules.
const FILTER_RULES: [&str; 2] = ["FilterPushdown", "FilterPushdown(Post)"];

/// DataFusion's name for its rule that puts exchanges in.
const EXCHANGES: &str = "EnsureRequirements";

/// What is cached in its places (as what is being made may use it), then DataFusion's analyzer rules,
/// then computed lists and checked arithmetic, then the unnesting of subqueries.
pub(crate) fn analyzer_rules(
    cache: Option<(&Arc<CachedTables>, Option<CacheScope>)>,
) -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let mut rules = Analyzer::new().rules;
    if let Some((tables, making)) = cache {
        rules.insert(0, Arc::new(SubstituteCached::new(tables, making)));
    }
    rules.push(Arc::new(in_lists::ComputedLists));
    rules.push(Arc::new(checked_arithmetic::CheckedArithmetic));
    rules.push(Arc::new(subqueries::UnnestSubqueries));
    rules
}

/// DataFusion's optimizer rules: the pushing of filters guarded, and those that take keys out of
/// conditions; then the scales of constants.
pub(crate) fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = Vec::new();
    for rule in filter_barrier::guarded(Optimizer::new().rules) {
        match rule.name() {
            "extract_equijoin_predicate" => {
                rules.push(Arc::new(null_equality::StrictKeys));
                rules.push(rule);
            }
            "eliminate_cross_join" => rules.push(Arc::new(null_equality::JoinsApart { rule })),
            _ => rules.push(rule),
        }
    }
    // After the folding of constants.
    rules.push(Arc::new(decimal_scales::DecimalScales));
    rules
}

/// DataFusion's physical rules, those that push filters down with help, and the bound on heaps;
/// before exchanges come in, the choice among what is cached in several ways; then groups over codes,
/// joins that give way and the bound on recursion.
///
/// The bound on recursion comes last: no rule of DataFusion's knows its node.
pub(crate) fn physical_optimizer_rules(
    cache: Option<&Arc<CachedTables>>,
) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = top_k::bounded(PhysicalOptimizer::new().rules);
    for rule in &mut rules {
        if FILTER_RULES.contains(&rule.name()) {
            *rule = Arc::new(pushdown::PushFiltersByPosition { rule: Arc::clone(rule) });
        }
    }
    if let Some(tables) = cache
        && let Some(place) = rules.iter().position(|rule| rule.name() == EXCHANGES)
    {
        rules.insert(place, Arc::new(ChooseClustering::new(tables)));
    }
    if cache.is_some() {
        rules.push(Arc::new(CodeGroups));
    }
    rules.push(Arc::new(yielding::YieldingJoins));
    rules.push(Arc::new(recursion::BoundRecursion));
    rules
}

/// Returns what the expressions of a node may name: the columns of its inputs, and of the table that
/// it reads, those included that it passes on to nobody.
///
/// # Errors
/// If a table repeats the name of a column.
fn schema_below(plan: &LogicalPlan) -> Result<DFSchema> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = plan {
        let name = scan.table_name.clone();
        schema.merge(&DFSchema::try_from_qualified_schema(name, &scan.source.schema())?);
    }
    Ok(schema)
}
