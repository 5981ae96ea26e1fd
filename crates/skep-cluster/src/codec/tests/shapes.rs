//! Statements of many shapes: every stage of them goes to bytes and back, and answers as before.

use std::fs;
use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlanProperties;
use tempfile::TempDir;

use crate::codec::stage::{difference, write};
use crate::codec::{decode_stage, encode_stage};
use crate::stage_planner::tests::traps::{Joins, tables};
use crate::stage_planner::tests::{LocalRun, Order, assert_same};
use crate::stage_planner::{Place, Stage};

const ANY: Order = Order::Any;
const KEPT: Order = Order::Kept;

async fn assert_answers(statements: &[&str], queries: &[(&str, Order)]) {
    let (mut run, _directory) = tables(3, Joins::Partitioned).await;
    for statement in statements {
        run.command(statement).await;
    }
    for (query, order) in queries {
        assert_same(&mut run, query, *order).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_travel() {
    assert_answers(
        &[],
        &[
            ("SELECT CASE WHEN k > 3 THEN 'a' WHEN k IS NULL THEN NULL ELSE g END, k IN (1, 2, NULL) FROM big", ANY),
            ("SELECT g LIKE 'v%', g NOT LIKE '_1', g ILIKE 'V2', g ~ '^v[12]$', g SIMILAR TO 'v(1|2)' FROM big", ANY),
            ("SELECT v + 1, v - k, v * 2, v / 3, v % 5, -v, abs(-v), power(v, 2) FROM big", ANY),
            ("SELECT CAST(v AS DECIMAL(20, 3)) * 1.5, CAST(v AS DOUBLE) / 3, TRY_CAST(g AS INT) FROM big", ANY),
            ("SELECT DATE '2020-01-31' + INTERVAL '1' MONTH, TIMESTAMP '2020-01-01 10:00:00' + CASE WHEN v > 9 THEN INTERVAL '1' HOUR ELSE INTERVAL '3 days' END FROM s JOIN big USING (k)", ANY),
            ("SELECT TIMESTAMP WITH TIME ZONE '2020-01-01 10:00:00+02', date_trunc('month', DATE '2020-03-04'), extract(dow FROM DATE '2020-03-04'), k FROM big", ANY),
            ("SELECT [v, k], {'a': v, 'b': g}, map(['x'], [v]), [v, k][1] FROM big", ANY),
            ("SELECT upper(g), substr(g, 2), concat(g, '-', v), coalesce(g, 'x'), nullif(k, 3), regexp_replace(g, 'v', 'w') FROM big", ANY),
            ("SELECT l.k IS DISTINCT FROM 3, l.k IS NULL, NOT (l.k > 3 AND v < 100 OR g = 'v1'), l.k BETWEEN 2 AND 5 FROM l JOIN big USING (k)", ANY),
            ("SELECT X'0102', NULL, 1::TINYINT, 2.5::REAL, arrow_cast(g, 'Dictionary(Int32, Utf8)') FROM big", ANY),
            ("SELECT * FROM big WHERE arrow_cast(g, 'Dictionary(Int32, Utf8)') IN ('v1', 'v2') AND v IN (4, 5, 6, 7, 8, 9)", ANY),
            ("SELECT array_transform([v, k], x -> x + 1) FROM big", ANY),
            ("SELECT to_timestamp('2020-01-01T00:00:00'), to_timestamp(v) FROM big", ANY),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_travel() {
    assert_answers(
        &[],
        &[
            ("SELECT k, round(stddev(v), 6), round(corr(v, v * v), 6), median(v), approx_distinct(v), string_agg(g, ',' ORDER BY g) FROM big GROUP BY k", ANY),
            ("SELECT k, count(*) FILTER (WHERE v > 100), sum(DISTINCT v) FROM big GROUP BY k", ANY),
            ("SELECT k, first_value(v ORDER BY v DESC), nth_value(v, 2 ORDER BY v), array_agg(DISTINCT g ORDER BY g) FROM big GROUP BY k", ANY),
            ("SELECT DISTINCT g FROM big ORDER BY g LIMIT 3", KEPT),
            ("SELECT k, max(v) AS m FROM big GROUP BY k ORDER BY m DESC LIMIT 2", KEPT),
            ("SELECT grouping(k), k, g, count(*) FROM big GROUP BY ROLLUP (k, g)", ANY),
            ("SELECT * FROM l NATURAL FULL JOIN r", ANY),
            ("SELECT * FROM l JOIN r ON l.k IS NOT DISTINCT FROM r.k", ANY),
            ("SELECT k FROM l INTERSECT ALL SELECT k FROM r", ANY),
            ("SELECT count(*) FROM l JOIN r ON l.k = r.k", ANY),
            ("SELECT a FROM l WHERE EXISTS (SELECT 1 FROM r WHERE r.k = l.k) AND k > (SELECT min(k) FROM s)", ANY),
            ("SELECT unnest([1, NULL, 3]), unnest([[k], []]), k FROM s", ANY),
            ("SELECT unnest({'a': k, 'b': 2}), k FROM s", ANY),
            ("SELECT count(*) FROM generate_series(1, 10) JOIN s ON true", ANY),
            ("SELECT count(*) FROM generate_series(TIMESTAMP '2020-01-01', TIMESTAMP '2020-03-01', INTERVAL '1' DAY) JOIN s ON true", ANY),
            ("SELECT count(*) FROM range(DATE '2020-01-01', DATE '2020-03-01', INTERVAL '1' MONTH) JOIN s ON true", ANY),
            ("SELECT count(*) FROM big WHERE k > 3 GROUP BY GROUPING SETS ((), ())", ANY),
            ("SELECT k FROM big UNION ALL SELECT 7 UNION ALL SELECT NULL ORDER BY k", KEPT),
            ("SELECT count(*) FROM (SELECT max(v) AS m FROM big) AS q WHERE (SELECT min(a) FROM l) = 99", ANY),
            ("SELECT i, k FROM generate_series(30, 1, -7) t(i) JOIN s ON i > k ORDER BY i, k", KEPT),
            ("SELECT t, k FROM generate_series(TIMESTAMP '2020-01-01', TIMESTAMP '2020-01-03', INTERVAL '1' DAY) x(t) CROSS JOIN s", ANY),
            ("SELECT t, k FROM range(DATE '2020-01-01', DATE '2020-01-03', INTERVAL '1' DAY) x(t) CROSS JOIN s", ANY),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_travel() {
    assert_answers(
        &[],
        &[
            ("SELECT k, v, lag(CASE WHEN v % 3 = 0 THEN NULL ELSE v END) IGNORE NULLS OVER (PARTITION BY k ORDER BY v) FROM big", ANY),
            ("SELECT k, v, last_value(CASE WHEN v % 3 = 0 THEN NULL ELSE v END) IGNORE NULLS OVER (PARTITION BY k ORDER BY v) FROM big", ANY),
            ("SELECT k, v, first_value(v) OVER (PARTITION BY k ORDER BY v), last_value(v) OVER (PARTITION BY k ORDER BY v DESC), \
              lead(v, 2, 0) OVER (PARTITION BY k ORDER BY v DESC), nth_value(v, 2) OVER (PARTITION BY k ORDER BY v) FROM big", ANY),
            ("SELECT k, v, sum(v) OVER (PARTITION BY k ORDER BY v ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING), \
              avg(v) OVER (PARTITION BY k ORDER BY v RANGE BETWEEN 50 PRECEDING AND CURRENT ROW), \
              count(*) OVER (PARTITION BY k ORDER BY g GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING) FROM big", ANY),
            ("SELECT k, v, sum(v) FILTER (WHERE v % 2 = 0) OVER (PARTITION BY k ORDER BY v) FROM big", ANY),
            ("SELECT k, v, ntile(3) OVER (PARTITION BY k ORDER BY v), cume_dist() OVER (PARTITION BY k ORDER BY v), \
              percent_rank() OVER (PARTITION BY k ORDER BY v), dense_rank() OVER (PARTITION BY k ORDER BY g) FROM big", ANY),
            ("SELECT k, v, array_agg(v) OVER (PARTITION BY k ORDER BY v ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) FROM big", ANY),
        ],
    )
    .await;
    assert_answers(
        &["SET datafusion.optimizer.enable_window_topn = true"],
        &[
            ("SELECT * FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v) n FROM big) WHERE n <= 2", ANY),
            ("SELECT * FROM (SELECT k, v, rank() OVER (PARTITION BY k ORDER BY g) n FROM big) WHERE n <= 2", ANY),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_reach_the_tasks() {
    let query = "SELECT k, CAST(TIMESTAMP '2020-01-01 00:00:00' AS TIMESTAMP WITH TIME ZONE), \
                 date_part('hour', to_timestamp('2020-01-01T12:00:00')) FROM big";
    for zone in ["Asia/Tokyo", "+00:00"] {
        let set = format!("SET datafusion.execution.time_zone = '{zone}'");
        let small = "SET datafusion.execution.batch_size = 7";
        assert_answers(&[&set, small], &[(query, ANY)]).await;
    }
}

/// Tables of one column or two in every format.
async fn formats() -> (LocalRun, TempDir) {
    let (run, _) = tables(3, Joins::Collected).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let plain: String = (0..4000).map(|i| format!("{i};'x;{i}'\r")).collect();
    fs::write(path.join("dialect.csv"), plain).unwrap();
    let array: Vec<String> =
        (0..6000).map(|i| format!("{{\"a\": {i}, \"b\": \"x{i}\"}}")).collect();
    fs::write(path.join("array.json"), format!("[{}]", array.join(",\n"))).unwrap();
    let path = path.display();
    let rows = "SELECT i AS a, 'x' || CAST(i AS VARCHAR) AS b FROM generate_series(1, 6000) t(i)";
    for (file, options) in [
        ("plain.csv", ""),
        ("packed.csv.gz", ""),
        ("lines.json", ""),
        ("packed.json.zst", ""),
        ("file.arrow", ""),
        ("file.avro", ""),
        ("file.parquet", ""),
    ] {
        if file.ends_with("avro") {
            continue;
        }
        run.command(&format!("COPY ({rows}) TO '{path}/{file}' {options}")).await;
    }
    run.command(&format!(
        "COPY (SELECT i AS a, i % 3 AS p FROM generate_series(1, 60) t(i)) TO '{path}/parts' \
         STORED AS PARQUET PARTITIONED BY (p)"
    ))
    .await;
    run.command(&format!(
        "CREATE EXTERNAL TABLE dialect (a BIGINT, b VARCHAR) STORED AS CSV LOCATION '{path}/dialect.csv' \
         OPTIONS ('format.delimiter' ';', 'format.quote' '''', 'format.has_header' 'false', \
         'format.terminator' '\r')"
    ))
    .await;
    for (table, file) in [
        ("plain", "plain.csv"),
        ("packed", "packed.csv.gz"),
        ("lines", "lines.json"),
        ("packed_lines", "packed.json.zst"),
        ("arr", "array.json"),
        ("arrow_file", "file.arrow"),
        ("parquet_file", "file.parquet"),
        ("parts", "parts"),
    ] {
        run.command(&format!("CREATE TEMPORARY VIEW {table} AS SELECT * FROM '{path}/{file}'"))
            .await;
    }
    (run, directory)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_format_travel() {
    let (mut run, _directory) = formats().await;
    for table in
        ["plain", "packed", "lines", "packed_lines", "arr", "arrow_file", "parquet_file", "dialect"]
    {
        for query in [
            format!("SELECT * FROM {table}"),
            format!("SELECT count(*) FROM {table}"),
            format!("SELECT b, sum(a) FROM {table} WHERE a > 17 AND b <> 'x20' GROUP BY b"),
            format!("SELECT a FROM {table} ORDER BY a DESC LIMIT 5"),
        ] {
            assert_same(&mut run, &query, ANY).await;
        }
    }
    for query in ["SELECT p, sum(a) FROM parts GROUP BY p", "SELECT * FROM parts WHERE p = 1"] {
        assert_same(&mut run, query, ANY).await;
    }
    run.command("SET datafusion.execution.parquet.pushdown_filters = true").await;
    let query = "SELECT b FROM parquet_file WHERE a BETWEEN 17 AND 25 AND b LIKE 'x%'";
    assert_same(&mut run, query, ANY).await;
}

async fn stages(run: &LocalRun, query: &str) -> (Arc<TaskContext>, Vec<Stage>) {
    let (state, _) = run.whole(query).await;
    (state.task_ctx(), run.stages(query).await.stages)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_claims_what_it_claimed() {
    let (run, _directory) = tables(4, Joins::Partitioned).await;
    let mut count = 0;
    for query in [
        "SELECT k, v FROM big WHERE g = 'v1' ORDER BY k, v",
        "SELECT k, g, count(*) FROM big WHERE k = v GROUP BY k, g ORDER BY k",
        "SELECT x.k, y.a FROM (SELECT k, max(v) m FROM big GROUP BY k) x JOIN l y ON x.k = y.k ORDER BY x.k",
    ] {
        let (context, stages) = stages(&run, query).await;
        for stage in stages.iter().filter(|stage| !matches!(stage.place, Place::Coordinator { .. }))
        {
            let encoded = encode_stage(stage, &context).unwrap();
            let decoded = decode_stage(&encoded.program, &context).unwrap();
            let mut pairs = vec![(Arc::clone(&stage.plan), Arc::clone(&decoded.plan))];
            while let Some((before, after)) = pairs.pop() {
                assert_eq!(before.name(), after.name());
                assert_eq!(before.schema(), after.schema());
                assert_eq!(before.output_ordering(), after.output_ordering(), "{query}");
                let partitioning = |plan: &Arc<dyn datafusion::physical_plan::ExecutionPlan>| {
                    plan.output_partitioning().to_string()
                };
                assert_eq!(partitioning(&before), partitioning(&after), "{query}");
                let equivalence = |plan: &Arc<dyn datafusion::physical_plan::ExecutionPlan>| {
                    plan.equivalence_properties().to_string()
                };
                assert_eq!(equivalence(&before), equivalence(&after), "{query}");
                assert_eq!(before.properties().emission_type, after.properties().emission_type);
                assert_eq!(before.boundedness(), after.boundedness());
                let children = before.children().into_iter().cloned();
                pairs.extend(children.zip(after.children().into_iter().cloned()));
                count += 1;
            }
        }
    }
    assert!(count > 20, "{count}");
}

/// The stack of the server's threads: deep plans recurse deeply, and more so without optimisation.
const STACK_BYTES: usize = 64 << 20;

#[test]
fn deep_plans_and_expressions_travel() {
    let sum = (0..150).fold("v".to_owned(), |sum, i| format!("({sum} - {} * k)", i % 3));
    let case = (0..40).fold("0".to_owned(), |case, i| {
        format!("CASE WHEN v = {i} THEN {i} WHEN k = {i} THEN 7 ELSE {case} END")
    });
    let nested = (0..60).fold("SELECT k, v FROM big".to_owned(), |query, i| {
        format!("SELECT k, max(v) + {i} AS v FROM ({query}) GROUP BY k")
    });
    let queries = [format!("SELECT {sum} FROM big"), format!("SELECT {case} FROM big"), nested];
    let body = move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.thread_stack_size(STACK_BYTES).enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut run, _directory) = tables(2, Joins::Collected).await;
            run.command("SET datafusion.sql_parser.recursion_limit = 1000").await;
            for query in queries {
                assert_same(&mut run, &query, ANY).await;
            }
        });
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(body).unwrap();
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stage_lost_is_noticed() {
    let (run, _directory) = tables(3, Joins::Partitioned).await;
    let mut known = Vec::new();
    for query in [
        "SELECT v FROM big WHERE v > 3",
        "SELECT v FROM big WHERE v > 4",
        "SELECT v FROM big LIMIT 4",
        "SELECT v FROM big LIMIT 5",
        "SELECT v + 1 AS v FROM big",
        "SELECT v FROM big ORDER BY v LIMIT 4",
        "SELECT v FROM big ORDER BY v DESC LIMIT 4",
        "SELECT v FROM big ORDER BY k, v LIMIT 4",
        "SELECT a AS v FROM l",
    ] {
        let (context, stages) = stages(&run, query).await;
        known.extend(stages.into_iter().take(1).map(|stage| (query, stage, Arc::clone(&context))));
    }
    for (query, stage, context) in &known {
        for (other_query, other, _) in &known {
            let program = write(&other.plan, &stage.output, stage.task_count).unwrap();
            let difference = difference(stage, &decode_stage(&program, context).unwrap());
            let is_same = query == other_query;
            assert_eq!(difference.is_none(), is_same, "{query}, {other_query}: {difference:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_travel_says_so() {
    let (run, _directory) = tables(3, Joins::Collected).await;
    let query = "SELECT v FROM big OFFSET 5000000000";
    let (context, stages) = stages(&run, query).await;
    let errors: Vec<_> =
        stages.iter().filter_map(|stage| encode_stage(stage, &context).err()).collect();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().contains("a limit of 5000000000 rows does not travel"));
    // A window with a FILTER is kept at home by the planner.
    let query = "SELECT k, sum(v) FILTER (WHERE v % 2 = 0) OVER (PARTITION BY k) FROM big";
    let (_, stages) = self::stages(&run, query).await;
    let last = stages.last().unwrap();
    assert!(
        matches!(&last.place, Place::Coordinator { why } if why.contains("FILTER")),
        "{:?}",
        last.place
    );
    assert!(decode_stage(b"no stage", &context).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secrets_of_settings_are_in_the_bytes_alone() {
    let (run, _directory) = tables(3, Joins::Collected).await;
    run.command("SET s3.secret_access_key = 'hush'").await;
    let (context, stages) = stages(&run, "SELECT * FROM big").await;
    let encoded = encode_stage(&stages[0], &context).unwrap();
    let has = |bytes: &[u8]| bytes.windows(4).any(|window| window == b"hush");
    assert!(has(&encoded.settings) && !has(&encoded.program));
    assert!(!format!("{encoded:?}").contains("hush"));
}
