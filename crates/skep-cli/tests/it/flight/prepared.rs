//! Prepared statements: parameters, handles, changes.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Schema};
use tonic::Code;

use super::{Client, connect, fetch, refused, rendered, rows, update, value};
use crate::role::Coordinator;

fn batch(columns: Vec<ArrayRef>) -> RecordBatch {
    let names = ["a", "b", "c"].into_iter();
    RecordBatch::try_from_iter(names.zip(columns)).unwrap()
}

fn longs(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// Prepares a query, binds a row and returns its answer.
async fn asked(client: &mut Client, sql: &str, row: Vec<ArrayRef>) -> Vec<Vec<String>> {
    let mut prepared = client.prepare(sql.to_owned(), None).await.unwrap();
    prepared.set_parameters(batch(row)).unwrap();
    let info = prepared.execute().await.unwrap();
    let (schema, batches) = fetch(client, info).await.unwrap();
    rendered(&schema, &batches)
}

#[tokio::test]
async fn a_query_takes_parameters_as_it_would_take_them_written_out() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    update(&mut client, "CREATE TABLE t (i INT, s VARCHAR)").await;
    update(&mut client, "INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'z')").await;
    let one = |value| vec![longs(&[Some(value)])];
    assert_eq!(asked(&mut client, "SELECT s FROM t WHERE i = ?", one(2)).await, [["y"]]);
    assert_eq!(asked(&mut client, "SELECT s FROM t WHERE i = $1", one(3)).await, [["z"]]);
    assert_eq!(asked(&mut client, "SELECT s FROM t ORDER BY i LIMIT ?", one(1)).await, [["x"]]);
    // A whole number is not made of what is none.
    let half: ArrayRef = Arc::new(Float64Array::from(vec![1.5]));
    assert_eq!(asked(&mut client, "SELECT s FROM t WHERE i < ?", vec![half]).await, [["x"]]);
    let two = vec![longs(&[Some(1)]), texts(&["z"])];
    let sql = "SELECT s FROM t WHERE i > ? AND s <> ? -- ? and '?'";
    assert_eq!(asked(&mut client, sql, two.clone()).await, [["y"]]);
    let swapped = "SELECT $2, $1 + $1";
    assert_eq!(asked(&mut client, swapped, two).await, [["z", "2"]]);
    assert_eq!(asked(&mut client, "SELECT ?", vec![texts(&["it's"])]).await, [["it's"]]);
    let null = vec![longs(&[None])];
    assert_eq!(asked(&mut client, "SELECT ? IS NULL", null).await, [["true"]]);
}

#[tokio::test]
async fn what_a_statement_takes_and_gives_is_known_when_it_is_prepared() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    update(&mut client, "CREATE TABLE t (i INT, s VARCHAR)").await;
    let sql = "SELECT s, i FROM t WHERE i = ? AND s = ?";
    let prepared = client.prepare(sql.to_owned(), None).await.unwrap();
    let types = |schema: &Schema| {
        schema.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>()
    };
    let columns = types(prepared.dataset_schema().unwrap());
    assert_eq!(columns, [DataType::Utf8, DataType::Int32]);
    let parameters = types(prepared.parameter_schema().unwrap());
    assert_eq!(parameters, [DataType::Int32, DataType::Utf8]);
    prepared.close().await.unwrap();
    // A change has no columns, and nothing is changed.
    for (sql, parameter_count) in [
        ("INSERT INTO t VALUES (?, ?)", 2),
        ("INSERT INTO t SELECT i + $1, s FROM t", 1),
        ("CREATE TABLE u (x INT)", 0),
        ("DROP TABLE t", 0),
        ("SET TIME ZONE 'UTC'", 0),
    ] {
        let prepared = client.prepare(sql.to_owned(), None).await.unwrap();
        assert_eq!(prepared.dataset_schema().unwrap(), &Schema::empty(), "{sql}");
        let parameters = prepared.parameter_schema().unwrap();
        assert_eq!(parameters.fields().len(), parameter_count, "{sql}");
    }
    assert_eq!(value(&mut client, "SELECT count(*) FROM t").await, "0");
    refused(rows(&mut client, "SELECT * FROM u").await, Code::NotFound, "\"u\"");
    let unknown = client.prepare("SELECT * FROM nope WHERE x = ?".to_owned(), None).await;
    refused(unknown, Code::NotFound, "\"nope\"");
}

