//! What one worker keeps of cached tables, beside the rows in its store.
//!
//! **Invariant:** nothing is kept of a content that has ended: a task that comes late makes its
//! partition for its own query alone.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use skep_engine::PartitionSummary;

use crate::ids::Epoch;
use crate::scheduler::{CachedKey, CachedReport, CachedUsage};
use crate::store::{PartitionCounts, PartitionKey, PartitionStore, Readers};

/// After rows were refused for want of room, so many uses pass before they are offered again.
const USES_UNTIL_RETRY: u32 = 8;
/// How many contents that have ended are remembered: what belongs to them comes seconds late at most.
const ENDED_CONTENTS: usize = 4096;

/// The cached partitions of a worker.
#[derive(Debug)]
pub(crate) struct KeptPartitions {
    store: PartitionStore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    summaries: HashMap<CachedKey, Arc<PartitionSummary>>,
    refusals: HashMap<CachedKey, u32>,
    ended: HashSet<(Arc<str>, Epoch)>,
    ended_order: VecDeque<(Arc<str>, Epoch)>,
}

/// What is known of partitions is said at a registration up to so many bytes in all; plans are made
/// without the rest.
const SUMMARY_BYTES: usize = 4 << 20;

/// Returns the name that stores have for a cached partition.
pub(crate) fn store_key(key: &CachedKey) -> PartitionKey {
    let CachedKey { table, epoch, partition } = key.clone();
    PartitionKey::Cached { table, epoch, partition }
}

impl KeptPartitions {
    pub(crate) fn new(store: PartitionStore) -> Self {
        Self { store, state: Mutex::default() }
    }

    /// Says what is kept of a partition that is here.
    pub(crate) fn report(
        &self,
        key: &CachedKey,
        counts: &PartitionCounts,
        summary: Bytes,
    ) -> CachedReport {
        let CachedKey { table, epoch, partition } = key.clone();
        let (memory_bytes, disk_bytes) = self.store.sizes(&store_key(key)).unwrap_or_default();
        CachedReport {
            table,
            epoch,
            partition,
            is_kept: true,
            summary,
            memory_bytes: memory_bytes as u64,
            disk_bytes,
            rows: counts.rows,
        }
    }

    /// Says what is taken by content.
    pub(crate) fn usage(&self) -> Vec<CachedUsage> {
        let keys: Vec<CachedKey> = self.state.lock().summaries.keys().cloned().collect();
        let mut contents: BTreeMap<(Arc<str>, Epoch), (u64, u64)> = BTreeMap::new();
        for key in keys {
            let sizes = self.store.sizes(&store_key(&key)).unwrap_or_default();
            let content = contents.entry((key.table, key.epoch)).or_default();
            content.0 += sizes.0 as u64;
            content.1 += sizes.1;
        }
        let usage = |((table, epoch), (memory_bytes, disk_bytes))| CachedUsage {
            table,
            epoch,
            memory_bytes,
            disk_bytes,
        };
        contents.into_iter().map(usage).collect()
    }

    /// Returns what is known of a partition that is here.
    pub(crate) fn find(&self, key: &CachedKey) -> Option<(PartitionCounts, Arc<PartitionSummary>)> {
        let counts = self.store.counts(&store_key(key));
        let mut state = self.state.lock();
        match counts {
            Some(counts) => state.summaries.get(key).map(|summary| (counts, Arc::clone(summary))),
            None => {
                // The store had to drop it.
                state.summaries.remove(key);
                None
            }
        }
    }

    /// Returns what is known of a partition, if it was ever here.
    pub(crate) fn summary(&self, key: &CachedKey) -> Option<Arc<PartitionSummary>> {
        self.state.lock().summaries.get(key).cloned()
    }

    /// Returns whether a partition may be offered to the store now, and counts this use. Of a narrow
    /// content it may always: who plans has it made when it is due, and reads its files else.
    pub(crate) fn is_welcome(&self, key: &CachedKey, is_narrow: bool) -> bool {
        let mut state = self.state.lock();
        if state.ended.contains(&(Arc::clone(&key.table), key.epoch)) {
            return false;
        }
        match state.refusals.get_mut(key) {
            Some(left) if *left > 0 && !is_narrow => {
                *left -= 1;
                false
            }
            _ => true,
        }
    }

    /// Takes note of a partition that was sealed.
    pub(crate) fn add(&self, key: CachedKey, summary: Arc<PartitionSummary>) {
        let content = (Arc::clone(&key.table), key.epoch);
        let mut state = self.state.lock();
        if state.ended.contains(&content) {
            drop(state);
            self.store.end_epoch(&content.0, content.1, Readers::Finish);
            return;
        }
        state.refusals.remove(&key);
        state.summaries.insert(key, summary);
    }

    /// Takes note of a partition for which there was no room.
    pub(crate) fn refuse(&self, key: CachedKey) {
        self.state.lock().refusals.insert(key, USES_UNTIL_RETRY);
    }

    /// Returns all that is here.
    pub(crate) fn list(&self) -> Vec<CachedReport> {
        let mut known: Vec<_> = {
            let state = self.state.lock();
            state.summaries.iter().map(|(key, it)| (key.clone(), Arc::clone(it))).collect()
        };
        known.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        let mut left = SUMMARY_BYTES;
        let report = |(key, summary): (CachedKey, Arc<PartitionSummary>)| {
            let counts = self.store.counts(&store_key(&key))?;
            // What is not said is not known, and no answer depends on it.
            let summary = summary.to_bytes().ok().filter(|bytes| bytes.len() <= left);
            let summary = summary.unwrap_or_default();
            left -= summary.len();
            Some(self.report(&key, &counts, summary.into()))
        };
        known.into_iter().filter_map(report).collect()
    }

    /// Lets go of a content.
    pub(crate) fn end(&self, table: &Arc<str>, epoch: Epoch) {
        let content = (Arc::clone(table), epoch);
        {
            let mut state = self.state.lock();
            state.forget(|key| key.table == *table && key.epoch == epoch);
            if state.ended.insert(content.clone()) {
                state.ended_order.push_back(content);
            }
            while state.ended_order.len() > ENDED_CONTENTS
                && let Some(oldest) = state.ended_order.pop_front()
            {
                state.ended.remove(&oldest);
            }
        }
        self.store.end_epoch(table, epoch, Readers::Finish);
    }

    /// Lets go of everything.
    pub(crate) fn clear(&self) {
        let contents: HashSet<(Arc<str>, Epoch)> = {
            let mut state = self.state.lock();
            let contents =
                state.summaries.keys().map(|key| (Arc::clone(&key.table), key.epoch)).collect();
            state.forget(|_key| true);
            contents
        };
        for (table, epoch) in contents {
            self.store.end_epoch(&table, epoch, Readers::Finish);
        }
    }
}

impl State {
    fn forget(&mut self, is_meant: impl Fn(&CachedKey) -> bool) {
        self.summaries.retain(|key, _| !is_meant(key));
        self.refusals.retain(|key, _| !is_meant(key));
    }
}
