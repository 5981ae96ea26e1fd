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
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRewriter};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, WindowFunctionDefinition,
};
use datafusion::optimizer::AnalyzerRule;

use super::schema_below;
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
    let schema = schema_below(&plan)?;
    let names = NamePreserver::new(&plan);
    let plan = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let checked = expr.rewrite(&mut Check { schema: &schema, levels: vec![Vec::new()] })?;
        Ok(checked.update_data(|expr| name.restore(expr)))
    })?;
    if plan.transformed { plan.map_data(LogicalPlan::recompute_schema) } else { Ok(plan) }
}

/// Replaces operations from the leaves up.
///
/// What is known of an arithmetic operation is handed to the one above it: to ask each anew for its
/// type and range would walk all below it again, and a chain of `+` is as deep as it is long.
struct Check<'a> {
    schema: &'a DFSchema,
    /// What is known of the children of the expressions that are being walked, outermost first.
    levels: Vec<Vec<Option<Known>>>,
}

impl TreeNodeRewriter for Check<'_> {
    type Node = Expr;

    fn f_down(&mut self, expr: Expr) -> Result<Transformed<Expr>> {
        self.levels.push(Vec::new());
        Ok(Transformed::no(expr))
    }

    fn f_up(&mut self, expr: Expr) -> Result<Transformed<Expr>> {
        let children = self.levels.pop().unwrap_or_default();
        let (expr, known) = check_expr(expr, children, self.schema)?;
        if let Some(siblings) = self.levels.last_mut() {
            siblings.push(known);
        }
        Ok(expr)
    }
}

type Checked = (Transformed<Expr>, Option<Known>);

/// Returns the expression with what is known of it, if that took a look below it.
fn check_expr(expr: Expr, children: Vec<Option<Known>>, schema: &DFSchema) -> Result<Checked> {
    let mut children = children.into_iter();
    let mut child = |expr: &Expr| match children.next() {
        Some(Some(known)) => Some(known),
        _ => Known::of_leaf(expr, schema),
    };
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.is_numerical_operators() => {
            // A type that is not known yet, as of a lambda's variable, is no reason to fail here.
            let (Some(left_known), Some(right_known)) = (child(&left), child(&right)) else {
                return Ok((Transformed::no(binary(left, op, right)), None));
            };
            let known = Known::of_operation(&left_known, op, &right_known);
            if known.as_ref().is_some_and(|it| may_wrap(&left_known, op, &right_known, it)) {
                let known = known.map(|known| Known::of_type(known.data_type));
                (Transformed::yes(checked(op, *left, *right)), known)
            } else {
                (Transformed::no(binary(left, op, right)), known)
            }
        }
        Expr::Negative(operand) => {
            let Some(known) = child(&operand) else {
                return Ok((Transformed::no(Expr::Negative(operand)), None));
            };
            let result = Some(Known::of_type(known.data_type.clone()));
            if known.data_type.is_signed_integer() && !known.is_safely_negated() {
                (Transformed::yes(checked_negative(*operand)), result)
            } else {
                (Transformed::no(Expr::Negative(operand)), result)
            }
        }
        Expr::Alias(alias) => {
            let known = match *alias.expr {
                // Such an alias may have a type of its own.
                Expr::Placeholder(_) => None,
                ref inner => child(inner),
            };
            (Transformed::no(Expr::Alias(alias)), known)
        }
        Expr::Cast(cast) => {
            let known = Known::of_cast(cast.field.data_type(), child(&cast.expr));
            (Transformed::no(Expr::Cast(cast)), Some(known))
        }
        Expr::AggregateFunction(mut function) if function.func.inner().is::<Sum>() => {
            function.func = checked_sum_udaf();
            (Transformed::yes(Expr::AggregateFunction(function)), None)
        }
        Expr::WindowFunction(mut function) => match &function.fun {
            WindowFunctionDefinition::AggregateUDF(udaf) if udaf.inner().is::<Sum>() => {
                function.fun = WindowFunctionDefinition::AggregateUDF(checked_sum_udaf());
                (Transformed::yes(Expr::WindowFunction(function)), None)
            }
            _ => (Transformed::no(Expr::WindowFunction(function)), None),
        },
        other => (Transformed::no(other), None),
    })
}

fn binary(left: Box<Expr>, op: Operator, right: Box<Expr>) -> Expr {
    Expr::BinaryExpr(BinaryExpr { left, op, right })
}

