//! Values for parameters, as clients send and handles keep them.

use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use futures::{Stream, StreamExt, TryStreamExt};
use skep_proto::ErrorCode;
use tonic::Status;

use crate::status::refuse;

/// Reads the rows of parameters that a client sends; `None` if it sends no columns.
///
/// # Errors
/// `INVALID_ARGUMENT` for what are no rows; `RESOURCE_EXHAUSTED` for more bytes than `bound`.
pub(super) async fn receive(
    messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
    bound: usize,
) -> Result<Option<RecordBatch>, Status> {
    let mut rows = rows_of(messages);
    let mut batches = Vec::new();
    let mut bytes = 0_usize;
    while let Some(batch) = rows.try_next().await.map_err(|error| status_of_rows(&error))? {
        bytes = bytes.saturating_add(batch.get_array_memory_size());
        if bytes > bound {
            return Err(too_large(bound));
        }
        batches.push(batch);
    }
    let Some(schema) = rows.schema().cloned() else { return Ok(None) };
    if schema.fields().is_empty() {
        return Ok(None);
    }
    concat_batches(&schema, &batches).map(Some).map_err(|error| status_of_rows(&error.into()))
}

/// Reads a stream of rows: messages without a header only carry what stands beside rows.
pub(super) fn rows_of(
    messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
) -> FlightRecordBatchStream {
    let messages = messages.try_filter(|message| {
        let has_rows = !message.data_header.is_empty();
        async move { has_rows }
    });
    FlightRecordBatchStream::new_from_flight_data(messages.map_err(FlightError::from).boxed())
}

/// Makes the status of rows that cannot be read: the client sent them.
pub(super) fn status_of_rows(error: &FlightError) -> Status {
    match error {
        FlightError::Tonic(status) if status.code() != tonic::Code::Internal => {
            refuse_as(status.code(), status.message())
        }
        other => refuse(
            ErrorCode::InvalidArgument,
            format!("the rows cannot be read: {other}"),
            "rows are sent as Arrow Flight messages, the schema first",
        ),
    }
}

fn refuse_as(code: tonic::Code, message: &str) -> Status {
    let code = ErrorCode::from_grpc_status(code.into()).unwrap_or(ErrorCode::Cancelled);
    refuse(code, format!("the rows stopped: {message}"), "send them again")
}

fn too_large(bound: usize) -> Status {
    refuse(
        ErrorCode::ResourceExhausted,
        format!("the parameters have more than {bound} bytes"),
        "send fewer rows at a time, load them by ingest, or raise max_parameter_bytes in [results]",
    )
}

/// Writes one row of parameters for a handle.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` for more bytes than `bound`: a handle goes to and fro.
pub(super) fn encode(values: &RecordBatch, bound: usize) -> Result<Bytes, Status> {
    let written = || -> Result<Vec<u8>, ArrowError> {
        let mut writer = StreamWriter::try_new(Vec::new(), values.schema_ref())?;
        writer.write(values)?;
        writer.finish()?;
        writer.into_inner()
    };
    let bytes = written().map_err(|error| status_of_rows(&error.into()))?;
    if bytes.len() > bound { Err(too_large(bound)) } else { Ok(bytes.into()) }
}

/// Reads what [`encode`] wrote; `None` for nothing.
///
/// # Errors
/// `INVALID_ARGUMENT` for anything else.
pub(super) fn decode(bytes: &Bytes) -> Result<Option<RecordBatch>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let read = || -> Result<RecordBatch, ArrowError> {
        let reader = StreamReader::try_new(bytes.as_ref(), None)?;
        let schema = reader.schema();
        let batches = reader.collect::<Result<Vec<_>, _>>()?;
        concat_batches(&schema, &batches)
    };
    read().map(Some).map_err(|error| status_of_rows(&error.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray};
    use tonic::Code;

    use super::*;

    fn row() -> RecordBatch {
        let columns: [(&str, ArrayRef); 2] = [
            ("1", Arc::new(Int64Array::from(vec![Some(7)]))),
            ("2", Arc::new(StringArray::from(vec![None::<&str>]))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn parameters_come_back_as_they_were() {
        let bytes = encode(&row(), 1 << 20).unwrap();
        assert_eq!(decode(&bytes).unwrap(), Some(row()));
        assert_eq!(decode(&Bytes::new()).unwrap(), None);
        let cut = bytes.slice(..bytes.len() / 3);
        assert_eq!(decode(&cut).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(encode(&row(), 10).unwrap_err().code(), Code::ResourceExhausted);
    }

    #[tokio::test]
    async fn a_message_without_rows_says_nothing() {
        let nothing = futures::stream::iter([Ok(FlightData::new())]);
        assert_eq!(receive(nothing, 100).await.unwrap(), None);
        let garbage = FlightData::new().with_data_header(vec![1_u8, 2, 3]);
        let refused = receive(futures::stream::iter([Ok(garbage)]), 100).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}
