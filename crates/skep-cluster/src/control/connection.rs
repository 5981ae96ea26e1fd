//! One control stream, as the coordinator sees it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use datafusion::common::runtime::JoinSet;
use skep_proto::cluster::{CoordinatorMessage, WorkerMessage};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};
use tracing::{info, warn};

use super::config::ControlServiceConfig;
use super::members::{JoinRequest, Joined, Members};
use super::wire::{self, CommandEncoder, FromWorker};
use crate::error::Error;
use crate::membership::WorkerLife;
use crate::worker::Command;

/// A control stream from its first message to its last.
pub(super) struct Connection {
    pub(super) members: Arc<dyn Members>,
    pub(super) config: Arc<ControlServiceConfig>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) inbound: Streaming<WorkerMessage>,
    pub(super) outbound: mpsc::Sender<Result<CoordinatorMessage, Status>>,
}

/// How a connection ended.
#[derive(Debug)]
enum End {
    /// The worker said so.
    Goodbye,
    /// The worker closed it, or the network did.
    Closed(Option<Status>),
    /// The members gave it up.
    GivenUp,
    /// The worker took nothing for too long.
    Stalled,
    /// The worker said something that cannot be understood.
    Malformed(Error),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goodbye => f.write_str("goodbye"),
            Self::Closed(None) => f.write_str("closed by the worker"),
            Self::Closed(Some(status)) => write!(f, "broken: {}", status.message()),
            Self::GivenUp => f.write_str("given up by the coordinator"),
            Self::Stalled => f.write_str("the worker takes no messages"),
            Self::Malformed(error) => error.fmt(f),
        }
    }
}

impl Connection {
    pub(super) async fn run(mut self) {
        let Some(request) = self.first_message().await else { return };
        let Joined { life, connection, commands } = match self.members.join(request).await {
            Ok(joined) => joined,
            Err(refusal) => {
                warn!(peer = ?self.peer, reason = %refusal, "worker refused");
                self.say(wire::command::refused(&refusal)).await;
                return;
            }
        };
        info!(%life, connection, peer = ?self.peer, "worker attached");
        self.say(wire::command::welcome(life, self.config.heartbeat_interval)).await;
        let end = self.converse(life, commands).await;
        match end {
            End::Goodbye => {
                info!(%life, connection, "worker said goodbye");
                self.members.left(life).await;
            }
            end => {
                warn!(%life, connection, reason = %end, "control stream ended");
                if let End::Malformed(error) = end {
                    self.fail(Status::invalid_argument(error.to_string()));
                }
                self.members.disconnected(life, connection).await;
            }
        }
    }

    /// Returns who wants in, if they say so in time.
    async fn first_message(&mut self) -> Option<JoinRequest> {
        let limit = self.config.register_timeout;
        let message = tokio::select! {
            message = timeout(limit, self.inbound.message()) => message,
            () = self.outbound.closed() => return None,
        };
        let failure = match message {
            Ok(Ok(Some(message))) => match wire::worker::decode_worker_message(message) {
                Ok(FromWorker::Register(request)) => return Some(*request),
                Ok(_) => Status::invalid_argument("the first message must be Register"),
                Err(error) => Status::invalid_argument(error.to_string()),
            },
            Ok(Ok(None)) => return None,
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no Register in time"),
        };
        warn!(peer = ?self.peer, reason = failure.message(), "control stream without a worker");
        self.fail(failure);
        None
    }

    /// Says one of the first messages, for which there is always room.
    async fn say(&self, message: CoordinatorMessage) {
        // An error means that the worker is gone, which the next look at the stream shows as well.
        let _ = self.outbound.send(Ok(message)).await;
    }

    /// Says why the stream ends, if the worker still takes anything.
    fn fail(&self, status: Status) {
        let _ = self.outbound.try_send(Err(status));
    }

    /// Passes on what either side says until one of them ends it.
    async fn converse(&mut self, life: WorkerLife, commands: mpsc::Receiver<Command>) -> End {
        let Self { members, config, inbound, outbound, .. } = self;
        // Both go on side by side: members that wait for their commands to be taken must not keep
        // them from being taken. Reading first, so that a goodbye counts that came before the end.
        tokio::select! {
            biased;
            end = listen(members.as_ref(), life, inbound) => end,
            end = forward(members, config, life, commands, outbound) => end,
            () = outbound.closed() => End::Closed(None),
        }
    }
}

/// Passes on what a worker says.
async fn listen(
    members: &dyn Members,
    life: WorkerLife,
    inbound: &mut Streaming<WorkerMessage>,
) -> End {
    loop {
        let message = match inbound.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return End::Closed(None),
            Err(status) => return End::Closed(Some(status)),
        };
        match wire::worker::decode_worker_message(message) {
            Ok(FromWorker::Reports(reports)) => members.report(life, reports).await,
            Ok(FromWorker::Heartbeat(beat)) => members.heartbeat(life, beat).await,
            Ok(FromWorker::Goodbye) => return End::Goodbye,
            Ok(FromWorker::Register(_)) => {
                let message = "is said for the second time";
                return End::Malformed(Error::malformed("WorkerMessage.register", message));
            }
            Err(error) => return End::Malformed(error),
        }
        // A flood must not keep the other direction waiting.
        tokio::task::coop::consume_budget().await;
    }
}

/// Passes on what a worker is to do, as many commands at a time as wait.
async fn forward(
    members: &Arc<dyn Members>,
    config: &ControlServiceConfig,
    life: WorkerLife,
    mut commands: mpsc::Receiver<Command>,
    outbound: &mpsc::Sender<Result<CoordinatorMessage, Status>>,
) -> End {
    let mut encoder = CommandEncoder::new(config.max_message_bytes, config.target_launch_bytes);
    let mut batch = Vec::new();
    let mut words = JoinSet::new();
    while commands.recv_many(&mut batch, config.batched_command_count.max(1)).await > 0 {
        let encoded = encoder.encode(batch.drain(..));
        for message in encoded.messages {
            match timeout(config.stall_timeout, outbound.send(Ok(message))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return End::Closed(None),
                Err(_) => return End::Stalled,
            }
        }
        while words.try_join_next().is_some() {}
        if let Some(first) = encoded.failed.first() {
            let count = encoded.failed.len();
            warn!(%life, count, attempt = %first.attempt, "tasks cannot travel");
            let members = Arc::clone(members);
            words.spawn(async move { members.report(life, encoded.failed).await });
        }
    }
    End::GivenUp
}
