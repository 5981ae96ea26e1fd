//! The queries that run in the coordinator's own process, for `system.queries`.
//!
//! The scheduler does not know them: nothing of them is decided. They are noted when they begin, and
//! once more when their stream ends, fails or is dropped.
//!
//! **Invariant:** of ended ones no more are kept than the scheduler keeps of its own; running ones
//! are bounded by what the front end lets run.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use parking_lot::Mutex;
use skep_engine::{Deadline, Error};

use super::Clock;
use crate::ids::QueryId;
use crate::scheduler::{CancelCause, FailureKind, QueryFailure, QueryState, QueryView};

/// The local queries that run, and the last that ran.
#[derive(Debug)]
pub(crate) struct LocalQueries {
    clock: Clock,
    remembered_count: usize,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    running: BTreeMap<QueryId, Entry>,
    ended: VecDeque<(QueryView, Option<Arc<str>>)>,
}

#[derive(Debug)]
struct Entry {
    text: Option<Arc<str>>,
    submitted: Duration,
    rows: Arc<AtomicU64>,
    plan: Option<Arc<dyn ExecutionPlan>>,
}

/// A local query that runs. Dropped before its end, it was cancelled.
#[derive(Debug)]
pub(crate) struct LocalQuery {
    log: Arc<LocalQueries>,
    query: QueryId,
    rows: Arc<AtomicU64>,
    deadline: Option<Arc<Deadline>>,
    has_ended: bool,
}

impl LocalQueries {
    pub(crate) fn new(clock: Clock, remembered_count: usize) -> Self {
        Self { clock, remembered_count, log: Mutex::default() }
    }

    /// Notes that a query begins.
    pub(crate) fn begin(
        self: &Arc<Self>,
        query: QueryId,
        text: Option<Arc<str>>,
        deadline: Option<Arc<Deadline>>,
    ) -> LocalQuery {
        let rows = Arc::new(AtomicU64::new(0));
        let submitted = self.clock.now();
        let entry = Entry { text, submitted, rows: Arc::clone(&rows), plan: None };
        self.log.lock().running.insert(query, entry);
        LocalQuery { log: Arc::clone(self), query, rows, deadline, has_ended: false }
    }

    /// Tells how much of what a running query will read has been read; `None` if it does not run.
    pub(crate) fn fraction(&self, query: QueryId) -> Option<f64> {
        let log = self.log.lock();
        let plan = log.running.get(&query)?.plan.clone();
        drop(log);
        Some(plan.map_or(0.0, |plan| fraction(&plan)))
    }

    /// Returns all that is known, the oldest first.
    pub(crate) fn views(&self) -> Vec<(QueryView, Option<Arc<str>>)> {
        let log = self.log.lock();
        let running = log.running.iter().map(|(query, entry)| {
            (entry.view(*query, QueryState::Running, None, None), entry.text.clone())
        });
        log.ended.iter().cloned().chain(running).collect()
    }

    fn end(&self, query: QueryId, error: Option<QueryFailure>) {
        let now = self.clock.now();
        let mut log = self.log.lock();
        let Some(entry) = log.running.remove(&query) else { return };
        let state = if error.is_some() { QueryState::Failed } else { QueryState::Finished };
        log.ended.push_back((entry.view(query, state, Some(now), error), entry.text));
        while log.ended.len() > self.remembered_count {
            log.ended.pop_front();
        }
    }
}

impl Entry {
    fn view(
        &self,
        query: QueryId,
        state: QueryState,
        ended: Option<Duration>,
        error: Option<QueryFailure>,
    ) -> QueryView {
        QueryView {
            query,
            state,
            weight: 1,
            submitted: self.submitted,
            started: Some(self.submitted),
            ended,
            error,
            stage_count: 0,
            task_count: 0,
            attempt_count: 0,
            rows: self.rows.load(Ordering::Relaxed),
        }
    }
}

impl LocalQuery {
    /// Notes what it runs.
    pub(crate) fn of(self, plan: &Arc<dyn ExecutionPlan>) -> Self {
        if let Some(entry) = self.log.log.lock().running.get_mut(&self.query) {
            entry.plan = Some(Arc::clone(plan));
        }
        self
    }

    /// Notes that it failed before it had a row.
    pub(crate) fn fail(mut self, error: &Error) {
        self.end(Some(failure(error)));
    }

    /// Passes its rows on and counts them.
    pub(crate) fn follow(self, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        let schema = rows.schema();
        let batches = futures::stream::unfold((self, rows), |(mut query, mut rows)| async move {
            let next = rows.next().await;
            match &next {
                Some(Ok(batch)) => {
                    query.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                }
                Some(Err(error)) => query.end(Some(failure_of(error))),
                None => query.end(None),
            }
            next.map(|next| (next, (query, rows)))
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, batches))
    }

    fn end(&mut self, error: Option<QueryFailure>) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.log.end(self.query, error);
        }
    }
}

impl Drop for LocalQuery {
    fn drop(&mut self) {
        let is_late = self.deadline.as_ref().is_some_and(|deadline| deadline.is_past());
        let cause = if is_late { CancelCause::Late } else { CancelCause::Unwanted };
        self.end(Some(QueryFailure::cancelled(cause)));
    }
}

