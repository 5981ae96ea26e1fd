//! Puts checked operations where arithmetic could wrap without a word.
//!
//! Runs after type coercion, when the types of all operands are known, and before anything is
//! folded.
//! An operation that cannot leave its type, as `CAST(small AS BIGINT) + 1`, stays DataFusion's,
//! whose rules know it.
//! Also replaces DataFusion's `sum` by the checked one, for plans that were built by the DataFrame
//! functions and not by name.
//!
//! A plan that crosses the wire carries the operations by name: whoever decodes it must have
//! registered [`checked_functions`](crate::functions) and `sum`.

use datafusion::arrow::datatypes::{
    DECIMAL32_MAX_PRECISION, DECIMAL64_MAX_PRECISION, DECIMAL128_MAX_PRECISION,
    DECIMAL256_MAX_PRECISION, DataType,
};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, WindowFunctionDefinition,
};
use datafusion::optimizer::AnalyzerRule;

use crate::functions::checked_arithmetic::{checked, checked_negative};
use crate::functions::checked_sum::checked_sum_udaf;

/// The analyzer rule that makes arithmetic fail rather than wrap.
#[derive(Debug, Default)]
pub(super) struct CheckedArithmetic;

impl AnalyzerRule for CheckedArithmetic {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(check_node).data()
    }

    fn name(&self) -> &'static str {
        "checked_arithmetic"
    }
}

fn check_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        let full =
            DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?;
        schema.merge(&full);
    }
    let names = NamePreserver::new(&plan);
    let plan = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let checked = expr.transform_up(|expr| check_expr(expr, &schema))?;
        Ok(checked.update_data(|expr| name.restore(expr)))
    })?;
    if plan.transformed { plan.map_data(LogicalPlan::recompute_schema) } else { Ok(plan) }
}

fn check_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if may_wrap(&left, op, &right, schema)? =>
        {
            Ok(Transformed::yes(checked(op, *left, *right)))
        }
        Expr::Negative(operand) => {
            let signed = operand.get_type(schema).is_ok_and(|known| known.is_signed_integer());
            let literal = matches!(range(&operand, schema), Some((low, high)) if low == high);
            // The negation of a literal is a literal but for the least number, which is written so.
            if signed && !(literal && fits_negated(&operand, schema)?) {
                Ok(Transformed::yes(checked_negative(*operand)))
            } else {
                Ok(Transformed::no(Expr::Negative(operand)))
            }
        }
        Expr::AggregateFunction(mut function) if function.func.inner().is::<Sum>() => {
            function.func = checked_sum_udaf();
            Ok(Transformed::yes(Expr::AggregateFunction(function)))
        }
        Expr::WindowFunction(mut function) => match &function.fun {
            WindowFunctionDefinition::AggregateUDF(udaf) if udaf.inner().is::<Sum>() => {
                function.fun = WindowFunctionDefinition::AggregateUDF(checked_sum_udaf());
                Ok(Transformed::yes(Expr::WindowFunction(function)))
            }
            _ => Ok(Transformed::no(Expr::WindowFunction(function))),
        },
        other => Ok(Transformed::no(other)),
    }
}

fn fits_negated(operand: &Expr, schema: &DFSchema) -> Result<bool> {
    let bounds = integer_bounds(&operand.get_type(schema)?);
    Ok(match (bounds, range(operand, schema)) {
        (Some((_, max)), Some((low, _))) => low.checked_neg().is_some_and(|value| value <= max),
        _ => false,
    })
}

/// Tells whether DataFusion's operator could give a wrong number.
fn may_wrap(left: &Expr, op: Operator, right: &Expr, schema: &DFSchema) -> Result<bool> {
    if !matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply) {
        return Ok(false);
    }
    // A type that is not known yet, as of a lambda's variable, is no reason to fail here.
    let (Ok(left_type), Ok(right_type)) = (left.get_type(schema), right.get_type(schema)) else {
        return Ok(false);
    };
    if left_type != right_type && !(left_type.is_decimal() && right_type.is_decimal()) {
        return Ok(false);
    }
    if let Some((min, max)) = integer_bounds(&left_type) {
        let result = combine(op, range(left, schema), range(right, schema));
        return Ok(!result.is_some_and(|(low, high)| min <= low && high <= max));
    }
    if !left_type.is_decimal() {
        return Ok(false);
    }
    let whole = BinaryExpr::new(Box::new(left.clone()), op, Box::new(right.clone()));
    let whole = Expr::BinaryExpr(whole);
    Ok(match whole.get_type(schema)? {
        DataType::Decimal32(precision, _) => precision == DECIMAL32_MAX_PRECISION,
        DataType::Decimal64(precision, _) => precision == DECIMAL64_MAX_PRECISION,
        DataType::Decimal128(precision, scale) => {
            let summed = decimal_scale(&left_type).saturating_add(decimal_scale(&right_type));
            let is_exact = op != Operator::Multiply || scale == summed;
            precision == DECIMAL128_MAX_PRECISION && !(is_exact && fits(&whole, scale, schema))
        }
        DataType::Decimal256(precision, _) => precision == DECIMAL256_MAX_PRECISION,
        _ => false,
    })
}

