//! What is written, where, and what is left behind when it fails.

use super::super::{insert_target, keep_inferred};
use super::*;
use datafusion::arrow::datatypes::{DataType, Field, Schema};

const ROWS: &str = "SELECT column1 AS a, column2 AS b FROM (VALUES (1, 'x'), (2, NULL))";

#[tokio::test]
async fn one_file_or_a_directory() {
    let place = Place::new();
    assert_eq!(place.copy(ROWS, "x.csv", &[]).await.unwrap(), 2);
    assert_eq!(std::fs::read_to_string(place.path("x.csv")).unwrap(), "a,b\n1,x\n2,\n");
    assert_eq!(place.copy(ROWS, "d.parquet/", &[]).await.unwrap(), 2);
    assert!(place.path("d.parquet").is_dir());
    let rows = place.direct(&place.text("d.parquet"), "SELECT sum(a) FROM t").await.unwrap();
    assert_eq!(rows, "3");
    place.copy(ROWS, "e", &[("format", "json")]).await.unwrap();
    assert!(place.path("e").is_dir());
    place.copy(ROWS, "f", &[("format", "json"), ("single_file_output", "true")]).await.unwrap();
    assert!(place.path("f").is_file());
    // Nothing but what was asked for is there.
    let top: Vec<String> = place.names("").into_iter().filter(|n| n.starts_with('.')).collect();
    assert_eq!(top, Vec::<String>::new());
}

#[tokio::test]
async fn options_of_csv_have_their_effect() {
    let place = Place::new();
    let options = [
        ("format.has_header", "false"),
        ("delimiter", ";"),
        ("null_value", "NULL"),
        ("quote_style", "always"),
    ];
    place.copy(ROWS, "x.csv", &options).await.unwrap();
    let text = std::fs::read_to_string(place.path("x.csv")).unwrap();
    assert_eq!(text, "\"1\";\"x\"\n\"2\";\"NULL\"\n");
    place.copy("SELECT 'a\"b' AS a", "q.csv", &[]).await.unwrap();
    assert_eq!(place.direct(&place.text("q.csv"), "SELECT a FROM t").await.unwrap(), "a\"b");
    place.copy(ROWS, "x.tsv", &[]).await.unwrap();
    assert!(std::fs::read_to_string(place.path("x.tsv")).unwrap().starts_with("a\tb\n"));
    let error = place.copy(ROWS, "y.csv", &[("delimeter", ";")]).await.unwrap_err();
    assert!(error.hint().unwrap().contains("did you mean \"delimiter\""), "{error:?}");
}

#[tokio::test]
async fn parquet_compression_is_used() {
    let place = Place::new();
    let query = "SELECT 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' || value AS a \
                 FROM generate_series(1, 20000)";
    place.copy(query, "plain.parquet", &[("compression", "uncompressed")]).await.unwrap();
    place.copy(query, "small.parquet", &[("compression", "zstd(3)")]).await.unwrap();
    let size = |name: &str| std::fs::metadata(place.path(name)).unwrap().len();
    assert!(size("small.parquet") * 2 < size("plain.parquet"));
    let error = place.copy(query, "bad.parquet", &[("compression", "rar")]).await;
    assert!(error.is_err());
    assert!(!place.path("bad.parquet").exists());
}

#[tokio::test]
async fn partitions_become_directories_and_come_back() {
    let place = Place::new();
    let rows = "SELECT column1 AS a, column2 AS k, column3 AS d FROM (VALUES \
                (1, 'x/y', DATE '2024-01-31'), (2, NULL, DATE '2024-01-31'), (3, '100%', NULL))";
    let target = place.target("p/", &[("format", "parquet")], &["k", "d"], WriteMode::Create);
    assert_eq!(place.write(rows, &target.unwrap()).await.unwrap(), 3);
    let names = place.names("p");
    assert!(names.iter().any(|name| name == "k=x%2Fy/d=2024-01-31"), "{names:?}");
    let sql = "SELECT a, k, d FROM t ORDER BY a";
    let back = place.direct(&place.text("p"), sql).await.unwrap();
    assert_eq!(back, "1,x/y,2024-01-31;2,,2024-01-31;3,100%,");
    let target = place.target("q/", &[("format", "csv")], &["nope"], WriteMode::Create).unwrap();
    let error = place.write(rows, &target).await.unwrap_err();
    assert_eq!(error.to_string(), "partition column \"nope\" not found");
    assert!(!place.path("q").exists());
}

