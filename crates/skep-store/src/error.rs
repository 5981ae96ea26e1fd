//! The one error type of the store and of the executor above it: what failed, of which partition,
//! and what may be done.
//!
//! One type for both, because most of what fails in an exchange is a partition that a store does not
//! have any more, and recovery asks about that wherever it arises.

use std::io;
use std::path::PathBuf;

use datafusion::error::DataFusionError;
use skep_proto::ErrorCode;

use crate::ids::QueryId;
use crate::key::{PartitionKey, WriterKey};

/// Shorthand for the executor's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in the store and in the executor.
///
/// Exhaustive, so that who puts it on a wire forgets none.
///
/// Inside a process it crosses DataFusion as `External` and is found again by [`Error::find`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A partition was asked for that is not here: never sealed, released, or dropped for memory.
    #[error("partition \"{partition}\" not found")]
    PartitionNotFound {
        /// The partition.
        partition: PartitionKey,
    },

    /// What was kept of a partition is not what was written.
    #[error("partition \"{partition}\" is damaged: {message}")]
    PartitionDamaged {
        /// The partition.
        partition: PartitionKey,
        /// What is wrong with it.
        message: String,
    },

    /// The lease ended while a reader was under way, and the end did not wait for readers.
    #[error("partition \"{partition}\" was released while it was read")]
    PartitionReleased {
        /// The partition.
        partition: PartitionKey,
    },

    /// A reader wanted to begin behind the end of a partition.
    #[error("partition \"{partition}\" has {batches} batches, reading cannot begin at {start}")]
    ResumeBeyondEnd {
        /// The partition.
        partition: PartitionKey,
        /// How many batches it has.
        batches: u64,
        /// Where the reader wanted to begin, from 0.
        start: u64,
    },

    /// A writer wrote or sealed after its lease had ended: its query is over, or its table is gone.
    #[error("output of \"{writer}\" is not wanted any more")]
    WriterEnded {
        /// The writer.
        writer: WriterKey,
    },

    /// Output of a query that is over was to be written.
    #[error("query {query} has ended")]
    QueryEnded {
        /// The query.
        query: QueryId,
    },

    /// The same output was sealed before; the first seal stands.
    #[error("output of \"{writer}\" was sealed before")]
    AlreadySealed {
        /// The writer.
        writer: WriterKey,
    },

    /// A batch does not have the columns that its writer was opened with.
    #[error("output of \"{writer}\" has other columns than announced: {message}")]
    SchemaMismatch {
        /// The writer.
        writer: WriterKey,
        /// What differs.
        message: String,
    },

    /// There is no memory for a partition that may live in memory only.
    #[error("no memory for {needed} bytes of \"{writer}\", which may not be kept on disk")]
    MemoryExhausted {
        /// The writer.
        writer: WriterKey,
        /// How many bytes were wanted.
        needed: usize,
    },

    /// The store's bound on disk was reached.
    #[error(
        "the partition store's disk limit is reached: {used} of {limit} bytes are used, {needed} more are needed"
    )]
    DiskLimit {
        /// Bytes wanted.
        needed: u64,
        /// Bytes in use.
        used: u64,
        /// The bound in bytes.
        limit: u64,
    },

    /// The device is full.
    #[error("no space left to write {}", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The operating system failed us.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `create`, ...
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// Another process could not be reached, or the connection to it broke.
    #[error("cannot fetch from {address}: {message}")]
    Unreachable {
        /// HOST:PORT of the process.
        address: String,
        /// What happened.
        message: String,
    },

    /// Another process does not know us: the cluster's token is wrong.
    #[error("{address} refuses this process: {message}")]
    AccessRefused {
        /// HOST:PORT of the process.
        address: String,
        /// What it said.
        message: String,
    },

    /// What came over the network is not what was sent.
    #[error("what came from {address} is damaged: {message}")]
    TransferDamaged {
        /// HOST:PORT of the process.
        address: String,
        /// What is wrong with it.
        message: String,
    },

    /// An output that came whole is not of the columns that the reader's plan names.
    #[error("partition \"{partition}\" has other columns than expected: {message}")]
    ColumnsDiffer {
        /// The partition.
        partition: PartitionKey,
        /// What differs.
        message: String,
    },

    /// A row does not fit a message.
    #[error(
        "a batch of partition \"{partition}\" needs a message of {bytes} bytes, the limit is {limit}"
    )]
    MessageTooLarge {
        /// The partition.
        partition: PartitionKey,
        /// Bytes of the message.
        bytes: u64,
        /// The bound in bytes.
        limit: u64,
    },

    /// A reader wanted to read too many outputs at a time.
    #[error("all {limit} places of an exchange stream are in use")]
    SlotLimit {
        /// The bound.
        limit: usize,
    },

    /// Another process reported an error.
    #[error("{message}")]
    Remote {
        /// HOST:PORT of the process.
        address: String,
        /// What kind of failure.
        code: ErrorCode,
        /// What it said.
        message: String,
        /// What it said about another attempt.
        is_retryable: bool,
    },

    /// An option has a value that it cannot take.
    #[error("invalid option \"{option}\": {message}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// What is wrong.
        message: String,
    },

    /// Another process of the cluster said something that cannot be understood: a defect, or another
    /// build.
    #[error("malformed message: field \"{field}\" {message}")]
    MalformedMessage {
        /// The field of the wire contract.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },

    /// The coordinator does not let this worker in, and will not.
    #[error("the coordinator refuses this worker: {message}")]
    CoordinatorRefused {
        /// What it said.
        message: String,
    },

    /// A defect of skep or of a library below it.
    #[error("internal error: {message}")]
    Internal {
        /// What broke.
        message: String,
    },
}

