//! Why an attempt failed, on the wire.

use proto::task_failure::Kind;
use skep_proto::ErrorCode;
use skep_proto::cluster as proto;

use super::identity::{
    decode_attempt, decode_attempts, decode_site, encode_attempt, encode_site, required,
};
use crate::error::{Error, Result};
use crate::scheduler::{FetchFault, TaskFailure};

/// Bytes of a text that travel; what a person reads fits many times over.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// Returns a failure as it travels. A text beyond all reading is cut, and says so.
pub fn encode_failure(failure: TaskFailure) -> proto::TaskFailure {
    match failure {
        TaskFailure::Query { code, message, hint } => told(Kind::Query, code, &message, hint),
        TaskFailure::OutOfMemory { message, hint } => {
            told(Kind::OutOfMemory, ErrorCode::ResourceExhausted, &message, hint)
        }
        TaskFailure::Panic { message } => told(Kind::Panic, ErrorCode::Internal, &message, None),
        TaskFailure::WorkerFault { message } => {
            told(Kind::Worker, ErrorCode::Unavailable, &message, None)
        }
        TaskFailure::Fetch { producer, site, fault, also_missing, message } => {
            let (kind, code) = match fault {
                FetchFault::Refused => (Kind::FetchRefused, ErrorCode::Unavailable),
                FetchFault::Missing => (Kind::FetchMissing, ErrorCode::NotFound),
            };
            proto::TaskFailure {
                producer: Some(encode_attempt(producer)),
                site: Some(encode_site(site)),
                also_missing: also_missing.into_iter().map(encode_attempt).collect(),
                ..told(kind, code, &message, None)
            }
        }
    }
}

fn told(kind: Kind, code: ErrorCode, message: &str, hint: Option<String>) -> proto::TaskFailure {
    let is_retryable = matches!(kind, Kind::FetchRefused | Kind::FetchMissing | Kind::Worker);
    let hint = hint.map(|hint| bounded(&hint));
    let error = error_report(code, message, hint, is_retryable);
    proto::TaskFailure { kind: kind.into(), error: Some(error), ..Default::default() }
}

/// Returns an error that has no place in a statement, as it travels.
pub(super) fn error_report(
    code: ErrorCode,
    message: &str,
    hint: Option<String>,
    is_retryable: bool,
) -> proto::ErrorReport {
    let message = bounded(message);
    proto::ErrorReport {
        code: code.grpc_status(),
        message,
        hint,
        is_retryable,
        ..Default::default()
    }
}

fn bounded(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    let kept = &text[..text.floor_char_boundary(MAX_TEXT_BYTES)];
    format!("{kept}... ({} bytes in all)", text.len())
}

/// Returns a failure that arrived.
///
/// # Errors
/// [`Error::MalformedMessage`] if its kind or code is unknown, or a part that its kind needs is
/// missing.
pub fn decode_failure(failure: proto::TaskFailure) -> Result<TaskFailure> {
    let proto::TaskFailure { kind, error, producer, site, also_missing } = failure;
    let kind = Kind::try_from(kind)
        .map_err(|error| Error::malformed("TaskFailure.kind", error.to_string()))?;
    let proto::ErrorReport { code, message, hint, .. } = required(error, "TaskFailure.error")?;
    let fault = match kind {
        Kind::Query => {
            let code = ErrorCode::from_grpc_status(code).ok_or_else(|| {
                Error::malformed("ErrorReport.code", format!("has the unknown value {code}"))
            })?;
            return Ok(TaskFailure::Query { code, message, hint });
        }
        Kind::OutOfMemory => return Ok(TaskFailure::OutOfMemory { message, hint }),
        Kind::Panic => return Ok(TaskFailure::Panic { message }),
        Kind::Worker => return Ok(TaskFailure::WorkerFault { message }),
        Kind::FetchRefused => FetchFault::Refused,
        Kind::FetchMissing => FetchFault::Missing,
    };
    let producer = decode_attempt(producer, "TaskFailure.producer")?;
    let site = decode_site(required(site, "TaskFailure.site")?);
    let also_missing = decode_attempts(also_missing, "TaskFailure.also_missing")?;
    Ok(TaskFailure::Fetch { producer, site, fault, also_missing, message })
}
