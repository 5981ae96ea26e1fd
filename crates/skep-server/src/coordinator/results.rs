//! Results between the statement and the fetch: Flight asks for the two in two calls.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use datafusion::common::runtime::SpawnedTask;
use futures::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use skep_engine::{Error, QueryStream};
use skep_proto::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, watch};
use tonic::Status;

use super::sessions::OpenSession;
use super::statements::Running;
use crate::config::ResultsConfig;
use crate::status::refuse;

/// Results that wait to be fetched, by the numbers of their statements.
#[derive(Debug)]
pub(super) struct PendingResults {
    config: ResultsConfig,
    /// One permit for each statement that runs or waits, or whose rows flow.
    permits: Arc<Semaphore>,
    /// Whether nothing begins any more.
    is_draining: AtomicBool,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

/// The right to run a statement, to let its result wait, and to pass it on.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

/// A result, and all that it needs to live on.
#[derive(Debug)]
pub(super) struct PendingResult {
    /// The rows.
    pub(super) stream: QueryStream,
    /// The statement.
    pub(super) running: Running,
    /// Whose it is.
    pub(super) session: Arc<OpenSession>,
    /// Its place; what ends others needs none.
    pub(super) place: Option<Place>,
}

#[derive(Debug)]
struct Waiting {
    result: PendingResult,
    since: Instant,
    /// Whether its first rows have come, once somebody has let it begin.
    begun: Option<watch::Receiver<bool>>,
}

impl PendingResults {
    /// Makes an empty set.
    pub(super) fn new(config: ResultsConfig) -> Self {
        let permits = config.max_pending_count.min(Semaphore::MAX_PERMITS);
        Self {
            config,
            permits: Arc::new(Semaphore::new(permits)),
            is_draining: AtomicBool::new(false),
            waiting: Mutex::default(),
        }
    }

    /// Takes a place for a statement that is about to run.
    ///
    /// # Errors
    /// `UNAVAILABLE` if there is none, or nothing is to begin any more.
    pub(super) fn place(&self) -> Result<Place, Status> {
        if self.is_draining.load(Ordering::Relaxed) {
            return Err(ending());
        }
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => Ok(Place { _permit: permit }),
            Err(TryAcquireError::NoPermits) => Err(refuse(
                ErrorCode::Unavailable,
                format!("too many statements: {} run or wait", self.config.max_pending_count),
                "try again later, or raise max_pending_count in [results]",
            )),
            Err(TryAcquireError::Closed) => Err(ending()),
        }
    }

    /// Takes no statement any more; what runs or waits goes on.
    pub(super) fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Tells whether a statement runs or waits, or rows of one flow.
    pub(super) fn are_in_use(&self) -> bool {
        self.permits.available_permits() < self.config.max_pending_count.min(Semaphore::MAX_PERMITS)
    }

    /// Takes no statement any more, and drops the results that wait.
    pub(super) fn close(&self) {
        self.permits.close();
        self.drop_where(|_| true);
    }

    /// Lets a result wait.
    pub(super) fn put(&self, result: PendingResult, now: Instant) {
        let id = result.running.id();
        self.waiting.lock().insert(id, Waiting { result, since: now, begun: None });
    }

    /// Hands a result out, once; `None` if it is not there, or not any more.
    pub(super) fn take(&self, id: u64) -> Option<PendingResult> {
        let taken = self.waiting.lock().remove(&id);
        taken.map(|waiting| waiting.result)
    }

    /// Lets the query of a result that waits run until its first rows are there, which wait with it;
    /// tells whether they are. `None` if it does not wait.
    pub(super) fn begin(&self, id: u64) -> Option<bool> {
        let mut waiting = self.waiting.lock();
        let Waiting { result, begun, .. } = waiting.get_mut(&id)?;
        let has_come = begun.get_or_insert_with(|| {
            let schema = result.stream.schema();
            let nothing = QueryStream::new(schema, stream::empty().boxed());
            let (stream, has_come) = begin(std::mem::replace(&mut result.stream, nothing));
            result.stream = stream;
            has_come
        });
        Some(*has_come.borrow())
    }

