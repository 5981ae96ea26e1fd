//! Writing partitions, and sealing them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;

use crate::error::{Error, Result};
use crate::footprint::{self, Footprint};
use crate::key::{PartitionKey, StorageLevel, WriterKey};
use crate::partition_store::{OpenWriter, StoreInner};
use crate::pressure::{ROUNDS, Victim, blocking};

/// What a writer writes.
#[derive(Debug, Clone)]
pub struct WriterSpec {
    /// Its name.
    pub key: WriterKey,
    /// The columns of every output. The batches of a cached table have as many, but may have them
    /// in other types, each batch its own: they are encoded.
    pub schema: SchemaRef,
    /// How many outputs it has.
    pub output_count: usize,
    /// Where the outputs may be kept.
    pub level: StorageLevel,
}

/// What is in a sealed partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionCounts {
    /// The partition.
    pub partition: PartitionKey,
    /// How many batches it has.
    pub batches: u64,
    /// How many rows.
    pub rows: u64,
    /// Bytes that the rows need in memory, which is not what they cost in it or on disk.
    pub bytes: u64,
}

/// Collects the outputs of one writer. Dropped before it is sealed, it leaves nothing.
#[derive(Debug)]
pub struct PartitionWriter {
    inner: Arc<StoreInner>,
    open: Arc<OpenWriter>,
    schema: SchemaRef,
    counts: Vec<PartitionCounts>,
    /// Bytes that the outputs have in memory, at most: others may have sent some to disk.
    own_bytes: usize,
    /// Bytes that they may have there, even if there is more room.
    most_bytes: Option<usize>,
    /// Whether an append was given up half-way: what it was to add is missing.
    is_torn: bool,
}

impl PartitionWriter {
    pub(super) fn new(inner: Arc<StoreInner>, open: Arc<OpenWriter>, schema: SchemaRef) -> Self {
        let counts = open
            .outputs
            .iter()
            .map(|output| PartitionCounts {
                partition: output.key.clone(),
                batches: 0,
                rows: 0,
                bytes: 0,
            })
            .collect();
        Self { inner, open, schema, counts, own_bytes: 0, most_bytes: None, is_torn: false }
    }

    /// Bounds what the outputs have in memory until they are sealed, even where there is more room:
    /// what is beyond goes to disk. For what may be more than its reader takes in a long time.
    ///
    /// Units: bytes of batches; one more may come to it before the rest goes.
    pub fn hold_at_most(&mut self, bytes: usize) {
        self.most_bytes = Some(bytes);
    }

    /// Adds a batch to an output. Waits while memory is made free.
    ///
    /// A batch that is larger than `max_batch_bytes` becomes several.
    ///
    /// # Errors
    /// [`Error::SchemaMismatch`]; [`Error::WriterEnded`]; [`Error::MemoryExhausted`] for a
    /// memory-only partition; [`Error::DiskLimit`], [`Error::DiskFull`] or [`Error::Io`] if memory
    /// can be made free only by writing, and that fails. A writer that failed cannot be sealed.
    pub async fn append(&mut self, output: usize, batch: RecordBatch) -> Result<()> {
        // Stays set if an error or the end of this future comes first.
        if std::mem::replace(&mut self.is_torn, true) {
            return Err(self.torn());
        }
        if output >= self.counts.len() {
            return Err(Error::internal(format!(
                "output {output} of \"{}\", which has {}",
                self.open.key,
                self.counts.len()
            )));
        }
        let batch = self.adopt(batch)?;
        for (piece, bytes) in footprint::pieces(batch, self.inner.config.max_batch_bytes) {
            self.append_piece(output, piece, bytes).await?;
        }
        self.is_torn = false;
        Ok(())
    }

    /// Makes all outputs readable at once and returns what is in them, in order.
    ///
    /// # Errors
    /// [`Error::WriterEnded`] if the lease has ended, [`Error::AlreadySealed`] if another writer of
    /// this name was first; both leave nothing of this one.
    pub async fn seal(mut self) -> Result<Vec<PartitionCounts>> {
        if self.is_torn {
            return Err(self.torn());
        }
        if self.open.outputs.iter().any(|output| output.level == StorageLevel::DiskOnly) {
            self.spill_own().await?;
        }
        self.inner.seal(&self.open, &self.counts)?;
        Ok(self.counts.clone())
    }

    /// Returns how many bytes of its outputs lie in files so far, as they are there.
    pub fn spilled_bytes(&self) -> u64 {
        self.open.outputs.iter().map(|output| output.sizes().1).sum()
    }

    /// Returns the writer's name.
    pub fn key(&self) -> &WriterKey {
        &self.open.key
    }

    fn torn(&self) -> Error {
        Error::internal(format!("\"{}\" goes on after a write that failed", self.open.key))
    }

