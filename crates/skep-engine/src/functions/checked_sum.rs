//! `sum` that fails where DataFusion's wraps.
//!
//! DataFusion's `sum` adds modulo 2^64 (or 2^128 for decimals), so a sum past the range of its
//! type is a wrong number.
//! Here the sums whose type has no room to spare are added with a check: BIGINT, BIGINT UNSIGNED,
//! durations, and decimals whose result has the largest precision of its width.
//! A decimal of precision 27 or less gets a result ten digits wider, which no number of rows that
//! a machine can count fills; it, floats and intervals are DataFusion's own.
//!
//! The check is made where numbers meet: over rows, over partial sums and over window frames.
//! A partial sum out of range is an error even if later rows would have brought it back.
//! `avg` needs nothing of the kind: DataFusion adds it up in a type with thirteen spare digits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::mem::size_of_val;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowNumericType, AsArray, BooleanArray, PrimitiveArray,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{
    ArrowNativeType, DECIMAL32_MAX_PRECISION, DECIMAL64_MAX_PRECISION, DECIMAL128_MAX_PRECISION,
    DECIMAL256_MAX_PRECISION, DataType, Decimal32Type, Decimal64Type, Decimal128Type,
    Decimal256Type, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType,
    DurationSecondType, FieldRef, Int64Type, TimeUnit, UInt64Type, i256,
};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::functions_aggregate::count::count;
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, Expr, GroupsAccumulator,
    Operator, ReversedUDAF, SetMonotonicity, Signature, StatisticsArgs, cast,
};

use super::checked_arithmetic::checked;
use crate::error::Error;

/// The function, one for the process.
pub(crate) fn checked_sum_udaf() -> Arc<AggregateUDF> {
    static FUNCTION: LazyLock<Arc<AggregateUDF>> =
        LazyLock::new(|| Arc::new(AggregateUDF::from(CheckedSum { inner: Sum::new() })));
    Arc::clone(&FUNCTION)
}

/// `sum`, checked where its result may not fit.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct CheckedSum {
    inner: Sum,
}

/// Tells whether a sum of this type may pass its range.
fn may_overflow(data_type: &DataType) -> bool {
    match data_type {
        DataType::Int64 | DataType::UInt64 | DataType::Duration(_) => true,
        DataType::Decimal32(precision, _) => *precision == DECIMAL32_MAX_PRECISION,
        DataType::Decimal64(precision, _) => *precision == DECIMAL64_MAX_PRECISION,
        DataType::Decimal128(precision, _) => *precision == DECIMAL128_MAX_PRECISION,
        DataType::Decimal256(precision, _) => *precision == DECIMAL256_MAX_PRECISION,
        _ => false,
    }
}

/// Calls `$make` with the arrow type of a sum that [`may_overflow`].
macro_rules! for_sum_type {
    ($data_type:expr, $make:ident) => {
        match $data_type {
            DataType::Int64 => $make!(Int64Type),
            DataType::UInt64 => $make!(UInt64Type),
            DataType::Decimal32(..) => $make!(Decimal32Type),
            DataType::Decimal64(..) => $make!(Decimal64Type),
            DataType::Decimal128(..) => $make!(Decimal128Type),
            DataType::Decimal256(..) => $make!(Decimal256Type),
            DataType::Duration(TimeUnit::Second) => $make!(DurationSecondType),
            DataType::Duration(TimeUnit::Millisecond) => $make!(DurationMillisecondType),
            DataType::Duration(TimeUnit::Microsecond) => $make!(DurationMicrosecondType),
            DataType::Duration(TimeUnit::Nanosecond) => $make!(DurationNanosecondType),
            other => internal_err!("no checked sum of {other}"),
        }
    };
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let data_type = args.return_field.data_type().clone();
        if !may_overflow(&data_type) {
            return self.inner.accumulator(args);
        }
        if args.is_distinct {
            let distinct = self.inner.accumulator(args)?;
            return Ok(Box::new(DistinctSum { distinct, data_type }));
        }
        macro_rules! make {
            ($t:ty) => {
                Ok(Box::new(PlainSum::<$t> { sum: None, data_type: data_type.clone() }))
            };
        }
        for_sum_type!(&data_type, make)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let data_type = args.return_field.data_type().clone();
        if !may_overflow(&data_type) {
            return self.inner.create_groups_accumulator(args);
        }
        macro_rules! make {
            ($t:ty) => {
                Ok(Box::new(GroupedSums::<$t> {
                    sums: Vec::new(),
                    seen: Vec::new(),
                    data_type: data_type.clone(),
                }))
            };
        }
        for_sum_type!(&data_type, make)
    }

    fn create_sliding_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn Accumulator>> {
        let data_type = args.return_field.data_type().clone();
        if !may_overflow(&data_type) {
            return self.inner.create_sliding_accumulator(args);
        }
        let counts = args.is_distinct.then(HashMap::new);
        macro_rules! make {
            ($t:ty) => {
                Ok(Box::new(SlidingSum::<$t> {
                    sum: i256::ZERO,
                    row_count: 0,
                    counts,
                    data_type: data_type.clone(),
                    sum_type: PhantomData,
                }))
            };
        }
        for_sum_type!(&data_type, make)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner.reverse_expr()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.set_monotonicity(data_type)
    }

    /// `sum(x + c)` is `sum(x) + c * count(x)`, checked like every other sum and product.
    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        argument: &Expr,
        op: Operator,
        literal: &Expr,
        argument_is_left: bool,
    ) -> Result<Option<Expr>> {
        let Expr::Literal(value, _) = literal else {
            return Ok(None);
        };
        match value.data_type() {
            data_type @ (DataType::Int64 | DataType::UInt64) if op == Operator::Plus => {
                let mut sum = function.clone();
                sum.params.args = vec![argument.clone()];
                let rows = cast(count(argument.clone()), data_type);
                let added = checked(Operator::Multiply, literal.clone(), rows);
                Ok(Some(checked(Operator::Plus, Expr::AggregateFunction(sum), added)))
            }
            DataType::Float16 | DataType::Float32 | DataType::Float64 => self
                .inner
                .simplify_expr_op_literal(function, argument, op, literal, argument_is_left),
            _ => Ok(None),
        }
    }

    fn value_from_stats(&self, args: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        // A sum in the statistics may have wrapped where they were made.
        if may_overflow(args.return_type) { None } else { self.inner.value_from_stats(args) }
    }
}

