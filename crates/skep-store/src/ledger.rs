//! The account of what the store holds in memory, in the process's memory pool.
//!
//! **Invariant:** a buffer that several batches share is charged once, to nobody in particular, and
//! given back with the last of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use parking_lot::Mutex;

use crate::footprint::Footprint;

/// How the pool's error messages call the store.
const CONSUMER: &str = "partition store";

#[derive(Debug)]
pub(super) struct Ledger {
    limit: usize,
    /// Registered as one that cannot spill: a pool then counts what the store holds as taken, and
    /// does not promise it to others as their share.
    reservation: MemoryReservation,
    /// By address: capacity, and how many times it is held.
    buffers: Mutex<HashMap<usize, (usize, usize)>>,
}

impl Ledger {
    pub(super) fn new(pool: &Arc<dyn MemoryPool>, limit: usize) -> Arc<Self> {
        let reservation = MemoryConsumer::new(CONSUMER).register(pool);
        Arc::new(Self { limit, reservation, buffers: Mutex::default() })
    }

    pub(super) fn consumer_id(&self) -> usize {
        self.reservation.consumer().id()
    }

    /// Returns the bytes of all held batches.
    pub(super) fn held_bytes(&self) -> usize {
        self.reservation.size()
    }

    /// Holds a batch if the pool and the store's own limit have room for what it adds; gives it
    /// back otherwise.
    pub(super) fn try_hold(
        self: &Arc<Self>,
        batch: RecordBatch,
        footprint: Footprint,
    ) -> Result<Held, (RecordBatch, Footprint)> {
        let mut buffers = self.buffers.lock();
        let added = claim(&mut buffers, &footprint);
        let fits = self.reservation.size().saturating_add(added) <= self.limit;
        if fits && self.reservation.try_grow(added).is_ok() {
            return Ok(Held { batch, footprint, ledger: Arc::clone(self) });
        }
        // Under the same lock nobody can have come to share what is taken back.
        release(&mut buffers, &footprint);
        Err((batch, footprint))
    }

    /// Holds a batch whether there is room or not.
    pub(super) fn hold(self: &Arc<Self>, batch: RecordBatch, footprint: Footprint) -> Held {
        let mut buffers = self.buffers.lock();
        let added = claim(&mut buffers, &footprint);
        self.reservation.grow(added);
        Held { batch, footprint, ledger: Arc::clone(self) }
    }

    /// Accounts working memory if there is room for it.
    pub(super) fn try_scratch(&self, bytes: usize) -> Option<MemoryReservation> {
        let scratch = self.reservation.new_empty();
        scratch.try_grow(bytes).is_ok().then_some(scratch)
    }

    /// Accounts working memory whether there is room or not.
    pub(super) fn scratch(&self, bytes: usize) -> MemoryReservation {
        let scratch = self.reservation.new_empty();
        scratch.grow(bytes);
        scratch
    }
}

fn claim(buffers: &mut HashMap<usize, (usize, usize)>, footprint: &Footprint) -> usize {
    let mut added = footprint.overhead;
    for (address, capacity) in &footprint.buffers {
        match buffers.entry(*address) {
            Entry::Occupied(mut entry) => entry.get_mut().1 += 1,
            Entry::Vacant(entry) => {
                entry.insert((*capacity, 1));
                added += capacity;
            }
        }
    }
    added
}

fn release(buffers: &mut HashMap<usize, (usize, usize)>, footprint: &Footprint) -> usize {
    let mut freed = footprint.overhead;
    for (address, _) in &footprint.buffers {
        if let Entry::Occupied(mut entry) = buffers.entry(*address) {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                freed += entry.remove().0;
            }
        }
    }
    freed
}

/// A batch in memory; dropping it gives its bytes back.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) batch: RecordBatch,
    pub(super) footprint: Footprint,
    ledger: Arc<Ledger>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut buffers = self.ledger.buffers.lock();
        let freed = release(&mut buffers, &self.footprint);
        self.ledger.reservation.shrink(freed);
    }
}
