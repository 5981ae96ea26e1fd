//! What is known of a cached partition, as bytes: who made it tells who plans.
//!
//! Two streams of Arrow IPC: a row for each batch, and one row of what is known of all. The bytes are
//! of this build alone.

use std::io::Cursor;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef, UInt64Type};
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Statistics, internal_datafusion_err, internal_err};
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};
use datafusion::scalar::ScalarValue;

use super::summary::{ColumnSummary, PartitionSummary};

/// The bytes of the length of the first stream.
const LENGTH_BYTES: usize = 8;

impl PartitionSummary {
    /// Returns how many rows the partition has.
    pub fn row_count(&self) -> usize {
        self.row_count
    }

    /// Returns the bytes that its rows have as queries see them.
    pub fn decoded_bytes(&self) -> usize {
        *self.statistics.total_byte_size.get_value().unwrap_or(&0)
    }

    /// Writes all that is known.
    ///
    /// # Errors
    /// If arrow cannot write a column, which would be a defect.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut batches = Columns::default();
        batches.push("rows", Arc::clone(&self.rows));
        let mut totals = Columns::default();
        totals.push("rows", count_array(self.row_count));
        totals.push("bytes", count_array(self.decoded_bytes()));
        for (idx, (column, known)) in
            self.columns.iter().zip(&self.statistics.column_statistics).enumerate()
        {
            batches.push(&format!("nulls {idx}"), Arc::clone(&column.nulls));
            if let (Some(least), Some(greatest)) = (&column.least, &column.greatest) {
                batches.push(&format!("least {idx}"), Arc::clone(least));
                batches.push(&format!("greatest {idx}"), Arc::clone(greatest));
            }
            let nulls = known.null_count.get_value().copied().unwrap_or_default();
            totals.push(&format!("nulls {idx}"), count_array(nulls));
            if let Some(values) = column.dictionary_values {
                totals.push(&format!("values {idx}"), count_array(values as usize));
            }
            if let (Precision::Exact(least), Precision::Exact(greatest)) =
                (&known.min_value, &known.max_value)
            {
                totals.push(&format!("least {idx}"), least.to_array()?);
                totals.push(&format!("greatest {idx}"), greatest.to_array()?);
            }
        }
        let (batches, totals) = (batches.write()?, totals.write()?);
        let mut bytes = Vec::with_capacity(LENGTH_BYTES + batches.len() + totals.len());
        bytes.extend((batches.len() as u64).to_le_bytes());
        bytes.extend(batches);
        bytes.extend(totals);
        Ok(bytes)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote of a partition with these columns; the memory
    /// that it takes is accounted.
    ///
    /// # Errors
    /// If the bytes are something else, or there is no memory.
    pub fn from_bytes(
        bytes: &[u8],
        schema: &SchemaRef,
        pool: &Arc<dyn MemoryPool>,
    ) -> Result<Self> {
        let broken = || internal_datafusion_err!("what is known of a cached partition is cut off");
        let (length, rest) = bytes.split_at_checked(LENGTH_BYTES).ok_or_else(broken)?;
        let length = length.iter().rev().fold(0, |all, byte| all << 8 | usize::from(*byte));
        let (batches, totals) = rest.split_at_checked(length).ok_or_else(broken)?;
        let (batches, totals) = (read(batches)?, read(totals)?);
        let count = |batch: &RecordBatch, name: &str| -> Result<usize> {
            let column =
                batch.column_by_name(name).and_then(|it| it.as_primitive_opt::<UInt64Type>());
            match column {
                Some(column) if column.len() == 1 => Ok(column.value(0) as usize),
                _ => internal_err!("no \"{name}\" is known of a cached partition"),
            }
        };
        let memory = MemoryConsumer::new("cached table's statistics").register(pool);
        memory.try_grow(batches.get_array_memory_size() + totals.get_array_memory_size())?;
        let mut columns = Vec::with_capacity(schema.fields().len());
        let mut known = Vec::with_capacity(schema.fields().len());
        for idx in 0..schema.fields().len() {
            let of_batches = |what: &str| batches.column_by_name(&format!("{what} {idx}")).cloned();
            let nulls = of_batches("nulls").ok_or_else(broken)?;
            let values = format!("values {idx}");
            let dictionary_values = match totals.schema_ref().index_of(&values) {
                Ok(_) => Some(count(&totals, &values)? as u64),
                Err(_) => None,
            };
            columns.push(ColumnSummary {
                least: of_batches("least"),
                greatest: of_batches("greatest"),
                nulls,
                dictionary_values,
            });
            let mut of_column = ColumnStatistics::new_unknown();
            of_column.null_count = Precision::Exact(count(&totals, &format!("nulls {idx}"))?);
            let bound = |what: &str| match totals.column_by_name(&format!("{what} {idx}")) {
                Some(value) => ScalarValue::try_from_array(value, 0).map(Precision::Exact),
                None => Ok(Precision::Absent),
            };
            of_column.min_value = bound("least")?;
            of_column.max_value = bound("greatest")?;
            known.push(of_column);
        }
        let row_count = count(&totals, "rows")?;
        let rows = batches.column_by_name("rows").cloned().ok_or_else(broken)?;
        Ok(Self::from_parts(
            columns,
            rows,
            Statistics {
                num_rows: Precision::Exact(row_count),
                total_byte_size: Precision::Exact(count(&totals, "bytes")?),
                column_statistics: known,
            },
            row_count,
            memory,
        ))
    }
}

