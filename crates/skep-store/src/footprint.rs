//! What a batch keeps alive in memory, what its rows need, and cutting the first down to the second.
//!
//! A batch may be a narrow window on large buffers: a slice, a filtered string view, a few keys of
//! a large dictionary. Kept for long, or written to a file, it would cost what the window hides.
//! The rule: copy when the buffers are more than [`WASTE_FACTOR`] times what the rows need.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, MutableArrayData, OffsetSizeTrait, RecordBatch,
    RecordBatchOptions, StructArray, UInt32Array, UInt64Array, make_array,
};
use datafusion::arrow::compute::{cast, take};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;

/// How much larger than needed buffers may be before they are copied: a copy costs what is needed
/// once, and saves at least as much for as long as the batch is kept.
const WASTE_FACTOR: usize = 2;
/// Waste below this is not worth a copy.
const WASTE_ALLOWED: usize = 4096;
/// What an array costs beside its buffers: its own struct, its `Arc`, its type.
const ARRAY_OVERHEAD: usize = 160;
/// What a buffer costs beside its bytes: its own struct, its place in the ledger, what the allocator
/// rounds up.
const BUFFER_OVERHEAD: usize = 160;
/// What a batch costs beside its arrays.
const BATCH_OVERHEAD: usize = 128;

/// The buffers that a batch keeps alive.
#[derive(Debug)]
pub(super) struct Footprint {
    /// Address and capacity of each allocation; one may occur several times.
    pub(super) buffers: Box<[(usize, usize)]>,
    /// Bytes that are the batch's own.
    pub(super) overhead: usize,
    /// Bytes of this batch alone, buffers that it shares with others included.
    pub(super) total: usize,
}

impl Footprint {
    pub(super) fn of(batch: &RecordBatch) -> Self {
        let mut buffers = Vec::new();
        let mut array_count = 0;
        for column in batch.columns() {
            collect_buffers(&column.to_data(), &mut buffers, &mut array_count);
        }
        let overhead =
            BATCH_OVERHEAD + array_count * ARRAY_OVERHEAD + buffers.len() * BUFFER_OVERHEAD;
        let total = overhead + distinct_bytes(&buffers);
        Self { buffers: buffers.into_boxed_slice(), overhead, total }
    }
}

fn distinct_bytes(buffers: &[(usize, usize)]) -> usize {
    match buffers {
        [] => 0,
        [(_, capacity)] => *capacity,
        _ => buffers.iter().copied().collect::<HashMap<_, _>>().values().sum(),
    }
}

fn collect_buffers(data: &ArrayData, buffers: &mut Vec<(usize, usize)>, array_count: &mut usize) {
    *array_count += 1;
    let nulls = data.nulls().map(|nulls| nulls.buffer());
    for buffer in data.buffers().iter().chain(nulls) {
        if buffer.capacity() > 0 {
            buffers.push((buffer.data_ptr().as_ptr() as usize, buffer.capacity()));
        }
    }
    for child in data.child_data() {
        collect_buffers(child, buffers, array_count);
    }
}

fn retained_bytes(array: &dyn Array) -> usize {
    let mut buffers = Vec::new();
    collect_buffers(&array.to_data(), &mut buffers, &mut 0);
    distinct_bytes(&buffers)
}

/// Returns the bytes that the rows of a batch need, whatever its buffers hold besides.
pub fn data_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| needed_bytes(column)).sum()
}

/// Cuts a batch in halves until each needs no more than this, or has one row; the first rows come
/// first. Each comes with what it needs.
///
/// Units: bytes, of [`data_bytes`].
pub fn pieces(batch: RecordBatch, most_bytes: usize) -> impl Iterator<Item = (RecordBatch, usize)> {
    let mut left = vec![batch];
    std::iter::from_fn(move || {
        loop {
            let piece = left.pop()?;
            let (bytes, rows) = (data_bytes(&piece), piece.num_rows());
            if bytes <= most_bytes || rows < 2 {
                return Some((piece, bytes));
            }
            left.push(piece.slice(rows / 2, rows - rows / 2));
            left.push(piece.slice(0, rows / 2));
        }
    })
}

fn needed_bytes(array: &dyn Array) -> usize {
    let rows = array.len();
    let nulls = match array.nulls() {
        Some(_) => rows.div_ceil(8),
        None => 0,
    };
    let values = match array.data_type() {
        DataType::Utf8View => 16 * rows + array.as_string_view().total_buffer_bytes_used(),
        DataType::BinaryView => 16 * rows + array.as_binary_view().total_buffer_bytes_used(),
        DataType::Struct(_) => {
            array.as_struct().columns().iter().map(|column| needed_bytes(column)).sum()
        }
        DataType::List(_) => list_bytes::<i32>(array),
        DataType::LargeList(_) => list_bytes::<i64>(array),
        DataType::FixedSizeList(_, _) => needed_bytes(array.as_fixed_size_list().values()),
        DataType::Map(_, _) => {
            let map = array.as_map();
            let offsets = map.value_offsets();
            let (start, end) = (offsets[0] as usize, offsets[rows] as usize);
            4 * (rows + 1) + needed_bytes(&map.entries().slice(start, end - start))
        }
        DataType::Dictionary(key, _) => {
            let keys = rows * key.primitive_width().unwrap_or_default();
            keys + needed_bytes(array.as_any_dictionary().values())
        }
        // Arrays of these are rare; the sizes of their children are an upper bound.
        _ => {
            let data = array.to_data();
            return data.get_slice_memory_size().unwrap_or_else(|_| data.get_buffer_memory_size());
        }
    };
    nulls + values
}

