//! What is read from good files.

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::*;

const PEOPLE: &str = "id,name,score\n1,ann,1.5\n2,bob,\n3,\"c, d\",3\n";

#[tokio::test]
async fn csv_by_its_name() {
    let place = Place::new();
    let path = place.file("people.csv", PEOPLE);
    let rows = place.direct(&path, "SELECT * FROM t ORDER BY id").await.unwrap();
    assert_eq!(rows, "1,ann,1.5;2,bob,;3,c, d,3.0");
    assert_eq!(place.columns().await, "id Int64, name Utf8, score Float64");
}

#[tokio::test]
async fn spark_csv_has_no_header_and_only_text() {
    let place = Place::new();
    let path = place.file("x.csv", "1,a\n2,b\n");
    let sql = "SELECT _c0, _c1 FROM t ORDER BY 1";
    let rows = place.spark(Format::Csv, &[("path", &path)], sql).await.unwrap();
    assert_eq!(rows, "1,a;2,b");
    assert_eq!(place.columns().await, "_c0 Utf8, _c1 Utf8");
    let options = [("path", path.as_str()), ("inferSchema", "true")];
    place.spark(Format::Csv, &options, sql).await.unwrap();
    assert_eq!(place.columns().await, "_c0 Int64, _c1 Utf8");
}

#[tokio::test]
async fn csv_dialects() {
    let place = Place::new();
    let path = place.file("x.txt", "# note\na;b\n'1;2';x\\'y\n");
    let options = [
        ("path", path.as_str()),
        ("header", "true"),
        ("sep", ";"),
        ("quote", "'"),
        ("comment", "#"),
    ];
    let rows = place.spark(Format::Csv, &options, "SELECT a FROM t").await.unwrap();
    assert_eq!(rows, "1;2");
    let path = place.file("y.tsv", "a\tb\n1\t2\n");
    assert_eq!(place.direct(&path, "SELECT a + b FROM t").await.unwrap(), "3");
    let path = place.file("z.csv", "a|b~1|2~");
    let options = [("path", path.as_str()), ("header", "true"), ("sep", "|"), ("lineSep", "~")];
    assert_eq!(place.spark(Format::Csv, &options, "SELECT b FROM t").await.unwrap(), "2");
}

#[tokio::test]
async fn csv_null_markers_work() {
    let place = Place::new();
    let path = place.file("x.csv", "a,b\n1,x\nNA,NA\n,\n3,NAN\n");
    let options =
        [("path", path.as_str()), ("header", "true"), ("inferSchema", "true"), ("nullValue", "NA")];
    let sql = "SELECT count(*), count(a), sum(a), count(b), max(b) FROM t";
    let rows = place.spark(Format::Csv, &options, sql).await.unwrap();
    assert_eq!(rows, "4,2,4,2,x");
    assert_eq!(place.columns().await, "a Int64, b Utf8");
    let filtered = place.query("SELECT b FROM t WHERE a = 3").await.unwrap();
    assert_eq!(filtered, "NAN");
}

#[tokio::test]
async fn csv_blanks_can_be_trimmed() {
    let place = Place::new();
    let path = place.file("x.csv", "a,b\n 1 ,  x \n 2,y\n");
    let options = [
        ("path", path.as_str()),
        ("header", "true"),
        ("ignoreLeadingWhiteSpace", "true"),
        ("ignoreTrailingWhiteSpace", "true"),
    ];
    let sql = "SELECT '<' || b || '>' FROM t ORDER BY a";
    assert_eq!(place.spark(Format::Csv, &options, sql).await.unwrap(), "<x>;<y>");
}

fn schema(fields: &[(&str, DataType)]) -> Option<SchemaRef> {
    let fields: Vec<Field> =
        fields.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect();
    Some(Arc::new(Schema::new(fields)))
}

fn declared(
    format: Format,
    options: &[(&str, &str)],
    fields: &[(&str, DataType)],
    partitions: &[&str],
) -> Result<FileTable, Error> {
    let options: Vec<(String, String)> =
        options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let partitions = partitions.iter().map(|name| (*name).to_owned()).collect();
    FileTable::from_spark(format, &options, schema(fields), None, partitions)
}

