//! One control stream, as the worker sees it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use skep_proto::cluster::control_client::ControlClient as GrpcClient;
use skep_proto::cluster::{CoordinatorMessage, WorkerMessage};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::config::ControlConfig;
use super::members::Refusal;
use super::outbox::Outbox;
use super::wire::{self, FromCoordinator};
use crate::membership::WorkerLife;
use crate::scheduler::Site;
use crate::worker::{TaskReport, TaskSite};

/// The coordinator may not ask for heartbeats oftener or more seldom than this.
const HEARTBEAT_BOUNDS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));

/// Reports looked at together.
const BATCHED_REPORT_COUNT: usize = 1024;

/// The last words of this process's attempts: those that come, and those that wait.
#[derive(Debug)]
pub(super) struct Reports {
    receiver: mpsc::UnboundedReceiver<(Site, TaskReport)>,
    buffer: Vec<(Site, TaskReport)>,
    is_open: bool,
    pub(super) outbox: Outbox,
}

impl Reports {
    pub(super) fn new(
        receiver: mpsc::UnboundedReceiver<(Site, TaskReport)>,
        kept_count: usize,
    ) -> Self {
        let outbox = Outbox::new(kept_count.max(1));
        Self { receiver, buffer: Vec::new(), is_open: true, outbox }
    }

    /// Waits for reports and puts them into the outbox. May be dropped while it waits.
    pub(super) async fn collect(&mut self) {
        if !self.is_open {
            return std::future::pending().await;
        }
        let count = self.receiver.recv_many(&mut self.buffer, BATCHED_REPORT_COUNT).await;
        self.is_open = count > 0;
        for (site, report) in self.buffer.drain(..) {
            self.outbox.push(site, report);
        }
    }

    /// Puts what has come into the outbox.
    pub(super) fn collect_ready(&mut self) {
        while let Ok((site, report)) = self.receiver.try_recv() {
            self.outbox.push(site, report);
        }
    }
}

/// Why a try to attach came to nothing.
#[derive(Debug)]
pub(super) enum AttachError {
    /// The coordinator said no.
    Refused(Refusal),
    /// It was not reached, or did not answer as it should.
    Failed(String),
}

/// A stream on which the coordinator has said welcome.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) life: WorkerLife,
    heartbeat_interval: Duration,
    outbound: mpsc::Sender<WorkerMessage>,
    inbound: Streaming<CoordinatorMessage>,
    /// Keeps the connection open.
    _client: GrpcClient<Channel>,
}

/// How a stream ended.
#[derive(Debug)]
pub(super) enum SessionEnd {
    /// The worker was told to stop.
    Stopped,
    /// It broke, or was closed by the coordinator.
    Cut(String),
}

/// Connects and registers, within the bound for both together.
pub(super) async fn attach(
    config: &ControlConfig,
    endpoint: &Endpoint,
    register: WorkerMessage,
) -> Result<Attached, AttachError> {
    match timeout(config.register_timeout, register_with(config, endpoint, register)).await {
        Ok(result) => result,
        Err(_) => Err(AttachError::Failed("no welcome in time".to_owned())),
    }
}

async fn register_with(
    config: &ControlConfig,
    endpoint: &Endpoint,
    register: WorkerMessage,
) -> Result<Attached, AttachError> {
    let channel =
        endpoint.connect().await.map_err(|error| AttachError::Failed(with_causes(&error)))?;
    let mut client = GrpcClient::new(channel)
        .max_decoding_message_size(config.max_message_bytes)
        .max_encoding_message_size(config.max_message_bytes);
    let (outbound, messages) = mpsc::channel(config.queued_message_count.max(1));
    let failed = |message: &str| AttachError::Failed(message.to_owned());
    if outbound.try_send(register).is_err() {
        return Err(failed("the queue to the coordinator has no room"));
    }
    let broken = |status: tonic::Status| AttachError::Failed(status.message().to_owned());
    let response = client.attach(ReceiverStream::new(messages)).await.map_err(broken)?;
    let mut inbound = response.into_inner();
    let Some(answer) = inbound.message().await.map_err(broken)? else {
        return Err(failed("closed before a welcome"));
    };
    match wire::command::decode_coordinator_message(answer) {
        Ok(FromCoordinator::Welcome { life, heartbeat_interval }) => {
            let (least, most) = HEARTBEAT_BOUNDS;
            let heartbeat_interval = heartbeat_interval.clamp(least, most);
            Ok(Attached { life, heartbeat_interval, outbound, inbound, _client: client })
        }
        Ok(FromCoordinator::Refused(refusal)) => Err(AttachError::Refused(refusal)),
        Ok(FromCoordinator::Command(_)) => Err(failed("a command came before a welcome")),
        Err(error) => Err(AttachError::Failed(error.to_string())),
    }
}

