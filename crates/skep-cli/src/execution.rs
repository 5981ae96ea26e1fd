//! One running statement, seen from the thread that writes its rows.
//!
//! The statement runs in a task on the runtime's threads and hands over batches through a short
//! channel, so that the writing thread answers Ctrl-C at once whatever the engine is doing, and a
//! reader that is slow holds the engine back.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use futures::StreamExt;
use skep_engine::{Error, Result, StatementKind};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::connection::Connection;
use crate::interrupt::Interrupts;

/// Batches that wait for the writer; each can be large.
const WAITING_BATCHES: usize = 2;

/// How long a cancelled statement may take to let go before it is left behind.
const CANCEL_PATIENCE: Duration = Duration::from_secs(2);

/// Runs statements, one at a time.
pub(crate) struct Executor {
    runtime: Runtime,
    connection: Arc<dyn Connection>,
    interrupts: Interrupts,
}

/// A statement that runs; dropping it cancels it.
pub(crate) struct Execution<'a> {
    executor: &'a Executor,
    events: mpsc::Receiver<Event>,
    /// The one task that runs the statement; empty once its outcome is known.
    task: JoinSet<Result<()>>,
}

/// What a statement turned out to be.
pub(crate) struct Started {
    /// The shape of its rows.
    pub(crate) schema: SchemaRef,
    /// What it did.
    pub(crate) kind: StatementKind,
}

enum Event {
    Started(Started),
    Batch(RecordBatch),
}

impl Executor {
    /// Makes an executor; `runtime` stays with it to the end.
    pub(crate) fn new(
        runtime: Runtime,
        connection: Arc<dyn Connection>,
        interrupts: Interrupts,
    ) -> Self {
        Self { runtime, connection, interrupts }
    }

    /// Starts a statement and waits until it is known what it is.
    ///
    /// # Errors
    /// Whatever is wrong with the statement; [`Error::Cancelled`] after Ctrl-C.
    pub(crate) fn start(&self, statement: &str) -> Result<(Execution<'_>, Started)> {
        let (sender, events) = mpsc::channel(WAITING_BATCHES);
        let mut task = JoinSet::new();
        let work = produce(Arc::clone(&self.connection), statement.to_owned(), sender);
        task.spawn_on(work, self.runtime.handle());
        let mut execution = Execution { executor: self, events, task };
        match execution.next_event()? {
            Some(Event::Started(started)) => Ok((execution, started)),
            Some(Event::Batch(_)) | None => Err(internal("a statement gave no answer".to_owned())),
        }
    }

    /// Waits for something that is not a statement, unless Ctrl-C comes first.
    pub(crate) fn wait_for<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.interrupts.wait() => Err(Error::Cancelled),
                value = future => Ok(value),
            }
        })
    }

    /// Returns whether Ctrl-C came and was not cleared.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupts.is_raised()
    }

    /// Forgets a Ctrl-C that came earlier.
    pub(crate) fn clear_interrupts(&self) {
        self.interrupts.clear();
    }

    /// Stops without waiting for anything that still runs.
    pub(crate) fn shut_down(self) {
        let Self { runtime, connection, interrupts } = self;
        drop(interrupts);
        drop(connection);
        runtime.shutdown_background();
    }
}

impl Execution<'_> {
    /// Returns the next batch, or `None` when the answer is complete.
    ///
    /// # Errors
    /// Whatever stopped the statement; [`Error::Cancelled`] after Ctrl-C.
    pub(crate) fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        match self.next_event()? {
            Some(Event::Batch(batch)) => Ok(Some(batch)),
            Some(Event::Started(_)) => Err(internal("a statement answered twice".to_owned())),
            None => Ok(None),
        }
    }

    fn next_event(&mut self) -> Result<Option<Event>> {
        match self.executor.wait_for(self.events.recv()) {
            Ok(Some(event)) => Ok(Some(event)),
            // The channel closes before the task ends, and only the task knows how it ended.
            Ok(None) => self.outcome().map(|()| None),
            Err(cancelled) => {
                self.cancel();
                Err(cancelled)
            }
        }
    }

    fn outcome(&mut self) -> Result<()> {
        match self.executor.runtime.block_on(self.task.join_next()) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(error)) if error.is_panic() => {
                Err(internal(panic_message(error.into_panic().as_ref()).to_owned()))
            }
            Some(Err(_aborted)) => Err(Error::Cancelled),
        }
    }

    /// Stops the task and gives it a moment to let go of what it holds, so that the next statement
    /// does not meet it.
    fn cancel(&mut self) {
        if !self.task.is_empty() {
            let stopped = async { timeout(CANCEL_PATIENCE, self.task.shutdown()).await };
            let _left_behind = self.executor.runtime.block_on(stopped);
        }
    }
}

impl Drop for Execution<'_> {
    fn drop(&mut self) {
        self.cancel();
    }
}

async fn produce(
    connection: Arc<dyn Connection>,
    statement: String,
    sender: mpsc::Sender<Event>,
) -> Result<()> {
    let mut stream = connection.execute(&statement).await?;
    let started = Started { schema: stream.schema(), kind: stream.kind().clone() };
    if sender.send(Event::Started(started)).await.is_err() {
        return Err(Error::Cancelled);
    }
    while let Some(batch) = stream.next().await {
        if sender.send(Event::Batch(batch?)).await.is_err() {
            return Err(Error::Cancelled);
        }
    }
    Ok(())
}

fn internal(message: String) -> Error {
    Error::Internal { message, source: None }
}

/// Returns what a panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}