#[tokio::test]
async fn nothing_is_overwritten_unless_asked() {
    let place = Place::new();
    place.copy(ROWS, "x.csv", &[]).await.unwrap();
    let error = place.copy(ROWS, "x.csv", &[]).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { kind: "file", .. }), "{error:?}");
    place.copy(ROWS, "d/", &[("format", "csv")]).await.unwrap();
    let error = place.copy(ROWS, "d/", &[("format", "csv")]).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { kind: "directory", .. }), "{error:?}");
    std::fs::create_dir(place.path("empty")).unwrap();
    place.copy(ROWS, "empty", &[("format", "csv")]).await.unwrap();

    let target = place.target("x.csv", &[], &[], WriteMode::Overwrite).unwrap();
    place.write("SELECT 9 AS a", &target).await.unwrap();
    assert_eq!(std::fs::read_to_string(place.path("x.csv")).unwrap(), "a\n9\n");
    let target = place.target("d/", &[("format", "csv")], &[], WriteMode::Overwrite).unwrap();
    place.write("SELECT 9 AS a", &target).await.unwrap();
    assert_eq!(place.direct(&place.text("d"), "SELECT sum(a) FROM t").await.unwrap(), "9");
    assert!(place.names("").iter().all(|name| !name.starts_with('.')), "{:?}", place.names(""));
}

#[tokio::test]
async fn a_failing_query_leaves_nothing() {
    let place = Place::new();
    let query = "SELECT 10 / (50000 - value) AS a FROM generate_series(1, 60000)";
    for name in ["x.csv", "x.parquet", "x.json.gz", "x.arrow", "d.csv/"] {
        let error = place.copy(query, name, &[]).await.unwrap_err();
        assert!(error.to_string().to_lowercase().contains("by zero"), "{error}");
    }
    assert_eq!(place.names(""), Vec::<String>::new());
}

#[tokio::test]
async fn a_dropped_write_leaves_nothing() {
    let place = Place::new();
    let query = "SELECT a.value FROM generate_series(1, 100000) a, generate_series(1, 100000) b";
    let target = place.target("x.csv", &[], &[], WriteMode::Create).unwrap();
    {
        let mut work = Box::pin(place.write(query, &target));
        // Polled until the writers have work, then dropped.
        for _ in 0..50 {
            let waited = tokio::time::timeout(std::time::Duration::from_millis(2), &mut work).await;
            assert!(waited.is_err());
        }
    }
    assert!(!place.path("x.csv").exists());
    assert!(place.names("").is_empty(), "{:?}", place.names(""));
}

#[tokio::test]
async fn missing_directories_are_made_and_go_with_a_failure() {
    const FAILING: &str = "SELECT 1 / (value - 2) AS a FROM generate_series(1, 3) AS g(value)";
    let place = Place::new();
    let error = place.copy(FAILING, "no/such/x.csv", &[]).await;
    assert!(error.is_err());
    assert!(!place.path("no").exists());
    place.copy(ROWS, "no/such/x.csv", &[]).await.unwrap();
    assert!(place.path("no/such/x.csv").exists());
}

#[tokio::test]
async fn where_nothing_can_be_written() {
    let place = Place::new();
    place.file("file", "");
    let error = place.copy(ROWS, "file/such/x.csv", &[]).await.unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("file/such")), "{error:?}");
    let error = place.copy(ROWS, "file/x.csv", &[]).await.unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("file")), "{error:?}");
    // The system's own read-only place refuses the superuser too.
    let target = copy_target("/proc/skep-test.csv", None, Vec::new(), Vec::new()).unwrap();
    let error = place.write(ROWS, &target).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot write into /proc: "), "{error}");
    let error = place.copy(ROWS, "x", &[]).await.unwrap_err();
    assert!(error.to_string().contains("does not tell the format"), "{error}");
    let error = place.copy(ROWS, "x.avro", &[]).await.unwrap_err();
    assert_eq!(error.to_string(), "writing avro files is not supported");
    let error = place
        .copy("SELECT x.a, y.a FROM (SELECT 1 AS a) x, (SELECT 2 AS a) y", "x.parquet", &[])
        .await;
    assert!(error.is_err_and(|e| e.to_string().contains("two columns")));
}

