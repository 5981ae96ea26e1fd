//! Tables that are cached, read, refreshed and taken out at the same time.

use datafusion::common::runtime::JoinSet;
use futures::StreamExt;

use super::*;
use crate::{CacheOptions, ClusterBy};

#[tokio::test(flavor = "multi_thread")]
async fn a_query_keeps_the_rows_that_it_was_planned_with() {
    let fixture = Fixture::new(|_| {}).await;
    fixture.lineitem(0.01).await;
    let query = "SELECT l_orderkey, l_comment FROM lineitem";
    let count = fixture.run(query).await.len();
    for statement in ["CACHE TABLE lineitem", "CACHE TABLE lineitem CLUSTER BY (l_orderkey)"] {
        for end in ["UNCACHE TABLE lineitem", "REFRESH TABLE lineitem", "CLEAR CACHE"] {
            fixture.run(statement).await;
            let mut rows = fixture.session.execute(query).await.unwrap();
            fixture.run(end).await;
            let mut seen = 0;
            while let Some(batch) = rows.next().await {
                seen += batch.unwrap().num_rows();
            }
            assert_eq!(seen, count, "{statement}; {end}");
            fixture.run("CLEAR CACHE").await;
        }
    }
    assert_eq!(fixture.session.inner.engine.runtime.memory_pool.reserved(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn statements_of_many_sessions_do_not_disturb_each_other() {
    let fixture = Fixture::new(|_| {}).await;
    fixture.lineitem(0.002).await;
    // Kept tables alone are seen by all sessions.
    fixture.run("CREATE TABLE lines AS SELECT * FROM lineitem").await;
    let query = "SELECT count(*), sum(l_orderkey), max(l_comment) FROM lines";
    let expected = fixture.run(query).await;
    let mut sessions = JoinSet::new();
    for number in 0..8_usize {
        let (session, expected) = (fixture.engine.session(), expected.clone());
        sessions.spawn(async move {
            for round in 0..12_usize {
                let statement = match (number + round * 3) % 8 {
                    0 => "CACHE TABLE lines",
                    1 => "CACHE LAZY TABLE lines",
                    2 => "UNCACHE TABLE IF EXISTS lines",
                    3 => "REFRESH TABLE lines",
                    4 => "CLEAR CACHE",
                    _ => "SELECT 1",
                };
                run(&session, statement).await;
                assert_eq!(run(&session, query).await, expected, "after {statement}");
            }
        });
    }
    while let Some(outcome) = sessions.join_next().await {
        outcome.unwrap();
    }
    fixture.run("CLEAR CACHE").await;
    assert_eq!(fixture.session.inner.engine.runtime.memory_pool.reserved(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_frame_is_cached_and_taken_out() {
    let fixture = Fixture::new(|_| {}).await;
    fixture
        .run("CREATE TABLE t AS SELECT value AS a FROM generate_series(1, 1000) AS s(value)")
        .await;
    let frame = fixture.session.sql("SELECT a % 10 AS k, a FROM t").await.unwrap();
    let cluster_by = ClusterBy { columns: vec!["k".to_owned()], partitions: Some(3) };
    let options =
        CacheOptions { level: "MEMORY_ONLY".parse().unwrap(), cluster_by: Some(cluster_by) };
    fixture.session.cache(&frame, options).await.unwrap();
    assert_eq!(fixture.figure("cached_partitions").await, 3);
    let query =
        "SELECT k, count(*) FROM (SELECT a % 10 AS k, a FROM t) GROUP BY k ORDER BY k LIMIT 1";
    assert_eq!(fixture.run(query).await, ["0|100"]);
    assert_eq!(fixture.figure("hits").await, 3);
    let stream = fixture.session.execute_dataframe(frame.clone()).await.unwrap();
    let rows: usize = stream.collect().await.unwrap().iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, 1000);
    assert_eq!(fixture.figure("hits").await, 6);
    assert!(fixture.session.unpersist(&frame).unwrap());
    assert!(!fixture.session.unpersist(&frame).unwrap());
    assert_eq!(fixture.run("SELECT * FROM system.cached_tables").await, [""; 0]);
}
