//! The result of a statement, and the seam through which every query is executed.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{
    ExecutionPlan, ExecutionPlanProperties, displayable, execute_stream,
};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};

use crate::error::Result;

/// What a statement did, so that a front end can say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatementKind {
    /// It asked: the stream's rows are the answer.
    Query,
    /// It wrote rows, so many of them; the stream is empty.
    Write {
        /// Rows written.
        row_count: u64,
    },
    /// It changed the catalog or a setting; the stream is empty.
    Command {
        /// What was done, in the words of the statement: `CREATE TABLE`, `SET`.
        tag: String,
    },
}

/// The rows of one statement's result, as they come.
///
/// Dropping it stops the work behind it. The end of the stream means that the answer is complete;
/// anything else is an error.
pub struct QueryStream {
    schema: SchemaRef,
    kind: StatementKind,
    batches: BoxStream<'static, Result<RecordBatch>>,
}

impl QueryStream {
    /// Wraps the batches of a query; each must have `schema`.
    pub fn new(schema: SchemaRef, batches: BoxStream<'static, Result<RecordBatch>>) -> Self {
        Self { schema, kind: StatementKind::Query, batches }
    }

    /// Returns the empty result of a statement that did something.
    pub fn done(kind: StatementKind) -> Self {
        let schema = Arc::new(datafusion::arrow::datatypes::Schema::empty());
        Self { schema, kind, batches: futures::stream::empty().boxed() }
    }

    /// Returns the schema of every batch; names may repeat, as in `SELECT 1 AS a, 2 AS a`.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Returns what the statement did.
    pub fn kind(&self) -> &StatementKind {
        &self.kind
    }

    /// Gathers all batches.
    ///
    /// # Errors
    /// The first error of the query.
    pub async fn collect(self) -> Result<Vec<RecordBatch>> {
        self.batches.try_collect().await
    }
}

impl Stream for QueryStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.poll_next_unpin(cx)
    }
}

impl fmt::Debug for QueryStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryStream")
            .field("schema", &self.schema)
            .field("kind", &self.kind)
            .finish()
    }
}

/// Seam 1: how an optimised physical plan becomes rows.
///
/// The engine reaches execution only through this trait, so that a cluster can stand in its place.
#[async_trait]
pub trait QueryExecutor: fmt::Debug + Send + Sync {
    /// Returns how many partitions a query planned now is to be cut into; `None` leaves it to the
    /// session. It gives way to a number that the user or the engine's configuration set.
    ///
    /// Asked for each query, so it may follow what there is to run on; must not wait.
    fn target_partitions(&self) -> Option<usize> {
        None
    }

    /// Runs `plan` and returns its rows in one stream.
    ///
    /// The context's session configuration carries the statement as [`QueryText`], if there is one.
    ///
    /// Shape: the plan's schema; order as the plan's output ordering says.
    ///
    /// # Errors
    /// Whatever keeps the plan from starting; later errors come through the stream.
    async fn execute(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream>;

    /// Describes how `plan` would be run, for `EXPLAIN DISTRIBUTED`, without running it.
    ///
    /// Shape: what each part is, in a few words on one line, and its text; what is read comes before
    /// what reads it. By default the plan is one part, of which no more is said.
    ///
    /// # Errors
    /// Whatever would keep the plan from being run.
    async fn explain(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<(String, String)>> {
        let _ = context;
        Ok(vec![("plan".to_owned(), plan_text(plan))])
    }
}

/// The statement that a query came with, as its user wrote it: an extension of the session
/// configuration that [`QueryExecutor::execute`] gets.
///
/// For people who look at what runs. It may be of any length, and name what an error would not show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryText(pub Arc<str>);

/// The number under which a statement is known to whoever runs it: an extension of the session
/// configuration that [`QueryExecutor::execute`] gets.
///
/// A statement may run more than one plan; the first that asks has the number.
#[derive(Debug)]
pub struct QueryTag {
    id: u64,
    is_taken: AtomicBool,
}

impl QueryTag {
    /// Makes the tag of a statement.
    pub fn new(id: u64) -> Self {
        Self { id, is_taken: AtomicBool::new(false) }
    }

    /// Returns the number, to the first who asks.
    pub fn take(&self) -> Option<u64> {
        (!self.is_taken.swap(true, Ordering::Relaxed)).then_some(self.id)
    }
}

fn plan_text(plan: &Arc<dyn ExecutionPlan>) -> String {
    displayable(plan.as_ref()).indent(false).to_string()
}

/// Runs plans in this process.
#[derive(Debug, Default, Clone, Copy)]
pub struct LocalExecutor;

#[async_trait]
impl QueryExecutor for LocalExecutor {
    async fn execute(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        Ok(execute_stream(plan, context)?)
    }

    async fn explain(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        _context: &Arc<TaskContext>,
    ) -> Result<Vec<(String, String)>> {
        let partitions = match plan.output_partitioning().partition_count() {
            1 => "1 partition".to_owned(),
            count => format!("{count} partitions"),
        };
        Ok(vec![(format!("one stage of {partitions}, in this process"), plan_text(plan))])
    }
}
