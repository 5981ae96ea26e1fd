//! Rows that clients send into tables.

use std::sync::Arc;

use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{
    CommandStatementIngest, ProstMessageExt, TableDefinitionOptions, TableExistsOption,
    TableNotExistOption,
};
use arrow_flight::{FlightData, FlightDescriptor};
use datafusion::arrow::array::{
    ArrayRef, DictionaryArray, Int64Array, RecordBatch, StringArray, StringViewArray,
};
use datafusion::arrow::datatypes::Int32Type;
use datafusion::common::runtime::SpawnedTask;
use futures::{TryStreamExt, stream};
use prost::Message;
use tonic::Code;

use super::{Client, connect, refused, rows, update, value};
use crate::role::Coordinator;

fn numbers(from: i64, count: i64) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + count));
    RecordBatch::try_from_iter([("n", column)]).unwrap()
}

fn command(
    table: &str,
    if_missing: TableNotExistOption,
    if_exists: TableExistsOption,
) -> CommandStatementIngest {
    let options =
        TableDefinitionOptions { if_not_exist: if_missing.into(), if_exists: if_exists.into() };
    CommandStatementIngest {
        table_definition_options: Some(options),
        table: table.to_owned(),
        ..CommandStatementIngest::default()
    }
}

fn create(table: &str) -> CommandStatementIngest {
    command(table, TableNotExistOption::Create, TableExistsOption::Fail)
}

fn append(table: &str) -> CommandStatementIngest {
    command(table, TableNotExistOption::Fail, TableExistsOption::Append)
}

async fn put(
    client: &mut Client,
    command: CommandStatementIngest,
    batches: Vec<RecordBatch>,
) -> Result<i64, FlightError> {
    client.execute_ingest(command, stream::iter(batches.into_iter().map(Ok))).await
}

#[tokio::test]
async fn rows_make_a_table_or_join_or_replace_one() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    let coordinator = Coordinator::start(&["--data-dir", data]);
    let mut client = connect(&coordinator).await;
    let sum = "SELECT count(*) || ' ' || sum(n) FROM t";
    assert_eq!(
        put(&mut client, create("t"), vec![numbers(0, 5), numbers(5, 5)]).await.unwrap(),
        10
    );
    assert_eq!(value(&mut client, sum).await, "10 45");
    refused(put(&mut client, create("t"), vec![numbers(0, 1)]).await, Code::AlreadyExists, "\"t\"");
    assert_eq!(put(&mut client, append("t"), vec![numbers(10, 2)]).await.unwrap(), 2);
    assert_eq!(value(&mut client, sum).await, "12 66");
    refused(put(&mut client, append("u"), vec![numbers(0, 1)]).await, Code::NotFound, "\"u\"");
    let replace = command("t", TableNotExistOption::Create, TableExistsOption::Replace);
    assert_eq!(put(&mut client, replace, vec![numbers(0, 3)]).await.unwrap(), 3);
    assert_eq!(value(&mut client, sum).await, "3 3");
    let both = command("w", TableNotExistOption::Create, TableExistsOption::Append);
    for _ in 0..2 {
        assert_eq!(put(&mut client, both.clone(), vec![numbers(0, 2)]).await.unwrap(), 2);
    }
    assert_eq!(value(&mut client, "SELECT count(*) FROM w").await, "4");
    // Another session sees it.
    let mut other = connect(&coordinator).await;
    assert_eq!(value(&mut other, sum).await, "3 3");
}

#[tokio::test]
async fn a_temporary_table_is_the_sessions() {
    let coordinator = Coordinator::start(&[]);
    let (mut client, mut other) = (connect(&coordinator).await, connect(&coordinator).await);
    let temporary = |table| CommandStatementIngest { temporary: true, ..create(table) };
    assert_eq!(put(&mut client, temporary("t"), vec![numbers(0, 4)]).await.unwrap(), 4);
    let more = CommandStatementIngest { temporary: true, ..append("t") };
    assert_eq!(put(&mut client, more, vec![numbers(4, 1)]).await.unwrap(), 1);
    assert_eq!(value(&mut client, "SELECT sum(n) FROM t").await, "10");
    let replace = command("t", TableNotExistOption::Create, TableExistsOption::Replace);
    let replace = CommandStatementIngest { temporary: true, ..replace };
    assert_eq!(put(&mut client, replace.clone(), vec![numbers(7, 2)]).await.unwrap(), 2);
    assert_eq!(value(&mut client, "SELECT sum(n) FROM t").await, "15");
    // It hides a table of the name, and does not touch it.
    update(&mut other, "CREATE TABLE t AS SELECT 100 AS n").await;
    assert_eq!(put(&mut client, replace, vec![numbers(1, 1)]).await.unwrap(), 1);
    assert_eq!(value(&mut client, "SELECT sum(n) FROM t").await, "1");
    assert_eq!(value(&mut other, "SELECT sum(n) FROM t").await, "100");
    update(&mut other, "DROP TABLE t").await;
    refused(rows(&mut other, "SELECT * FROM t").await, Code::NotFound, "\"t\"");
    let schema = Some("public".to_owned());
    let both = CommandStatementIngest { schema, ..temporary("u") };
    refused(put(&mut client, both, vec![numbers(0, 1)]).await, Code::InvalidArgument, "no schema");
}

