//! The time limit of a statement: `skep.statement_timeout`.
//!
//! It covers everything from the parsed statement to the last row: opening files, planning, running,
//! and the time in which rows wait for whoever reads them. Planning is one computation that is not
//! interrupted: the limit is noticed at its end. The statement's own work stops because the future
//! or the stream behind it is dropped, wherever it is: a watch of its own drops a stream that nobody
//! reads.
//!
//! **Invariant:** a statement that has changed something for good does not fail by its limit: it is
//! settled before it does so, or fails then.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use datafusion::arrow::array::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use futures::stream::BoxStream;
use futures::task::AtomicWaker;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use skep_proto::ErrorCode;
use tokio::time::sleep_until;

use crate::error::{Error, Result};
use crate::query::{QueryStream, StatementKind};
use crate::settings::write_duration;

/// When a statement has to be done: an extension of the session configuration that
/// [`QueryExecutor::execute`](crate::QueryExecutor::execute) gets, if there is a limit.
///
/// The engine drops what is late; an executor whose work goes on elsewhere ends that too.
#[derive(Debug)]
pub struct Deadline {
    at: Instant,
    limit: Duration,
    is_settled: AtomicBool,
}

impl Deadline {
    /// Makes the deadline of a statement that begins now; `None` if the limit is beyond all time.
    pub(crate) fn after(limit: Duration) -> Option<Self> {
        let at = Instant::now().checked_add(limit)?;
        Some(Self { at, limit, is_settled: AtomicBool::new(false) })
    }

    /// Returns the time that is left.
    pub fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Tells whether the time is up.
    pub fn is_past(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Lets the statement go on without a limit: it is about to change something for good.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] if the time is up already.
    pub(crate) fn settle(&self) -> Result<()> {
        if self.is_past() {
            return Err(self.error());
        }
        self.is_settled.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Runs `work` until it is done or late.
    ///
    /// # Errors
    /// Its own, or [`Error::DeadlineExceeded`].
    pub(crate) async fn bound<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = std::pin::pin!(work);
        let done = tokio::select! {
            biased;
            done = &mut work => done,
            () = sleep_until(self.at.into()) => {
                if !self.is_settled.load(Ordering::Relaxed) {
                    return Err(self.error());
                }
                work.await
            }
        };
        done.map_err(|error| self.explain(error))
    }

    /// Passes rows on until they end or are late.
    pub(crate) fn watch(self: Arc<Self>, stream: QueryStream) -> QueryStream {
        if !matches!(stream.kind(), StatementKind::Query) {
            return stream;
        }
        let schema = stream.schema();
        let watched = Arc::new(Watched::new(stream.boxed()));
        let at = self.at;
        let watching = Arc::clone(&watched);
        let watch = SpawnedTask::spawn(async move {
            sleep_until(at.into()).await;
            watching.give_up();
        });
        let rows = TimedRows { deadline: self, watched, has_ended: false, _watch: watch };
        QueryStream::new(schema, rows.boxed())
    }

    /// Returns what a statement that is late fails with.
    fn error(&self) -> Error {
        Error::DeadlineExceeded { limit: write_duration(self.limit) }
    }

    /// Puts our own words in the place of those in which an executor says the same.
    fn explain(&self, error: Error) -> Error {
        match error.code() {
            ErrorCode::DeadlineExceeded if self.is_past() => self.error(),
            _ => error,
        }
    }
}

/// A stream that two can drop: whoever reads it, and the watch.
struct Watched {
    rows: Mutex<Option<BoxStream<'static, Result<RecordBatch>>>>,
    reader: AtomicWaker,
}

impl Watched {
    fn new(rows: BoxStream<'static, Result<RecordBatch>>) -> Self {
        Self { rows: Mutex::new(Some(rows)), reader: AtomicWaker::new() }
    }

    /// Drops the rows, unless they are being asked for just now: that notices by itself.
    fn give_up(&self) {
        if let Some(mut rows) = self.rows.try_lock() {
            let late = rows.take();
            drop(rows);
            drop(late);
        }
        self.reader.wake();
    }
}

/// The rows of a statement that has a time limit.
struct TimedRows {
    deadline: Arc<Deadline>,
    watched: Arc<Watched>,
    has_ended: bool,
    _watch: SpawnedTask<()>,
}

