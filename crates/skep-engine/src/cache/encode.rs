//! How a column of one batch is kept: as few bytes as are cheap to find, and cheap to take back.
//!
//! Each batch is encoded for itself, and its own types say how: integers, dates, times and decimals
//! in the narrowest integer that has room for their values; text without the 16 bytes that a view
//! takes for each; what repeats as a dictionary with keys of one or two bytes. Nested and other
//! types stay as they are.
//!
//! **Invariant:** [`decode`] gives back the very column that [`encode`] took, whatever was chosen.

use std::hash::Hash;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryBuilder, DictionaryArray, PrimitiveArray,
    RecordBatch, RecordBatchOptions, StringDictionaryBuilder, UInt8Array, UInt16Array, make_array,
};
use datafusion::arrow::compute::{cast, max, min, take};
use datafusion::arrow::datatypes::{
    DataType, Decimal128Type, Field, Int8Type, Int16Type, Int32Type, Int64Type, Schema, SchemaRef,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{HashMap, HashSet};

/// How many values are looked at to see whether a dictionary may be worth it.
const SAMPLE: usize = 256;
/// A dictionary is tried if no more of the sample's values are different.
const SAMPLE_DISTINCT: usize = SAMPLE * 6 / 10;
/// The most values of a dictionary: what keys of two bytes tell apart.
const MAX_DISTINCT: usize = 1 << 16;
/// Texts of more bytes keep their type: 32-bit offsets have no room for them.
const MAX_TEXT_BYTES: usize = 1 << 30;

type Encoded = Result<ArrayRef, ArrowError>;

/// Encodes the columns of a batch.
///
/// # Errors
/// If arrow cannot copy a column.
pub(crate) fn encode_batch(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let mut columns = Vec::with_capacity(batch.num_columns());
    let mut fields = Vec::with_capacity(batch.num_columns());
    for (column, field) in batch.columns().iter().zip(batch.schema_ref().fields()) {
        let encoded = encode(column)?;
        let is_same = encoded.data_type() == field.data_type();
        fields.push(match is_same {
            true => Arc::clone(field),
            false => {
                Arc::new(Field::new(field.name(), encoded.data_type().clone(), field.is_nullable()))
            }
        });
        columns.push(encoded);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

/// Decodes the columns `projection` of an encoded batch; `schema` is that of the projection.
///
/// # Errors
/// If the batch was not encoded from such columns.
pub(crate) fn decode_batch(
    batch: &RecordBatch,
    projection: &[usize],
    schema: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    let columns = projection
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| decode(batch.column(*column), field.data_type()))
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// Encodes a column.
///
/// # Errors
/// If arrow cannot copy it.
pub(super) fn encode(array: &ArrayRef) -> Encoded {
    if array.is_empty() {
        return Ok(Arc::clone(array));
    }
    match array.data_type() {
        DataType::Int16 => Ok(narrow_signed::<Int16Type>(array)),
        DataType::Int32 | DataType::Date32 | DataType::Time32(_) => {
            Ok(narrow_signed::<Int32Type>(&retyped(array, DataType::Int32)?))
        }
        DataType::Int64
        | DataType::Date64
        | DataType::Time64(_)
        | DataType::Timestamp(_, _)
        | DataType::Duration(_) => {
            let plain = retyped(array, DataType::Int64)?;
            let narrow = narrow_signed::<Int64Type>(&plain);
            match narrow.data_type() {
                DataType::Int64 => repeated_values::<Int64Type, _>(array, &plain, |value| value),
                _ => Ok(narrow),
            }
        }
        DataType::Decimal128(_, _) => Ok(narrow_decimal(array)),
        DataType::UInt16 => Ok(narrow_unsigned::<UInt16Type>(array)),
        DataType::UInt32 => Ok(narrow_unsigned::<UInt32Type>(array)),
        DataType::UInt64 => Ok(narrow_unsigned::<UInt64Type>(array)),
        DataType::Float32 => {
            repeated_values::<UInt32Type, _>(array, &retyped(array, DataType::UInt32)?, |bits| bits)
        }
        DataType::Float64 => {
            repeated_values::<UInt64Type, _>(array, &retyped(array, DataType::UInt64)?, |bits| bits)
        }
        DataType::Utf8 | DataType::Utf8View => encode_text(array),
        DataType::BinaryView => encode_binary(array),
        _ => Ok(Arc::clone(array)),
    }
}

/// Decodes a column.
///
/// # Errors
/// If it was not encoded from a column of this type.
pub(super) fn decode(array: &ArrayRef, data_type: &DataType) -> Encoded {
    if array.data_type() == data_type {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), data_type) {
        (DataType::Dictionary(_, _), _) => {
            let dictionary = array.as_any_dictionary();
            let values = decode(dictionary.values(), data_type)?;
            take(&values, dictionary.keys(), None)
        }
        (DataType::Utf8 | DataType::Binary, _) => cast(array, data_type),
        (_, DataType::Int16) => widen_signed::<Int16Type>(array),
        (_, DataType::Int32 | DataType::Date32 | DataType::Time32(_)) => {
            retyped(&widen_signed::<Int32Type>(array)?, data_type.clone())
        }
        (
            _,
            DataType::Int64
            | DataType::Date64
            | DataType::Time64(_)
            | DataType::Timestamp(_, _)
            | DataType::Duration(_),
        ) => retyped(&widen_signed::<Int64Type>(array)?, data_type.clone()),
        (_, DataType::Decimal128(precision, scale)) => {
            let wide = widen_signed::<Decimal128Type>(array)?;
            let wide = wide.as_primitive::<Decimal128Type>().clone();
            Ok(Arc::new(wide.with_precision_and_scale(*precision, *scale)?))
        }
        (_, DataType::UInt16) => widen_unsigned::<UInt16Type>(array),
        (_, DataType::UInt32) => widen_unsigned::<UInt32Type>(array),
        (_, DataType::UInt64) => widen_unsigned::<UInt64Type>(array),
        (stored, _) => Err(ArrowError::CastError(format!(
            "a cached column of {data_type} is kept as {stored}"
        ))),
    }
}

/// Reads the same bytes as another type of the same width.
fn retyped(array: &ArrayRef, data_type: DataType) -> Encoded {
    if *array.data_type() == data_type {
        return Ok(Arc::clone(array));
    }
    Ok(make_array(array.to_data().into_builder().data_type(data_type).build()?))
}

fn narrow_signed<T>(array: &ArrayRef) -> ArrayRef
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
        Arc::new(values.unary::<_, Int8Type>(|value| value.into() as i8))
    } else if width > 2 && fits(i16::MIN.into(), i16::MAX.into()) {
        Arc::new(values.unary::<_, Int16Type>(|value| value.into() as i16))
    } else if width > 4 && fits(i32::MIN.into(), i32::MAX.into()) {
        Arc::new(values.unary::<_, Int32Type>(|value| value.into() as i32))
    } else {
        Arc::clone(array)
    }
}

