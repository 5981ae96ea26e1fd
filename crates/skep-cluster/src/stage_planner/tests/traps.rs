//! Queries that a careless cut answers wrongly, or never.

use tempfile::TempDir;

use super::{LocalRun, Order, assert_same};

/// How joins are made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Joins {
    Collected,
    Partitioned,
}

/// Tables of several small files, so that a scan has several partitions.
///
/// `l` and `r` share some keys and hold NULLs; `s` has no NULL; `big` has 900 rows; `none` has no
/// rows and `one` has one.
pub(crate) async fn tables(target_partitions: usize, joins: Joins) -> (LocalRun, TempDir) {
    let run = LocalRun::new(target_partitions).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    let write = |table: &'static str, part: usize, rows: String| {
        let statement = format!("COPY ({rows}) TO '{path}/{table}/{part}.parquet'");
        std::fs::create_dir_all(format!("{path}/{table}")).unwrap();
        statement
    };
    for part in 0..4 {
        let l = format!(
            "SELECT CASE WHEN i % 5 = 0 THEN NULL ELSE i % 13 + {part} END AS k, \
             i * 10 + {part} AS a FROM generate_series(1, 20) t(i)"
        );
        let r = format!(
            "SELECT CASE WHEN i % 7 = 0 THEN NULL ELSE i % 11 + 2 * {part} END AS k, \
             'r' || CAST(i AS VARCHAR) || '{part}' AS b FROM generate_series(1, 25) t(i)"
        );
        let s = format!("SELECT i + {part} AS k, i AS c FROM generate_series(4, 9) t(i)");
        let big = format!(
            "SELECT i % 40 AS k, i * 4 + {part} AS v, 'v' || CAST(i % 7 AS VARCHAR) AS g \
             FROM generate_series(1, 225) t(i)"
        );
        for (table, rows) in [("l", l), ("r", r), ("s", s), ("big", big)] {
            run.command(&write(table, part, rows)).await;
        }
    }
    run.command(&write("none", 0, "SELECT 1 AS k, 2 AS d WHERE false".to_owned())).await;
    run.command(&write("one", 0, "SELECT 5 AS k, 2 AS e".to_owned())).await;
    for table in ["l", "r", "s", "big", "none", "one"] {
        run.command(&format!(
            "CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{path}/{table}/'"
        ))
        .await;
    }
    if let Joins::Partitioned = joins {
        for setting in ["threshold", "threshold_rows"] {
            let setting = format!("datafusion.optimizer.hash_join_single_partition_{setting}");
            run.command(&format!("SET {setting} = 0")).await;
        }
    }
    (run, directory)
}

/// Asserts that queries answer the same in stages at every width, however joins are made.
async fn assert_traps(queries: &[(&str, Order)]) {
    for target_partitions in [1, 3, 16] {
        for joins in [Joins::Collected, Joins::Partitioned] {
            let (mut run, _directory) = tables(target_partitions, joins).await;
            for (query, order) in queries {
                assert_same(&mut run, query, *order).await;
            }
        }
    }
}

const ANY: Order = Order::Any;
const KEPT: Order = Order::Kept;

