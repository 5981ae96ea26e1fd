//! A query's failure as the engine's error.

use skep_engine::Error;

use crate::scheduler::{FailureKind, QueryFailure};

/// Returns what the session that asked is told.
pub(super) fn failure_error(failure: QueryFailure) -> Error {
    let QueryFailure { kind, message, hint, .. } = failure;
    let message = match kind {
        FailureKind::Cancelled => return Error::Cancelled,
        // As the same panic reads when the query runs in one process.
        FailureKind::Panic => format!("internal error: a {message}"),
        _ => message,
    };
    let hint = hint.or_else(|| hint_for(kind).map(str::to_owned));
    let is_retryable = kind.is_retryable();
    Error::Remote { code: kind.code(), message, position: None, hint, is_retryable }
}

fn hint_for(kind: FailureKind) -> Option<&'static str> {
    match kind {
        FailureKind::NoWorker => Some(
            "start one with `skep worker --coordinator grpc://HOST:PORT`, or look at system.workers",
        ),
        FailureKind::QueueFull => Some("try again when some have ended; system.queries lists them"),
        FailureKind::Attempts => Some("system.tasks says what became of each attempt"),
        FailureKind::ResultLost => Some("run the statement again"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use skep_proto::ErrorCode;

    use super::*;

    fn failure(kind: FailureKind) -> QueryFailure {
        QueryFailure {
            kind,
            message: "panic: oops".to_owned(),
            hint: None,
            attempt: None,
            site: None,
        }
    }

    #[test]
    fn a_failure_keeps_its_code_and_says_what_to_do() {
        let error = failure_error(failure(FailureKind::NoWorker));
        assert_eq!(error.code(), ErrorCode::Unavailable);
        assert!(error.is_retryable());
        assert!(error.hint().is_some_and(|hint| hint.contains("skep worker")));
        let error = failure_error(failure(FailureKind::Panic));
        assert_eq!(error.to_string(), "internal error: a panic: oops");
        assert_eq!(error.code(), ErrorCode::Internal);
        assert!(matches!(failure_error(failure(FailureKind::Cancelled)), Error::Cancelled));
    }
}
