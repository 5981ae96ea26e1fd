//! A site that only notes what it is told.

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use super::cluster::report;
use super::members::BOUND;
use crate::ids::Epoch;
use crate::membership::WorkerLoad;
use crate::scheduler::{CachedUsage, Heartbeat, Holdings, Site};
use crate::worker::{Command, TaskSite};

/// Something that a site was told.
#[derive(Debug, Clone)]
pub(super) enum Told {
    Life(Site),
    Command(Command),
}

#[derive(Debug, Default)]
pub(super) struct NotingSite {
    told: watch::Sender<Vec<Told>>,
    holdings: Mutex<Holdings>,
}

pub(super) fn beat() -> Heartbeat {
    let load = WorkerLoad { memory_bytes: 12, stored_bytes: 34 };
    let cached = vec![CachedUsage {
        table: "t#1".into(),
        epoch: Epoch(3),
        memory_bytes: 56,
        disk_bytes: 78,
    }];
    Heartbeat { load, has_inputs: vec![report(5).attempt], cached }
}

impl NotingSite {
    pub(super) fn hold(&self, holdings: Holdings) {
        *self.holdings.lock() = holdings;
    }

    /// Waits until it was told this many things, and returns them.
    pub(super) async fn told(&self, count: usize) -> Vec<Told> {
        let mut told = self.told.subscribe();
        let told = timeout(BOUND, told.wait_for(|told| told.len() >= count)).await;
        told.expect("not told in time").unwrap().clone()
    }

    /// The lives that it has begun.
    pub(super) fn lives(&self) -> Vec<Site> {
        let life = |told: &Told| match told {
            Told::Life(site) => Some(*site),
            Told::Command(_) => None,
        };
        self.told.borrow().iter().filter_map(life).collect()
    }
}

impl TaskSite for NotingSite {
    fn perform(&self, command: Command) {
        self.told.send_modify(|told| told.push(Told::Command(command)));
    }

    fn holdings(&self) -> Holdings {
        self.holdings.lock().clone()
    }

    fn heartbeat(&self) -> Heartbeat {
        beat()
    }

    fn begin_life(&self, site: Site) {
        self.told.send_modify(|told| told.push(Told::Life(site)));
    }
}
