//! What the coordinator offers to the control streams of its workers.

use std::fmt;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::ids::WorkerId;
use crate::membership::WorkerLife;
use crate::scheduler::{Heartbeat, Holdings};
use crate::worker::{Command, TaskReport};

/// What a worker says when it registers.
#[derive(Clone)]
pub struct JoinRequest {
    /// The life that it was given before, if it goes on with it.
    pub life: Option<WorkerLife>,
    /// The id that it would like to have.
    pub wanted_id: Option<WorkerId>,
    /// How many tasks it runs at a time.
    pub slot_count: usize,
    /// Its memory limit.
    pub memory_bytes: u64,
    /// HOST:PORT at which others fetch from it.
    pub data_address: String,
    /// Its process.
    pub pid: u32,
    /// Its program version.
    pub version: String,
    /// The cluster's secret.
    pub token: String,
    /// What it holds of that life.
    pub holdings: Holdings,
}

impl fmt::Debug for JoinRequest {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest")
            .field("life", &self.life)
            .field("wanted_id", &self.wanted_id)
            .field("slot_count", &self.slot_count)
            .field("memory_bytes", &self.memory_bytes)
            .field("data_address", &self.data_address)
            .field("pid", &self.pid)
            .field("version", &self.version)
            .field("holdings", &self.holdings)
            .finish_non_exhaustive()
    }
}

/// A worker that was let in.
#[derive(Debug)]
pub struct Joined {
    /// Its life.
    pub life: WorkerLife,
    /// Which connection of that life this is: the end of an older one means nothing.
    pub connection: u64,
    /// What it is to do, in order. The end means that the coordinator gave this connection up.
    pub commands: mpsc::Receiver<Command>,
}

/// Why a worker was not let in.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Why.
    pub message: String,
    /// Whether it may come back as a new life.
    pub may_register_anew: bool,
}

/// The workers, as the coordinator's driver keeps them.
///
/// What is said of one connection must be said in the order in which it came.
#[async_trait]
pub trait Members: fmt::Debug + Send + Sync + 'static {
    /// Lets a worker in.
    ///
    /// # Errors
    /// [`Refusal`] for a wrong secret or version, or a life that is over.
    async fn join(&self, request: JoinRequest) -> Result<Joined, Refusal>;

    /// Takes note of the last words of attempts.
    async fn report(&self, life: WorkerLife, reports: Vec<TaskReport>);

    /// Takes note that a worker lives.
    async fn heartbeat(&self, life: WorkerLife, beat: Heartbeat);

    /// Takes note that a connection ended without a goodbye.
    async fn disconnected(&self, life: WorkerLife, connection: u64);

    /// Takes note that a worker said goodbye.
    async fn left(&self, life: WorkerLife);
}