#[tokio::test]
async fn a_prepared_change_runs_for_each_row_and_tells_how_many_it_wrote() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    update(&mut client, "CREATE TABLE t (i INT NOT NULL, s VARCHAR)").await;
    let insert = "INSERT INTO t (s, i) VALUES (upper(?), ? + 1)";
    let mut prepared = client.prepare(insert.to_owned(), None).await.unwrap();
    let many = batch(vec![texts(&["a", "b", "c"]), longs(&[Some(1), Some(2), Some(3)])]);
    prepared.set_parameters(many).unwrap();
    assert_eq!(prepared.execute_update().await.unwrap(), 3);
    prepared.set_parameters(batch(vec![texts(&["d"]), longs(&[Some(4)])])).unwrap();
    assert_eq!(prepared.execute_update().await.unwrap(), 1);
    let all = rows(&mut client, "SELECT i, s FROM t ORDER BY i").await.unwrap();
    assert_eq!(all, [["2", "A"], ["3", "B"], ["4", "C"], ["5", "D"]]);
    // All rows or none.
    let broken = batch(vec![texts(&["e", "f"]), longs(&[Some(5), Some(i64::from(i32::MAX))])]);
    prepared.set_parameters(broken).unwrap();
    refused(prepared.execute_update().await, Code::InvalidArgument, "");
    assert_eq!(value(&mut client, "SELECT count(*) FROM t").await, "4");
    let copy = "INSERT INTO t SELECT i + $1, s FROM t WHERE i = $2";
    let mut prepared = client.prepare(copy.to_owned(), None).await.unwrap();
    let twice = batch(vec![longs(&[Some(10), Some(20)]), longs(&[Some(2), Some(3)])]);
    prepared.set_parameters(twice).unwrap();
    assert_eq!(prepared.execute_update().await.unwrap(), 2);
    let all = rows(&mut client, "SELECT i FROM t WHERE i > 5 ORDER BY i").await.unwrap();
    assert_eq!(all, [["12"], ["23"]]);
}

#[tokio::test]
async fn a_change_that_is_prepared_and_asked_for_as_a_query_is_made_once() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    update(&mut client, "CREATE TABLE t (i BIGINT)").await;
    let mut prepared = client.prepare("INSERT INTO t VALUES (?)".to_owned(), None).await.unwrap();
    prepared.set_parameters(batch(vec![longs(&[Some(1)])])).unwrap();
    let info = prepared.execute().await.unwrap();
    assert_eq!(info.endpoint, []);
    assert_eq!(value(&mut client, "SELECT count(*) FROM t").await, "1");
}

#[tokio::test]
async fn wrong_parameters_are_the_clients_mistake() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    let mut prepared = client.prepare("SELECT ? + ?".to_owned(), None).await.unwrap();
    refused(prepared.execute().await, Code::InvalidArgument, "");
    prepared.set_parameters(batch(vec![longs(&[Some(1)])])).unwrap();
    refused(prepared.execute().await, Code::InvalidArgument, "2 parameters, but 1 value");
    let rows = batch(vec![longs(&[Some(1), None]), longs(&[Some(1), None])]);
    prepared.set_parameters(rows).unwrap();
    refused(prepared.execute().await, Code::InvalidArgument, "one row of parameters, not 2");
    let words = batch(vec![texts(&["x"]), texts(&["y"])]);
    prepared.set_parameters(words).unwrap();
    refused(prepared.execute().await, Code::InvalidArgument, "");
}

#[tokio::test]
async fn names_mean_what_they_meant_when_a_statement_was_prepared_or_asked() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    for schema in ["first", "second"] {
        update(&mut client, &format!("CREATE SCHEMA {schema}")).await;
        update(&mut client, &format!("CREATE TABLE {schema}.t AS SELECT '{schema}' AS x")).await;
    }
    update(&mut client, "USE first").await;
    let select = "SELECT x FROM t WHERE x <> ?";
    let mut prepared = client.prepare(select.to_owned(), None).await.unwrap();
    let insert = "INSERT INTO t VALUES (?)";
    let mut insert = client.prepare(insert.to_owned(), None).await.unwrap();
    let asked = client.execute("SELECT x FROM t".to_owned(), None).await.unwrap();
    update(&mut client, "USE second").await;
    assert_eq!(value(&mut client, "SELECT x FROM t").await, "second");
    // At once, and run again for who fetches again.
    for _ in 0..2 {
        let (schema, batches) = fetch(&mut client, asked.clone()).await.unwrap();
        assert_eq!(rendered(&schema, &batches), [["first"]]);
    }
    prepared.set_parameters(batch(vec![texts(&["other"])])).unwrap();
    let info = prepared.execute().await.unwrap();
    for _ in 0..2 {
        let (schema, batches) = fetch(&mut client, info.clone()).await.unwrap();
        assert_eq!(rendered(&schema, &batches), [["first"]]);
    }
    insert.set_parameters(batch(vec![texts(&["more"])])).unwrap();
    assert_eq!(insert.execute_update().await.unwrap(), 1);
    assert_eq!(value(&mut client, "SELECT count(*) FROM first.t").await, "2");
    assert_eq!(value(&mut client, "SELECT count(*) FROM second.t").await, "1");
    // The session's own schema is what it was, for the statement that asks for it too.
    let shown = client.prepare("SHOW datafusion.catalog.default_schema".to_owned(), None);
    let mut shown = shown.await.unwrap();
    update(&mut client, "USE public").await;
    let info = shown.execute().await.unwrap();
    let (schema, batches) = fetch(&mut client, info).await.unwrap();
    assert_eq!(rendered(&schema, &batches)[0][1], "public");
}