#[tokio::test(flavor = "multi_thread")]
async fn scans_read_each_file_once() {
    assert_traps(&[
        ("SELECT * FROM big", ANY),
        ("SELECT count(*), sum(v), min(k), max(g) FROM big", ANY),
        ("SELECT k, v FROM big WHERE v % 3 = 0", ANY),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_give_each_row_once() {
    assert_traps(&[
        ("SELECT * FROM l JOIN r ON l.k = r.k", ANY),
        ("SELECT * FROM l LEFT JOIN r ON l.k = r.k", ANY),
        ("SELECT * FROM l RIGHT JOIN r ON l.k = r.k", ANY),
        ("SELECT * FROM l FULL JOIN r ON l.k = r.k", ANY),
        ("SELECT * FROM one FULL JOIN big ON one.k = big.k", ANY),
        ("SELECT * FROM one LEFT JOIN big ON one.k = big.k AND big.v > 700", ANY),
        ("SELECT * FROM l LEFT SEMI JOIN big ON l.k = big.k", ANY),
        ("SELECT * FROM l LEFT ANTI JOIN big ON l.k = big.k", ANY),
        ("SELECT * FROM l RIGHT SEMI JOIN big ON l.k = big.k", ANY),
        ("SELECT * FROM l RIGHT ANTI JOIN big ON l.k = big.k", ANY),
        ("SELECT * FROM l FULL JOIN r ON l.k = r.k AND l.a > 100", ANY),
        ("SELECT k, a, EXISTS (SELECT 1 FROM big WHERE big.k = l.k) OR a > 150 FROM l", ANY),
        ("SELECT v FROM big WHERE k IN (SELECT k FROM l) OR v < 30", ANY),
        ("SELECT g, count(*) FROM l JOIN big ON l.k = big.k JOIN r ON r.k = l.k GROUP BY g", ANY),
        // A join whose partitions a narrowed task still has below it, and runs one of.
        (
            "SELECT * FROM one JOIN (SELECT b.k, unnest([b.v, 1]) AS u FROM s JOIN big b ON s.k = b.k) \
             x ON one.k = x.k",
            ANY,
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_without_keys_give_each_row_once() {
    assert_traps(&[
        ("SELECT * FROM l CROSS JOIN s", ANY),
        ("SELECT * FROM l JOIN s ON l.k < s.k", ANY),
        ("SELECT * FROM l LEFT JOIN s ON l.k < s.k", ANY),
        ("SELECT * FROM s LEFT JOIN l ON l.k < s.k AND l.a > 170", ANY),
        ("SELECT * FROM l RIGHT JOIN s ON l.k < s.k", ANY),
        ("SELECT * FROM l FULL JOIN s ON l.k < s.k - 3", ANY),
        ("SELECT * FROM l LEFT SEMI JOIN s ON l.k > s.k", ANY),
        ("SELECT * FROM l LEFT ANTI JOIN s ON l.k > s.k", ANY),
        ("SELECT * FROM one LEFT ANTI JOIN big ON one.k > big.k + 100", ANY),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn not_in_sees_every_null() {
    assert_traps(&[
        ("SELECT a FROM l WHERE k NOT IN (SELECT k FROM r)", ANY),
        ("SELECT a FROM l WHERE k NOT IN (SELECT k FROM s)", ANY),
        ("SELECT a FROM l WHERE k NOT IN (SELECT d FROM none)", ANY),
        ("SELECT a FROM l WHERE k IN (SELECT k FROM r) OR a = 10", ANY),
        ("SELECT e FROM one WHERE k NOT IN (SELECT k FROM big WHERE v < 0)", ANY),
        ("SELECT e FROM one WHERE k NOT IN (SELECT CASE WHEN v = 500 THEN NULL ELSE v + 9 END FROM big)", ANY),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unions_keep_their_partitions_apart() {
    assert_traps(&[
        ("SELECT k FROM l UNION ALL SELECT k FROM r", ANY),
        ("SELECT k FROM l UNION SELECT k FROM r", ANY),
        ("SELECT k FROM l INTERSECT SELECT k FROM r", ANY),
        ("SELECT k FROM l EXCEPT SELECT k FROM r", ANY),
        (
            "SELECT k, count(*) FROM big GROUP BY k UNION ALL SELECT k, sum(a) FROM l GROUP BY k \
             UNION ALL SELECT max(k), 0 FROM r UNION ALL SELECT 7, 7",
            ANY,
        ),
        (
            "SELECT k, sum(n) FROM (SELECT k, count(*) AS n FROM big GROUP BY k UNION ALL \
             SELECT k, count(*) FROM l GROUP BY k) GROUP BY k",
            ANY,
        ),
        (
            "SELECT u.k, b.v FROM (SELECT k FROM l UNION ALL SELECT k FROM s ORDER BY k LIMIT 9) u \
             JOIN big b ON u.k = b.k",
            ANY,
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_count_the_rows_of_all_tasks() {
    assert_traps(&[
        ("SELECT count(*) FROM (SELECT v FROM big LIMIT 100)", ANY),
        ("SELECT count(*) FROM (SELECT v FROM big LIMIT 100 OFFSET 850)", ANY),
        ("SELECT count(*) FROM (SELECT v FROM big WHERE v > 20 OFFSET 37)", ANY),
        ("SELECT count(*) FROM (SELECT k FROM l UNION ALL SELECT k FROM r LIMIT 33)", ANY),
        ("SELECT v FROM big ORDER BY v LIMIT 7", KEPT),
        ("SELECT v FROM big ORDER BY v DESC LIMIT 7 OFFSET 5", KEPT),
        ("SELECT k, v FROM big ORDER BY k, v", KEPT),
        ("SELECT k, sum(v) AS t FROM big GROUP BY k ORDER BY t DESC, k LIMIT 3", KEPT),
        ("SELECT count(*) FROM (SELECT v FROM big LIMIT 0)", ANY),
        ("SELECT count(*) FROM (SELECT * FROM big LIMIT 5) b JOIN l ON true", ANY),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_and_groups_see_all_their_rows() {
    assert_traps(&[
        ("SELECT v, row_number() OVER (ORDER BY v) FROM big", ANY),
        ("SELECT v, sum(v) OVER () FROM big", ANY),
        ("SELECT k, v, rank() OVER (PARTITION BY k ORDER BY v) FROM big", ANY),
        ("SELECT k, v, lag(v) OVER (PARTITION BY k ORDER BY v DESC) FROM big ORDER BY k, v", KEPT),
        ("SELECT * FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v) n FROM big) WHERE n <= 2", ANY),
        ("SELECT k, g, count(*), sum(v) FROM big GROUP BY GROUPING SETS ((k), (g), (k, g), ())", ANY),
        ("SELECT g, k % 3, count(*) FROM big GROUP BY CUBE (g, k % 3)", ANY),
        ("SELECT count(DISTINCT k), count(DISTINCT g), sum(v) FROM big", ANY),
        ("SELECT g, count(DISTINCT k), avg(v) FROM big GROUP BY g", ANY),
        ("SELECT DISTINCT k FROM big", ANY),
        ("SELECT DISTINCT ON (k) k, v FROM big ORDER BY k, v DESC", KEPT),
        ("SELECT min(v), max(v) FROM big", ANY),
        ("SELECT k, array_agg(v ORDER BY v) FROM big GROUP BY k", ANY),
        ("SELECT first_value(v ORDER BY v), last_value(v ORDER BY v) FROM big", ANY),
        ("SELECT k, unnest([v, -v]) FROM big WHERE k < 3", ANY),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recursion_runs_whole() {
    assert_traps(&[
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50) SELECT i FROM n", ANY),
        (
            "WITH RECURSIVE n(i) AS (SELECT min(k) FROM s UNION SELECT s.k FROM n JOIN s ON s.k = n.i + 1) \
             SELECT n.i, v FROM n JOIN big ON big.k = n.i",
            ANY,
        ),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) \
             SELECT i FROM n UNION ALL SELECT k FROM l",
            ANY,
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scalar_subqueries_reach_every_stage() {
    assert_traps(&[
        ("SELECT v FROM big WHERE v > (SELECT avg(v) FROM big)", ANY),
        ("SELECT k, count(*) FROM big WHERE v > (SELECT max(a) FROM l) GROUP BY k", ANY),
        ("SELECT k, sum(v) + (SELECT count(*) FROM r) FROM big GROUP BY k HAVING sum(v) > (SELECT avg(v) FROM big)", ANY),
        ("SELECT l.a, big.v FROM l JOIN big ON l.k = big.k WHERE l.a > (SELECT min(c) FROM s) AND big.v > (SELECT max(c) FROM s)", ANY),
        ("SELECT (SELECT max(v) FROM big WHERE k > (SELECT min(k) FROM s)), a FROM l", ANY),
        ("SELECT a, (SELECT d FROM none) FROM l", ANY),
        ("SELECT a, (SELECT count(*) FROM big WHERE big.k = l.k) FROM l", ANY),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_and_single_inputs_are_inputs() {
    assert_traps(&[
        ("SELECT count(*), sum(d) FROM none", ANY),
        ("SELECT k, count(*) FROM none GROUP BY k", ANY),
        ("SELECT * FROM none LEFT JOIN big ON none.k = big.k", ANY),
        ("SELECT * FROM none RIGHT JOIN l ON none.k = l.k", ANY),
        ("SELECT * FROM none FULL JOIN one ON none.k = one.k", ANY),
        ("SELECT * FROM one JOIN big ON one.k = big.k ORDER BY v", KEPT),
        ("SELECT * FROM none ORDER BY d LIMIT 3", KEPT),
        ("SELECT 1 AS a", ANY),
        ("SELECT * FROM (VALUES (1, 'x'), (2, 'y')) t(k, n) JOIN big ON t.k = big.k", ANY),
        ("SELECT * FROM (VALUES (1, 'x'), (2, 'y')) t(k, n) LEFT JOIN big ON t.k = big.k", ANY),
        ("SELECT k, count(*) FROM (SELECT k FROM big UNION ALL VALUES (1), (1000)) GROUP BY k", ANY),
        ("SELECT table_name, k FROM information_schema.tables JOIN s ON length(table_name) = s.k", ANY),
        ("SELECT i, v FROM generate_series(1, 30) t(i) JOIN big ON t.i = big.k", ANY),
    ])
    .await;
}
