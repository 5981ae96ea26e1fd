//! What the scheduler wants done.

use std::fmt;

use skep_proto::ErrorCode;

use super::event::{CancelCause, Site, TaskAttempt};
use crate::ids::{QueryId, StageId};
use crate::membership::{LossReason, WorkerLife};

/// Where one input of a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The sealed output of a producer task.
    pub producer: TaskAttempt,
    /// Where it lives.
    pub site: Site,
    /// How many of its bytes this reader wants, as far as is known.
    pub bytes: u64,
}

/// One attempt to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Which.
    pub attempt: TaskAttempt,
    /// Its inputs: per producer stage, ascending by producer partition. A producer that was skipped
    /// for a row limit is missing, which means no rows.
    pub sources: Vec<Source>,
}

/// Something to be done. Those for one site are to be done in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a stage's plan, before its first task there.
    SendPlan {
        /// To whom.
        site: Site,
        /// The query.
        query: QueryId,
        /// The stage.
        stage: StageId,
    },
    /// Start tasks.
    LaunchTasks {
        /// Where.
        site: Site,
        /// Which.
        tasks: Vec<Launch>,
    },
    /// Stop running attempts and drop what they wrote.
    CancelTasks {
        /// Where.
        site: Site,
        /// Which.
        attempts: Vec<TaskAttempt>,
    },
    /// Drop sealed outputs.
    ReleasePartitions {
        /// Where.
        site: Site,
        /// Which.
        outputs: Vec<TaskAttempt>,
    },
    /// End the lease of a query: stop its attempts, drop its outputs and plans.
    DropQuery {
        /// Where.
        site: Site,
        /// The query.
        query: QueryId,
    },
    /// A result partition is being made. Its rows may be read as they come, by a reader who can go
    /// on from where it was with another attempt.
    ResultBegun {
        /// The result stage's task and attempt.
        result: TaskAttempt,
        /// Where it runs.
        site: Site,
    },
    /// A result partition can be read. If part of it was read before, the reader goes on after the
    /// rows it has already passed on; its own count is the one that matters.
    ResultReady {
        /// The result stage's task and attempt.
        result: TaskAttempt,
        /// Where it lives.
        site: Site,
        /// Its rows.
        rows: u64,
    },
    /// A result partition said to be made or ready is lost; stop reading it and wait for the next.
    ResultWithdrawn {
        /// The result stage's task and attempt.
        result: TaskAttempt,
    },
    /// The query cannot even wait. Retryable.
    QueryRejected {
        /// The query.
        query: QueryId,
        /// Why.
        failure: QueryFailure,
    },
    /// All of the result has been read, or enough of it.
    QueryFinished {
        /// The query.
        query: QueryId,
    },
    /// The query has failed, for its first cause.
    QueryFailed {
        /// The query.
        query: QueryId,
        /// Why.
        failure: QueryFailure,
    },
    /// A life is over: close its stream; nothing more will be addressed to it.
    WorkerLost {
        /// Whose.
        life: WorkerLife,
        /// Why.
        reason: LossReason,
    },
    /// Somebody spoke in the name of a life that is over: it must join as a new incarnation.
    RefuseWorker {
        /// Who.
        life: WorkerLife,
    },
}

/// The class of a query's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The query's own fault.
    Query(ErrorCode),
    /// Memory ran out.
    OutOfMemory,
    /// A task panicked.
    Panic,
    /// A task failed too often.
    Attempts,
    /// It was cancelled.
    Cancelled,
    /// It took too long.
    Deadline,
    /// There was no live worker for too long.
    NoWorker,
    /// Rows had left that could not be made again in the same order.
    ResultLost,
    /// Too many queries wait already.
    QueueFull,
    /// The id of the query is in use.
    Duplicate,
}

impl FailureKind {
    /// Returns the code that callers see.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Query(code) => code,
            Self::OutOfMemory | Self::QueueFull => ErrorCode::ResourceExhausted,
            Self::Panic | Self::Duplicate => ErrorCode::Internal,
            Self::Attempts | Self::NoWorker | Self::ResultLost => ErrorCode::Unavailable,
            Self::Cancelled => ErrorCode::Cancelled,
            Self::Deadline => ErrorCode::DeadlineExceeded,
        }
    }

    /// Returns whether the same query may do better later.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Attempts | Self::NoWorker | Self::ResultLost | Self::QueueFull => true,
            Self::Query(_) | Self::OutOfMemory | Self::Panic => false,
            Self::Cancelled | Self::Deadline | Self::Duplicate => false,
        }
    }
}

/// Why a query failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryFailure {
    /// Its class.
    pub kind: FailureKind,
    /// Its text.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The attempt that failed first, if it was one.
    pub attempt: Option<TaskAttempt>,
    /// Where that ran.
    pub site: Option<Site>,
}

impl QueryFailure {
    /// Returns what a query that is not wanted any more ends with.
    pub(crate) fn cancelled(cause: CancelCause) -> Self {
        match cause {
            CancelCause::Unwanted => Self::new(FailureKind::Cancelled, "query cancelled"),
            CancelCause::Late => Self::new(FailureKind::Deadline, "query took too long"),
        }
    }

    pub(super) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, attempt: None, site: None }
    }

    /// The failure of a query that would have to take rows back.
    pub(crate) fn rows_have_left() -> Self {
        let message = "rows that were lost cannot be made again as they were, and what was made \
                       of them has left";
        Self::new(FailureKind::ResultLost, message)
    }

    pub(super) fn of(mut self, attempt: TaskAttempt, site: Site) -> Self {
        self.attempt = Some(attempt);
        self.site = Some(site);
        self
    }
}

impl fmt::Display for QueryFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for QueryFailure {}
