//! `system.queries`, `.stages`, `.tasks` and `.workers`: the scheduler's views as tables.
//!
//! A table is one function from [`Views`] to columns; the columns that it announces are those that
//! it makes of no views at all, so that the two cannot differ.
//!
//! Identities are text, as in logs and errors (`q12`, `s1`, `w3`); times are in UTC, of the
//! coordinator's clock; counts and bytes are `BIGINT`; what is not known, or not yet, is NULL.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use datafusion::arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use skep_engine::{Error, Principal, Result, SystemTables};

use super::owners::Owners;
use crate::ids::QueryId;
use crate::membership::{WorkerInfo, WorkerState};
use crate::scheduler::{
    AttemptState, FailureKind, QueryState, QueryView, Site, StageView, TaskView, WorkerView,
};

/// What the scheduler shows at one moment.
#[derive(Debug, Clone)]
pub struct Views {
    /// That moment, on the scheduler's clock, as are all times in the views.
    pub now: Duration,
    /// When the scheduler's clock stood at zero.
    pub clock_start: SystemTime,
    /// Queries, each with its text if that is known.
    pub queries: Vec<(QueryView, Option<Arc<str>>)>,
    /// Whose they are, as far as that is known.
    pub users: HashMap<QueryId, Arc<str>>,
    /// Their stages.
    pub stages: Vec<StageView>,
    /// The attempts of their tasks.
    pub tasks: Vec<TaskView>,
    /// The workers, lost ones included.
    pub workers: Vec<WorkerView>,
}

impl Views {
    /// Returns what is seen of nothing.
    pub fn empty(now: Duration, clock_start: SystemTime) -> Self {
        Self {
            now,
            clock_start,
            queries: Vec::new(),
            users: HashMap::new(),
            stages: Vec::new(),
            tasks: Vec::new(),
            workers: Vec::new(),
        }
    }
}

/// Who has a scheduler to look at.
#[async_trait]
pub trait ViewSource: fmt::Debug + Send + Sync + 'static {
    /// Returns what there is to see now; the tasks, of which there may be many, only if they are
    /// asked for.
    async fn views(&self, tasks: bool) -> Views;
}

/// The system tables of a coordinator.
#[derive(Debug, Clone)]
pub struct ClusterTables {
    source: Arc<dyn ViewSource>,
    owners: Arc<Owners>,
}

impl ClusterTables {
    /// Makes the tables of what `source` shows of queries of these users.
    pub(crate) fn new(source: Arc<dyn ViewSource>, owners: Arc<Owners>) -> Self {
        Self { source, owners }
    }
}

/// Makes a table's columns.
type Build = fn(&Views) -> Columns;

const TABLES: [(&str, Build); 4] =
    [("queries", queries), ("stages", stages), ("tasks", tasks), ("workers", workers)];

#[async_trait]
impl SystemTables for ClusterTables {
    fn schemas(&self) -> Vec<(&'static str, SchemaRef)> {
        let nothing = Views::empty(Duration::ZERO, SystemTime::UNIX_EPOCH);
        TABLES.iter().map(|(name, build)| (*name, build(&nothing).schema())).collect()
    }

    async fn rows(&self, table: &str, viewer: &Principal) -> Result<Vec<RecordBatch>> {
        let known = TABLES.iter().find(|(name, _)| *name == table);
        let Some((name, build)) = known else {
            return Err(Error::NotFound {
                kind: "table",
                name: format!("system.{table}"),
                position: None,
                hint: None,
            });
        };
        let mut views = self.source.views(*name == "tasks").await;
        self.owners.show(&mut views, viewer);
        Ok(vec![build(&views).batch()?])
    }
}

