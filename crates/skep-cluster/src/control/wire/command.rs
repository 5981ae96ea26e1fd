//! What the coordinator says.

use std::collections::HashMap;
use std::time::Duration;

use prost::Message as _;
use proto::coordinator_message::Message;
use skep_proto::ErrorCode;
use skep_proto::cluster as proto;

use super::failure::error_report;
use super::identity::{
    decode_attempts, decode_life, decode_site, encode_attempt, encode_life, encode_site, required,
};
use super::launch::{decode_launches, encode_launches};
use crate::control::members::Refusal;
use crate::error::{Error, Result};
use crate::ids::{Epoch, QueryId, StageId};
use crate::membership::WorkerLife;
use crate::scheduler::{Launch, Site, TaskAttempt, TaskFailure};
use crate::worker::{Command, EncodedStage, StageProgram, TaskOutcome, TaskReport};

/// Attempts or peers in one message: a few MiB at most.
const ENTRIES_PER_MESSAGE: usize = 1 << 16;

/// What a worker hears.
#[derive(Debug)]
pub enum FromCoordinator {
    /// It was let in.
    Welcome {
        /// As this life.
        life: WorkerLife,
        /// How often it is to send a heartbeat.
        heartbeat_interval: Duration,
    },
    /// It was not let in.
    Refused(Refusal),
    /// It is to do something.
    Command(Command),
}

/// Returns the message that lets a worker in.
pub fn welcome(life: WorkerLife, heartbeat_interval: Duration) -> proto::CoordinatorMessage {
    let heartbeat_interval_ms = u64::try_from(heartbeat_interval.as_millis()).unwrap_or(u64::MAX);
    message(Message::Welcome(proto::Welcome {
        life: Some(encode_life(life)),
        heartbeat_interval_ms,
    }))
}

/// Returns the message that turns a worker away.
pub fn refused(refusal: &Refusal) -> proto::CoordinatorMessage {
    let Refusal { message: text, may_register_anew } = refusal;
    let report = error_report(ErrorCode::PermissionDenied, text, None, *may_register_anew);
    let may_register_anew = *may_register_anew;
    message(Message::Refused(proto::Refused { reason: Some(report), may_register_anew }))
}

/// Commands as they travel.
#[derive(Debug, Default)]
pub struct Encoded {
    /// The messages, in order.
    pub messages: Vec<proto::CoordinatorMessage>,
    /// The last words of attempts that cannot be launched, because what they are to run or read
    /// cannot travel.
    pub failed: Vec<TaskReport>,
}

/// Turns commands into messages, for one connection.
///
/// Neighbours of one kind become one message. What cannot travel, a plan of this very process or one
/// beyond the bound, must fail the query that wants it and not the connection, or it would take
/// down one worker after the other: its tasks are said to have failed.
#[derive(Debug)]
pub struct CommandEncoder {
    max_message_bytes: usize,
    target_launch_bytes: usize,
    /// Why a stage's plan did not travel. Ends with the query.
    unsent: HashMap<(QueryId, StageId), TaskFailure>,
}

impl CommandEncoder {
    /// Creates an encoder of messages of at most `max_message_bytes`, those with launches of about
    /// `target_launch_bytes` at most.
    pub fn new(max_message_bytes: usize, target_launch_bytes: usize) -> Self {
        let target_launch_bytes = target_launch_bytes.min(max_message_bytes);
        Self { max_message_bytes, target_launch_bytes, unsent: HashMap::new() }
    }

    /// Turns commands into messages.
    pub fn encode(&mut self, commands: impl IntoIterator<Item = Command>) -> Encoded {
        let mut encoded = Encoded::default();
        for command in joined(commands) {
            match command {
                Command::Plan { query, stage, program } => {
                    self.plan(query, stage, program, &mut encoded);
                }
                Command::Launch(tasks) => self.launch(tasks, &mut encoded),
                Command::DropQuery(query) => {
                    self.unsent.retain(|(of, _), _| *of != query);
                    let dropped = proto::DropQuery { query: query.0 };
                    encoded.messages.push(message(Message::DropQuery(dropped)));
                }
                Command::EndContent { table, epoch } => {
                    let ended = proto::EndContent { table: table.to_string(), epoch: epoch.0 };
                    encoded.messages.push(message(Message::EndContent(ended)));
                }
                Command::Peers(peers) => encoded.messages.extend(encode_peers(&peers)),
                Command::Cancel(ids) => encoded.messages.extend(encode_ids(&ids, |attempts| {
                    Message::Cancel(proto::Cancel { attempts })
                })),
                Command::Release(ids) => encoded.messages.extend(encode_ids(&ids, |outputs| {
                    Message::Release(proto::Release { outputs })
                })),
            }
        }
        encoded
    }

    #[cfg(test)]
    pub(super) fn unsent_is_empty(&self) -> bool {
        self.unsent.is_empty()
    }

    fn plan(&mut self, query: QueryId, stage: StageId, program: StageProgram, to: &mut Encoded) {
        let refuse = |code, text: String| TaskFailure::Query { code, message: text, hint: None };
        let EncodedStage { program, settings } = match program {
            StageProgram::Encoded(stage) => stage,
            StageProgram::Live { .. } => {
                let text = format!("internal error: stage {stage} of {query} cannot travel");
                self.unsent.insert((query, stage), refuse(ErrorCode::Internal, text));
                return;
            }
        };
        let plan = proto::Plan { query: query.0, stage: stage.0, program, settings };
        let encoded = message(Message::Plan(plan));
        let (bytes, limit) = (encoded.encoded_len(), self.max_message_bytes);
        if bytes > limit {
            let text = format!("the plan of stage {stage} has {bytes} bytes, the limit is {limit}");
            self.unsent.insert((query, stage), refuse(ErrorCode::ResourceExhausted, text));
            return;
        }
        self.unsent.remove(&(query, stage));
        to.messages.push(encoded);
    }

