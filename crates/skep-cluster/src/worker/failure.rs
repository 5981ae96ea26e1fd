//! What an error of a running task means for the scheduler: whose fault it is, and so what to do.

use std::any::Any;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use datafusion::error::DataFusionError;
use skep_proto::ErrorCode;
use tokio::task::JoinError;

use super::command::TaskOutcome;
use super::inputs::InputError;
use crate::error::Error;
use crate::scheduler::TaskFailure;

/// Returns what became of an attempt whose error has nothing to do with the query: a lost input, a
/// full disk, a panic, an end that was asked for. `None` if it is the query's own.
pub(super) fn outside_the_query(error: &DataFusionError) -> Option<TaskOutcome> {
    let mut current: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = current {
        if let Some(input) = error.downcast_ref::<InputError>() {
            return Some(TaskOutcome::Failed(of_input(input)));
        }
        if let Some(join) = error.downcast_ref::<JoinError>() {
            return Some(TaskOutcome::Failed(of_join(join)));
        }
        // As an exchange within a task tells all its readers.
        if let Some(join) = error.downcast_ref::<Arc<JoinError>>() {
            return Some(TaskOutcome::Failed(of_join(join)));
        }
        if let Some(ours) = error.downcast_ref::<Error>() {
            return Some(of_store(ours));
        }
        if let Some(io) = error.downcast_ref::<io::Error>()
            && matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            return Some(worker_fault(io));
        }
        current = error.source();
    }
    None
}

/// Returns what an error of the query means.
pub(super) fn of_query(error: &skep_engine::Error) -> TaskFailure {
    let hint = error.hint().map(ToOwned::to_owned);
    match error {
        skep_engine::Error::ResourcesExhausted { message, .. } => {
            TaskFailure::OutOfMemory { message: message.clone(), hint }
        }
        error => TaskFailure::Query { code: error.code(), message: error.to_string(), hint },
    }
}

/// Returns what it means that a plan could not be made out of what came: it came damaged, or
/// something that it names is not on this worker; but a defect is met everywhere.
pub(super) fn of_planning(error: skep_engine::Error) -> TaskOutcome {
    match error.code() {
        ErrorCode::Internal | ErrorCode::Unimplemented | ErrorCode::ResourceExhausted => {
            TaskOutcome::Failed(of_query(&error))
        }
        _ => worker_fault(format!("the plan cannot be read: {error}")),
    }
}

/// Returns the failure of a task that unwound.
pub(super) fn of_panic(payload: &(dyn Any + Send)) -> TaskFailure {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    let message = text.unwrap_or_else(|| "no message".to_owned());
    TaskFailure::Panic { message }
}

pub(super) fn worker_fault(message: impl ToString) -> TaskOutcome {
    TaskOutcome::Failed(TaskFailure::WorkerFault { message: message.to_string() })
}

fn of_input(input: &InputError) -> TaskFailure {
    use Error::{AccessRefused, ColumnsDiffer, MessageTooLarge, Remote, SlotLimit};
    match &input.error {
        // The other side answered, and would answer so again: not a reason to give it up.
        MessageTooLarge { .. }
        | ColumnsDiffer { .. }
        | SlotLimit { .. }
        | AccessRefused { .. }
        | Remote { is_retryable: false, .. } => {
            let (code, message) = (input.error.code(), input.to_string());
            return TaskFailure::Query { code, message, hint: None };
        }
        _ => {}
    }
    TaskFailure::Fetch {
        producer: input.producer,
        site: input.site,
        fault: input.fault,
        also_missing: input.also_missing.clone(),
        message: input.error.to_string(),
    }
}

/// DataFusion runs parts of a plan as tasks of the runtime; one that ended by itself has panicked.
fn of_join(join: &JoinError) -> TaskFailure {
    match join.is_panic() {
        true => TaskFailure::Panic { message: join.to_string() },
        false => TaskFailure::WorkerFault { message: join.to_string() },
    }
}

fn of_store(error: &Error) -> TaskOutcome {
    match error {
        Error::WriterEnded { .. } | Error::QueryEnded { .. } | Error::PartitionReleased { .. } => {
            TaskOutcome::Stopped
        }
        Error::MemoryExhausted { .. } => {
            TaskOutcome::Failed(TaskFailure::OutOfMemory { message: error.to_string(), hint: None })
        }
        Error::DiskLimit { .. }
        | Error::DiskFull { .. }
        | Error::Io { .. }
        | Error::AlreadySealed { .. }
        | Error::Unreachable { .. }
        | Error::TransferDamaged { .. }
        | Error::PartitionNotFound { .. }
        | Error::PartitionDamaged { .. } => worker_fault(error),
        Error::ResumeBeyondEnd { .. }
        | Error::SchemaMismatch { .. }
        | Error::InvalidOption { .. }
        | Error::MalformedMessage { .. }
        | Error::CoordinatorRefused { .. }
        | Error::AccessRefused { .. }
        | Error::ColumnsDiffer { .. }
        | Error::MessageTooLarge { .. }
        | Error::SlotLimit { .. }
        | Error::Remote { .. }
        | Error::Internal { .. } => TaskOutcome::Failed(TaskFailure::Query {
            code: error.code(),
            message: error.to_string(),
            hint: None,
        }),
    }
}
