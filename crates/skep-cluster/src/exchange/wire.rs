//! What reader and keeper say to each other, as messages of Flight.
//!
//! **Invariant:** nothing of a message is believed before its checksum was seen to be right, the
//! number of the output that is asked for no less than a batch.

use arrow_flight::FlightData;
use bytes::Bytes;
use prost::Message;
use skep_proto::ErrorCode;
use skep_proto::cluster as proto;
use skep_proto::cluster::fetch_request::Request;
use skep_proto::cluster::fetch_response::Content;

use super::fetch::{CachedColumns, RemoteOutput};
use crate::error::{Error, Result};
use crate::ids::{Attempt, Epoch, QueryId, StageId};
use crate::scheduler::{CachedKey, TaskAttempt};
use crate::store::PartitionKey;

/// Arrow wants the widest values at multiples of it.
pub(super) const ALIGNMENT: usize = 16;
/// What the field of a body takes in front of its length.
const BODY_TAG_BYTES: usize = 2;
/// What a checksum takes.
const CHECKSUM_BYTES: usize = 5;
/// What a message costs beside its bytes: its place in queues, its metadata.
const MESSAGE_OVERHEAD: usize = 256;

/// What a keeper says of one slot.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) slot: u32,
    pub(super) content: Content,
    pub(super) header: Bytes,
    pub(super) body: Bytes,
}

impl Response {
    pub(super) fn bare(slot: u32, content: Content) -> Self {
        Self { slot, content, header: Bytes::new(), body: Bytes::new() }
    }

    /// Returns what it takes of the credit of its slot; both ends must agree on it.
    pub(super) fn cost(&self) -> u64 {
        match self.content {
            Content::Batch(_) | Content::Dictionary(_) => {
                (self.header.len() + self.body.len() + MESSAGE_OVERHEAD) as u64
            }
            Content::Schema(_) | Content::End(_) | Content::Error(_) => 0,
        }
    }

    pub(super) fn encode(self) -> FlightData {
        let mut message = proto::FetchResponse {
            slot: self.slot,
            content: Some(self.content),
            ..proto::FetchResponse::default()
        };
        message.padding = padding(&message, self.header.len(), self.body.len());
        message.checksum = response_checksum(&message, &self.header, &self.body);
        FlightData {
            flight_descriptor: None,
            data_header: self.header,
            app_metadata: message.encode_to_vec().into(),
            data_body: self.body,
        }
    }

    /// Takes a message apart.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(super) fn decode(data: FlightData) -> Result<Self, String> {
        let mut message = proto::FetchResponse::decode(data.app_metadata)
            .map_err(|error| format!("a message cannot be decoded: {error}"))?;
        let checksum = std::mem::take(&mut message.checksum);
        if checksum != response_checksum(&message, &data.data_header, &data.data_body) {
            return Err("a message does not have its checksum".to_owned());
        }
        let content = message.content.ok_or("a message has no content")?;
        let (header, body) = (data.data_header, data.data_body);
        Ok(Self { slot: message.slot, content, header, body })
    }
}

/// Returns what makes the body of a message begin at a multiple of [`ALIGNMENT`].
fn padding(message: &proto::FetchResponse, header: usize, body: usize) -> Bytes {
    const ZEROS: [u8; 2 * ALIGNMENT] = [0; 2 * ALIGNMENT];
    let field = |bytes: usize| 1 + prost::length_delimiter_len(bytes) + bytes;
    let own = message.encoded_len() + CHECKSUM_BYTES;
    let begins = |count: &usize| {
        let padding = if *count == 0 { 0 } else { field(*count) };
        let before = field(header) + field(own + padding);
        (before + BODY_TAG_BYTES + prost::length_delimiter_len(body)).is_multiple_of(ALIGNMENT)
    };
    let count = if body == 0 { None } else { (0..ZEROS.len()).find(begins) };
    Bytes::from_static(&ZEROS[..count.unwrap_or(0)])
}