    fn launch(&self, mut tasks: Vec<Launch>, to: &mut Encoded) {
        if !self.unsent.is_empty() {
            tasks.retain(|Launch { attempt, .. }| {
                let failure = self.unsent.get(&(attempt.task.query, attempt.task.stage));
                to.failed.extend(failure.map(|failure| last_word(*attempt, failure)));
                failure.is_none()
            });
        }
        let messages = match encode_launches(&tasks, self.target_launch_bytes) {
            Ok(messages) => messages,
            Err(error) => {
                let (code, text) = (error.code(), error.to_string());
                let failure = TaskFailure::Query { code, message: text, hint: None };
                to.failed.extend(tasks.iter().map(|task| last_word(task.attempt, &failure)));
                return;
            }
        };
        for launch in messages {
            let attempts: Vec<_> = launch.tasks.iter().map(|task| task.attempt).collect();
            let encoded = message(Message::Launch(launch));
            let (bytes, limit) = (encoded.encoded_len(), self.max_message_bytes);
            if bytes <= limit {
                to.messages.push(encoded);
                continue;
            }
            let text = format!("launching takes {bytes} bytes, the limit is {limit}");
            let code = ErrorCode::ResourceExhausted;
            let failure = TaskFailure::Query { code, message: text, hint: None };
            let ids = decode_attempts(attempts.into_iter().flatten().collect(), "attempt");
            to.failed.extend(ids.into_iter().flatten().map(|id| last_word(id, &failure)));
        }
    }
}

fn last_word(attempt: TaskAttempt, failure: &TaskFailure) -> TaskReport {
    TaskReport { attempt, outcome: TaskOutcome::Failed(failure.clone()) }
}

/// Joins neighbours of one kind.
fn joined(commands: impl IntoIterator<Item = Command>) -> Vec<Command> {
    let mut joined: Vec<Command> = Vec::new();
    for command in commands {
        match (joined.last_mut(), command) {
            (Some(Command::Launch(all)), Command::Launch(more)) => all.extend(more),
            (Some(Command::Cancel(all)), Command::Cancel(more))
            | (Some(Command::Release(all)), Command::Release(more)) => all.extend(more),
            (Some(Command::Peers(all)), Command::Peers(more)) => all.extend(more),
            (_, command) => joined.push(command),
        }
    }
    joined
}

fn encode_peers(peers: &[(Site, String)]) -> impl Iterator<Item = proto::CoordinatorMessage> {
    let peer = |(site, address): &(Site, String)| proto::Peer {
        site: Some(encode_site(*site)),
        data_address: address.clone(),
    };
    peers.chunks(ENTRIES_PER_MESSAGE).map(move |peers| {
        message(Message::Peers(proto::Peers { peers: peers.iter().map(peer).collect() }))
    })
}

fn encode_ids(
    ids: &[TaskAttempt],
    wrap: fn(Vec<proto::TaskAttempt>) -> Message,
) -> impl Iterator<Item = proto::CoordinatorMessage> {
    ids.chunks(ENTRIES_PER_MESSAGE)
        .map(move |ids| message(wrap(ids.iter().copied().map(encode_attempt).collect())))
}

fn message(message: Message) -> proto::CoordinatorMessage {
    proto::CoordinatorMessage { message: Some(message) }
}

/// Returns what a worker hears.
///
/// # Errors
/// [`Error::MalformedMessage`] if it cannot be understood.
pub fn decode_coordinator_message(message: proto::CoordinatorMessage) -> Result<FromCoordinator> {
    let command = match required(message.message, "CoordinatorMessage.message")? {
        Message::Welcome(welcome) => {
            let life = decode_life(required(welcome.life, "Welcome.life")?);
            let heartbeat_interval = Duration::from_millis(welcome.heartbeat_interval_ms);
            return Ok(FromCoordinator::Welcome { life, heartbeat_interval });
        }
        Message::Refused(refused) => {
            let message = required(refused.reason, "Refused.reason")?.message;
            let may_register_anew = refused.may_register_anew;
            return Ok(FromCoordinator::Refused(Refusal { message, may_register_anew }));
        }
        Message::Peers(peers) => {
            Command::Peers(peers.peers.into_iter().map(decode_peer).collect::<Result<_>>()?)
        }
        Message::Plan(proto::Plan { query, stage, program, settings }) => Command::Plan {
            query: QueryId(query),
            stage: StageId(stage),
            program: StageProgram::Encoded(EncodedStage { program, settings }),
        },
        Message::Launch(launch) => Command::Launch(decode_launches(launch)?),
        Message::Cancel(cancel) => {
            Command::Cancel(decode_attempts(cancel.attempts, "Cancel.attempts")?)
        }
        Message::Release(release) => {
            Command::Release(decode_attempts(release.outputs, "Release.outputs")?)
        }
        Message::DropQuery(dropped) => Command::DropQuery(QueryId(dropped.query)),
        Message::EndContent(ended) => {
            Command::EndContent { table: ended.table.into(), epoch: Epoch(ended.epoch) }
        }
    };
    Ok(FromCoordinator::Command(command))
}

fn decode_peer(peer: proto::Peer) -> Result<(Site, String)> {
    let site = decode_site(required(peer.site, "Peer.site")?);
    if peer.data_address.is_empty() {
        return Err(Error::malformed("Peer.data_address", "is empty"));
    }
    Ok((site, peer.data_address))
}
