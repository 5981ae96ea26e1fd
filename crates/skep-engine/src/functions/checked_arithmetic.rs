//! `+`, `-`, `*` and unary `-` that fail where DataFusion's wrap.
//!
//! DataFusion computes integers modulo 2^n and lets decimals grow past the digits of their type.
//! These functions stand for such an operation in a plan; the
//! [`checked_arithmetic`](crate::optimizer) rule puts them there.
//!
//! They are functions and not a flag of DataFusion's own operator, because the flag can be set on
//! physical expressions only: constants are folded before there are any, and the flag is lost when
//! a plan is serialised.
//! A function travels by its name, to whoever has it registered.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::kernels::numeric::{add, mul, neg, sub};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DECIMAL128_MAX_PRECISION, DataType, Decimal32Type, Decimal64Type,
    Decimal128Type, Decimal256Type, Int32Type, Int64Type,
};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::physical_expr_common::datum::apply;

use crate::error::Error;

/// The functions, for registration.
pub(crate) fn checked_functions() -> Vec<Arc<ScalarUDF>> {
    let mut functions: Vec<_> = BINARY.iter().map(|(_, function)| Arc::clone(function)).collect();
    functions.push(Arc::clone(&NEGATIVE));
    functions
}

static BINARY: LazyLock<Vec<(Operator, Arc<ScalarUDF>)>> = LazyLock::new(|| {
    [
        ("checked_add", Operator::Plus),
        ("checked_subtract", Operator::Minus),
        ("checked_multiply", Operator::Multiply),
    ]
    .into_iter()
    .map(|(name, op)| (op, Arc::new(ScalarUDF::from(CheckedBinary::new(name, op)))))
    .collect()
});

static NEGATIVE: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::from(CheckedNegative::new())));

/// `left op right`, checked, for an operator that has a checked form; others as they are.
pub(crate) fn checked(op: Operator, left: Expr, right: Expr) -> Expr {
    match BINARY.iter().find(|(checked, _)| *checked == op) {
        Some((_, function)) => function.call(vec![left, right]),
        None => datafusion::logical_expr::binary_expr(left, op, right),
    }
}

