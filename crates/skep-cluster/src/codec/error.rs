//! Errors and failures as messages, and back.
//!
//! An error that comes from another process is [`skep_engine::Error::Remote`]: its code, text, place,
//! hint and whether to try again are those that it had there, however many processes it passed.

use skep_engine::{Error, Position};
use skep_proto::{ErrorCode, cluster as wire};

use crate::ids::{Attempt, Incarnation, QueryId, StageId, TaskId, WorkerId};
use crate::membership::WorkerLife;
use crate::scheduler::{FetchFault, QueryFailure, Site, TaskAttempt, TaskFailure};

/// Writes an error, with the query in which it arose.
pub fn report_from_error(error: &Error, query: Option<QueryId>) -> wire::ErrorReport {
    let position = error.position();
    wire::ErrorReport {
        code: error.code().grpc_status(),
        message: error.to_string(),
        line: position.map_or(0, |position| position.line),
        column: position.map_or(0, |position| position.column),
        hint: error.hint().map(str::to_owned),
        is_retryable: error.is_retryable(),
        query: query.map_or(0, |query| query.0),
    }
}

/// Reads an error; a code that nobody knows is [`ErrorCode::Internal`].
pub fn report_to_error(report: wire::ErrorReport) -> Error {
    let wire::ErrorReport { code, message, line, column, hint, is_retryable, query: _ } = report;
    Error::Remote {
        code: ErrorCode::from_grpc_status(code).unwrap_or(ErrorCode::Internal),
        message,
        position: (line > 0).then_some(Position { line, column }),
        hint,
        is_retryable,
    }
}

/// Turns the failure of a query into the error that its user sees.
pub fn error_from_failure(failure: QueryFailure) -> Error {
    Error::Remote {
        code: failure.kind.code(),
        is_retryable: failure.kind.is_retryable(),
        message: failure.message,
        position: None,
        hint: failure.hint,
    }
}

/// Writes the failure of a task.
pub fn failure_to_wire(failure: &TaskFailure) -> wire::TaskFailure {
    use wire::task_failure::Kind;
    let report = |code: ErrorCode, message: &str, hint: Option<&String>, is_retryable| {
        let (message, hint) = (message.to_owned(), hint.cloned());
        Some(wire::ErrorReport {
            code: code.grpc_status(),
            message,
            hint,
            is_retryable,
            ..Default::default()
        })
    };
    let (kind, error, fetch) = match failure {
        TaskFailure::Query { code, message, hint } => {
            (Kind::Query, report(*code, message, hint.as_ref(), false), None)
        }
        TaskFailure::OutOfMemory { message, hint } => {
            let code = ErrorCode::ResourceExhausted;
            (Kind::OutOfMemory, report(code, message, hint.as_ref(), false), None)
        }
        TaskFailure::Panic { message } => {
            (Kind::Panic, report(ErrorCode::Internal, message, None, false), None)
        }
        TaskFailure::Fetch { producer, site, fault, message } => {
            let kind = match fault {
                FetchFault::Refused => Kind::FetchRefused,
                FetchFault::Missing => Kind::FetchMissing,
            };
            let error = report(ErrorCode::Unavailable, message, None, true);
            (kind, error, Some((producer, site)))
        }
        TaskFailure::WorkerFault { message } => {
            (Kind::Worker, report(ErrorCode::Unavailable, message, None, true), None)
        }
    };
    wire::TaskFailure {
        kind: kind.into(),
        error,
        producer: fetch.map(|(producer, _)| attempt_to_wire(*producer)),
        site: fetch.map(|(_, site)| site_to_wire(*site)),
    }
}

/// Reads the failure of a task; `None` for a message that is none, as of another version.
pub fn failure_from_wire(failure: wire::TaskFailure) -> Option<TaskFailure> {
    use wire::task_failure::Kind;
    let kind = Kind::try_from(failure.kind).ok()?;
    let wire::ErrorReport { code, message, hint, .. } = failure.error?;
    let fetch = |fault, message| {
        let producer = attempt_from_wire(failure.producer?)?;
        let site = site_from_wire(failure.site?);
        Some(TaskFailure::Fetch { producer, site, fault, message })
    };
    match kind {
        Kind::Query => {
            let code = ErrorCode::from_grpc_status(code)?;
            Some(TaskFailure::Query { code, message, hint })
        }
        Kind::OutOfMemory => Some(TaskFailure::OutOfMemory { message, hint }),
        Kind::Panic => Some(TaskFailure::Panic { message }),
        Kind::FetchRefused => fetch(FetchFault::Refused, message),
        Kind::FetchMissing => fetch(FetchFault::Missing, message),
        Kind::Worker => Some(TaskFailure::WorkerFault { message }),
    }
}

/// Writes the name of an attempt.
pub fn attempt_to_wire(attempt: TaskAttempt) -> wire::TaskAttempt {
    let TaskAttempt { task: TaskId { query, stage, partition }, attempt } = attempt;
    let partition = super::encoder::wide(partition);
    wire::TaskAttempt { query: query.0, stage: stage.0, partition, attempt: attempt.0 }
}

