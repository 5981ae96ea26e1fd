//! What the scheduler is told.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use skep_proto::ErrorCode;

use super::config::QuerySettings;
use super::graph::QueryGraph;
use crate::ids::{Attempt, Epoch, QueryId, TaskId};
use crate::membership::{Registration, WorkerLife, WorkerLoad};

/// Where a task runs and its output lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// In the coordinator's own process, which is never lost.
    Coordinator,
    /// On this life of a worker.
    Worker(WorkerLife),
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => f.write_str("coordinator"),
            Self::Worker(life) => life.fmt(f),
        }
    }
}

/// One try of one task. Its output has the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskAttempt {
    /// The task.
    pub task: TaskId,
    /// Which try.
    pub attempt: Attempt,
}

impl fmt::Display for TaskAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} attempt {}", self.task, self.attempt)
    }
}

/// What a finished task says of its sealed output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskOutput {
    /// Rows written.
    pub rows: u64,
    /// Bytes of each output partition, in order.
    pub bytes: Vec<u64>,
    /// Bytes read.
    pub input_bytes: u64,
    /// Bytes written to files on the way: by its operators, and of its output until that was sealed.
    pub spilled_bytes: u64,
    /// Of the bytes read, those that came from other sites.
    pub remote_bytes: u64,
    /// If it is a partition of a cached table, what there is to know of it. For the keeper of such
    /// tables; it means nothing to the scheduler.
    pub cached: Option<Box<CachedReport>>,
}

/// A partition of a cached table that a task made, or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedReport {
    /// How stores call the table.
    pub table: Arc<str>,
    /// Which content of it.
    pub epoch: Epoch,
    /// The partition.
    pub partition: usize,
    /// Whether it is kept for later queries, too.
    pub is_kept: bool,
    /// What is known of it, as the engine writes it.
    pub summary: Bytes,
    /// Bytes that it takes in memory.
    pub memory_bytes: u64,
    /// Bytes that it takes in files.
    pub disk_bytes: u64,
    /// Its rows.
    pub rows: u64,
}

impl CachedReport {
    /// Returns which partition it is of.
    pub fn key(&self) -> CachedKey {
        let Self { table, epoch, partition, .. } = self;
        CachedKey { table: Arc::clone(table), epoch: *epoch, partition: *partition }
    }
}

/// How a fetch went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchFault {
    /// The worker could not be reached, or the connection broke: held against the worker.
    Refused,
    /// The worker answered and has not got the partition, or has it damaged: that partition alone
    /// is made again.
    Missing,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskFailure {
    /// The query's own fault: division by zero, a bad cast. Trying again would not help.
    Query {
        /// Its class.
        code: ErrorCode,
        /// Its text.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// Memory ran out. Not retried: it would run out elsewhere.
    OutOfMemory {
        /// Its text.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The task panicked: a defect, met again wherever it runs. Says nothing about the worker.
    Panic {
        /// Its text.
        message: String,
    },
    /// An input could not be read.
    Fetch {
        /// Which output.
        producer: TaskAttempt,
        /// Where it was to be.
        site: Site,
        /// How it failed.
        fault: FetchFault,
        /// What else the task reads and would not have found there: partitions of cached tables that
        /// the site has let go of.
        also_missing: Vec<TaskAttempt>,
        /// Its text.
        message: String,
    },
    /// Something of the worker's own: a full disk, a plan that did not arrive. Retried elsewhere.
    WorkerFault {
        /// Its text.
        message: String,
    },
}

impl fmt::Display for TaskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query { message, .. } | Self::OutOfMemory { message, .. } => f.write_str(message),
            Self::Panic { message } => write!(f, "panic: {message}"),
            Self::Fetch { producer, site, message, .. } => {
                write!(f, "cannot read {producer} from {site}: {message}")
            }
            Self::WorkerFault { message } => write!(f, "worker fault: {message}"),
        }
    }
}

