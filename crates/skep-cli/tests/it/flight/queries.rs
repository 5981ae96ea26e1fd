//! Statements, their announced columns and their tickets.

use std::sync::Arc;

use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::sql::{
    CommandPreparedStatementQuery, DoPutPreparedStatementResult, ProstMessageExt,
};
use arrow_flight::{FlightDescriptor, FlightInfo, Ticket};
use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use datafusion::arrow::datatypes::{DataType, Schema};
use futures::{TryStreamExt, stream};
use prost::Message;
use skep_testkit::tpch::{self, DataSet, QUERY_COUNT, TABLES};
use tonic::Code;

use super::{
    Client, anonymous, connect, error_info, fetch, handle_of, refused, rendered, rows, schema_of,
    statement, status, update, value, with_token,
};
use crate::role::{Coordinator, Role};

/// Queries whose physical columns differ from the logical ones, or have types that drivers do not
/// take.
const SHAPES: [&str; 24] = [
    "SELECT 1 AS x",
    "SELECT NULL AS n",
    "SELECT count(*) AS c FROM '{parquet}'",
    "SELECT min(s) AS a, max(n) AS b FROM '{parquet}'",
    "SELECT * FROM '{parquet}'",
    "SELECT * FROM '{parquet}' WHERE n > 1000",
    "SELECT s, count(*) AS c FROM '{parquet}' GROUP BY s ORDER BY s",
    "SELECT 1 AS a, 2 AS a",
    "SELECT arrow_cast('x', 'Dictionary(Int32, Utf8)') AS d, arrow_cast('y', 'Utf8View') AS v",
    "SELECT arrow_cast('z', 'BinaryView') AS b, make_array(arrow_cast('y', 'Utf8View')) AS l",
    "SELECT named_struct('a', arrow_cast('y', 'Utf8View')) AS s",
    "SELECT a.n, b.s FROM '{parquet}' a LEFT JOIN '{parquet}' b ON a.n = b.n + 1",
    "SELECT map(['k'], [arrow_cast('y', 'Utf8View')]) AS m",
    "SELECT arrow_cast(['a', 'b'], 'FixedSizeList(2, Utf8View)') AS f",
    "SELECT arrow_cast(['a', 'b'], 'LargeList(Utf8View)') AS l",
    "SELECT arrow_cast(['a'], 'List(Dictionary(Int32, Utf8))') AS l",
    "SELECT [named_struct('a', map(['k'], [arrow_cast('y', 'Utf8View')]))] AS deep",
    "SELECT arrow_cast('1', 'LargeUtf8') AS x, arrow_cast(X'00', 'FixedSizeBinary(1)') AS y",
    "SELECT CAST(1.5 AS DECIMAL(10, 2)) AS d, INTERVAL '1 month' AS i, TIME '10:00' AS t, \
     TIMESTAMP '2026-01-01T00:00:00' AS ts, now() AS z, DATE '2026-01-01' AS dt, X'00ff' AS b",
    "SELECT s FROM '{parquet}' UNION ALL SELECT NULL",
    "SELECT s, row_number() OVER (PARTITION BY s ORDER BY n) AS r FROM '{parquet}'",
    "SHOW TABLES",
    "DESCRIBE SELECT 1",
    "EXPLAIN SELECT 1",
];

/// Queries with a number and a text for their parameters.
const BOUND: [&str; 5] = [
    "SELECT $1 AS n, $2 AS t",
    "SELECT s, $2 AS t FROM '{parquet}' WHERE n > $1",
    "SELECT s || $2 AS t, count(*) AS c FROM '{parquet}' WHERE n > $1 GROUP BY s",
    "SELECT [$1] AS l, named_struct('t', $2) AS s",
    "SELECT coalesce(s, $2) AS t, n + $1 AS m FROM '{parquet}' ORDER BY n LIMIT 5",
];

