//! What is said of bad files: a sentence with the file and the place.

use super::*;

async fn failure(place: &Place, path: &str) -> String {
    let error = place.direct(path, "SELECT * FROM t").await.unwrap_err();
    assert!(matches!(error, Error::File { .. } | Error::Io { .. }), "{error:?}");
    error.to_string()
}

fn has(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "\"{part}\" is not in: {message}");
    }
}

#[tokio::test]
async fn missing_files_and_empty_places() {
    let place = Place::new();
    let missing = place.text("missing.csv");
    let error = place.open_path(&missing).await.unwrap_err();
    has(&error.to_string(), &[&missing, "no such file"]);
    assert_eq!(error.code(), skep_proto::ErrorCode::NotFound);
    has(&failure(&place, &place.text("*.csv")).await, &["*.csv", "no file matches"]);
    std::fs::create_dir(place.path("empty")).unwrap();
    has(&failure(&place, &place.text("empty")).await, &["empty", "no data files"]);
    place.file("nested/deep/x.csv", "a\n1\n");
    let error = place.open_path(&place.text("nested")).await.unwrap_err();
    has(error.hint().unwrap(), &["recursiveFileLookup"]);
    let path = place.file("x.csv", "a\n1\n");
    has(&failure(&place, &format!("{path}/")).await, &["not a directory"]);
}

#[tokio::test]
async fn empty_files() {
    let place = Place::new();
    for name in ["x.csv", "x.json", "x.parquet", "x.arrow", "x.avro"] {
        let path = place.file(name, "");
        has(&failure(&place, &path).await, &[name, "the file is empty"]);
    }
    // Beside others, an empty text file has no rows.
    place.file("d/1.csv", "a\n1\n");
    place.file("d/2.csv", "");
    assert_eq!(place.direct(&place.text("d"), "SELECT a FROM t").await.unwrap(), "1");
}

#[tokio::test]
async fn one_format_read_as_another() {
    let place = Place::new();
    place.copy("SELECT 1 AS a", "x.parquet", &[]).await.unwrap();
    std::fs::copy(place.path("x.parquet"), place.path("p.csv")).unwrap();
    has(&failure(&place, &place.text("p.csv")).await, &["as csv", "it is a parquet file"]);
    let path = place.file("c.parquet", "a,b\n1,2\n3,4\n5,6\n");
    has(&failure(&place, &path).await, &["as parquet", "looks like text"]);
    let path = place.file("c.json", "a,b\n1,2\n");
    has(&failure(&place, &path).await, &["as json", "neither { nor ["]);
    let path = place.file("c.arrow", "a,b\n1,2\n");
    has(&failure(&place, &path).await, &["as arrow", "looks like text"]);
    let path = place.file("c.avro", "{\"a\": 1}\n");
    has(&failure(&place, &path).await, &["as avro", "looks like JSON"]);
    let path = place.file("g.csv", [0x1f, 0x8b, 8, 0, 0, 0]);
    has(&failure(&place, &path).await, &["compressed with gzip"]);
    let path = place.file("g.csv.gz", "a,b\n1,2\n");
    has(&failure(&place, &path).await, &["not compressed with gzip"]);
    let path = place.file("u.csv", [0xff, 0xfe, b'a', 0]);
    has(&failure(&place, &path).await, &["UTF-16"]);
}

#[tokio::test]
async fn cut_off_files() {
    let place = Place::new();
    let query = "SELECT value AS a, value || 'x' AS b FROM generate_series(1, 1000)";
    for name in ["x.parquet", "x.arrow", "x.csv.gz", "x.json.zst"] {
        place.copy(query, name, &[]).await.unwrap();
        let bytes = std::fs::read(place.path(name)).unwrap();
        let path = place.file(&format!("cut-{name}"), &bytes[..bytes.len() / 2]);
        let message = failure(&place, &path).await;
        has(&message, &[&format!("cut-{name}")]);
        assert!(message.contains("cut off") || message.contains("damaged"), "{message}");
    }
}

#[tokio::test]
async fn ragged_csv_names_the_line() {
    let place = Place::new();
    let path = place.file("x.csv", "a,b\n1,2\n\n3,4,5\n");
    has(&failure(&place, &path).await, &["x.csv", "line 4 has 3 fields, expected 2"]);
    let path = place.file("y.csv", "a,b\n\"1\n1\",2\n3\n");
    has(&failure(&place, &path).await, &["y.csv", "line 4 has 1 field, expected 2"]);
    // Beyond what inference looks at, and in a file read in pieces.
    let mut text = String::from("a,b\n");
    for i in 0..60_000 {
        text.push_str(&format!("{i},{i}\n"));
    }
    text.push_str("1,2,3\n");
    let path = place.file("z.csv", text);
    has(&failure(&place, &path).await, &["z.csv", "line 60002 has 3 fields"]);
}

