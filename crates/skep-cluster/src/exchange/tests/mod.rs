//! Fetching over real sockets of this machine.

mod faults;
mod flow;
mod kinds;
mod proxy;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
use futures::TryStreamExt;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::config::{FetchConfig, ServeConfig};
use super::fetch::{FetchFailure, Fetcher, RemoteOutput, TaskFetcher};
use super::flight_fetch::FlightFetcher;
use super::serve::ExchangeServer;
use super::service::ExchangeService;
use crate::ids::{Attempt, QueryId, StageId, TaskId};
use crate::scheduler::TaskAttempt;
use crate::store::{PartitionStore, StorageLevel, StoreConfig, StorePool, WriterKey, WriterSpec};

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that keeps outputs, as far as a reader can tell.
struct Keeper {
    store: PartitionStore,
    exchanges: ExchangeServer,
    address: SocketAddr,
    /// Its runtime: dropped, connections break as if the process were gone.
    runtime: Option<tokio::runtime::Runtime>,
    _directory: TempDir,
}

impl Keeper {
    async fn start() -> Self {
        Self::start_with(1 << 30, |_| {}, None).await
    }

    async fn start_with(
        pool_bytes: usize,
        change: impl FnOnce(&mut ServeConfig),
        token: Option<&str>,
    ) -> Self {
        let directory = TempDir::new().unwrap();
        let pool: Arc<dyn MemoryPool> =
            Arc::new(StorePool::new(Arc::new(GreedyMemoryPool::new(pool_bytes))));
        let store = PartitionStore::open(StoreConfig::new(directory.path()), pool).unwrap();
        let mut config = ServeConfig::default();
        change(&mut config);
        let exchanges = ExchangeServer::new(store.clone(), config).unwrap();
        let service = ExchangeService::new(exchanges.clone(), token.map(str::to_owned));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            // Without it each small answer waits for the system's timer.
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let served = Server::builder()
                .max_concurrent_streams(u32::MAX)
                .add_service(FlightServiceServer::new(service))
                .serve_with_incoming(incoming);
            served.await.unwrap();
        });
        Self { store, exchanges, address, runtime: Some(runtime), _directory: directory }
    }

    /// Ends it like a killed process.
    fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    /// Seals the outputs of task `producer`.
    async fn write(&self, producer: usize, level: StorageLevel, outputs: Vec<Vec<RecordBatch>>) {
        let schema = match outputs.iter().flatten().next() {
            Some(batch) => batch.schema(),
            None => schema(),
        };
        let key = writer_key(producer);
        let output_count = outputs.len();
        let spec = WriterSpec { key, schema, output_count, level };
        let mut writer = self.store.writer(spec).unwrap();
        for (output, batches) in outputs.into_iter().enumerate() {
            for batch in batches {
                writer.append(output, batch).await.unwrap();
            }
        }
        writer.seal().await.unwrap();
    }

    fn output(&self, producer: usize, output: usize) -> RemoteOutput {
        output_at(self.address, producer, output)
    }

    /// Waits until no stream is open.
    async fn wait_for_idle(&self) {
        until(|| self.exchanges.open_streams() == 0).await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A process that fetches.
struct Reader {
    fetcher: FlightFetcher,
    pool: Arc<dyn MemoryPool>,
}

impl Reader {
    fn new() -> Self {
        Self::with(1 << 30, |_| {})
    }

    fn with(pool_bytes: usize, change: impl FnOnce(&mut FetchConfig)) -> Self {
        let mut config = FetchConfig::default();
        change(&mut config);
        let fetcher = FlightFetcher::new(config, Handle::current()).unwrap();
        Self { fetcher, pool: Arc::new(GreedyMemoryPool::new(pool_bytes)) }
    }

    fn task(&self) -> Arc<dyn TaskFetcher> {
        self.fetcher.for_task(&self.pool)
    }

    async fn read(&self, output: RemoteOutput) -> Result<Vec<RecordBatch>, FetchFailure> {
        self.read_as(output, schema()).await
    }

    async fn read_as(
        &self,
        output: RemoteOutput,
        schema: SchemaRef,
    ) -> Result<Vec<RecordBatch>, FetchFailure> {
        bounded(self.task().open(output, schema).try_collect()).await
    }
}

async fn bounded<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("it takes too long")
}

/// Looks again at each turn of the runtime until something holds.
async fn until(holds: impl Fn() -> bool) {
    bounded(async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn writer_key(producer: usize) -> WriterKey {
    WriterKey::Exchange { query: QueryId(1), stage: StageId(0), producer, attempt: Attempt(0) }
}

fn output_at(address: SocketAddr, producer: usize, output: usize) -> RemoteOutput {
    let task = TaskId { query: QueryId(1), stage: StageId(0), partition: producer };
    RemoteOutput {
        address: address.to_string(),
        producer: TaskAttempt { task, attempt: Attempt(0) },
        output,
        start_batch: 0,
        cached: None,
        is_growing: false,
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("number", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
    ]))
}

/// `rows` rows that begin with number `first`.
fn batch(first: i64, rows: usize) -> RecordBatch {
    let numbers: Vec<i64> = (first..first + rows as i64).collect();
    let texts: Vec<Option<String>> =
        numbers.iter().map(|n| (n % 7 != 0).then(|| format!("text {n}"))).collect();
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(numbers)), Arc::new(StringArray::from(texts))];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// `count` batches of 1,000 rows each, numbered on.
fn batches(first: i64, count: usize) -> Vec<RecordBatch> {
    (0..count as i64).map(|n| batch(first + n * 1000, 1000)).collect()
}

fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    batches
        .iter()
        .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec())
        .collect()
}
