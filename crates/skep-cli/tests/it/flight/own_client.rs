//! The Rust client of skep.

use std::sync::Arc;

use datafusion::arrow::array::cast::AsArray;
use datafusion::arrow::array::{ArrayRef, Int64Array, LargeListArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use futures::{StreamExt, TryStreamExt, stream};
use skep_client::{Client, ErrorCode, IfExists, IfMissing, Ingest};

use crate::cluster::rows;
use crate::role::Coordinator;

fn numbers(from: i64, count: i64) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + count));
    RecordBatch::try_from_iter([("n", column)]).unwrap()
}

fn into(table: &str) -> Ingest {
    Ingest {
        schema: None,
        table: table.to_owned(),
        is_temporary: false,
        if_missing: IfMissing::Create,
        if_exists: IfExists::Append,
    }
}

#[tokio::test]
async fn it_prepares_statements() {
    let coordinator = Coordinator::start(&[]);
    let client = Client::connect(&coordinator.url).await.unwrap();
    rows(&client, "CREATE TABLE t (n BIGINT)").await.unwrap();
    let insert = client.prepare("INSERT INTO t VALUES (?)").await.unwrap();
    assert_eq!(insert.parameters().field(0).data_type(), &DataType::Int64);
    assert!(insert.schema().fields().is_empty());
    assert_eq!(insert.update(Some(numbers(1, 10))).await.unwrap(), 10);
    let query = client.prepare("SELECT sum(n) AS s FROM t WHERE n > ?").await.unwrap();
    for (above, sum) in [(0, 55), (9, 10)] {
        let statement = query.execute(Some(numbers(above, 1))).await.unwrap();
        let batches = statement.collect().await.unwrap();
        let sums: ArrayRef = Arc::new(Int64Array::from(vec![sum]));
        assert_eq!(batches[0].column(0), &sums);
    }
    let error = query.execute(None).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    query.close().await.unwrap();
    let error = client.prepare("SELECT\n nope FROM t").await.unwrap_err();
    assert_eq!(error.position().map(|place| (place.line, place.column)), Some((2, 2)));
}

#[tokio::test]
async fn it_puts_rows_into_tables_whole_or_not_at_all() {
    let coordinator = Coordinator::start(&[]);
    let client = Client::connect(&coordinator.url).await.unwrap();
    let batches = stream::iter((0..10).map(|idx| Ok(numbers(idx * 10_000, 10_000))));
    let schema = numbers(0, 0).schema();
    let count = client.ingest(into("t"), Arc::clone(&schema), batches).await.unwrap();
    assert_eq!(count, 100_000);
    // The caller's own rows fail in the middle.
    let failed = Client::connect("nothing").await.unwrap_err();
    let broken = stream::iter([Ok(numbers(0, 10_000)), Err(failed.clone())]);
    let error = client.ingest(into("t"), schema, broken).await.unwrap_err();
    assert_eq!(error, failed);
    let count = rows(&client, "SELECT count(*) FROM t").await.unwrap();
    assert_eq!(count, [["100000"]]);
}

#[tokio::test]
async fn lists_with_large_offsets_come_and_go_as_they_are() {
    let coordinator = Coordinator::start(&[]);
    let client = Client::connect(&coordinator.url).await.unwrap();
    let lists = [Some(vec![Some(1), None]), None, Some(vec![]), Some(vec![Some(3), Some(4)])];
    let column = LargeListArray::from_iter_primitive::<Int64Type, _, _>(lists);
    let column: ArrayRef = Arc::new(column);
    let batch = RecordBatch::try_from_iter([("l", Arc::clone(&column))]).unwrap();
    let rows_of = stream::iter([Ok(batch.clone())]);
    assert_eq!(client.ingest(into("t"), batch.schema(), rows_of).await.unwrap(), 4);
    let text = rows(&client, "SELECT array_to_string(l, '+', '?') FROM t").await.unwrap();
    assert_eq!(text.concat(), ["1+?", "NULL", "(empty)", "3+4"]);
    let batches = client.execute("SELECT l FROM t").await.unwrap().collect().await.unwrap();
    let back = batches[0].column(0).as_list::<i64>();
    assert_eq!(back.values(), column.as_list::<i64>().values());
    assert_eq!(back.offsets(), column.as_list::<i64>().offsets());
}

#[tokio::test]
async fn it_cancels_statements_and_names_them() {
    let coordinator = Coordinator::start(&[]);
    let client = Client::connect(&coordinator.url).await.unwrap();
    let endless = "SELECT value FROM generate_series(1, 1000000000000)";
    let mut statement = client.execute(endless).await.unwrap();
    statement.next().await.unwrap().unwrap();
    let handle = statement.handle();
    assert!(handle.query().starts_with('q'));
    assert!(client.cancel(&handle).await.unwrap());
    let error = loop {
        match statement.try_next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a cancelled statement ended well"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), ErrorCode::Cancelled);
    assert_eq!(error.query(), Some(handle.query()));
    let second = Client::connect(&coordinator.url).await.unwrap();
    let error = second.cancel(&handle).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::PermissionDenied);
}