#[tokio::test]
async fn csv_dates_in_a_format() {
    let place = Place::new();
    let path = place.file("x.csv", "31/12/2024,31.12.2024 23:59\n,\n");
    let options = [
        ("path", path.as_str()),
        ("dateFormat", "dd/MM/yyyy"),
        ("timestampFormat", "dd.MM.yyyy HH:mm"),
    ];
    let fields =
        [("d", DataType::Date32), ("ts", DataType::Timestamp(TimeUnit::Microsecond, None))];
    let table = declared(Format::Csv, &options, &fields, &[]).unwrap();
    place.open(&table).await.unwrap();
    let rows = place.query("SELECT d, ts FROM t WHERE d IS NOT NULL").await.unwrap();
    assert_eq!(rows, "2024-12-31,2024-12-31T23:59:00");
}

#[tokio::test]
async fn options_that_reading_cannot_obey_are_refused() {
    let place = Place::new();
    let path = place.file("x.csv", "b,a\n1,2\n");
    let options = [("path", path.as_str()), ("dateFormat", "dd/MM/yyyy")];
    assert!(place.spark(Format::Csv, &options, "SELECT 1").await.is_err());
    let options = [("path", path.as_str()), ("header", "true"), ("enforceSchema", "false")];
    let fields = [("a", DataType::Int64), ("b", DataType::Int64)];
    let table = declared(Format::Csv, &options, &fields, &[]).unwrap();
    let error = place.open(&table).await.unwrap_err();
    assert!(error.to_string().contains("(b, a)"), "{error}");
}

#[tokio::test]
async fn csv_short_rows_are_filled_up_in_permissive_mode() {
    let place = Place::new();
    let path = place.file("x.csv", "a,b,c\n1,2,3\n4\n");
    let options = [("path", path.as_str()), ("header", "true"), ("mode", "PERMISSIVE")];
    let sql = "SELECT a, b, c FROM t ORDER BY a";
    assert_eq!(place.spark(Format::Csv, &options, sql).await.unwrap(), "1,2,3;4,,");
}

#[tokio::test]
async fn csv_line_breaks_in_quotes_survive_parallel_reading() {
    let place = Place::new();
    let mut text = String::from("id,note\n");
    for i in 0..2000 {
        text.push_str(&format!("{i},\"a\n{i},b\"\n"));
    }
    let path = place.file("x.csv", text);
    place.context.sql("SET datafusion.optimizer.repartition_file_min_size = 1").await.unwrap();
    let sql = "SELECT count(*), sum(id) FROM t";
    assert_eq!(place.direct(&path, sql).await.unwrap(), "2000,1999000");
}

#[tokio::test]
async fn csv_types_come_from_many_rows_and_must_be_readable() {
    let place = Place::new();
    let mut text = String::from("a,b,c\n");
    for i in 0..5000 {
        text.push_str(&format!("{i},2024-01-01,\n"));
    }
    text.push_str("x,2024-02-31,1.5\n");
    let path = place.file("x.csv", text);
    let rows = place.direct(&path, "SELECT max(a), max(b), max(c) FROM t").await.unwrap();
    assert_eq!(rows, "x,2024-02-31,1.5");
    assert_eq!(place.columns().await, "a Utf8, b Utf8, c Float64");
}

#[tokio::test]
async fn csv_names_are_made_unique() {
    let place = Place::new();
    let path = place.file("x.csv", "\u{feff}a,,a\n1,2,3\n");
    place.open_path(&path).await.unwrap();
    assert_eq!(place.columns().await, "a Int64, column_2 Int64, a_2 Int64");
}

#[tokio::test]
async fn csv_files_unite_their_types() {
    let place = Place::new();
    place.file("d/1.csv", "a,b\n1,1\n");
    place.file("d/2.csv", "a,b\n1.5,x\n");
    let sql = "SELECT sum(a), max(b) FROM t";
    assert_eq!(place.direct(&place.text("d"), sql).await.unwrap(), "2.5,x");
}

