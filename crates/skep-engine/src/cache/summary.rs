//! What is known of the rows of a cached partition: of each batch, so that filters skip it, and of
//! all, for the planner.

use std::cmp::Ordering;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Statistics};
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::functions_aggregate::min_max::{MaxAccumulator, MinAccumulator};
use datafusion::logical_expr::Accumulator;
use datafusion::scalar::ScalarValue;

use super::encode::decode;

/// Longer texts are not kept as bounds: they take more than they help.
const MAX_BOUND_BYTES: usize = 128;
/// What is accounted for the places around a value.
const VALUE_OVERHEAD: usize = 96;

/// What is known of one column of a partition.
#[derive(Debug)]
pub(crate) struct ColumnSummary {
    /// The least value of each batch; NULL where it is not known. `None` for types without order.
    pub(crate) least: Option<ArrayRef>,
    /// The same of the greatest.
    pub(crate) greatest: Option<ArrayRef>,
    /// The NULLs in each batch.
    pub(crate) nulls: ArrayRef,
    /// The values of the dictionaries of all batches, if it is kept as such in all.
    pub(crate) dictionary_values: Option<u64>,
}

/// What is known of a partition.
#[derive(Debug)]
pub struct PartitionSummary {
    pub(crate) columns: Vec<ColumnSummary>,
    /// The rows of each batch.
    pub(crate) rows: ArrayRef,
    pub(crate) batch_count: usize,
    pub(crate) row_count: usize,
    /// Of the rows as queries see them; the bytes, too.
    pub(crate) statistics: Statistics,
    _memory: MemoryReservation,
}

impl PartitionSummary {
    pub(super) fn from_parts(
        columns: Vec<ColumnSummary>,
        rows: ArrayRef,
        statistics: Statistics,
        row_count: usize,
        memory: MemoryReservation,
    ) -> Self {
        let batch_count = rows.len();
        Self { columns, rows, batch_count, row_count, statistics, _memory: memory }
    }
}

/// Collects a [`PartitionSummary`] batch by batch.
#[derive(Debug)]
pub(crate) struct Summarizer {
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: Vec<u64>,
    decoded_bytes: usize,
    memory: MemoryReservation,
}

#[derive(Debug, Default)]
struct Column {
    least: Vec<ScalarValue>,
    greatest: Vec<ScalarValue>,
    nulls: Vec<u64>,
    /// Bounds of all rows; `None` once they are not known exactly.
    all: Option<(ScalarValue, ScalarValue)>,
    /// `None` once a batch came that is no dictionary.
    dictionary_values: Option<u64>,
}

impl Summarizer {
    pub(crate) fn new(schema: &SchemaRef, pool: &Arc<dyn MemoryPool>) -> Result<Self> {
        let columns = schema.fields().iter().map(|field| {
            let mut column = Column { dictionary_values: Some(0), ..Column::default() };
            if is_bounded(field.data_type()) {
                let null = ScalarValue::try_from(field.data_type())?;
                column.all = Some((null.clone(), null));
            }
            Ok(column)
        });
        Ok(Self {
            schema: Arc::clone(schema),
            columns: columns.collect::<Result<_>>()?,
            rows: Vec::new(),
            decoded_bytes: 0,
            memory: MemoryConsumer::new("cached table's statistics").register(pool),
        })
    }

    /// Takes a batch in, as queries see it and as it is kept, with the bytes that it takes as seen.
    ///
    /// # Errors
    /// If there is no memory to note it, or a column cannot be compared.
    pub(crate) fn add(
        &mut self,
        batch: &RecordBatch,
        encoded: &RecordBatch,
        decoded_bytes: usize,
    ) -> Result<()> {
        let mut noted = 16;
        let arrays = batch.columns().iter().zip(encoded.columns());
        for (column, (array, stored)) in self.columns.iter_mut().zip(arrays) {
            column.nulls.push(array.logical_null_count() as u64);
            if !stored.is_empty() {
                let values = stored.as_any_dictionary_opt().map(|it| it.values().len() as u64);
                let known = column.dictionary_values.zip(values);
                column.dictionary_values = known.map(|(known, values)| known + values);
            }
            if !is_bounded(array.data_type()) {
                continue;
            }
            let (least, greatest) = bounds(stored, array.data_type())?;
            if let Some((all_least, all_greatest)) = &mut column.all {
                keep(all_least, &least, Ordering::Less);
                keep(all_greatest, &greatest, Ordering::Greater);
            }
            let null = ScalarValue::try_from(array.data_type())?;
            noted += 2 * VALUE_OVERHEAD;
            let brief = |value: ScalarValue| match text_bytes(&value) > MAX_BOUND_BYTES {
                true => null.clone(),
                false => value,
            };
            let (least, greatest) = (brief(least), brief(greatest));
            noted += text_bytes(&least) + text_bytes(&greatest);
            column.least.push(least);
            column.greatest.push(greatest);
        }
        self.memory.try_grow(noted)?;
        self.rows.push(batch.num_rows() as u64);
        self.decoded_bytes += decoded_bytes;
        Ok(())
    }