fn queries(views: &Views) -> Columns {
    let rows = || views.queries.iter().map(|(query, _)| query);
    // While it waits or runs, so far.
    let elapsed = |query: &QueryView| {
        query.ended.unwrap_or(views.now).saturating_sub(query.submitted).as_secs_f64()
    };
    Columns::default()
        .text("query", rows().map(|row| row.query.to_string()))
        .text("state", rows().map(query_state))
        // Not "user", which is a function of SQL's.
        .optional_text("user_name", rows().map(|row| views.users.get(&row.query)))
        .optional_text("sql", views.queries.iter().map(|(_, sql)| sql.as_deref()))
        .time("submitted", views, rows().map(|row| row.submitted))
        .optional_time("started", views, rows().map(|row| row.started))
        .optional_time("ended", views, rows().map(|row| row.ended))
        .number("elapsed_seconds", rows().map(elapsed))
        .count("stages", rows().map(|row| row.stage_count as u64))
        .count("tasks", rows().map(|row| row.task_count as u64))
        .count("attempts", rows().map(|row| row.attempt_count as u64))
        .count("rows", rows().map(|row| row.rows))
        .optional_text(
            "error_code",
            rows().map(|row| row.error.as_ref().map(|error| error.kind.code().as_str())),
        )
        .optional_text("error", rows().map(|row| row.error.as_ref().map(|error| &error.message)))
}

fn stages(views: &Views) -> Columns {
    let rows = || views.stages.iter();
    Columns::default()
        .text("query", rows().map(|row| row.query.to_string()))
        .text("stage", rows().map(|row| row.stage.to_string()))
        .count("tasks", rows().map(|row| row.task_count as u64))
        .count("waiting", rows().map(|row| row.waiting_count as u64))
        .count("running", rows().map(|row| row.running_count as u64))
        .count("attempts", rows().map(|row| row.attempt_count as u64))
        .count("rows", rows().map(|row| row.rows))
        .count("output_bytes", rows().map(|row| row.output_bytes))
        .optional_time("started", views, rows().map(|row| row.started))
        .optional_time("ended", views, rows().map(|row| row.ended))
}

fn tasks(views: &Views) -> Columns {
    let rows = || views.tasks.iter();
    let life = |row: &TaskView| match row.site {
        Some(Site::Worker(life)) => Some(life),
        Some(Site::Coordinator) | None => None,
    };
    Columns::default()
        .text("query", rows().map(|row| row.task.query.to_string()))
        .text("stage", rows().map(|row| row.task.stage.to_string()))
        .count("partition", rows().map(|row| row.task.partition as u64))
        .optional_count("attempt", rows().map(|row| row.attempt.map(|a| u64::from(a.0))))
        .text("state", rows().map(|row| attempt_state(row.state)))
        .optional_text("worker", rows().map(|row| row.site.map(worker_name)))
        .optional_count("incarnation", rows().map(|row| life(row).map(|life| life.incarnation.0)))
        .count("rows", rows().map(|row| row.output.rows))
        .count("input_bytes", rows().map(|row| row.output.input_bytes))
        .count("output_bytes", rows().map(|row| row.output.bytes.iter().sum()))
        .count("spilled_bytes", rows().map(|row| row.output.spilled_bytes))
        .count("remote_bytes", rows().map(|row| row.output.remote_bytes))
        .optional_text("locality", rows().map(|row| row.is_local.map(locality)))
        .optional_time("started", views, rows().map(|row| row.started))
        .optional_time("ended", views, rows().map(|row| row.ended))
        .optional_text("error", rows().map(|row| row.error.as_ref()))
}

fn workers(views: &Views) -> Columns {
    let rows = || views.workers.iter();
    let infos = || views.workers.iter().map(|row| &row.info);
    let said = || infos().map(|info| &info.registration);
    Columns::default()
        .text("id", said().map(|row| row.life.worker.to_string()))
        .count("incarnation", said().map(|row| row.life.incarnation.0))
        .count("pid", said().map(|row| u64::from(row.pid)))
        .text("address", said().map(|row| &row.data_address))
        .text("state", rows().map(worker_state))
        .optional_text("lost_reason", infos().map(loss))
        .count("slots", said().map(|row| row.slot_count as u64))
        .count("running", rows().map(|row| row.running_count as u64))
        .count("memory_limit_bytes", said().map(|row| row.memory_bytes))
        .count("memory_bytes", infos().map(|row| row.load.memory_bytes))
        .count("stored_bytes", infos().map(|row| row.load.stored_bytes))
        .time("last_heartbeat", views, infos().map(|row| row.last_heard))
        .text("version", said().map(|row| &row.version))
}

fn query_state(query: &QueryView) -> &'static str {
    let is_cancelled =
        query.error.as_ref().is_some_and(|error| error.kind == FailureKind::Cancelled);
    match query.state {
        QueryState::Queued => "queued",
        QueryState::Running => "running",
        QueryState::Finished => "finished",
        QueryState::Failed if is_cancelled => "cancelled",
        QueryState::Failed => "failed",
    }
}

