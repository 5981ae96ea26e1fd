//! One partition: a list of chunks of batches, each in memory or in a frame of a file.
//!
//! **Invariant:** chunks are only ever appended, and which batches a chunk has never changes once
//! the next one has begun; so a batch keeps its number wherever it lies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use parking_lot::Mutex;

use crate::eviction::{ContentKey, Descriptor, Purpose};
use crate::frame::{Form, FrameCounts};
use crate::key::{PartitionKey, StorageLevel};
use crate::ledger::Held;
use crate::spill::{Extent, SpillFile};

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) id: u64,
    pub(super) key: PartitionKey,
    pub(super) schema: SchemaRef,
    pub(super) level: StorageLevel,
    pub(super) last_used: AtomicU64,
    pub(super) readers: AtomicUsize,
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    chunks: Vec<Chunk>,
    /// Bytes of the chunks in memory.
    memory_bytes: usize,
    /// Those of them that are on their way to disk.
    spilling_bytes: usize,
    disk_bytes: u64,
    is_freed: bool,
    /// Shared with the writer's other outputs; none once the partition is freed.
    file: Option<Arc<SpillFile>>,
}

#[derive(Debug)]
enum Chunk {
    Memory {
        held: Vec<Held>,
        bytes: usize,
        is_spilling: bool,
    },
    Spilled(Extent),
    /// Let go by its only reader.
    Gone {
        batches: u64,
        rows: u64,
    },
}

/// What a reader finds at a place.
#[derive(Debug)]
pub(super) enum Found {
    Batch(RecordBatch),
    Frame(Arc<SpillFile>, Extent),
    /// There is another chunk.
    EndOfChunk,
    /// There is no more, or not yet.
    EndOfPartition,
    Freed,
}

/// A chunk that is to become a frame. Dropped without [`Partition::finish_spill`] it stays in memory.
#[derive(Debug)]
pub(super) struct SpillTicket {
    pub(super) partition: Arc<Partition>,
    pub(super) batches: Vec<RecordBatch>,
    pub(super) bytes: usize,
    chunk: usize,
    is_done: bool,
}

impl Partition {
    pub(super) fn new(
        id: u64,
        key: PartitionKey,
        schema: SchemaRef,
        level: StorageLevel,
        file: Arc<SpillFile>,
    ) -> Self {
        Self {
            id,
            key,
            schema,
            level,
            last_used: AtomicU64::new(0),
            readers: AtomicUsize::new(0),
            contents: Mutex::new(Contents { file: Some(file), ..Contents::default() }),
        }
    }

    pub(super) fn purpose(&self) -> Purpose {
        match self.key {
            PartitionKey::Exchange { .. } => Purpose::Exchange,
            PartitionKey::Cached { .. } => Purpose::Cached,
        }
    }

    /// Returns the content of a cached table that it is of, if any.
    pub(super) fn content(&self) -> Option<ContentKey> {
        match &self.key {
            PartitionKey::Exchange { .. } => None,
            PartitionKey::Cached { table, epoch, .. } => Some((Arc::clone(table), *epoch)),
        }
    }

    /// Returns the batches and rows of a chunk that is on disk.
    pub(super) fn spilled_counts(&self, chunk: usize) -> Option<(u64, u64)> {
        match self.contents.lock().chunks.get(chunk) {
            Some(chunk @ Chunk::Spilled(_)) => Some(chunk.counts()),
            _ => None,
        }
    }