fn narrow_unsigned<T>(array: &ArrayRef) -> ArrayRef
where
    T: ArrowPrimitiveType,
    T::Native: Into<u64> + Copy,
{
    let values = array.as_primitive::<T>();
    let most = max(values).map_or(0, Into::into);
    let width = size_of::<T::Native>();
    if width > 1 && most <= u8::MAX.into() {
        Arc::new(values.unary::<_, UInt8Type>(|value| value.into() as u8))
    } else if width > 2 && most <= u16::MAX.into() {
        Arc::new(values.unary::<_, UInt16Type>(|value| value.into() as u16))
    } else if width > 4 && most <= u32::MAX.into() {
        Arc::new(values.unary::<_, UInt32Type>(|value| value.into() as u32))
    } else {
        Arc::clone(array)
    }
}

fn narrow_decimal(array: &ArrayRef) -> ArrayRef {
    let values = array.as_primitive::<Decimal128Type>();
    let range = i128::from(i64::MIN)..=i128::from(i64::MAX);
    let (least, most) = (min(values).unwrap_or(0), max(values).unwrap_or(0));
    if !range.contains(&least) || !range.contains(&most) {
        return Arc::clone(array);
    }
    let narrow: ArrayRef = Arc::new(values.unary::<_, Int64Type>(|value| value as i64));
    narrow_signed::<Int64Type>(&narrow)
}

macro_rules! widen {
    ($name:ident, $trait:ty, $($stored:ident => $arrow:ident),+) => {
        fn $name<T>(array: &ArrayRef) -> Encoded
        where
            T: ArrowPrimitiveType,
            T::Native: TryFrom<$trait> + Default,
        {
            // Every value fits, since it came from this type; what lies below a NULL does too.
            let widened: ArrayRef = match array.data_type() {
                $(DataType::$stored => Arc::new(
                    array.as_primitive::<$arrow>().unary::<_, T>(|value| {
                        T::Native::try_from(<$trait>::from(value)).unwrap_or_default()
                    }),
                ),)+
                other => {
                    let kind = T::DATA_TYPE;
                    let message = format!("a cached column of {kind} is kept as {other}");
                    return Err(ArrowError::CastError(message));
                }
            };
            Ok(widened)
        }
    };
}

