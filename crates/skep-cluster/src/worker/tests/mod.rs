//! Tests of running tasks, on real stores, with plans made here and a fetcher that reads the other
//! site's store.

mod accounts;
mod arrivals;
mod cached;
mod cancelling;
mod copies;
mod failures;
mod live;
mod outputs;
mod rows;
mod stages;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;

use super::inputs::output_key;
use super::*;
use crate::codec::DecodedStage;
use crate::error::Error;
use crate::exchange::fetch::{
    Arrival, FetchFailure, FetchStream, Fetcher, RemoteOutput, TaskFetcher,
};
use crate::exchange::plan::Output;
use crate::ids::{Attempt, Incarnation, QueryId, StageId, TaskId, WorkerId};
use crate::membership::WorkerLife;
use crate::scheduler::{FetchFault, Launch, Site, Source, TaskAttempt, TaskOutput};
use crate::store::{PartitionStore, StoreConfig, StorePool};

/// Longer than anything here may take, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(60);

type MakeStage = Box<dyn Fn(&TaskContext) -> DataFusionResult<DecodedStage> + Send + Sync>;

/// Programs whose bytes are their number here.
#[derive(Default)]
struct Programs {
    made: Mutex<Vec<Arc<MakeStage>>>,
    contexts: AtomicUsize,
    decodes: AtomicUsize,
}

impl Programs {
    fn add(
        &self,
        make: impl Fn(&TaskContext) -> DataFusionResult<DecodedStage> + Send + Sync + 'static,
    ) -> StageProgram {
        let mut made = self.made.lock();
        made.push(Arc::new(Box::new(make)));
        let program = Bytes::from((made.len() - 1).to_le_bytes().to_vec());
        StageProgram::Encoded(EncodedStage { program, settings: Bytes::from_static(b"100") })
    }
}

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Programs")
    }
}

#[async_trait]
impl StageDecoder for Programs {
    fn task_context(
        &self,
        settings: &[u8],
        runtime: &Arc<RuntimeEnv>,
    ) -> skep_engine::Result<Arc<TaskContext>> {
        self.contexts.fetch_add(1, Ordering::Relaxed);
        let rows = std::str::from_utf8(settings).ok().and_then(|rows| rows.parse().ok());
        let Some(rows) = rows else {
            let message = "settings are not settings".to_owned();
            return Err(skep_engine::Error::Data { message, hint: None });
        };
        let config = SessionConfig::new().with_batch_size(rows);
        Ok(SessionContext::new_with_config_rt(config, Arc::clone(runtime)).task_ctx())
    }

    fn decode(&self, program: &[u8], context: &TaskContext) -> DataFusionResult<DecodedStage> {
        self.decodes.fetch_add(1, Ordering::Relaxed);
        let idx = usize::from_le_bytes(program.try_into().unwrap());
        let make = Arc::clone(&self.made.lock()[idx]);
        make(context)
    }

    async fn explain(
        &self,
        _plan: &Arc<dyn ExecutionPlan>,
        _context: &Arc<TaskContext>,
        error: DataFusionError,
    ) -> skep_engine::Error {
        error.into()
    }
}

/// Fetches out of the stores of this process.
#[derive(Debug, Clone, Default)]
struct Neighbours {
    stores: Arc<Mutex<HashMap<String, PartitionStore>>>,
    readers: Arc<AtomicUsize>,
    /// Outputs that somebody has begun to read.
    opens: Arc<AtomicUsize>,
}

impl Fetcher for Neighbours {
    fn for_task(&self, _pool: &Arc<dyn MemoryPool>) -> Arc<dyn TaskFetcher> {
        self.readers.fetch_add(1, Ordering::Relaxed);
        Arc::new(self.clone())
    }
}

impl TaskFetcher for Neighbours {
    fn open(&self, output: RemoteOutput, _schema: SchemaRef) -> FetchStream {
        let opens = Arc::clone(&self.opens);
        let opened = futures::stream::once(async move {
            opens.fetch_add(1, Ordering::Relaxed);
        });
        let batches = self.batches(output);
        opened.map(move |()| None).chain(batches.map(Some)).filter_map(std::future::ready).boxed()
    }

    fn open_ahead(&self, output: RemoteOutput, schema: SchemaRef, arrival: Arrival) -> FetchStream {
        Self::telling(self.open(output, schema), arrival)
    }
}

impl Neighbours {
    /// Not ahead: whoever reads to the end has all of it.
    fn telling(stream: FetchStream, arrival: Arrival) -> FetchStream {
        let end = futures::stream::once(async move {
            arrival.tell();
            None
        });
        stream.map(Some).chain(end).filter_map(std::future::ready).boxed()
    }

