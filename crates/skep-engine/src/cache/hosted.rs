//! Seam 2: cached tables whose partitions are kept by others, as by the workers of a cluster.
//!
//! The engine plans such a table as any other: it matches plans, knows rows and bounds exactly, skips
//! batches. Who makes the partitions, where they are and how a task reads one is the host's part.
//!
//! - On the side that plans: [`CacheHost`] takes a table over, [`HostedTable`] is one content of it.
//! - On the side that runs: a task's session configuration carries [`CachedInputs`], through which
//!   [`CacheScanExec`](super::CacheScanExec) gets its rows; [`cache_partition`] keeps rows.
//!
//! **Invariant:** a content has one epoch. Its partitions have the same rows whenever and wherever
//! they are made; a host takes over no table of which that is not known.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use futures::future::BoxFuture;
use skep_store::ids::Epoch;
use skep_store::{PartitionReader, PartitionStore, WriterSpec};

use super::build::{self, Kept};
use super::level::CacheLevel;
use super::summary::PartitionSummary;
use crate::error::Result;

/// What a content of a cached table is, wherever it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedShape {
    /// How messages call the table.
    pub name: String,
    /// How stores call it.
    pub key: Arc<str>,
    /// Which content of it.
    pub epoch: Epoch,
    /// The columns as queries see them.
    pub schema: SchemaRef,
    /// The columns whose values decide the partition, in order.
    pub clustered: Option<Vec<usize>>,
    /// How many partitions it has.
    pub partition_count: usize,
    /// Whether each partition comes out the same, in the same order, from its own files alone.
    pub is_narrow: bool,
}

/// A content that a host may take over.
#[derive(Debug)]
pub struct HostedParts {
    /// What it is.
    pub shape: Arc<CachedShape>,
    /// Where its partitions may be kept, and how many copies.
    pub level: CacheLevel,
    /// What makes its partitions: partition `p` of the plan is partition `p` of the table. Its columns
    /// are in the order of the shape's, but may have other names and types.
    pub plan: Arc<dyn ExecutionPlan>,
    /// The context of the session that cached it.
    pub context: Arc<TaskContext>,
}

/// Keeps cached tables for an engine.
pub trait CacheHost: fmt::Debug + Send + Sync {
    /// Returns a number from which on no content was ever counted: keepers may still have contents
    /// of a process that is no more.
    fn first_epoch(&self) -> u64;

    /// Waits for somebody who keeps partitions of a content of the process before this one, from now
    /// on; returns whether anybody came in time. Until then, and until it is taken over or
    /// [given up](Self::give_up), nobody is told to drop it.
    fn expect(&self, table: &Arc<str>, epoch: Epoch) -> BoxFuture<'static, bool>;

    /// Has a content dropped that was expected.
    fn give_up(&self, table: &Arc<str>, epoch: Epoch);

    /// Takes a content over, with what is kept of it if it was expected, else empty; `None` leaves it to the engine's own process.
    ///
    /// # Errors
    /// If its plan cannot be cut into what makes its partitions.
    fn adopt(&self, parts: HostedParts) -> Result<Option<Arc<dyn HostedTable>>>;
}

/// One content that a host keeps.
#[async_trait]
pub trait HostedTable: Any + fmt::Debug + Send + Sync {
    /// Makes all partitions that are not kept anywhere.
    ///
    /// # Errors
    /// Whatever keeps them from being made; not that there is no room for them.
    async fn fill(&self) -> Result<()>;

    /// Returns whether anybody wanted its rows yet.
    fn is_used(&self) -> bool;

    /// Keeps the partitions from being let go of: for a query, from its planning on.
    fn hold(&self) -> HostedHold;

    /// Lets go of all partitions as soon as no query runs that was planned with them.
    fn end(&self);

    /// Returns what it is: as its parts said, but for the number of partitions, which is the host's
    /// unless the table is clustered.
    fn shape(&self) -> Arc<CachedShape>;

