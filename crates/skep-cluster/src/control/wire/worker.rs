//! What a worker says.

use prost::Message as _;
use proto::task_report::Outcome;
use proto::worker_message::Message;
use skep_proto::cluster as proto;

use super::failure::{decode_failure, encode_failure};
use super::identity::{
    decode_attempt, decode_attempts, decode_cached_key, decode_life, decode_usize, encode_attempt,
    encode_cached_key, encode_life, required,
};
use crate::control::members::JoinRequest;
use crate::error::{Error, Result};
use crate::ids::{Epoch, QueryId, WorkerId};
use crate::membership::WorkerLoad;
use crate::scheduler::{
    CachedKey, CachedReport, CachedUsage, Heartbeat, Holdings, TaskAttempt, TaskOutput,
};
use crate::worker::{TaskOutcome, TaskReport};

/// What the coordinator hears.
#[derive(Debug)]
pub enum FromWorker {
    /// Somebody wants in.
    Register(Box<JoinRequest>),
    /// The worker lives.
    Heartbeat(Heartbeat),
    /// Attempts have ended.
    Reports(Vec<TaskReport>),
    /// The worker goes.
    Goodbye,
}

/// Returns the message that asks to be let in. The holdings travel if there is a life that they
/// are of.
pub fn register(request: JoinRequest) -> proto::WorkerMessage {
    message(Message::Register(proto::Register {
        life: request.life.map(encode_life),
        slot_count: request.slot_count as u64,
        memory_bytes: request.memory_bytes,
        data_address: request.data_address,
        pid: request.pid,
        version: request.version,
        token: request.token,
        holdings: request.life.map(|_| encode_holdings(request.holdings)),
        wanted_id: request.wanted_id.map_or(0, |id| id.0),
    }))
}

/// Returns the message that says how busy a worker is.
pub fn heartbeat(beat: Heartbeat) -> proto::WorkerMessage {
    let WorkerLoad { memory_bytes, stored_bytes } = beat.load;
    let has_inputs = beat.has_inputs.into_iter().map(encode_attempt).collect();
    let usage = |usage: CachedUsage| proto::CachedUsage {
        table: usage.table.to_string(),
        epoch: usage.epoch.0,
        memory_bytes: usage.memory_bytes,
        disk_bytes: usage.disk_bytes,
    };
    let cached = beat.cached.into_iter().map(usage).collect();
    message(Message::Heartbeat(proto::Heartbeat { memory_bytes, stored_bytes, has_inputs, cached }))
}

/// Returns the message that ends a life.
pub fn goodbye() -> proto::WorkerMessage {
    message(Message::Goodbye(proto::Goodbye {}))
}

/// Returns the message of some last words: the first of them all, and as many more as fit into
/// about `target_bytes`.
pub fn reports(
    reports: &mut impl Iterator<Item = TaskReport>,
    target_bytes: usize,
) -> proto::WorkerMessage {
    let mut bytes = 0;
    let mut said = Vec::new();
    while bytes < target_bytes {
        let Some(report) = reports.next() else { break };
        let report = encode_report(report);
        bytes += report.encoded_len();
        said.push(report);
    }
    message(Message::Reports(proto::TaskReports { reports: said }))
}

fn message(message: Message) -> proto::WorkerMessage {
    proto::WorkerMessage { message: Some(message) }
}

fn encode_report(report: TaskReport) -> proto::TaskReport {
    let outcome = match report.outcome {
        TaskOutcome::Finished { output, operators } => {
            let output = Some(encode_output(output));
            Outcome::Finished(proto::TaskFinished { output, operators })
        }
        TaskOutcome::Failed(failure) => Outcome::Failed(encode_failure(failure)),
        TaskOutcome::Stopped => Outcome::Stopped(proto::TaskStopped {}),
    };
    proto::TaskReport { attempt: Some(encode_attempt(report.attempt)), outcome: Some(outcome) }
}

fn encode_output(output: TaskOutput) -> proto::TaskOutput {
    let TaskOutput { rows, bytes, input_bytes, spilled_bytes, remote_bytes, cached } = output;
    let cached = cached.map(|report| encode_cached(*report));
    proto::TaskOutput { rows, bytes, input_bytes, spilled_bytes, remote_bytes, cached }
}

fn encode_cached(report: CachedReport) -> proto::CachedReport {
    let CachedReport { table, epoch, partition, is_kept, summary, memory_bytes, disk_bytes, rows } =
        report;
    let key = Some(encode_cached_key(CachedKey { table, epoch, partition }));
    proto::CachedReport { key, is_kept, summary, memory_bytes, disk_bytes, rows }
}