fn response_checksum(message: &proto::FetchResponse, header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&message.encode_to_vec());
    hasher.update(header);
    hasher.update(body);
    hasher.finalize()
}

pub(super) fn encode_request(request: Request) -> FlightData {
    let mut message = proto::FetchRequest { request: Some(request), checksum: 0 };
    message.checksum = crc32fast::hash(&message.encode_to_vec());
    FlightData { app_metadata: message.encode_to_vec().into(), ..FlightData::default() }
}

/// Takes a request apart.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn decode_request(data: FlightData) -> Result<Request, String> {
    let mut message = proto::FetchRequest::decode(data.app_metadata)
        .map_err(|error| format!("a request cannot be decoded: {error}"))?;
    let checksum = std::mem::take(&mut message.checksum);
    if checksum != crc32fast::hash(&message.encode_to_vec()) {
        return Err("a request does not have its checksum".to_owned());
    }
    message.request.ok_or_else(|| "a request is empty".to_owned())
}

/// Returns what asks for an output, without credit.
pub(super) fn open_request(slot: u32, output: &RemoteOutput) -> proto::FetchOpen {
    let TaskAttempt { task, attempt } = output.producer;
    proto::FetchOpen {
        slot,
        attempt: Some(proto::TaskAttempt {
            query: task.query.0,
            stage: task.stage.0,
            partition: task.partition as u64,
            attempt: attempt.0,
        }),
        output: output.output as u64,
        start_batch: output.start_batch,
        credit: 0,
        is_growing: output.is_growing,
        cached: output.cached.as_ref().map(|wanted| proto::CachedColumns {
            key: Some(proto::CachedKey {
                table: wanted.key.table.to_string(),
                epoch: wanted.key.epoch.0,
                partition: wanted.key.partition as u64,
            }),
            columns: wanted.columns.iter().map(|column| *column as u32).collect(),
        }),
    }
}

/// Returns which columns of which cached partition are asked for, if that is asked for.
///
/// # Errors
/// What is wrong with the request.
pub(super) fn requested_columns(
    open: &proto::FetchOpen,
) -> Result<Option<(PartitionKey, Vec<usize>)>, &'static str> {
    let Some(wanted) = &open.cached else { return Ok(None) };
    let key = wanted.key.as_ref().ok_or("a request names no cached partition")?;
    let partition =
        usize::try_from(key.partition).map_err(|_large| "a request names no partition")?;
    let key = PartitionKey::Cached {
        table: key.table.as_str().into(),
        epoch: Epoch(key.epoch),
        partition,
    };
    Ok(Some((key, wanted.columns.iter().map(|column| *column as usize).collect())))
}

/// Returns the name that the store has for what is asked for; `None` if the request names nothing.
pub(super) fn requested_key(open: &proto::FetchOpen) -> Option<PartitionKey> {
    let attempt = open.attempt.as_ref()?;
    Some(PartitionKey::Exchange {
        query: QueryId(attempt.query),
        stage: StageId(attempt.stage),
        producer: usize::try_from(attempt.partition).ok()?,
        attempt: Attempt(attempt.attempt),
        partition: usize::try_from(open.output).ok()?,
    })
}

/// Returns the name that the keeper's store has for an output.
pub(super) fn key_of(output: &RemoteOutput) -> PartitionKey {
    if let Some(CachedColumns { key, .. }) = &output.cached {
        let CachedKey { table, epoch, partition } = key.clone();
        return PartitionKey::Cached { table, epoch, partition };
    }
    let TaskAttempt { task, attempt } = output.producer;
    PartitionKey::Exchange {
        query: task.query,
        stage: task.stage,
        producer: task.partition,
        attempt,
        partition: output.output,
    }
}

/// Says why an output ends early.
pub(super) fn error_content(error: &Error) -> Content {
    let report = proto::ErrorReport {
        code: error.code().grpc_status(),
        message: match error {
            // The reader puts the name of the partition around it again.
            Error::PartitionDamaged { message, .. } => message.clone(),
            error => error.to_string(),
        },
        is_retryable: error.is_retryable(),
        ..proto::ErrorReport::default()
    };
    let is_missing = error.lost_partition().is_some();
    Content::Error(proto::FetchError { is_missing, error: Some(report) })
}

