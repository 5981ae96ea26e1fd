//! The worker as a process: serves exchanges, runs tasks, keeps its place at the coordinator.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use arrow_flight::flight_service_server::FlightServiceServer;
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::runtime_env::RuntimeEnv;
use skep_cluster::codec::PlanDecoder;
use skep_cluster::control::{ControlClient, ControlConfig, ControlState};
use skep_cluster::exchange::config::{FetchConfig, ServeConfig};
use skep_cluster::exchange::flight_fetch::FlightFetcher;
use skep_cluster::exchange::serve::ExchangeServer;
use skep_cluster::exchange::service::ExchangeService;
use skep_cluster::ids::WorkerId;
use skep_cluster::store::{PartitionStore, StoreConfig, StorePool, StoreStats};
use skep_cluster::worker::{RunnerConfig, TaskRunner};
use skep_engine::{EngineConfig, build_runtime, default_memory_limit};
use tokio::sync::watch;
use tonic::service::Routes;
use tracing::info;

use crate::auth::gate::Gate;
use crate::config::WorkerConfig;
use crate::error::{Error, Result};
use crate::io_runtime::IoRuntime;
use crate::listen::{advertised, bind, raise_file_limit};
use crate::rpc::RpcServer;
use crate::tls::{Certificates, Strangers};

/// A worker that runs. Dropping it ends it at once, without a goodbye.
pub struct WorkerServer {
    advertised: String,
    coordinator: String,
    config: WorkerConfig,
    state: watch::Receiver<ControlState>,
    stop: watch::Sender<bool>,
    /// Why it cannot go on, once it cannot.
    end: watch::Receiver<Option<End>>,
    control: SpawnedTask<()>,
    rpc: RpcServer,
    store: PartitionStore,
    /// Last: the others live on it.
    io: IoRuntime,
}

/// Why a worker's control stream is over.
#[derive(Debug, Clone)]
enum End {
    Refused(String),
    Failed(String),
}

impl WorkerServer {
    /// Starts a worker: takes its address, opens its store, begins to look for its coordinator. Must
    /// be called within a runtime, which runs the tasks and whose threads need deep stacks.
    ///
    /// # Errors
    /// [`Error`] says which of that failed.
    pub async fn start(config: WorkerConfig) -> Result<Self> {
        raise_file_limit();
        // Whoever fetches from it must say the token or show a certificate, if there is either.
        let is_guarded = config.token.is_some() || config.tls.client_ca.is_some();
        let listener = bind(&config.listen, config.is_insecure || is_guarded).await?;
        let tls = Certificates::load(&config.tls, Strangers::Refused)?;
        check_scheme(&config.coordinator, tls.is_some())?;
        let local = listener
            .local_addr()
            .map_err(|error| Error::Internal { message: format!("no local address: {error}") })?;
        let advertised = advertised(config.advertise.as_deref(), local)?;
        let memory_limit = config.memory_limit.unwrap_or_else(default_memory_limit);
        let (runtime, store) = open(&config, memory_limit).await?;
        let io = IoRuntime::start()?;
        let fetch = FetchConfig {
            token: config.token.clone(),
            tls: tls.as_ref().map(Certificates::client),
            max_message_bytes: config.grpc.max_message_bytes,
            ..FetchConfig::for_memory(memory_limit, config.slot_count)
        };
        let fetcher = Arc::new(FlightFetcher::new(fetch, io.handle())?);
        let (site, reports) = TaskRunner::new(
            RunnerConfig::new(config.slot_count),
            store.clone(),
            Arc::new(runtime),
            fetcher,
            Arc::new(PlanDecoder::default()),
        );
        let control = ControlConfig {
            tls: tls.as_ref().map(Certificates::client),
            slot_count: config.slot_count,
            memory_bytes: memory_limit as u64,
            token: config.token.clone().unwrap_or_default(),
            wanted_id: config.wanted_id.map(WorkerId),
            ..ControlConfig::new(config.coordinator.clone(), advertised.clone())
        };
        let client = ControlClient::new(control, site, reports)?;
        let state = client.state();
        let (stop, mut stopped) = watch::channel(false);
        let (ended, end) = watch::channel(None);
        let serve = ServeConfig {
            max_message_bytes: config.grpc.max_message_bytes,
            ..ServeConfig::default()
        };
        let exchange = ExchangeServer::new(store.clone(), serve)?;
        let exchange = ExchangeService::new(exchange, config.token.clone());
        let flight = FlightServiceServer::new(exchange)
            .max_decoding_message_size(config.grpc.max_message_bytes)
            .max_encoding_message_size(config.grpc.max_message_bytes);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<FlightServiceServer<ExchangeService>>().await;
        let routes = Routes::new(flight).add_service(health_service);
        let routes = Gate::of_worker(config.tls.client_ca.is_some()).guard(routes);
        let (rpc, control) = {
            let _within = io.enter();
            let rpc = RpcServer::start(listener, routes, &config.grpc, tls)?;
            let told = async move {
                let _ = stopped.wait_for(|stopped| *stopped).await;
            };
            let control = SpawnedTask::spawn(async move {
                let outcome = client.run(told).await;
                ended.send_replace(Some(ending(outcome)));
            });
            (rpc, control)
        };
        info!(address = %rpc.address(), advertised, "worker serves");
        let coordinator = config.coordinator.clone();
        Ok(Self { advertised, coordinator, config, state, stop, end, control, rpc, store, io })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.rpc.address()
    }