/// Reads the name of an attempt; `None` for a partition that this machine cannot count to.
pub fn attempt_from_wire(attempt: wire::TaskAttempt) -> Option<TaskAttempt> {
    let partition = usize::try_from(attempt.partition).ok()?;
    let task = TaskId { query: QueryId(attempt.query), stage: StageId(attempt.stage), partition };
    Some(TaskAttempt { task, attempt: Attempt(attempt.attempt) })
}

/// Writes where something is.
pub fn site_to_wire(site: Site) -> wire::Site {
    let life = match site {
        Site::Coordinator => None,
        Site::Worker(WorkerLife { worker, incarnation }) => {
            Some(wire::WorkerLife { worker: worker.0, incarnation: incarnation.0 })
        }
    };
    wire::Site { life }
}

/// Reads where something is.
pub fn site_from_wire(site: wire::Site) -> Site {
    match site.life {
        None => Site::Coordinator,
        Some(wire::WorkerLife { worker, incarnation }) => Site::Worker(WorkerLife {
            worker: WorkerId(worker),
            incarnation: Incarnation(incarnation),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use super::*;
    use crate::scheduler::FailureKind;

    fn hint() -> Option<String> {
        Some("do that".to_owned())
    }

    fn errors() -> Vec<Error> {
        let message = || "what".to_owned();
        let position = Some(Position { line: 3, column: 14 });
        vec![
            Error::Syntax { message: message(), position, hint: hint() },
            Error::NotFound { kind: "table", name: message(), position, hint: None },
            Error::AlreadyExists { kind: "view", name: message() },
            Error::File {
                path: "s3://b/x".to_owned(),
                format: Some("csv".to_owned()),
                message: message(),
                missing: true,
                hint: hint(),
            },
            Error::InvalidOption { option: "o".to_owned(), message: message(), hint: hint() },
            Error::InvalidSetting { name: "n".to_owned(), message: message(), hint: None },
            Error::Unsupported { what: message(), hint: hint() },
            Error::Plan { message: message(), position: None, hint: hint() },
            Error::Data { message: message(), hint: hint() },
            Error::ResourcesExhausted { message: message(), hint: hint() },
            Error::PermissionDenied { message: message(), hint: None },
            Error::Cancelled,
            Error::Io {
                action: "read",
                path: PathBuf::from("/x"),
                source: io::Error::new(io::ErrorKind::StorageFull, "full"),
            },
            Error::Unavailable { location: "s3://b".to_owned(), message: message(), hint: None },
            Error::Remote {
                code: ErrorCode::Unauthenticated,
                message: message(),
                position,
                hint: hint(),
                is_retryable: true,
            },
            Error::Internal { message: message(), source: None },
        ]
    }

    #[test]
    fn every_error_keeps_what_is_to_be_seen_of_it_over_two_hops() {
        for error in errors() {
            let first = report_from_error(&error, Some(QueryId(7)));
            let there = report_to_error(first.clone());
            let second = report_from_error(&there, Some(QueryId(7)));
            assert_eq!(first, second);
            let here = report_to_error(second);
            assert_eq!(here.to_string(), error.to_string());
            assert_eq!(here.code(), error.code(), "{error}");
            assert_eq!(here.position(), error.position(), "{error}");
            assert_eq!(here.hint(), error.hint(), "{error}");
            assert_eq!(here.is_retryable(), error.is_retryable(), "{error}");
        }
        let strange = wire::ErrorReport { code: 99, ..Default::default() };
        assert_eq!(report_to_error(strange).code(), ErrorCode::Internal);
    }

    #[test]
    fn every_failure_of_a_task_is_read_as_it_was_written() {
        let message = || "what".to_owned();
        let task = TaskId { query: QueryId(1), stage: StageId(2), partition: 3 };
        let producer = TaskAttempt { task, attempt: Attempt(4) };
        let life = WorkerLife { worker: WorkerId(5), incarnation: Incarnation(6) };
        let failures = [
            TaskFailure::Query {
                code: ErrorCode::InvalidArgument,
                message: message(),
                hint: hint(),
            },
            TaskFailure::OutOfMemory { message: message(), hint: hint() },
            TaskFailure::Panic { message: message() },
            TaskFailure::Fetch {
                producer,
                site: Site::Worker(life),
                fault: FetchFault::Refused,
                message: message(),
            },
            TaskFailure::Fetch {
                producer,
                site: Site::Coordinator,
                fault: FetchFault::Missing,
                message: message(),
            },
            TaskFailure::WorkerFault { message: message() },
        ];
        for failure in failures {
            assert_eq!(failure_from_wire(failure_to_wire(&failure)), Some(failure));
        }
        assert_eq!(failure_from_wire(wire::TaskFailure::default()), None);
        let mut fetch = failure_to_wire(&TaskFailure::WorkerFault { message: message() });
        fetch.kind = wire::task_failure::Kind::FetchMissing.into();
        assert_eq!(failure_from_wire(fetch), None, "a fetch of nothing");
    }

    #[test]
    fn a_query_s_failure_is_its_error() {
        let failure = QueryFailure {
            kind: FailureKind::NoWorker,
            message: "there is no worker".to_owned(),
            hint: hint(),
            attempt: None,
            site: None,
        };
        let error = error_from_failure(failure);
        assert_eq!(error.code(), ErrorCode::Unavailable);
        assert!(error.is_retryable());
        assert_eq!(
            (error.to_string().as_str(), error.hint()),
            ("there is no worker", Some("do that"))
        );
    }
}
