//! Tables that are cached, read, refreshed and taken out at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use datafusion::common::runtime::{JoinSet, SpawnedTask};
use futures::StreamExt;
use skep_proto::{IfExists, IfMissing, Ingest};

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
    assert_eq!(fixture.reserved(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_keeps_its_rows_though_the_file_is_another_by_now() {
    let fixture = Fixture::new(|_| {}).await;
    fixture.lineitem(0.01).await;
    let query = "SELECT l_orderkey, l_comment FROM lineitem";
    let count = fixture.run(query).await.len();
    for statement in ["CACHE TABLE lineitem", "CACHE TABLE lineitem CLUSTER BY (l_orderkey)"] {
        for end in ["UNCACHE TABLE lineitem", "REFRESH TABLE lineitem", "CLEAR CACHE"] {
            write_lineitem(&fixture.path("lineitem.csv"), 0.01);
            fixture.run(statement).await;
            let mut rows = fixture.session.execute(query).await.unwrap();
            write_lineitem(&fixture.path("lineitem.csv"), 0.005);
            fixture.run(end).await;
            let mut seen = 0;
            while let Some(batch) = rows.next().await {
                seen += batch.unwrap().num_rows();
            }
            assert_eq!(seen, count, "{statement}; {end}");
            assert!(fixture.run(query).await.len() < count, "{statement}; {end}");
            drop(rows);
            fixture.run("CLEAR CACHE").await;
            assert_eq!(fixture.reserved(), 0, "{statement}; {end}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_table_whose_loading_is_cut_short() {
    let fixture = Fixture::new(|_| {}).await;
    fixture.lineitem(0.02).await;
    let all = ["SELECT * FROM lineitem"; 8].join(" UNION ALL ");
    for statement in [format!("CACHE TABLE many AS {all}"), "REFRESH TABLE lineitem".to_owned()] {
        if statement.starts_with("REFRESH") {
            fixture.run(&format!("CACHE TABLE first AS {all}")).await;
        }
        let kept = || {
            let cache = &fixture.session.inner.engine.cache;
            let stats = cache.opened_store().map(skep_store::PartitionStore::stats);
            stats.iter().flat_map(|it| it.tables.values()).map(|it| it.partitions).sum::<usize>()
        };
        let before = kept();
        let (session, text) = (fixture.session.clone(), statement.clone());
        let loading = SpawnedTask::spawn(async move { run(&session, &text).await });
        let deadline = Instant::now() + Duration::from_secs(30);
        while kept() == before {
            assert!(Instant::now() < deadline, "{statement} loads nothing");
            tokio::task::yield_now().await;
        }
        drop(loading);
        fixture.run("CLEAR CACHE").await;
        let deadline = Instant::now() + Duration::from_secs(30);
        while fixture.reserved() > 0 {
            assert!(Instant::now() < deadline, "{statement}: {} bytes", fixture.reserved());
            tokio::task::yield_now().await;
        }
        assert_eq!(fixture.run("SELECT * FROM system.cached_tables").await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_refresh_that_fails() {
    let fixture = Fixture::new(|_| {}).await;
    fixture.folder("CAST(1 AS INT) AS a", 2).await;
    fixture.run("CACHE TABLE f").await;
    assert_eq!(fixture.run("SELECT count(*), sum(a) FROM f").await, ["2|2"]);
    let (part, text) = (fixture.path("f/1.csv"), "a\nnone\n");
    std::fs::write(&part, text).unwrap();
    fixture.fail("REFRESH TABLE f").await;
    // What there was still answers.
    assert_eq!(fixture.run("SELECT count(*), sum(a) FROM f").await, ["2|2"]);
    fixture.run("CLEAR CACHE").await;
    assert_eq!(fixture.reserved(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_made_again_from_its_own_files_whatever_became_of_others() {
    let fixture = Fixture::new(|_| {}).await;
    fixture.folder("1 AS a", 2).await;
    fixture.run("CACHE TABLE f").await;
    assert_eq!(fixture.figure("partitions").await, 2);
    std::fs::write(fixture.path("f/1.csv"), "a\n1\n1\n1\n").unwrap();
    drop_partitions(&fixture, &[0]);
    assert_eq!(fixture.run("SELECT count(*) FROM f").await, ["2"]);
    assert_eq!(fixture.run("SELECT sum(a) FROM f").await, ["2"]);
    assert_eq!(fixture.figure("rebuilt").await, 1);
    drop_partitions(&fixture, &[1]);
    let error = fixture.fail("SELECT sum(a) FROM f").await;
    assert!(error.to_string().contains("1.csv: it has changed since table"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_client_sends_are_seen() {
    let fixture = Fixture::new(|_| {}).await;
    fixture.run("CREATE TABLE t AS SELECT 1 AS a").await;
    fixture.run("CACHE TABLE t").await;
    fixture.run("CACHE TABLE n AS SELECT count(*) AS n FROM t").await;
    let ingest = Ingest {
        schema: None,
        table: "t".to_owned(),
        is_temporary: false,
        if_missing: IfMissing::Fail,
        if_exists: IfExists::Append,
    };
    let frame = fixture.session.sql("SELECT 2 AS a UNION ALL SELECT 3").await.unwrap();
    let rows = fixture.session.execute_dataframe(frame).await.unwrap();
    let schema = rows.schema();
    fixture.session.ingest(ingest, schema, rows.boxed()).await.unwrap();
    assert_eq!(fixture.run("SELECT count(*), (SELECT n FROM n) FROM t").await, ["3|3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_put_in_though_what_is_cached_over_them_cannot_follow() {
    let fixture = Fixture::new(|_| {}).await;
    fixture.folder("1 AS a", 1).await;
    fixture.run("CREATE TABLE t AS SELECT 1 AS a").await;
    fixture.run("CREATE VIEW both AS SELECT t.a FROM t JOIN f ON t.a = f.a").await;
    fixture.run("CACHE TABLE both").await;
    fixture.run("CACHE TABLE t").await;
    std::fs::remove_dir_all(fixture.path("f")).unwrap();
    fixture.run("INSERT INTO t VALUES (1)").await;
    assert_eq!(fixture.run("SELECT count(*) FROM t").await, ["2"]);
    // The rows of before are not those of the view any more.
    fixture.fail("SELECT count(*) FROM both").await;
    std::fs::create_dir(fixture.path("f")).unwrap();
    std::fs::write(fixture.path("f/0.csv"), "a\n1\n").unwrap();
    assert_eq!(fixture.run("SELECT count(*) FROM both").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_again_has_no_deadline_of_who_cached_it() {
    let fixture = Fixture::new(|_| {}).await;
    fixture.run("SET skep.statement_timeout = '1min'").await;
    fixture.run("CREATE TABLE t AS SELECT 1 AS a").await;
    let deadline = || {
        let tables = fixture.session.inner.engine.cache.all();
        let content = tables[0].content();
        content.lineage.context().session_config().get_extension::<crate::Deadline>()
    };
    for statement in ["CACHE TABLE t", "REFRESH TABLE t", "INSERT INTO t VALUES (2)"] {
        fixture.run(statement).await;
        fixture.run("SELECT * FROM t").await;
        assert!(deadline().is_none(), "{statement}");
    }
}

/// Rows come while others cache and take out: nobody sees fewer than there were when its query began,
/// or more than there were when it ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_misses_rows_that_were_put_in_before() {
    const ROUNDS: usize = 12;
    let fixture = Fixture::new(|_| {}).await;
    fixture.run("CREATE TABLE t AS SELECT 0 AS a, 0 AS g").await;
    fixture.run("CREATE VIEW v AS SELECT g, count(*) AS n FROM t GROUP BY g").await;
    let (begun, ended) = (Arc::new(AtomicUsize::new(1)), Arc::new(AtomicUsize::new(1)));
    let mut sessions = JoinSet::new();
    for number in 0..6_usize {
        let session = fixture.engine.session();
        let (begun, ended) = (Arc::clone(&begun), Arc::clone(&ended));
        sessions.spawn(async move {
            for round in 0..ROUNDS {
                let statement = match (number + round * 5) % 12 {
                    0 => "CACHE TABLE t",
                    1 => "CACHE TABLE v",
                    2 => "CACHE TABLE t CLUSTER BY (a) INTO 2 PARTITIONS",
                    3 => "REFRESH TABLE t",
                    4 => "UNCACHE TABLE IF EXISTS t",
                    5 => "CLEAR CACHE",
                    6 => "CACHE LAZY TABLE t CLUSTER BY (g) INTO 2 PARTITIONS",
                    7 => "CACHE LAZY TABLE v",
                    _ => "INSERT INTO t VALUES (1, 0)",
                };
                if statement.starts_with("INSERT") {
                    begun.fetch_add(1, Ordering::SeqCst);
                    run(&session, statement).await;
                    ended.fetch_add(1, Ordering::SeqCst);
                } else {
                    run(&session, statement).await;
                }
                for query in ["SELECT count(*) FROM t", "SELECT sum(n) FROM v"] {
                    let least = ended.load(Ordering::SeqCst);
                    let seen: usize = run(&session, query).await[0].parse().unwrap();
                    let most = begun.load(Ordering::SeqCst);
                    assert!((least..=most).contains(&seen), "{least} <= {seen} <= {most}: {query}");
                }
            }
        });
    }
    while let Some(outcome) = sessions.join_next().await {
        outcome.unwrap();
    }
    fixture.run("CLEAR CACHE").await;
    assert_eq!(fixture.reserved(), 0);
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
    assert_eq!(fixture.reserved(), 0);
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