    /// Returns where others reach it, as HOST:PORT.
    pub fn advertised(&self) -> &str {
        &self.advertised
    }

    /// Returns what its partitions take.
    pub fn store_stats(&self) -> StoreStats {
        self.store.stats()
    }

    /// Waits until the coordinator has let it in, however long that takes; returns its id.
    ///
    /// # Errors
    /// [`Error::Refused`] if the coordinator never will.
    pub async fn ready(&self) -> Result<u64> {
        let mut state = self.state.clone();
        let attached = async {
            let attached = state
                .wait_for(|state| matches!(state, ControlState::Attached(_)))
                .await
                .map(|state| *state);
            match attached {
                Ok(ControlState::Attached(life)) => life.worker.0,
                // It is over; the reason comes from the other side.
                Ok(_) | Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            id = attached => Ok(id),
            error = self.failed() => Err(error),
        }
    }

    /// Waits until it cannot go on any more; says why.
    pub async fn failed(&self) -> Error {
        let mut end = self.end.clone();
        let ended = end.wait_for(Option::is_some).await.map(|end| end.clone());
        match ended {
            Ok(Some(End::Refused(message))) => {
                Error::Refused { coordinator: self.coordinator.clone(), message }
            }
            Ok(Some(End::Failed(message))) => Error::Internal { message },
            Ok(None) | Err(_) => {
                Error::Internal { message: "the control stream ended without a word".to_owned() }
            }
        }
    }

    /// Stops: says goodbye, and cuts what still is read from it after a bounded time.
    pub async fn shutdown(self) {
        let Self { config, stop, mut control, rpc, io, .. } = self;
        stop.send_replace(true);
        // It bounds its goodbye itself; this is in case that it waits for something else.
        let _ = tokio::time::timeout(config.drain_timeout, &mut control).await;
        drop(control);
        rpc.shutdown(config.drain_timeout).await;
        drop(io);
        info!("worker ended");
    }
}

impl fmt::Debug for WorkerServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerServer")
            .field("address", &self.address())
            .field("advertised", &self.advertised)
            .field("coordinator", &self.coordinator)
            .finish_non_exhaustive()
    }
}

/// Opens memory, disk and the store of partitions over both.
async fn open(config: &WorkerConfig, memory_limit: usize) -> Result<(RuntimeEnv, PartitionStore)> {
    let engine = EngineConfig {
        memory_limit: Some(memory_limit),
        spill_dir: config.spill_dir.clone(),
        ..EngineConfig::default()
    };
    let directory = match &config.data_dir {
        Some(directory) => directory.join("partitions"),
        None => std::env::temp_dir().join("skep-partitions"),
    };
    let mut store = StoreConfig::new(directory);
    store.protected_cache_bytes = config.protected_cache;
    if let Some(limit) = config.partition_memory_limit {
        store.memory_limit_bytes = limit;
        // Else each writer would keep more than all of them may.
        store.write_buffer_bytes = store.write_buffer_bytes.min(limit);
    }
    let opening = SpawnedTask::spawn_blocking(move || {
        let runtime = build_runtime(&engine, |pool| Arc::new(StorePool::new(pool)))?;
        let store = PartitionStore::open(store, Arc::clone(&runtime.memory_pool))?;
        Ok::<_, Error>((runtime, store))
    });
    opening.await.map_err(|error| Error::Internal { message: error.to_string() })?
}

/// All processes of a cluster speak TLS, or none does: a worker must be ready for what it will meet.
fn check_scheme(coordinator: &str, has_tls: bool) -> Result<()> {
    let wants_tls =
        ["grpc+tls://", "grpcs://", "https://"].iter().any(|it| coordinator.starts_with(it));
    let is_plain = ["grpc://", "http://"].iter().any(|it| coordinator.starts_with(it));
    if wants_tls && !has_tls {
        return Err(Error::Tls {
            message: "a worker of a coordinator with TLS serves with TLS too".to_owned(),
            hint: Some("add --tls-cert and --tls-key".to_owned()),
        });
    }
    if is_plain && has_tls {
        return Err(Error::Tls {
            message: format!("{coordinator} is no address for TLS"),
            hint: Some("write grpc+tls://HOST:PORT, or leave the certificate out".to_owned()),
        });
    }
    Ok(())
}

/// Says why the control stream is over.
fn ending(outcome: skep_cluster::Result<()>) -> End {
    match outcome {
        Err(skep_cluster::Error::CoordinatorRefused { message }) => End::Refused(message),
        Err(error) => End::Failed(error.to_string()),
        Ok(()) => End::Failed("the worker was told to end".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_whose_address_is_taken_does_not_start() {
        let taken = bind("127.0.0.1:0", false).await.unwrap();
        let listen = taken.local_addr().unwrap().to_string();
        let config = WorkerConfig { listen, ..WorkerConfig::new("grpc://127.0.0.1:1") };
        assert!(matches!(WorkerServer::start(config).await, Err(Error::Listen { .. })));
    }
}