fn count_array(count: usize) -> ArrayRef {
    Arc::new(datafusion::arrow::array::UInt64Array::from(vec![count as u64]))
}

#[derive(Default)]
struct Columns {
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
}

impl Columns {
    fn push(&mut self, name: &str, array: ArrayRef) {
        self.fields.push(Field::new(name, array.data_type().clone(), true));
        self.arrays.push(array);
    }

    fn write(self) -> Result<Vec<u8>> {
        let rows = self.arrays.first().map_or(0, |array| array.len());
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = Arc::new(Schema::new(self.fields));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), self.arrays, &options)?;
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::try_new(&mut bytes, &schema)?;
        writer.write(&batch)?;
        writer.finish()?;
        drop(writer);
        Ok(bytes)
    }
}

fn read(bytes: &[u8]) -> Result<RecordBatch> {
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None)?;
    match (reader.next().transpose()?, reader.next()) {
        (Some(batch), None) => Ok(batch),
        _ => internal_err!("what is known of a cached partition is one batch"),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, StringArray};
    use datafusion::arrow::datatypes::DataType;
    use datafusion::execution::memory_pool::UnboundedMemoryPool;

    use super::super::summary::Summarizer;
    use super::*;
    use crate::cache::encode::encode_batch;

    fn pool() -> Arc<dyn MemoryPool> {
        Arc::new(UnboundedMemoryPool::default())
    }

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
            Field::new("l", DataType::new_list(DataType::Int64, true), true),
        ]))
    }

    fn batch(numbers: Vec<Option<i64>>, texts: Vec<Option<&str>>) -> RecordBatch {
        let lists =
            datafusion::arrow::array::new_null_array(schema().field(2).data_type(), numbers.len());
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(numbers)), Arc::new(StringArray::from(texts)), lists];
        RecordBatch::try_new(schema(), columns).unwrap()
    }

    fn assert_same(before: &PartitionSummary, after: &PartitionSummary) {
        assert_eq!(before.statistics, after.statistics);
        assert_eq!(
            (before.batch_count, before.row_count, &before.rows),
            (after.batch_count, after.row_count, &after.rows)
        );
        for (before, after) in before.columns.iter().zip(&after.columns) {
            assert_eq!(before.nulls.as_ref(), after.nulls.as_ref());
            assert_eq!(before.least.as_deref(), after.least.as_deref());
            assert_eq!(before.greatest.as_deref(), after.greatest.as_deref());
            assert_eq!(before.dictionary_values, after.dictionary_values);
        }
    }

    #[test]
    fn what_is_known_comes_back_as_it_was() {
        let mut summarizer = Summarizer::new(&schema(), &pool()).unwrap();
        let long = "x".repeat(300);
        for batch in [
            batch(vec![Some(3), None, Some(-1)], vec![Some("b"), Some("a"), None]),
            batch(vec![None, None], vec![None, Some(&long)]),
        ] {
            summarizer.add(&batch, &encode_batch(&batch).unwrap(), 100).unwrap();
        }
        let summary = summarizer.finish().unwrap();
        let bytes = summary.to_bytes().unwrap();
        let read = PartitionSummary::from_bytes(&bytes, &schema(), &pool()).unwrap();
        assert_same(&summary, &read);
        assert_eq!((read.row_count(), read.decoded_bytes()), (5, 200));
    }

    #[test]
    fn nothing_is_known_of_no_rows_and_bytes_that_are_cut_are_refused() {
        let summary = Summarizer::new(&schema(), &pool()).unwrap().finish().unwrap();
        let bytes = summary.to_bytes().unwrap();
        let read = PartitionSummary::from_bytes(&bytes, &schema(), &pool()).unwrap();
        assert_same(&summary, &read);
        for length in [0, 7, 8, 40] {
            PartitionSummary::from_bytes(&bytes[..length], &schema(), &pool()).unwrap_err();
        }
    }
}
