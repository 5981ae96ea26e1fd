//! Damaged files: an answer or an error that names the file, and never a panic or an abort.
//!
//! An abort would end the test process, so passing is the proof. The seeds are fixed.

use super::*;

/// A small generator of our own, so that the cases never change with a library's version.
struct Random(u64);

impl Random {
    fn next(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

fn damage(bytes: &[u8], case: u64) -> Vec<u8> {
    let mut random = Random(case.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    random.next(2);
    let mut bytes = bytes.to_vec();
    match case % 4 {
        0 => bytes.truncate(random.next(bytes.len())),
        1 => {
            // One whole length or offset becomes huge, negative or odd.
            let at = random.next(bytes.len().saturating_sub(8).max(1));
            let value: i64 = [i64::MAX, -1, i64::from(i32::MAX), 1 << 40][random.next(4)];
            for (to, from) in bytes[at..].iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
        }
        2 => {
            // Mostly near the end, where footers are.
            let near = bytes.len().min(400);
            let at = bytes.len() - 1 - random.next(near);
            bytes[at] = random.next(256) as u8;
        }
        _ => {
            for _ in 0..=random.next(8) {
                let at = random.next(bytes.len());
                bytes[at] ^= 1 << random.next(8);
            }
        }
    }
    bytes
}

async fn survive(name: &str, query: &str, options: &[(&str, &str)], cases: u64) {
    let place = Place::new();
    place.copy(query, name, options).await.unwrap();
    let bytes = std::fs::read(place.path(name)).unwrap();
    survive_bytes(&place, name, &bytes, cases).await;
}

async fn survive_bytes(place: &Place, name: &str, bytes: &[u8], cases: u64) {
    let mut failed = 0;
    for case in 0..cases {
        let damaged = format!("{case}-{name}");
        let path = place.file(&damaged, damage(bytes, case));
        match place.direct(&path, "SELECT * FROM t").await {
            Ok(_) => {}
            Err(error) => {
                failed += 1;
                let text = error.to_string();
                assert!(text.contains(&damaged), "case {case}: {error:?}");
            }
        }
        std::fs::remove_file(path).unwrap();
    }
    assert!(failed > 0, "no damage was ever noticed");
}

const TYPED: &str = "SELECT value AS i, value || 'text' AS s, value % 3 = 0 AS b, \
                     CASE WHEN value % 5 > 0 THEN value * 1.5 END AS f, [value, value + 1] AS l, \
                     arrow_cast('k' || (value % 4), 'Dictionary(Int32, Utf8)') AS k \
                     FROM generate_series(1, 200)";

#[tokio::test]
async fn damaged_parquet() {
    survive("x.parquet", TYPED, &[("compression", "snappy")], 240).await;
    survive("x.parquet", TYPED, &[("compression", "uncompressed")], 160).await;
}

#[tokio::test]
async fn damaged_arrow() {
    survive("x.arrow", TYPED, &[], 400).await;
}

#[tokio::test]
async fn damaged_text() {
    survive("x.csv.gz", "SELECT value AS a FROM generate_series(1, 500)", &[], 100).await;
    survive("x.json", "SELECT value AS a, 'x' AS b FROM generate_series(1, 50)", &[], 100).await;
}

#[tokio::test]
async fn damaged_avro() {
    use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray};
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    use datafusion::arrow_avro::writer::AvroWriter;
    let schema = Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Utf8, true),
    ]);
    let batch = RecordBatch::try_new(
        Arc::new(schema.clone()),
        vec![
            Arc::new(Int64Array::from_iter_values(0..300)),
            Arc::new(StringArray::from_iter_values((0..300).map(|i| format!("text {i}")))),
        ],
    )
    .unwrap();
    let mut writer = AvroWriter::new(Vec::new(), schema).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let bytes = writer.into_inner();
    let place = Place::new();
    let path = place.file("good.avro", &bytes);
    let rows = place.direct(&path, "SELECT count(*), sum(a), max(b) FROM t").await.unwrap();
    assert_eq!(rows, "300,44850,text 99");
    survive_bytes(&place, "x.avro", &bytes, 300).await;
}