/// The text of an error and of what is below it; tonic's own says "transport error" alone.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut current = error.source();
    while let Some(cause) = current {
        text = format!("{text}: {cause}");
        current = cause.source();
    }
    text
}

impl Attached {
    /// Performs what the coordinator says and tells it what happens here, until the stream ends or
    /// this worker is to stop.
    pub(super) async fn converse(
        &mut self,
        config: &ControlConfig,
        site: &Arc<dyn TaskSite>,
        reports: &mut Reports,
        mut stop: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> SessionEnd {
        let mut beats = heartbeats(self.heartbeat_interval);
        let mut beat_due: Option<Instant> = None;
        loop {
            let has_output = beat_due.is_some() || !reports.outbox.is_empty();
            tokio::select! {
                () = &mut stop => return SessionEnd::Stopped,
                message = self.inbound.message() => {
                    if let Err(reason) = obey(site, message) {
                        return SessionEnd::Cut(reason);
                    }
                }
                permit = self.outbound.reserve(), if has_output => match permit {
                    Ok(permit) if beat_due.take().is_some() => {
                        permit.send(wire::worker::heartbeat(site.heartbeat()));
                    }
                    Ok(permit) => permit.send(reports.outbox.take(config.target_report_bytes)),
                    Err(_) => return SessionEnd::Cut("closed".to_owned()),
                },
                () = reports.collect() => {}
                now = beats.tick() => {
                    let since = *beat_due.get_or_insert(now);
                    if now.saturating_duration_since(since) >= config.stall_timeout {
                        return SessionEnd::Cut("the coordinator takes no messages".to_owned());
                    }
                }
            }
        }
    }

    /// Says what is still to be said and goodbye, and waits until the coordinator has heard it.
    pub(super) async fn say_goodbye(mut self, config: &ControlConfig, reports: &mut Reports) {
        reports.collect_ready();
        let farewell = async {
            while !reports.outbox.is_empty() {
                let message = reports.outbox.take(config.target_report_bytes);
                if self.outbound.send(message).await.is_err() {
                    return;
                }
            }
            if self.outbound.send(wire::worker::goodbye()).await.is_err() {
                return;
            }
            // What it wants done until then is nobody's any more; it ends the stream when it has
            // taken note.
            while let Ok(Some(_)) = self.inbound.message().await {}
        };
        if timeout(config.goodbye_timeout, farewell).await.is_err() {
            tracing::debug!("the goodbye was not heard in time");
        }
    }
}

/// Ticks at once, then at the interval; a process that stood still does not catch up.
fn heartbeats(period: Duration) -> Interval {
    let mut beats = interval(period);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

/// Does what the coordinator says; an error is the reason why the stream has ended.
fn obey(
    site: &Arc<dyn TaskSite>,
    message: Result<Option<CoordinatorMessage>, tonic::Status>,
) -> Result<(), String> {
    let message = match message {
        Ok(Some(message)) => message,
        Ok(None) => return Err("closed by the coordinator".to_owned()),
        Err(status) => return Err(status.message().to_owned()),
    };
    match wire::command::decode_coordinator_message(message) {
        Ok(FromCoordinator::Command(command)) => {
            site.perform(command);
            Ok(())
        }
        Ok(FromCoordinator::Welcome { .. }) => Err("a second welcome".to_owned()),
        Ok(FromCoordinator::Refused(refusal)) => Err(refusal.message),
        Err(error) => Err(error.to_string()),
    }
}
