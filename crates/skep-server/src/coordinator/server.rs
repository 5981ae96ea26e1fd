//! Starting a coordinator, and its end.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use datafusion::common::runtime::SpawnedTask;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::service::Routes;
use tracing::{info, warn};

use super::flight_sql::SqlService;
use super::front::Front;
use super::results::PendingResults;
use super::sessions::Sessions;
use super::wiring::{ProcessExchanges, Wiring};
use crate::config::CoordinatorConfig;
use crate::error::{Error, Result};
use crate::http::{HttpServer, Readiness};
use crate::listen::{Peers, advertised, bind};
use crate::rpc::RpcServer;

/// How often idle sessions and results that nobody fetched are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How often a shutdown looks whether all statements are done.
const DRAIN_LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How long connections may take to close when nothing runs on them any more.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// A coordinator that runs. Dropping it ends it at once.
pub struct CoordinatorServer {
    // In this order: first nobody comes in any more, and what runs behind goes last.
    rpc: RpcServer,
    http: Option<HttpServer>,
    sweeper: SpawnedTask<()>,
    state: Arc<State>,
    drain_timeout: Duration,
}

struct State {
    sessions: Arc<Sessions>,
    results: Arc<PendingResults>,
    wiring: Wiring,
    is_draining: AtomicBool,
}

impl CoordinatorServer {
    /// Starts a coordinator: takes its addresses, opens the engine, begins to serve. Must be called
    /// within a runtime, whose threads need deep stacks: plans are walked by recursion.
    ///
    /// # Errors
    /// [`Error`](crate::Error) says which of that failed.
    pub async fn start(config: CoordinatorConfig) -> Result<Self> {
        // What is most often wrong first.
        let listener = bind(&config.listen, config.is_insecure).await?;
        let http_listener = match &config.http {
            Some(address) => Some(bind(address, config.is_insecure).await?),
            None => None,
        };
        let local = listener
            .local_addr()
            .map_err(|error| Error::Internal { message: format!("no local address: {error}") })?;
        let data_address = advertised(config.advertise.as_deref(), local)?;
        let wiring = Wiring::start(&config, data_address).await?;
        let peers = Peers::default();
        let engine = wiring.engine().clone();
        let sessions = Arc::new(Sessions::new(config.sessions.clone(), engine, peers.clone()));
        let results = Arc::new(PendingResults::new(config.results.clone()));
        let (sessions_of, results_of) = (Arc::clone(&sessions), Arc::clone(&results));
        let sql = SqlService::new(sessions_of, results_of, wiring.monitor(), &config)?;
        let front = Front::new(sql, wiring.exchanges());
        let flight = FlightServiceServer::new(front)
            .max_decoding_message_size(config.grpc.max_message_bytes)
            .max_encoding_message_size(config.grpc.max_message_bytes);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<FlightServiceServer<Front<ProcessExchanges>>>().await;
        let routes = wiring.add_control(Routes::new(flight).add_service(health_service));
        let rpc = RpcServer::start(listener, routes, &config.grpc, peers)?;
        let is_draining = AtomicBool::new(false);
        let state = Arc::new(State { sessions, results, wiring, is_draining });
        let http = match http_listener {
            Some(listener) => {
                let readiness: Arc<dyn Readiness> = Arc::<State>::clone(&state);
                Some(HttpServer::start(listener, readiness)?)
            }
            None => None,
        };
        let sweeper = SpawnedTask::spawn(sweep(Arc::clone(&state)));
        info!(address = %rpc.address(), "coordinator serves");
        Ok(Self { rpc, http, sweeper, state, drain_timeout: config.drain_timeout })
    }

    /// Returns where clients and workers connect.
    pub fn address(&self) -> SocketAddr {
        self.rpc.address()
    }

    /// Returns where the probes are, if there are any.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(HttpServer::address)
    }

    /// Returns how many workers live.
    pub fn live_worker_count(&self) -> usize {
        self.state.wiring.live_worker_count()
    }

    /// Stops: takes no new connection, lets what runs finish for a bounded time, cuts what is left.
    pub async fn shutdown(self) {
        let Self { rpc, http, sweeper, state, drain_timeout } = self;
        state.is_draining.store(true, Ordering::Relaxed);
        state.results.close();
        let drained = async {
            let mut looks = interval(DRAIN_LOOK_INTERVAL);
            while state.sessions.are_in_use() {
                looks.tick().await;
            }
        };
        if timeout(drain_timeout, drained).await.is_err() {
            warn!("statements cut that did not end in time");
        }
        state.wiring.stop();
        rpc.shutdown(CLOSE_TIMEOUT).await;
        drop(sweeper);
        state.sessions.close_all();
        drop(http);
        info!("coordinator ended");
    }
}

impl Readiness for State {
    fn is_ready(&self) -> bool {
        !self.is_draining.load(Ordering::Relaxed)
    }

    fn live_worker_count(&self) -> usize {
        self.wiring.live_worker_count()
    }
}

impl fmt::Debug for CoordinatorServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoordinatorServer")
            .field("address", &self.address())
            .field("http_address", &self.http_address())
            .finish_non_exhaustive()
    }
}

async fn sweep(state: Arc<State>) {
    let mut ticks = interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await.into_std();
        state.sessions.sweep(now);
        state.results.sweep(now);
    }
}