    /// Returns what was collected.
    ///
    /// # Errors
    /// If arrow cannot put values of one type into an array.
    pub(crate) fn finish(self) -> Result<PartitionSummary> {
        let row_count = self.rows.iter().sum::<u64>() as usize;
        let mut columns = Vec::with_capacity(self.columns.len());
        let mut statistics = Vec::with_capacity(self.columns.len());
        for (column, field) in self.columns.into_iter().zip(self.schema.fields()) {
            let null_count = column.nulls.iter().sum::<u64>() as usize;
            let mut of_column = ColumnStatistics::new_unknown();
            of_column.null_count = Precision::Exact(null_count);
            if let Some((least, greatest)) = column.all
                && text_bytes(&least).max(text_bytes(&greatest)) <= MAX_BOUND_BYTES
                // Of NULLs alone, or of no rows, there is no least value to tell.
                && !least.is_null()
            {
                of_column.min_value = Precision::Exact(least);
                of_column.max_value = Precision::Exact(greatest);
            }
            statistics.push(of_column);
            let gather = |values: Vec<ScalarValue>| match values.is_empty() {
                true => Ok::<_, datafusion::error::DataFusionError>(None),
                false => ScalarValue::iter_to_array(values).map(Some),
            };
            let is_bounded = is_bounded(field.data_type());
            columns.push(ColumnSummary {
                least: if is_bounded { gather(column.least)? } else { None },
                greatest: if is_bounded { gather(column.greatest)? } else { None },
                nulls: Arc::new(UInt64Array::from(column.nulls)),
                dictionary_values: column.dictionary_values,
            });
        }
        Ok(PartitionSummary {
            columns,
            batch_count: self.rows.len(),
            row_count,
            rows: Arc::new(UInt64Array::from(self.rows)),
            statistics: Statistics {
                num_rows: Precision::Exact(row_count),
                total_byte_size: Precision::Exact(self.decoded_bytes),
                column_statistics: statistics,
            },
            _memory: self.memory,
        })
    }
}

/// Returns whether values of a type are compared as queries compare them.
fn is_bounded(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Boolean
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
            | DataType::UInt64
            | DataType::Float32
            | DataType::Float64
            | DataType::Decimal128(_, _)
            | DataType::Decimal256(_, _)
            | DataType::Date32
            | DataType::Date64
            | DataType::Time32(_)
            | DataType::Time64(_)
            | DataType::Timestamp(_, _)
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
    )
}

/// Finds the bounds of a column in the form in which it is kept: narrower, and of what repeats each
/// value once. A dictionary has no value that no row has.
fn bounds(stored: &ArrayRef, data_type: &DataType) -> Result<(ScalarValue, ScalarValue)> {
    let values = match stored.data_type() {
        DataType::Dictionary(_, _) => stored.as_any_dictionary().values(),
        _ => stored,
    };
    let columns = std::slice::from_ref(values);
    let mut least = MinAccumulator::try_new(values.data_type())?;
    least.update_batch(columns)?;
    let mut greatest = MaxAccumulator::try_new(values.data_type())?;
    greatest.update_batch(columns)?;
    let as_seen = |bound: ScalarValue| match values.data_type() == data_type {
        true => Ok::<_, datafusion::error::DataFusionError>(bound),
        false => ScalarValue::try_from_array(&decode(&bound.to_array()?, data_type)?, 0),
    };
    Ok((as_seen(least.evaluate()?)?, as_seen(greatest.evaluate()?)?))
}

fn keep(kept: &mut ScalarValue, other: &ScalarValue, wanted: Ordering) {
    if !other.is_null() && (kept.is_null() || other.partial_cmp(kept) == Some(wanted)) {
        *kept = other.clone();
    }
}

fn text_bytes(value: &ScalarValue) -> usize {
    match value {
        ScalarValue::Utf8(Some(text))
        | ScalarValue::LargeUtf8(Some(text))
        | ScalarValue::Utf8View(Some(text)) => text.len(),
        _ => 0,
    }
}
