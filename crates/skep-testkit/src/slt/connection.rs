//! An engine or cluster under test, and the sessions that a script opens on it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use skep_client::{Client, ErrorCode, Outcome};
use skep_engine::{Engine, EngineConfig, Session, StatementKind};
use sqllogictest::{AsyncDB, DBOutput};
use tokio::sync::Mutex;

use super::column_type::ColumnType;
use super::placeholders::Placeholders;
use super::shape::Shape;
use crate::cluster::{ClusterShape, InProcess, MultiProcess};
use crate::render;

/// What the harness does itself: closes the engine and opens it again on the same data directory.
const RESTART: &str = "RESTART ENGINE";

/// A failed statement, as a script sees it: message, then hint, then place, in brackets.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StatementError(String);

/// One engine, or cluster, and every session of it; shared by the connections of a script.
#[derive(Debug)]
pub(crate) struct Instance {
    kind: InstanceKind,
    placeholders: Placeholders,
    statement_limit: Duration,
    next_id: AtomicUsize,
    open: Mutex<Open>,
}

/// What is opened by the first statement.
#[derive(Debug)]
pub(crate) enum InstanceKind {
    /// An engine in this process.
    Embedded(EngineConfig),
    /// A coordinator and workers in this process.
    InProcess(ClusterShape),
    /// Processes of their own, started from this binary.
    MultiProcess(ClusterShape, PathBuf),
}

#[derive(Debug, Default)]
struct Open {
    backend: Option<Arc<Backend>>,
    sessions: HashMap<usize, SessionOf>,
}

#[derive(Debug)]
enum Backend {
    Embedded(Engine),
    InProcess(InProcess),
    MultiProcess(MultiProcess),
}

#[derive(Debug, Clone)]
enum SessionOf {
    Embedded(Session),
    Cluster(Client),
}

/// What a statement answered.
enum Answer {
    Rows(SchemaRef, Vec<RecordBatch>),
    Done { row_count: u64 },
}

/// Bytes that the clusters that are to spill have written to disk, by workers and slots.
static SPILLED: std::sync::Mutex<BTreeMap<(usize, usize), u64>> =
    std::sync::Mutex::new(BTreeMap::new());

/// Returns how many bytes all scripts together have made clusters of a shape write to disk.
pub(super) fn spilled_bytes(shape: Shape) -> u64 {
    let spilled = SPILLED.lock().unwrap_or_else(PoisonError::into_inner);
    spilled.get(&(shape.worker_count, shape.slot_count)).copied().unwrap_or_default()
}

fn note_spilled(shape: &ClusterShape, bytes: u64) {
    if shape.partition_memory_limit.is_some() {
        let mut spilled = SPILLED.lock().unwrap_or_else(PoisonError::into_inner);
        *spilled.entry((shape.worker_count, shape.slot_count)).or_default() += bytes;
    }
}

impl InstanceKind {
    async fn open(&self) -> anyhow::Result<Backend> {
        Ok(match self {
            Self::Embedded(config) => Backend::Embedded(Engine::open(config.clone()).await?),
            Self::InProcess(shape) => Backend::InProcess(InProcess::start(shape).await?),
            Self::MultiProcess(shape, binary) => {
                let (shape, binary) = (shape.clone(), binary.clone());
                let started = move || MultiProcess::start(&binary, &shape);
                Backend::MultiProcess(tokio::task::spawn_blocking(started).await??)
            }
        })
    }
}

impl InstanceKind {
    /// Reads back that a cluster is of its shape.
    async fn check(&self, backend: &Backend) -> anyhow::Result<()> {
        match (self, backend.session().await?) {
            (Self::InProcess(shape) | Self::MultiProcess(shape, _), SessionOf::Cluster(client)) => {
                shape.check(&client).await
            }
            _ => Ok(()),
        }
    }
}

impl Backend {
    async fn session(&self) -> anyhow::Result<SessionOf> {
        let url = match self {
            Self::Embedded(engine) => return Ok(SessionOf::Embedded(engine.session())),
            Self::InProcess(cluster) => cluster.url(),
            Self::MultiProcess(cluster) => cluster.url.clone(),
        };
        Ok(SessionOf::Cluster(Client::connect(&url).await?))
    }
}

impl SessionOf {
    async fn execute(&self, statement: &str) -> anyhow::Result<Answer> {
        match self {
            Self::Embedded(session) => {
                let stream = session.execute(statement).await?;
                let (schema, kind) = (stream.schema(), stream.kind().clone());
                // Empty for a command, but its end is where a late failure would show.
                let batches = stream.collect().await?;
                Ok(match kind {
                    StatementKind::Query => Answer::Rows(schema, batches),
                    StatementKind::Write { row_count } => Answer::Done { row_count },
                    StatementKind::Command { .. } => Answer::Done { row_count: 0 },
                })
            }
            Self::Cluster(client) => {
                let statement = client.execute(statement).await?;
                let (schema, outcome) = (statement.schema(), statement.outcome().clone());
                let batches = statement.collect().await?;
                Ok(match outcome {
                    Outcome::Query => Answer::Rows(schema, batches),
                    Outcome::Write { row_count } => Answer::Done { row_count },
                    Outcome::Command { .. } => Answer::Done { row_count: 0 },
                })
            }
        }
    }
}

