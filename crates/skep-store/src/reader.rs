//! Reading a sealed partition, or one that is still written.
//!
//! Who is the only one that will ever read a partition may let go of it on the way
//! ([`PartitionReader::letting_go`]): then a writer and a reader of the same speed hold little,
//! however much goes through.
//!
//! **Invariant:** a partition that is still written is looked at for its next batch only after the
//! reader has taken note of how far its writer is: what comes later wakes it.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt, ready};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::frame;
use crate::partition::{Found, Partition};
use crate::partition_store::{Sealed, StoreInner};
use crate::pressure::blocking;
use crate::spill::{Extent, SpillFile};
use crate::writer::PartitionCounts;

/// The batches of a sealed partition, in the order in which they were written.
///
/// Batches in memory are handed over as they are; of those on disk one frame is in memory at a
/// time, accounted in the pool. The stream ends after the last batch and only if all were there;
/// after an error it ends.
pub struct PartitionReader {
    inner: Arc<StoreInner>,
    sealed: Sealed,
    chunk: usize,
    /// The next batch within the chunk.
    index: usize,
    batches_passed: u64,
    rows_passed: u64,
    /// Whether rows that were skipped are still to be counted in the first chunk.
    first_skipped: usize,
    frame: VecDeque<RecordBatch>,
    frame_memory: Option<MemoryReservation>,
    loading: Option<BoxFuture<'static, Result<Frame>>>,
    /// Which batches of the partition are wanted, by their numbers; `None` for all.
    wanted: Option<Arc<[bool]>>,
    /// Until it is known to be sealed.
    growth: Option<Growth>,
    lets_go: bool,
    is_done: bool,
}

/// How far the writer of a partition is.
struct Growth {
    output: usize,
    progress: Progress,
    /// The next news.
    news: Option<BoxFuture<'static, Progress>>,
}

type Progress = watch::Receiver<Option<Arc<[PartitionCounts]>>>;

impl Growth {
    fn wait_for_news(&mut self) {
        let mut progress = self.progress.clone();
        self.news = Some(Box::pin(async move {
            // A writer that is gone has freed the partition before.
            let _is_there = progress.changed().await;
            progress
        }));
    }
}

struct Frame {
    batches: Vec<RecordBatch>,
    memory: MemoryReservation,
}

impl PartitionReader {
    /// Takes over a reader that the partition has counted already.
    pub(super) fn new(inner: Arc<StoreInner>, sealed: Sealed, start: u64) -> Self {
        let (chunk, index, rows) = sealed.partition.seek(start);
        inner.touch(&sealed.partition);
        Self {
            inner,
            sealed,
            chunk,
            // Those before the start in the same chunk are passed one by one, to count their rows.
            index: 0,
            batches_passed: start - index as u64,
            rows_passed: rows,
            first_skipped: index,
            frame: VecDeque::new(),
            frame_memory: None,
            loading: None,
            wanted: None,
            growth: None,
            lets_go: false,
            is_done: false,
        }
    }

    /// Returns another reader of the same partition, from its first batch on. It has what the
    /// partition had even if its lease has ended since.
    pub fn again(&self) -> Self {
        self.sealed.partition.readers.fetch_add(1, Ordering::Relaxed);
        Self::new(Arc::clone(&self.inner), self.sealed.clone(), 0)
    }

    /// Passes only those batches on whose numbers are wanted. What lies on disk is not read where
    /// none of a frame is.
    ///
    /// Shape: `wanted` has an entry for each batch of the partition; batches beyond its end are wanted.
    pub fn only(mut self, wanted: Arc<[bool]>) -> Self {
        self.wanted = Some(wanted);
        self
    }

    /// Gives the memory of what was passed on back, as if it had never been there: nobody can read
    /// it again, this reader's [`again`](Self::again) included. What lies on disk stays there until
    /// the lease ends.
    pub fn letting_go(mut self) -> Self {
        self.lets_go = true;
        self
    }

    /// Takes over a reader that the partition has counted already, and that may not be sealed yet.
    pub(super) fn growing(
        inner: Arc<StoreInner>,
        partition: Arc<Partition>,
        output: usize,
        progress: Progress,
    ) -> Self {
        let key = partition.key.clone();
        let counts = PartitionCounts { partition: key, batches: u64::MAX, rows: 0, bytes: 0 };
        let growth = Growth { output, progress, news: None };
        let sealed = Sealed { partition, counts };
        let mut reader = Self::new(inner, sealed, 0);
        reader.growth = Some(growth);
        reader
    }

    /// Returns what the whole partition has, whatever batch the reader began at. Of one that is
    /// still written nothing is known: it may have any number of batches.
    pub fn counts(&self) -> &PartitionCounts {
        &self.sealed.counts
    }

