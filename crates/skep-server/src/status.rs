//! Errors as gRPC statuses: the code for any client, the whole error in the details for ours.

use prost::Message;
use skep_engine::Error;
use skep_proto::ErrorCode;
use skep_proto::cluster::ErrorReport;
use tonic::{Code, Status};

/// A status travels in HTTP headers, of which clients take 16 KiB by default. Bytes of the text that
/// every client shows, each of which may become three.
const TEXT_BYTES: usize = 1 << 10;

/// Bytes of text and of hint that our client shows.
const REPORT_MESSAGE_BYTES: usize = 5 << 10;
const REPORT_HINT_BYTES: usize = 1 << 10;

/// Makes a status of an engine's error; nothing is lost but the end of a very long text.
pub(crate) fn status_of(error: &Error) -> Status {
    let position = error.position();
    status(ErrorReport {
        code: error.code().grpc_status(),
        message: error.to_string(),
        line: position.map_or(0, |position| position.line),
        column: position.map_or(0, |position| position.column),
        hint: error.hint().map(str::to_owned),
        is_retryable: error.is_retryable(),
        query: 0,
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
    Status::with_details(code, text, report.encode_to_vec().into())
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

    #[test]
    fn an_error_keeps_its_place_and_hint() {
        let error = Error::NotFound {
            kind: "table",
            name: "orderz".to_owned(),
            position: Some(Position { line: 3, column: 7 }),
            hint: Some("did you mean \"orders\"?".to_owned()),
        };
        let status = status_of(&error);
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "table \"orderz\" not found");
        let report = ErrorReport::decode(status.details()).unwrap();
        assert_eq!((report.line, report.column), (3, 7));
        assert_eq!(report.hint.as_deref(), Some("did you mean \"orders\"?"));
        assert!(!report.is_retryable);
    }

    #[test]
    fn what_a_user_did_wrong_is_never_internal() {
        let plan = Error::Plan { message: "no".to_owned(), position: None, hint: None };
        let data = Error::Data { message: "divided by zero".to_owned(), hint: None };
        for error in [plan, data] {
            assert_eq!(status_of(&error).code(), Code::InvalidArgument);
        }
        assert_eq!(status_of(&Error::Cancelled).code(), Code::Cancelled);
    }

    #[test]
    fn a_long_text_fits_into_headers() {
        let message = "蜂".repeat(100_000);
        let error = Error::Plan { message: message.clone(), position: None, hint: Some(message) };
        let status = status_of(&error);
        let headers = 3 * status.message().len() + status.details().len() * 4 / 3;
        assert!(headers < 15 << 10, "{headers}");
        assert!(status.message().ends_with("蜂 ..."));
        assert_eq!(
            Code::from_i32(ErrorReport::decode(status.details()).unwrap().code),
            status.code()
        );
    }
}
