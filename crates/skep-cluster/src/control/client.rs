//! The worker's end of the control stream: attaches, and attaches again, until it is told to stop.

use std::hash::{BuildHasher, RandomState};
use std::pin::{Pin, pin};
use std::sync::Arc;

use prost::Message as _;
use skep_proto::cluster::WorkerMessage;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::config::ControlConfig;
use super::members::JoinRequest;
use super::session::{AttachError, Attached, Reports, SessionEnd, attach};
use super::wire;
use crate::error::{Error, Result};
use crate::membership::WorkerLife;
use crate::scheduler::{Holdings, Site};
use crate::worker::{TaskReport, TaskSite};

/// How a worker stands with its coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlState {
    /// It has no life and looks for one.
    Connecting,
    /// It is connected.
    Attached(WorkerLife),
    /// The stream of this life broke, and it tries to come back.
    Detached(WorkerLife),
    /// It has stopped, or was refused for good.
    Ended,
}

/// Attaches a [`TaskSite`] to a coordinator.
#[derive(Debug)]
pub struct ControlClient {
    config: ControlConfig,
    site: Arc<dyn TaskSite>,
    reports: Reports,
    state: watch::Sender<ControlState>,
    life: Option<WorkerLife>,
    backoff: Backoff,
}

impl ControlClient {
    /// Creates the client of this site, whose reports come through this channel.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if the coordinator's address is no good.
    pub fn new(
        config: ControlConfig,
        site: Arc<dyn TaskSite>,
        reports: mpsc::UnboundedReceiver<(Site, TaskReport)>,
    ) -> Result<Self> {
        // What is no address is said now; each try makes its own, for certificates change.
        drop(config.endpoint()?);
        let reports = Reports::new(reports, config.kept_report_count);
        let backoff = Backoff::new(config.backoff.clone(), RandomState::new().hash_one(config.pid));
        let state = watch::Sender::new(ControlState::Connecting);
        Ok(Self { config, site, reports, state, life: None, backoff })
    }

    /// Returns where to see how it stands with the coordinator.
    pub fn state(&self) -> watch::Receiver<ControlState> {
        self.state.subscribe()
    }

    /// Keeps the site attached until `stop` is done: then sends what reports there are, says
    /// goodbye and returns. A coordinator that is away is waited for without end.
    ///
    /// # Errors
    /// [`Error::CoordinatorRefused`] if the coordinator says that it never will let this worker in:
    /// a wrong secret, another version.
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send) -> Result<()> {
        let mut stop = pin!(stop);
        let end = self.keep_attached(stop.as_mut()).await;
        self.state.send_replace(ControlState::Ended);
        end
    }

    async fn keep_attached(
        &mut self,
        mut stop: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<()> {
        loop {
            let register = self.register();
            let endpoint = self.config.endpoint()?;
            let Self { config, reports, .. } = self;
            let Some(tried) =
                meanwhile(reports, attach(config, &endpoint, register), stop.as_mut()).await
            else {
                return Ok(());
            };
            let must_wait = match tried {
                Ok(attached) => {
                    if self.serve(attached, stop.as_mut()).await {
                        return Ok(());
                    }
                    true
                }
                Err(AttachError::Refused(refusal)) if !refusal.may_register_anew => {
                    return Err(Error::CoordinatorRefused { message: refusal.message });
                }
                Err(AttachError::Refused(refusal)) => {
                    warn!(life = ?self.life, reason = %refusal, "refused by the coordinator");
                    self.reports.outbox.set_life(None);
                    self.state.send_replace(ControlState::Connecting);
                    self.life.take().is_none()
                }
                Err(AttachError::Failed(reason)) => {
                    self.log_failure(&reason);
                    true
                }
            };
            if must_wait {
                let wait = sleep(self.backoff.next_wait());
                if meanwhile(&mut self.reports, wait, stop.as_mut()).await.is_none() {
                    return Ok(());
                }
            }
        }
    }

    /// Goes through one connection; returns whether this worker is to stop.
    async fn serve(
        &mut self,
        mut attached: Attached,
        stop: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> bool {
        let life = attached.life;
        if self.life != Some(life) {
            self.site.begin_life(Site::Worker(life));
            self.life = Some(life);
        }
        self.reports.outbox.set_life(Some(life));
        info!(%life, coordinator = %self.config.coordinator, "attached to the coordinator");
        self.state.send_replace(ControlState::Attached(life));
        let begun = Instant::now();
        let Self { config, site, reports, .. } = self;
        match attached.converse(config, site, reports, stop).await {
            SessionEnd::Stopped => {
                attached.say_goodbye(config, reports).await;
                info!(%life, "left the coordinator");
                true
            }
            SessionEnd::Cut(reason) => {
                warn!(%life, reason, "control stream broke");
                self.state.send_replace(ControlState::Detached(life));
                self.backoff.lasted(begun.elapsed());
                false
            }
        }
    }

    /// Returns what this worker says first. One that holds more than a message can say begins anew.
    fn register(&mut self) -> WorkerMessage {
        let message = wire::worker::register(self.join_request());
        let (bytes, limit) = (message.encoded_len(), self.config.max_message_bytes);
        if bytes <= limit || self.life.is_none() {
            return message;
        }
        warn!(life = ?self.life, bytes, limit, "holds too much to come back as the same life");
        self.life = None;
        self.reports.outbox.set_life(None);
        wire::worker::register(self.join_request())
    }

    fn join_request(&self) -> JoinRequest {
        let config = &self.config;
        JoinRequest {
            life: self.life,
            wanted_id: config.wanted_id,
            slot_count: config.slot_count,
            memory_bytes: config.memory_bytes,
            data_address: config.data_address.clone(),
            pid: config.pid,
            version: config.version.clone(),
            token: config.token.clone(),
            holdings: self.life.map_or_else(Holdings::default, |_| self.site.holdings()),
        }
    }

    /// Says the first of a row of failures loudly.
    fn log_failure(&self, reason: &str) {
        let coordinator = &self.config.coordinator;
        if self.backoff.try_count() <= 1 {
            warn!(coordinator, reason, "cannot attach to the coordinator, trying on");
        } else {
            debug!(coordinator, reason, "cannot attach to the coordinator");
        }
    }
}

/// Waits for something and collects reports meanwhile; `None` if this worker is to stop.
async fn meanwhile<T>(
    reports: &mut Reports,
    done: impl Future<Output = T>,
    mut stop: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Option<T> {
    let mut done = pin!(done);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => return None,
            value = &mut done => return Some(value),
            () = reports.collect() => {}
        }
    }
}
