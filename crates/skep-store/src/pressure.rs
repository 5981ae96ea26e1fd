//! Making room: choosing who goes, and moving it to disk or away.
//!
//! The store's own writers and readers make room on the blocking pool and wait. Another consumer of
//! the memory pool cannot wait: DataFusion's `try_grow` is a plain function. For it the store
//! writes on the calling thread ([`StoreInner::yield_memory`]), as DataFusion's own operators do
//! when they spill.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::memory_pool::MemoryReservation;
use tracing::debug;

use crate::error::{Error, Result};
use crate::eviction::{self, ContentKey, Decision, Purpose};
use crate::frame;
use crate::partition::{Partition, SpillTicket};
use crate::partition_store::StoreInner;
use crate::spill::Extent;

/// How often one request tries again when others take the room that it made.
pub(super) const ROUNDS: usize = 16;

/// A partition and what is done with it.
#[derive(Debug)]
pub(super) enum Victim {
    Spill(Arc<Partition>),
    /// Not more than these bytes.
    SpillSome(Arc<Partition>, usize),
    Drop(Arc<Partition>),
}

impl StoreInner {
    /// Spills or drops about `needed` bytes of memory, on behalf of `writing`, a content of a cached
    /// table, or of anybody else; returns whether there was anything to do.
    ///
    /// # Errors
    /// If nothing can be written to disk.
    pub(super) async fn make_room(
        self: &Arc<Self>,
        needed: usize,
        writing: Option<&ContentKey>,
    ) -> Result<bool> {
        let permit = self.io_permit().await?;
        let enough = needed.max(self.config.yield_step_bytes);
        let victims = self.memory_victims(enough, writing);
        if victims.is_empty() {
            return Ok(false);
        }
        let inner = Arc::clone(self);
        blocking(move || {
            let _permit = permit;
            inner.evict(victims, enough)
        })
        .await?;
        Ok(true)
    }

    /// Waits until the reads and writes that are under way have ended.
    pub(super) async fn settle(&self) -> Result<()> {
        let all = self.config.io_concurrency as u32;
        match self.io.acquire_many(all).await {
            Ok(_permits) => Ok(()),
            Err(_closed) => Err(Error::internal("the store's I/O has ended")),
        }
    }

