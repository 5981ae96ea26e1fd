//! How a column of one batch is kept: as few bytes as are cheap to find, and cheap to take back.
//!
//! Each batch is encoded for itself, and its own types say how: integers, dates, times and decimals
//! in the narrowest integer that has room for their values; what repeats as a dictionary with keys of
//! one or two bytes; texts without the 16 bytes that a view takes for each, unless they are so long
//! that this is less than a tenth: to make views again costs some nanoseconds for each, and memory is
//! what caches have least of. Nested and other types stay as they are.
//!
//! **Invariant:** [`decode`] gives back the very column that [`encode`] took, whatever was chosen.

use std::hash::Hash;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryBuilder, DictionaryArray, PrimitiveArray,
    RecordBatch, RecordBatchOptions, StringArray, StringViewArray, UInt8Array, UInt16Array,
};
use datafusion::arrow::compute::{cast, take};
use datafusion::arrow::datatypes::{
    DataType, Field, Int64Type, Schema, SchemaRef, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{HashMap, HashSet};
use skep_store::narrow::{narrow, retyped, widen};

/// How many values are looked at to see whether a dictionary may be worth it.
const SAMPLE: usize = 256;
/// A dictionary is tried if no more of the sample's values are different.
const SAMPLE_DISTINCT: usize = SAMPLE * 6 / 10;
/// The most values of a dictionary: what keys of two bytes tell apart.
const MAX_DISTINCT: usize = 1 << 16;
/// Texts of more bytes keep their type: 32-bit offsets have no room for them.
const MAX_TEXT_BYTES: usize = 1 << 30;
/// What a view takes beside its text, and what an offset does.
const VIEW_BYTES: usize = 16;
const OFFSET_BYTES: usize = 4;

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
        DataType::Int64
        | DataType::Date64
        | DataType::Time64(_)
        | DataType::Timestamp(_, _)
        | DataType::Duration(_) => {
            let narrow = narrow(array)?;
            if narrow.data_type() != array.data_type() {
                return Ok(narrow);
            }
            let plain = retyped(array, DataType::Int64)?;
            repeated_values::<Int64Type, _>(array, &plain, |value| value)
        }
        DataType::Float32 => {
            repeated_values::<UInt32Type, _>(array, &retyped(array, DataType::UInt32)?, |bits| bits)
        }
        DataType::Float64 => {
            repeated_values::<UInt64Type, _>(array, &retyped(array, DataType::UInt64)?, |bits| bits)
        }
        DataType::Utf8 => encode_text(array, array.as_string::<i32>().iter()),
        DataType::Utf8View => encode_text(array, array.as_string_view().iter()),
        DataType::BinaryView => encode_binary(array),
        _ => narrow(array),
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
        (DataType::Utf8 | DataType::Binary, _) | (DataType::Utf8View, DataType::Utf8) => {
            cast(array, data_type)
        }
        _ => widen(array, data_type),
    }
}

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

fn encode_text<'a>(
    array: &ArrayRef,
    values: impl Iterator<Item = Option<&'a str>> + Clone,
) -> Encoded {
    let rows = array.len();
    let sample: HashSet<&str> = values.clone().flatten().take(SAMPLE).collect();
    let may_repeat = rows < SAMPLE || sample.len() <= SAMPLE_DISTINCT;
    let found = may_repeat.then(|| repeated_texts(values.clone(), rows)).flatten();
    let bytes = |texts: &mut dyn Iterator<Item = &'a str>| texts.map(str::len).sum::<usize>();
    let is_view = *array.data_type() == DataType::Utf8View;
    let of_text = if is_view { VIEW_BYTES } else { OFFSET_BYTES };
    let plain = bytes(&mut values.flatten());
    if let Some((keys, distinct)) = found {
        let key_width = if distinct.len() <= 1 << 8 { 1 } else { 2 };
        let kept =
            key_width * rows + of_text * distinct.len() + bytes(&mut distinct.iter().copied());
        if kept < OFFSET_BYTES * rows + plain {
            let keys = UInt16Array::new(keys.into(), array.logical_nulls());
            // Of the column's own type, so that taking them back is copying keys' worth of them.
            let distinct: ArrayRef = match is_view {
                true => Arc::new(StringViewArray::from_iter_values(distinct).gc()),
                false => Arc::new(StringArray::from_iter_values(distinct)),
            };
            return dictionary(keys, distinct);
        }
    }
    if !is_view {
        return Ok(Arc::clone(array));
    }
    let views = array.as_string_view();
    let in_buffers = views.total_buffer_bytes_used();
    let is_short = 10 * (VIEW_BYTES * rows + in_buffers) > 11 * (OFFSET_BYTES * rows + plain);
    if is_short && plain <= MAX_TEXT_BYTES {
        return cast(array, &DataType::Utf8);
    }
    Ok(Arc::new(views.gc()))
}

/// Numbers texts by when they first occur; `None` if too few occur twice. What is NULL has any
/// number.
fn repeated_texts<'a>(
    values: impl Iterator<Item = Option<&'a str>>,
    rows: usize,
) -> Option<(Vec<u16>, Vec<&'a str>)> {
    let most = (rows / 2).clamp(1, MAX_DISTINCT);
    let mut places: HashMap<&str, u16> = HashMap::new();
    let mut distinct = Vec::new();
    let mut keys = Vec::with_capacity(rows);
    let mut last: Option<(&str, u16)> = None;
    for value in values {
        let key = match (value, last) {
            (None, _) => 0,
            (Some(text), Some((before, key))) if text == before => key,
            (Some(text), _) => {
                let next = distinct.len();
                let key = *places.entry(text).or_insert_with(|| {
                    distinct.push(text);
                    next as u16
                });
                if distinct.len() > most {
                    return None;
                }
                last = Some((text, key));
                key
            }
        };
        keys.push(key);
    }
    Some((keys, distinct))
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