#[tokio::test]
async fn a_schema_and_a_catalog_can_be_named() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    update(&mut client, "CREATE SCHEMA sales").await;
    let named = |catalog: &str, schema: &str| CommandStatementIngest {
        catalog: Some(catalog.to_owned()),
        schema: Some(schema.to_owned()),
        // As it is written, capitals and all.
        ..create("Orders 1")
    };
    put(&mut client, named("skep", "sales"), vec![numbers(0, 2)]).await.unwrap();
    assert_eq!(value(&mut client, "SELECT count(*) FROM sales.\"Orders 1\"").await, "2");
    let rows = vec![numbers(0, 1)];
    let elsewhere = put(&mut client, named("other", "sales"), rows.clone()).await;
    refused(elsewhere, Code::NotFound, "catalog \"other\"");
    let elsewhere = put(&mut client, named("skep", "nowhere"), rows.clone()).await;
    refused(elsewhere, Code::NotFound, "schema \"nowhere\"");
    let system = put(&mut client, named("skep", "system"), rows).await;
    refused(system, Code::InvalidArgument, "system");
}

#[tokio::test]
async fn appended_columns_go_by_name_and_are_cast() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    update(&mut client, "CREATE TABLE t (s VARCHAR, n INT NOT NULL, d VARCHAR, m INT)").await;
    let dictionary: DictionaryArray<Int32Type> = vec!["x", "y"].into_iter().collect();
    let columns: [(&str, ArrayRef); 3] = [
        ("n", Arc::new(Int64Array::from(vec![1, 2]))),
        ("d", Arc::new(dictionary)),
        ("s", Arc::new(StringViewArray::from(vec!["a", "b"]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    assert_eq!(put(&mut client, append("t"), vec![batch.clone()]).await.unwrap(), 2);
    let all = rows(&mut client, "SELECT s, n, d, m FROM t ORDER BY n").await.unwrap();
    assert_eq!(all, [["a", "1", "x", "NULL"], ["b", "2", "y", "NULL"]]);
    let unknown: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let unknown = RecordBatch::try_from_iter([("other", unknown)]).unwrap();
    refused(put(&mut client, append("t"), vec![unknown]).await, Code::NotFound, "\"other\"");
    let missing = batch.project(&[1, 2]).unwrap();
    refused(put(&mut client, append("t"), vec![missing]).await, Code::InvalidArgument, "\"n\"");
    let large: ArrayRef = Arc::new(Int64Array::from(vec![1, i64::MAX]));
    let large = RecordBatch::try_from_iter([("n", large)]).unwrap();
    refused(put(&mut client, append("t"), vec![large]).await, Code::InvalidArgument, "");
    assert_eq!(value(&mut client, "SELECT count(*) FROM t").await, "2");
}

#[tokio::test]
async fn rows_that_break_off_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    let coordinator = Coordinator::start(&["--data-dir", data]);
    let mut client = connect(&coordinator).await;
    put(&mut client, create("t"), vec![numbers(0, 3)]).await.unwrap();
    // Messages that are none, behind some that are.
    for command in [
        append("t"),
        create("u"),
        command("t", TableNotExistOption::Create, TableExistsOption::Replace),
    ] {
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let batches = vec![numbers(0, 100_000); 3];
        let messages = FlightDataEncoderBuilder::new()
            .with_flight_descriptor(Some(descriptor))
            .build(stream::iter(batches.into_iter().map(Ok)));
        let mut messages = messages.try_collect::<Vec<_>>().await.unwrap();
        messages.push(FlightData::new().with_data_header(vec![1_u8, 2, 3, 4]));
        let outcome = client.do_put(stream::iter(messages)).await.map(drop);
        refused(outcome, Code::InvalidArgument, "cannot be read");
    }
    // A client that goes away.
    let (mut sender, receiver) = futures::channel::mpsc::channel(1);
    sender.try_send(Ok(numbers(0, 100_000))).unwrap();
    let mut gone = connect(&coordinator).await;
    let sending =
        SpawnedTask::spawn(async move { gone.execute_ingest(create("u"), receiver).await });
    let query = "SELECT count(*) FROM information_schema.tables WHERE table_name = 'u'";
    let warehouse = directory.path().join("warehouse/public");
    let count = || std::fs::read_dir(&warehouse).unwrap().count();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while count() < 2 {
        assert!(std::time::Instant::now() < deadline, "nothing is written");
        tokio::task::yield_now().await;
    }
    drop(sending);
    while count() > 1 {
        assert!(std::time::Instant::now() < deadline, "what was written stays");
        tokio::task::yield_now().await;
    }
    drop(sender);
    assert_eq!(value(&mut client, query).await, "0");
    assert_eq!(value(&mut client, "SELECT count(*) FROM t").await, "3");
}

#[tokio::test]
async fn what_is_not_supported_is_said() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    let transaction_id = Some("1".into());
    let in_transaction = CommandStatementIngest { transaction_id, ..create("t") };
    let refusal = put(&mut client, in_transaction, vec![numbers(0, 1)]).await;
    refused(refusal, Code::Unimplemented, "no transactions");
    let options = [("speed".to_owned(), "high".to_owned())].into();
    let with_option = CommandStatementIngest { options, ..create("t") };
    let refusal = put(&mut client, with_option, vec![numbers(0, 1)]).await;
    refused(refusal, Code::InvalidArgument, "\"speed\"");
    let nameless = put(&mut client, create(""), vec![numbers(0, 1)]).await;
    refused(nameless, Code::InvalidArgument, "name");
}
