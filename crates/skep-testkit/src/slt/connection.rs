//! An engine under test, and the sessions that a script opens on it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use skep_engine::{Engine, EngineConfig, Session, StatementKind};
use sqllogictest::{AsyncDB, DBOutput};
use tokio::sync::Mutex;

use super::column_type::ColumnType;
use super::placeholders::Placeholders;
use super::render;

/// What the harness does itself: closes the engine and opens it again on the same data directory.
const RESTART: &str = "RESTART ENGINE";

/// A failed statement, as a script sees it: message, then hint, then place, in brackets.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StatementError(String);

/// One engine and every session of it; shared by the connections of a script.
#[derive(Debug)]
pub(crate) struct Instance {
    config: EngineConfig,
    placeholders: Placeholders,
    statement_limit: Duration,
    next_id: AtomicUsize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    engine: Option<Engine>,
    sessions: HashMap<usize, Session>,
}

impl Instance {
    /// Prepares an engine; it is opened by the first statement.
    pub(crate) fn new(
        config: EngineConfig,
        placeholders: Placeholders,
        statement_limit: Duration,
    ) -> Self {
        let next_id = AtomicUsize::new(0);
        Self { config, placeholders, statement_limit, next_id, open: Mutex::default() }
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

    async fn session(&self, id: usize) -> Result<Session, skep_engine::Error> {
        let mut open = self.open.lock().await;
        if let Some(session) = open.sessions.get(&id) {
            return Ok(session.clone());
        }
        let engine = match &open.engine {
            Some(engine) => engine.clone(),
            None => Engine::open(self.config.clone()).await?,
        };
        let session = engine.session();
        open.engine = Some(engine);
        open.sessions.insert(id, session.clone());
        Ok(session)
    }

    /// Drops the engine and all its sessions; the next statement of each opens them anew.
    async fn close(&self) {
        *self.open.lock().await = Open::default();
    }
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
        let stream = session.execute(statement).await?;
        match stream.kind().clone() {
            StatementKind::Query => {
                let schema = stream.schema();
                let batches = stream.collect().await?;
                let types =
                    schema.fields().iter().map(|field| ColumnType::of(field.data_type())).collect();
                let mut rows = render::rows(&schema, &batches)?;
                for value in rows.iter_mut().flatten() {
                    *value = self.instance.placeholders.restore(value);
                }
                Ok(DBOutput::Rows { types, rows })
            }
            kind => {
                // The stream is empty, but its end is where a late failure would show.
                stream.collect().await?;
                Ok(DBOutput::StatementComplete(match kind {
                    StatementKind::Write { row_count } => row_count,
                    StatementKind::Query | StatementKind::Command { .. } => 0,
                }))
            }
        }
    }

    fn describe(&self, error: &anyhow::Error) -> StatementError {
        let mut text = error.to_string();
        if let Some(error) = error.downcast_ref::<skep_engine::Error>() {
            if let Some(hint) = error.hint() {
                text += &format!(" [hint: {hint}]");
            }
            if let Some(position) = error.position() {
                text += &format!(" [at {position}]");
            }
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
            Ok(result) => result.map_err(|error| self.describe(&error)),
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