fn attempt_state(state: AttemptState) -> &'static str {
    match state {
        AttemptState::Waiting => "waiting",
        AttemptState::Running => "running",
        AttemptState::Sealed => "sealed",
        AttemptState::Lost => "lost",
        AttemptState::Failed => "failed",
        AttemptState::Cancelled => "cancelled",
        AttemptState::Skipped => "skipped",
        AttemptState::Kept => "kept",
    }
}

fn locality(is_local: bool) -> &'static str {
    if is_local { "local" } else { "remote" }
}

/// As in `system.workers`, where lives have a column of their own.
fn worker_name(site: Site) -> String {
    match site {
        Site::Coordinator => site.to_string(),
        Site::Worker(life) => life.worker.to_string(),
    }
}

fn worker_state(worker: &WorkerView) -> &'static str {
    match worker.info.state {
        WorkerState::Live if worker.is_quarantined => "quarantined",
        WorkerState::Live => "live",
        WorkerState::Disconnected => "disconnected",
        WorkerState::Lost(_) => "lost",
    }
}

fn loss(worker: &WorkerInfo) -> Option<String> {
    match worker.state {
        WorkerState::Lost(reason) => Some(reason.to_string()),
        WorkerState::Live | WorkerState::Disconnected => None,
    }
}

/// The columns of a table in the making, left to right.
#[derive(Debug, Default)]
struct Columns {
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
}

impl Columns {
    fn text<T: AsRef<str>>(self, name: &str, values: impl Iterator<Item = T>) -> Self {
        self.push(name, false, Arc::new(StringArray::from_iter_values(values)))
    }

    fn optional_text<T: AsRef<str>>(
        self,
        name: &str,
        values: impl Iterator<Item = Option<T>>,
    ) -> Self {
        self.push(name, true, Arc::new(values.collect::<StringArray>()))
    }

    fn count(self, name: &str, values: impl Iterator<Item = u64>) -> Self {
        self.push(name, false, Arc::new(Int64Array::from_iter_values(values.map(signed))))
    }

    fn optional_count(self, name: &str, values: impl Iterator<Item = Option<u64>>) -> Self {
        let values = values.map(|value| value.map(signed));
        self.push(name, true, Arc::new(values.collect::<Int64Array>()))
    }

    fn number(self, name: &str, values: impl Iterator<Item = f64>) -> Self {
        self.push(name, false, Arc::new(Float64Array::from_iter_values(values)))
    }

    fn time(self, name: &str, views: &Views, values: impl Iterator<Item = Duration>) -> Self {
        let values = values.map(|at| views.micros(at));
        let times = TimestampMicrosecondArray::from_iter_values(values);
        self.push(name, false, Arc::new(times.with_timezone(UTC)))
    }

    fn optional_time(
        self,
        name: &str,
        views: &Views,
        values: impl Iterator<Item = Option<Duration>>,
    ) -> Self {
        let values = values.map(|at| at.map(|at| views.micros(at)));
        let times = values.collect::<TimestampMicrosecondArray>();
        self.push(name, true, Arc::new(times.with_timezone(UTC)))
    }

    fn push(mut self, name: &str, is_nullable: bool, array: ArrayRef) -> Self {
        self.fields.push(Field::new(name, array.data_type().clone(), is_nullable));
        self.arrays.push(array);
        self
    }

    fn schema(self) -> SchemaRef {
        Arc::new(Schema::new(self.fields))
    }

    fn batch(self) -> Result<RecordBatch> {
        let row_count = self.arrays.first().map_or(0, |array| array.len());
        let options = RecordBatchOptions::new().with_row_count(Some(row_count));
        let schema = Arc::new(Schema::new(self.fields));
        RecordBatch::try_new_with_options(schema, self.arrays, &options).map_err(|error| {
            Error::Internal { message: format!("a system table: {error}"), source: None }
        })
    }
}

/// The time zone of all times, as the session has it by default.
const UTC: &str = "+00:00";

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Views {
    /// Returns a time of the scheduler's clock as microseconds of the epoch.
    fn micros(&self, at: Duration) -> i64 {
        let start = self.clock_start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from((start + at).as_micros()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
#[path = "system_tables_test.rs"]
mod tests;
