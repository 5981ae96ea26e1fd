//! What one query's planning may know of the cluster: a picture that does not change under it.

use std::time::Duration;

use super::state::{Registration, WorkerLoad, WorkerState};
use crate::ids::WorkerId;

/// One worker as the coordinator knows it.
#[derive(Debug, Clone)]
pub struct WorkerInfo {
    /// What the worker said when it joined.
    pub registration: Registration,
    /// Whether it lives.
    pub state: WorkerState,
    /// What its last heartbeat said.
    pub load: WorkerLoad,
    /// When it was last heard of, on the scheduler's clock.
    pub last_heard: Duration,
}

/// The cluster at one moment. A query plans against one snapshot, whatever happens meanwhile.
///
/// Shape: workers by id, lost ones included for as long as they are remembered.
#[derive(Debug, Clone)]
pub struct ClusterSnapshot {
    /// Grows with every change of membership; equal versions mean equal members.
    pub version: u64,
    /// The workers.
    pub workers: Vec<WorkerInfo>,
}

impl ClusterSnapshot {
    /// Returns the workers that can take work, by id.
    pub fn live(&self) -> impl Iterator<Item = &WorkerInfo> {
        self.workers.iter().filter(|worker| worker.state == WorkerState::Live)
    }

    /// Returns how many tasks the live workers can run at a time.
    pub fn slot_count(&self) -> usize {
        self.live().map(|worker| worker.registration.slot_count).sum()
    }

    /// Returns the worker of this id.
    pub fn worker(&self, id: WorkerId) -> Option<&WorkerInfo> {
        self.workers.iter().find(|worker| worker.registration.life.worker == id)
    }
}