#[tokio::test]
async fn the_announced_columns_are_those_of_every_batch() {
    let directory = tempfile::tempdir().unwrap();
    let parquet = directory.path().join("t.parquet");
    let parquet = parquet.to_str().unwrap();
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    let copy = format!(
        "COPY (SELECT value AS n, CAST(value % 3 AS VARCHAR) AS s, 1 AS k \
         FROM generate_series(1, 100)) TO '{parquet}'"
    );
    assert_eq!(update(&mut client, &copy).await, 100);
    for shape in SHAPES {
        let sql = shape.replace("{parquet}", parquet);
        let info = client.execute(sql.clone(), None).await.unwrap();
        // fetch compares the batches.
        let (schema, _) = fetch(&mut client, info).await.unwrap();
        assert!(schema.fields().iter().all(|field| is_plain(field.data_type())), "{schema:?}");
        // So do GetSchema and the prepared statement, which do not run it.
        let described = schema_of(&mut client, &statement(&sql)).await.unwrap();
        assert_eq!(&described, schema.as_ref(), "{sql}");
        let prepared = client.prepare(sql.clone(), None).await.unwrap();
        assert_eq!(prepared.dataset_schema().unwrap(), schema.as_ref(), "{sql}");
        let handle = handle_of(&mut client, &sql).await;
        compare_prepared(&mut client, handle, &schema).await;
    }
    for shape in BOUND {
        let sql = shape.replace("{parquet}", parquet);
        let columns: [ArrayRef; 2] = [
            Arc::new(Int64Array::from(vec![7])),
            Arc::new(StringViewArray::from(vec!["a text that is too long to be in a view"])),
        ];
        let values = RecordBatch::try_from_iter(["n", "t"].into_iter().zip(columns)).unwrap();
        let handle = handle_of(&mut client, &sql).await;
        let handle = bound(&mut client, handle, values).await;
        let command = CommandPreparedStatementQuery { prepared_statement_handle: handle.clone() };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let asked = with_token(&client, descriptor);
        let info = client.inner_mut().get_flight_info(asked).await.unwrap().into_inner();
        let (schema, batches) = fetch(&mut client, info).await.unwrap();
        assert!(schema.fields().iter().all(|field| is_plain(field.data_type())), "{schema:?}");
        assert_ne!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 0, "{sql}");
        compare_prepared(&mut client, handle, &schema).await;
    }
}

/// Compares the columns of a handle that is described, and fetched without being asked for first.
async fn compare_prepared(client: &mut Client, handle: Bytes, schema: &Schema) {
    let command = CommandPreparedStatementQuery { prepared_statement_handle: handle };
    assert_eq!(&schema_of(client, &command).await.unwrap(), schema);
    let mut rows = client.do_get(Ticket::new(command.as_any().encode_to_vec())).await.unwrap();
    while let Some(batch) = rows.try_next().await.unwrap() {
        assert_eq!(batch.schema().as_ref(), schema);
    }
    assert_eq!(rows.schema().map(AsRef::as_ref), Some(schema));
}

/// Puts values into a prepared statement; returns its new handle.
async fn bound(client: &mut Client, handle: Bytes, values: RecordBatch) -> Bytes {
    let command = CommandPreparedStatementQuery { prepared_statement_handle: handle };
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let messages = FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(descriptor))
        .build(stream::iter([Ok(values)]));
    let messages: Vec<_> = messages.try_collect().await.unwrap();
    let mut answers = client.do_put(stream::iter(messages)).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap().app_metadata;
    let bound = DoPutPreparedStatementResult::decode(answer).unwrap();
    bound.prepared_statement_handle.unwrap()
}

#[tokio::test]
async fn the_announced_columns_of_tpch_are_those_of_every_batch() {
    let directory = DataSet::SMALL.cached().unwrap();
    let coordinator = Coordinator::start_with_worker(&[]);
    let mut client = connect(&coordinator).await;
    for table in TABLES {
        let file = DataSet::SMALL.file(&directory, table);
        let (name, file) = (table.name(), file.display());
        let create = format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{file}'");
        update(&mut client, &create).await;
    }
    for number in 1..=QUERY_COUNT {
        let sql = tpch::query(number, DataSet::SMALL.scale);
        let info = client.execute(sql.clone(), None).await.unwrap();
        assert_eq!(info.endpoint.len(), 1, "q{number}");
        assert_eq!(info.endpoint[0].location, [], "q{number}");
        let (schema, _) = fetch(&mut client, info).await.unwrap();
        let described = schema_of(&mut client, &statement(&sql)).await.unwrap();
        assert_eq!(&described, schema.as_ref(), "q{number}");
    }
}

