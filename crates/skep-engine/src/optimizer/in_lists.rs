//! Writes out `x IN (...)` where an item is computed from columns.
//!
//! DataFusion takes a list for constant if all its items give one value for no rows at all, and
//! `CASE` over columns does. Such a list would be computed once, without a row. So computed items are
//! compared one by one, and constants and plain columns stay a list.
//!
//! Runs after type coercion, when the list has one type. The value on the left is then written more
//! than once, so a volatile one is left alone.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, lit};
use datafusion::optimizer::AnalyzerRule;

/// The analyzer rule that writes lists out.
#[derive(Debug, Default)]
pub(super) struct ComputedLists;

impl AnalyzerRule for ComputedLists {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let names = NamePreserver::new(&plan);
            let plan = plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let written = expr.transform_up(|expr| Ok(write_out(expr)))?;
                Ok(written.update_data(|expr| name.restore(expr)))
            })?;
            if plan.transformed { plan.map_data(LogicalPlan::recompute_schema) } else { Ok(plan) }
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "computed_lists"
    }
}

fn write_out(expr: Expr) -> Transformed<Expr> {
    let Expr::InList(InList { expr: value, list, negated }) = expr else {
        return Transformed::no(expr);
    };
    if value.is_volatile() || !list.iter().any(is_computed) {
        return Transformed::no(Expr::InList(InList { expr: value, list, negated }));
    }
    let (computed, plain): (Vec<_>, Vec<_>) = list.into_iter().partition(is_computed);
    let mut terms: Vec<_> =
        computed.into_iter().map(|item| value.as_ref().clone().eq(item)).collect();
    if !plain.is_empty() {
        terms.insert(0, Expr::InList(InList { expr: value, list: plain, negated: false }));
    }
    let found = any(terms);
    Transformed::yes(if negated { Expr::Not(Box::new(found)) } else { found })
}

/// Tells whether an item is neither a constant nor a column, whatever its type was before.
fn is_computed(item: &Expr) -> bool {
    match item {
        Expr::Cast(cast) => is_computed(&cast.expr),
        Expr::TryCast(cast) => is_computed(&cast.expr),
        Expr::Alias(alias) => is_computed(&alias.expr),
        Expr::Column(_)
        | Expr::OuterReferenceColumn(_, _)
        | Expr::Literal(_, _)
        | Expr::Placeholder(_)
        | Expr::ScalarSubquery(_) => false,
        item => item.any_column_refs() || item.contains_outer() || has_subquery(item),
    }
}

fn has_subquery(item: &Expr) -> bool {
    // The closure cannot fail.
    item.exists(|expr| {
        Ok(matches!(
            expr,
            Expr::ScalarSubquery(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
        ))
    })
    .unwrap_or(true)
}

/// Joins terms by `OR` as a balanced tree, so that a long list is no deep expression.
fn any(mut terms: Vec<Expr>) -> Expr {
    match terms.len() {
        0 => lit(false),
        1 => terms.swap_remove(0),
        count => {
            let right = terms.split_off(count / 2);
            any(terms).or(any(right))
        }
    }
}
