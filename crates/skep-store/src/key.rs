//! Names of partitions and of those who write them.

use std::fmt;
use std::sync::Arc;

use crate::ids::{Attempt, Epoch, QueryId, StageId};

/// The name of one partition in a store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartitionKey {
    /// Output of a task, for a later stage of the same query.
    Exchange {
        /// The query; its end is the end of the lease.
        query: QueryId,
        /// The stage that produced it.
        stage: StageId,
        /// The partition of the task that produced it.
        producer: usize,
        /// The attempt of that task.
        attempt: Attempt,
        /// The output partition, from 0.
        partition: usize,
    },
    /// A partition of a cached table.
    Cached {
        /// The table.
        table: Arc<str>,
        /// The content of the table.
        epoch: Epoch,
        /// The partition, from 0.
        partition: usize,
    },
}

impl PartitionKey {
    /// Returns who writes it, and as which of its outputs.
    pub(super) fn writer(&self) -> (WriterKey, usize) {
        match self {
            Self::Exchange { query, stage, producer, attempt, partition } => {
                let (query, stage, producer, attempt) = (*query, *stage, *producer, *attempt);
                (WriterKey::Exchange { query, stage, producer, attempt }, *partition)
            }
            Self::Cached { table, epoch, partition } => {
                let (table, epoch, partition) = (Arc::clone(table), *epoch, *partition);
                (WriterKey::Cached { table, epoch, partition }, 0)
            }
        }
    }
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange { query, stage, producer, attempt, partition } => {
                write!(f, "{query}.{stage}.{producer} attempt {attempt} output {partition}")
            }
            Self::Cached { table, epoch, partition } => write!(f, "{table} {epoch} {partition}"),
        }
    }
}

/// The name of one writer: all outputs of it are sealed together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WriterKey {
    /// One attempt of a task, with any number of outputs.
    Exchange {
        /// The query.
        query: QueryId,
        /// The stage of the task.
        stage: StageId,
        /// The partition of the task.
        producer: usize,
        /// Which try of it.
        attempt: Attempt,
    },
    /// One partition of a cached table; it has one output.
    Cached {
        /// The table.
        table: Arc<str>,
        /// The content of the table.
        epoch: Epoch,
        /// The partition of the table.
        partition: usize,
    },
}

impl WriterKey {
    /// Returns the name of output `output` of this writer.
    pub fn output(&self, output: usize) -> PartitionKey {
        match self {
            Self::Exchange { query, stage, producer, attempt } => PartitionKey::Exchange {
                query: *query,
                stage: *stage,
                producer: *producer,
                attempt: *attempt,
                partition: output,
            },
            Self::Cached { table, epoch, partition } => PartitionKey::Cached {
                table: Arc::clone(table),
                epoch: *epoch,
                partition: *partition,
            },
        }
    }
}

impl fmt::Display for WriterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange { query, stage, producer, attempt } => {
                write!(f, "{query}.{stage}.{producer} attempt {attempt}")
            }
            Self::Cached { table, epoch, partition } => write!(f, "{table} {epoch} {partition}"),
        }
    }
}

/// Where a partition may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum StorageLevel {
    /// In memory while there is room, on disk under pressure.
    #[default]
    MemoryAndDisk,
    /// In memory, or nowhere: dropped under pressure. For cached partitions alone.
    MemoryOnly,
    /// On disk from the beginning.
    DiskOnly,
}

/// What to do with readers that are under way when a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// They read to the end; the last one's end frees memory and files.
    Finish,
    /// Memory and files are freed now; a reader gets an error at its next step.
    Abort,
}
