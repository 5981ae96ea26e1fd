//! What stands behind the engine, played by recorders: the executor and the system tables.

mod access;
mod seam;
mod system;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;

use crate::{
    Engine, EngineConfig, EngineParts, LocalExecutor, Principal, QueryExecutor, QueryText, Result,
    Session, SystemTables, build_runtime,
};

/// Runs plans in this process and notes with what it was asked to.
#[derive(Debug, Default)]
struct Recorder {
    /// What it wants; 0 for nothing.
    width: AtomicUsize,
    /// The width in the configuration of each query, and its text.
    seen: Mutex<Vec<(usize, Option<String>)>>,
}

impl Recorder {
    fn widths(&self) -> Vec<usize> {
        self.seen.lock().drain(..).map(|(width, _)| width).collect()
    }

    fn texts(&self) -> Vec<Option<String>> {
        self.seen.lock().drain(..).map(|(_, text)| text).collect()
    }
}

#[async_trait]
impl QueryExecutor for Recorder {
    fn target_partitions(&self) -> Option<usize> {
        Some(self.width.load(Ordering::Relaxed)).filter(|width| *width > 0)
    }

    async fn execute(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let config = context.session_config();
        let text = config.get_extension::<QueryText>().map(|text| text.0.to_string());
        self.seen.lock().push((config.target_partitions(), text));
        LocalExecutor.execute(plan, context).await
    }
}

/// A table `counts` of how often it was read, and an empty table `none`.
#[derive(Debug, Default)]
struct Counts(AtomicUsize);

fn counts_schema() -> SchemaRef {
    let name = Field::new("name", DataType::Utf8, false);
    Arc::new(Schema::new(vec![name, Field::new("value", DataType::Int64, true)]))
}

#[async_trait]
impl SystemTables for Counts {
    fn schemas(&self) -> Vec<(&'static str, SchemaRef)> {
        vec![("counts", counts_schema()), ("none", counts_schema())]
    }

    async fn rows(&self, table: &str, _viewer: &Principal) -> Result<Vec<RecordBatch>> {
        if table == "none" {
            return Ok(Vec::new());
        }
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        let names = Arc::new(StringArray::from(vec!["reads", "nothing"]));
        let values = Arc::new(Int64Array::from(vec![Some(count as i64), None]));
        Ok(vec![RecordBatch::try_new(counts_schema(), vec![names, values]).unwrap()])
    }
}

async fn engine(
    config: EngineConfig,
    executor: Arc<dyn QueryExecutor>,
    system_tables: Option<Arc<dyn SystemTables>>,
) -> Engine {
    let runtime = build_runtime(&config, |pool| pool).unwrap();
    Engine::open_with(
        config,
        EngineParts { runtime, executor, system_tables, store: None, cache_host: None },
    )
    .await
    .unwrap()
}

/// Runs a statement and returns each row as text.
async fn run(session: &Session, statement: &str) -> Vec<String> {
    let outcome = session.execute(statement).await;
    let stream = outcome.unwrap_or_else(|error| panic!("{statement}: {error}"));
    let batches = stream.collect().await.unwrap();
    let row = |batch: &RecordBatch, idx| {
        let cells =
            batch.columns().iter().map(|column| array_value_to_string(column, idx).unwrap());
        cells.collect::<Vec<_>>().join("|")
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |idx| row(batch, idx))).collect()
}

/// Runs a statement that fails, and returns message and hint.
async fn fail(session: &Session, statement: &str) -> String {
    let error = session.execute(statement).await.unwrap_err();
    format!("{error} [{}]", error.hint().unwrap_or_default())
}
