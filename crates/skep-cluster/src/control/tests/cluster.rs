//! A coordinator's server, a worker's client, and a network between them that can be cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::runtime::{JoinSet, SpawnedTask};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server as TonicServer;

use super::members::{BOUND, PlainMembers};
use super::site::NotingSite;
use crate::control::{
    BackoffConfig, ControlClient, ControlConfig, ControlService, ControlServiceConfig,
    ControlState, Members,
};
use crate::error::Result;
use crate::ids::{Attempt, QueryId, StageId, TaskId};
use crate::scheduler::{Site, TaskAttempt};
use crate::worker::{TaskOutcome, TaskReport, TaskSite};

/// A server with a runtime of its own, so that it can be ended as if its process were killed.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Server {
    pub(super) async fn start(members: &Arc<PlainMembers>, config: ControlServiceConfig) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let members: Arc<dyn Members> = Arc::<PlainMembers>::clone(members);
        let (sender, address) = oneshot::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let service = ControlService::new(members, config).into_server();
            let incoming = TcpListenerStream::new(listener);
            TonicServer::builder().add_service(service).serve_with_incoming(incoming).await
        });
        Self { address: address.await.unwrap(), runtime: Some(runtime) }
    }

    pub(super) fn kill(mut self) {
        self.shut();
    }

    fn shut(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shut();
    }
}

/// Heartbeats often, everything else with room to spare.
pub(super) fn service_config() -> ControlServiceConfig {
    ControlServiceConfig {
        heartbeat_interval: Duration::from_millis(20),
        register_timeout: BOUND,
        ..ControlServiceConfig::default()
    }
}

/// The network: passes bytes between its own address and the current target, if there is one.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    _task: SpawnedTask<()>,
}

impl Network {
    pub(super) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = watch::Sender::new(Some(target));
        let targets = target.subscribe();
        let task = SpawnedTask::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(pass(stream, targets.clone()));
            }
        });
        Self { address, target, _task: task }
    }

    /// Ends all connections; new ones lead to this target, or nowhere.
    pub(super) fn cut(&self, target: Option<SocketAddr>) {
        self.target.send_replace(target);
    }
}

async fn pass(mut near: TcpStream, mut targets: watch::Receiver<Option<SocketAddr>>) {
    let Some(target) = *targets.borrow_and_update() else { return };
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        _ = targets.changed() => {}
    }
}

/// A worker's client at work.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) site: Arc<NotingSite>,
    pub(super) reports: mpsc::UnboundedSender<(Site, TaskReport)>,
    pub(super) state: watch::Receiver<ControlState>,
    stop: oneshot::Sender<()>,
    task: SpawnedTask<Result<()>>,
}

/// A worker that tries often.
pub(super) fn control_config(coordinator: SocketAddr) -> ControlConfig {
    ControlConfig {
        token: "hush".to_owned(),
        backoff: BackoffConfig { max: Duration::from_millis(40), ..BackoffConfig::default() },
        ..ControlConfig::new(format!("grpc://{coordinator}"), "w:1")
    }
}

impl Worker {
    pub(super) fn start(config: ControlConfig) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the interface of reports; bounded by slots")]
        let (reports, receiver) = mpsc::unbounded_channel();
        let site = Arc::new(NotingSite::default());
        let dyn_site: Arc<dyn TaskSite> = Arc::<NotingSite>::clone(&site);
        let client = ControlClient::new(config, dyn_site, receiver).unwrap();
        let state = client.state();
        let (stop, stopped) = oneshot::channel();
        let task = SpawnedTask::spawn(client.run(async move {
            let _ = stopped.await;
        }));
        Self { site, reports, state, stop, task }
    }

    pub(super) async fn wait_for(&mut self, state: impl FnMut(&ControlState) -> bool) {
        let waited = timeout(BOUND, self.state.wait_for(state)).await;
        waited.expect("not in this state in time").unwrap();
    }

    /// Tells it to stop, and returns how it ended.
    pub(super) async fn stop(self) -> Result<()> {
        let Self { stop, task, .. } = self;
        let _ = stop.send(());
        timeout(BOUND, task.join()).await.expect("stops in time").unwrap()
    }

    /// Waits until it ends by itself.
    pub(super) async fn end(self) -> Result<()> {
        let Self { stop: _stop, task, .. } = self;
        timeout(BOUND, task.join()).await.expect("ends in time").unwrap()
    }
}

pub(super) fn attempt(partition: usize) -> TaskAttempt {
    let task = TaskId { query: QueryId(1), stage: StageId(0), partition };
    TaskAttempt { task, attempt: Attempt(0) }
}

pub(super) fn report(partition: usize) -> TaskReport {
    TaskReport { attempt: attempt(partition), outcome: TaskOutcome::Stopped }
}
