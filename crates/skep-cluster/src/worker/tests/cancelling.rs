//! Cancelled, dropped, begun anew: nothing is left, and soon.

use super::rows::{RowsExec, numbered};
use super::*;

async fn sql(query: &str, context: &TaskContext) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let config = context.session_config().clone().with_target_partitions(1);
    SessionContext::new_with_config_rt(config, context.runtime_env())
        .sql(query)
        .await?
        .create_physical_plan()
        .await
}

/// Counts a product that nobody can finish counting.
fn toiling(context: &TaskContext) -> DataFusionResult<DecodedStage> {
    let query = "SELECT count(*) FROM generate_series(1, 1000000) AS a(x) \
                 JOIN generate_series(1, 1000000) AS b(y) ON x + y <> 0";
    Ok(decoded(futures::executor::block_on(sql(query, context))?, Output::Gather))
}

fn endless(_context: &TaskContext) -> DataFusionResult<DecodedStage> {
    Ok(decoded(RowsExec::endless(numbered(0, 10)), Output::Gather))
}

fn stuck(_context: &TaskContext) -> DataFusionResult<DecodedStage> {
    Ok(decoded(RowsExec::stuck(numbered(0, 1000)), Output::Gather))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_attempt_stops_soon_and_leaves_nothing() {
    let makes: [fn(&TaskContext) -> DataFusionResult<DecodedStage>; 3] = [toiling, endless, stuck];
    for make in makes {
        let mut site = Fixture::new();
        site.plan(1, 0, make);
        site.launch(attempt(1, 0, 0, 0), vec![]);
        until(|| site.store.stats().open_writers == 1).await;
        let begun = Instant::now();
        site.runner.perform(Command::Cancel(vec![attempt(1, 0, 0, 0)]));
        let (_, report) = site.word().await;
        assert_eq!(report.outcome, TaskOutcome::Stopped);
        site.await_empty().await;
        // The bound is one second on a machine that has nothing else to do.
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        // Said again, it changes nothing.
        site.runner.perform(Command::Cancel(vec![attempt(1, 0, 0, 0)]));
        site.runner.perform(Command::DropQuery(QueryId(1)));
        assert!(site.reports.try_recv().is_err());
        assert_eq!(site.runner.holdings(), crate::scheduler::Holdings::default());
    }
}

#[tokio::test]
async fn cancelling_what_has_finished_releases_it_without_a_second_word() {
    let mut site = Fixture::new();
    site.plan(1, 0, |_context| {
        Ok(decoded(RowsExec::batches(vec![numbered(0, 5)]), Output::Gather))
    });
    site.finish(attempt(1, 0, 0, 0), vec![]).await;
    site.finish(attempt(1, 0, 0, 1), vec![]).await;
    assert_eq!(site.runner.holdings().sealed.len(), 2);
    assert!(site.runner.heartbeat().load.stored_bytes > 0);
    site.runner.perform(Command::Cancel(vec![attempt(1, 0, 0, 0)]));
    assert_eq!(site.runner.holdings().sealed.len(), 1);
    site.runner.perform(Command::Release(vec![attempt(1, 0, 0, 1)]));
    site.await_empty().await;
    // Launched again in spite of that, they do not run again.
    site.launch(attempt(1, 0, 0, 0), vec![]);
    tokio::task::yield_now().await;
    assert!(site.reports.try_recv().is_err());
    assert_eq!(site.programs.decodes.load(Ordering::Relaxed), 2);
    assert_eq!(site.programs.contexts.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_query_leaves_nothing_and_the_others_stay() {
    let mut site = Fixture::new();
    for query in [1, 2] {
        site.plan(query, 0, stuck);
        site.plan(query, 1, |_context| {
            Ok(decoded(RowsExec::batches(vec![numbered(0, 5)]), Output::Gather))
        });
        site.launch(attempt(query, 0, 0, 0), vec![]);
        site.finish(attempt(query, 1, 0, 0), vec![]).await;
    }
    site.runner.perform(Command::DropQuery(QueryId(1)));
    let (_, report) = site.word().await;
    assert_eq!((report.attempt, report.outcome), (attempt(1, 0, 0, 0), TaskOutcome::Stopped));
    let holdings = site.runner.holdings();
    assert_eq!(holdings.running, [attempt(2, 0, 0, 0)]);
    assert_eq!(holdings.sealed[0].0, attempt(2, 1, 0, 0));
    assert_eq!((holdings.sealed.len(), holdings.queries), (1, vec![QueryId(2)]));
    let queries: Vec<QueryId> = site.store.stats().queries.into_keys().collect();
    assert_eq!(queries, [QueryId(2)]);
    // What comes late is refused with a word, and leaves nothing.
    let outcome = site.run(attempt(1, 1, 0, 1), vec![]).await;
    assert!(matches!(outcome, TaskOutcome::Failed(_)), "{outcome:?}");
    site.plan(1, 1, |_context| {
        Ok(decoded(RowsExec::batches(vec![numbered(0, 5)]), Output::Gather))
    });
    assert_eq!(site.run(attempt(1, 1, 0, 2), vec![]).await, TaskOutcome::Stopped);
    assert_eq!(site.store.stats().queries.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_life_begins_empty_and_may_go_on_with_the_same_query() {
    let mut site = Fixture::new();
    let old = site.site;
    let quick = |_context: &TaskContext| {
        Ok(decoded(RowsExec::batches(vec![numbered(0, 5)]), Output::Gather))
    };
    site.plan(1, 0, quick);
    site.plan(1, 1, stuck);
    site.finish(attempt(1, 0, 0, 0), vec![]).await;
    site.launch(attempt(1, 1, 0, 0), vec![]);
    until(|| site.store.stats().open_writers == 1).await;
    site.site = worker(1, 2);
    site.runner.begin_life(site.site);
    assert_eq!(site.runner.holdings(), crate::scheduler::Holdings::default());
    let (said_by, report) = site.word().await;
    assert_eq!((said_by, report.outcome), (old, TaskOutcome::Stopped));
    site.await_empty().await;
    site.plan(1, 0, quick);
    assert_eq!(site.finish(attempt(1, 0, 0, 1), vec![]).await.rows, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_is_dropped_stops_its_attempts() {
    let site = Fixture::new();
    site.plan(1, 0, endless);
    site.launch(attempt(1, 0, 0, 0), vec![]);
    until(|| site.store.stats().open_writers == 1).await;
    let Fixture { runner, mut reports, store, runtime, .. } = site;
    drop(runner);
    let (_, report) = reports.recv().await.unwrap();
    assert_eq!(report.outcome, TaskOutcome::Stopped);
    assert!(reports.recv().await.is_none());
    until(|| store.stats().open_writers == 0 && runtime.memory_pool.reserved() == 0).await;
}
