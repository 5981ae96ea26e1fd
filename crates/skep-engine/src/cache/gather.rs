//! Whole batches out of what filters left.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::BatchCoalescer;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use datafusion::physical_plan::metrics::BaselineMetrics;
use futures::{Stream, StreamExt};

/// Leaves out what is empty, and gathers what filters left of batches into whole ones.
pub(super) fn gathered(
    rows: impl Stream<Item = Result<Option<RecordBatch>>> + Send + 'static,
    schema: SchemaRef,
    batch_size: usize,
    counts: BaselineMetrics,
) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    // Rows without columns are only counted.
    let gathering = (!schema.fields().is_empty()).then(|| {
        BatchCoalescer::new(schema, batch_size)
            .with_biggest_coalesce_batch_size(Some(batch_size / 2))
    });
    let state = (Box::pin(rows), gathering, false);
    futures::stream::try_unfold(
        (state, counts),
        |((mut rows, mut gathering, mut ended), counts)| async move {
            loop {
                let whole = gathering.as_mut().and_then(BatchCoalescer::next_completed_batch);
                if let Some(batch) = whole {
                    counts.record_output(batch.num_rows());
                    return Ok(Some((batch, ((rows, gathering, ended), counts))));
                }
                if ended {
                    return Ok(None);
                }
                match (rows.next().await, &mut gathering) {
                    (Some(batch), gathering) => match (batch?, gathering) {
                        (Some(batch), Some(gathering)) => gathering.push_batch(batch)?,
                        (Some(batch), None) => {
                            counts.record_output(batch.num_rows());
                            return Ok(Some((batch, ((rows, None, ended), counts))));
                        }
                        // Nothing passed; others have their turn.
                        (None, _) => tokio::task::coop::consume_budget().await,
                    },
                    (None, gathering) => {
                        ended = true;
                        if let Some(gathering) = gathering {
                            gathering.finish_buffered_batch()?;
                        }
                    }
                }
            }
        },
    )
}
