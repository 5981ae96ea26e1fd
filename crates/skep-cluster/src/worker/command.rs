//! What a site is told, and what it answers.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::execution::TaskContext;

use crate::ids::{Epoch, QueryId, StageId};
use crate::scheduler::{Launch, Site, TaskAttempt, TaskFailure, TaskOutput};
use crate::stage_planner::Stage;

/// Something that a site is to do. They are performed in the order in which they come.
#[derive(Debug, Clone)]
pub enum Command {
    /// Takes note of where sites are; each was or will be named by a source of a launch.
    Peers(Vec<(Site, String)>),
    /// Takes note of what the tasks of a stage run.
    Plan {
        /// The query.
        query: QueryId,
        /// The stage.
        stage: StageId,
        /// What its tasks run.
        program: StageProgram,
    },
    /// Starts attempts.
    Launch(Vec<Launch>),
    /// Stops attempts and drops what they wrote. Each still owes its last word.
    Cancel(Vec<TaskAttempt>),
    /// Drops sealed outputs.
    Release(Vec<TaskAttempt>),
    /// Stops a query's attempts, drops its outputs and plans.
    DropQuery(QueryId),
    /// Drops what is kept of one content of a cached table; who reads it reads on.
    EndContent {
        /// How stores call the table.
        table: Arc<str>,
        /// Which content of it.
        epoch: Epoch,
    },
}

/// What the tasks of a stage run.
#[derive(Debug, Clone)]
pub enum StageProgram {
    /// As it travels; decoded anew for each attempt.
    Encoded(EncodedStage),
    /// Of this very process, because it cannot travel: each task runs on the one plan, and an
    /// attempt after the first on a plan that was reset.
    Live {
        /// The stage.
        stage: Arc<Stage>,
        /// The context of the query.
        context: Arc<TaskContext>,
    },
}

/// A stage as bytes.
#[derive(Clone)]
pub struct EncodedStage {
    /// Plan and output.
    pub program: Bytes,
    /// The session's settings.
    pub settings: Bytes,
}

impl fmt::Debug for EncodedStage {
    /// Shows sizes alone: settings may hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedStage")
            .field("program_bytes", &self.program.len())
            .field("settings_bytes", &self.settings.len())
            .finish()
    }
}

/// The last word of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskReport {
    /// Which.
    pub attempt: TaskAttempt,
    /// What became of it.
    pub outcome: TaskOutcome,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskOutcome {
    /// Its output is sealed.
    Finished {
        /// What it made.
        output: TaskOutput,
        /// The figures of each operator of its plan, depth first from the root.
        operators: Vec<OperatorMetrics>,
    },
    /// It failed.
    Failed(TaskFailure),
    /// It was told to stop, and left nothing.
    Stopped,
}

/// The figures of one operator of a task's plan, as `skep_proto` sends them.
pub type OperatorMetrics = skep_proto::cluster::OperatorMetrics;
