//! The one error type of the client.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use arrow_flight::error::FlightError;
use prost::Message;
use skep_proto::ErrorCode;
use skep_proto::client::Details;
use skep_proto::cluster::ErrorReport;
use tonic::Status;

use crate::address::Address;

/// Under which the coordinator's whole error is found among the details of a status.
const REPORT_TYPE: &str = "/skep.cluster.v1.ErrorReport";

/// Shorthand for the client's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A place in the text of a statement, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line of the statement's text, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
}

/// What went wrong, at the coordinator or on the way there.
///
/// The text is a lowercase fragment; advice is in [`Error::hint`], the place in
/// [`Error::position`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    code: ErrorCode,
    message: String,
    position: Option<Position>,
    hint: Option<String>,
    is_retryable: bool,
    query: Option<String>,
}

impl Error {
    /// Returns what kind of failure this is.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// Returns what is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the place in the statement's text, if one is known.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Returns advice on what to do, if there is any.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Returns whether the same request may succeed when tried again, with nothing else changed.
    pub fn is_retryable(&self) -> bool {
        self.is_retryable
    }

    /// Returns the query in which it arose, as `system.queries` names it, if it arose in one.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    fn new(code: ErrorCode, message: impl Into<String>, hint: &str) -> Self {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        let is_retryable = code == ErrorCode::Unavailable;
        Self { code, message: message.into(), position: None, hint, is_retryable, query: None }
    }

    /// Makes the error of a request that is wrong by itself.
    pub(crate) fn invalid(message: String, hint: &str) -> Self {
        Self::new(ErrorCode::InvalidArgument, message, hint)
    }

    /// Makes the error of a coordinator that could not be reached.
    pub(crate) fn unreachable(address: &Address, error: &tonic::transport::Error) -> Self {
        let (cause, hint) = cause(error);
        let message = format!("cannot connect to {address}: {cause}");
        Self::new(ErrorCode::Unavailable, message, hint)
    }

    /// Makes the error of authorities that are none.
    pub(crate) fn unusable_authority(address: &Address, error: &tonic::transport::Error) -> Self {
        let (cause, _) = cause(error);
        let message = format!("cannot connect to {address}: {cause}");
        let hint = "name the certificate of the coordinator's authority, in PEM: --tls-ca FILE";
        Self::new(ErrorCode::InvalidArgument, message, hint)
    }

    /// Makes the error of a coordinator that took too long.
    pub(crate) fn silent(address: &Address, seconds: u64) -> Self {
        let message = format!("cannot connect to {address}: no answer within {seconds} s");
        Self::new(ErrorCode::Unavailable, message, "does a coordinator of skep listen there?")
    }

    /// Makes the error of something that answers, but not as a coordinator does.
    pub(crate) fn protocol(address: &Address, message: impl fmt::Display) -> Self {
        let message = format!("{address} answers in an unexpected way: {message}");
        Self::new(
            ErrorCode::Internal,
            message,
            "is this the gRPC address of a coordinator of skep?",
        )
    }

    /// Reads what a call came back with.
    pub(crate) fn from_status(address: &Address, status: &Status) -> Self {
        if let Some(error) = Self::from_details(status.details()) {
            return error;
        }
        // Nothing of skep has said this: the connection, or whatever listens there.
        let is_broken = status.source().is_some();
        match ErrorCode::from_grpc_status(status.code().into()) {
            // Something answers HTTP, and knows no such path.
            Some(ErrorCode::Unimplemented) if !is_broken => {
                Self::protocol(address, status.message())
            }
            Some(code) if !is_broken => Self::new(code, status.message(), ""),
            _ if is_broken => {
                let (cause, hint) = cause(status);
                let message = format!("lost the connection to {address}: {cause}");
                Self::new(ErrorCode::Unavailable, message, hint)
            }
            _ => Self::protocol(address, status.message()),
        }
    }

    /// Reads what a stream of batches came back with.
    pub(crate) fn from_flight(address: &Address, error: FlightError) -> Self {
        match error {
            FlightError::Tonic(status) => Self::from_status(address, &status),
            other => Self::protocol(address, other),
        }
    }

    fn from_details(details: &[u8]) -> Option<Self> {
        if details.is_empty() {
            return None;
        }
        let details = Details::decode(details).ok()?.details;
        let report = details.iter().find(|detail| detail.type_url.ends_with(REPORT_TYPE))?;
        let ErrorReport { code, message, line, column, hint, is_retryable, query } =
            ErrorReport::decode(&*report.value).ok()?;
        Some(Self {
            code: ErrorCode::from_grpc_status(code)?,
            message,
            position: (line > 0 && column > 0).then_some(Position { line, column }),
            hint,
            is_retryable,
            query: (query > 0).then(|| format!("q{query}")),
        })
    }
}

