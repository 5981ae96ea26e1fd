//! What there is, and what the server says of itself.

use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes,
    CommandGetTables, CommandGetXdbcTypeInfo, ProstMessageExt, SqlInfo, SqlSupportsConvert,
    XdbcDataType,
};
use arrow_flight::{FlightDescriptor, FlightInfo, IpcMessage};
use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::array::cast::AsArray;
use datafusion::arrow::datatypes::{DataType, Int32Type, Int64Type, Schema};
use prost::Message;
use tonic::Code;

use super::{
    Client, connect, fetch, refused, rendered, rows, schema_of, status, update, value, with_token,
};
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

/// The columns of keys, as FlightSql.proto has them.
const PRIMARY_KEYS: [&str; 6] =
    ["catalog_name", "db_schema_name", "table_name", "column_name", "key_name", "key_sequence"];
const FOREIGN_KEYS: [&str; 13] = [
    "pk_catalog_name",
    "pk_db_schema_name",
    "pk_table_name",
    "pk_column_name",
    "fk_catalog_name",
    "fk_db_schema_name",
    "fk_table_name",
    "fk_column_name",
    "key_sequence",
    "fk_key_name",
    "pk_key_name",
    "update_rule",
    "delete_rule",
];

fn names(info: &FlightInfo) -> Vec<String> {
    let schema = info.clone().try_decode_schema().unwrap();
    schema.fields().iter().map(|field| field.name().clone()).collect()
}

/// Asks for a list, and for its columns alone.
async fn described(client: &mut Client, command: &impl ProstMessageExt) {
    let schema = schema_of(client, command).await.unwrap();
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let asked = with_token(client, descriptor);
    let info = client.inner_mut().get_flight_info(asked).await.unwrap().into_inner();
    // fetch compares the batches.
    let (announced, _) = fetch(client, info).await.unwrap();
    assert_eq!(&schema, announced.as_ref());
}

#[tokio::test]
async fn the_columns_of_a_list_are_described_as_they_come() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    let client = &mut client;
    described(client, &CommandGetCatalogs::default()).await;
    described(client, &CommandGetDbSchemas::default()).await;
    for include_schema in [false, true] {
        described(client, &CommandGetTables { include_schema, ..Default::default() }).await;
    }
    described(client, &CommandGetTableTypes::default()).await;
    described(client, &CommandGetPrimaryKeys::default()).await;
    described(client, &CommandGetExportedKeys::default()).await;
    described(client, &CommandGetImportedKeys::default()).await;
    described(client, &CommandGetCrossReference::default()).await;
    described(client, &CommandGetSqlInfo::default()).await;
    described(client, &CommandGetXdbcTypeInfo::default()).await;
}

#[tokio::test]
async fn there_are_no_keys_and_asking_is_no_error() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    let (table, nothing) = ("t".to_owned(), Vec::<Vec<String>>::new());
    let primary = CommandGetPrimaryKeys { table: table.clone(), ..Default::default() };
    let info = client.get_primary_keys(primary).await.unwrap();
    assert_eq!(names(&info), PRIMARY_KEYS);
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
        assert_eq!(names(&info), FOREIGN_KEYS);
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
    let none = none.as_primitive::<Int32Type>();
    assert_eq!(none.value(0), 0);
    let info = client.get_xdbc_type_info(CommandGetXdbcTypeInfo::default()).await.unwrap();
    let types = fetch(&mut client, info).await.unwrap().1;
    assert!(types[0].num_rows() > 10);
    let dates = Some(XdbcDataType::XdbcDate.into());
    let info = client.get_xdbc_type_info(CommandGetXdbcTypeInfo { data_type: dates }).await;
    let types = fetch(&mut client, info.unwrap()).await.unwrap().1;
    assert_eq!(types[0].column(0).as_string::<i32>().value(0), "DATE");
}

/// Returns what the server says of one thing.
async fn said(client: &mut Client, what: SqlInfo) -> ArrayRef {
    let info = client.get_sql_info(vec![what]).await.unwrap();
    let (_, batches) = fetch(client, info).await.unwrap();
    batches[0].column(1).as_union().value(0)
}

async fn number(client: &mut Client, what: SqlInfo) -> i32 {
    said(client, what).await.as_primitive::<Int32Type>().value(0)
}

async fn is(client: &mut Client, what: SqlInfo) -> bool {
    said(client, what).await.as_boolean().value(0)
}

