//! Numbers in as few bytes as they need.
//!
//! Integers, dates, times and decimals are mostly much smaller than their types have room for. In the
//! narrowest integer that has room for all values of a column they take less memory, less of a disk
//! and less of a network; finding it and taking it back costs less than a copy of what is spared.
//!
//! **Invariant:** [`widen`] gives back the very column that [`narrow`] took.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, make_array,
};
use datafusion::arrow::compute::{max, min};
use datafusion::arrow::datatypes::{
    DataType, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use datafusion::arrow::error::ArrowError;

/// Returns a column as narrower integers, or as it is if it is of another kind or has no room to
/// spare.
///
/// # Errors
/// If arrow cannot read the column as integers, which would be a defect.
pub fn narrow(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let narrowed = match array.data_type() {
        DataType::Int16 => narrow_signed::<Int16Type>(array),
        DataType::Int32 | DataType::Date32 | DataType::Time32(_) => {
            narrow_signed::<Int32Type>(&retyped(array, DataType::Int32)?)
        }
        DataType::Int64
        | DataType::Date64
        | DataType::Time64(_)
        | DataType::Timestamp(_, _)
        | DataType::Duration(_) => narrow_signed::<Int64Type>(&retyped(array, DataType::Int64)?),
        DataType::Decimal128(_, _) => narrow_decimal(array),
        DataType::UInt16 => narrow_unsigned::<UInt16Type>(array),
        DataType::UInt32 => narrow_unsigned::<UInt32Type>(array),
        DataType::UInt64 => narrow_unsigned::<UInt64Type>(array),
        _ => None,
    };
    Ok(narrowed.unwrap_or_else(|| Arc::clone(array)))
}

/// Gives a column its type back.
///
/// # Errors
/// If it was not narrowed from a column of this type.
pub fn widen(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == data_type {
        return Ok(Arc::clone(array));
    }
    match data_type {
        DataType::Int16 => Ok(Arc::new(widen_i16(array)?)),
        DataType::Int32 | DataType::Date32 | DataType::Time32(_) => {
            let wide: ArrayRef = Arc::new(widen_i32(array)?);
            retyped(&wide, data_type.clone())
        }
        DataType::Int64
        | DataType::Date64
        | DataType::Time64(_)
        | DataType::Timestamp(_, _)
        | DataType::Duration(_) => {
            let wide: ArrayRef = Arc::new(widen_i64(array)?);
            retyped(&wide, data_type.clone())
        }
        DataType::Decimal128(precision, scale) => {
            let wide = widen_decimal(array)?.with_precision_and_scale(*precision, *scale)?;
            Ok(Arc::new(wide))
        }
        DataType::UInt16 => Ok(Arc::new(widen_u16(array)?)),
        DataType::UInt32 => Ok(Arc::new(widen_u32(array)?)),
        DataType::UInt64 => Ok(Arc::new(widen_u64(array)?)),
        _ => Err(ArrowError::CastError(format!(
            "a column of {data_type} does not come from {}",
            array.data_type()
        ))),
    }
}

/// Reads the same bytes as another type of the same width.
///
/// # Errors
/// If the type is of another width.
pub fn retyped(array: &ArrayRef, data_type: DataType) -> Result<ArrayRef, ArrowError> {
    if *array.data_type() == data_type {
        return Ok(Arc::clone(array));
    }
    Ok(make_array(array.to_data().into_builder().data_type(data_type).build()?))
}

fn narrow_signed<T>(array: &ArrayRef) -> Option<ArrayRef>
where
    T: ArrowPrimitiveType,
    T::Native: Into<i64> + Copy,
{
    let values = array.as_primitive::<T>();
    // Without a value, or with none but zeros, one byte is enough.
    let least = min(values).map_or(0, Into::into);
    let most = max(values).map_or(0, Into::into);
    let fits = |low: i64, high: i64| least >= low && most <= high;
    let width = size_of::<T::Native>();
    // What lies below a NULL may not fit: it is cut, and nobody reads it.
    if width > 1 && fits(i8::MIN.into(), i8::MAX.into()) {
        Some(Arc::new(values.unary::<_, Int8Type>(|value| value.into() as i8)))
    } else if width > 2 && fits(i16::MIN.into(), i16::MAX.into()) {
        Some(Arc::new(values.unary::<_, Int16Type>(|value| value.into() as i16)))
    } else if width > 4 && fits(i32::MIN.into(), i32::MAX.into()) {
        Some(Arc::new(values.unary::<_, Int32Type>(|value| value.into() as i32)))
    } else {
        None
    }
}

fn narrow_unsigned<T>(array: &ArrayRef) -> Option<ArrayRef>
where
    T: ArrowPrimitiveType,
    T::Native: Into<u64> + Copy,
{
    let values = array.as_primitive::<T>();
    let most = max(values).map_or(0, Into::into);
    let width = size_of::<T::Native>();
    if width > 1 && most <= u8::MAX.into() {
        Some(Arc::new(values.unary::<_, UInt8Type>(|value| value.into() as u8)))
    } else if width > 2 && most <= u16::MAX.into() {
        Some(Arc::new(values.unary::<_, UInt16Type>(|value| value.into() as u16)))
    } else if width > 4 && most <= u32::MAX.into() {
        Some(Arc::new(values.unary::<_, UInt32Type>(|value| value.into() as u32)))
    } else {
        None
    }
}

fn narrow_decimal(array: &ArrayRef) -> Option<ArrayRef> {
    let values = array.as_primitive::<Decimal128Type>();
    // What lies below a NULL may be cut.
    let is_kept = |value: &i128| i128::from(*value as i64) == *value;
    let fits = match values.null_count() {
        0 => values.values().iter().fold(true, |fits, value| fits & is_kept(value)),
        _ => values.iter().flatten().all(|value| is_kept(&value)),
    };
    if !fits {
        return None;
    }
    let narrow: ArrayRef = Arc::new(values.unary::<_, Int64Type>(|value| value as i64));
    Some(narrow_signed::<Int64Type>(&narrow).unwrap_or(narrow))
}

/// Writes a function that gives integers their width back. Every value fits, since it came from this
/// type; what lies below a NULL is nobody's.
macro_rules! widen {
    ($name:ident, $wide:ty, $($stored:ident => $arrow:ident),+) => {
        fn $name(array: &ArrayRef) -> Result<PrimitiveArray<$wide>, ArrowError> {
            type Native = <$wide as ArrowPrimitiveType>::Native;
            match array.data_type() {
                $(DataType::$stored => {
                    Ok(array.as_primitive::<$arrow>().unary(|value| value as Native))
                })+
                other => {
                    let kind = <$wide>::DATA_TYPE;
                    let message = format!("a column of {kind} does not come from {other}");
                    Err(ArrowError::CastError(message))
                }
            }
        }
    };
}

widen!(widen_i16, Int16Type, Int8 => Int8Type);
widen!(widen_i32, Int32Type, Int8 => Int8Type, Int16 => Int16Type);
widen!(widen_i64, Int64Type, Int8 => Int8Type, Int16 => Int16Type, Int32 => Int32Type);
widen!(
    widen_decimal, Decimal128Type,
    Int8 => Int8Type, Int16 => Int16Type, Int32 => Int32Type, Int64 => Int64Type
);
widen!(widen_u16, UInt16Type, UInt8 => UInt8Type);
widen!(widen_u32, UInt32Type, UInt8 => UInt8Type, UInt16 => UInt16Type);
widen!(widen_u64, UInt64Type, UInt8 => UInt8Type, UInt16 => UInt16Type, UInt32 => UInt32Type);

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::*;
    use datafusion::arrow::datatypes::TimeUnit;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn check(array: ArrayRef) {
        let narrow = narrow(&array).unwrap();
        let wide = widen(&narrow, array.data_type()).unwrap();
        assert_eq!(wide.data_type(), array.data_type());
        assert_eq!(&wide, &array, "by way of {}", narrow.data_type());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn columns_come_back(
            values in vec(option::of(any::<i64>()), 0..40),
            shift in 0_u32..64,
        ) {
            let all = || values.iter().map(|value| value.map(|value| value >> shift));
            check(Arc::new(all().collect::<Int64Array>()));
            check(Arc::new(all().map(|v| v.map(|v| v as i32)).collect::<Int32Array>()));
            check(Arc::new(all().map(|v| v.map(|v| v as i16)).collect::<Int16Array>()));
            check(Arc::new(all().map(|v| v.map(|v| v as i8)).collect::<Int8Array>()));
            check(Arc::new(all().map(|v| v.map(|v| v as u64)).collect::<UInt64Array>()));
            check(Arc::new(all().map(|v| v.map(|v| v as u32)).collect::<UInt32Array>()));
            check(Arc::new(all().map(|v| v.map(|v| v as u16)).collect::<UInt16Array>()));
            check(Arc::new(all().map(|v| v.map(|v| v as i32)).collect::<Date32Array>()));
            check(Arc::new(all().collect::<Date64Array>()));
            check(Arc::new(all().map(|v| v.map(|v| v as i32)).collect::<Time32MillisecondArray>()));
            check(Arc::new(all().collect::<Time64MicrosecondArray>()));
            check(Arc::new(all().collect::<DurationSecondArray>()));
            check(Arc::new(all().collect::<TimestampNanosecondArray>().with_timezone("+02:00")));
            check(Arc::new(all().map(|v| v.map(|v| v as f64)).collect::<Float64Array>()));
            for power in [0, 60] {
                let decimals = all().map(|v| v.map(|v| i128::from(v) << power));
                let decimals = decimals.collect::<Decimal128Array>();
                check(Arc::new(decimals.with_precision_and_scale(38, 3).unwrap()));
            }
        }
    }

    #[test]
    fn the_narrowest_that_has_room_is_taken() {
        let width = |least: i64, most: i64| {
            let array: ArrayRef = Arc::new(Int64Array::from(vec![Some(least), None, Some(most)]));
            narrow(&array).unwrap().data_type().clone()
        };
        assert_eq!(width(-128, 127), DataType::Int8);
        assert_eq!(width(-129, 0), DataType::Int16);
        assert_eq!(width(0, 32_768), DataType::Int32);
        assert_eq!(width(0, 1 << 31), DataType::Int64);
        let times: ArrayRef = Arc::new(TimestampSecondArray::from(vec![i64::MAX]));
        let kept = narrow(&times).unwrap();
        assert_eq!(kept.data_type(), &DataType::Timestamp(TimeUnit::Second, None));
    }

    #[test]
    fn a_column_does_not_come_from_a_wider_one() {
        let wide: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let error = widen(&wide, &DataType::Int32).unwrap_err();
        assert_eq!(error.to_string(), "Cast error: a column of Int32 does not come from Int64");
        widen(&wide, &DataType::Utf8).unwrap_err();
    }
}