    /// Gives the batch the writer's schema, so that every batch of an exchange has the same. Those of
    /// a cached table are encoded each for itself, and keep theirs.
    fn adopt(&self, batch: RecordBatch) -> Result<RecordBatch> {
        if matches!(self.open.key, WriterKey::Cached { .. }) {
            let (given, expected) = (batch.num_columns(), self.schema.fields().len());
            if given == expected {
                return Ok(batch);
            }
            let message = format!("{given} in place of {expected}");
            return Err(Error::SchemaMismatch { writer: self.open.key.clone(), message });
        }
        if Arc::ptr_eq(batch.schema_ref(), &self.schema) {
            return Ok(batch);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns().to_vec();
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(
            |error| Error::SchemaMismatch {
                writer: self.open.key.clone(),
                message: error.to_string(),
            },
        )
    }

    async fn append_piece(
        &mut self,
        output: usize,
        batch: RecordBatch,
        bytes: usize,
    ) -> Result<()> {
        // Empty slices keep buffers for nothing, and arrow cannot read back those of run arrays.
        let batch = match batch.num_rows() {
            0 if batch.num_columns() > 0 => RecordBatch::new_empty(batch.schema()),
            _ => batch,
        };
        let batch = footprint::compact(batch).map_err(|error| {
            Error::internal(format!("cannot compact a batch of \"{}\": {error}", self.open.key))
        })?;
        let rows = batch.num_rows() as u64;
        let footprint = Footprint::of(&batch);
        let level = self.open.outputs[output].level;
        let added = footprint.total;
        let held = match self.inner.ledger.try_hold(batch, footprint) {
            Ok(held) => held,
            Err((batch, footprint)) => self.hold_under_pressure(level, batch, footprint).await?,
        };
        self.own_bytes += added;
        let partition = &self.open.outputs[output];
        self.inner.touch(partition);
        let is_wanted = partition.append(held, self.inner.config.spill_chunk_bytes);
        if !is_wanted || self.open.is_ended.load(Ordering::Relaxed) {
            return Err(Error::WriterEnded { writer: self.open.key.clone() });
        }
        // To those who wait for it, if there are any.
        if self.open.progress.receiver_count() > 0 {
            self.open.progress.send_modify(|_progress| {});
        }
        let counts = &mut self.counts[output];
        counts.batches += 1;
        counts.rows += rows;
        counts.bytes += bytes as u64;
        let most = match level {
            StorageLevel::DiskOnly => Some(self.inner.config.write_buffer_bytes),
            StorageLevel::MemoryAndDisk | StorageLevel::MemoryOnly => self.most_bytes,
        };
        if let Some(most) = most
            && !self.fits(0, most)
        {
            self.spill_own().await?;
        }
        Ok(())
    }

    async fn hold_under_pressure(
        &mut self,
        level: StorageLevel,
        mut batch: RecordBatch,
        mut footprint: Footprint,
    ) -> Result<crate::ledger::Held> {
        let ledger = Arc::clone(&self.inner.ledger);
        let content = self.open.outputs[0].content();
        let needed = footprint.total;
        // Each writer has a little in any case, or one batch a frame would go to disk.
        let buffer = self.inner.config.write_buffer_bytes;
        if level != StorageLevel::MemoryOnly && self.fits(needed, buffer) {
            return Ok(ledger.hold(batch, footprint));
        }
        for _ in 0..ROUNDS {
            let has_room = self.inner.make_room(needed, content.as_ref()).await?;
            if !has_room {
                self.inner.settle().await?;
            }
            match ledger.try_hold(batch, footprint) {
                Ok(held) => return Ok(held),
                Err(given_back) => (batch, footprint) = given_back,
            }
            if !has_room {
                break;
            }
        }
        // Nobody has anything to give: others hold all of the pool.
        if level == StorageLevel::MemoryOnly {
            return Err(Error::MemoryExhausted { writer: self.open.key.clone(), needed });
        }
        self.spill_own().await?;
        Ok(ledger.hold(batch, footprint))
    }

    /// Returns whether the outputs have no more than `most` bytes in memory with `needed` more.
    fn fits(&mut self, needed: usize, most: usize) -> bool {
        if self.own_bytes + needed > most {
            // Asking all outputs is worth it only when the answer may have changed.
            self.own_bytes = self.open.outputs.iter().map(|output| output.sizes().0).sum();
        }
        self.own_bytes + needed <= most
    }

    async fn spill_own(&mut self) -> Result<()> {
        let permit = self.inner.io_permit().await?;
        let inner = Arc::clone(&self.inner);
        let victims = self.open.outputs.iter().map(Arc::clone).map(Victim::Spill).collect();
        blocking(move || {
            let _permit = permit;
            inner.evict(victims, usize::MAX)
        })
        .await?;
        self.own_bytes = 0;
        Ok(())
    }
}

impl Drop for PartitionWriter {
    fn drop(&mut self) {
        let unsealed = self.inner.state.lock().writers.remove(&self.open.id);
        if let Some(open) = unsealed {
            open.end();
        }
    }
}
