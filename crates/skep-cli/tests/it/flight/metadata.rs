//! What there is, and what the server says of itself.

use arrow_flight::sql::{
    CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetTables, CommandGetXdbcTypeInfo, SqlInfo, XdbcDataType,
};
use arrow_flight::{FlightInfo, IpcMessage};
use datafusion::arrow::array::cast::AsArray;
use datafusion::arrow::datatypes::{DataType, Schema};

use super::{Client, connect, fetch, rendered, update};
use crate::role::Coordinator;

async fn listed(client: &mut Client, info: FlightInfo) -> Vec<Vec<String>> {
    let (schema, batches) = fetch(client, info).await.unwrap();
    rendered(&schema, &batches)
}

#[tokio::test]
async fn catalogs_schemas_and_tables_are_listed_by_their_patterns() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    for sql in [
        "CREATE SCHEMA sales",
        "CREATE TABLE sales.orders (id BIGINT NOT NULL, who VARCHAR)",
        "CREATE TABLE ordinary (x INT)",
        "CREATE VIEW overview AS SELECT * FROM sales.orders",
        "CREATE TEMPORARY VIEW mine AS SELECT 1 AS x",
    ] {
        update(&mut client, sql).await;
    }
    let info = client.get_catalogs().await.unwrap();
    assert_eq!(listed(&mut client, info).await, [["skep"]]);
    let info = client.get_db_schemas(CommandGetDbSchemas::default()).await.unwrap();
    let schemas = listed(&mut client, info).await;
    for schema in ["information_schema", "public", "sales", "system", "temp"] {
        assert!(schemas.contains(&vec!["skep".to_owned(), schema.to_owned()]), "{schemas:?}");
    }
    let filtered = CommandGetDbSchemas {
        catalog: Some("skep".to_owned()),
        db_schema_filter_pattern: Some("sal%".to_owned()),
    };
    let info = client.get_db_schemas(filtered).await.unwrap();
    assert_eq!(listed(&mut client, info).await, [["skep", "sales"]]);

    let tables = |pattern: &str, types: &[&str]| CommandGetTables {
        table_name_filter_pattern: Some(pattern.to_owned()),
        table_types: types.iter().map(|kind| (*kind).to_owned()).collect(),
        ..CommandGetTables::default()
    };
    let info = client.get_tables(tables("o%", &[])).await.unwrap();
    assert_eq!(
        listed(&mut client, info).await,
        [
            ["skep", "public", "ordinary", "BASE TABLE"],
            ["skep", "public", "overview", "VIEW"],
            ["skep", "sales", "orders", "BASE TABLE"],
        ]
    );
    let info = client.get_tables(tables("%", &["VIEW"])).await.unwrap();
    let views = listed(&mut client, info).await;
    assert!(views.contains(&["skep", "temp", "mine", "VIEW"].map(str::to_owned).to_vec()));
    assert!(views.iter().all(|row| row[3] == "VIEW"), "{views:?}");
    let elsewhere = CommandGetTables { catalog: Some("other".to_owned()), ..tables("%", &[]) };
    let info = client.get_tables(elsewhere).await.unwrap();
    assert!(listed(&mut client, info).await.is_empty());
    let info = client.get_table_types().await.unwrap();
    assert_eq!(listed(&mut client, info).await, [["BASE TABLE"], ["VIEW"]]);
}