fn out_of_range(data_type: &DataType) -> DataFusionError {
    Error::Data {
        message: format!("sum is out of the range of {data_type}"),
        hint: Some(
            "cast the argument to a wider type, such as DECIMAL(38, 0) or DOUBLE".to_owned(),
        ),
    }
    .into()
}

/// The largest magnitude that a decimal of this precision has is 10^precision - 1; more is an
/// error although the bits would hold it.
fn validate<T: ArrowNumericType>(array: &PrimitiveArray<T>, data_type: &DataType) -> Result<()> {
    let valid = match data_type {
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
    valid.map_err(|_source| out_of_range(data_type))
}

fn add_all<T: ArrowNumericType>(
    start: T::Native,
    values: &PrimitiveArray<T>,
    data_type: &DataType,
) -> Result<T::Native> {
    let add = |sum: T::Native, slice: &[T::Native]| {
        slice.iter().try_fold(sum, |sum, value| sum.add_checked(*value))
    };
    let total = match values.nulls() {
        Some(nulls) if nulls.null_count() > 0 => nulls
            .valid_slices()
            .try_fold(start, |sum, (from, to)| add(sum, &values.values()[from..to])),
        _ => add(start, values.values()),
    };
    total.map_err(|_source| out_of_range(data_type))
}

/// One running sum.
struct PlainSum<T: ArrowNumericType> {
    sum: Option<T::Native>,
    data_type: DataType,
}

impl<T: ArrowNumericType> fmt::Debug for PlainSum<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainSum").field("data_type", &self.data_type).finish_non_exhaustive()
    }
}

impl<T: ArrowNumericType> Accumulator for PlainSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = values[0].as_primitive::<T>();
        if values.null_count() < values.len() {
            let start = self.sum.unwrap_or(T::Native::ZERO);
            self.sum = Some(add_all(start, values, &self.data_type)?);
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::new_primitive::<T>(self.sum, &self.data_type)?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sum: PrimitiveArray<T> = [self.sum].into_iter().collect();
        validate(&sum.with_data_type(self.data_type.clone()), &self.data_type)?;
        ScalarValue::new_primitive::<T>(self.sum, &self.data_type)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sum of distinct values: DataFusion's set of them, added up here.
#[derive(Debug)]
struct DistinctSum {
    distinct: Box<dyn Accumulator>,
    data_type: DataType,
}

impl Accumulator for DistinctSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.distinct.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.distinct.merge_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.distinct.state()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let state = self.distinct.state()?;
        let [ScalarValue::List(list)] = state.as_slice() else {
            return internal_err!("the state of sum(DISTINCT) is not a list");
        };
        let values = list.value(0);
        macro_rules! make {
            ($t:ty) => {{
                let mut sum = PlainSum::<$t> { sum: None, data_type: self.data_type.clone() };
                sum.update_batch(&[values])?;
                sum.evaluate()
            }};
        }
        for_sum_type!(&self.data_type, make)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.distinct.size()
    }
}

/// One running sum a group.
struct GroupedSums<T: ArrowNumericType> {
    sums: Vec<T::Native>,
    /// Whether the group has had a value.
    seen: Vec<bool>,
    data_type: DataType,
}

impl<T: ArrowNumericType> GroupedSums<T> {
    fn add(&mut self, group: usize, value: T::Native) -> Result<()> {
        let sum = &mut self.sums[group];
        *sum = sum.add_checked(value).map_err(|_source| out_of_range(&self.data_type))?;
        self.seen[group] = true;
        Ok(())
    }

    fn emit(&mut self, emit_to: EmitTo) -> PrimitiveArray<T> {
        let sums = emit_to.take_needed(&mut self.sums);
        let nulls = NullBuffer::from(emit_to.take_needed(&mut self.seen));
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        PrimitiveArray::<T>::new(sums.into(), nulls).with_data_type(self.data_type.clone())
    }
}