/// Counts the rows that the leaves of a plan have given, of those that they say they have.
fn fraction(plan: &Arc<dyn ExecutionPlan>) -> f64 {
    let (mut read, mut all) = (0_usize, 0_usize);
    let (context, arguments) = (StatisticsContext::new(), StatisticsArgs::new());
    let walked = plan.apply(|node| {
        let is_leaf = node.children().is_empty();
        let known = is_leaf.then(|| context.compute(node.as_ref(), &arguments).ok());
        let statistics = known.flatten();
        if let Some(count) = statistics.and_then(|it| it.num_rows.get_value().copied()) {
            let given = node.metrics().and_then(|metrics| metrics.output_rows());
            read = read.saturating_add(given.unwrap_or_default().min(count));
            all = all.saturating_add(count);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    match all {
        0 => 0.0,
        all => walked.map_or(0.0, |_recursion| read as f64 / all as f64),
    }
}

fn failure(error: &Error) -> QueryFailure {
    let hint = error.hint().map(str::to_owned);
    QueryFailure {
        kind: FailureKind::Query(error.code()),
        message: error.to_string(),
        hint,
        attempt: None,
        site: None,
    }
}

/// As the session will see it, as far as that is known here: it goes on to look for what is to blame.
fn failure_of(error: &DataFusionError) -> QueryFailure {
    failure(&Error::of(error))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::RecordBatch;
    use datafusion::arrow::datatypes::Schema;
    use datafusion::arrow::record_batch::RecordBatchOptions;
    use datafusion::catalog::memory::MemorySourceConfig;
    use datafusion::execution::TaskContext;
    use futures::Stream;
    use skep_proto::ErrorCode;

    use super::*;

    fn queries(remembered_count: usize) -> Arc<LocalQueries> {
        Arc::new(LocalQueries::new(Clock::start(), remembered_count))
    }

    fn batch(rows: usize) -> RecordBatch {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap()
    }

    fn stream(
        batches: impl Stream<Item = Result<RecordBatch, DataFusionError>> + Send + 'static,
    ) -> SendableRecordBatchStream {
        Box::pin(RecordBatchStreamAdapter::new(Arc::new(Schema::empty()), batches))
    }

    fn only(queries: &LocalQueries) -> QueryView {
        let mut views = queries.views();
        assert_eq!(views.len(), 1);
        views.remove(0).0
    }

    #[tokio::test]
    async fn a_query_is_seen_while_it_runs_and_after() {
        let queries = queries(4);
        let begun = queries.begin(QueryId(7), Some("SELECT 1".into()), None);
        let rows = futures::stream::iter([Ok(batch(3)), Ok(batch(4))]);
        let mut rows = begun.follow(stream(rows));
        rows.next().await.unwrap().unwrap();
        let view = only(&queries);
        assert_eq!((view.state, view.rows, view.ended), (QueryState::Running, 3, None));
        while rows.next().await.is_some() {}
        let view = only(&queries);
        assert_eq!((view.query, view.state, view.rows), (QueryId(7), QueryState::Finished, 7));
        assert!(view.ended >= view.started && view.error.is_none());
        assert_eq!(queries.views()[0].1.as_deref(), Some("SELECT 1"));
        drop(rows);
        assert_eq!(only(&queries).state, QueryState::Finished, "its end was its end");
    }

    #[tokio::test]
    async fn how_far_a_query_is_is_told_by_what_was_read() {
        let queries = queries(4);
        assert_eq!(queries.fraction(QueryId(1)), None);
        let table: Vec<_> = (0..4).map(|_number| vec![batch(25)]).collect();
        let plan: Arc<dyn ExecutionPlan> =
            MemorySourceConfig::try_new_exec(&table, Arc::new(Schema::empty()), None).unwrap();
        let query = queries.begin(QueryId(1), None, None);
        assert_eq!(queries.fraction(QueryId(1)), Some(0.0));
        let query = query.of(&plan);
        assert_eq!(queries.fraction(QueryId(1)), Some(0.0));
        let context = Arc::new(TaskContext::default());
        let mut rows = query.follow(plan.execute(0, context).unwrap());
        rows.next().await.unwrap().unwrap();
        assert_eq!(queries.fraction(QueryId(1)), Some(0.25));
        assert!(rows.next().await.is_none());
        assert_eq!(queries.fraction(QueryId(1)), None);
    }

    #[tokio::test]
    async fn a_failure_is_told_from_a_cancel() {
        let queries = queries(4);
        let error = DataFusionError::ResourcesExhausted("no memory".to_owned());
        let failing = stream(futures::stream::iter([Err(error)]));
        let mut rows = queries.begin(QueryId(1), None, None).follow(failing);
        assert!(rows.next().await.unwrap().is_err());
        drop(queries.begin(QueryId(2), None, None).follow(stream(futures::stream::pending())));
        queries.begin(QueryId(3), None, None).fail(&Error::Cancelled);
        let kinds: Vec<_> = queries
            .views()
            .into_iter()
            .map(|(view, _)| (view.state, view.error.unwrap().kind))
            .collect();
        assert_eq!(
            kinds,
            [
                (QueryState::Failed, FailureKind::Query(ErrorCode::ResourceExhausted)),
                (QueryState::Failed, FailureKind::Cancelled),
                (QueryState::Failed, FailureKind::Query(ErrorCode::Cancelled)),
            ]
        );
    }

    #[test]
    fn only_the_last_are_kept() {
        let queries = queries(2);
        for query in 1..=5 {
            drop(queries.begin(QueryId(query), None, None));
        }
        let running = queries.begin(QueryId(6), None, None);
        let ids: Vec<_> = queries.views().iter().map(|(view, _)| view.query.0).collect();
        assert_eq!(ids, [4, 5, 6]);
        drop(running);
    }
}
