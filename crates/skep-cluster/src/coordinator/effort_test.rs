//! What queries are worth, over plans as the engine makes them.

use skep_engine::{Engine, EngineConfig, Session};
use tempfile::TempDir;

use super::*;

/// A session with tables of 1,000 rows each: `parquet`, `csv`, and `packed`, which is compressed.
async fn session() -> (Session, TempDir) {
    let config = EngineConfig { target_partitions: Some(4), ..EngineConfig::default() };
    let session = Engine::open(config).await.unwrap().session();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    let rows = "SELECT value AS k FROM generate_series(1, 1000)";
    for statement in [
        format!("COPY ({rows}) TO '{path}/t.parquet'"),
        format!("COPY ({rows}) TO '{path}/t.csv'"),
        format!("COPY ({rows}) TO '{path}/t.csv.gz' OPTIONS ('format.compression' 'gzip')"),
        format!("CREATE EXTERNAL TABLE parquet STORED AS PARQUET LOCATION '{path}/t.parquet'"),
        format!("CREATE EXTERNAL TABLE csv STORED AS CSV LOCATION '{path}/t.csv'"),
        format!("CREATE EXTERNAL TABLE packed STORED AS CSV LOCATION '{path}/t.csv.gz'"),
    ] {
        session.execute(&statement).await.unwrap().collect().await.unwrap();
    }
    (session, directory)
}

async fn worth(session: &Session, query: &str) -> Option<u64> {
    let (state, plan) = session.sql(query).await.unwrap().into_parts();
    let plan = state.create_physical_plan(&plan).await.unwrap();
    work(&plan)
}

#[tokio::test]
async fn what_reads_little_is_worth_little_however_it_is_put() {
    let (session, directory) = session().await;
    let size = |name: &str| directory.path().join(name).metadata().unwrap().len();
    let (parquet, csv) = (size("t.parquet"), size("t.csv"));
    for (query, least, most) in [
        ("SELECT k FROM parquet WHERE k > 3", parquet, parquet),
        ("SELECT (SELECT max(k) FROM csv) AS m", csv, csv + 100),
        ("SELECT k FROM csv WHERE k > (SELECT avg(k) FROM csv)", 2 * csv, 2 * csv),
        ("SELECT 1 AS a WHERE EXISTS (SELECT 1 FROM parquet WHERE k > 3)", parquet, parquet + 1100),
        ("SELECT 1 AS a WHERE EXISTS (SELECT 1 FROM csv WHERE k > 3)", csv, 2 * csv + 100),
        ("SELECT EXISTS (SELECT 1 FROM csv WHERE k > 3) AS e", csv, 40 * csv),
        ("SELECT count(*) FROM generate_series(1, 10)", 80, 80),
        ("SELECT sum(value) FROM generate_series(10, 1, -3)", 32, 32),
        ("SELECT sum(value) FROM generate_series(10, 1)", 0, 0),
        ("SELECT count(*) FROM generate_series(NULL, 1)", 0, 8),
        ("SELECT k FROM csv WHERE k IN (SELECT value FROM generate_series(1, 3))", csv, csv + 24),
        ("SELECT count(*) FROM (VALUES (1), (2)) AS v(k) JOIN csv USING (k)", csv, csv + 1000),
        ("SELECT k, (SELECT count(*) FROM information_schema.tables) FROM csv", csv, csv),
    ] {
        let worth = worth(&session, query).await.unwrap_or_else(|| panic!("{query}"));
        assert!((least..=most).contains(&worth), "{query}: {worth}, not {least} to {most}");
    }
}

#[tokio::test]
async fn large_series_and_loops_are_worth_much() {
    let (session, _directory) = session().await;
    let days = "generate_series(TIMESTAMP '2020-01-01', TIMESTAMP '2020-12-31', INTERVAL '1 day')";
    for (query, least, most) in [
        ("SELECT count(*) FROM generate_series(1, 1000000000000)", 8_000_000_000_000, u64::MAX),
        ("SELECT count(*) FROM generate_series(0, 9223372036854775807)", u64::MAX, u64::MAX),
        ("SELECT a.k, b.k FROM parquet AS a, parquet AS b", 1_000_000, 1_100_000),
        ("SELECT a.k, b.k FROM parquet AS a JOIN parquet AS b ON a.k < b.k", 1_000_000, 1_100_000),
        ("SELECT k FROM parquet WHERE EXISTS (SELECT 1 FROM csv)", 1_000_000, 10_000_000),
        (
            "SELECT a.k, b.k FROM parquet AS a, (SELECT k FROM parquet ORDER BY k LIMIT 2) AS b",
            2_000,
            // As many as each partition of the limit might give.
            50_000,
        ),
        (&format!("SELECT count(*) FROM {days}"), 366 * 8, 400 * 8),
    ] {
        let worth = worth(&session, query).await.unwrap();
        assert!((least..=most).contains(&worth), "{query}: {worth}");
    }
}

#[tokio::test]
async fn rows_that_nobody_can_count_make_a_loop_unknown() {
    let (session, _directory) = session().await;
    assert_eq!(worth(&session, "SELECT a.k, b.k FROM packed AS a, csv AS b").await, None);
    let own = "SELECT k, table_name FROM csv, information_schema.tables";
    assert_eq!(worth(&session, own).await, None);
    let packed = worth(&session, "SELECT DISTINCT k FROM packed").await.unwrap();
    assert!((1..10_000).contains(&packed), "{packed}");
    // One row, whatever it is made of.
    let count = "SELECT k FROM csv, (SELECT count(DISTINCT k) AS n FROM packed) AS c WHERE k < n";
    assert!(worth(&session, count).await.is_some());
}

#[test]
fn steps_are_counted_from_above() {
    assert_eq!(steps(1, 10, 1), Some(10));
    assert_eq!(steps(1, 10, 3), Some(4));
    assert_eq!(steps(10, 1, -3), Some(4));
    assert_eq!(steps(10, 1, 1), Some(0));
    assert_eq!(steps(5, 5, -1), Some(1));
    assert_eq!(steps(5, 6, 0), None);
    assert_eq!(steps(i64::MIN, i64::MAX, 1), None);
    let step =
        |months, days, nanoseconds| step_of(IntervalMonthDayNano { months, days, nanoseconds });
    assert_eq!(step(0, 0, 5), Some(5));
    assert_eq!(step(0, -1, 0), Some(-DAY));
    assert_eq!(step(1, -1, 0), None);
    assert_eq!(step(1, 1, 1), Some(MONTH + DAY + 1));
}