fn is_plain(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8View | DataType::BinaryView | DataType::Dictionary(..) => false,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => is_plain(field.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| is_plain(field.data_type())),
        _ => true,
    }
}

/// Of a cached table texts are made in the form that the client takes: in the coordinator, and where a
/// worker keeps them.
#[tokio::test]
async fn cached_texts_are_the_same_in_both_forms() {
    for coordinator in [Coordinator::start(&[]), Coordinator::start_with_worker(&[])] {
        let (mut plain, mut exact) = (connect(&coordinator).await, connect(&coordinator).await);
        exact.set_header("string_view", "true");
        let create = "CREATE TABLE kept AS SELECT \
             arrow_cast('word ' || value % 9, 'Utf8View') AS few, \
             arrow_cast('a text that no view holds, number ' || value, 'Utf8View') AS many, \
             CASE WHEN value % 5 > 0 THEN arrow_cast('s' || value, 'Utf8View') END AS short, \
             arrow_cast('b' || value, 'BinaryView') AS bytes, value AS n \
             FROM generate_series(1, 20000) AS v(value)";
        update(&mut plain, create).await;
        update(&mut plain, "CACHE TABLE kept").await;
        for sql in [
            "SELECT * FROM kept",
            "SELECT many AS a, n, few FROM kept WHERE n % 3 = 1",
            "SELECT few, short FROM kept WHERE few = 'word 4' LIMIT 700",
            "SELECT few, count(*) AS c, min(short) FROM kept GROUP BY few ORDER BY few",
            "SELECT upper(few) AS few, bytes FROM kept ORDER BY n",
        ] {
            let described = schema_of(&mut plain, &statement(sql)).await.unwrap();
            let mut answers = Vec::new();
            for client in [&mut plain, &mut exact] {
                let info = client.execute(sql.to_owned(), None).await.unwrap();
                let (schema, batches) = fetch(client, info).await.unwrap();
                let mut rows = rendered(&schema, &batches);
                rows.sort_unstable();
                answers.push((schema, rows));
            }
            let [(plain, rows), (exact, others)] = &answers[..] else { unreachable!() };
            assert_eq!(&described, plain.as_ref(), "{sql}");
            assert!(plain.fields().iter().all(|field| is_plain(field.data_type())), "{plain:?}");
            assert!(exact.fields().iter().any(|field| !is_plain(field.data_type())), "{exact:?}");
            assert_ne!(rows.len(), 0, "{sql}");
            match sql.contains("LIMIT") {
                true => assert_eq!(rows.len(), others.len(), "{sql}"),
                false => assert!(rows == others, "{sql}"),
            }
        }
    }
}

#[tokio::test]
async fn views_stay_if_the_client_takes_them() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    client.set_header("string_view", "true");
    let sql = "SELECT arrow_cast('y', 'Utf8View') AS v";
    let info = client.execute(sql.to_owned(), None).await.unwrap();
    let (schema, batches) = fetch(&mut client, info).await.unwrap();
    assert_eq!(schema.field(0).data_type(), &DataType::Utf8View);
    assert_eq!(rendered(&schema, &batches), [["y"]]);
}

#[tokio::test]
async fn a_change_is_made_once_when_it_is_asked_for_and_has_no_rows() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    for sql in ["CREATE TABLE t (x INT)", "INSERT INTO t VALUES (1), (2)", "SET TIME ZONE 'UTC'"] {
        let info: FlightInfo = client.execute(sql.to_owned(), None).await.unwrap();
        assert_eq!(info.endpoint, [], "{sql}");
        assert_eq!(info.try_decode_schema().unwrap(), Schema::empty(), "{sql}");
    }
    // Nor is it made by who asks for its columns.
    for sql in ["CREATE TABLE v (x INT)", "INSERT INTO t VALUES (3)", "DROP TABLE t"] {
        let described = schema_of(&mut client, &statement(sql)).await.unwrap();
        assert_eq!(described, Schema::empty(), "{sql}");
    }
    assert_eq!(value(&mut client, "SELECT count(*) FROM t").await, "2");
    assert_eq!(update(&mut client, "INSERT INTO t SELECT x + 2 FROM t").await, 2);
    assert_eq!(update(&mut client, "CREATE TABLE u AS SELECT * FROM t").await, 4);
    assert_eq!(update(&mut client, "DROP TABLE u").await, 0);
    assert_eq!(value(&mut client, "SELECT count(*) FROM t").await, "4");
    let asked = client.execute_update("SELECT 1".to_owned(), None).await;
    refused(asked, Code::InvalidArgument, "changes nothing");
}