/// `-operand`, checked.
pub(crate) fn checked_negative(operand: Expr) -> Expr {
    NEGATIVE.call(vec![operand])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedBinary {
    name: &'static str,
    op: Operator,
    signature: Signature,
}

impl CheckedBinary {
    fn new(name: &'static str, op: Operator) -> Self {
        Self { name, op, signature: Signature::any(2, Volatility::Immutable) }
    }

    fn overflow(&self, cause: &dyn std::fmt::Display) -> DataFusionError {
        out_of_range(&format!("{} of two numbers", self.op), cause)
    }
}

fn out_of_range(operation: &str, cause: &dyn std::fmt::Display) -> DataFusionError {
    Error::Data {
        message: format!("the result of {operation} is out of range: {cause}"),
        hint: Some(
            "cast the operands to a wider type, such as DECIMAL(38, 0) or DOUBLE".to_owned(),
        ),
    }
    .into()
}

impl ScalarUDFImpl for CheckedBinary {
    fn name(&self) -> &str {
        self.name
    }

    fn display_name(&self, arguments: &[Expr]) -> Result<String> {
        match arguments {
            [left, right] => Ok(format!("{left} {} {right}", self.op)),
            _ => internal_err!("{} takes two arguments", self.name),
        }
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        match arguments {
            [left, right] => {
                Ok(format!("{} {} {}", left.schema_name(), self.op, right.schema_name()))
            }
            _ => internal_err!("{} takes two arguments", self.name),
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        BinaryTypeCoercer::new(&arguments[0], &self.op, &arguments[1]).get_result_type()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = args.args.as_slice() else {
            return internal_err!("{} takes two arguments", self.name);
        };
        if let Some(array) = self.fast(left, right) {
            return Ok(ColumnarValue::Array(array));
        }
        let result = match self.op {
            Operator::Plus => apply(left, right, add),
            Operator::Minus => apply(left, right, sub),
            Operator::Multiply => apply(left, right, mul),
            other => return internal_err!("no checked form of {other}"),
        };
        let value = result.map_err(|error| match error {
            DataFusionError::ArrowError(source, _)
                if matches!(*source, ArrowError::ArithmeticOverflow(_)) =>
            {
                self.overflow(&source)
            }
            other => other,
        })?;
        match &value {
            ColumnarValue::Array(array) => self.validate(array)?,
            ColumnarValue::Scalar(scalar) if scalar.is_null() => {}
            ColumnarValue::Scalar(scalar) => self.validate(&scalar.to_array()?)?,
        }
        Ok(value)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        let [left, right] = inputs else {
            return Ok(SortProperties::Unordered);
        };
        Ok(match self.op {
            Operator::Plus => left.sort_properties.add(&right.sort_properties),
            Operator::Minus => left.sort_properties.sub(&right.sort_properties),
            _ => SortProperties::Unordered,
        })
    }
}

impl CheckedBinary {
    /// The common integers over rows, if nothing overflows: the loop has no way out, so that the
    /// compiler can make vector instructions of it.
    fn fast(&self, left: &ColumnarValue, right: &ColumnarValue) -> Option<ArrayRef> {
        match (left.data_type(), self.op) {
            (DataType::Int64, Operator::Plus) => {
                over_rows::<Int64Type>(left, right, i64::overflowing_add)
            }
            (DataType::Int64, Operator::Minus) => {
                over_rows::<Int64Type>(left, right, i64::overflowing_sub)
            }
            (DataType::Int64, Operator::Multiply) => {
                over_rows::<Int64Type>(left, right, i64::overflowing_mul)
            }
            (DataType::Decimal128(_, _), Operator::Multiply) => multiply_narrow(left, right),
            (DataType::Int32, Operator::Plus) => {
                over_rows::<Int32Type>(left, right, i32::overflowing_add)
            }
            (DataType::Int32, Operator::Minus) => {
                over_rows::<Int32Type>(left, right, i32::overflowing_sub)
            }
            (DataType::Int32, Operator::Multiply) => {
                over_rows::<Int32Type>(left, right, i32::overflowing_mul)
            }
            _ => None,
        }
    }

    /// The bits of a decimal hold more digits than its type has.
    fn validate(&self, array: &ArrayRef) -> Result<()> {
        let valid = match array.data_type() {
            DataType::Decimal32(precision, _) => {
                array.as_primitive::<Decimal32Type>().validate_decimal_precision(*precision)
            }
            DataType::Decimal64(precision, _) => {
                array.as_primitive::<Decimal64Type>().validate_decimal_precision(*precision)
            }
            DataType::Decimal128(precision, _) => {
                array.as_primitive::<Decimal128Type>().validate_decimal_precision(*precision)
            }
            DataType::Decimal256(precision, _) => {
                array.as_primitive::<Decimal256Type>().validate_decimal_precision(*precision)
            }
            _ => return Ok(()),
        };
        valid.map_err(|source| self.overflow(&source))
    }
}

/// Multiplies decimals whose digits fit 64 bits, which most do: such a product cannot leave 38
/// digits, and the loop has no branch. `None` for other shapes and for wider digits.
fn multiply_narrow(left: &ColumnarValue, right: &ColumnarValue) -> Option<ArrayRef> {
    let (DataType::Decimal128(_, left_scale), DataType::Decimal128(_, right_scale)) =
        (left.data_type(), right.data_type())
    else {
        return None;
    };
    let scale = left_scale.checked_add(right_scale)?;
    let result_type =
        BinaryTypeCoercer::new(&left.data_type(), &Operator::Multiply, &right.data_type())
            .get_result_type()
            .ok()?;
    if result_type != DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale) {
        return None;
    }
    let mut is_wide = false;
    let mut multiply = |left: i128, right: i128| {
        // What these casts lose is noticed in the next line.
        let (narrow_left, narrow_right) = (left as i64, right as i64);
        is_wide |= i128::from(narrow_left) != left || i128::from(narrow_right) != right;
        i128::from(narrow_left) * i128::from(narrow_right)
    };
    let product: PrimitiveArray<Decimal128Type> = match (left, right) {
        (ColumnarValue::Array(left), ColumnarValue::Array(right)) => {
            let left = left.as_primitive_opt::<Decimal128Type>()?;
            let right = right.as_primitive_opt::<Decimal128Type>()?;
            let values: Vec<i128> = left
                .values()
                .iter()
                .zip(right.values())
                .map(|(left, right)| multiply(*left, *right))
                .collect();
            PrimitiveArray::new(values.into(), NullBuffer::union(left.nulls(), right.nulls()))
        }
        (ColumnarValue::Array(array), ColumnarValue::Scalar(scalar))
        | (ColumnarValue::Scalar(scalar), ColumnarValue::Array(array)) => {
            let ScalarValue::Decimal128(Some(scalar), _, _) = scalar else {
                return None;
            };
            let array = array.as_primitive_opt::<Decimal128Type>()?;
            let values: Vec<i128> =
                array.values().iter().map(|value| multiply(*value, *scalar)).collect();
            PrimitiveArray::new(values.into(), array.nulls().cloned())
        }
        (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)) => return None,
    };
    if is_wide {
        return None;
    }
    let product = product.with_precision_and_scale(DECIMAL128_MAX_PRECISION, scale).ok()?;
    Some(Arc::new(product))
}

