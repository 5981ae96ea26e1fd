//! The rows of a cached table as they were at one moment: where they are, and how to make them.
//!
//! If every partition comes out the same whenever it is made (a narrow lineage), each is made for
//! itself, and may be there or not. If not, because rows met in an exchange or a limit picked some,
//! all are made at once, as a generation: its partitions go together or not at all, and who reads
//! one pins them all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::runtime::{JoinSet, SpawnedTask};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::MemoryPool;
use parking_lot::RwLock;
use skep_store::ids::Epoch;
use skep_store::{PartitionKey, PartitionReader, PartitionStore, Readers, WriterKey, WriterSpec};
use tokio::sync::Mutex;

use super::build::{self, Kept};
use super::definitions::fingerprint;
use super::hosted::{CachedShape, HostedHold, HostedTable};
use super::level::CacheLevel;
use super::lineage::{Lineage, Run};
use super::summary::PartitionSummary;
use crate::error::{Error, Result};

/// After rows were refused for want of room, so many uses pass before they are offered again: to
/// make and not keep them costs a query that much more each time.
const USES_UNTIL_RETRY: u32 = 8;

/// One content of a cached table. `REFRESH` makes another.
#[derive(Debug)]
pub(crate) struct Content {
    /// How messages call the table.
    pub(super) name: String,
    /// How the store calls it.
    pub(super) key: Arc<str>,
    pub(super) schema: SchemaRef,
    pub(super) level: CacheLevel,
    /// The columns whose values decide the partition.
    pub(super) clustered: Option<Vec<usize>>,
    /// How many changes of its sources it has.
    pub(super) as_of: u64,
    /// Contents of one reading of the sources have the same rows.
    pub(super) reading: u64,
    pub(super) store: PartitionStore,
    /// Who keeps the partitions, if it is not this process.
    hosted: Option<Arc<dyn HostedTable>>,
    shape: Arc<CachedShape>,
    /// Tells its lineage from others, if somebody else keeps the partitions.
    pub(super) fingerprint: u64,
    /// Into how many partitions its plan was cut.
    pub(super) width: usize,
    pool: Arc<dyn MemoryPool>,
    pub(super) lineage: Lineage,
    epochs: Arc<AtomicU64>,
    current: RwLock<Arc<Generation>>,
    /// Held by who makes a generation.
    making: Mutex<()>,
    is_ended: AtomicBool,
    /// Whether anybody wanted its rows.
    is_used: AtomicBool,
    refusals: AtomicU32,
    pub(super) counters: Counters,
}

/// What happened to a content.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Partitions that were read from the store.
    pub(crate) hits: AtomicU64,
    /// Partitions that were made for a query and could not be kept.
    pub(crate) passed: AtomicU64,
    /// Partitions that were made again.
    pub(crate) rebuilt: AtomicU64,
}

/// The partitions that were made from one run of the lineage, or, of a narrow one, from any.
///
/// **Invariant:** they are let go of with the last that holds it: the content until it ends, and each
/// query that was planned with it.
#[derive(Debug)]
pub(super) struct Generation {
    key: Arc<str>,
    store: PartitionStore,
    pub(super) epoch: Epoch,
    slots: Vec<Slot>,
}

/// A content that a query holds on to: its partitions stay, whatever becomes of the table.
#[derive(Debug, Clone)]
pub(super) struct HeldContent {
    pub(super) content: Arc<Content>,
    pub(super) generation: Arc<Generation>,
    /// What others keep is held by them.
    _hosted: Option<HostedHold>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Known once it was made, whether or not it is still there.
    summary: RwLock<Option<Arc<PartitionSummary>>>,
    making: Mutex<()>,
    refusals: AtomicU32,
}

/// What a content is made of.
#[derive(Debug)]
pub(super) struct ContentParts {
    pub(super) shape: Arc<CachedShape>,
    pub(super) level: CacheLevel,
    pub(super) as_of: u64,
    pub(super) reading: u64,
    pub(super) store: PartitionStore,
    pub(super) hosted: Option<Arc<dyn HostedTable>>,
    pub(super) width: usize,
    pub(super) lineage: Lineage,
    pub(super) epochs: Arc<AtomicU64>,
}

