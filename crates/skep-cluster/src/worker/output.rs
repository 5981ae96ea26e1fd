//! What a task writes: its rows split by output, small pieces put together, all sealed at the end.
//!
//! A hash exchange cuts each batch into as many pieces as there are outputs. Kept as they are, they
//! would cost every reader a call, a message and a lookup for a handful of rows; so small pieces
//! wait until they make a batch of the session's size. Large ones pass as they are.
//!
//! A task whose plan gives a single batch is not made to wait or copy: the first batch is held back
//! until there is a second or the end.
//!
//! Batches of the result do not wait at all: the client does.
//!
//! **Invariant:** the rows of one output keep their order.
//!
//! **Invariant:** what waits is accounted in the pool and at most `max_waiting_bytes`, one batch
//! more while it is taken in. Without memory nothing waits: the pieces go to the store, which can
//! write them to disk.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::BatchCoalescer;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::physical_plan::repartition::BatchPartitioner;

use crate::store::{PartitionCounts, PartitionWriter, data_bytes};

/// What a column of no fixed width is reckoned to take per row.
const VARIABLE_WIDTH: usize = 32;

/// Splits, collects and writes the rows of one attempt.
pub(super) struct OutputWriter {
    writer: PartitionWriter,
    partitioner: Option<BatchPartitioner>,
    lanes: Lanes,
    /// The first batch, until there is another.
    first: Option<RecordBatch>,
    has_begun: bool,
    /// Whether nothing waits: somebody reads what is written.
    is_flowing: bool,
    max_waiting_bytes: usize,
    reservation: MemoryReservation,
}

/// How much may wait, and for how many rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    /// Rows of a batch that is worth writing.
    pub(super) batch_size: usize,
    /// Most bytes that wait.
    pub(super) max_bytes: usize,
}

impl OutputWriter {
    pub(super) fn new(
        writer: PartitionWriter,
        schema: SchemaRef,
        output_count: usize,
        partitioner: Option<BatchPartitioner>,
        waiting: Waiting,
        pool: &Arc<dyn MemoryPool>,
    ) -> Self {
        let consumer = MemoryConsumer::new(format!("output of {}", writer.key()));
        Self {
            writer,
            partitioner,
            lanes: Lanes::new(schema, output_count, waiting),
            first: None,
            has_begun: false,
            is_flowing: false,
            max_waiting_bytes: waiting.max_bytes,
            reservation: consumer.register(pool),
        }
    }

    /// Writes every batch as it comes from now on, as those who wait for it want it.
    pub(super) fn let_flow(&mut self) {
        self.is_flowing = true;
        self.lanes.is_passing = true;
    }

    /// Takes a batch. Waits while the store makes room.
    ///
    /// # Errors
    /// What the partitioning expressions or the store fail with.
    pub(super) async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if !self.has_begun && !self.is_flowing {
            let Some(first) = self.first.take() else {
                self.first = Some(batch);
                return Ok(());
            };
            self.has_begun = true;
            self.split(first)?;
        }
        self.split(batch)?;
        self.append_ready().await?;
        self.bound().await
    }

    /// Writes what waits and makes all readable; returns what is in each output, and how many bytes
    /// of them went to files before they were sealed.
    ///
    /// # Errors
    /// As of [`write`](Self::write).
    pub(super) async fn seal(mut self) -> Result<(Vec<PartitionCounts>, u64)> {
        if let Some(only) = self.first.take() {
            self.lanes.is_passing = true;
            self.split(only)?;
        }
        self.lanes.flush_all()?;
        self.append_ready().await?;
        self.reservation.free();
        let spilled_bytes = self.writer.spilled_bytes();
        Ok((self.writer.seal().await?, spilled_bytes))
    }

    fn split(&mut self, batch: RecordBatch) -> Result<()> {
        self.lanes.take_note(&batch);
        match &mut self.partitioner {
            None => self.lanes.place(0, batch),
            Some(partitioner) => {
                for piece in partitioner.partition_iter(batch)? {
                    let (output, piece) = piece?;
                    self.lanes.place(output, piece)?;
                }
                Ok(())
            }
        }
    }

    async fn append_ready(&mut self) -> Result<()> {
        let mut ready = std::mem::take(&mut self.lanes.ready);
        for (output, batch) in ready.drain(..) {
            self.writer.append(output, batch).await?;
        }
        self.lanes.ready = ready;
        Ok(())
    }

    /// Accounts what waits, or lets it go if it is too much.
    async fn bound(&mut self) -> Result<()> {
        let waiting = self.lanes.waiting_bytes();
        let fits = waiting <= self.max_waiting_bytes;
        if fits && self.reservation.try_resize(waiting).is_ok() {
            return Ok(());
        }
        self.lanes.flush_all()?;
        let written = self.append_ready().await;
        self.reservation.resize(self.lanes.waiting_bytes());
        written
    }
}