impl Stream for TimedRows {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let watched = Arc::clone(&self.watched);
        watched.reader.register(cx.waker());
        let mut rows = watched.rows.lock();
        let next = match rows.as_mut() {
            Some(rows) if !self.deadline.is_past() => rows.poll_next_unpin(cx),
            _ => Poll::Ready(Some(Err(self.deadline.error()))),
        };
        let next = next.map(|next| next.map(|rows| rows.map_err(|e| self.deadline.explain(e))));
        self.has_ended = matches!(next, Poll::Ready(None | Some(Err(_))));
        // The watch may have come while the rows were asked for, and does not come again.
        if self.has_ended || self.deadline.is_past() {
            let over = rows.take();
            drop(rows);
            drop(over);
            if next.is_pending() {
                self.has_ended = true;
                return Poll::Ready(Some(Err(self.deadline.error())));
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;
    use futures::FutureExt;

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(3600);

    fn deadline(limit: Duration) -> Arc<Deadline> {
        Arc::new(Deadline::after(limit).unwrap())
    }

    /// Makes a stream that gives one batch and then none, and something to see by whether it is
    /// still there.
    fn stalled() -> (QueryStream, std::sync::Weak<()>) {
        let schema = Arc::new(Schema::empty());
        let held = Arc::new(());
        let watch = Arc::downgrade(&held);
        let first = futures::stream::iter([Ok(RecordBatch::new_empty(Arc::clone(&schema)))]);
        let rest = futures::stream::once(async move {
            let _held = held;
            std::future::pending().await
        });
        (QueryStream::new(schema, first.chain(rest).boxed()), watch)
    }

    fn is_late<T>(result: &Result<T>) -> bool {
        matches!(result, Err(Error::DeadlineExceeded { .. }))
    }

    #[tokio::test]
    async fn work_that_is_late_is_dropped() {
        let (held, deadline) = (Arc::new(()), deadline(SHORT));
        let watch = Arc::downgrade(&held);
        let result: Result<()> = deadline
            .bound(async move {
                let _held = held;
                std::future::pending().await
            })
            .await;
        assert!(is_late(&result));
        assert!(watch.upgrade().is_none());
        assert_eq!(
            result.unwrap_err().to_string(),
            "the statement took longer than skep.statement_timeout, which is 300ms"
        );
    }

    #[tokio::test]
    async fn work_that_is_settled_goes_on() {
        let late = deadline(SHORT);
        let done = late.bound(async {
            late.settle()?;
            sleep_until((late.at + SHORT).into()).await;
            Ok(7)
        });
        assert_eq!(done.await.unwrap(), 7);
        assert!(is_late(&late.settle()), "it is past");
    }

    #[tokio::test]
    async fn rows_that_are_late_are_dropped_although_nobody_asks_for_them() {
        let (stream, watch) = stalled();
        let mut rows = deadline(SHORT).watch(stream);
        rows.next().await.unwrap().unwrap();
        assert!(watch.upgrade().is_some());
        tokio::time::timeout(LONG, async {
            while watch.upgrade().is_some() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        assert!(is_late(&rows.next().await.unwrap()));
        assert!(rows.next().await.is_none());
    }

    #[tokio::test]
    async fn whoever_waits_for_late_rows_is_told() {
        let (stream, watch) = stalled();
        let mut rows = deadline(SHORT).watch(stream);
        rows.next().await.unwrap().unwrap();
        assert!(is_late(&rows.next().await.unwrap()));
        assert!(watch.upgrade().is_none());
    }

    #[tokio::test]
    async fn rows_in_time_come_whole() {
        let schema = Arc::new(Schema::empty());
        let batches =
            (0..3).map(|_| Ok(RecordBatch::new_empty(Arc::clone(&schema)))).collect::<Vec<_>>();
        let stream = QueryStream::new(schema, futures::stream::iter(batches).boxed());
        let rows: Vec<_> = deadline(LONG).watch(stream).collect().now_or_never().unwrap().unwrap();
        assert_eq!(rows.len(), 3);
    }

    #[tokio::test]
    async fn an_executor_that_is_faster_is_quoted_in_our_words() {
        let late = deadline(Duration::ZERO);
        let theirs = Error::Remote {
            code: ErrorCode::DeadlineExceeded,
            message: "query took too long".to_owned(),
            position: None,
            hint: None,
            is_retryable: false,
        };
        let result: Result<()> = late.bound(async { Err(theirs.duplicate()) }).await;
        assert!(is_late(&result));
        let result: Result<()> = deadline(LONG).bound(async { Err(theirs) }).await;
        assert_eq!(result.unwrap_err().to_string(), "query took too long");
    }
}