    /// Returns how its batches are written into frames.
    pub(super) fn form(&self) -> Form<'_> {
        match self.purpose() {
            Purpose::Exchange => Form::OneSchema(&self.schema),
            Purpose::Cached => Form::OwnSchemas,
        }
    }

    /// Describes the partition for a decision about memory and disk.
    pub(super) fn describe(&self, is_sealed: bool) -> Descriptor {
        let contents = self.contents.lock();
        Descriptor {
            id: self.id,
            purpose: self.purpose(),
            content: self.content(),
            level: self.level,
            is_sealed,
            memory_bytes: contents.memory_bytes - contents.spilling_bytes,
            disk_bytes: contents.disk_bytes,
            last_used: self.last_used.load(Ordering::Relaxed),
            readers: self.readers.load(Ordering::Relaxed),
        }
    }

    /// Returns bytes in memory and on disk; a buffer that batches share counts for each of them.
    pub(super) fn sizes(&self) -> (usize, u64) {
        let contents = self.contents.lock();
        (contents.memory_bytes, contents.disk_bytes)
    }

    /// Adds a batch; returns whether the partition is still wanted.
    pub(super) fn append(&self, batch: Held, chunk_bytes: usize) -> bool {
        let added = batch.footprint.total;
        let mut contents = self.contents.lock();
        if contents.is_freed {
            return false;
        }
        contents.memory_bytes += added;
        match contents.chunks.last_mut() {
            Some(Chunk::Memory { held, bytes, is_spilling: false }) if *bytes < chunk_bytes => {
                held.push(batch);
                *bytes += added;
            }
            _ => contents.chunks.push(Chunk::Memory {
                held: vec![batch],
                bytes: added,
                is_spilling: false,
            }),
        }
        true
    }

    /// Returns what lies at batch `index` of chunk `chunk`.
    pub(super) fn find(&self, chunk: usize, index: usize) -> Found {
        let contents = self.contents.lock();
        if contents.is_freed {
            return Found::Freed;
        }
        match contents.chunks.get(chunk) {
            None => Found::EndOfPartition,
            Some(Chunk::Memory { held, .. }) => match held.get(index) {
                Some(held) => Found::Batch(held.batch.clone()),
                None => contents.end_of(chunk),
            },
            Some(Chunk::Spilled(extent)) => match &contents.file {
                Some(file) if index < extent.counts.batches as usize => {
                    Found::Frame(Arc::clone(file), *extent)
                }
                _ => contents.end_of(chunk),
            },
            Some(Chunk::Gone { .. }) => Found::Freed,
        }
    }

    /// Lets go of the batches of a chunk that are in memory: nobody will read them again.
    pub(super) fn let_go(&self, chunk: usize) {
        let mut contents = self.contents.lock();
        let Some(content) = contents.chunks.get_mut(chunk) else { return };
        // What is on its way to disk is left to whoever writes it.
        let Chunk::Memory { bytes, is_spilling: false, .. } = content else { return };
        let bytes = *bytes;
        let (batches, rows) = content.counts();
        let gone = std::mem::replace(content, Chunk::Gone { batches, rows });
        contents.memory_bytes -= bytes;
        // Batches go after the lock: giving memory back takes a lock of the pool.
        drop(contents);
        drop(gone);
    }

    /// Finds batch `start`: its chunk, its place there, and the rows before it in whole chunks.
    pub(super) fn seek(&self, start: u64) -> (usize, usize, u64) {
        let contents = self.contents.lock();
        let (mut left, mut rows) = (start, 0);
        for (chunk, content) in contents.chunks.iter().enumerate() {
            let (chunk_batches, chunk_rows) = content.counts();
            if left < chunk_batches {
                return (chunk, left as usize, rows);
            }
            left -= chunk_batches;
            rows += chunk_rows;
        }
        (contents.chunks.len(), 0, rows)
    }

    /// Marks everything in memory as on its way to disk.
    pub(super) fn begin_spill(self: &Arc<Self>) -> Vec<SpillTicket> {
        let mut contents = self.contents.lock();
        let mut tickets = Vec::new();
        let mut marked = 0;
        for (chunk, content) in contents.chunks.iter_mut().enumerate() {
            if let Chunk::Memory { held, bytes, is_spilling } = content
                && !*is_spilling
            {
                *is_spilling = true;
                marked += *bytes;
                tickets.push(SpillTicket {
                    partition: Arc::clone(self),
                    batches: held.iter().map(|held| held.batch.clone()).collect(),
                    bytes: *bytes,
                    chunk,
                    is_done: false,
                });
            }
        }
        contents.spilling_bytes += marked;
        tickets
    }

    /// Lets go of everything now; whoever reads or writes is told at the next step.
    pub(super) fn free(&self) {
        // Batches go after the lock: giving memory back takes a lock of the pool.
        let freed = {
            let mut contents = self.contents.lock();
            std::mem::replace(&mut *contents, Contents { is_freed: true, ..Contents::default() })
        };
        drop(freed);
    }

    /// Returns the file for what is spilled, or `None` if nobody wants the partition any more.
    pub(super) fn file(&self) -> Option<Arc<SpillFile>> {
        self.contents.lock().file.clone()
    }

    pub(super) fn owner(&self) -> u32 {
        crc32fast::hash(self.key.to_string().as_bytes())
    }
}

impl Contents {
    /// Says what comes behind the last batch of a chunk. The last chunk may still grow.
    fn end_of(&self, chunk: usize) -> Found {
        match chunk + 1 < self.chunks.len() {
            true => Found::EndOfChunk,
            false => Found::EndOfPartition,
        }
    }
}

impl Chunk {
    /// Returns batches and rows.
    fn counts(&self) -> (u64, u64) {
        match self {
            Self::Memory { held, .. } => {
                let rows = held.iter().map(|held| held.batch.num_rows() as u64).sum();
                (held.len() as u64, rows)
            }
            Self::Spilled(extent) => (u64::from(extent.counts.batches), extent.counts.rows),
            Self::Gone { batches, rows } => (*batches, *rows),
        }
    }
}

impl SpillTicket {
    pub(super) fn counts(&self) -> FrameCounts {
        FrameCounts {
            rows: self.batches.iter().map(|batch| batch.num_rows() as u64).sum(),
            batches: self.batches.len() as u32,
            owner: self.partition.owner(),
        }
    }

    /// Puts the frame in the place of the batches and returns how many bytes that let go of.
    pub(super) fn finish(mut self, extent: Extent) -> usize {
        self.is_done = true;
        let mut contents = self.partition.contents.lock();
        if contents.is_freed {
            return 0;
        }
        let Some(chunk) = contents.chunks.get_mut(self.chunk) else { return 0 };
        let spilled = std::mem::replace(chunk, Chunk::Spilled(extent));
        contents.memory_bytes -= self.bytes;
        contents.spilling_bytes -= self.bytes;
        contents.disk_bytes += extent.length as u64;
        drop(contents);
        drop(spilled);
        self.bytes
    }
}

impl Drop for SpillTicket {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let mut contents = self.partition.contents.lock();
        let unmarked = match contents.chunks.get_mut(self.chunk) {
            Some(Chunk::Memory { is_spilling, .. }) => std::mem::take(is_spilling),
            _ => false,
        };
        if unmarked {
            contents.spilling_bytes -= self.bytes;
        }
    }
}