#[tokio::test]
async fn what_the_server_says_of_its_sql_is_true() {
    let coordinator = Coordinator::start_with_worker(&[]);
    let mut client = connect(&coordinator).await;
    let client = &mut client;
    update(client, "CREATE TABLE t (x INT NOT NULL, y INT)").await;
    update(client, "INSERT INTO t VALUES (1, NULL), (2, 5), (3, 4)").await;
    // What the least of the grammars has, but for these.
    for grammar in [SqlInfo::SqlSupportedGrammar, SqlInfo::SqlAnsi92SupportedLevel] {
        assert_eq!(number(client, grammar).await, 0);
    }
    for sql in ["DELETE FROM t WHERE x = 1", "UPDATE t SET y = 1 WHERE x = 1"] {
        refused(rows(client, sql).await, Code::Unimplemented, "");
    }
    assert!(!is(client, SqlInfo::SqlTransactionsSupported).await);
    refused(rows(client, "BEGIN").await, Code::Unimplemented, "");
    // Each of these is said to be there.
    for (what, sql, answer) in [
        (SqlInfo::SqlSupportsLikeEscapeClause, "SELECT 'a_b' LIKE 'a!_b' ESCAPE '!'", "true"),
        (SqlInfo::SqlSupportsColumnAliasing, "SELECT z FROM (SELECT 8 AS z)", "8"),
        (SqlInfo::SqlNullPlusNullIsNull, "SELECT (NULL || 'x') IS NULL", "true"),
        (SqlInfo::SqlSupportsTableCorrelationNames, "SELECT max(t.x) FROM t AS t", "3"),
        (SqlInfo::SqlSupportsExpressionsInOrderBy, "SELECT x FROM t ORDER BY -x LIMIT 1", "3"),
        (SqlInfo::SqlSupportsOrderByUnrelated, "SELECT x FROM t ORDER BY y LIMIT 1", "3"),
        (
            SqlInfo::SqlCorrelatedSubqueriesSupported,
            "SELECT count(*) FROM t AS o WHERE EXISTS (SELECT 1 FROM t WHERE t.x = o.y - 1)",
            "1",
        ),
    ] {
        assert!(is(client, what).await, "{what:?}");
        assert_eq!(value(client, sql).await, answer, "{what:?}");
    }
    assert!(is(client, SqlInfo::SqlSupportsNonNullableColumns).await);
    refused(rows(client, "INSERT INTO t VALUES (NULL, 1)").await, Code::InvalidArgument, "");
    // Each bit of these, with a query that needs it.
    for (what, queries) in [
        (
            SqlInfo::SqlSupportedSubqueries,
            &[
                "SELECT count(*) FROM t WHERE x = (SELECT max(x) FROM t)",
                "SELECT 1 WHERE EXISTS (SELECT 1 FROM t)",
                "SELECT count(*) FROM t WHERE x IN (SELECT y - 4 FROM t)",
            ][..],
        ),
        (
            SqlInfo::SqlSupportedGroupBy,
            &[
                "SELECT count(*) FROM (SELECT count(*) FROM t GROUP BY y) HAVING count(*) = 3",
                "SELECT count(*) FROM (SELECT x FROM t GROUP BY x, y) HAVING count(*) = 3",
            ],
        ),
        (
            SqlInfo::SqlSupportedUnions,
            &[
                "SELECT 1 UNION SELECT 1",
                "SELECT 1 WHERE 2 = (SELECT count(*) FROM (SELECT 1 UNION ALL SELECT 1))",
            ],
        ),
    ] {
        assert_eq!(number(client, what).await, (1 << queries.len()) - 1, "{what:?}");
        for query in queries {
            assert_eq!(rows(client, query).await.unwrap().len(), 1, "{query}");
        }
    }
    // Full outer joins.
    assert_eq!(number(client, SqlInfo::SqlOuterJoinsSupportLevel).await, 2);
    let full = "SELECT count(*) FROM t AS a FULL JOIN t AS b ON a.x = b.y";
    assert_eq!(value(client, full).await, "6");
    // NULL is more than anything.
    assert_eq!(number(client, SqlInfo::SqlNullOrdering).await, 0);
    for (order, values) in [("ASC", ["4", "5", "NULL"]), ("DESC", ["NULL", "5", "4"])] {
        let ordered = rows(client, &format!("SELECT y FROM t ORDER BY y {order}")).await.unwrap();
        assert_eq!(ordered.concat(), values);
    }
}