#[tokio::test]
async fn a_late_value_of_another_type_names_line_and_column() {
    let place = Place::new();
    let mut text = String::from("a,b\n");
    for i in 0..60_000 {
        text.push_str(&format!("{i},{i}\n"));
    }
    text.push_str("1,oops\n");
    let path = place.file("x.csv", text);
    let error = place.direct(&path, "SELECT sum(b) FROM t").await.unwrap_err();
    has(&error.to_string(), &["x.csv", "line 60002, column \"b\": 'oops' is no Int64"]);
    has(error.hint().unwrap(), &["declare the column as text"]);
    let options = [
        ("path", path.as_str()),
        ("header", "true"),
        ("inferSchema", "true"),
        ("samplingRatio", "1"),
    ];
    let rows = place.spark(Format::Csv, &options, "SELECT max(b) FROM t").await.unwrap();
    assert_eq!(rows, "oops");
}

#[tokio::test]
async fn bad_json_names_the_file() {
    let place = Place::new();
    let path = place.file("x.json", "{\"a\": 1}\n{\"a\": \n");
    has(&failure(&place, &path).await, &["x.json"]);
    let path = place.file("y.json", "[{\"a\": 1}, {\"a\"");
    has(&failure(&place, &path).await, &["y.json"]);
}

#[tokio::test]
async fn files_that_do_not_fit_together() {
    let place = Place::new();
    place.file("c/1.csv", "a,b\n1,2\n");
    place.file("c/2.csv", "b,a\n1,2\n");
    has(&failure(&place, &place.text("c")).await, &["2.csv", "(b, a)", "(a, b)"]);
    std::fs::create_dir(place.path("p")).unwrap();
    place.copy("SELECT 1 AS a", "p/1.parquet", &[]).await.unwrap();
    place.copy("SELECT 'x' AS a", "p/2.parquet", &[]).await.unwrap();
    has(&failure(&place, &place.text("p")).await, &["2.parquet", "column \"a\""]);
    place.file("k/a=1/x.csv", "x\n1\n");
    place.file("k/b=1/x.csv", "x\n1\n");
    has(&failure(&place, &place.text("k")).await, &["(b)", "(a)"]);
}

#[tokio::test]
async fn partition_values_must_have_the_declared_type() {
    let place = Place::new();
    place.file("p/k=x/1.csv", "1\n");
    let path = place.text("p");
    let fields = vec![
        datafusion::arrow::datatypes::Field::new(
            "a",
            datafusion::arrow::datatypes::DataType::Int64,
            true,
        ),
        datafusion::arrow::datatypes::Field::new(
            "k",
            datafusion::arrow::datatypes::DataType::Int64,
            true,
        ),
    ];
    let schema = Arc::new(datafusion::arrow::datatypes::Schema::new(fields));
    let table =
        FileTable::from_spark(Format::Csv, &[], Some(schema), Some(path), vec!["k".to_owned()])
            .unwrap();
    place.open(&table).await.unwrap();
    let error = place.query("SELECT * FROM t").await.unwrap_err();
    has(&error.to_string(), &["k=x/1.csv", "\"x\"", "column \"k\""]);
}

#[tokio::test]
async fn a_file_that_breaks_after_it_was_opened() {
    let place = Place::new();
    let query = "SELECT value AS a FROM generate_series(1, 100000)";
    place.copy(query, "x.parquet", &[]).await.unwrap();
    let path = place.text("x.parquet");
    place.open_path(&path).await.unwrap();
    std::fs::write(&path, "PAR1 not any more PAR1").unwrap();
    let error = place.query("SELECT sum(a) FROM t").await.unwrap_err();
    has(&error.to_string(), &["x.parquet"]);
    assert!(matches!(error, Error::File { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_no_location_or_table() {
    let place = Place::new();
    let error = place.spark(Format::Csv, &[], "SELECT 1").await.unwrap_err();
    has(&error.to_string(), &["needs a path"]);
    let error = place.open_path("s3://nobody-knows/x.csv").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn an_interval_is_refused_rather_than_read_without_its_months() {
    use datafusion::parquet::data_type::{FixedLenByteArray, FixedLenByteArrayType};
    use datafusion::parquet::file::properties::WriterProperties;
    use datafusion::parquet::file::writer::SerializedFileWriter;
    use datafusion::parquet::schema::parser::parse_message_type;

    let place = Place::new();
    let schema = "message m { REQUIRED FIXED_LEN_BYTE_ARRAY (12) iv (INTERVAL); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = std::fs::File::create(place.path("i.parquet")).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    // A month, two days, three seconds.
    let value = [1, 0, 0, 0, 2, 0, 0, 0, 184, 11, 0, 0].to_vec();
    let value = FixedLenByteArray::from(value);
    column.typed::<FixedLenByteArrayType>().write_batch(&[value], None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let message = failure(&place, &place.text("i.parquet")).await;
    has(&message, &["i.parquet", "column \"iv\" is an INTERVAL"]);
}