#[tokio::test]
async fn json_by_lines_and_as_an_array() {
    let place = Place::new();
    let lines = place.file("x.json", "{\"a\":1,\"b\":\"x\"}\n{\"a\":2,\"c\":[1]}\n");
    let sql = "SELECT sum(a), max(b) FROM t";
    assert_eq!(place.direct(&lines, sql).await.unwrap(), "3,x");
    let array = place.file("y.json", "[\n {\"a\":1,\"b\":\"x\"},\n {\"a\":5}\n]\n");
    assert_eq!(place.direct(&array, sql).await.unwrap(), "6,x");
    // Both kinds in one table.
    let both = place.directory.path().join("*.json");
    assert_eq!(place.direct(both.to_str().unwrap(), sql).await.unwrap(), "9,x");
}

#[tokio::test]
async fn binary_formats_come_back_as_written() {
    let place = Place::new();
    let query = "SELECT column1 AS a, column2 AS b FROM (VALUES (1, 'x'), (2, NULL))";
    for name in ["x.parquet", "x.arrow", "x.csv", "x.json"] {
        assert_eq!(place.copy(query, name, &[]).await.unwrap(), 2, "{name}");
        let rows = place.direct(&place.text(name), "SELECT a, b FROM t ORDER BY a").await;
        assert_eq!(rows.unwrap(), "1,x;2,", "{name}");
    }
}

#[tokio::test]
async fn arrow_streams_are_read_too() {
    use datafusion::arrow::array::{Int64Array, RecordBatch};
    use datafusion::arrow::ipc::writer::StreamWriter;
    let place = Place::new();
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    let batch =
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![4, 5]))]);
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &schema).unwrap();
    writer.write(&batch.unwrap()).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let path = place.file("x.arrows", bytes);
    assert_eq!(place.direct(&path, "SELECT sum(a) FROM t").await.unwrap(), "9");
}

#[tokio::test]
async fn compressed_text_in_all_ways() {
    let place = Place::new();
    let query = "SELECT column1 AS a FROM (VALUES (1), (2))";
    for extension in ["gz", "zst", "bz2", "xz"] {
        for format in ["csv", "json"] {
            let name = format!("x.{format}.{extension}");
            place.copy(query, &name, &[]).await.unwrap();
            let bytes = std::fs::read(place.path(&name)).unwrap();
            assert!(!bytes.starts_with(b"a\n") && !bytes.starts_with(b"{"), "{name} is plain");
            let rows = place.direct(&place.text(&name), "SELECT sum(a) FROM t").await;
            assert_eq!(rows.unwrap(), "3", "{name}");
        }
    }
    // One table of compressed and plain files.
    place.file("x.csv", "a\n10\n");
    let glob = place.directory.path().join("x.csv*");
    let rows = place.direct(glob.to_str().unwrap(), "SELECT sum(a) FROM t").await.unwrap();
    assert_eq!(rows, "22");
    // By option, where the name says nothing.
    std::fs::copy(place.path("x.csv.gz"), place.path("plain")).unwrap();
    let path = place.text("plain");
    let options = [("path", path.as_str()), ("header", "true"), ("compression", "gzip")];
    let rows = place.spark(Format::Csv, &options, "SELECT count(*) FROM t").await.unwrap();
    assert_eq!(rows, "2");
}

