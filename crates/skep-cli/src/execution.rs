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

/// How long the other side may take to hear that this is the end.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

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

    /// Stops without waiting for anything that still runs, and hardly for the other side to hear it.
    pub(crate) fn shut_down(self) {
        let Self { runtime, connection, interrupts } = self;
        drop(interrupts);
        let closed = async { timeout(CLOSE_PATIENCE, connection.close()).await };
        let _not_heard = runtime.block_on(closed);
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

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use datafusion::arrow::datatypes::Schema;
    use futures::future::BoxFuture;
    use futures::stream::{self, BoxStream};
    use skep_engine::QueryStream;

    use super::*;

    /// Answers `panic`, `panic later` and `wait`; everything else with a command that is done.
    struct Scripted {
        /// What a waiting statement holds.
        held: Arc<()>,
    }

    impl Connection for Scripted {
        fn execute<'a>(&'a self, statement: &'a str) -> BoxFuture<'a, Result<QueryStream>> {
            let held = Arc::clone(&self.held);
            Box::pin(async move {
                let batches: BoxStream<'static, Result<RecordBatch>> = match statement {
                    "panic" => panic!("at once"),
                    "panic later" => stream::once(async { panic!("later {}", "on") }).boxed(),
                    "wait" => stream::once(async move {
                        let _held = held;
                        std::future::pending().await
                    })
                    .boxed(),
                    other => {
                        return Ok(QueryStream::done(StatementKind::Command {
                            tag: other.to_owned(),
                        }));
                    }
                };
                Ok(QueryStream::new(Arc::new(Schema::empty()), batches))
            })
        }
    }

    fn executor() -> (Executor, Weak<()>) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let interrupts = {
            let _within = runtime.enter();
            Interrupts::listen().unwrap()
        };
        let held = Arc::new(());
        let watch = Arc::downgrade(&held);
        (Executor::new(runtime, Arc::new(Scripted { held }), interrupts), watch)
    }

    #[test]
    fn panics_are_errors_of_their_statement() {
        let (executor, _) = executor();
        let error = executor.start("panic").map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "internal error: at once");
        let (mut execution, _) = executor.start("panic later").unwrap();
        let error = execution.next_batch().map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "internal error: later on");
        drop(execution);
        let (mut execution, started) = executor.start("SET").unwrap();
        assert_eq!(started.kind, StatementKind::Command { tag: "SET".to_owned() });
        assert!(execution.next_batch().unwrap().is_none());
        assert!(execution.next_batch().unwrap().is_none());
    }

    #[test]
    fn a_dropped_statement_lets_go_of_what_it_holds() {
        let (executor, watch) = executor();
        let (execution, _) = executor.start("wait").unwrap();
        drop(execution);
        assert_eq!(watch.strong_count(), 1);
    }

    #[test]
    fn an_interrupt_ends_the_wait_and_is_remembered_until_cleared() {
        let (executor, watch) = executor();
        let (mut execution, _) = executor.start("wait").unwrap();
        executor.interrupts.raise();
        assert!(matches!(execution.next_batch(), Err(Error::Cancelled)));
        assert_eq!(watch.strong_count(), 1);
        drop(execution);
        assert!(executor.is_interrupted());
        assert!(matches!(executor.start("SET").map(|_| ()), Err(Error::Cancelled)));
        executor.clear_interrupts();
        assert!(executor.start("SET").is_ok());
    }
}