#[tokio::test]
async fn a_result_is_one_endpoint_in_order_that_ends_and_can_be_read_again() {
    let coordinator = Coordinator::start_with_worker(&[]);
    let mut client = connect(&coordinator).await;
    let sql = "SELECT value AS v FROM generate_series(1, 20000) ORDER BY value DESC";
    let info = client.execute(sql.to_owned(), None).await.unwrap();
    assert!(info.ordered);
    assert_eq!(info.endpoint.len(), 1);
    assert_eq!(info.endpoint[0].location, []);
    let expires = info.endpoint[0].expiration_time.unwrap().seconds;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((1..=3600).contains(&(expires - now.as_secs() as i64)));
    let (schema, first) = fetch(&mut client, info.clone()).await.unwrap();
    let (_, second) = fetch(&mut client, info).await.unwrap();
    let first = rendered(&schema, &first);
    assert_eq!(first, rendered(&schema, &second));
    assert_eq!((first.len(), first[0][0].as_str()), (20000, "20000"));
}

#[tokio::test]
async fn a_ticket_whose_table_has_changed_is_not_found() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    update(&mut client, "CREATE TABLE t AS SELECT 1 AS x").await;
    let info = client.execute("SELECT * FROM t".to_owned(), None).await.unwrap();
    fetch(&mut client, info.clone()).await.unwrap();
    update(&mut client, "CREATE OR REPLACE TABLE t AS SELECT 'y' AS y").await;
    refused(fetch(&mut client, info).await, Code::NotFound, "other columns");
}

#[tokio::test]
async fn a_result_that_nobody_fetches_is_freed() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("skep.toml");
    let text = "[results]\nmax_pending_count = 1\nfetch_timeout = '500ms'\n";
    std::fs::write(&config, text).unwrap();
    let coordinator = Coordinator::start(&["--config", config.to_str().unwrap()]);
    let mut client = connect(&coordinator).await;
    let info = client.execute("SELECT 7 AS x".to_owned(), None).await.unwrap();
    let full = client.execute("SELECT 8 AS x".to_owned(), None).await;
    refused(full, Code::Unavailable, "too many statements");
    // Its place is free again some time later, and its ticket still good.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while let Err(error) = rows(&mut client, "SELECT 8 AS x").await {
        assert_eq!(status(error).code(), Code::Unavailable);
        assert!(std::time::Instant::now() < deadline);
    }
    let (schema, batches) = fetch(&mut client, info).await.unwrap();
    assert_eq!(rendered(&schema, &batches), [["7"]]);
}

#[tokio::test]
async fn an_error_has_a_code_that_says_whose_it_is_and_details() {
    let coordinator = Coordinator::start(&[]);
    let mut client = anonymous(&coordinator).await;
    for (sql, code, text) in [
        ("SELEC 1", Code::InvalidArgument, "syntax error"),
        ("SELECT 1 +", Code::InvalidArgument, "syntax error"),
        ("SELECT * FROM nope", Code::NotFound, "table \"nope\" not found"),
        ("SELECT nope FROM (SELECT 1 AS x) t", Code::NotFound, "\"nope\" not found"),
        ("SELECT 'a' + DATE '2026-01-01'", Code::InvalidArgument, ""),
        ("CREATE TABLE t (x INT); SELECT 1", Code::InvalidArgument, ""),
        ("SET skep.nope = 1", Code::NotFound, "setting"),
        ("DELETE FROM t", Code::Unimplemented, "DELETE"),
        ("SELECT 1 / (value - 10) FROM generate_series(1, 20)", Code::InvalidArgument, "zero"),
    ] {
        refused(rows(&mut client, sql).await, code, text);
    }
    update(&mut client, "CREATE TABLE t (x INT)").await;
    refused(rows(&mut client, "CREATE TABLE t (x INT)").await, Code::AlreadyExists, "t");
    let refused = refused(rows(&mut client, "SELECT\n  lenght('x')").await, Code::NotFound, "");
    let info = error_info(&refused);
    assert_eq!(info.reason, "NOT_FOUND");
    assert_eq!(info.metadata["position"], "line 2, column 3");
    assert!(info.metadata["hint"].contains("length"), "{info:?}");
    assert!(info.metadata["query"].starts_with('q'), "{info:?}");
    // Also where it is not run.
    let mut client = connect(&coordinator).await;
    let wrong = "SELECT lenght('x')";
    let described = schema_of(&mut client, &statement(wrong)).await.unwrap_err();
    let prepared = status(client.prepare(wrong.to_owned(), None).await.unwrap_err());
    for refused in [described, prepared] {
        let info = error_info(&refused);
        assert_eq!(
            (refused.code(), info.metadata["position"].as_str()),
            (Code::NotFound, "line 1, column 8")
        );
        assert!(info.metadata["query"].starts_with('q'), "{info:?}");
    }
}