/// Returns what lies at the bottom of an error of the connection, and what to do about it.
fn cause(error: &(dyn StdError + 'static)) -> (String, &'static str) {
    const NOBODY: &str = "nobody listens there: start a coordinator, or a whole cluster with: skep cluster --workers 2";
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let Some(system) = deepest.downcast_ref::<io::Error>() else {
        const OTHER: &str = "does a coordinator of skep listen there? \
                             One with TLS is at grpc+tls://HOST:PORT";
        return (deepest.to_string(), OTHER);
    };
    match system.kind() {
        io::ErrorKind::ConnectionRefused => ("connection refused".to_owned(), NOBODY),
        io::ErrorKind::TimedOut => {
            ("no answer".to_owned(), "does a coordinator of skep listen there?")
        }
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionAborted => {
            const ENDED: &str =
                "has the coordinator ended, or does it want TLS, as in grpc+tls://HOST:PORT?";
            ("the other side closed it".to_owned(), ENDED)
        }
        io::ErrorKind::InvalidData => (
            system.to_string(),
            "does it speak TLS, and is the authority of its certificate known (--tls-ca FILE)?",
        ),
        _ => (system.to_string(), "does a coordinator of skep listen there?"),
    }
}

#[cfg(test)]
mod tests {
    use skep_proto::client::Detail;
    use tonic::Code;

    use super::*;

    fn address() -> Address {
        Address::parse("grpc://h:1").unwrap()
    }

    #[test]
    fn an_error_of_the_coordinator_comes_whole() {
        let report = ErrorReport {
            code: 5,
            message: "table \"t\" not found".to_owned(),
            line: 2,
            column: 15,
            hint: Some("did you mean \"s\"?".to_owned()),
            is_retryable: false,
            query: 12,
        };
        let detail = |type_url: &str, value: Vec<u8>| Detail {
            type_url: type_url.to_owned(),
            value: value.into(),
        };
        let details = Details {
            code: 5,
            message: "cut".to_owned(),
            details: vec![
                detail("type.googleapis.com/google.rpc.ErrorInfo", vec![1, 2, 3]),
                detail("type.googleapis.com/skep.cluster.v1.ErrorReport", report.encode_to_vec()),
            ],
        };
        let status = Status::with_details(Code::NotFound, "cut", details.encode_to_vec().into());
        let error = Error::from_status(&address(), &status);
        assert_eq!(error.code(), ErrorCode::NotFound);
        assert_eq!(error.to_string(), "table \"t\" not found");
        assert_eq!(error.position(), Some(Position { line: 2, column: 15 }));
        assert_eq!(error.hint(), Some("did you mean \"s\"?"));
        assert!(!error.is_retryable());
        assert_eq!(error.query(), Some("q12"));
    }

    #[test]
    fn another_servers_error_keeps_its_code_and_text() {
        let error = Error::from_status(&address(), &Status::permission_denied("go away"));
        assert_eq!((error.code(), error.message()), (ErrorCode::PermissionDenied, "go away"));
        let error = Error::from_status(&address(), &Status::data_loss("oh"));
        assert_eq!(error.message(), "grpc://h:1 answers in an unexpected way: oh");
    }

    #[test]
    fn a_broken_connection_names_the_address() {
        let broken = io::Error::from(io::ErrorKind::ConnectionReset);
        let error = Error::from_status(&address(), &Status::from_error(Box::new(broken)));
        assert_eq!(error.message(), "lost the connection to grpc://h:1: the other side closed it");
        assert!(error.is_retryable());
    }
}