impl<T: ArrowNumericType> GroupsAccumulator for GroupedSums<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        group_count: usize,
    ) -> Result<()> {
        let values = values[0].as_primitive::<T>();
        self.sums.resize(group_count, T::Native::ZERO);
        self.seen.resize(group_count, false);
        if values.null_count() == 0 && filter.is_none() {
            let mut rows = groups.iter().zip(values.values());
            return rows.try_for_each(|(group, value)| self.add(*group, *value));
        }
        for (row, group) in groups.iter().enumerate() {
            let chosen = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if chosen && values.is_valid(row) {
                self.add(*group, values.value(row))?;
            }
        }
        Ok(())
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        group_count: usize,
    ) -> Result<()> {
        self.update_batch(values, groups, None, group_count)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = self.emit(emit_to);
        validate(&sums, &self.data_type)?;
        Ok(Arc::new(sums))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![Arc::new(self.emit(emit_to))])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let values = values[0].as_primitive::<T>().clone();
        let chosen = filter.map(|filter| {
            let chosen = filter.iter().map(|chosen| chosen == Some(true));
            NullBuffer::from(chosen.collect::<Vec<bool>>())
        });
        let nulls = NullBuffer::union(values.nulls(), chosen.as_ref());
        let states = PrimitiveArray::<T>::new(values.values().clone(), nulls);
        Ok(vec![Arc::new(states.with_data_type(self.data_type.clone()))])
    }

    fn supports_convert_to_state(&self) -> bool {
        true
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<T::Native>() + self.seen.capacity()
    }
}

/// The sum over a window frame that moves, in a type that no frame fills.
///
/// Between the rows that enter and the rows that leave, the sum may pass the range of its type
/// without the frame's sum doing so; only the latter counts.
struct SlidingSum<T: ArrowNumericType> {
    sum: i256,
    row_count: u64,
    /// How often each value is in the frame, if it counts but once.
    counts: Option<HashMap<i256, u64>>,
    data_type: DataType,
    sum_type: PhantomData<T>,
}

/// A number as it is in a wider type, and back if it fits.
trait Wide: ArrowNativeType + Hash + Eq {
    fn widen(self) -> i256;
    fn narrow(wide: i256) -> Option<Self>;
}

macro_rules! wide {
    ($($t:ty),*) => {$(
        impl Wide for $t {
            fn widen(self) -> i256 {
                i256::from_i128(i128::from(self))
            }

            fn narrow(wide: i256) -> Option<Self> {
                wide.to_i128().and_then(|wide| wide.try_into().ok())
            }
        }
    )*};
}
wide!(i32, i64, u64, i128);

impl Wide for i256 {
    fn widen(self) -> i256 {
        self
    }

    fn narrow(wide: i256) -> Option<Self> {
        Some(wide)
    }
}

impl<T: ArrowNumericType<Native: Wide>> SlidingSum<T> {
    fn enter(&mut self, value: i256) -> Result<()> {
        self.row_count += 1;
        if let Some(counts) = &mut self.counts {
            let count = counts.entry(value).or_insert(0);
            *count += 1;
            if *count > 1 {
                return Ok(());
            }
        }
        self.sum = self.sum.checked_add(value).ok_or_else(|| out_of_range(&self.data_type))?;
        Ok(())
    }

    fn leave(&mut self, value: i256) -> Result<()> {
        self.row_count -= 1;
        if let Some(counts) = &mut self.counts
            && let Entry::Occupied(mut entry) = counts.entry(value)
        {
            *entry.get_mut() -= 1;
            if *entry.get() > 0 {
                return Ok(());
            }
            entry.remove();
        }
        self.sum = self.sum.checked_sub(value).ok_or_else(|| out_of_range(&self.data_type))?;
        Ok(())
    }
}

impl<T: ArrowNumericType> fmt::Debug for SlidingSum<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlidingSum")
            .field("sum", &self.sum)
            .field("row_count", &self.row_count)
            .field("data_type", &self.data_type)
            .finish_non_exhaustive()
    }
}

impl<T: ArrowNumericType<Native: Wide>> Accumulator for SlidingSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let mut values = values[0].as_primitive::<T>().iter().flatten();
        values.try_for_each(|value| self.enter(value.widen()))
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let mut values = values[0].as_primitive::<T>().iter().flatten();
        values.try_for_each(|value| self.leave(value.widen()))
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.row_count == 0 {
            return ScalarValue::new_primitive::<T>(None, &self.data_type);
        }
        let sum = T::Native::narrow(self.sum).ok_or_else(|| out_of_range(&self.data_type))?;
        PlainSum::<T> { sum: Some(sum), data_type: self.data_type.clone() }.evaluate()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        internal_err!("a sum over a moving window frame has no partial state")
    }

    fn merge_batch(&mut self, _states: &[ArrayRef]) -> Result<()> {
        internal_err!("a sum over a moving window frame has no partial state")
    }

    fn size(&self) -> usize {
        let counts = self.counts.as_ref().map_or(0, HashMap::capacity);
        size_of_val(self) + counts * size_of::<(i256, u64)>()
    }
}
