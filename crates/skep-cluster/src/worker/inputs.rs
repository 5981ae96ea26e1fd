//! Where a task finds what it reads: in the store of its own site, or on another through a stream.
//!
//! **Invariant:** a batch of this site's own store is handed over as it lies there.
//!
//! **Invariant:** a producer that none of the launch's sources names has no rows; one that is named
//! and cannot be read is an error which names it, and where it was to be.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::BatchCoalescer;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::internal_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{EmptyRecordBatchStream, ExecutionPlan};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;
use skep_engine::{CachedRows, CachedShape, CachedSource, RowsWanted, StoreFailure};

use super::arrivals::Arrivals;
use super::copies::Copies;
use crate::cache::kept::{KeptPartitions, store_key};
use crate::error::Error;
use crate::exchange::fetch::{Arrival, CachedColumns, Fetcher, RemoteOutput, TaskFetcher};
use crate::exchange::plan::{ExchangePart, ExchangeSource};
use crate::ids::StageId;
use crate::scheduler::{CachedKey, FetchFault, Site, Source, TaskAttempt};
use crate::stage_planner;
use crate::store::{PartitionKey, PartitionStore, Readers, data_bytes};

/// Where sites are: HOST:PORT of each.
pub(super) type Peers = HashMap<Site, String>;

/// An input could not be read. Crosses DataFusion as `External`.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {producer} from {site}: {error}")]
pub struct InputError {
    /// Whose output.
    pub producer: TaskAttempt,
    /// Where it was to be.
    pub site: Site,
    /// Who is to blame.
    pub fault: FetchFault,
    /// What else of a cached table would not be found there.
    pub also_missing: Vec<TaskAttempt>,
    /// What happened.
    #[source]
    pub error: Error,
}

impl InputError {
    pub(super) fn new(producer: TaskAttempt, site: Site, fault: FetchFault, error: Error) -> Self {
        Self { producer, site, fault, also_missing: Vec::new(), error }
    }
}

impl From<InputError> for DataFusionError {
    fn from(error: InputError) -> Self {
        Self::External(Box::new(error))
    }
}

/// The sources of one attempt.
pub(super) struct AttemptInputs {
    site: Site,
    store: PartitionStore,
    peers: Arc<Peers>,
    /// By stage and partition of the producer.
    sources: Vec<Source>,
    /// Bytes that the rows read so far need in memory.
    bytes: Arc<AtomicU64>,
    /// Whether the producers of a part are read one after the other.
    is_in_order: AtomicBool,
    /// And in batches of one size.
    is_recut: AtomicBool,
    fetcher: Arc<dyn Fetcher>,
    copies: Arc<Copies>,
    arrivals: Arc<Arrivals>,
    /// Whether other tasks here are likely to read what all tasks of the stage read.
    shares: AtomicBool,
    /// Made when the first output of another site is opened.
    task_fetcher: OnceLock<Arc<dyn TaskFetcher>>,
    remote_bytes: Arc<AtomicU64>,
    kept: Arc<KeptPartitions>,
    /// The cached tables of which all that is read here was there.
    found: Mutex<BTreeSet<StageId>>,
}

impl AttemptInputs {
    pub(super) fn new(
        site: Site,
        store: PartitionStore,
        peers: Arc<Peers>,
        mut sources: Vec<Source>,
        fetcher: Arc<dyn Fetcher>,
        (copies, arrivals, kept): (Arc<Copies>, Arc<Arrivals>, Arc<KeptPartitions>),
    ) -> Self {
        sources.sort_unstable_by_key(place);
        let remote = sources.iter().filter(|source| source.site != site);
        arrivals.expect(remote.map(|source| source.producer));
        Self {
            site,
            store,
            peers,
            sources,
            bytes: Arc::default(),
            is_in_order: AtomicBool::new(false),
            is_recut: AtomicBool::new(false),
            fetcher,
            copies,
            arrivals,
            shares: AtomicBool::new(false),
            task_fetcher: OnceLock::new(),
            remote_bytes: Arc::default(),
            kept,
            found: Mutex::default(),
        }
    }