/// The pieces that wait, by output.
struct Lanes {
    schema: SchemaRef,
    lanes: Vec<Option<BatchCoalescer>>,
    /// Rows of a batch that is worth writing.
    target_rows: usize,
    /// What is to be written next, in order.
    ready: Vec<(usize, RecordBatch)>,
    /// What the coalescers hold, as they say.
    buffered_bytes: usize,
    /// Whether some column waits as slices of what it came in, and not as a copy.
    keeps_slices: bool,
    /// The bytes of all batches of which such slices may be left.
    sliced_bytes: usize,
    /// Whether nothing waits: there will be no more.
    is_passing: bool,
}

impl Lanes {
    fn new(schema: SchemaRef, output_count: usize, waiting: Waiting) -> Self {
        let kinds = || schema.fields().iter().map(|field| field.data_type());
        // Coalescers set the room for a whole batch aside at once; half of the bound may go there.
        let row_bytes: usize = kinds().map(width).sum();
        let most = (waiting.max_bytes / 2).checked_div(output_count * row_bytes);
        let target_rows = waiting.batch_size.min(most.unwrap_or(usize::MAX)).max(1);
        let keeps_slices = !kinds().all(is_copied);
        Self {
            lanes: std::iter::repeat_with(|| None).take(output_count).collect(),
            schema,
            target_rows,
            ready: Vec::new(),
            buffered_bytes: 0,
            keeps_slices,
            sliced_bytes: 0,
            is_passing: false,
        }
    }

    /// Takes note of a batch whose pieces come next.
    fn take_note(&mut self, batch: &RecordBatch) {
        if self.keeps_slices {
            self.sliced_bytes += data_bytes(batch);
        }
    }

    fn place(&mut self, output: usize, piece: RecordBatch) -> Result<()> {
        // Halves of a full batch are large: with two outputs nothing is copied.
        let is_large = piece.num_rows() * 5 >= self.target_rows * 2;
        if is_large || self.is_passing {
            self.flush(output)?;
            self.ready.push((output, piece));
            return Ok(());
        }
        let (lane, schema, target_rows) = (&mut self.lanes[output], &self.schema, self.target_rows);
        let before = lane.as_ref().map_or(0, BatchCoalescer::size);
        let lane = lane.get_or_insert_with(|| BatchCoalescer::new(Arc::clone(schema), target_rows));
        lane.push_batch(piece)?;
        while let Some(batch) = lane.next_completed_batch() {
            self.ready.push((output, batch));
        }
        self.buffered_bytes = (self.buffered_bytes + lane.size()).saturating_sub(before);
        Ok(())
    }

    fn flush(&mut self, output: usize) -> Result<()> {
        let Some(lane) = &mut self.lanes[output] else { return Ok(()) };
        let before = lane.size();
        lane.finish_buffered_batch()?;
        while let Some(batch) = lane.next_completed_batch() {
            self.ready.push((output, batch));
        }
        self.buffered_bytes = (self.buffered_bytes + lane.size()).saturating_sub(before);
        Ok(())
    }

    fn flush_all(&mut self) -> Result<()> {
        for output in 0..self.lanes.len() {
            self.flush(output)?;
        }
        self.sliced_bytes = 0;
        Ok(())
    }

    fn waiting_bytes(&mut self) -> usize {
        if !self.keeps_slices {
            return self.buffered_bytes;
        }
        // With one lane, as of a gather, this is often so.
        if self.lanes.iter().flatten().all(|lane| lane.get_buffered_rows() == 0) {
            self.sliced_bytes = 0;
        }
        self.sliced_bytes
    }
}

/// Tells whether arrow's coalescer copies the rows of a column as they come.
fn is_copied(kind: &DataType) -> bool {
    kind.is_primitive() || matches!(kind, DataType::Utf8View | DataType::BinaryView)
}

fn width(kind: &DataType) -> usize {
    match kind {
        DataType::Utf8View | DataType::BinaryView => size_of::<u128>(),
        kind => kind.primitive_width().unwrap_or(VARIABLE_WIDTH),
    }
}
