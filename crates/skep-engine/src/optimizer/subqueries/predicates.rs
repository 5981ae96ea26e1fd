//! `IN`, `ANY` and `ALL` as scalar subqueries, with SQL's three truth values.
//!
//! The functions take the schema of the rows that the predicate is asked about.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, ExprSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::{bool_and, bool_or, count};
use datafusion::logical_expr::expr::{InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::logical_plan::{Aggregate, LogicalPlan, Projection};
use datafusion::logical_expr::{Expr, Operator, binary_expr, lit, when};

/// `x IN (subquery)`: a plan of one row that holds its truth value.
pub(super) fn membership(schema: &DFSchema, within: &InSubquery) -> Result<LogicalPlan> {
    let any = quantified(
        schema,
        &within.expr,
        Operator::Eq,
        &SetQuantifier::Any,
        &within.subquery.subquery,
    )?;
    if !within.negated {
        return Ok(any);
    }
    let value = Expr::Column(Column::from(any.schema().qualified_field(0)));
    let negated = Expr::Not(Box::new(value)).alias("negated");
    Ok(LogicalPlan::Projection(Projection::try_new(vec![negated], Arc::new(any))?))
}

/// `x op ANY (subquery)` or `x op ALL (subquery)`: a plan of one row that holds its truth value.
pub(super) fn comparison(schema: &DFSchema, comparison: &SetComparison) -> Result<LogicalPlan> {
    quantified(
        schema,
        &comparison.expr,
        comparison.op,
        &comparison.quantifier,
        &comparison.subquery.subquery,
    )
}

fn quantified(
    schema: &DFSchema,
    operand: &Expr,
    op: Operator,
    quantifier: &SetQuantifier,
    subquery: &Arc<LogicalPlan>,
) -> Result<LogicalPlan> {
    // Type coercion has given both sides one type.
    let element = Expr::Column(Column::from(subquery.schema().qualified_field(0)));
    let operand = as_outer(operand, schema)?;
    let holds = binary_expr(operand, op, element);
    let decided = match quantifier {
        SetQuantifier::Any => bool_or(holds.clone()),
        SetQuantifier::All => bool_and(holds.clone()),
    };
    let aggregates = vec![
        decided.alias("__decided"),
        count(lit(1_i64)).alias("__rows"),
        count(holds).alias("__known"),
    ];
    let aggregate = Aggregate::try_new(Arc::clone(subquery), vec![], aggregates)?;
    let column = |name: &str| Expr::Column(Column::new_unqualified(name));
    let unknown = lit(ScalarValue::Boolean(None));
    let unsure = column("__rows").gt(column("__known"));
    let truth = match quantifier {
        // One true is enough; without one, an unknown makes all unknown; no rows: false.
        SetQuantifier::Any => when(column("__decided").is_true(), lit(true))
            .when(unsure, unknown)
            .otherwise(lit(false))?,
        SetQuantifier::All => when(column("__decided").is_false(), lit(false))
            .when(unsure, unknown)
            .otherwise(lit(true))?,
    };
    let aggregate = Arc::new(LogicalPlan::Aggregate(aggregate));
    Ok(LogicalPlan::Projection(Projection::try_new(vec![truth.alias("truth")], aggregate)?))
}

/// The same expression seen from inside the subquery.
fn as_outer(expr: &Expr, schema: &DFSchema) -> Result<Expr> {
    expr.clone()
        .transform(|expr| match &expr {
            Expr::Column(column) => {
                let field = Arc::clone(schema.field_from_column(column)?);
                Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column.clone())))
            }
            _ => Ok(Transformed::no(expr)),
        })
        .data()
}