fn list_bytes<O: OffsetSizeTrait>(array: &dyn Array) -> usize {
    let list = array.as_list::<O>();
    let offsets = list.value_offsets();
    let (start, end) = (offsets[0].as_usize(), offsets[array.len()].as_usize());
    size_of_val(offsets) + needed_bytes(&list.values().slice(start, end - start))
}

/// Copies the columns of a batch whose buffers are far larger than its rows need.
///
/// # Errors
/// If arrow refuses to put an array together again.
pub(super) fn compact(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    with_smaller(batch, compact_array)
}

/// Copies the texts of a batch's views that are little of what their buffers hold: a message takes
/// those along as they are, where it cuts what other columns hold too much.
///
/// # Errors
/// If arrow refuses to put the batch together again.
pub fn compact_views(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    with_smaller(batch, |column| match column.data_type() {
        DataType::Utf8View | DataType::BinaryView => compact_array(column),
        _ => Ok(None),
    })
}

/// Puts smaller columns in the places of those for which there are some.
fn with_smaller(
    batch: RecordBatch,
    smaller: impl Fn(&ArrayRef) -> Result<Option<ArrayRef>, ArrowError>,
) -> Result<RecordBatch, ArrowError> {
    let mut is_changed = false;
    let mut columns = Vec::with_capacity(batch.num_columns());
    for column in batch.columns() {
        let compacted = smaller(column)?;
        is_changed |= compacted.is_some();
        columns.push(compacted.unwrap_or_else(|| Arc::clone(column)));
    }
    if !is_changed {
        return Ok(batch);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
}

fn is_wasteful(array: &dyn Array) -> bool {
    let retained = retained_bytes(array);
    retained > WASTE_ALLOWED && retained > WASTE_FACTOR * needed_bytes(array) + WASTE_ALLOWED
}

/// Returns the array in small, or `None` if it is fit to be kept as it is.
fn compact_array(array: &ArrayRef) -> Result<Option<ArrayRef>, ArrowError> {
    match array.data_type() {
        DataType::Utf8View if is_wasteful(array) => {
            Ok(Some(Arc::new(copy(array)?.as_string_view().gc())))
        }
        DataType::BinaryView if is_wasteful(array) => {
            Ok(Some(Arc::new(copy(array)?.as_binary_view().gc())))
        }
        DataType::Dictionary(key, _) => compact_dictionary(array, key),
        DataType::Struct(fields) if !fields.is_empty() => {
            let parent = array.as_struct();
            let mut is_changed = false;
            let mut columns = Vec::with_capacity(fields.len());
            for column in parent.columns() {
                let compacted = compact_array(column)?;
                is_changed |= compacted.is_some();
                columns.push(compacted.unwrap_or_else(|| Arc::clone(column)));
            }
            if !is_changed {
                return Ok(None);
            }
            let nulls = parent.nulls().cloned();
            Ok(Some(Arc::new(StructArray::try_new(fields.clone(), columns, nulls)?)))
        }
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::FixedSizeList(_, _)
        | DataType::Map(_, _)
            if is_wasteful(array) =>
        {
            let copied = copy(array)?.to_data();
            let mut children = Vec::with_capacity(copied.child_data().len());
            for child in copied.child_data() {
                let child = make_array(child.clone());
                children.push(compact_array(&child)?.unwrap_or(child).to_data());
            }
            let data = copied.into_builder().child_data(children).build()?;
            Ok(Some(make_array(data)))
        }
        kind if (kind.is_primitive() || is_flat(kind)) && is_wasteful(array) => {
            copy(array).map(Some)
        }
        _ => Ok(None),
    }
}

fn is_flat(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Boolean
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::FixedSizeBinary(_)
    )
}

/// Copies the rows of an array into buffers of their own; views keep their data buffers.
fn copy(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let data = array.to_data();
    let mut copied = MutableArrayData::new(vec![&data], false, data.len());
    copied.try_extend(0, 0, data.len())?;
    Ok(make_array(copied.freeze()))
}

/// Keeps the values of a dictionary that are used, if it has many more and they are large. Smaller
/// ones stay: batches mostly share them, and shared ones cost once.
fn compact_dictionary(array: &ArrayRef, key: &DataType) -> Result<Option<ArrayRef>, ArrowError> {
    let dictionary = array.as_any_dictionary();
    let values = dictionary.values();
    let has_many = values.len() / 4 > array.len();
    if !has_many || retained_bytes(values) <= 16 * WASTE_ALLOWED {
        return Ok(None);
    }
    let mut places = HashMap::new();
    let mut used = Vec::new();
    let mut keys = Vec::with_capacity(array.len());
    for (row, old) in dictionary.normalized_keys().into_iter().enumerate() {
        if dictionary.keys().is_null(row) {
            keys.push(None);
            continue;
        }
        let new = *places.entry(old).or_insert_with(|| {
            used.push(old as u64);
            used.len() as u32 - 1
        });
        keys.push(Some(new));
    }
    let values = take(values, &UInt64Array::from(used), None)?;
    let keys = cast(&UInt32Array::from(keys), key)?.to_data();
    let data = ArrayData::builder(array.data_type().clone())
        .len(array.len())
        .buffers(keys.buffers().to_vec())
        .nulls(keys.nulls().cloned())
        .child_data(vec![values.to_data()])
        .build()?;
    Ok(Some(make_array(data)))
}
