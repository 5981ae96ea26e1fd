//! Writes constants with as many decimal places as the column that they are added to.
//!
//! `1 - discount` is planned with a constant of no decimal places. Arrow then multiplies both sides of
//! every single row by powers of ten first, checked and in 128 bits, which takes several times longer
//! than the subtraction; of `1.00 - discount` it does not.
//!
//! **Invariant:** the operation's type stays what it was, to the last digit of its precision.

use datafusion::arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use super::schema_below;

/// The optimizer rule that gives constants the scale of what they are added to.
#[derive(Debug, Default)]
pub(super) struct DecimalScales;

impl OptimizerRule for DecimalScales {
    fn name(&self) -> &'static str {
        "decimal_scales"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let schema = schema_below(&plan)?;
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let scaled = expr.transform_up(|expr| scale_sum(expr, &schema))?;
            Ok(scaled.update_data(|expr| name.restore(expr)))
        })
    }
}

/// Gives the constant of a sum or difference the scale of the other side.
fn scale_sum(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else {
        return Ok(Transformed::no(expr));
    };
    let before = BinaryExpr { left, op, right };
    let after = match (before.left.as_ref(), before.right.as_ref()) {
        _ if !matches!(op, Operator::Plus | Operator::Minus) => None,
        (Expr::Literal(..), Expr::Literal(..)) => None,
        (Expr::Literal(value, _), other) => scaled(value, other, schema)
            .map(|left| BinaryExpr::new(Box::new(left), op, before.right.clone())),
        (other, Expr::Literal(value, _)) => scaled(value, other, schema)
            .map(|right| BinaryExpr::new(before.left.clone(), op, Box::new(right))),
        _ => None,
    };
    Ok(match after {
        Some(after) if type_of(&after, schema)? == type_of(&before, schema)? => {
            Transformed::yes(Expr::BinaryExpr(after))
        }
        _ => Transformed::no(Expr::BinaryExpr(before)),
    })
}

/// Returns the type of an operation's result.
fn type_of(operation: &BinaryExpr, schema: &DFSchema) -> Result<DataType> {
    let (left, right) = (operation.left.get_type(schema)?, operation.right.get_type(schema)?);
    BinaryTypeCoercer::new(&left, &operation.op, &right).get_result_type()
}

/// Returns the same number with the scale of `other`, if that has more decimal places.
fn scaled(value: &ScalarValue, other: &Expr, schema: &DFSchema) -> Option<Expr> {
    let ScalarValue::Decimal128(Some(number), precision, scale) = value else { return None };
    let DataType::Decimal128(_, wanted) = other.get_type(schema).ok()? else { return None };
    let more = u8::try_from(wanted.checked_sub(*scale)?).ok().filter(|more| *more > 0)?;
    let precision = precision.checked_add(more)?;
    if precision > DECIMAL128_MAX_PRECISION {
        return None;
    }
    let number = number.checked_mul(10_i128.checked_pow(more.into())?)?;
    Some(Expr::Literal(ScalarValue::Decimal128(Some(number), precision, wanted), None))
}