#[tokio::test]
async fn what_the_server_says_of_names_and_bounds_is_true() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("skep.toml");
    let text = "[results]\nprepared_timeout = '2s'\nmax_statement_bytes = 1000\n\
                [sessions]\nmax_count = 17\n";
    std::fs::write(&config, text).unwrap();
    let coordinator = Coordinator::start(&["--config", config.to_str().unwrap()]);
    let mut client = connect(&coordinator).await;
    let client = &mut client;
    let text_of = async |client: &mut Client, what| {
        said(client, what).await.as_string::<i32>().value(0).to_owned()
    };
    assert_eq!(text_of(client, SqlInfo::FlightSqlServerVersion).await, env!("CARGO_PKG_VERSION"));
    let quote = text_of(client, SqlInfo::SqlIdentifierQuoteChar).await;
    update(client, &format!("CREATE TABLE {quote}Odd One{quote} AS SELECT 3 AS X")).await;
    // Written without quotes it is of small letters.
    assert_eq!(number(client, SqlInfo::SqlIdentifierCase).await, 3);
    let small = format!("SELECT {quote}x{quote} FROM {quote}Odd One{quote}");
    assert_eq!(value(client, &small).await, "3");
    let catalog = format!("SELECT x FROM skep.public.{quote}Odd One{quote}");
    assert!(is(client, SqlInfo::SqlCatalogAtStart).await);
    assert_eq!(value(client, &catalog).await, "3");
    let escape = text_of(client, SqlInfo::SqlSearchStringEscape).await;
    update(client, "CREATE TABLE a_b (x INT)").await;
    update(client, "CREATE TABLE acb (x INT)").await;
    let pattern = Some(format!("a{escape}_b"));
    let command =
        CommandGetTables { table_name_filter_pattern: pattern, ..CommandGetTables::default() };
    let info = client.get_tables(command).await.unwrap();
    assert_eq!(listed(client, info).await, [["skep", "public", "a_b", "BASE TABLE"]]);
    // As configured.
    let long = said(client, SqlInfo::SqlMaxStatementLength).await;
    let long = usize::try_from(long.as_primitive::<Int64Type>().value(0)).unwrap();
    assert_eq!(value(client, &format!("SELECT 1{}", " ".repeat(long - 8))).await, "1");
    let longer = format!("SELECT 1{}", " ".repeat(long - 7));
    refused(rows(client, &longer).await, Code::InvalidArgument, &long.to_string());
    let sessions = said(client, SqlInfo::SqlMaxConnections).await;
    assert_eq!(sessions.as_primitive::<Int64Type>().value(0), 17);
    assert_eq!(number(client, SqlInfo::FlightSqlServerStatementTimeout).await, 2000);
    let mut prepared = client.prepare("SELECT 1".to_owned(), None).await.unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let expired = loop {
        match prepared.execute().await {
            Ok(info) => drop(fetch(client, info).await.unwrap()),
            Err(expired) => break status(expired),
        }
        assert!(std::time::Instant::now() < deadline);
    };
    assert_eq!((expired.code(), expired.message()), (Code::NotFound, "it has expired"));
}

#[tokio::test]
async fn what_is_said_to_be_converted_is() {
    let coordinator = Coordinator::start(&[]);
    let mut client = connect(&coordinator).await;
    let name = |number: i32| match SqlSupportsConvert::try_from(number).unwrap() {
        SqlSupportsConvert::SqlConvertFloat => "DOUBLE".to_owned(),
        other => other.as_str_name().trim_start_matches("SQL_CONVERT_").to_owned(),
    };
    let map = said(&mut client, SqlInfo::SqlSupportsConvert).await;
    let map = map.as_map();
    let (keys, lists) = (map.keys().as_primitive::<Int32Type>(), map.values().as_list::<i32>());
    let mut checked = 0;
    for (from, to) in keys.values().iter().zip(lists.iter()) {
        let from = name(*from);
        for to in to.unwrap().as_primitive::<Int32Type>().values() {
            let to = name(*to);
            let is_time =
                [&from, &to].iter().any(|name| ["DATE", "TIMESTAMP"].contains(&name.as_str()));
            let value = if is_time { "2026-01-02" } else { "1" };
            let sql = format!("SELECT CAST(CAST('{value}' AS {from}) AS {to}) IS NOT NULL");
            assert_eq!(super::value(&mut client, &sql).await, "true", "{sql}");
            checked += 1;
        }
    }
    assert!(checked > 70, "{checked}");
}
