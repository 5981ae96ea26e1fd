//! Making a partition: from a stream of rows to encoded batches in the store.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{BatchCoalescer, cast};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryPool;
use futures::StreamExt;
use skep_store::{PartitionStore, PartitionWriter, WriterSpec, data_bytes};

use super::encode::encode_batch;
use super::summary::{PartitionSummary, Summarizer};

/// The rows of a cached batch. A query gets them as they are kept, so as many as DataFusion's own
/// readers give.
const BATCH_ROWS: usize = 8192;
/// Batches of more rows than this are kept as they come: gathering would only copy them.
const LARGE_BATCH_ROWS: usize = BATCH_ROWS * 3 / 4;

/// What became of a partition that was to be kept.
#[derive(Debug)]
pub(super) enum Kept {
    /// It is in the store.
    Yes(Box<PartitionSummary>),
    /// There is no room for it, in memory or on disk.
    NoRoom,
}

/// Writes the rows of a stream into the store, and seals.
///
/// # Errors
/// Those of the stream; of the store whatever is no want of room.
pub(super) async fn keep(
    store: &PartitionStore,
    spec: WriterSpec,
    pool: &Arc<dyn MemoryPool>,
    mut rows: SendableRecordBatchStream,
) -> DfResult<Kept> {
    let schema = Arc::clone(&spec.schema);
    let writer = match store.writer(spec) {
        Ok(writer) => writer,
        Err(error) => return Err(error.into()),
    };
    let summarizer = Summarizer::new(&schema, pool)?;
    let mut builder = Builder { writer, summarizer, max_batch_bytes: store.max_batch_bytes() };
    let mut gathering = BatchCoalescer::new(Arc::clone(&schema), BATCH_ROWS)
        .with_biggest_coalesce_batch_size(Some(LARGE_BATCH_ROWS));
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        if batch.num_rows() == 0 {
            continue;
        }
        if schema.fields().is_empty() {
            if let Some(outcome) = no_room(builder.add(batch).await)? {
                return Ok(outcome);
            }
            continue;
        }
        gathering.push_batch(fitted(batch, &schema)?)?;
        while let Some(batch) = gathering.next_completed_batch() {
            if let Some(outcome) = no_room(builder.add(batch).await)? {
                return Ok(outcome);
            }
        }
    }
    gathering.finish_buffered_batch()?;
    while let Some(batch) = gathering.next_completed_batch() {
        if let Some(outcome) = no_room(builder.add(batch).await)? {
            return Ok(outcome);
        }
    }
    let Builder { writer, summarizer, .. } = builder;
    if let Some(outcome) = no_room(writer.seal().await.map(drop).map_err(DataFusionError::from))? {
        return Ok(outcome);
    }
    Ok(Kept::Yes(Box::new(summarizer.finish()?)))
}

struct Builder {
    writer: PartitionWriter,
    summarizer: Summarizer,
    max_batch_bytes: usize,
}

impl Builder {
    /// Encodes and writes a batch. One that is too large is cut here and not by the store, so that
    /// what is known of a batch is known of what the store has under its number.
    async fn add(&mut self, batch: RecordBatch) -> DfResult<()> {
        let mut left = vec![batch];
        while let Some(batch) = left.pop() {
            let encoded = encode_batch(&batch)?;
            let encoded_bytes = data_bytes(&encoded);
            let rows = batch.num_rows();
            if encoded_bytes > self.max_batch_bytes && rows > 1 {
                left.push(batch.slice(rows / 2, rows - rows / 2));
                left.push(batch.slice(0, rows / 2));
                continue;
            }
            self.summarizer.add(&batch, &encoded, data_bytes(&batch))?;
            self.writer.append(0, encoded).await?;
        }
        Ok(())
    }
}

/// Tells want of room from other failures.
fn no_room(outcome: DfResult<()>) -> DfResult<Option<Kept>> {
    use skep_store::Error::{DiskFull, DiskLimit, MemoryExhausted};

    match outcome {
        Ok(()) => Ok(None),
        Err(error) => match skep_store::Error::find(&error) {
            Some(MemoryExhausted { .. } | DiskLimit { .. } | DiskFull { .. }) => {
                Ok(Some(Kept::NoRoom))
            }
            _ => Err(error),
        },
    }
}

/// Gives a batch the columns that the cached table is known to have.
///
/// # Errors
/// If a column is of a type that cannot be made into the known one.
pub(super) fn fitted(batch: RecordBatch, schema: &SchemaRef) -> DfResult<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => cast(column, field.data_type()),
        })
        .collect::<Result<Vec<ArrayRef>, _>>()?;
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}