widen!(widen_signed, i64, Int8 => Int8Type, Int16 => Int16Type, Int32 => Int32Type, Int64 => Int64Type);
widen!(widen_unsigned, u64, UInt8 => UInt8Type, UInt16 => UInt16Type, UInt32 => UInt32Type);

/// Keeps values that repeat once; `plain` has the bits of `array`.
fn repeated_values<T, K>(
    array: &ArrayRef,
    plain: &ArrayRef,
    bits: impl Fn(T::Native) -> K,
) -> Encoded
where
    T: ArrowPrimitiveType,
    K: Eq + Hash,
{
    let values: &PrimitiveArray<T> = plain.as_primitive();
    let sample: HashSet<K> = values.iter().flatten().take(SAMPLE).map(&bits).collect();
    if values.len() >= SAMPLE && sample.len() > SAMPLE_DISTINCT {
        return Ok(Arc::clone(array));
    }
    // More would cost more than they save: a key takes two bytes.
    let most = (values.len() / 2).min(MAX_DISTINCT);
    let mut places: HashMap<K, u16> = HashMap::new();
    let mut distinct: Vec<T::Native> = Vec::new();
    let mut keys: Vec<Option<u16>> = Vec::with_capacity(values.len());
    for value in values {
        let Some(value) = value else {
            keys.push(None);
            continue;
        };
        let next = distinct.len();
        let key = *places.entry(bits(value)).or_insert_with(|| {
            distinct.push(value);
            next as u16
        });
        if distinct.len() > most {
            return Ok(Arc::clone(array));
        }
        keys.push(Some(key));
    }
    let width = size_of::<T::Native>();
    let key_width = if distinct.len() <= 1 << 8 { 1 } else { 2 };
    if distinct.len() * width + keys.len() * key_width >= keys.len() * width {
        return Ok(Arc::clone(array));
    }
    let distinct: ArrayRef = Arc::new(PrimitiveArray::<T>::from_iter_values(distinct));
    let distinct = retyped(&distinct, array.data_type().clone())?;
    dictionary(UInt16Array::from(keys), distinct)
}

/// Makes a dictionary with keys as narrow as its values allow.
fn dictionary(keys: UInt16Array, values: ArrayRef) -> Encoded {
    if values.len() <= 1 << 8 {
        let keys: UInt8Array = keys.unary(|key| key as u8);
        return Ok(Arc::new(DictionaryArray::<UInt8Type>::try_new(keys, values)?));
    }
    Ok(Arc::new(DictionaryArray::<UInt16Type>::try_new(keys, values)?))
}

fn encode_text(array: &ArrayRef) -> Encoded {
    let views = array.as_string_view_opt();
    if views.is_some_and(|views| views.total_buffer_bytes_used() > MAX_TEXT_BYTES) {
        return Ok(Arc::clone(array));
    }
    let text = cast(array, &DataType::Utf8)?;
    let values = text.as_string::<i32>();
    let sample: HashSet<&str> = values.iter().flatten().take(SAMPLE).collect();
    if values.len() >= SAMPLE && sample.len() > SAMPLE_DISTINCT {
        return Ok(Arc::clone(&text));
    }
    let most = (values.len() / 2).clamp(1, MAX_DISTINCT);
    let mut builder = StringDictionaryBuilder::<UInt16Type>::new();
    let mut seen = 0;
    for value in values {
        match value {
            Some(value) => seen = seen.max(usize::from(builder.append(value)?) + 1),
            None => builder.append_null(),
        }
        if seen > most {
            return Ok(Arc::clone(&text));
        }
    }
    let built = builder.finish();
    let key_width = if seen <= 1 << 8 { 1 } else { 2 };
    let offsets = values.value_offsets();
    let plain = 4 * values.len() + (offsets[values.len()] - offsets[0]) as usize;
    let kept = built.values().as_string::<i32>().value_data().len() + 4 * seen;
    if kept + key_width * values.len() >= plain {
        return Ok(Arc::clone(&text));
    }
    let mut values = Arc::clone(built.values());
    let keys = built.keys().clone();
    drop(built);
    values.shrink_to_fit();
    dictionary(keys, values)
}

fn encode_binary(array: &ArrayRef) -> Encoded {
    let views = array.as_binary_view();
    let bytes = views.iter().flatten().map(<[u8]>::len).sum::<usize>();
    if bytes > MAX_TEXT_BYTES {
        return Ok(Arc::clone(array));
    }
    let mut builder = BinaryBuilder::with_capacity(views.len(), bytes);
    views.iter().for_each(|value| builder.append_option(value));
    Ok(Arc::new(builder.finish()))
}
