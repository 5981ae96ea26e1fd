//! What libraries do wrong, as errors of the query that they did it to.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use futures::{FutureExt, StreamExt};

use crate::error::{Error, Result};
use crate::files;
use crate::query::QueryStream;

/// Passes batches on until the first error, which is explained; a panic is one too.
pub(crate) fn guarded_stream(
    stream: SendableRecordBatchStream,
    schema: SchemaRef,
    physical: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
) -> QueryStream {
    let renamed = Arc::clone(&schema);
    let batches = futures::stream::try_unfold(stream, move |mut stream| {
        let (physical, context) = (Arc::clone(&physical), Arc::clone(&context));
        let renamed = Arc::clone(&renamed);
        async move {
            let error = match guard(stream.next()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(batch))) if batch.schema() == renamed => {
                    return Ok(Some((batch, stream)));
                }
                Ok(Some(Ok(batch))) => {
                    let columns = batch.columns().to_vec();
                    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                    let batch = RecordBatch::try_new_with_options(renamed, columns, &options);
                    let batch = batch.map_err(DataFusionError::from)?;
                    return Ok(Some((batch, stream)));
                }
                Ok(Some(Err(error))) => error,
                Err(panic) => panic.into(),
            };
            drop(stream);
            Err(files::explain_failure(&physical, &context, error).await)
        }
    });
    QueryStream::new(schema, batches.boxed())
}

/// Turns a panic of a library into an error of this query.
pub(crate) async fn guard<T>(future: impl Future<Output = T>) -> Result<T> {
    AssertUnwindSafe(future).catch_unwind().await.map_err(|panic| panic_error(panic.as_ref()))
}

fn panic_error(panic: &(dyn Any + Send)) -> Error {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&'static str>().copied())
        .unwrap_or("no message");
    Error::Internal { message: format!("a panic: {message}"), source: None }
}