/// What a worker still holds, said when it reconnects as the same life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Attempts still running.
    pub running: Vec<TaskAttempt>,
    /// Sealed outputs.
    pub sealed: Vec<(TaskAttempt, TaskOutput)>,
    /// Every query it holds anything of, be it only a plan.
    pub queries: Vec<QueryId>,
    /// Partitions of cached tables. What is known of them may be left out.
    pub cached: Vec<CachedReport>,
}

/// A partition of one content of a cached table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CachedKey {
    /// How stores call the table.
    pub table: Arc<str>,
    /// Which content of it.
    pub epoch: Epoch,
    /// The partition.
    pub partition: usize,
}

/// What a worker says again and again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// What it is busy with.
    pub load: WorkerLoad,
    /// Running attempts that have fetched all that they read from other sites: they can do without
    /// those from now on.
    pub has_inputs: Vec<TaskAttempt>,
    /// By content, what its partitions of cached tables take. For people.
    pub cached: Vec<CachedUsage>,
}

/// What the partitions of a content of a cached table take at a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedUsage {
    /// How stores call the table.
    pub table: Arc<str>,
    /// Which content of it.
    pub epoch: Epoch,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Bytes in files.
    pub disk_bytes: u64,
}

/// Why a query is not wanted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelCause {
    /// Whoever asked for it has left or given up.
    Unwanted,
    /// Its time is up, by the clock of whoever asked.
    Late,
}

/// What happened.
///
/// Every launched attempt owes one last word: finished, failed or stopped, also after it was
/// cancelled or its query dropped. Its slot is taken until then, or until its worker is lost.
#[derive(Debug, Clone)]
pub enum Event {
    /// A client wants a query run.
    Submit {
        /// Its name, never used before.
        query: QueryId,
        /// Its stages.
        graph: QueryGraph,
        /// What it asks.
        settings: QuerySettings,
    },
    /// A query is not wanted any more: client gone, Ctrl-C, KILL, too late.
    Cancel {
        /// The query.
        query: QueryId,
        /// Why.
        cause: CancelCause,
    },
    /// A worker opened its control stream.
    WorkerJoined {
        /// Who it is.
        registration: Registration,
        /// What it holds, if it was here before.
        holdings: Holdings,
    },
    /// The control stream of a worker closed.
    WorkerDisconnected {
        /// The worker.
        life: WorkerLife,
    },
    /// A worker said goodbye, or its process was seen to end.
    WorkerLeft {
        /// The worker.
        life: WorkerLife,
    },
    /// A worker lives.
    Heartbeat {
        /// The worker.
        life: WorkerLife,
        /// What it says.
        beat: Heartbeat,
    },
    /// An attempt finished and its output is sealed.
    TaskFinished {
        /// Where.
        site: Site,
        /// Which.
        attempt: TaskAttempt,
        /// What it made.
        output: TaskOutput,
    },
    /// An attempt failed.
    TaskFailed {
        /// Where.
        site: Site,
        /// Which.
        attempt: TaskAttempt,
        /// Why.
        failure: TaskFailure,
    },
    /// An attempt ended because it was told to.
    TaskStopped {
        /// Where.
        site: Site,
        /// Which.
        attempt: TaskAttempt,
    },
    /// Rows of a result partition have left the coordinator.
    ResultDelivered {
        /// Of which result partition and attempt.
        result: TaskAttempt,
        /// How many of the partition in all, so far.
        rows: u64,
    },
    /// A result partition has been read to its end; of whichever attempt.
    ResultFetched {
        /// Which, and of which attempt.
        result: TaskAttempt,
    },
    /// A result partition could not be read.
    ResultFetchFailed {
        /// Which output.
        result: TaskAttempt,
        /// How it failed.
        fault: FetchFault,
        /// Its text.
        message: String,
    },
    /// The client wants no more rows; the query is done.
    ResultEnough {
        /// The query.
        query: QueryId,
    },
    /// Time has passed.
    Tick,
}