#[tokio::test]
async fn directories_globs_and_hidden_files() {
    let place = Place::new();
    place.file("d/1.csv", "a\n1\n");
    place.file("d/2.csv", "a\n2\n");
    place.file("d/_SUCCESS", "");
    place.file("d/.3.csv.crc", "junk");
    place.file("d/README.md", "# notes");
    place.file("d/deep/4.csv", "a\n4\n");
    place.file("d/.staging/5.csv", "a\n5\n");
    let sum = "SELECT sum(a) FROM t";
    assert_eq!(place.direct(&place.text("d"), sum).await.unwrap(), "3");
    assert_eq!(place.direct(&place.text("d/"), sum).await.unwrap(), "3");
    assert_eq!(place.direct(&place.text("d/*.csv"), sum).await.unwrap(), "3");
    assert_eq!(place.direct(&place.text("d/[1-1].csv"), sum).await.unwrap(), "1");
    assert_eq!(place.direct(&place.text("d/{1,2}.csv"), sum).await.unwrap(), "3");
    assert_eq!(place.direct(&place.text("d/**/*.csv"), sum).await.unwrap(), "7");
    let path = place.text("d");
    let deep = [
        ("path", path.as_str()),
        ("header", "true"),
        ("inferSchema", "true"),
        ("recursiveFileLookup", "true"),
    ];
    assert_eq!(place.spark(Format::Csv, &deep, sum).await.unwrap(), "7");
    let globbed = [
        ("path", path.as_str()),
        ("header", "true"),
        ("inferSchema", "true"),
        ("pathGlobFilter", "2*"),
    ];
    assert_eq!(place.spark(Format::Csv, &globbed, sum).await.unwrap(), "2");
    let several = format!("[\"{}\", \"{}\"]", place.text("d/1.csv"), place.text("d/deep/4.csv"));
    let several = [("paths", several.as_str()), ("header", "true"), ("inferSchema", "true")];
    assert_eq!(place.spark(Format::Csv, &several, sum).await.unwrap(), "5");
    let url = format!("file://{}", place.text("d/1.csv"));
    assert_eq!(place.direct(&url, sum).await.unwrap(), "1");
}

#[tokio::test]
async fn hive_partitions_are_discovered_and_typed() {
    let place = Place::new();
    for (directory, value) in [
        ("y=2023/day=2023-01-31/s=a%2Fb", 1),
        ("y=2024/day=2024-01-31/s=x y", 2),
        ("y=2024/day=__HIVE_DEFAULT_PARTITION__/s=__HIVE_DEFAULT_PARTITION__", 4),
    ] {
        place.file(&format!("p/{directory}/x.csv"), format!("a\n{value}\n"));
    }
    place.open_path(&place.text("p")).await.unwrap();
    assert_eq!(place.columns().await, "a Int64, y Int64, day Date32, s Utf8");
    let all = "SELECT a, y, day, s FROM t ORDER BY a";
    assert_eq!(
        place.query(all).await.unwrap(),
        "1,2023,2023-01-31,a/b;2,2024,2024-01-31,x y;4,2024,,"
    );
    assert_eq!(place.query("SELECT sum(a) FROM t WHERE y = 2024").await.unwrap(), "6");
    assert_eq!(place.query("SELECT sum(a) FROM t WHERE s = 'a/b'").await.unwrap(), "1");
    assert_eq!(place.query("SELECT sum(a) FROM t WHERE day IS NULL").await.unwrap(), "4");
    assert_eq!(place.query("SELECT sum(a) FROM t WHERE s <> 'a/b'").await.unwrap(), "2");
    assert_eq!(place.query("SELECT count(*), count(day) FROM t").await.unwrap(), "3,2");
    let sql = "SELECT sum(a) FROM t WHERE y = 2024 AND day = DATE '2024-01-31'";
    assert_eq!(place.query(sql).await.unwrap(), "2");
    let sql = "SELECT sum(a) FROM t WHERE y > 2023 OR a = 1";
    assert_eq!(place.query(sql).await.unwrap(), "7");
}

#[tokio::test]
async fn partition_filters_leave_files_unread() {
    let place = Place::new();
    for year in [2023, 2024] {
        let target = format!("p/y={year}/x.parquet");
        std::fs::create_dir_all(place.path(&format!("p/y={year}"))).unwrap();
        place.copy(&format!("SELECT {year} AS a"), &target, &[]).await.unwrap();
    }
    place.open_path(&place.text("p")).await.unwrap();
    let plan = place.query("EXPLAIN SELECT a FROM t WHERE y = 2023").await.unwrap();
    assert!(plan.contains("y=2023") && !plan.contains("y=2024"), "{plan}");
    assert_eq!(place.query("SELECT count(*), count(y), min(y) FROM t").await.unwrap(), "2,2,2023");
}