fn decimal_scale(data_type: &DataType) -> i8 {
    match data_type {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => *scale,
        _ => 0,
    }
}

/// Tells whether a decimal stays within 38 digits by what its operands can be: the type of
/// `price * (1 - discount)` has no room left, its values have.
fn fits(expr: &Expr, scale: i8, schema: &DFSchema) -> bool {
    // Half of the range: far more than what the estimate in floats may be off.
    const LARGEST: f64 = 0.5e38;
    let largest = operands_magnitude(expr, schema);
    largest.is_some_and(|largest| largest * 10_f64.powi(scale.into()) < LARGEST)
}

fn operands_magnitude(expr: &Expr, schema: &DFSchema) -> Option<f64> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else {
        return None;
    };
    let (left, right) = (magnitude(left, schema)?, magnitude(right, schema)?);
    match op {
        Operator::Plus | Operator::Minus => Some(left + right),
        Operator::Multiply => Some(left * right),
        _ => None,
    }
}

/// An upper bound of an expression's absolute value, as its type and form tell.
fn magnitude(expr: &Expr, schema: &DFSchema) -> Option<f64> {
    let own = match expr.get_type(schema).ok()? {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => {
            Some(10_f64.powi(i32::from(precision) - i32::from(scale)))
        }
        data_type => integer_bounds(&data_type).map(|(low, high)| (high.max(-low) as f64).max(1.0)),
    };
    let by_form = match expr {
        Expr::Literal(value, _) => match value.cast_to(&DataType::Float64).ok()? {
            ScalarValue::Float64(Some(value)) => Some(value.abs()),
            _ => None,
        },
        Expr::Alias(alias) => magnitude(&alias.expr, schema),
        // A cast may round up.
        Expr::Cast(cast) => magnitude(&cast.expr, schema).map(|inner| inner + 1.0),
        Expr::BinaryExpr(_) => operands_magnitude(expr, schema),
        _ => None,
    };
    match (own, by_form) {
        (Some(own), Some(by_form)) => Some(own.min(by_form)),
        (own, by_form) => own.or(by_form),
    }
}

type Range = (i128, i128);

fn integer_bounds(data_type: &DataType) -> Option<Range> {
    Some(match data_type {
        DataType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 => (i32::MIN.into(), i32::MAX.into()),
        DataType::Int64 => (i64::MIN.into(), i64::MAX.into()),
        DataType::UInt8 => (0, u8::MAX.into()),
        DataType::UInt16 => (0, u16::MAX.into()),
        DataType::UInt32 => (0, u32::MAX.into()),
        DataType::UInt64 => (0, u64::MAX.into()),
        _ => return None,
    })
}

/// The least and greatest value that an integer expression can have, as its form tells.
fn range(expr: &Expr, schema: &DFSchema) -> Option<Range> {
    let own = || integer_bounds(&expr.get_type(schema).ok()?);
    match expr {
        Expr::Literal(value, _) => {
            let value = match value.cast_to(&DataType::Decimal128(38, 0)).ok()? {
                ScalarValue::Decimal128(Some(value), _, _) if value_is_integer(expr) => value,
                _ => return own(),
            };
            Some((value, value))
        }
        Expr::Alias(alias) => range(&alias.expr, schema),
        Expr::Cast(cast) => {
            let (min, max) = own()?;
            let (low, high) = range(&cast.expr, schema).unwrap_or((min, max));
            Some((low.max(min), high.min(max)))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (min, max) = own()?;
            match combine(*op, range(left, schema), range(right, schema)) {
                Some((low, high)) if min <= low && high <= max => Some((low, high)),
                _ => Some((min, max)),
            }
        }
        _ => own(),
    }
}

fn value_is_integer(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(value, _) if value.data_type().is_integer())
}

fn combine(op: Operator, left: Option<Range>, right: Option<Range>) -> Option<Range> {
    let ((a, b), (c, d)) = (left?, right?);
    match op {
        Operator::Plus => Some((a + c, b + d)),
        Operator::Minus => Some((a - d, b - c)),
        Operator::Multiply => {
            let products =
                [a.checked_mul(c)?, a.checked_mul(d)?, b.checked_mul(c)?, b.checked_mul(d)?];
            Some((*products.iter().min()?, *products.iter().max()?))
        }
        _ => None,
    }
}
