//! Errors as gRPC statuses: the code for any client, the whole error in the details for ours.

use std::collections::HashMap;

use prost::Message;
use skep_cluster::ids::QueryId;
use skep_engine::Error;
use skep_proto::ErrorCode;
use skep_proto::client::{Detail, Details, ErrorInfo};
use skep_proto::cluster::ErrorReport;
use tonic::{Code, Status};

/// A status travels in HTTP headers, of which clients take 16 KiB by default. Bytes of the text that
/// every client shows, each of which may become three.
const TEXT_BYTES: usize = 1 << 10;

/// Bytes of text and of hint that our client shows.
const REPORT_MESSAGE_BYTES: usize = 4 << 10;
const REPORT_HINT_BYTES: usize = 1 << 9;

/// Under which our client finds the whole error among the details.
const REPORT_TYPE: &str = "type.googleapis.com/skep.cluster.v1.ErrorReport";

/// Under which other clients know what the details say.
const INFO_TYPE: &str = "type.googleapis.com/google.rpc.ErrorInfo";

/// Makes a status of the error of a query, 0 for none; nothing is lost but the end of a very long
/// text.
pub(crate) fn status_of_query(error: &Error, query: u64) -> Status {
    let position = error.position();
    status(ErrorReport {
        code: error.code().grpc_status(),
        message: error.to_string(),
        line: position.map_or(0, |position| position.line),
        column: position.map_or(0, |position| position.column),
        hint: error.hint().map(str::to_owned),
        is_retryable: error.is_retryable(),
        query,
    })
}

/// Makes a status of something that the server itself has to say.
pub(crate) fn refuse(code: ErrorCode, message: impl Into<String>, hint: &str) -> Status {
    status(ErrorReport {
        code: code.grpc_status(),
        message: message.into(),
        line: 0,
        column: 0,
        hint: Some(hint.to_owned()),
        is_retryable: code == ErrorCode::Unavailable,
        query: 0,
    })
}

fn status(mut report: ErrorReport) -> Status {
    let code = Code::from_i32(report.code);
    let mut text = report.message.clone();
    truncate(&mut text, TEXT_BYTES);
    truncate(&mut report.message, REPORT_MESSAGE_BYTES);
    if let Some(hint) = &mut report.hint {
        truncate(hint, REPORT_HINT_BYTES);
    }
    let detail = |type_url: &str, value: Vec<u8>| Detail {
        type_url: type_url.to_owned(),
        value: value.into(),
    };
    let details = Details {
        code: report.code,
        message: text.clone(),
        details: vec![
            detail(REPORT_TYPE, report.encode_to_vec()),
            detail(INFO_TYPE, info(&report).encode_to_vec()),
        ],
    };
    Status::with_details(code, text, details.encode_to_vec().into())
}

/// Says for clients that know nothing of us where an error is, and what to do.
fn info(report: &ErrorReport) -> ErrorInfo {
    let reason = ErrorCode::from_grpc_status(report.code).map_or("unknown", ErrorCode::as_str);
    let mut metadata = HashMap::new();
    if report.line > 0 {
        let position = format!("line {}, column {}", report.line, report.column);
        metadata.insert("position".to_owned(), position);
    }
    if let Some(hint) = &report.hint {
        metadata.insert("hint".to_owned(), hint.clone());
    }
    if report.query > 0 {
        metadata.insert("query".to_owned(), QueryId(report.query).to_string());
    }
    ErrorInfo { reason: reason.to_uppercase(), domain: "skep".to_owned(), metadata }
}

/// Cuts a text to about so many bytes, between characters.
fn truncate(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.push_str(" ...");
    }
}

#[cfg(test)]
mod tests {
    use skep_engine::Position;

    use super::*;

    /// Reads the details as any client does: they have the status's own code, and parts by type.
    fn details(status: &Status) -> (ErrorReport, ErrorInfo) {
        let details = Details::decode(status.details()).unwrap();
        assert_eq!(Code::from_i32(details.code), status.code());
        let part = |name: &str| {
            let part = details.details.iter().find(|part| part.type_url.ends_with(name));
            part.unwrap().value.clone()
        };
        let report = ErrorReport::decode(part("/skep.cluster.v1.ErrorReport")).unwrap();
        (report, ErrorInfo::decode(part("/google.rpc.ErrorInfo")).unwrap())
    }

    #[test]
    fn an_error_keeps_its_place_and_hint() {
        let error = Error::NotFound {
            kind: "table",
            name: "orderz".to_owned(),
            position: Some(Position { line: 3, column: 7 }),
            hint: Some("did you mean \"orders\"?".to_owned()),
        };
        let status = status_of_query(&error, 12);
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "table \"orderz\" not found");
        let (report, info) = details(&status);
        assert_eq!((report.line, report.column, report.query), (3, 7, 12));
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("NOT_FOUND", "skep"));
        assert_eq!(info.metadata["position"], "line 3, column 7");
        assert_eq!(info.metadata["hint"], "did you mean \"orders\"?");
        assert_eq!(info.metadata["query"], "q12");
        assert_eq!(report.hint.as_deref(), Some("did you mean \"orders\"?"));
        assert!(!report.is_retryable);
    }

    #[test]
    fn what_a_user_did_wrong_is_never_internal() {
        let plan = Error::Plan { message: "no".to_owned(), position: None, hint: None };
        let data = Error::Data { message: "divided by zero".to_owned(), hint: None };
        for error in [plan, data] {
            assert_eq!(status_of_query(&error, 0).code(), Code::InvalidArgument);
        }
        assert_eq!(status_of_query(&Error::Cancelled, 0).code(), Code::Cancelled);
    }

    #[test]
    fn a_long_text_fits_into_headers() {
        let message = "蜂".repeat(100_000);
        let error = Error::Plan { message: message.clone(), position: None, hint: Some(message) };
        let status = status_of_query(&error, u64::MAX);
        let headers = 3 * status.message().len() + status.details().len() * 4 / 3;
        assert!(headers < 15 << 10, "{headers}");
        assert!(status.message().ends_with("蜂 ..."));
        assert_eq!(Code::from_i32(details(&status).0.code), status.code());
    }
}