#[tokio::test]
async fn what_needs_more_memory_than_there_is_says_so() {
    let create = "CREATE TABLE t AS SELECT value FROM generate_series(1, 10000)";
    let large = "SELECT array_length(array_agg(repeat('x', 20000) || value)) AS n FROM t";
    let count = "SELECT count(*) FROM t";
    // On the coordinator alone.
    let alone = Coordinator::start(&["--memory", "128MiB"]);
    let mut client = connect(&alone).await;
    update(&mut client, create).await;
    let refusal = refused(rows(&mut client, large).await, Code::ResourceExhausted, "memory");
    assert!(error_info(&refusal).metadata["hint"].contains("--memory"), "{refusal}");
    assert_eq!(value(&mut client, count).await, "10000");
    // On a worker.
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("skep.toml");
    let text = "[planner]\nsmall_query_bytes = 1\nmin_scan_bytes_per_task = 1024\n";
    std::fs::write(&config, text).unwrap();
    let coordinator = Coordinator::start(&["--config", config.to_str().unwrap()]);
    let worker = ["worker", "--coordinator", &coordinator.url, "--slots", "2"];
    let worker = [&worker[..], &["--memory", "128MiB", "--exit-with-stdin"]].concat();
    let worker = Role::start(&worker);
    assert!(worker.line().starts_with("worker "));
    let mut client = connect(&coordinator).await;
    update(&mut client, create).await;
    let refusal = refused(rows(&mut client, large).await, Code::ResourceExhausted, "memory");
    assert!(error_info(&refusal).metadata["query"].starts_with('q'), "{refusal}");
    let ran = "SELECT count(*) > 0 FROM system.tasks WHERE state = 'failed' AND worker LIKE 'w%'";
    assert_eq!(value(&mut client, ran).await, "true");
    assert_eq!(value(&mut client, count).await, "10000");
}

#[tokio::test]
async fn a_statement_that_is_late_has_a_code_of_its_own() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    rows(&mut client, "SET skep.statement_timeout = '100ms'").await.unwrap();
    let endless = "SELECT value FROM generate_series(1, 1000000000000) WHERE value < 0";
    refused(rows(&mut client, endless).await, Code::DeadlineExceeded, "");
    rows(&mut client, "RESET skep.statement_timeout").await.unwrap();
    assert_eq!(value(&mut client, "SELECT 1").await, "1");
}

#[tokio::test]
async fn long_rows_side_by_side_are_no_message_that_clients_refuse() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    // Equally many rows of each message would be sixteen of these in one.
    let text = "SELECT CASE WHEN value <= 8 THEN repeat('x', 1500000) ELSE 'y' END AS t, value AS n \
                FROM generate_series(1, 8000)";
    let info = client.execute(text.to_owned(), None).await.unwrap();
    let (_, batches) = fetch(&mut client, info).await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 8000);
    assert!(batches.len() >= 8, "{} messages", batches.len());
    let binary = "SELECT CASE WHEN value <= 8 THEN CAST(repeat('x', 1500000) AS BYTEA) \
                  ELSE CAST('y' AS BYTEA) END AS b FROM generate_series(1, 8000)";
    let info = client.execute(binary.to_owned(), None).await.unwrap();
    let (_, batches) = fetch(&mut client, info).await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 8000);
}