    /// Returns what is known of all partitions, once all were made.
    fn summaries(&self) -> Option<Vec<Arc<PartitionSummary>>>;

    /// Returns what people see of it.
    fn figures(&self) -> HostedFigures;
}

/// Holds on to a hosted content until it is dropped.
pub type HostedHold = Arc<dyn Any + Send + Sync>;

/// What people see of a hosted content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostedFigures {
    /// How many keep each partition at least.
    pub copies: u64,
    /// Partitions that are kept by somebody.
    pub cached_partitions: u64,
    /// What all copies take in memory.
    pub memory_bytes: u64,
    /// What they take in files.
    pub disk_bytes: u64,
    /// Partitions that queries found kept.
    pub hits: u64,
    /// Partitions that were made for a query and could not be kept.
    pub passed: u64,
    /// Partitions that were made again.
    pub rebuilt: u64,
    /// Who keeps them.
    pub keepers: String,
}

/// What a scan wants.
#[derive(Debug, Clone, Copy)]
pub struct RowsWanted<'a> {
    /// The table.
    pub shape: &'a Arc<CachedShape>,
    /// What the query calls the making of the table.
    pub producer: u32,
    /// The partition.
    pub partition: usize,
    /// The columns.
    pub projection: &'a [usize],
    /// Those columns, as queries see them.
    pub schema: &'a SchemaRef,
}

/// Makes the store's error the one that a task fails with.
pub type StoreFailure = Arc<dyn Fn(skep_store::Error) -> DataFusionError + Send + Sync>;

/// A partition of a hosted table that can be read.
pub enum CachedRows {
    /// In the store of this process, encoded, with all columns.
    Kept {
        /// Its batches.
        reader: Box<PartitionReader>,
        /// What is known of them.
        summary: Option<Arc<PartitionSummary>>,
        /// What a failure of the store means.
        failure: StoreFailure,
    },
    /// As queries see it, with the wanted columns.
    Plain(SendableRecordBatchStream),
}

impl fmt::Debug for CachedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept { reader, .. } => f.debug_tuple("Kept").field(reader).finish(),
            Self::Plain(_) => f.write_str("Plain"),
        }
    }
}

/// Where a task finds partitions of hosted tables.
pub trait CachedSource: fmt::Debug + Send + Sync {
    /// Opens a partition.
    ///
    /// # Errors
    /// If it is known not to be there; what happens later comes through the rows.
    fn open(&self, wanted: RowsWanted<'_>, context: &TaskContext) -> DfResult<CachedRows>;
}

/// The source of a task, as an extension of its session configuration.
#[derive(Debug, Clone)]
pub struct CachedInputs(pub Arc<dyn CachedSource>);

/// Encodes the rows of a stream, keeps them in a store, and seals; returns what is known of them, or
/// `None` if there is no room. Rows are given the columns of the specification's schema.
///
/// # Errors
/// Those of the stream; of the store whatever is no want of room.
pub async fn cache_partition(
    store: &PartitionStore,
    spec: WriterSpec,
    pool: &Arc<dyn MemoryPool>,
    rows: SendableRecordBatchStream,
) -> DfResult<Option<PartitionSummary>> {
    Ok(match build::keep(store, spec, pool, rows).await? {
        Kept::Yes(summary) => Some(*summary),
        Kept::NoRoom => None,
    })
}

/// Gives a batch that the plan of a cached table made the columns that queries see.
///
/// # Errors
/// If a column is of a type that cannot be made into the known one.
pub fn as_cached(batch: RecordBatch, schema: &SchemaRef) -> DfResult<RecordBatch> {
    build::fitted(batch, schema)
}

/// Takes columns back from an encoded batch of a cached table; `schema` is that of the projection.
///
/// # Errors
/// If the batch was not encoded from such columns.
pub fn decode_cached(
    batch: &RecordBatch,
    projection: &[usize],
    schema: &SchemaRef,
) -> DfResult<RecordBatch> {
    Ok(super::encode::decode_batch(batch, projection, schema)?)
}
