//! Results between the statement and the fetch: Flight asks for the two in two calls.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use skep_engine::QueryStream;
use skep_proto::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tonic::Status;

use super::sessions::OpenSession;
use crate::config::ResultsConfig;
use crate::secret::unguessable;
use crate::status::refuse;

/// Results that wait to be fetched, each behind a handle that nobody can guess.
#[derive(Debug)]
pub(super) struct PendingResults {
    config: ResultsConfig,
    /// One permit for each statement that runs or waits.
    permits: Arc<Semaphore>,
    waiting: Mutex<HashMap<String, Waiting>>,
}

/// The right to run a statement and to let its result wait.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

/// A result, and the session that it needs to live on.
#[derive(Debug)]
pub(super) struct PendingResult {
    /// The rows.
    pub(super) stream: QueryStream,
    /// Whose they are.
    pub(super) session: Arc<OpenSession>,
}

#[derive(Debug)]
struct Waiting {
    result: PendingResult,
    since: Instant,
    _place: Place,
}

impl PendingResults {
    /// Makes an empty set.
    pub(super) fn new(config: ResultsConfig) -> Self {
        let permits = config.max_pending_count.min(Semaphore::MAX_PERMITS);
        Self { config, permits: Arc::new(Semaphore::new(permits)), waiting: Mutex::default() }
    }

    /// Takes a place for a statement that is about to run.
    ///
    /// # Errors
    /// `UNAVAILABLE` if there is none.
    pub(super) fn place(&self) -> Result<Place, Status> {
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => Ok(Place { _permit: permit }),
            Err(TryAcquireError::NoPermits) => Err(refuse(
                ErrorCode::Unavailable,
                format!("too many statements: {} run or wait", self.config.max_pending_count),
                "try again later, or raise max_pending_count in [results]",
            )),
            Err(TryAcquireError::Closed) => Err(refuse(
                ErrorCode::Unavailable,
                "the coordinator is ending",
                "try again when it is back",
            )),
        }
    }

    /// Takes no statement any more, and drops the results that wait.
    pub(super) fn close(&self) {
        self.permits.close();
        self.drop_where(|_| true);
    }

    /// Lets a result wait; returns its handle.
    pub(super) fn put(&self, result: PendingResult, place: Place, now: Instant) -> String {
        let handle = unguessable();
        let waiting = Waiting { result, since: now, _place: place };
        self.waiting.lock().insert(handle.clone(), waiting);
        handle
    }

    /// Hands a result out, once.
    ///
    /// # Errors
    /// `NOT_FOUND` if it is not there, or not any more.
    pub(super) fn take(&self, handle: &str) -> Result<PendingResult, Status> {
        let taken = self.waiting.lock().remove(handle);
        taken.map(|waiting| waiting.result).ok_or_else(|| {
            let hint = format!(
                "a result is kept for {:?} and handed out once: run the statement again",
                self.config.fetch_timeout
            );
            refuse(ErrorCode::NotFound, "there is no such result", &hint)
        })
    }

    /// Drops the results of a session.
    pub(super) fn drop_of(&self, token: &str) {
        self.drop_where(|waiting| waiting.result.session.token == token);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use datafusion::arrow::datatypes::Schema;
    use futures::StreamExt;
    use skep_engine::{Engine, EngineConfig};
    use tonic::Code;

    use super::*;

    async fn session(token: &str) -> Arc<OpenSession> {
        let config = EngineConfig { memory_limit: Some(64 << 20), ..EngineConfig::default() };
        let session = Engine::open(config).await.unwrap().session();
        Arc::new(OpenSession { token: token.to_owned(), session })
    }

    /// Makes a result that never ends, and something to see by whether it is still there.
    fn endless(session: &Arc<OpenSession>) -> (PendingResult, std::sync::Weak<()>) {
        let held = Arc::new(());
        let watch = Arc::downgrade(&held);
        let batches = futures::stream::once(async move {
            let _held = held;
            std::future::pending().await
        });
        let stream = QueryStream::new(Arc::new(Schema::empty()), batches.boxed());
        (PendingResult { stream, session: Arc::clone(session) }, watch)
    }

    fn results(max_pending_count: usize) -> PendingResults {
        PendingResults::new(ResultsConfig { max_pending_count, ..ResultsConfig::default() })
    }

    #[tokio::test]
    async fn a_result_is_handed_out_once() {
        let (results, session) = (results(1), session("a").await);
        let (result, watch) = endless(&session);
        let handle = results.put(result, results.place().unwrap(), Instant::now());
        let taken = results.take(&handle).unwrap();
        assert_eq!(results.take(&handle).unwrap_err().code(), Code::NotFound);
        assert_eq!(results.take("guess").unwrap_err().code(), Code::NotFound);
        assert!(watch.upgrade().is_some());
        drop(taken);
        assert!(watch.upgrade().is_none());
    }

    #[tokio::test]
    async fn waiting_results_have_a_bound() {
        let (results, session) = (results(1), session("a").await);
        let (result, _) = endless(&session);
        let place = results.place().unwrap();
        assert_eq!(results.place().unwrap_err().code(), Code::Unavailable);
        let handle = results.put(result, place, Instant::now());
        assert_eq!(results.place().unwrap_err().code(), Code::Unavailable);
        let _taken = results.take(&handle).unwrap();
        assert!(results.place().is_ok());
    }

    #[tokio::test]
    async fn an_end_drops_what_waits_and_takes_no_more() {
        let (results, session) = (results(2), session("a").await);
        let (result, watch) = endless(&session);
        results.put(result, results.place().unwrap(), Instant::now());
        results.close();
        assert!(watch.upgrade().is_none());
        let refused = results.place().unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::Unavailable, "the coordinator is ending")
        );
    }

    #[tokio::test]
    async fn what_nobody_fetches_is_dropped() {
        let (results, session) = (results(3), session("a").await);
        let start = Instant::now();
        let (old, watch_old) = endless(&session);
        let (new, watch_new) = endless(&session);
        results.put(old, results.place().unwrap(), start);
        results.put(new, results.place().unwrap(), start + Duration::from_secs(1));
        results.sweep(start + ResultsConfig::default().fetch_timeout);
        assert!(watch_old.upgrade().is_none());
        assert!(watch_new.upgrade().is_some());
        results.drop_of("somebody else");
        assert!(watch_new.upgrade().is_some());
        results.drop_of("a");
        assert!(watch_new.upgrade().is_none());
    }
}
