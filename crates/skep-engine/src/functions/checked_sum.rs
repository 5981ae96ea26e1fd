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
//!
//! One file, because the four ways to add (a value, distinct values, groups, a moving frame) are one
//! function and share what a sum is.

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
    DECIMAL32_MAX_PRECISION, DECIMAL64_MAX_PRECISION, DECIMAL128_MAX_PRECISION,
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
                    seen: None,
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
fn validate<T: ArrowNumericType>(sums: &PrimitiveArray<T>, data_type: &DataType) -> Result<()> {
    let array: &dyn Array = sums;
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

fn add_all<T: ArrowNumericType<Native: Wide>>(
    start: T::Native,
    values: &PrimitiveArray<T>,
    data_type: &DataType,
) -> Result<T::Native> {
    let total = match values.nulls() {
        Some(nulls) if nulls.null_count() > 0 => nulls
            .valid_slices()
            .try_fold(start, |sum, (from, to)| sum.add_all(&values.values()[from..to])),
        _ => start.add_all(values.values()),
    };
    total.ok_or_else(|| out_of_range(data_type))
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

impl<T: ArrowNumericType<Native: Wide>> Accumulator for PlainSum<T> {
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
    /// Whether each group has had a value; `None` while every row had one, so every group has.
    seen: Option<Vec<bool>>,
    data_type: DataType,
}

impl<T: ArrowNumericType<Native: Wide>> GroupedSums<T> {
    fn emit(&mut self, emit_to: EmitTo) -> PrimitiveArray<T> {
        let sums = emit_to.take_needed(&mut self.sums);
        let nulls = self.seen.as_mut().map(|seen| NullBuffer::from(emit_to.take_needed(seen)));
        let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
        PrimitiveArray::<T>::new(sums.into(), nulls).with_data_type(self.data_type.clone())
    }
}

impl<T: ArrowNumericType<Native: Wide>> GroupsAccumulator for GroupedSums<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        group_count: usize,
    ) -> Result<()> {
        let values = values[0].as_primitive::<T>();
        let known = self.sums.len();
        self.sums.resize(group_count, T::Native::ZERO);
        // Overflow is looked for once a batch, so that the loop has no way out.
        let mut overflow = false;
        let sums = &mut self.sums;
        let mut add = |group: usize, value: T::Native| {
            let (sum, past) = sums[group].overflowing_sum(value);
            sums[group] = sum;
            overflow |= past;
        };
        if values.null_count() == 0 && filter.is_none() {
            for (group, value) in groups.iter().zip(values.values()) {
                add(*group, *value);
            }
            if let Some(seen) = &mut self.seen {
                seen.resize(group_count, false);
                groups.iter().for_each(|group| seen[*group] = true);
            }
        } else {
            let seen = self.seen.get_or_insert_with(|| vec![true; known]);
            seen.resize(group_count, false);
            for (row, group) in groups.iter().enumerate() {
                let chosen = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
                if chosen && values.is_valid(row) {
                    add(*group, values.value(row));
                    seen[*group] = true;
                }
            }
        }
        if overflow { Err(out_of_range(&self.data_type)) } else { Ok(()) }
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

    fn size(&self) -> usize {
        let seen = self.seen.as_ref().map_or(0, Vec::capacity);
        self.sums.capacity() * size_of::<T::Native>() + seen
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
    sum_type: PhantomData<fn() -> T>,
}

/// A number that sums are made of.
trait Wide: ArrowNativeTypeOp + Hash + Eq {
    /// The number in a type that no sum fills.
    fn widen(self) -> i256;

    /// The number back in its own type, if it fits.
    fn narrow(wide: i256) -> Option<Self>;

    /// The sum modulo the type's range, and whether that is not the sum.
    fn overflowing_sum(self, other: Self) -> (Self, bool);

    /// The sum with all the values, if it fits.
    fn add_all(self, values: &[Self]) -> Option<Self>;
}

macro_rules! wide {
    ($t:ty, $add_all:expr) => {
        impl Wide for $t {
            fn widen(self) -> i256 {
                i256::from_i128(i128::from(self))
            }

            fn narrow(wide: i256) -> Option<Self> {
                wide.to_i128().and_then(|wide| wide.try_into().ok())
            }

            #[inline]
            fn overflowing_sum(self, other: Self) -> (Self, bool) {
                self.overflowing_add(other)
            }

            fn add_all(self, values: &[Self]) -> Option<Self> {
                $add_all(self, values)
            }
        }
    };
}
wide!(i32, |start: i32, values: &[i32]| values
    .iter()
    .try_fold(start, |sum, v| sum.checked_add(*v)));
wide!(i128, |start: i128, values: &[i128]| {
    values.iter().try_fold(start, |sum, v| sum.checked_add(*v))
});
wide!(u64, |start: u64, values: &[u64]| {
    u64::try_from(u128::from(start) + exact_sum(values.iter().copied())).ok()
});
wide!(i64, |start: i64, values: &[i64]| {
    // Shifted by 2^63 each number is at least zero.
    let shifted = exact_sum(values.iter().map(|value| value.cast_unsigned() ^ (1 << 63)));
    let shift = (values.len() as i128) << 63;
    i64::try_from(i128::from(start) + shifted.cast_signed() - shift).ok()
});

/// The sum without overflow: upper and lower halves are added apart, which the compiler turns into
/// vector instructions where a check of each addition would stand in their way.
/// A batch has fewer than 2^32 values, so the halves fit.
fn exact_sum(values: impl Iterator<Item = u64>) -> u128 {
    let (mut upper, mut lower) = (0_u64, 0_u64);
    for value in values {
        upper += value >> 32;
        lower += value & 0xFFFF_FFFF;
    }
    (u128::from(upper) << 32) + u128::from(lower)
}

impl Wide for i256 {
    fn widen(self) -> i256 {
        self
    }

    fn narrow(wide: i256) -> Option<Self> {
        Some(wide)
    }

    fn overflowing_sum(self, other: Self) -> (Self, bool) {
        match self.checked_add(other) {
            Some(sum) => (sum, false),
            None => (self.wrapping_add(other), true),
        }
    }

    fn add_all(self, values: &[Self]) -> Option<Self> {
        values.iter().try_fold(self, |sum, value| sum.checked_add(*value))
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