    /// Shares what all tasks of the stage read, if it has more of them than there are workers: else
    /// a copy would be kept for one reader.
    pub(super) fn share_among(&self, task_count: usize) {
        let workers = self.peers.keys().filter_map(|site| match site {
            Site::Worker(life) => Some(life.worker),
            Site::Coordinator => None,
        });
        let workers: HashSet<_> = workers.collect();
        self.shares.store(task_count > workers.len(), Ordering::Relaxed);
    }

    /// Reads an output of another site through the copy that is kept here.
    fn shared(
        &self,
        idx: usize,
        schema: &SchemaRef,
        original: BoxStream<'static, Result<RecordBatch>>,
    ) -> BoxStream<'static, Result<RecordBatch>> {
        let Source { producer, site, .. } = self.sources[idx];
        let lost = move |error| local_error(producer, site, error);
        let copy = self.copies.read(&self.store, producer, Arc::clone(schema), original, lost);
        self.arrivals.open(producer);
        let arrivals = Arc::clone(&self.arrivals);
        let end = stream::once(async move { arrivals.end() });
        copy.map(Some).chain(end.map(|()| None)).filter_map(std::future::ready).boxed()
    }

    /// Returns the bytes of what was opened of this site's own, and of what came from others.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns the bytes that came from others.
    pub(super) fn remote_bytes(&self) -> u64 {
        self.remote_bytes.load(Ordering::Relaxed)
    }

    /// Reads the producers of every part that is opened from now on one after the other, and for a
    /// plan that minds it in batches of one size: slower, and the same every time.
    pub(super) fn read_in_order(&self, plan: &Arc<dyn ExecutionPlan>) {
        self.is_in_order.store(true, Ordering::Relaxed);
        self.is_recut.store(stage_planner::minds_batches(plan), Ordering::Relaxed);
    }

    /// Looks for all that is read of a cached table here before the first of it is read: who misses
    /// several partitions should not find out one by one, each time from the beginning.
    fn find_all(&self, stage: StageId, shape: &CachedShape) -> Result<()> {
        if !self.found.lock().insert(stage) {
            return Ok(());
        }
        let is_missing = |source: &&Source| {
            let partition = source.producer.task.partition;
            let key = CachedKey { table: Arc::clone(&shape.key), epoch: shape.epoch, partition };
            let is_here = |key| self.store.counts(&key).is_some();
            source.site == self.site
                && !is_here(store_key(&key))
                // Made for this query alone.
                && !is_here(output_key(source.producer, 0))
        };
        let first = self.sources.partition_point(|at| place(at) < (stage, 0));
        let of_table =
            self.sources[first..].iter().take_while(|at| at.producer.task.stage == stage);
        let mut missing = of_table.filter(is_missing).map(|source| source.producer);
        let Some(producer) = missing.next() else { return Ok(()) };
        let error = Error::PartitionNotFound { partition: output_key(producer, 0) };
        let error = InputError::new(producer, self.site, FetchFault::Missing, error);
        Err(InputError { also_missing: missing.collect(), ..error }.into())
    }

    fn local(
        &self,
        source: &Source,
        output: usize,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let (producer, site) = (source.producer, source.site);
        let key = output_key(producer, output);
        let reader =
            self.store.read(&key, 0).map_err(|error| local_error(producer, site, error))?;
        self.bytes.fetch_add(reader.counts().bytes, Ordering::Relaxed);
        let batches =
            reader.map(move |batch| batch.map_err(|error| local_error(producer, site, error)));
        Ok(batches.boxed())
    }

    /// Reads an output wherever it is.
    fn any(
        &self,
        idx: usize,
        part: &ExchangePart,
        schema: &SchemaRef,
        context: &TaskContext,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let source = &self.sources[idx];
        if source.site == self.site {
            return self.local(source, part.output);
        }
        let is_shared = part.is_for_all && self.shares.load(Ordering::Relaxed);
        let batches = self.remote(idx, part.output, schema, None, (context, is_shared))?;
        Ok(if is_shared { self.shared(idx, schema, batches) } else { batches })
    }

    /// Reads an output of another site: ahead if it is for this attempt alone.
    fn remote(
        &self,
        idx: usize,
        output: usize,
        schema: &SchemaRef,
        cached: Option<CachedColumns>,
        (context, is_shared): (&TaskContext, bool),
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let Source { producer, site, .. } = self.sources[idx];
        let Some(address) = self.peers.get(&site).cloned() else {
            let error = Error::internal(format!("nobody has said where {site} is"));
            return Err(InputError::new(producer, site, FetchFault::Refused, error).into());
        };
        let fetcher =
            self.task_fetcher.get_or_init(|| self.fetcher.for_task(context.memory_pool()));
        let wanted =
            RemoteOutput { address, producer, output, start_batch: 0, is_growing: false, cached };
        let (bytes, remote_bytes) = (Arc::clone(&self.bytes), Arc::clone(&self.remote_bytes));
        let count = move |batch: &RecordBatch| {
            let came = data_bytes(batch) as u64;
            bytes.fetch_add(came, Ordering::Relaxed);
            remote_bytes.fetch_add(came, Ordering::Relaxed);
        };
        let schema = Arc::clone(schema);
        let fetched = if is_shared {
            fetcher.open(wanted, schema)
        } else {
            self.arrivals.open(producer);
            let arrivals = Arc::clone(&self.arrivals);
            fetcher.open_ahead(wanted, schema, Arrival::new(move || arrivals.end()))
        };
        let batches = fetched.map(move |batch| {
            batch.inspect(&count).map_err(|failure| {
                let (fault, error) = (failure.fault, failure.error);
                InputError::new(producer, site, fault, error).into()
            })
        });
        Ok(batches.boxed())
    }
}