/// A partition that is in the store.
#[derive(Debug)]
pub(super) struct KeptPartition {
    pub(super) reader: PartitionReader,
    pub(super) summary: Arc<PartitionSummary>,
}

impl Content {
    pub(super) fn new(parts: ContentParts) -> Arc<Self> {
        let ContentParts { shape, level, as_of, reading, store, hosted, width, lineage, epochs } =
            parts;
        let fingerprint = match hosted {
            Some(_) => fingerprint(&lineage, &shape.schema, shape.partition_count),
            None => 0,
        };
        let CachedShape { name, key, schema, clustered, .. } = shape.as_ref().clone();
        let pool = Arc::clone(&lineage.context().runtime_env().memory_pool);
        let first = Generation::new((&key, &store), &epochs, lineage.partition_count());
        Arc::new(Self {
            name,
            key,
            schema,
            level,
            clustered,
            as_of,
            reading,
            store,
            hosted,
            shape,
            fingerprint,
            width,
            pool,
            lineage,
            epochs,
            current: RwLock::new(Arc::new(first)),
            making: Mutex::default(),
            is_ended: AtomicBool::new(false),
            is_used: AtomicBool::new(false),
            refusals: AtomicU32::new(0),
            counters: Counters::default(),
        })
    }

    pub(crate) fn partition_count(&self) -> usize {
        self.shape.partition_count
    }

    /// Returns what scans have to know.
    pub(super) fn shape(&self) -> Arc<CachedShape> {
        Arc::clone(&self.shape)
    }

    /// Returns who keeps the partitions, if it is not this process.
    pub(super) fn hosted(&self) -> Option<&Arc<dyn HostedTable>> {
        self.hosted.as_ref()
    }

    /// Returns what is known of all partitions, if it is.
    pub(super) fn summaries(&self) -> Option<Vec<Arc<PartitionSummary>>> {
        match &self.hosted {
            Some(table) => table.summaries(),
            None => self.current().summaries(),
        }
    }

    /// Whether partitions are made one by one.
    pub(super) fn is_narrow(&self) -> bool {
        self.lineage.is_narrow
    }

    pub(super) fn current(&self) -> Arc<Generation> {
        Arc::clone(&self.current.read())
    }

    /// Holds on to what there is now.
    pub(super) fn hold(self: &Arc<Self>) -> HeldContent {
        let _hosted = self.hosted.as_ref().map(|table| table.hold());
        HeldContent { content: Arc::clone(self), generation: self.current(), _hosted }
    }

    /// Makes all partitions that are not there.
    ///
    /// # Errors
    /// Whatever keeps them from being made; not that there is no room for them.
    pub(crate) async fn fill(self: &Arc<Self>) -> Result<()> {
        self.begin();
        if let Some(table) = &self.hosted {
            return table.fill().await;
        }
        if !self.is_narrow() {
            return self.make_all().await.map(drop);
        }
        let mut making = JoinSet::new();
        let width = self.lineage.context().session_config().target_partitions().max(1);
        let current = self.current();
        for partition in 0..self.partition_count() {
            if making.len() >= width {
                join_next(&mut making).await?;
            }
            let (content, current) = (Arc::clone(self), Arc::clone(&current));
            making.spawn(async move { content.make(&current, partition).await.map(drop) });
        }
        while !making.is_empty() {
            join_next(&mut making).await?;
        }
        Ok(())
    }

    /// Lets go of all partitions. Who [holds](Self::hold) them has them to the end; who comes later
    /// gets the rows from the lineage.
    pub(crate) fn end(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
        if let Some(table) = &self.hosted {
            table.end();
        }
        let none = Arc::new(self.new_generation());
        let held = std::mem::replace(&mut *self.current.write(), none);
        drop(held);
    }

    fn new_generation(&self) -> Generation {
        Generation::new((&self.key, &self.store), &self.epochs, self.lineage.partition_count())
    }

    /// Notes that rows are wanted: from now on they are these.
    pub(super) fn begin(&self) {
        self.is_used.store(true, Ordering::SeqCst);
    }