    /// Returns the columns of every batch.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.sealed.partition.schema)
    }

    /// Makes it a stream that DataFusion's operators read.
    pub fn into_stream(self) -> SendableRecordBatchStream {
        let schema = self.schema();
        let batches = self.map(|batch| batch.map_err(DataFusionError::from));
        Box::pin(RecordBatchStreamAdapter::new(schema, batches))
    }

    /// Returns the next batch, those before the start included.
    fn poll_any(&mut self, ctx: &mut Context<'_>) -> Poll<Result<Option<RecordBatch>>> {
        loop {
            if let Some(loading) = &mut self.loading {
                let outcome = ready!(loading.as_mut().poll(ctx));
                self.loading = None;
                let frame = outcome?;
                self.frame = frame.batches.into();
                self.frame_memory = Some(frame.memory);
                // The frame is the whole chunk; memory may have given the first of it.
                self.frame.drain(..self.index.min(self.frame.len()));
            }
            if self.index == 0 && self.frame.is_empty() && self.skips_frame() {
                continue;
            }
            ready!(self.take_note(ctx));
            match self.sealed.partition.find(self.chunk, self.index) {
                Found::Freed => return Poll::Ready(Err(self.released())),
                Found::EndOfPartition => match &mut self.growth {
                    Some(growth) => growth.wait_for_news(),
                    None => return Poll::Ready(self.check_complete().map(|()| None)),
                },
                Found::EndOfChunk => {
                    if self.lets_go {
                        self.sealed.partition.let_go(self.chunk);
                    }
                    self.chunk += 1;
                    self.index = 0;
                    self.frame_memory = None;
                    self.inner.touch(&self.sealed.partition);
                }
                Found::Batch(batch) => return Poll::Ready(Ok(Some(self.pass(batch)))),
                Found::Frame(file, extent) => match self.frame.pop_front() {
                    Some(batch) => return Poll::Ready(Ok(Some(self.pass(batch)))),
                    None => self.loading = Some(self.load(file, extent)),
                },
            }
        }
    }

    fn is_wanted(&self, batch: u64) -> bool {
        let wanted = self.wanted.as_deref();
        wanted.and_then(|wanted| wanted.get(batch as usize)).copied().unwrap_or(true)
    }

    /// Goes past a frame of which no batch is wanted; returns whether it did.
    fn skips_frame(&mut self) -> bool {
        if self.wanted.is_none() || self.first_skipped > 0 {
            return false;
        }
        let Some((batches, rows)) = self.sealed.partition.spilled_counts(self.chunk) else {
            return false;
        };
        let numbers = self.batches_passed..self.batches_passed + batches;
        if numbers.into_iter().any(|batch| self.is_wanted(batch)) {
            return false;
        }
        self.batches_passed += batches;
        self.rows_passed += rows;
        self.chunk += 1;
        true
    }

    /// Takes note of how far the writer is, if there may still be one.
    fn take_note(&mut self, ctx: &mut Context<'_>) -> Poll<()> {
        let Some(growth) = &mut self.growth else { return Poll::Ready(()) };
        if let Some(news) = &mut growth.news {
            growth.progress = ready!(news.as_mut().poll(ctx));
            growth.news = None;
        }
        let sealed = growth.progress.borrow_and_update().clone();
        if let Some(counts) = sealed.and_then(|all| all.get(growth.output).cloned()) {
            self.sealed.counts = counts;
            self.growth = None;
        }
        Poll::Ready(())
    }

    fn pass(&mut self, batch: RecordBatch) -> RecordBatch {
        self.index += 1;
        self.batches_passed += 1;
        self.rows_passed += batch.num_rows() as u64;
        batch
    }

    fn released(&self) -> Error {
        Error::PartitionReleased { partition: self.sealed.partition.key.clone() }
    }

    fn check_complete(&self) -> Result<()> {
        let counts = &self.sealed.counts;
        if (self.batches_passed, self.rows_passed) == (counts.batches, counts.rows) {
            return Ok(());
        }
        Err(Error::PartitionDamaged {
            partition: counts.partition.clone(),
            message: format!(
                "it ended after {} rows in {} batches, {} in {} were sealed",
                self.rows_passed, self.batches_passed, counts.rows, counts.batches
            ),
        })
    }

    fn load(&self, file: Arc<SpillFile>, extent: Extent) -> BoxFuture<'static, Result<Frame>> {
        let inner = Arc::clone(&self.inner);
        let partition = Arc::clone(&self.sealed.partition);
        Box::pin(async move {
            // Before the permit: making room takes one of its own.
            let memory = inner.scratch(extent.length + extent.memory_bytes).await;
            let permit = inner.io_permit().await?;
            let read = blocking(move || {
                let _permit = permit;
                load_frame(&partition, &file, &extent)
            });
            let batches = read.await?;
            // The bytes of the file are gone, the batches stay.
            memory.shrink(extent.length);
            Ok(Frame { batches, memory })
        })
    }
}

fn load_frame(
    partition: &Partition,
    file: &SpillFile,
    extent: &Extent,
) -> Result<Vec<RecordBatch>> {
    let damaged = |message| Error::PartitionDamaged { partition: partition.key.clone(), message };
    let frame = file.read(extent).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("its file is cut off".to_owned()),
        _ => damaged(format!("its file cannot be read: {error}")),
    })?;
    frame::decode(partition.form(), frame, extent.counts).map_err(damaged)
}

impl Stream for PartitionReader {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let reader = &mut *self;
        if reader.is_done {
            return Poll::Ready(None);
        }
        loop {
            let outcome = ready!(reader.poll_any(ctx));
            if matches!(outcome, Ok(Some(_))) && reader.first_skipped > 0 {
                reader.first_skipped -= 1;
                continue;
            }
            if matches!(outcome, Ok(Some(_))) && !reader.is_wanted(reader.batches_passed - 1) {
                continue;
            }
            if !matches!(outcome, Ok(Some(_))) {
                reader.is_done = true;
                reader.frame.clear();
                reader.frame_memory = None;
            }
            return Poll::Ready(outcome.transpose());
        }
    }
}

impl fmt::Debug for PartitionReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionReader")
            .field("counts", &self.sealed.counts)
            .field("batches_passed", &self.batches_passed)
            .finish_non_exhaustive()
    }
}

impl Drop for PartitionReader {
    fn drop(&mut self) {
        self.sealed.partition.readers.fetch_sub(1, Ordering::Relaxed);
    }
}
