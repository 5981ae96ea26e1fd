//! A memory pool whose consumers can push the partition store to disk.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use datafusion::error::Result as DataFusionResult;
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use tracing::debug;

use crate::error::{Error, Result};
use crate::partition_store::StoreInner;
use crate::pressure::ROUNDS;

/// Wraps the process's pool: when it has no room for a consumer, the store gives some up and the
/// consumer's request is tried again.
///
/// DataFusion's pools have no way to ask a holder for memory; a request is granted or fails. So the
/// asking stands in front of the failure, and the writing happens on the thread that asks. One
/// thread at a time does it; others wait for that one and usually find room then. A consumer that
/// could spill by itself is helped only until the store is down to `yield_floor_bytes`, one that
/// cannot, until there is nothing left to give.
///
/// Wraps the outermost pool: a pool around this one would hide it from
/// [`PartitionStore::open`](crate::PartitionStore::open).
#[derive(Debug)]
pub struct StorePool {
    inner: Arc<dyn MemoryPool>,
    store: OnceLock<Weak<StoreInner>>,
}

impl StorePool {
    /// Wraps a pool. Until a store is opened on it, it does what the pool does.
    pub fn new(inner: Arc<dyn MemoryPool>) -> Self {
        Self { inner, store: OnceLock::new() }
    }

    pub(super) fn attach(&self, store: &Arc<StoreInner>) -> Result<()> {
        self.store.set(Arc::downgrade(store)).map_err(|_store| Error::InvalidOption {
            option: "memory_pool",
            message: "it serves another partition store already".to_owned(),
        })
    }

    /// Returns how much to ask the store for: what is missing below the limit at first; if that was
    /// not enough, because the pool divides its memory, as much as was asked for.
    fn shortage(&self, round: usize, additional: usize) -> usize {
        match self.inner.memory_limit() {
            MemoryLimit::Finite(limit) if round == 0 => {
                (self.inner.reserved().saturating_add(additional)).saturating_sub(limit)
            }
            _ => additional,
        }
    }

    fn store_for(&self, reservation: &MemoryReservation) -> Option<Arc<StoreInner>> {
        let store = self.store.get()?.upgrade()?;
        (store.ledger.consumer_id() != reservation.consumer().id()).then_some(store)
    }
}

impl MemoryPool for StorePool {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.inner.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.inner.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.inner.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.inner.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> DataFusionResult<()> {
        let mut outcome = self.inner.try_grow(reservation, additional);
        if outcome.is_ok() {
            return outcome;
        }
        let Some(store) = self.store_for(reservation) else { return outcome };
        let floor = match reservation.consumer().can_spill() {
            true => store.config.yield_floor_bytes,
            false => 0,
        };
        let _one_at_a_time = store.yielding.lock();
        for round in 0..ROUNDS {
            outcome = self.inner.try_grow(reservation, additional);
            if outcome.is_ok() {
                return outcome;
            }
            match store.yield_memory(self.shortage(round, additional), floor) {
                Ok(true) => {}
                Ok(false) => return outcome,
                Err(error) => {
                    debug!(%error, "the partition store cannot give memory up");
                    let why = format!("the partition store cannot give memory up: {error}");
                    return outcome.map_err(|refused| refused.context(why));
                }
            }
        }
        self.inner.try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.inner.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.inner.memory_limit()
    }
}

impl fmt::Display for StorePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}
