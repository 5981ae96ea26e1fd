//! Subqueries of every correlated shape, as joins.
//!
//! DataFusion turns a correlated subquery into a join when its correlation is an equality (scalar
//! subqueries) or sits in a plain filter (`EXISTS`, `IN`), and only where the subquery stands in a
//! `WHERE` or a select list.
//! Those stay its own: its plans for them are the better ones.
//! Every other shape is unnested here, before DataFusion's checks refuse it:
//!
//! 1. the *domain* is the distinct outer values that the subquery refers to;
//! 2. the subquery is computed for every row of the domain at once, by carrying the domain's
//!    columns from its leaves to its root ([`unnest`]): a scalar aggregate becomes one per domain
//!    row, and groups that are empty are filled in;
//! 3. the outcome is joined back to the outer rows on the domain, NULL equal to NULL ([`attach`]).
//!
//! A scalar subquery that gives a second row for one outer row is an error at run time
//! ([`single_value`](crate::functions)).
//!
//! The domain evaluates the outer input a second time.
//! Where that may differ from the first time (`random()`, `LIMIT`, sums of floats as outer values)
//! the join back would lose rows without a word ([`stability`]).
//! There the outer rows are numbered instead ([`numbered`]), or the query is refused.
//!
//! Source: Neumann and Kemper, "Unnesting Arbitrary Queries", BTW 2015.
//!
//! **Invariant:** the rewritten plan has the schema (names, qualifiers, types) of the plan before.

mod attach;
mod eligibility;
mod lateral;
mod numbered;
mod predicates;
mod stability;
mod unnest;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNode;
use datafusion::error::Result;
use datafusion::logical_expr::{LogicalPlan, WriteOp};
use datafusion::optimizer::AnalyzerRule;

pub(super) use attach::Unnesting;

/// The analyzer rule that unnests what DataFusion cannot.
#[derive(Debug, Default)]
pub(super) struct UnnestSubqueries;

impl AnalyzerRule for UnnestSubqueries {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let has_subquery = plan.exists(|node| Ok(attach::holds_subquery(node)))?;
        if !has_subquery {
            return Ok(plan);
        }
        // DataFusion takes the condition of a change from its filters, and would not see a join.
        let changes = plan.exists(|node| {
            let changes = |op: &WriteOp| matches!(op, WriteOp::Update | WriteOp::Delete);
            Ok(matches!(node, LogicalPlan::Dml(dml) if changes(&dml.op)))
        })?;
        if changes {
            return Err(unnest::refuse("a subquery in UPDATE or DELETE"));
        }
        Unnesting::default().rewrite(plan)
    }

    fn name(&self) -> &'static str {
        "unnest_subqueries"
    }
}