    /// Lets a result that waits wait from now; returns whether it waits.
    pub(super) fn renew(&self, id: u64, now: Instant) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.get_mut(&id).map(|waiting| waiting.since = now).is_some()
    }

    /// Drops the result of a statement that was cancelled.
    pub(super) fn drop_cancelled(&self, id: u64) {
        drop(self.take(id));
    }

    /// Drops the results of a session.
    pub(super) fn drop_of(&self, session: u64) {
        self.drop_where(|waiting| waiting.result.session.id == session);
    }

    /// Drops what nobody fetched in time.
    pub(super) fn sweep(&self, now: Instant) {
        let timeout = self.config.fetch_timeout;
        self.drop_where(|waiting| now.saturating_duration_since(waiting.since) >= timeout);
    }

    fn drop_where(&self, is_over: impl Fn(&Waiting) -> bool) {
        let mut waiting = self.waiting.lock();
        let dropped: Vec<_> = waiting.extract_if(|_, waiting| is_over(waiting)).collect();
        // Dropping a result stops a query, which nobody should wait for with the lock.
        drop(waiting);
        drop(dropped);
    }
}

fn ending() -> Status {
    refuse(ErrorCode::Unavailable, "the coordinator is ending", "try again when it is back")
}

/// Asks for the first rows of a query at once, in a task that ends with the stream.
fn begin(mut rows: QueryStream) -> (QueryStream, watch::Receiver<bool>) {
    let (came, has_come) = watch::channel(false);
    let schema = rows.schema();
    let first = SpawnedTask::spawn(async move {
        let first = rows.next().await;
        came.send_replace(true);
        // What has ended is not asked again.
        first.map(|first| (first, rows))
    });
    let batches = async move {
        match first.join().await {
            Ok(None) => stream::empty().boxed(),
            Ok(Some((first, rows))) => stream::once(async { first }).chain(rows).boxed(),
            Err(error) => {
                let message = format!("the first rows of a query: {error}");
                stream::once(async { Err(Error::Internal { message, source: None }) }).boxed()
            }
        }
    };
    (QueryStream::new(schema, batches.flatten_stream().boxed()), has_come)
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;
    use std::time::Duration;

    use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
    use datafusion::arrow::datatypes::Schema;
    use skep_engine::{Engine, EngineConfig, Principal};
    use tonic::Code;

    use super::*;
    use crate::coordinator::statements::Statements;

    struct Setting {
        results: PendingResults,
        statements: Statements,
        session: Arc<OpenSession>,
    }

    impl Setting {
        async fn of(max_pending_count: usize) -> Self {
            let config = EngineConfig { memory_limit: Some(64 << 20), ..EngineConfig::default() };
            let session = Engine::open(config).await.unwrap().session();
            let session = Arc::new(OpenSession::new("a".to_owned(), 1, session));
            let config = ResultsConfig { max_pending_count, ..ResultsConfig::default() };
            let results = PendingResults::new(config);
            Self { results, statements: Statements::default(), session }
        }

        /// Makes a result that never ends, and something to see by whether it is still there.
        fn endless(&self, id: u64) -> (PendingResult, Weak<()>) {
            let held = Arc::new(());
            let watch = Arc::downgrade(&held);
            let batches = stream::once(async move {
                let _held = held;
                std::future::pending().await
            });
            let stream = QueryStream::new(Arc::new(Schema::empty()), batches.boxed());
            let session = Arc::clone(&self.session);
            let running = self.statements.begin(id, None, session.id, Principal::anonymous());
            let place = Some(self.results.place().unwrap());
            (PendingResult { stream, running, session, place }, watch)
        }
    }

    #[tokio::test]
    async fn a_result_is_handed_out_once() {
        let setting = Setting::of(1).await;
        let (result, watch) = setting.endless(5);
        setting.results.put(result, Instant::now());
        let taken = setting.results.take(5).unwrap();
        assert!(setting.results.take(5).is_none());
        assert!(setting.results.take(6).is_none());
        assert!(watch.upgrade().is_some());
        drop(taken);
        assert!(watch.upgrade().is_none());
        assert!(!setting.statements.is_running(5));
    }

    #[tokio::test]
    async fn a_result_that_has_begun_loses_no_row_and_ends_with_its_place() {
        let setting = Setting::of(2).await;
        let (mut result, _) = setting.endless(5);
        let schema = Arc::new(Schema::empty());
        let batch = |rows| {
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap()
        };
        let rows = stream::iter([Ok(batch(1)), Err(Error::Cancelled), Ok(batch(2))]);
        result.stream = QueryStream::new(Arc::clone(&schema), rows.boxed());
        setting.results.put(result, Instant::now());
        while setting.results.begin(5) == Some(false) {
            tokio::task::yield_now().await;
        }
        let mut taken = setting.results.take(5).unwrap();
        assert_eq!(taken.stream.next().await.unwrap().unwrap().num_rows(), 1);
        assert!(taken.stream.next().await.unwrap().is_err());
        assert_eq!(taken.stream.next().await.unwrap().unwrap().num_rows(), 2);
        assert!(taken.stream.next().await.is_none());
        assert_eq!(setting.results.begin(5), None);

        let (endless, watch) = setting.endless(6);
        setting.results.put(endless, Instant::now());
        assert_eq!(setting.results.begin(6), Some(false));
        tokio::task::yield_now().await;
        assert_eq!(setting.results.begin(6), Some(false));
        setting.results.drop_cancelled(6);
        while watch.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_runs_and_waits_has_a_bound() {
        let setting = Setting::of(1).await;
        let (result, _) = setting.endless(5);
        assert_eq!(setting.results.place().unwrap_err().code(), Code::Unavailable);
        setting.results.put(result, Instant::now());
        assert_eq!(setting.results.place().unwrap_err().code(), Code::Unavailable);
        let taken = setting.results.take(5).unwrap();
        assert_eq!(setting.results.place().unwrap_err().code(), Code::Unavailable);
        drop(taken);
        assert!(setting.results.place().is_ok());
    }

    #[tokio::test]
    async fn an_end_drops_what_waits_and_takes_no_more() {
        let setting = Setting::of(2).await;
        let (result, watch) = setting.endless(5);
        setting.results.put(result, Instant::now());
        setting.results.close();
        assert!(watch.upgrade().is_none());
        let refused = setting.results.place().unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::Unavailable, "the coordinator is ending")
        );
    }

    #[tokio::test]
    async fn a_drain_takes_no_more_and_keeps_what_there_is() {
        let setting = Setting::of(2).await;
        let (result, watch) = setting.endless(5);
        setting.results.put(result, Instant::now());
        setting.results.drain();
        assert_eq!(setting.results.place().unwrap_err().message(), "the coordinator is ending");
        assert!(setting.results.are_in_use());
        let taken = setting.results.take(5);
        assert!(watch.upgrade().is_some() && setting.results.are_in_use());
        drop(taken);
        assert!(!setting.results.are_in_use());
    }

    #[tokio::test]
    async fn what_nobody_fetches_is_dropped() {
        let setting = Setting::of(3).await;
        let start = Instant::now();
        let (old, watch_old) = setting.endless(5);
        let (renewed, watch_renewed) = setting.endless(6);
        let (new, watch_new) = setting.endless(7);
        setting.results.put(old, start);
        setting.results.put(renewed, start);
        setting.results.put(new, start + Duration::from_secs(1));
        assert!(setting.results.renew(6, start + Duration::from_secs(1)));
        assert!(!setting.results.renew(8, start));
        setting.results.sweep(start + ResultsConfig::default().fetch_timeout);
        assert!(watch_old.upgrade().is_none());
        assert!(watch_renewed.upgrade().is_some());
        setting.results.drop_cancelled(6);
        assert!(watch_renewed.upgrade().is_none());
        setting.results.drop_of(2);
        assert!(watch_new.upgrade().is_some());
        setting.results.drop_of(1);
        assert!(watch_new.upgrade().is_none());
    }
}
