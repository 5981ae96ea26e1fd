//! Starting a coordinator, and its end.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use datafusion::common::runtime::SpawnedTask;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};

use super::flight_sql::SqlService;
use super::front::Front;
use super::kept_sessions::KeptSessions;
use super::results::PendingResults;
use super::sessions::Sessions;
use super::wiring::{ProcessExchanges, Wiring};
use crate::auth::gate::Gate;
use crate::auth::{Login, SigningKey};
use crate::config::CoordinatorConfig;
use crate::error::{Error, Result};
use crate::http::{HttpServer, Readiness};
use crate::listen::{advertised, bind, raise_file_limit};
use crate::rpc::RpcServer;
use crate::tls::{Certificates, Strangers};

/// How often idle sessions and results that nobody fetched are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How often a shutdown looks whether all statements are done.
const DRAIN_LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The name of the whole process where health is asked for.
const EVERYTHING: &str = "";

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
    gate: Arc<Gate>,
    health: HealthReporter,
    is_draining: AtomicBool,
}

impl CoordinatorServer {
    /// Starts a coordinator: takes its addresses, opens the engine, begins to serve. Must be called
    /// within a runtime, whose threads need deep stacks: plans are walked by recursion.
    ///
    /// # Errors
    /// [`Error`](crate::Error) says which of that failed.
    pub async fn start(config: CoordinatorConfig) -> Result<Self> {
        raise_file_limit();
        // What is most often wrong first.
        let users = config.user_file();
        let is_cluster_guarded = config.token.is_some() || config.tls.client_ca.is_some();
        if users.is_some() && !is_cluster_guarded && !config.is_insecure {
            return Err(Error::OpenCluster);
        }
        let is_open = config.is_insecure || users.is_some();
        let listener = bind(&config.listen, is_open).await?;
        let http_listener = match &config.http {
            Some(address) => Some(bind(address, is_open).await?),
            None => None,
        };
        let tls = Certificates::load(&config.tls, Strangers::Allowed)?;
        let key = signing_key(&config)?;
        let login = Login::open(users, key.clone(), config.token_lifetime)?;
        let gate = Gate::new(login, config.tls.client_ca.is_some());
        let local = listener
            .local_addr()
            .map_err(|error| Error::Internal { message: format!("no local address: {error}") })?;
        let data_address = advertised(config.advertise.as_deref(), local)?;
        let wiring = Wiring::start(&config, data_address, tls.as_ref()).await?;
        let kept = KeptSessions::open(config.engine.data_dir.as_deref(), config.token_lifetime)
            .map_err(Error::Sessions)?;
        let sessions = Sessions::new(config.sessions.clone(), wiring.engine().clone(), kept);
        let sessions = Arc::new(sessions);
        let results = Arc::new(PendingResults::new(config.results.clone()));
        let (sessions_of, results_of) = (Arc::clone(&sessions), Arc::clone(&results));
        let sql = SqlService::new(sessions_of, results_of, wiring.monitor(), &config, &key)?;
        let front = Front::new(sql, wiring.exchanges());
        let flight = FlightServiceServer::new(front)
            .max_decoding_message_size(config.grpc.max_message_bytes)
            .max_encoding_message_size(config.grpc.max_message_bytes);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<FlightServiceServer<Front<ProcessExchanges>>>().await;
        let routes = wiring.add_control(Routes::new(flight).add_service(health_service));
        let routes = gate.guard(routes);
        let rpc = RpcServer::start(listener, routes, &config.grpc, tls)?;
        let is_draining = AtomicBool::new(false);
        let state = Arc::new(State { sessions, results, wiring, gate, health, is_draining });
        let http = match http_listener {
            Some(listener) => {
                let readiness: Arc<dyn Readiness> = Arc::<State>::clone(&state);
                Some(HttpServer::start(listener, readiness, &config.grpc)?)
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

    /// Stops: begins nothing new and says so, lets what runs finish and be fetched for a bounded
    /// time, cuts what is left.
    pub async fn shutdown(self) {
        let Self { rpc, http, sweeper, state, drain_timeout } = self;
        info!(?drain_timeout, "coordinator ends");
        state.is_draining.store(true, Ordering::Relaxed);
        state.gate.drain();
        state.results.drain();
        for service in [EVERYTHING, <FlightServiceServer<Front<ProcessExchanges>>>::NAME] {
            state.health.set_service_status(service, ServingStatus::NotServing).await;
        }
        let drained = async {
            let mut looks = interval(DRAIN_LOOK_INTERVAL);
            while state.results.are_in_use() {
                looks.tick().await;
            }
        };
        if timeout(drain_timeout, drained).await.is_err() {
            warn!("statements cut that did not end in time");
        }
        state.results.close();
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

/// Returns the key that tokens and handles are signed with; kept where there is a place for it.
fn signing_key(config: &CoordinatorConfig) -> Result<SigningKey> {
    config.engine.data_dir.as_deref().map_or_else(SigningKey::fresh, SigningKey::of_data_dir)
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