#[cfg(unix)]
#[tokio::test]
async fn a_read_only_directory_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    std::fs::create_dir(place.path("ro")).unwrap();
    std::fs::set_permissions(place.path("ro"), std::fs::Permissions::from_mode(0o555)).unwrap();
    // The superuser may write there all the same; then there is nothing to see.
    if std::fs::write(place.path("ro/probe"), "").is_err() {
        let error = place.copy(ROWS, "ro/x.csv", &[]).await.unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("ro")), "{error:?}");
        assert_eq!(error.code(), skep_proto::ErrorCode::PermissionDenied);
    }
}

/// Opens a table and keeps what was found, as the catalog does.
async fn kept(place: &Place, mut table: FileTable) -> FileTable {
    let provider = open(&place.state(), &table).await.unwrap();
    keep_inferred(&mut table, provider.as_ref());
    table
}

#[tokio::test]
async fn inserts_append_files() {
    let place = Place::new();
    place.copy(ROWS, "d/", &[("format", "parquet")]).await.unwrap();
    let table = FileTable::undeclared(Format::Parquet, &place.text("d")).unwrap();
    let table = kept(&place, table).await;
    for _ in 0..2 {
        let target = insert_target(&table, WriteMode::Append).unwrap();
        assert_eq!(place.write("SELECT '7' AS other, 'y' AS name", &target).await.unwrap(), 1);
    }
    place.open(&table).await.unwrap();
    assert_eq!(place.query("SELECT sum(a), count(b) FROM t").await.unwrap(), "17,3");
    assert_eq!(place.columns().await.split(',').next(), Some("a Int64"));

    let target = insert_target(&table, WriteMode::Append).unwrap();
    let error = place.write("SELECT 1", &target).await.unwrap_err();
    assert!(error.to_string().contains("has 2 columns"), "{error}");
    let error = place.write("SELECT [1], 'x'", &target).await.unwrap_err();
    assert!(error.to_string().contains("cannot be inserted"), "{error}");
    let error = place.write("SELECT 'no number', 'x'", &target).await.unwrap_err();
    assert!(error.to_string().contains("no number"), "{error}");
    assert_eq!(place.query("SELECT count(*) FROM t").await.unwrap(), "4");
}

#[tokio::test]
async fn inserts_into_new_and_partitioned_tables() {
    let place = Place::new();
    let fields =
        vec![Field::new("a", DataType::Int32, true), Field::new("k", DataType::Utf8, true)];
    let table = FileTable::from_spark(
        Format::Csv,
        &[("header".to_owned(), "true".to_owned())],
        Some(Arc::new(Schema::new(fields))),
        Some(place.text("new")),
        vec!["k".to_owned()],
    )
    .unwrap();
    let target = insert_target(&table, WriteMode::Append).unwrap();
    place.write("SELECT 1, 'x'", &target).await.unwrap();
    place.write("SELECT 2, NULL", &target).await.unwrap();
    place.open(&table).await.unwrap();
    assert_eq!(place.query("SELECT a, k FROM t ORDER BY a").await.unwrap(), "1,x;2,");
}

#[tokio::test]
async fn inserts_are_refused_where_there_is_no_directory() {
    let place = Place::new();
    place.copy(ROWS, "x.csv", &[]).await.unwrap();
    for location in [place.text("x.csv"), place.text("*.csv")] {
        let table = FileTable::undeclared(Format::Csv, &location).unwrap();
        let error = insert_target(&table, WriteMode::Append).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn no_rows_still_make_a_table() {
    let place = Place::new();
    let none = "SELECT column1 AS a FROM (VALUES (1)) WHERE column1 > 1";
    place.copy(none, "d/", &[("format", "parquet")]).await.unwrap();
    assert_eq!(place.direct(&place.text("d"), "SELECT count(*) FROM t").await.unwrap(), "0");
    assert_eq!(place.columns().await, "a Int64");
    place.copy(none, "x.csv", &[]).await.unwrap();
    assert_eq!(std::fs::read_to_string(place.path("x.csv")).unwrap(), "a\n");
}