/// Returns what a keeper reported of an output.
pub(super) fn reported_error(failure: proto::FetchError, output: &RemoteOutput) -> Error {
    let report = failure.error.unwrap_or_default();
    let code = code_of(report.code);
    match (failure.is_missing, code) {
        (true, ErrorCode::NotFound) => Error::PartitionNotFound { partition: key_of(output) },
        (true, _) => Error::PartitionDamaged { partition: key_of(output), message: report.message },
        (false, code) => Error::Remote {
            address: output.address.clone(),
            code,
            message: report.message,
            is_retryable: report.is_retryable,
        },
    }
}

fn code_of(grpc_status: i32) -> ErrorCode {
    const CODES: [ErrorCode; 10] = [
        ErrorCode::InvalidArgument,
        ErrorCode::Unauthenticated,
        ErrorCode::PermissionDenied,
        ErrorCode::NotFound,
        ErrorCode::AlreadyExists,
        ErrorCode::ResourceExhausted,
        ErrorCode::Cancelled,
        ErrorCode::Unimplemented,
        ErrorCode::Unavailable,
        ErrorCode::DeadlineExceeded,
    ];
    let known = CODES.into_iter().find(|code| code.grpc_status() == grpc_status);
    known.unwrap_or(ErrorCode::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch_message() -> FlightData {
        Response {
            slot: 3,
            content: Content::Batch(proto::FetchBatch {
                rows: 5,
                widths: Bytes::from_static(&[0, 4]),
            }),
            header: Bytes::from_static(b"header"),
            body: Bytes::from_static(b"body"),
        }
        .encode()
    }

    fn flip(bytes: &Bytes, place: usize) -> Bytes {
        let mut changed = bytes.to_vec();
        changed[place] ^= 4;
        changed.into()
    }

    #[test]
    fn a_body_begins_where_arrow_wants_it() {
        let header = Bytes::from_static(&[1; 300]);
        // Lengths that take one, two and three bytes.
        for (header_bytes, body_bytes) in [(1, 1), (100, 200), (127, 70_000), (300, 20_000)] {
            for columns in 0..140 {
                let widths = vec![1; columns].into();
                let message = Response {
                    slot: 3,
                    content: Content::Batch(proto::FetchBatch { rows: 8192, widths }),
                    header: header.slice(..header_bytes),
                    body: vec![7; body_bytes].into(),
                };
                let bytes = message.encode().encode_to_vec();
                let place = bytes.len() - body_bytes;
                assert!(bytes[place..].iter().all(|byte| *byte == 7));
                assert_eq!(place % ALIGNMENT, 0, "{header_bytes}, {body_bytes}, {columns}");
            }
        }
    }

    #[test]
    fn a_changed_byte_anywhere_is_noticed() {
        let message = batch_message();
        assert!(Response::decode(message.clone()).is_ok());
        for place in 0..message.app_metadata.len() {
            let app_metadata = flip(&message.app_metadata, place);
            Response::decode(FlightData { app_metadata, ..message.clone() }).unwrap_err();
        }
        for place in 0..message.data_header.len() {
            let data_header = flip(&message.data_header, place);
            Response::decode(FlightData { data_header, ..message.clone() }).unwrap_err();
        }
        for place in 0..message.data_body.len() {
            let data_body = flip(&message.data_body, place);
            Response::decode(FlightData { data_body, ..message.clone() }).unwrap_err();
        }
        let request =
            encode_request(Request::Credit(proto::FetchCredit { slot: 1, bytes: 1 << 20 }));
        assert!(decode_request(request.clone()).is_ok());
        for place in 0..request.app_metadata.len() {
            let app_metadata = flip(&request.app_metadata, place);
            decode_request(FlightData { app_metadata, ..request.clone() }).unwrap_err();
        }
    }
}
