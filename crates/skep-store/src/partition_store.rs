//! The store itself: which partitions there are, and until when.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use datafusion::execution::memory_pool::MemoryPool;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::ids::{Epoch, QueryId};
use crate::key::{PartitionKey, Readers, StorageLevel, WriterKey};
use crate::ledger::Ledger;
use crate::partition::Partition;
use crate::pool::StorePool;
use crate::reader::PartitionReader;
use crate::spill::{DiskBudget, SpillDirectory, SpillFile};
use crate::stats::{self, StoreStats};
use crate::writer::{PartitionCounts, PartitionWriter, WriterSpec};

/// The partitions of this process. Cheap to clone; all clones are one store.
#[derive(Debug, Clone)]
pub struct PartitionStore {
    pub(super) inner: Arc<StoreInner>,
}

#[derive(Debug)]
pub(super) struct StoreInner {
    pub(super) config: StoreConfig,
    pub(super) ledger: Arc<Ledger>,
    directory: Arc<SpillDirectory>,
    pub(super) budget: Arc<DiskBudget>,
    pub(super) state: Mutex<State>,
    /// One permit per read or write of a file that runs.
    pub(super) io: Arc<Semaphore>,
    /// One at a time makes room on behalf of another consumer of the pool.
    pub(super) yielding: Mutex<()>,
    pub(super) spilled_bytes: AtomicU64,
    pub(super) dropped_partitions: AtomicU64,
    ticks: AtomicU64,
    ids: AtomicU64,
}

/// **Invariant:** `by_query` and `by_table` name exactly the keys of `sealed`.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) sealed: HashMap<PartitionKey, Sealed>,
    by_query: HashMap<QueryId, HashSet<PartitionKey>>,
    by_table: HashMap<(Arc<str>, Epoch), HashSet<PartitionKey>>,
    pub(super) writers: HashMap<u64, Arc<OpenWriter>>,
    ended: HashSet<QueryId>,
    ended_order: VecDeque<QueryId>,
}

#[derive(Debug, Clone)]
pub(super) struct Sealed {
    pub(super) partition: Arc<Partition>,
    pub(super) counts: PartitionCounts,
}

/// What the store knows of a writer that has not sealed yet.
#[derive(Debug)]
pub(super) struct OpenWriter {
    pub(super) id: u64,
    pub(super) key: WriterKey,
    pub(super) outputs: Vec<Arc<Partition>>,
    pub(super) is_ended: AtomicBool,
    /// What was sealed; none before. Sent anew with each batch that somebody may wait for.
    pub(super) progress: watch::Sender<Option<Arc<[PartitionCounts]>>>,
}

impl PartitionStore {
    /// Opens a store: removes what dead processes left in the directory, and begins empty.
    ///
    /// If `memory_pool` is a [`StorePool`], the store makes room for its other consumers. Blocks on
    /// a few accesses to the directory.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a bound of zero that must not be; [`Error::Io`] if the directory
    /// cannot be written to.
    pub fn open(config: StoreConfig, memory_pool: Arc<dyn MemoryPool>) -> Result<Self> {
        config.check()?;
        let directory = SpillDirectory::create(&config.directory)?;
        let inner = Arc::new(StoreInner {
            ledger: Ledger::new(&memory_pool, config.memory_limit_bytes),
            budget: DiskBudget::new(config.disk_limit_bytes),
            io: Arc::new(Semaphore::new(config.io_concurrency)),
            config,
            directory,
            state: Mutex::default(),
            yielding: Mutex::default(),
            spilled_bytes: AtomicU64::new(0),
            dropped_partitions: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            ids: AtomicU64::new(0),
        });
        if let Some(pool) = memory_pool.downcast_ref::<StorePool>() {
            pool.attach(&inner)?;
        }
        Ok(Self { inner })
    }

    /// Opens a writer. What it writes can be read when it is sealed; before that only by those who
    /// ask for what is [growing](Self::read_growing).
    ///
    /// # Errors
    /// [`Error::QueryEnded`] for output of a query whose lease has ended, [`Error::InvalidOption`]
    /// for a number of outputs or a storage level that does not go with the kind of partition.
    pub fn writer(&self, spec: WriterSpec) -> Result<PartitionWriter> {
        spec.check()?;
        let inner = &self.inner;
        let file_id = inner.next_id();
        let file = Arc::new(SpillFile::new(&inner.directory, &inner.budget, file_id));
        let outputs = (0..spec.output_count)
            .map(|output| {
                Arc::new(Partition::new(
                    inner.next_id(),
                    spec.key.output(output),
                    Arc::clone(&spec.schema),
                    spec.level,
                    Arc::clone(&file),
                ))
            })
            .collect();
        let open = Arc::new(OpenWriter {
            id: inner.next_id(),
            key: spec.key,
            outputs,
            is_ended: AtomicBool::new(false),
            progress: watch::Sender::new(None),
        });
        {
            let mut state = inner.state.lock();
            if let WriterKey::Exchange { query, .. } = &open.key
                && state.ended.contains(query)
            {
                return Err(Error::QueryEnded { query: *query });
            }
            state.writers.insert(open.id, Arc::clone(&open));
        }
        Ok(PartitionWriter::new(Arc::clone(inner), open, spec.schema))
    }

