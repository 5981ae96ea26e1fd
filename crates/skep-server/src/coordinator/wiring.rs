//! How the coordinator's parts are put together: engine, store, scheduler, exchanges, control.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::FlightData;
use arrow_flight::flight_service_server::FlightService;
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::StreamExt;
use parking_lot::Mutex;
use skep_cluster::control::{ControlService, ControlServiceConfig, Members};
use skep_cluster::coordinator::{Coordinator, CoordinatorOptions, QueryMonitor};
use skep_cluster::exchange::config::{FetchConfig, ServeConfig};
use skep_cluster::exchange::flight_fetch::FlightFetcher;
use skep_cluster::exchange::serve::ExchangeServer;
use skep_cluster::exchange::service::ExchangeService;
use skep_cluster::membership::ClusterSnapshot;
use skep_cluster::store::{PartitionStore, StoreConfig, StorePool};
use skep_engine::{Engine, EngineConfig, EngineParts, build_runtime};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::front::{Answers, Exchanges};
use crate::config::CoordinatorConfig;
use crate::error::{Error, Result};
use crate::io_runtime::IoRuntime;
use crate::tls::Certificates;

/// The parts of a coordinator.
pub(super) struct Wiring {
    engine: Engine,
    monitor: QueryMonitor,
    exchange: ExchangeService,
    members: Arc<dyn Members>,
    snapshot: watch::Receiver<Arc<ClusterSnapshot>>,
    heartbeat_interval: Duration,
    /// Empty once it has ended.
    coordinator: Mutex<Option<Coordinator>>,
    /// Last: connections to workers live on it.
    _io: IoRuntime,
}

/// The partitions that this process keeps.
#[derive(Debug, Clone)]
pub(super) struct ProcessExchanges(ExchangeService);

impl Wiring {
    /// Puts a coordinator together, whose partitions workers fetch at `data_address`.
    ///
    /// # Errors
    /// Whatever part does not start.
    pub(super) async fn start(
        config: &CoordinatorConfig,
        data_address: String,
        tls: Option<&Arc<Certificates>>,
    ) -> Result<Self> {
        let (runtime, store) = open(config.engine.clone()).await?;
        let io = IoRuntime::start()?;
        let fetch = FetchConfig {
            token: config.token.clone(),
            tls: tls.map(Certificates::client),
            max_message_bytes: config.grpc.max_message_bytes,
            ..FetchConfig::default()
        };
        let fetcher = Arc::new(FlightFetcher::new(fetch, io.handle())?);
        let serve = ServeConfig {
            max_message_bytes: config.grpc.max_message_bytes,
            ..ServeConfig::default()
        };
        let exchange = ExchangeServer::new(store.clone(), serve)?;
        let exchange = ExchangeService::new(exchange, config.token.clone());
        let options = CoordinatorOptions {
            scheduler: config.scheduler.clone(),
            data_address,
            small_query_bytes: config.planner.small_query_bytes,
            min_scan_bytes_per_task: config.planner.min_scan_bytes_per_task,
            token: config.token.clone(),
            result_memory_bytes: config.results.memory_bytes,
            ..CoordinatorOptions::default()
        };
        let coordinator = Coordinator::start(options, store.clone(), runtime.clone(), fetcher);
        let (members, snapshot) = (coordinator.members(), coordinator.snapshot());
        let monitor = coordinator.monitor();
        let parts = EngineParts {
            runtime,
            executor: coordinator.executor(),
            system_tables: Some(coordinator.system_tables()),
            store: Some(store),
            cache_host: Some(coordinator.cache_host()),
        };
        let engine = Engine::open_with(config.engine.clone(), parts).await?;
        let coordinator = Mutex::new(Some(coordinator));
        // Several must fit into the time after which a silent worker is lost.
        let most = config.scheduler.membership.heartbeat_timeout / 3;
        let heartbeat_interval = config.heartbeat_interval.min(most);
        Ok(Self {
            engine,
            monitor,
            exchange,
            members,
            snapshot,
            heartbeat_interval,
            coordinator,
            _io: io,
        })
    }

    /// Returns the engine.
    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns what names queries and tells how far they are.
    pub(super) fn monitor(&self) -> QueryMonitor {
        self.monitor.clone()
    }

    /// Returns what serves the partitions of this process.
    pub(super) fn exchanges(&self) -> ProcessExchanges {
        ProcessExchanges(self.exchange.clone())
    }

    /// Adds the service to which workers attach.
    pub(super) fn add_control(&self, routes: Routes) -> Routes {
        let config = ControlServiceConfig {
            heartbeat_interval: self.heartbeat_interval,
            ..ControlServiceConfig::default()
        };
        let control = ControlService::new(Arc::clone(&self.members), config);
        routes.add_service(control.into_server())
    }

    /// Returns how many workers live.
    pub(super) fn live_worker_count(&self) -> usize {
        self.snapshot.borrow().live().count()
    }

    /// Ends the coordinator, and with it the control streams: they would keep the server waiting.
    pub(super) fn stop(&self) {
        let coordinator = self.coordinator.lock().take();
        drop(coordinator);
    }
}

/// Opens memory, disk and the store of partitions over both.
async fn open(config: EngineConfig) -> Result<(RuntimeEnv, PartitionStore)> {
    let opening = SpawnedTask::spawn_blocking(move || {
        let runtime = build_runtime(&config, |pool| Arc::new(StorePool::new(pool)))?;
        let directory = config.spill_dir.unwrap_or_else(std::env::temp_dir);
        let store = StoreConfig::new(directory.join("skep-partitions"));
        let store = PartitionStore::open(store, Arc::clone(&runtime.memory_pool))?;
        Ok::<_, Error>((runtime, store))
    });
    opening.await.map_err(|error| Error::Internal { message: error.to_string() })?
}

#[async_trait]
impl Exchanges for ProcessExchanges {
    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Answers<FlightData>>, Status> {
        let answer = self.0.do_exchange(request).await?;
        Ok(answer.map(|stream| stream.boxed()))
    }
}