/// What happened in this site's own store: a lost partition is made again, anything else is told
/// as it is.
fn local_error(producer: TaskAttempt, site: Site, error: Error) -> DataFusionError {
    match error {
        Error::PartitionNotFound { .. }
        | Error::PartitionDamaged { .. }
        | Error::PartitionReleased { .. } => {
            InputError::new(producer, site, FetchFault::Missing, error).into()
        }
        other => other.into(),
    }
}

fn place(source: &Source) -> (StageId, usize) {
    (source.producer.task.stage, source.producer.task.partition)
}

/// Returns the name of an output of an attempt in the store of its site.
pub(super) fn output_key(attempt: TaskAttempt, output: usize) -> PartitionKey {
    PartitionKey::Exchange {
        query: attempt.task.query,
        stage: attempt.task.stage,
        producer: attempt.task.partition,
        attempt: attempt.attempt,
        partition: output,
    }
}

impl ExchangeSource for AttemptInputs {
    fn open(
        &self,
        part: ExchangePart,
        schema: SchemaRef,
        context: &TaskContext,
    ) -> Result<SendableRecordBatchStream> {
        let (producer, tasks) = (part.producer, &part.tasks);
        let first = self.sources.partition_point(|at| place(at) < (producer, tasks.start));
        let end = self.sources.partition_point(|at| place(at) < (producer, tasks.end));
        let (mut local, mut remote) = (Vec::new(), Vec::new());
        if self.is_in_order.load(Ordering::Relaxed) {
            let all = (first..end).map(|idx| self.any(idx, &part, &schema, context));
            let all = stream::iter(all.collect::<Result<Vec<_>>>()?).flatten().boxed();
            local.push(match self.is_recut.load(Ordering::Relaxed) {
                true => recut(all, Arc::clone(&schema), context.session_config().batch_size()),
                false => all,
            });
        } else {
            for idx in first..end {
                let batches = self.any(idx, &part, &schema, context)?;
                match self.sources[idx].site == self.site {
                    true => local.push(batches),
                    false => remote.push(batches),
                }
            }
        }
        let batches = match (local.len(), remote.len()) {
            (0, 0) => return Ok(Box::pin(EmptyRecordBatchStream::new(schema))),
            (1, 0) => local.remove(0),
            (0, 1) => remote.remove(0),
            (_, 0) => stream::iter(local).flatten().boxed(),
            (0, _) => stream::select_all(remote).boxed(),
            // In turn, so that others begin to send while this site's own is read.
            _ => stream::select(stream::select_all(remote), stream::iter(local).flatten()).boxed(),
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}

impl CachedSource for AttemptInputs {
    fn open(&self, wanted: RowsWanted<'_>, context: &TaskContext) -> Result<CachedRows> {
        let RowsWanted { shape, producer, partition, projection, schema } = wanted;
        let sought = (StageId(producer), partition);
        let idx = self.sources.partition_point(|at| place(at) < sought);
        let Some(source) = self.sources.get(idx).filter(|at| place(at) == sought) else {
            return internal_err!("nobody keeps partition {partition} of \"{}\"", shape.name);
        };
        let key = CachedKey { table: Arc::clone(&shape.key), epoch: shape.epoch, partition };
        let (producer, site) = (source.producer, source.site);
        if site != self.site {
            let cached = CachedColumns { key, columns: projection.to_vec() };
            let rows = self.remote(idx, 0, schema, Some(cached), (context, false))?;
            return Ok(plain(schema, rows));
        }
        self.find_all(producer.task.stage, shape)?;
        match self.store.read(&store_key(&key), 0) {
            Ok(reader) => {
                self.bytes.fetch_add(reader.counts().bytes, Ordering::Relaxed);
                let (store, summary) = (self.store.clone(), self.kept.summary(&key));
                let failure: StoreFailure = Arc::new(move |error| {
                    if let Error::PartitionDamaged { partition, .. } = &error {
                        store.release([partition], Readers::Finish);
                    }
                    local_error(producer, site, error)
                });
                Ok(CachedRows::Kept { reader: Box::new(reader), summary, failure })
            }
            Err(Error::PartitionNotFound { .. }) => {
                // Made for this query alone, or dropped.
                let rows = self.local(source, 0)?;
                let columns = projection.to_vec();
                let rows = rows.map(move |batch| Ok(batch?.project(&columns)?));
                Ok(plain(schema, rows.boxed()))
            }
            Err(error) => Err(local_error(producer, site, error)),
        }
    }
}

fn plain(schema: &SchemaRef, rows: BoxStream<'static, Result<RecordBatch>>) -> CachedRows {
    CachedRows::Plain(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), rows)))
}

/// Cuts rows into batches of one size, however they were cut before: joins give rows of equal keys
/// in an order that depends on it.
fn recut(
    batches: BoxStream<'static, Result<RecordBatch>>,
    schema: SchemaRef,
    rows: usize,
) -> BoxStream<'static, Result<RecordBatch>> {
    let lane = BatchCoalescer::new(schema, rows);
    let cut = stream::try_unfold((batches, lane, false), |state| async move {
        let (mut batches, mut lane, mut is_over) = state;
        loop {
            if let Some(batch) = lane.next_completed_batch() {
                return Ok(Some((batch, (batches, lane, is_over))));
            }
            if is_over {
                return Ok::<_, DataFusionError>(None);
            }
            match batches.next().await {
                Some(batch) => lane.push_batch(batch?)?,
                None => {
                    lane.finish_buffered_batch()?;
                    is_over = true;
                }
            }
        }
    });
    cut.boxed()
}

impl fmt::Debug for AttemptInputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptInputs")
            .field("site", &self.site)
            .field("sources", &self.sources.len())
            .finish_non_exhaustive()
    }
}