    /// Reads a sealed partition from batch `start` on.
    ///
    /// # Errors
    /// [`Error::PartitionNotFound`] if it is not here, [`Error::ResumeBeyondEnd`].
    pub fn read(&self, key: &PartitionKey, start: u64) -> Result<PartitionReader> {
        let state = self.inner.state.lock();
        let Some(sealed) = state.sealed.get(key) else {
            return Err(Error::PartitionNotFound { partition: key.clone() });
        };
        if start > sealed.counts.batches {
            return Err(Error::ResumeBeyondEnd {
                partition: key.clone(),
                batches: sealed.counts.batches,
                start,
            });
        }
        // Counted under the lock, so that nobody drops the partition in between.
        sealed.partition.readers.fetch_add(1, Ordering::Relaxed);
        let sealed = sealed.clone();
        drop(state);
        Ok(PartitionReader::new(Arc::clone(&self.inner), sealed, start))
    }

    /// Reads a partition from its beginning while it is written, or when it is sealed.
    ///
    /// The stream ends well only after the partition was sealed, with all that is in it. If it never
    /// is, the stream ends with [`Error::PartitionReleased`].
    ///
    /// # Errors
    /// [`Error::PartitionNotFound`] if it is not here and nobody writes it.
    pub fn read_growing(&self, key: &PartitionKey) -> Result<PartitionReader> {
        let (writer, output) = key.writer();
        let growing = {
            let state = self.inner.state.lock();
            let is_sealed = state.sealed.contains_key(key);
            let mut open = state.writers.values().filter(|open| !is_sealed && open.key == writer);
            let found = open.find_map(|open| {
                let partition = open.outputs.get(output)?;
                Some((Arc::clone(partition), open.progress.subscribe()))
            });
            found.inspect(|(partition, _)| {
                partition.readers.fetch_add(1, Ordering::Relaxed);
            })
        };
        match growing {
            Some((partition, progress)) => {
                let inner = Arc::clone(&self.inner);
                Ok(PartitionReader::growing(inner, partition, output, progress))
            }
            None => self.read(key, 0),
        }
    }

    /// Returns the counts of a sealed partition, or `None` if it is not here.
    pub fn counts(&self, key: &PartitionKey) -> Option<PartitionCounts> {
        self.inner.state.lock().sealed.get(key).map(|sealed| sealed.counts.clone())
    }

    /// Returns the bytes that a sealed partition has in memory and in files now, or `None` if it is
    /// not here.
    pub fn sizes(&self, key: &PartitionKey) -> Option<(usize, u64)> {
        self.inner.state.lock().sealed.get(key).map(|sealed| sealed.partition.sizes())
    }

    /// Ends the lease of a query: all its exchange output, sealed or not, is freed, and what its
    /// late attempts want to write is refused.
    pub fn end_query(&self, query: QueryId, readers: Readers) {
        let mut state = self.inner.state.lock();
        state.remember_ended(query, self.inner.config.ended_queries_remembered);
        let keys = state.by_query.get(&query).cloned().unwrap_or_default();
        let writers = state.take_writers(
            |key| matches!(key, WriterKey::Exchange { query: of, .. } if *of == query),
        );
        let partitions = state.take_all(&keys);
        drop(state);
        end(partitions, readers, writers);
    }

    /// Ends the lease of one content of a cached table, sealed or not.
    pub fn end_epoch(&self, table: &Arc<str>, epoch: Epoch, readers: Readers) {
        let mut state = self.inner.state.lock();
        let keys = state.by_table.get(&(Arc::clone(table), epoch)).cloned().unwrap_or_default();
        let writers = state.take_writers(|key| {
            matches!(key, WriterKey::Cached { table: of, epoch: at, .. } if of == table && *at == epoch)
        });
        let partitions = state.take_all(&keys);
        drop(state);
        end(partitions, readers, writers);
    }

    /// Ends the leases of single sealed partitions; those that are not here are passed over.
    ///
    /// Memory is free at once. Disk space is free when all partitions of the same writer are gone.
    pub fn release<'a>(&self, keys: impl IntoIterator<Item = &'a PartitionKey>, readers: Readers) {
        let partitions = self.inner.state.lock().take_all(keys);
        end(partitions, readers, Vec::new());
    }

    /// Returns the bytes that the store holds in memory and on disk; cheap, unlike
    /// [`stats`](Self::stats).
    pub fn held_bytes(&self) -> u64 {
        self.inner.ledger.held_bytes() as u64 + self.inner.budget.used()
    }

    /// Returns how many bytes of rows a batch may have before a writer cuts it.
    pub fn max_batch_bytes(&self) -> usize {
        self.inner.config.max_batch_bytes
    }

    /// Returns what the store holds now.
    pub fn stats(&self) -> StoreStats {
        stats::collect(&self.inner)
    }
}