impl Instance {
    /// Prepares an instance; it is opened by the first statement.
    pub(crate) fn new(
        kind: InstanceKind,
        placeholders: Placeholders,
        statement_limit: Duration,
    ) -> Self {
        let next_id = AtomicUsize::new(0);
        Self { kind, placeholders, statement_limit, next_id, open: Mutex::default() }
    }

    /// Returns the paths of this run.
    pub(crate) fn placeholders(&self) -> &Placeholders {
        &self.placeholders
    }

    /// Makes a connection with a session of its own.
    pub(crate) fn connect(self: &Arc<Self>) -> Connection {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        Connection { id, instance: Arc::clone(self) }
    }

    async fn session(&self, id: usize) -> anyhow::Result<SessionOf> {
        let mut open = self.open.lock().await;
        if let Some(session) = open.sessions.get(&id) {
            return Ok(session.clone());
        }
        let backend = match &open.backend {
            Some(backend) => Arc::clone(backend),
            None => {
                let backend = self.kind.open().await?;
                self.kind.check(&backend).await?;
                Arc::new(backend)
            }
        };
        open.backend = Some(Arc::clone(&backend));
        let session = backend.session().await?;
        open.sessions.insert(id, session.clone());
        Ok(session)
    }

    /// Ends the engine, or cluster, with all its sessions; the next statement of each opens them
    /// anew.
    async fn close(&self) {
        let Open { backend, sessions } = std::mem::take(&mut *self.open.lock().await);
        drop(sessions);
        match backend.and_then(Arc::into_inner) {
            Some(Backend::InProcess(cluster)) => {
                if let InstanceKind::InProcess(shape) = &self.kind {
                    note_spilled(shape, cluster.spilled_bytes());
                }
                cluster.shut_down().await;
            }
            // Waits until its processes have ended.
            Some(Backend::MultiProcess(cluster)) => {
                let _ = tokio::task::spawn_blocking(move || drop(cluster)).await;
            }
            Some(Backend::Embedded(_)) | None => {}
        }
    }
}

/// Tells whether an error says of itself that nobody but us is to blame.
fn is_defect(error: &anyhow::Error) -> bool {
    let code = match error.downcast_ref::<skep_engine::Error>() {
        Some(error) => Some(error.code()),
        None => error.downcast_ref::<skep_client::Error>().map(skep_client::Error::code),
    };
    code == Some(ErrorCode::Internal)
}

/// One session of the engine under test.
#[derive(Debug)]
pub(crate) struct Connection {
    id: usize,
    instance: Arc<Instance>,
}

impl Connection {
    async fn execute(&self, statement: &str) -> anyhow::Result<DBOutput<ColumnType>> {
        let session = self.instance.session(self.id).await?;
        match session.execute(statement).await? {
            Answer::Rows(schema, batches) => {
                let types =
                    schema.fields().iter().map(|field| ColumnType::of(field.data_type())).collect();
                let mut rows = render::rows(&schema, &batches)?;
                for value in rows.iter_mut().flatten() {
                    *value = self.instance.placeholders.restore(value);
                }
                Ok(DBOutput::Rows { types, rows })
            }
            Answer::Done { row_count } => Ok(DBOutput::StatementComplete(row_count)),
        }
    }

    fn describe(&self, error: &anyhow::Error) -> StatementError {
        let mut text = error.to_string();
        let (hint, position) = if let Some(error) = error.downcast_ref::<skep_engine::Error>() {
            let position = error.position().map(|position| position.to_string());
            (error.hint().map(str::to_owned), position)
        } else if let Some(error) = error.downcast_ref::<skep_client::Error>() {
            let position = error
                .position()
                .map(|place| format!("line {}, column {}", place.line, place.column));
            (error.hint().map(str::to_owned), position)
        } else {
            (None, None)
        };
        if let Some(hint) = hint {
            text += &format!(" [hint: {hint}]");
        }
        if let Some(position) = position {
            text += &format!(" [at {position}]");
        }
        StatementError(self.instance.placeholders.restore(&text))
    }
}

#[async_trait]
impl AsyncDB for Connection {
    type Error = StatementError;
    type ColumnType = ColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<ColumnType>, StatementError> {
        let statement = sql.trim_end().trim_end_matches(';').trim_end();
        if statement == RESTART {
            self.instance.close().await;
            return Ok(DBOutput::StatementComplete(0));
        }
        let limit = self.instance.statement_limit;
        match tokio::time::timeout(limit, self.execute(statement)).await {
            Ok(result) => result.map_err(|error| {
                // No script may expect it: a record of an error searches the text alone.
                assert!(!is_defect(&error), "a defect: {error:#}\n{statement}");
                self.describe(&error)
            }),
            Err(_elapsed) => {
                Err(StatementError(format!("no end within {limit:?}: the harness gave up")))
            }
        }
    }

    async fn shutdown(&mut self) {
        self.instance.close().await;
    }

    fn engine_name(&self) -> &str {
        "skep"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_defect_is_told_from_what_scripts_may_expect() {
        let broken = skep_engine::Error::Internal { message: "x".to_owned(), source: None };
        assert!(is_defect(&broken.into()));
        assert!(!is_defect(&skep_engine::Error::Cancelled.into()));
        assert!(!is_defect(&anyhow::anyhow!("no end")));
    }
}
