//! Identities on the wire.

use skep_proto::cluster as proto;

use crate::error::{Error, Result};
use crate::ids::{Attempt, Epoch, Incarnation, QueryId, StageId, TaskId, WorkerId};
use crate::membership::WorkerLife;
use crate::scheduler::{CachedKey, Site, TaskAttempt};

/// Returns a field that must be set.
///
/// # Errors
/// [`Error::MalformedMessage`] if it is not.
pub fn required<T>(value: Option<T>, field: &'static str) -> Result<T> {
    value.ok_or_else(|| Error::malformed(field, "is missing"))
}

/// Returns a count or place as this machine has them.
///
/// # Errors
/// [`Error::MalformedMessage`] if it is too large.
pub fn decode_usize(value: u64, field: &'static str) -> Result<usize> {
    usize::try_from(value).map_err(|error| Error::malformed(field, error.to_string()))
}

/// Returns the name of a cached partition as it travels.
pub fn encode_cached_key(key: CachedKey) -> proto::CachedKey {
    let CachedKey { table, epoch, partition } = key;
    proto::CachedKey { table: table.to_string(), epoch: epoch.0, partition: partition as u64 }
}

/// Returns the name of a cached partition that arrived.
///
/// # Errors
/// [`Error::MalformedMessage`] if it names an impossible partition.
pub fn decode_cached_key(key: proto::CachedKey) -> Result<CachedKey> {
    let partition = decode_usize(key.partition, "CachedKey.partition")?;
    Ok(CachedKey { table: key.table.into(), epoch: Epoch(key.epoch), partition })
}

/// Returns a life as it travels.
pub fn encode_life(life: WorkerLife) -> proto::WorkerLife {
    proto::WorkerLife { worker: life.worker.0, incarnation: life.incarnation.0 }
}

/// Returns a life that arrived.
pub fn decode_life(life: proto::WorkerLife) -> WorkerLife {
    WorkerLife { worker: WorkerId(life.worker), incarnation: Incarnation(life.incarnation) }
}

/// Returns a site as it travels.
pub fn encode_site(site: Site) -> proto::Site {
    let life = match site {
        Site::Coordinator => None,
        Site::Worker(life) => Some(encode_life(life)),
    };
    proto::Site { life }
}

/// Returns a site that arrived.
pub fn decode_site(site: proto::Site) -> Site {
    site.life.map_or(Site::Coordinator, |life| Site::Worker(decode_life(life)))
}

/// Returns an attempt as it travels.
pub fn encode_attempt(id: TaskAttempt) -> proto::TaskAttempt {
    proto::TaskAttempt {
        query: id.task.query.0,
        stage: id.task.stage.0,
        partition: id.task.partition as u64,
        attempt: id.attempt.0,
    }
}

/// Returns an attempt that arrived.
///
/// # Errors
/// [`Error::MalformedMessage`] if it is missing or names an impossible partition.
pub fn decode_attempt(id: Option<proto::TaskAttempt>, field: &'static str) -> Result<TaskAttempt> {
    let id = required(id, field)?;
    let task = TaskId {
        query: QueryId(id.query),
        stage: StageId(id.stage),
        partition: decode_usize(id.partition, field)?,
    };
    Ok(TaskAttempt { task, attempt: Attempt(id.attempt) })
}

/// Returns attempts that arrived.
///
/// # Errors
/// As [`decode_attempt`].
pub fn decode_attempts(
    ids: Vec<proto::TaskAttempt>,
    field: &'static str,
) -> Result<Vec<TaskAttempt>> {
    ids.into_iter().map(|id| decode_attempt(Some(id), field)).collect()
}
