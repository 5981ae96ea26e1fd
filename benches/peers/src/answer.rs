//! What an engine answers, and how fast.

use std::time::{Duration, Instant};

use anyhow::Result;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::prelude::SessionContext;
use skep_client::Client;
use skep_engine::Session;
use skep_testkit::render;

/// The rows of one run, and its time from the text to the last row.
#[derive(Debug)]
pub(crate) struct Answer {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    pub(crate) time: Duration,
}

impl Answer {
    /// Runs a statement in a session of an engine in this process.
    pub(crate) async fn of_session(session: &Session, text: &str) -> Result<Self> {
        let begin = Instant::now();
        let stream = session.execute(text).await?;
        let schema = stream.schema();
        let batches = stream.collect().await?;
        Ok(Self { schema, batches, time: begin.elapsed() })
    }

    /// Runs a statement on a skep cluster.
    pub(crate) async fn of_client(client: &Client, text: &str) -> Result<Self> {
        let begin = Instant::now();
        let statement = client.execute(text).await?;
        let schema = statement.schema();
        let batches = statement.collect().await?;
        Ok(Self { schema, batches, time: begin.elapsed() })
    }

    /// Runs a query in a session of DataFusion's.
    pub(crate) async fn of_context(context: &SessionContext, text: &str) -> Result<Self> {
        let begin = Instant::now();
        let frame = context.sql(text).await?;
        let schema = SchemaRef::clone(frame.schema().inner());
        let batches = frame.collect().await?;
        Ok(Self { schema, batches, time: begin.elapsed() })
    }

    /// Returns the rows as text, sorted: rows that tie in ORDER BY come in any order.
    pub(crate) fn sorted_rows(&self) -> Result<Vec<Vec<String>>> {
        let mut rows = self.rows()?;
        rows.sort_unstable();
        Ok(rows)
    }

    /// Returns the rows as text.
    pub(crate) fn rows(&self) -> Result<Vec<Vec<String>>> {
        render::rows(&self.schema, &self.batches)
    }
}
