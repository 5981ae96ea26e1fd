//! What an executor is asked, and with what.

use super::*;

const SETTING: &str = "datafusion.execution.target_partitions";
/// Cut as wide as queries are.
const QUERY: &str = "SELECT value % 7, count(*) FROM generate_series(1, 100) GROUP BY 1";

async fn with_width(width: usize) -> (Session, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    recorder.width.store(width, Ordering::Relaxed);
    let executor = Arc::clone(&recorder) as Arc<dyn QueryExecutor>;
    let session = engine(EngineConfig::default(), executor, None).await.session();
    (session, recorder)
}

#[tokio::test]
async fn queries_are_as_wide_as_the_executor_wants_at_that_moment() {
    let (session, recorder) = with_width(11).await;
    run(&session, QUERY).await;
    recorder.width.store(13, Ordering::Relaxed);
    run(&session, QUERY).await;
    assert_eq!(recorder.widths(), [11, 13]);
    let plan = run(&session, &format!("EXPLAIN {QUERY}")).await.concat();
    assert!(plan.contains("], 13)"), "{plan}");
    let plan = run(&session, &format!("EXPLAIN DISTRIBUTED {QUERY}")).await.concat();
    assert!(plan.contains("], 13)"), "{plan}");
    assert_eq!(run(&session, &format!("SHOW {SETTING}")).await, [format!("{SETTING}|13")]);
}

#[tokio::test]
async fn an_executor_without_a_wish_leaves_the_width_to_the_session() {
    let (session, recorder) = with_width(0).await;
    run(&session, QUERY).await;
    let default = datafusion::prelude::SessionConfig::new().target_partitions();
    assert_eq!(recorder.widths(), [default]);
}

#[tokio::test]
async fn a_width_that_the_user_set_goes_first_until_it_is_reset() {
    let (session, recorder) = with_width(11).await;
    // Also if it is what the session would have had anyway.
    let default = datafusion::prelude::SessionConfig::new().target_partitions();
    run(&session, &format!("SET {SETTING} = {default}")).await;
    run(&session, QUERY).await;
    run(&session, &format!("RESET {SETTING}")).await;
    run(&session, QUERY).await;
    run(&session, &format!("SET {SETTING} = 3")).await;
    run(&session, QUERY).await;
    run(&session, "RESET ALL").await;
    run(&session, QUERY).await;
    run(&session, &format!("SET {SETTING} = 3")).await;
    run(&session, &format!("SET {SETTING} = 0")).await;
    run(&session, QUERY).await;
    assert_eq!(recorder.widths(), [default, 11, 3, 11, 11]);
    session.execute(&format!("SET {SETTING} = 'many'")).await.unwrap_err();
    run(&session, QUERY).await;
    assert_eq!(recorder.widths(), [11]);
}

#[tokio::test]
async fn a_configured_width_goes_before_the_executors() {
    let recorder = Arc::new(Recorder::default());
    recorder.width.store(11, Ordering::Relaxed);
    let config = EngineConfig { target_partitions: Some(2), ..EngineConfig::default() };
    let executor = Arc::clone(&recorder) as Arc<dyn QueryExecutor>;
    let session = engine(config, executor, None).await.session();
    run(&session, QUERY).await;
    assert_eq!(recorder.widths(), [2]);
}

#[tokio::test]
async fn every_way_to_the_executor_has_the_width_and_the_text() {
    let (session, recorder) = with_width(11).await;
    let directory = tempfile::tempdir().unwrap();
    let copy = format!("COPY (SELECT 1 AS a) TO '{}/x.csv'", directory.path().display());
    let statements = [
        "SELECT 1",
        "CREATE TABLE t AS SELECT 1 AS a",
        "INSERT INTO t VALUES (2)",
        copy.as_str(),
        "EXPLAIN ANALYZE SELECT 1",
        "EXPLAIN SELECT 1",
    ];
    for statement in statements {
        run(&session, statement).await;
        let seen = std::mem::take(&mut *recorder.seen.lock());
        assert_eq!(seen, [(11, Some(statement.to_owned()))]);
    }
    run(&session, "PREPARE p AS SELECT 3").await;
    recorder.seen.lock().clear();
    run(&session, "EXECUTE p").await;
    assert_eq!(recorder.texts(), [Some("EXECUTE p".to_owned())]);
}

#[tokio::test]
async fn a_data_frame_follows_the_width_and_keeps_its_text() {
    let (session, recorder) = with_width(11).await;
    let frame = session.sql("SELECT 1 AS a").await.unwrap();
    recorder.width.store(13, Ordering::Relaxed);
    session.execute_dataframe(frame).await.unwrap().collect().await.unwrap();
    assert_eq!(*recorder.seen.lock(), [(13, Some("SELECT 1 AS a".to_owned()))]);
}

#[tokio::test]
async fn one_statements_text_is_not_the_next_ones() {
    let (session, recorder) = with_width(0).await;
    run(&session, "SELECT 1").await;
    let frame = session.inner.context.read_empty().unwrap();
    session.execute_dataframe(frame).await.unwrap().collect().await.unwrap();
    assert_eq!(recorder.texts(), [Some("SELECT 1".to_owned()), None]);
}

#[tokio::test]
async fn an_executor_that_does_not_say_how_it_runs_shows_the_plan() {
    let (session, recorder) = with_width(0).await;
    let rows = run(&session, "EXPLAIN DISTRIBUTED SELECT 1 AS one").await;
    assert_eq!(rows, ["plan|ProjectionExec: expr=[1 as one]\n  PlaceholderRowExec\n"]);
    assert!(recorder.widths().is_empty(), "what is explained is not run");
}
