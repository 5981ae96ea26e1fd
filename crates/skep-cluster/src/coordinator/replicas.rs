//! Second copies of cached tables: made again when a worker with one was lost, as soon as there is
//! another for it.
//!
//! Nobody waits for them. One task looks at the tables that want several copies whenever the members
//! of the cluster change, or a lost partition was made again for a query, and has what is missing
//! copied from its living keepers, one table at a time, with the smallest share of the slots. What
//! nobody keeps any more is the business of the query that misses it.
//!
//! **Invariant:** what has brought nothing, for there is no room or no other worker, is not tried
//! again before the members have changed.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use skep_engine::HostedTable;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::Shared;
use super::cached_tables::ClusterHost;
use crate::cache::ClusterTable;
use crate::membership::WorkerLife;

/// The share of the slots of what somebody waits for, against one of what nobody does.
pub(super) const AWAITED: NonZeroU32 = NonZeroU32::MIN.saturating_add(15);

/// How often a table is looked at again at once, when workers come and go meanwhile.
const ROUNDS: usize = 3;

/// The tables that want several copies.
#[derive(Debug, Default)]
pub(crate) struct Replicated {
    tables: Mutex<Vec<Weak<ClusterTable>>>,
    added: Notify,
}

impl Replicated {
    /// Takes in a table.
    pub(super) fn add(&self, table: &Arc<ClusterTable>) {
        let mut tables = self.tables.lock();
        tables.retain(|table| table.strong_count() > 0);
        tables.push(Arc::downgrade(table));
        drop(tables);
        // It may be one of which a coordinator before this one had more made.
        self.added.notify_one();
    }

    fn tables(&self) -> Vec<Arc<ClusterTable>> {
        self.tables.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

/// Keeps copies up, until the coordinator ends.
pub(super) async fn keep_up(shared: Arc<Shared>) {
    let mut members = shared.snapshot.clone();
    let mut remade = shared.cache.remade();
    let mut given_up: Vec<(Weak<ClusterTable>, BTreeSet<WorkerLife>)> = Vec::new();
    loop {
        let live: BTreeSet<WorkerLife> =
            members.borrow_and_update().live().map(|worker| worker.registration.life).collect();
        given_up.retain(|(table, among)| table.strong_count() > 0 && *among == live);
        for table in shared.replicated.tables() {
            let is_given_up =
                given_up.iter().any(|(known, _)| known.ptr_eq(&Arc::downgrade(&table)));
            if !is_given_up && !is_whole(&shared, &table, live.len()).await {
                given_up.push((Arc::downgrade(&table), live.clone()));
            }
        }
        tokio::select! {
            changed = members.changed() => if changed.is_err() { return },
            changed = remade.changed() => if changed.is_err() { return },
            () = shared.replicated.added.notified() => {}
        }
    }
}

/// Has the copies made that a table lacks among so many workers; returns whether it has them then, as
/// far as somebody keeps what is to be copied.
async fn is_whole(shared: &Arc<Shared>, table: &Arc<ClusterTable>, worker_count: usize) -> bool {
    let host = ClusterHost::new(Arc::clone(shared));
    for _round in 0..ROUNDS {
        let copies = table.copies().min(worker_count);
        let Some(filling) = table.lacking(copies) else { return true };
        let before = table.copy_count(copies);
        let name = table.shape().name.clone();
        info!(table = name, "copies of a cached table are made again");
        if let Err(error) = host.copy(table, copies).await {
            warn!(%error, table = name, "a cached table lacks copies");
            return false;
        }
        drop(filling);
        if table.copy_count(copies) <= before {
            return false;
        }
    }
    table.lacking(table.copies().min(worker_count)).is_none()
}