/// Tells whether DataFusion's operator could give a wrong number.
fn may_wrap(left: &Known, op: Operator, right: &Known, result: &Known) -> bool {
    if !matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply) {
        return false;
    }
    let (left_type, right_type) = (&left.data_type, &right.data_type);
    if left_type != right_type && !(left_type.is_decimal() && right_type.is_decimal()) {
        return false;
    }
    if let Some((min, max)) = integer_bounds(left_type) {
        let result = combine(op, left.range, right.range);
        return !result.is_some_and(|(low, high)| min <= low && high <= max);
    }
    if !left_type.is_decimal() {
        return false;
    }
    match &result.data_type {
        DataType::Decimal32(precision, _) => *precision == DECIMAL32_MAX_PRECISION,
        DataType::Decimal64(precision, _) => *precision == DECIMAL64_MAX_PRECISION,
        DataType::Decimal128(precision, scale) => {
            let summed = decimal_scale(left_type).saturating_add(decimal_scale(right_type));
            let is_exact = op != Operator::Multiply || *scale == summed;
            *precision == DECIMAL128_MAX_PRECISION && !(is_exact && fits(left, op, right, *scale))
        }
        DataType::Decimal256(precision, _) => *precision == DECIMAL256_MAX_PRECISION,
        _ => false,
    }
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
fn fits(left: &Known, op: Operator, right: &Known, scale: i8) -> bool {
    // Half of the range: far more than what the estimate in floats may be off.
    const LARGEST: f64 = 0.5e38;
    let largest = operands_magnitude(left, op, right);
    largest.is_some_and(|largest| largest * 10_f64.powi(scale.into()) < LARGEST)
}

fn operands_magnitude(left: &Known, op: Operator, right: &Known) -> Option<f64> {
    let (left, right) = (left.magnitude?, right.magnitude?);
    match op {
        Operator::Plus | Operator::Minus => Some(left + right),
        Operator::Multiply => Some(left * right),
        _ => None,
    }
}

/// What an expression's type and form tell of its values.
#[derive(Debug, Clone)]
struct Known {
    data_type: DataType,
    /// The least and greatest value of an integer.
    range: Option<Range>,
    /// An upper bound of the absolute value.
    magnitude: Option<f64>,
}

impl Known {
    fn of_type(data_type: DataType) -> Self {
        let range = integer_bounds(&data_type);
        let magnitude = match data_type {
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale) => {
                Some(10_f64.powi(i32::from(precision) - i32::from(scale)))
            }
            _ => range.map(|(low, high)| (high.max(-low) as f64).max(1.0)),
        };
        Self { data_type, range, magnitude }
    }

    /// For expressions whose form tells nothing but a literal's.
    fn of_leaf(expr: &Expr, schema: &DFSchema) -> Option<Self> {
        let known = Self::of_type(expr.get_type(schema).ok()?);
        Some(match expr {
            Expr::Literal(value, _) => known.of_literal(value),
            _ => known,
        })
    }

    fn of_literal(mut self, value: &ScalarValue) -> Self {
        if self.data_type.is_integer() {
            match value.cast_to(&DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0)) {
                Ok(ScalarValue::Decimal128(Some(value), _, _)) => self.range = Some((value, value)),
                Ok(_) => {}
                Err(_) => self.range = None,
            }
        }
        match value.cast_to(&DataType::Float64) {
            Ok(ScalarValue::Float64(Some(value))) => self = self.at_most(Some(value.abs())),
            Ok(_) => {}
            Err(_) => self.magnitude = None,
        }
        self
    }

    fn of_cast(target: &DataType, inner: Option<Self>) -> Self {
        let known = Self::of_type(target.clone());
        let Some(inner) = inner else { return known };
        let range = known.range.map(|(min, max)| match inner.range {
            Some((low, high)) => (low.max(min), high.min(max)),
            None => (min, max),
        });
        // A cast may round up.
        let magnitude = inner.magnitude.map(|magnitude| magnitude + 1.0);
        Self { range, ..known }.at_most(magnitude)
    }

    fn of_operation(left: &Self, op: Operator, right: &Self) -> Option<Self> {
        let coercer = BinaryTypeCoercer::new(&left.data_type, &op, &right.data_type);
        let mut known = Self::of_type(coercer.get_result_type().ok()?);
        if let (Some((min, max)), Some((low, high))) =
            (known.range, combine(op, left.range, right.range))
            && min <= low
            && high <= max
        {
            known.range = Some((low, high));
        }
        Some(known.at_most(operands_magnitude(left, op, right)))
    }

    fn at_most(mut self, bound: Option<f64>) -> Self {
        self.magnitude = match (self.magnitude, bound) {
            (Some(own), Some(bound)) => Some(own.min(bound)),
            (own, bound) => own.or(bound),
        };
        self
    }

    /// The negation of a literal is a literal but for the least number, which is written so.
    fn is_safely_negated(&self) -> bool {
        let (Some((low, high)), Some((_, max))) = (self.range, integer_bounds(&self.data_type))
        else {
            return false;
        };
        low == high && low.checked_neg().is_some_and(|value| value <= max)
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