    /// Returns whether nobody wanted its rows yet.
    pub(super) fn is_unused(&self) -> bool {
        match &self.hosted {
            Some(table) => !table.is_used(),
            None => !self.is_used.load(Ordering::SeqCst),
        }
    }

    fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::SeqCst)
    }

    /// Returns a partition of a generation, if it is there.
    pub(super) fn kept(&self, of: &Generation, partition: usize) -> Option<KeptPartition> {
        let summary = of.summary(partition)?;
        let reader = self.store.read(&self.partition_key(of, partition), 0).ok()?;
        Some(KeptPartition { reader, summary })
    }

    /// Returns a reader for each partition of a generation, which nobody drops as long as these are
    /// held; `None` if one is not there.
    pub(super) fn pinned(&self, generation: &Generation) -> Option<Vec<PartitionReader>> {
        let readers = (0..self.partition_count())
            .map(|partition| self.kept(generation, partition).map(|kept| kept.reader));
        readers.collect()
    }

    fn partition_key(&self, of: &Generation, partition: usize) -> PartitionKey {
        PartitionKey::Cached { table: Arc::clone(&self.key), epoch: of.epoch, partition }
    }

    fn spec(&self, of: &Generation, partition: usize) -> WriterSpec {
        WriterSpec {
            key: WriterKey::Cached { table: Arc::clone(&self.key), epoch: of.epoch, partition },
            schema: Arc::clone(&self.schema),
            output_count: 1,
            level: self.level.storage(),
        }
    }

    /// Turns a failure of the store into the engine's. What is damaged is let go of, so that its next
    /// use makes it again.
    pub(super) fn unreadable(&self, error: skep_store::Error) -> Error {
        if let skep_store::Error::PartitionDamaged { partition, message } = &error {
            self.store.release([partition], Readers::Finish);
            return Error::Unavailable {
                location: format!("the cached table \"{}\"", self.name),
                message: format!("what was kept of it is damaged: {message}"),
                hint: Some("run the query again: what is damaged is made anew".to_owned()),
            };
        }
        error.into()
    }

    /// Makes a partition of a narrow content, unless it is there; returns whether it is now.
    ///
    /// The work does not depend on who waits for it being asked for rows, but ends with the last
    /// of them.
    ///
    /// # Errors
    /// If a source changed, or cannot be read.
    pub(super) async fn make(
        self: &Arc<Self>,
        of: &Arc<Generation>,
        partition: usize,
    ) -> Result<bool> {
        let (content, of) = (Arc::clone(self), Arc::clone(of));
        let work = SpawnedTask::spawn(async move { content.make_here(&of, partition).await });
        joined(work.join().await)
    }

    async fn make_here(&self, of: &Generation, partition: usize) -> Result<bool> {
        let slot = &of.slots[partition];
        let _one_at_a_time = slot.making.lock().await;
        if self.kept(of, partition).is_some() {
            return Ok(true);
        }
        if self.is_ended() || waits(&slot.refusals) {
            return Ok(false);
        }
        self.lineage.check_sources(&self.name, Some(partition)).await?;
        let run = self.lineage.fresh()?;
        Ok(match self.keep(of, &run, partition).await? {
            Kept::Yes(summary) => {
                let was = slot.summary.write().replace(Arc::from(summary));
                self.counters.rebuilt.fetch_add(was.is_some().into(), Ordering::Relaxed);
                true
            }
            Kept::NoRoom => {
                slot.refusals.store(USES_UNTIL_RETRY, Ordering::Relaxed);
                false
            }
        })
    }

    /// Makes a generation, unless all of the current one is there; returns whether one is now.
    ///
    /// # Errors
    /// As [`Content::make`].
    pub(super) async fn make_all(self: &Arc<Self>) -> Result<bool> {
        let content = Arc::clone(self);
        let work = SpawnedTask::spawn(async move { content.make_all_here().await });
        joined(work.join().await)
    }

    async fn make_all_here(self: &Arc<Self>) -> Result<bool> {
        let _one_at_a_time = self.making.lock().await;
        let old = self.current();
        if self.pinned(&old).is_some() {
            return Ok(true);
        }
        if self.is_ended() || waits(&self.refusals) {
            return Ok(false);
        }
        self.lineage.check_sources(&self.name, None).await?;
        // Its room may be what the new one needs; who reads it still has it.
        self.store.end_epoch(&self.key, old.epoch, Readers::Finish);
        let next = Arc::new(self.new_generation());
        if !self.fill_generation(&next).await? {
            self.refusals.store(USES_UNTIL_RETRY, Ordering::Relaxed);
            return Ok(false);
        }
        if old.slots.iter().any(|slot| slot.summary.read().is_some()) {
            let count = self.partition_count() as u64;
            self.counters.rebuilt.fetch_add(count, Ordering::Relaxed);
        }
        let mut current = self.current.write();
        if self.is_ended() {
            return Ok(false);
        }
        let held = std::mem::replace(&mut *current, next);
        drop(current);
        drop(held);
        Ok(true)
    }

    /// Runs all partitions of the plan at once: they may wait for each other.
    async fn fill_generation(self: &Arc<Self>, next: &Arc<Generation>) -> Result<bool> {
        let run = self.lineage.fresh()?;
        let mut making = JoinSet::new();
        for partition in 0..self.partition_count() {
            let (content, next, run) = (Arc::clone(self), Arc::clone(next), run.clone());
            making.spawn(async move {
                Ok(match content.keep(&next, &run, partition).await? {
                    Kept::Yes(summary) => {
                        *next.slots[partition].summary.write() = Some(Arc::from(summary));
                        true
                    }
                    Kept::NoRoom => false,
                })
            });
        }
        let mut is_whole = true;
        while let Some(outcome) = making.join_next().await {
            is_whole &= joined(outcome)?;
            if !is_whole {
                // Dropping the set stops the rest.
                return Ok(false);
            }
        }
        Ok(is_whole)
    }

    async fn keep(&self, of: &Generation, run: &Run, partition: usize) -> Result<Kept> {
        let outcome = match run.execute(partition) {
            Ok(rows) => build::keep(&self.store, self.spec(of, partition), &self.pool, rows).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(kept) => Ok(kept),
            Err(error) if is_unwanted(&error) => Ok(Kept::NoRoom),
            Err(error) => Err(run.explain(error).await),
        }
    }
}