/// Computes over arrays without NULLs, or one with a scalar; `None` for other shapes, and if any
/// row overflows.
fn over_rows<T: ArrowPrimitiveType>(
    left: &ColumnarValue,
    right: &ColumnarValue,
    op: impl Fn(T::Native, T::Native) -> (T::Native, bool),
) -> Option<ArrayRef> {
    let mut overflow = false;
    let mut compute = |left: T::Native, right: T::Native| {
        let (result, past) = op(left, right);
        overflow |= past;
        result
    };
    let array = |value: &ColumnarValue| match value {
        ColumnarValue::Array(array) if array.null_count() == 0 => {
            array.as_primitive_opt::<T>().cloned()
        }
        _ => None,
    };
    let scalar = |value: &ColumnarValue| match value {
        ColumnarValue::Scalar(scalar) if !scalar.is_null() => {
            let one = scalar.to_array().ok()?;
            one.as_primitive_opt::<T>().map(|one| one.value(0))
        }
        _ => None,
    };
    let values: Vec<T::Native> = match (array(left), array(right)) {
        (Some(left), Some(right)) => {
            left.values().iter().zip(right.values()).map(|(l, r)| compute(*l, *r)).collect()
        }
        (Some(left), None) => {
            let right = scalar(right)?;
            left.values().iter().map(|left| compute(*left, right)).collect()
        }
        (None, Some(right)) => {
            let left = scalar(left)?;
            right.values().iter().map(|right| compute(left, *right)).collect()
        }
        (None, None) => return None,
    };
    if overflow { None } else { Some(Arc::new(PrimitiveArray::<T>::new(values.into(), None))) }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedNegative {
    signature: Signature,
}

impl CheckedNegative {
    fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for CheckedNegative {
    fn name(&self) -> &'static str {
        "checked_negative"
    }

    fn display_name(&self, arguments: &[Expr]) -> Result<String> {
        match arguments {
            [operand] => Ok(format!("(- {operand})")),
            _ => internal_err!("checked_negative takes one argument"),
        }
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        match arguments {
            [operand] => Ok(format!("(- {})", operand.schema_name())),
            _ => internal_err!("checked_negative takes one argument"),
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let negate = |array: &dyn Array| {
            neg(array).map_err(|source| out_of_range("the negation of a number", &source))
        };
        match &args.args[0] {
            ColumnarValue::Array(array) => Ok(ColumnarValue::Array(negate(array)?)),
            ColumnarValue::Scalar(scalar) => {
                let negated = negate(&scalar.to_array()?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&negated, 0)?))
            }
        }
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        Ok(-inputs[0].sort_properties)
    }
}