fn end(partitions: Vec<Arc<Partition>>, readers: Readers, writers: Vec<Arc<OpenWriter>>) {
    for writer in writers {
        writer.end();
    }
    for partition in partitions {
        // One that somebody reads goes with its last reader, which holds it.
        if readers == Readers::Abort || partition.readers.load(Ordering::Relaxed) == 0 {
            partition.free();
        }
    }
}

impl OpenWriter {
    /// Lets go of everything; the writer is told at its next step.
    pub(super) fn end(&self) {
        self.is_ended.store(true, Ordering::Relaxed);
        for partition in &self.outputs {
            partition.free();
        }
        // Those who wait for more find that there is none.
        self.progress.send_modify(|_progress| {});
    }
}

impl StoreInner {
    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes that a partition was used now.
    pub(super) fn touch(&self, partition: &Partition) {
        let tick = self.ticks.fetch_add(1, Ordering::Relaxed);
        partition.last_used.store(tick, Ordering::Relaxed);
    }

    /// Makes all outputs of a writer readable at once.
    pub(super) fn seal(&self, writer: &OpenWriter, counts: &[PartitionCounts]) -> Result<()> {
        let mut state = self.state.lock();
        if !state.writers.contains_key(&writer.id) {
            return Err(Error::WriterEnded { writer: writer.key.clone() });
        }
        if counts.iter().any(|counts| state.sealed.contains_key(&counts.partition)) {
            return Err(Error::AlreadySealed { writer: writer.key.clone() });
        }
        state.writers.remove(&writer.id);
        for (partition, counts) in writer.outputs.iter().zip(counts) {
            let partition = Arc::clone(partition);
            state.put(Sealed { partition, counts: counts.clone() });
        }
        drop(state);
        writer.progress.send_replace(Some(counts.into()));
        Ok(())
    }

    /// Drops a partition that can be made again, unless somebody reads it; returns whether it went.
    pub(super) fn drop_partition(&self, partition: &Arc<Partition>) -> bool {
        let mut state = self.state.lock();
        let is_free = match state.sealed.get(&partition.key) {
            Some(sealed) => {
                Arc::ptr_eq(&sealed.partition, partition)
                    && partition.readers.load(Ordering::Relaxed) == 0
            }
            None => false,
        };
        if !is_free {
            return false;
        }
        state.take_all([&partition.key]);
        drop(state);
        partition.free();
        self.dropped_partitions.fetch_add(1, Ordering::Relaxed);
        true
    }
}

impl State {
    fn put(&mut self, sealed: Sealed) {
        let key = sealed.partition.key.clone();
        let siblings = match &key {
            PartitionKey::Exchange { query, .. } => self.by_query.entry(*query).or_default(),
            PartitionKey::Cached { table, epoch, .. } => {
                self.by_table.entry((Arc::clone(table), *epoch)).or_default()
            }
        };
        siblings.insert(key.clone());
        self.sealed.insert(key, sealed);
    }

    fn take_all<'a>(
        &mut self,
        keys: impl IntoIterator<Item = &'a PartitionKey>,
    ) -> Vec<Arc<Partition>> {
        keys.into_iter().filter_map(|key| self.take(key)).collect()
    }

    fn take(&mut self, key: &PartitionKey) -> Option<Arc<Partition>> {
        let sealed = self.sealed.remove(key)?;
        match key {
            PartitionKey::Exchange { query, .. } => remove_key(self.by_query.entry(*query), key),
            PartitionKey::Cached { table, epoch, .. } => {
                remove_key(self.by_table.entry((Arc::clone(table), *epoch)), key);
            }
        }
        Some(sealed.partition)
    }

    fn take_writers(&mut self, is_meant: impl Fn(&WriterKey) -> bool) -> Vec<Arc<OpenWriter>> {
        self.writers
            .extract_if(|_, writer| is_meant(&writer.key))
            .map(|(_, writer)| writer)
            .collect()
    }

    fn remember_ended(&mut self, query: QueryId, most: usize) {
        if self.ended.insert(query) {
            self.ended_order.push_back(query);
        }
        while self.ended_order.len() > most {
            if let Some(oldest) = self.ended_order.pop_front() {
                self.ended.remove(&oldest);
            }
        }
    }
}

fn remove_key<K>(entry: Entry<'_, K, HashSet<PartitionKey>>, key: &PartitionKey) {
    if let Entry::Occupied(mut entry) = entry {
        entry.get_mut().remove(key);
        if entry.get().is_empty() {
            entry.remove();
        }
    }
}

impl WriterSpec {
    fn check(&self) -> Result<()> {
        let invalid = |option, message: &str| {
            Err(Error::InvalidOption { option, message: message.to_owned() })
        };
        match &self.key {
            WriterKey::Cached { .. } if self.output_count != 1 => {
                invalid("output_count", "a writer of a cached table has one output")
            }
            WriterKey::Exchange { .. } if self.level == StorageLevel::MemoryOnly => {
                invalid("level", "exchange output cannot be dropped")
            }
            _ => Ok(()),
        }
    }
}