/// Returns whether a writer was told that its table is not cached any more.
fn is_unwanted(error: &DataFusionError) -> bool {
    matches!(skep_store::Error::find(error), Some(skep_store::Error::WriterEnded { .. }))
}

/// Returns whether rows are not offered to the store yet, and counts this use.
fn waits(refusals: &AtomicU32) -> bool {
    let counted =
        refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    counted.is_ok()
}

async fn join_next(making: &mut JoinSet<Result<()>>) -> Result<()> {
    match making.join_next().await {
        Some(outcome) => joined(outcome),
        None => Ok(()),
    }
}

fn joined<T>(outcome: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    match outcome {
        Ok(outcome) => outcome,
        Err(error) if error.is_cancelled() => Err(Error::Cancelled),
        Err(error) => {
            Err(Error::Internal { message: format!("a cached table: {error}"), source: None })
        }
    }
}

impl Generation {
    fn new(
        (key, store): (&Arc<str>, &PartitionStore),
        epochs: &AtomicU64,
        partition_count: usize,
    ) -> Self {
        let epoch = Epoch(epochs.fetch_add(1, Ordering::Relaxed));
        let slots = (0..partition_count).map(|_| Slot::default()).collect();
        Self { key: Arc::clone(key), store: store.clone(), epoch, slots }
    }

    pub(super) fn summary(&self, partition: usize) -> Option<Arc<PartitionSummary>> {
        self.slots.get(partition)?.summary.read().clone()
    }

    /// Returns what is known of all partitions, if it is.
    pub(super) fn summaries(&self) -> Option<Vec<Arc<PartitionSummary>>> {
        (0..self.slots.len()).map(|partition| self.summary(partition)).collect()
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.store.end_epoch(&self.key, self.epoch, Readers::Finish);
    }
}
