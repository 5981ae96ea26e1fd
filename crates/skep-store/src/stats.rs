//! What a store holds, for people and for placement.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::ids::{Epoch, QueryId};
use crate::key::PartitionKey;
use crate::partition::Partition;
use crate::partition_store::StoreInner;

/// What somebody's partitions take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// How many partitions, sealed and unsealed.
    pub partitions: usize,
    /// Bytes in memory. A buffer that several batches share counts for each of them, so that the
    /// sum may be more than [`StoreStats::memory_bytes`].
    pub memory_bytes: usize,
    /// Bytes in files.
    pub disk_bytes: u64,
}

/// What a store holds at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// How many partitions can be read.
    pub sealed_partitions: usize,
    /// How many writers have not sealed yet.
    pub open_writers: usize,
    /// Bytes of batches in memory, as accounted in the pool; those that only a reader still holds
    /// included.
    pub memory_bytes: usize,
    /// Bytes of spill files, those parts of them included that nobody needs any more.
    pub disk_bytes: u64,
    /// Bytes written to spill files since the store was opened.
    pub spilled_bytes_total: u64,
    /// Cached partitions dropped for want of memory or disk since the store was opened.
    pub dropped_partitions_total: u64,
    /// By query.
    pub queries: BTreeMap<QueryId, Usage>,
    /// By cached table and its content.
    pub tables: BTreeMap<(Arc<str>, Epoch), Usage>,
}

pub(super) fn collect(inner: &StoreInner) -> StoreStats {
    let state = inner.state.lock();
    let mut stats = StoreStats {
        sealed_partitions: state.sealed.len(),
        open_writers: state.writers.len(),
        memory_bytes: inner.ledger.held_bytes(),
        disk_bytes: inner.budget.used(),
        spilled_bytes_total: inner.spilled_bytes.load(Ordering::Relaxed),
        dropped_partitions_total: inner.dropped_partitions.load(Ordering::Relaxed),
        ..StoreStats::default()
    };
    let sealed = state.sealed.values().map(|sealed| &sealed.partition);
    let open = state.writers.values().flat_map(|writer| &writer.outputs);
    for partition in sealed.chain(open) {
        stats.add(partition);
    }
    stats
}

impl StoreStats {
    fn add(&mut self, partition: &Partition) {
        let usage = match &partition.key {
            PartitionKey::Exchange { query, .. } => self.queries.entry(*query).or_default(),
            PartitionKey::Cached { table, epoch, .. } => {
                self.tables.entry((Arc::clone(table), *epoch)).or_default()
            }
        };
        let (memory_bytes, disk_bytes) = partition.sizes();
        usage.partitions += 1;
        usage.memory_bytes += memory_bytes;
        usage.disk_bytes += disk_bytes;
    }
}