#[tokio::test]
async fn tables_come_with_their_columns_as_drivers_read_them() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    update(&mut client, "CREATE TABLE t (id BIGINT NOT NULL, who VARCHAR)").await;
    update(&mut client, "CREATE VIEW broken AS SELECT * FROM t").await;
    update(&mut client, "DROP TABLE t").await;
    update(&mut client, "CREATE TABLE u (id BIGINT NOT NULL, who VARCHAR)").await;
    let command = CommandGetTables { include_schema: true, ..CommandGetTables::default() };
    let info = client.get_tables(command).await.unwrap();
    let (schema, batches) = fetch(&mut client, info).await.unwrap();
    // By position, and of plain types: drivers cast.
    let types: Vec<_> = schema.fields().iter().map(|field| field.data_type()).collect();
    assert_eq!(types[2..], [&DataType::Utf8, &DataType::Utf8, &DataType::Binary]);
    let mut found = Vec::new();
    for batch in &batches {
        let (names, schemas) =
            (batch.column(2).as_string::<i32>(), batch.column(4).as_binary::<i32>());
        for (name, bytes) in names.iter().zip(schemas) {
            let bytes = bytes::Bytes::copy_from_slice(bytes.unwrap());
            found.push((name.unwrap().to_owned(), Schema::try_from(IpcMessage(bytes)).unwrap()));
        }
    }
    let columns = |table: &str| {
        let (_, schema) = found.iter().find(|(name, _)| name == table).unwrap();
        let fields = schema.fields().iter();
        fields
            .map(|field| (field.name().clone(), field.data_type().clone(), field.is_nullable()))
            .collect::<Vec<_>>()
    };
    let id = ("id".to_owned(), DataType::Int64, false);
    assert_eq!(columns("u"), [id, ("who".to_owned(), DataType::Utf8, true)]);
    // What cannot be opened does not keep the others from being listed.
    assert_eq!(columns("broken"), []);
    assert!(columns("df_settings").len() > 1);
}

#[tokio::test]
async fn there_are_no_keys_and_asking_is_no_error() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    let (table, nothing) = ("t".to_owned(), Vec::<Vec<String>>::new());
    let primary = CommandGetPrimaryKeys { table: table.clone(), ..Default::default() };
    let info = client.get_primary_keys(primary).await.unwrap();
    assert_eq!(info.clone().try_decode_schema().unwrap().fields().len(), 6);
    assert_eq!(listed(&mut client, info).await, nothing);
    let exported = CommandGetExportedKeys { table: table.clone(), ..Default::default() };
    let imported = CommandGetImportedKeys { table: table.clone(), ..Default::default() };
    let crossed =
        CommandGetCrossReference { pk_table: table.clone(), fk_table: table, ..Default::default() };
    for info in [
        client.get_exported_keys(exported).await.unwrap(),
        client.get_imported_keys(imported).await.unwrap(),
        client.get_cross_reference(crossed).await.unwrap(),
    ] {
        assert_eq!(info.clone().try_decode_schema().unwrap().fields().len(), 13);
        assert_eq!(listed(&mut client, info).await, nothing);
    }
}

#[tokio::test]
async fn the_server_says_what_it_is() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    let info = client.get_sql_info(Vec::new()).await.unwrap();
    let (_, all) = fetch(&mut client, info).await.unwrap();
    assert!(all[0].num_rows() > 80, "{}", all[0].num_rows());
    let asked = vec![SqlInfo::FlightSqlServerName, SqlInfo::FlightSqlServerTransaction];
    let info = client.get_sql_info(asked).await.unwrap();
    let (_, some) = fetch(&mut client, info).await.unwrap();
    assert_eq!(some[0].num_rows(), 2);
    let values = some[0].column(1).as_union();
    assert_eq!(values.value(0).as_string::<i32>().value(0), "skep");
    // No transactions.
    let none = values.value(1);
    let none = none.as_primitive::<datafusion::arrow::datatypes::Int32Type>();
    assert_eq!(none.value(0), 0);
    let info = client.get_xdbc_type_info(CommandGetXdbcTypeInfo::default()).await.unwrap();
    let types = fetch(&mut client, info).await.unwrap().1;
    assert!(types[0].num_rows() > 10);
    let dates = Some(XdbcDataType::XdbcDate.into());
    let info = client.get_xdbc_type_info(CommandGetXdbcTypeInfo { data_type: dates }).await;
    let types = fetch(&mut client, info.unwrap()).await.unwrap().1;
    assert_eq!(types[0].column(0).as_string::<i32>().value(0), "DATE");
}