#[tokio::test]
async fn declared_columns_and_partitions() {
    let place = Place::new();
    place.file("p/k=07/x.csv", "1,x\n");
    let path = place.text("p");
    let fields = [("a", DataType::Int32), ("b", DataType::Utf8View), ("k", DataType::Utf8View)];
    let table = declared(Format::Csv, &[("path", &path)], &fields, &["k"]).unwrap();
    place.open(&table).await.unwrap();
    assert_eq!(place.query("SELECT a, b, k FROM t").await.unwrap(), "1,x,07");
    // Not said to be a partition column, but the directories say so; the type is the declared one.
    let table = declared(Format::Csv, &[("path", &path)], &fields, &[]).unwrap();
    place.open(&table).await.unwrap();
    assert_eq!(place.query("SELECT a, b, k FROM t").await.unwrap(), "1,x,07");
    let empty = place.text("new/");
    let table = declared(Format::Parquet, &[("path", &empty)], &fields, &[]).unwrap();
    place.open(&table).await.unwrap();
    assert_eq!(place.query("SELECT count(*) FROM t").await.unwrap(), "0");
}

#[tokio::test]
async fn parquet_files_unite_their_columns() {
    let place = Place::new();
    std::fs::create_dir(place.path("d")).unwrap();
    place.copy("SELECT 1 AS a", "d/1.parquet", &[]).await.unwrap();
    place.copy("SELECT 2 AS a, 'x' AS b", "d/2.parquet", &[]).await.unwrap();
    let rows = place.direct(&place.text("d"), "SELECT a, b FROM t ORDER BY a").await.unwrap();
    assert_eq!(rows, "1,;2,x");
    let path = place.text("d");
    let first = [("path", path.as_str()), ("mergeSchema", "false")];
    place.spark(Format::Parquet, &first, "SELECT a FROM t").await.unwrap();
    assert_eq!(place.columns().await, "a Int64");
}

#[tokio::test]
async fn a_changed_file_is_seen_by_the_next_query() {
    let place = Place::new();
    let path = place.file("d/1.csv", "a\n1\n");
    place.open_path(&place.text("d")).await.unwrap();
    assert_eq!(place.query("SELECT sum(a) FROM t").await.unwrap(), "1");
    place.file("d/2.csv", "a\n20\n");
    assert_eq!(place.query("SELECT sum(a) FROM t").await.unwrap(), "21");
    std::fs::remove_file(path).unwrap();
    assert_eq!(place.query("SELECT sum(a) FROM t").await.unwrap(), "20");
}

#[tokio::test]
async fn names_with_odd_characters() {
    let place = Place::new();
    for name in ["a b.csv", "ä.csv", "100%.csv", "x[1].csv", "q?.csv", "k=v.csv", "a#b.csv"] {
        let path = place.file(name, "a\n1\n");
        assert_eq!(place.direct(&path, "SELECT a FROM t").await.unwrap(), "1", "{name}");
    }
}

#[tokio::test]
async fn what_looks_like_no_path_is_none() {
    let place = Place::new();
    assert!(open_path(&place.state(), "no_such_table", None).await.unwrap().is_none());
    assert!(open_path(&place.state(), "", None).await.unwrap().is_none());
    assert!(open_path(&place.state(), "no_such.csv", None).await.is_err());
}

#[tokio::test]
async fn formats_by_content() {
    let place = Place::new();
    place.copy("SELECT 7 AS a", "x.parquet", &[]).await.unwrap();
    std::fs::rename(place.path("x.parquet"), place.path("mystery")).unwrap();
    assert_eq!(place.direct(&place.text("mystery"), "SELECT a FROM t").await.unwrap(), "7");
    let json = place.file("lines", "{\"a\": 3}\n");
    assert_eq!(place.direct(&json, "SELECT a FROM t").await.unwrap(), "3");
    let text = place.file("text", "a,b\n1,2\n");
    let error = place.open_path(&text).await.unwrap_err();
    assert!(error.to_string().contains("its format cannot be told"), "{error}");
}

#[tokio::test]
async fn a_declared_order_is_used() {
    let place = Place::new();
    let path = place.file("x.csv", "a\n1\n2\n3\n");
    let mut table = FileTable::undeclared(Format::Csv, &path).unwrap();
    table.order = vec![vec![super::super::SortColumn {
        column: "a".to_owned(),
        ascending: true,
        nulls_first: false,
    }]];
    place.open(&table).await.unwrap();
    let plan = place.query("EXPLAIN SELECT a FROM t ORDER BY a").await.unwrap();
    assert!(!plan.contains("SortExec"), "{plan}");
}
