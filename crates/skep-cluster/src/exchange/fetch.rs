//! Reading outputs of other sites: what a task sees of it.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::memory_pool::MemoryPool;
use futures::stream::BoxStream;

use crate::error::Error;
use crate::scheduler::{CachedKey, FetchFault, TaskAttempt};

/// One output somewhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteOutput {
    /// HOST:PORT of the site that keeps it.
    pub address: String,
    /// Who wrote it.
    pub producer: TaskAttempt,
    /// Which of its outputs.
    pub output: usize,
    /// The first batch wanted, from 0.
    pub start_batch: u64,
    /// Whether it is read also while it is still written, from its beginning. Its batches come as
    /// they are made; its end comes when it is sealed.
    pub is_growing: bool,
    /// Of the making of a partition of a cached table: what is read of it.
    pub cached: Option<CachedColumns>,
}

/// Columns of a partition of a cached table, wherever it lies at its keeper: kept, or made for one
/// query alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedColumns {
    /// Which partition.
    pub key: CachedKey,
    /// The columns, by their places in the table.
    pub columns: Vec<usize>,
}

/// Who is told, at most once, that all of an output has come.
pub struct Arrival(Box<dyn FnOnce() + Send>);

impl Arrival {
    /// Makes the one who does this.
    pub fn new(tell: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(tell))
    }

    /// Tells it.
    pub fn tell(self) {
        (self.0)();
    }
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Arrival")
    }
}

/// Why a fetch ended early.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct FetchFailure {
    /// Who is to blame.
    pub fault: FetchFault,
    /// What happened.
    #[source]
    pub error: Error,
}

/// The batches of one output, in the order in which they were written. The end means that all came.
pub type FetchStream = BoxStream<'static, Result<RecordBatch, FetchFailure>>;

/// Makes what tasks fetch through.
pub trait Fetcher: fmt::Debug + Send + Sync + 'static {
    /// Makes the reader of one task; what waits in it is accounted in this pool.
    fn for_task(&self, pool: &Arc<dyn MemoryPool>) -> Arc<dyn TaskFetcher>;
}

/// What one task fetches through: one stream to each site that it reads from.
pub trait TaskFetcher: fmt::Debug + Send + Sync + 'static {
    /// Begins to read an output, whose batches have this schema, when the stream is first polled.
    /// Each output makes progress by itself, however slowly others are read.
    fn open(&self, output: RemoteOutput, schema: SchemaRef) -> FetchStream;

    /// Begins to read an output now, and goes on ahead of whoever reads the stream as long as memory
    /// is free. `arrival` is told once all of it has come, read or not.
    fn open_ahead(&self, output: RemoteOutput, schema: SchemaRef, arrival: Arrival) -> FetchStream;
}