    pub(super) async fn io_permit(&self) -> Result<tokio::sync::OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.io).acquire_owned().await;
        permit.map_err(|_closed| Error::internal("the store's I/O has ended"))
    }

    /// Accounts memory for work: in room that there is, in room that is made, or over the limit.
    pub(super) async fn scratch(self: &Arc<Self>, bytes: usize) -> MemoryReservation {
        for _ in 0..ROUNDS {
            if let Some(scratch) = self.ledger.try_scratch(bytes) {
                return scratch;
            }
            match self.make_room(bytes, None).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    // Reading goes on with one frame more than there is room for.
                    debug!(%error, "cannot make room for a reader");
                    break;
                }
            }
        }
        self.ledger.scratch(bytes)
    }

    /// Makes room for another consumer of the pool, on this thread; returns whether there was any.
    ///
    /// # Errors
    /// If nothing can be written to disk.
    pub(super) fn yield_memory(&self, needed: usize, floor: usize) -> Result<bool> {
        let above_floor = self.ledger.held_bytes().saturating_sub(floor);
        if above_floor == 0 {
            return Ok(false);
        }
        let enough = needed.max(self.config.yield_step_bytes).min(above_floor);
        let victims = self.memory_victims(enough, None);
        if victims.is_empty() {
            return Ok(false);
        }
        self.evict(victims, enough)?;
        Ok(true)
    }

    fn memory_victims(&self, needed: usize, writing: Option<&ContentKey>) -> Vec<Victim> {
        let (descriptors, mut by_id) = self.describe_all();
        // The share is protected from queries. Among cached tables the least recently used goes, or
        // the first to be cached would stay for good.
        let protected = if writing.is_some() { 0 } else { self.config.protected_cache_bytes };
        eviction::free_memory(&descriptors, needed, protected, writing)
            .into_iter()
            .filter_map(|decision| match decision {
                Decision::Spill(id) => by_id.remove(&id).map(Victim::Spill),
                Decision::SpillSome(id, most) => {
                    by_id.remove(&id).map(|partition| Victim::SpillSome(partition, most))
                }
                Decision::Drop(id) => by_id.remove(&id).map(Victim::Drop),
            })
            .collect()
    }

    fn describe_all(&self) -> (Vec<eviction::Descriptor>, HashMap<u64, Arc<Partition>>) {
        let state = self.state.lock();
        let sealed = state.sealed.values().map(|sealed| (&sealed.partition, true));
        let open = state.writers.values().flat_map(|writer| &writer.outputs);
        let open = open.map(|partition| (partition, false));
        let mut descriptors = Vec::new();
        let mut by_id = HashMap::new();
        for (partition, is_sealed) in sealed.chain(open) {
            let descriptor = partition.describe(is_sealed);
            if descriptor.memory_bytes > 0 || descriptor.disk_bytes > 0 {
                by_id.insert(descriptor.id, Arc::clone(partition));
                descriptors.push(descriptor);
            }
        }
        (descriptors, by_id)
    }

    /// Does what was decided, until `enough` bytes are free: of a large partition a part may do.
    /// Blocks.
    ///
    /// # Errors
    /// If nothing can be written to disk; what was written until then stays there.
    pub(super) fn evict(&self, victims: Vec<Victim>, enough: usize) -> Result<()> {
        let mut freed = 0_usize;
        for victim in victims {
            match victim {
                Victim::Drop(partition) => {
                    let (bytes, _) = partition.sizes();
                    if self.drop_partition(&partition) {
                        freed += bytes;
                    }
                }
                Victim::Spill(partition) => {
                    freed += self.spill(&partition, enough - freed.min(enough), usize::MAX)?;
                }
                Victim::SpillSome(partition, most) => {
                    freed += self.spill(&partition, enough - freed.min(enough), most)?;
                }
            }
        }
        Ok(())
    }

    /// Writes chunks of a partition until `enough` bytes are free, and never more than `most`; returns
    /// how many it freed.
    fn spill(&self, partition: &Arc<Partition>, enough: usize, most: usize) -> Result<usize> {
        let mut freed = 0_usize;
        for ticket in partition.begin_spill() {
            if freed >= enough {
                break;
            }
            if freed.saturating_add(ticket.bytes) <= most {
                freed += self.write_out(ticket)?;
            }
        }
        Ok(freed)
    }

    /// Writes a chunk to its file; returns how many bytes of memory that let go of.
    fn write_out(&self, ticket: SpillTicket) -> Result<usize> {
        let partition = Arc::clone(&ticket.partition);
        let Some(file) = partition.file() else { return Ok(0) };
        let counts = ticket.counts();
        let _scratch = self.ledger.scratch(ticket.bytes);
        let compression = self.config.compression;
        let frame = frame::encode(partition.form(), &ticket.batches, counts, compression).map_err(
            |error| {
                Error::internal(format!("cannot write partition \"{}\": {error}", partition.key))
            },
        )?;
        let offset = match file.append(&frame) {
            Err(error @ (Error::DiskLimit { .. } | Error::DiskFull { .. })) => {
                debug!(%error, "dropping cached partitions for disk");
                self.drop_cached_files(frame.len() as u64);
                match file.append(&frame) {
                    Err(Error::DiskLimit { .. } | Error::DiskFull { .. })
                        if partition.purpose() == Purpose::Cached
                            && self.drop_partition(&partition) =>
                    {
                        return Ok(ticket.bytes);
                    }
                    outcome => outcome?,
                }
            }
            outcome => outcome?,
        };
        self.spilled_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        let extent = Extent { offset, length: frame.len(), counts, memory_bytes: ticket.bytes };
        Ok(ticket.finish(extent))
    }

    fn drop_cached_files(&self, needed: u64) {
        let (descriptors, by_id) = self.describe_all();
        for decision in eviction::free_disk(&descriptors, needed) {
            let (Decision::Drop(id) | Decision::Spill(id) | Decision::SpillSome(id, _)) = decision;
            if let Some(partition) = by_id.get(&id) {
                self.drop_partition(partition);
            }
        }
    }
}

/// Runs work that blocks, off the async threads.
///
/// # Errors
/// Those of the work; [`Error::Internal`] if it panics.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match SpawnedTask::spawn_blocking(work).join().await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::internal(format!("work of the partition store broke: {error}"))),
    }
}
