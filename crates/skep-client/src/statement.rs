//! A statement that runs at the coordinator.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use arrow_array::RecordBatch;
use arrow_flight::FlightInfo;
use arrow_schema::SchemaRef;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use skep_proto::client::StatementOutcome;
use skep_proto::client::statement_outcome::Kind;

use crate::error::Result;

/// What a statement did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It asked: the rows are the answer.
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

/// The rows of one statement, as they come. Dropping it cancels the statement.
///
/// The end of the stream means that the answer is complete; anything else is an error.
pub struct Statement {
    schema: SchemaRef,
    outcome: Outcome,
    handle: StatementHandle,
    batches: BoxStream<'static, Result<RecordBatch>>,
}

/// What names a statement, to cancel it by.
#[derive(Debug, Clone)]
pub struct StatementHandle {
    pub(crate) info: FlightInfo,
    pub(crate) query: String,
}

impl StatementHandle {
    /// Returns the statement's name in `system.queries`, which `KILL QUERY` takes too.
    pub fn query(&self) -> &str {
        &self.query
    }
}

impl Statement {
    pub(crate) fn new(
        schema: SchemaRef,
        outcome: Outcome,
        handle: StatementHandle,
        batches: BoxStream<'static, Result<RecordBatch>>,
    ) -> Self {
        Self { schema, outcome, handle, batches }
    }

    /// Returns what names it.
    pub fn handle(&self) -> StatementHandle {
        self.handle.clone()
    }

    /// Returns the schema of every batch; names may repeat.
    pub fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    /// Returns what the statement did.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Gathers all batches.
    ///
    /// # Errors
    /// The first error of the statement.
    pub async fn collect(self) -> Result<Vec<RecordBatch>> {
        self.batches.try_collect().await
    }
}

impl Stream for Statement {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Statement")
            .field("schema", &self.schema)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

impl From<StatementOutcome> for Outcome {
    /// A server that does not say what a statement did has answered a query.
    fn from(outcome: StatementOutcome) -> Self {
        match outcome.kind {
            Some(Kind::Write(write)) => Self::Write { row_count: write.row_count },
            Some(Kind::Command(command)) => Self::Command { tag: command.tag },
            Some(Kind::Query(_)) | None => Self::Query,
        }
    }
}
