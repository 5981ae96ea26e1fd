//! What the workers' control streams say, on its way to the driver.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tracing::debug;

use super::Shared;
use super::driver::Request;
use crate::control::{JoinRequest, Joined, Members, Refusal};
use crate::membership::WorkerLife;
use crate::scheduler::{Event, Heartbeat, Site};
use crate::secret::is_same_secret;
use crate::worker::TaskReport;

/// The workers of a coordinator.
#[derive(Debug)]
pub struct DriverMembers {
    shared: Arc<Shared>,
}

impl DriverMembers {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Hands a request over; waits while the driver is behind, which holds the worker's stream back.
    async fn ask(&self, request: Request) {
        if self.shared.requests.send(request).await.is_err() {
            debug!("the coordinator has ended");
        }
    }

    fn check(&self, request: &JoinRequest) -> Result<(), Refusal> {
        let version = env!("CARGO_PKG_VERSION");
        if request.version != version {
            return Err(Refusal {
                message: format!(
                    "the worker is of version {}, the coordinator of {version}: \
                     both must be the same build",
                    request.version
                ),
                may_register_anew: false,
            });
        }
        let expected = self.shared.options.token.as_deref().unwrap_or_default();
        if !is_same_secret(expected.as_bytes(), request.token.as_bytes()) {
            return Err(Refusal {
                message: "the worker does not know the cluster's token".to_owned(),
                may_register_anew: false,
            });
        }
        Ok(())
    }
}

#[async_trait]
impl Members for DriverMembers {
    async fn join(&self, request: JoinRequest) -> Result<Joined, Refusal> {
        self.check(&request)?;
        let ended = || Refusal {
            message: "the coordinator is shutting down".to_owned(),
            may_register_anew: true,
        };
        let (reply, answer) = oneshot::channel();
        let request = Request::Join { request: Box::new(request), reply };
        self.shared.requests.send(request).await.map_err(|_ended| ended())?;
        answer.await.map_err(|_ended| ended())?
    }

    async fn report(&self, life: WorkerLife, reports: Vec<TaskReport>) {
        self.ask(Request::Reports { site: Site::Worker(life), reports }).await;
    }

    async fn heartbeat(&self, life: WorkerLife, beat: Heartbeat) {
        self.shared.cache.measure(life, &beat.cached);
        self.ask(Request::Event(Event::Heartbeat { life, beat })).await;
    }

    async fn disconnected(&self, life: WorkerLife, connection: u64) {
        self.ask(Request::Disconnected { life, connection }).await;
    }

    async fn left(&self, life: WorkerLife) {
        self.ask(Request::Event(Event::WorkerLeft { life })).await;
    }
}