impl Error {
    /// Returns what kind of failure this is.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::PartitionNotFound { .. } => ErrorCode::NotFound,
            Self::PartitionDamaged { .. } => ErrorCode::Unavailable,
            Self::PartitionReleased { .. } | Self::WriterEnded { .. } | Self::QueryEnded { .. } => {
                ErrorCode::Cancelled
            }
            Self::AlreadySealed { .. } => ErrorCode::AlreadyExists,
            Self::ResumeBeyondEnd { .. } | Self::InvalidOption { .. } => ErrorCode::InvalidArgument,
            Self::MemoryExhausted { .. } | Self::DiskLimit { .. } | Self::DiskFull { .. } => {
                ErrorCode::ResourceExhausted
            }
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorCode::NotFound,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    ErrorCode::PermissionDenied
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    ErrorCode::ResourceExhausted
                }
                _ => ErrorCode::Unavailable,
            },
            Self::CoordinatorRefused { .. } => ErrorCode::PermissionDenied,
            Self::Unreachable { .. } | Self::TransferDamaged { .. } => ErrorCode::Unavailable,
            Self::AccessRefused { .. } => ErrorCode::Unauthenticated,
            Self::MessageTooLarge { .. } | Self::SlotLimit { .. } => ErrorCode::ResourceExhausted,
            Self::Remote { code, .. } => *code,
            Self::SchemaMismatch { .. }
            | Self::ColumnsDiffer { .. }
            | Self::MalformedMessage { .. }
            | Self::Internal { .. } => ErrorCode::Internal,
        }
    }

    /// Returns whether another attempt may succeed, after the partition that it names was made again.
    ///
    /// Running out of memory or disk is not one of these: the next attempt would run out as well.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::PartitionNotFound { .. }
            | Self::PartitionDamaged { .. }
            | Self::Unreachable { .. }
            | Self::TransferDamaged { .. }
            | Self::Io { .. } => true,
            Self::Remote { is_retryable, .. } => *is_retryable,
            Self::PartitionReleased { .. }
            | Self::ResumeBeyondEnd { .. }
            | Self::WriterEnded { .. }
            | Self::QueryEnded { .. }
            | Self::AlreadySealed { .. }
            | Self::SchemaMismatch { .. }
            | Self::MemoryExhausted { .. }
            | Self::DiskLimit { .. }
            | Self::DiskFull { .. }
            | Self::AccessRefused { .. }
            | Self::ColumnsDiffer { .. }
            | Self::MessageTooLarge { .. }
            | Self::SlotLimit { .. }
            | Self::InvalidOption { .. }
            | Self::MalformedMessage { .. }
            | Self::CoordinatorRefused { .. }
            | Self::Internal { .. } => false,
        }
    }

    /// Returns the partition that must be made again before another attempt can succeed.
    pub fn lost_partition(&self) -> Option<&PartitionKey> {
        match self {
            Self::PartitionNotFound { partition } | Self::PartitionDamaged { partition, .. } => {
                Some(partition)
            }
            _ => None,
        }
    }

    /// Finds the executor's error below an error of DataFusion.
    pub fn find(error: &DataFusionError) -> Option<&Self> {
        let mut current: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = current {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            current = error.source();
        }
        None
    }

    /// Makes an [`Error::MalformedMessage`].
    pub fn malformed(field: &'static str, message: impl Into<String>) -> Self {
        Self::MalformedMessage { field, message: message.into() }
    }

    /// Makes an [`Error::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::Internal { message: message.into() }
    }
}

impl From<Error> for DataFusionError {
    /// Keeps the error whole; running out of something stays recognisable as such to DataFusion's
    /// own callers by its text alone, and to ours by [`Error::find`].
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_found_again_below_layers_of_datafusion() {
        let partition =
            PartitionKey::Cached { table: "t".into(), epoch: crate::ids::Epoch(1), partition: 2 };
        let error =
            DataFusionError::from(Error::PartitionNotFound { partition: partition.clone() })
                .context("while joining")
                .context("in stage 3");
        let found = Error::find(&error).unwrap();
        assert_eq!(found.lost_partition(), Some(&partition));
        assert!(found.is_retryable());
        assert_eq!(found.code(), ErrorCode::NotFound);
        assert!(Error::find(&DataFusionError::Internal("other".into())).is_none());
    }

    #[test]
    fn running_out_is_not_retried() {
        let error = Error::DiskLimit { needed: 1, used: 2, limit: 3 };
        assert_eq!(error.code(), ErrorCode::ResourceExhausted);
        assert!(!error.is_retryable());
    }
}