    fn batches(&self, output: RemoteOutput) -> FetchStream {
        let failure = |fault, error| FetchFailure { fault, error };
        let Some(store) = self.stores.lock().get(&output.address).cloned() else {
            let error = Error::internal("connection refused");
            return futures::stream::iter([Err(failure(FetchFault::Refused, error))]).boxed();
        };
        let key = output_key(output.producer, output.output);
        match store.read(&key, output.start_batch) {
            Ok(reader) => reader.map_err(move |e| failure(FetchFault::Missing, e)).boxed(),
            Err(e) => futures::stream::iter([Err(failure(FetchFault::Missing, e))]).boxed(),
        }
    }
}

/// One site.
struct Fixture {
    runner: Arc<TaskRunner>,
    reports: UnboundedReceiver<(Site, TaskReport)>,
    programs: Arc<Programs>,
    neighbours: Neighbours,
    store: PartitionStore,
    runtime: Arc<RuntimeEnv>,
    site: Site,
    _directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self::with(1 << 30, |_config| {}, |_config| {})
    }

    fn with(
        pool_bytes: usize,
        change_store: impl FnOnce(&mut StoreConfig),
        change_runner: impl FnOnce(&mut RunnerConfig),
    ) -> Self {
        let directory = TempDir::new().unwrap();
        let mut config = StoreConfig::new(directory.path());
        change_store(&mut config);
        let pool: Arc<dyn MemoryPool> =
            Arc::new(StorePool::new(Arc::new(GreedyMemoryPool::new(pool_bytes))));
        let store = PartitionStore::open(config, Arc::clone(&pool)).unwrap();
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc().unwrap();
        let (programs, neighbours) = (Arc::new(Programs::default()), Neighbours::default());
        let mut config = RunnerConfig::new(64);
        change_runner(&mut config);
        let fetcher = Arc::new(neighbours.clone());
        let decoder = Arc::clone(&programs) as Arc<dyn StageDecoder>;
        let (runner, reports) =
            TaskRunner::new(config, store.clone(), Arc::clone(&runtime), fetcher, decoder);
        let site = worker(1, 1);
        runner.begin_life(site);
        Self { runner, reports, programs, neighbours, store, runtime, site, _directory: directory }
    }

    /// Makes a stage's program known.
    fn plan(
        &self,
        query: u64,
        stage: u32,
        make: impl Fn(&TaskContext) -> DataFusionResult<DecodedStage> + Send + Sync + 'static,
    ) {
        let program = self.programs.add(make);
        self.runner.perform(Command::Plan {
            query: QueryId(query),
            stage: StageId(stage),
            program,
        });
    }

    fn launch(&self, attempt: TaskAttempt, sources: Vec<Source>) {
        self.runner.perform(Command::Launch(vec![Launch { attempt, sources }]));
    }

    /// Waits for the next last word.
    async fn word(&mut self) -> (Site, TaskReport) {
        tokio::time::timeout(LIMIT, self.reports.recv()).await.unwrap().unwrap()
    }

    /// Runs one attempt to its last word.
    async fn run(&mut self, attempt: TaskAttempt, sources: Vec<Source>) -> TaskOutcome {
        self.launch(attempt, sources);
        let (site, report) = self.word().await;
        assert_eq!((site, report.attempt), (self.site, attempt));
        report.outcome
    }

    async fn finish(&mut self, attempt: TaskAttempt, sources: Vec<Source>) -> TaskOutput {
        match self.run(attempt, sources).await {
            TaskOutcome::Finished { output, .. } => output,
            other => panic!("{attempt}: {other:?}"),
        }
    }

    async fn read(&self, attempt: TaskAttempt, output: usize) -> Vec<RecordBatch> {
        let reader = self.store.read(&output_key(attempt, output), 0).unwrap();
        reader.try_collect().await.unwrap()
    }

    /// Waits until nothing is left of anything.
    async fn await_empty(&self) {
        let is_empty = || {
            let stats = self.store.stats();
            self.runtime.memory_pool.reserved() == 0
                && (stats.sealed_partitions, stats.open_writers) == (0, 0)
                && (stats.memory_bytes, stats.disk_bytes) == (0, 0)
        };
        until(is_empty).await;
    }
}

/// Waits for something that happens elsewhere.
async fn until(is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "it never came about");
        tokio::task::yield_now().await;
    }
}

fn worker(id: u64, incarnation: u64) -> Site {
    Site::Worker(WorkerLife { worker: WorkerId(id), incarnation: Incarnation(incarnation) })
}

fn attempt(query: u64, stage: u32, partition: usize, attempt: u32) -> TaskAttempt {
    let task = TaskId { query: QueryId(query), stage: StageId(stage), partition };
    TaskAttempt { task, attempt: Attempt(attempt) }
}

fn source(producer: TaskAttempt, site: Site) -> Source {
    Source { producer, site, bytes: 1000 }
}

fn decoded(plan: Arc<dyn ExecutionPlan>, output: Output) -> DecodedStage {
    let task_count = plan.output_partitioning().partition_count();
    DecodedStage { plan, output, task_count, lineage_of: None }
}