fn decode_cached(report: proto::CachedReport) -> Result<CachedReport> {
    let proto::CachedReport { key, is_kept, summary, memory_bytes, disk_bytes, rows } = report;
    let CachedKey { table, epoch, partition } =
        decode_cached_key(required(key, "CachedReport.key")?)?;
    Ok(CachedReport { table, epoch, partition, is_kept, summary, memory_bytes, disk_bytes, rows })
}

fn encode_holdings(holdings: Holdings) -> proto::Holdings {
    let sealed = |(attempt, output)| proto::SealedOutput {
        attempt: Some(encode_attempt(attempt)),
        output: Some(encode_output(output)),
    };
    proto::Holdings {
        running: holdings.running.into_iter().map(encode_attempt).collect(),
        sealed: holdings.sealed.into_iter().map(sealed).collect(),
        queries: holdings.queries.into_iter().map(|query| query.0).collect(),
        cached: holdings.cached.into_iter().map(encode_cached).collect(),
    }
}

/// Returns what the coordinator hears.
///
/// # Errors
/// [`Error::MalformedMessage`] if it cannot be understood.
pub fn decode_worker_message(message: proto::WorkerMessage) -> Result<FromWorker> {
    Ok(match required(message.message, "WorkerMessage.message")? {
        Message::Register(register) => FromWorker::Register(Box::new(decode_register(register)?)),
        Message::Heartbeat(proto::Heartbeat { memory_bytes, stored_bytes, has_inputs, cached }) => {
            let load = WorkerLoad { memory_bytes, stored_bytes };
            let has_inputs = decode_attempts(has_inputs, "Heartbeat.has_inputs")?;
            let usage = |usage: proto::CachedUsage| CachedUsage {
                table: usage.table.into(),
                epoch: Epoch(usage.epoch),
                memory_bytes: usage.memory_bytes,
                disk_bytes: usage.disk_bytes,
            };
            let cached = cached.into_iter().map(usage).collect();
            FromWorker::Heartbeat(Heartbeat { load, has_inputs, cached })
        }
        Message::Reports(proto::TaskReports { reports }) => {
            FromWorker::Reports(reports.into_iter().map(decode_report).collect::<Result<_>>()?)
        }
        Message::Goodbye(proto::Goodbye {}) => FromWorker::Goodbye,
    })
}

fn decode_register(register: proto::Register) -> Result<JoinRequest> {
    if register.data_address.is_empty() {
        return Err(Error::malformed("Register.data_address", "is empty"));
    }
    let life = register.life.map(decode_life);
    let holdings = match (life, register.holdings) {
        (Some(_), Some(holdings)) => decode_holdings(holdings)?,
        _ => Holdings::default(),
    };
    Ok(JoinRequest {
        life,
        wanted_id: (register.wanted_id != 0).then_some(WorkerId(register.wanted_id)),
        slot_count: decode_usize(register.slot_count, "Register.slot_count")?,
        memory_bytes: register.memory_bytes,
        data_address: register.data_address,
        pid: register.pid,
        version: register.version,
        token: register.token,
        holdings,
    })
}

fn decode_holdings(holdings: proto::Holdings) -> Result<Holdings> {
    let sealed = |sealed: proto::SealedOutput| {
        let attempt = decode_attempt(sealed.attempt, "SealedOutput.attempt")?;
        Ok((attempt, decode_output(sealed.output, "SealedOutput.output")?))
    };
    Ok(Holdings {
        running: decode_attempts(holdings.running, "Holdings.running")?,
        sealed: holdings.sealed.into_iter().map(sealed).collect::<Result<_>>()?,
        queries: holdings.queries.into_iter().map(QueryId).collect(),
        cached: holdings.cached.into_iter().map(decode_cached).collect::<Result<_>>()?,
    })
}

fn decode_output(output: Option<proto::TaskOutput>, field: &'static str) -> Result<TaskOutput> {
    let proto::TaskOutput { rows, bytes, input_bytes, spilled_bytes, remote_bytes, cached } =
        required(output, field)?;
    let cached = cached.map(decode_cached).transpose()?.map(Box::new);
    Ok(TaskOutput { rows, bytes, input_bytes, spilled_bytes, remote_bytes, cached })
}

fn decode_report(report: proto::TaskReport) -> Result<TaskReport> {
    let attempt: TaskAttempt = decode_attempt(report.attempt, "TaskReport.attempt")?;
    let outcome = match required(report.outcome, "TaskReport.outcome")? {
        Outcome::Finished(proto::TaskFinished { output, operators }) => TaskOutcome::Finished {
            output: decode_output(output, "TaskFinished.output")?,
            operators,
        },
        Outcome::Failed(failure) => TaskOutcome::Failed(decode_failure(failure)?),
        Outcome::Stopped(proto::TaskStopped {}) => TaskOutcome::Stopped,
    };
    Ok(TaskReport { attempt, outcome })
}
