//! Batches come back as they went, whatever is in them.

use datafusion::arrow::array::*;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::Int32Type;

use super::*;
use crate::error::Error;
use crate::exchange::config::ExchangeCompression;
use crate::scheduler::FetchFault;

const COMPRESSIONS: [ExchangeCompression; 2] =
    [ExchangeCompression::Lz4, ExchangeCompression::None];

/// Texts, twice as dictionaries: one that both batches share, one that the second replaces.
fn dictionaries() -> Vec<RecordBatch> {
    let shared: DictionaryArray<Int32Type> = ["a", "b", "a", "c"].into_iter().collect();
    let make = |words: [&str; 4]| {
        let own: DictionaryArray<Int32Type> = words.into_iter().collect();
        let nested = ListArray::new(
            Arc::new(Field::new_list_field(own.data_type().clone(), true)),
            datafusion::arrow::buffer::OffsetBuffer::from_lengths([1, 0, 2, 1]),
            Arc::new(own.clone()),
            None,
        );
        let columns: [(&str, ArrayRef); 3] = [
            ("shared", Arc::new(shared.clone())),
            ("own", Arc::new(own)),
            ("nested", Arc::new(nested)),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    vec![make(["x", "y", "y", "z"]), make(["z", "p", "q", "q"]), make(["z", "p", "q", "q"])]
}

fn views_and_structs() -> Vec<RecordBatch> {
    let texts: ArrayRef = Arc::new(StringArray::from_iter(
        (0..500).map(|n| (n % 3 != 0).then(|| "long ".repeat(n % 9) + &n.to_string())),
    ));
    let views = cast(&texts, &DataType::Utf8View).unwrap();
    let bytes = cast(&texts, &DataType::BinaryView).unwrap();
    let fields = vec![
        Field::new("texts", DataType::Utf8, true),
        Field::new("views", DataType::Utf8View, true),
    ];
    let pairs = StructArray::new(fields.into(), vec![texts, Arc::clone(&views)], None);
    let columns: [(&str, ArrayRef); 3] =
        [("views", views), ("bytes", bytes), ("pairs", Arc::new(pairs))];
    let whole = RecordBatch::try_from_iter(columns).unwrap();
    vec![whole.slice(0, 100), whole.slice(333, 167), whole.slice(17, 0), whole]
}

/// Numbers of all types, of which each batch has smaller or larger ones.
fn numbers() -> Vec<RecordBatch> {
    let make = |shift: u32| {
        let all = (0..300_i64).map(|n| (n % 7 != 3).then(|| n.wrapping_mul(0x51ed_270b) >> shift));
        let plain = all.clone().map(Option::unwrap_or_default);
        let decimals = all.clone().map(|n| n.map(|n| i128::from(n) << 40));
        let decimals: Decimal128Array = decimals.collect();
        let columns: Vec<(&str, ArrayRef, bool)> = vec![
            ("long", Arc::new(Int64Array::from_iter_values(plain)), false),
            (
                "int",
                Arc::new(all.clone().map(|n| n.map(|n| n as i32)).collect::<Int32Array>()),
                true,
            ),
            (
                "word",
                Arc::new(all.clone().map(|n| n.map(|n| n as u64)).collect::<UInt64Array>()),
                true,
            ),
            (
                "day",
                Arc::new(all.clone().map(|n| n.map(|n| n as i32)).collect::<Date32Array>()),
                true,
            ),
            ("time", Arc::new(all.clone().collect::<TimestampMicrosecondArray>()), true),
            ("price", Arc::new(decimals.with_precision_and_scale(38, 2).unwrap()), true),
            ("share", Arc::new(all.map(|n| n.map(|n| n as f64)).collect::<Float64Array>()), true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    };
    let narrow = make(34);
    vec![narrow.slice(0, 0), narrow, make(0), make(24).slice(7, 100), make(34)]
}

fn rows_without_columns() -> Vec<RecordBatch> {
    let none = Arc::new(Schema::empty());
    [3, 0, 40_000]
        .into_iter()
        .map(|rows| {
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            RecordBatch::try_new_with_options(Arc::clone(&none), Vec::new(), &options).unwrap()
        })
        .collect()
}

#[tokio::test]
async fn every_kind_of_batch_comes_back_from_memory_and_from_disk() {
    for compression in COMPRESSIONS {
        for level in [StorageLevel::MemoryAndDisk, StorageLevel::DiskOnly] {
            let change = |config: &mut ServeConfig| config.compression = compression;
            let keeper = Keeper::start_with(1 << 30, change, None).await;
            let reader = Reader::new();
            let kinds = [
                dictionaries(),
                views_and_structs(),
                numbers(),
                rows_without_columns(),
                vec![batch(0, 0), batch(0, 5), batch(5, 0)],
                batches(0, 20),
            ];
            for (producer, written) in kinds.into_iter().enumerate() {
                let schema = written[0].schema();
                keeper.write(producer, level, vec![written.clone()]).await;
                let read = reader.read_as(keeper.output(producer, 0), schema).await.unwrap();
                assert_eq!(read, written, "{compression:?}, {level:?}, kind {producer}");
            }
            keeper.write(9, level, vec![Vec::new()]).await;
            assert!(reader.read(keeper.output(9, 0)).await.unwrap().is_empty());
            assert_eq!(reader.pool.reserved(), 0);
            keeper.wait_for_idle().await;
        }
    }
}

#[tokio::test]
async fn a_fetch_begins_at_the_batch_that_is_named() {
    let keeper = Keeper::start().await;
    let reader = Reader::new();
    keeper.write(0, StorageLevel::MemoryAndDisk, vec![batches(0, 10)]).await;
    for start_batch in [0, 3, 9, 10] {
        let output = RemoteOutput { start_batch, ..keeper.output(0, 0) };
        let read = reader.read(output).await.unwrap();
        assert_eq!(read, batches(0, 10)[start_batch as usize..]);
    }
    let output = RemoteOutput { start_batch: 11, ..keeper.output(0, 0) };
    let failure = reader.read(output).await.unwrap_err();
    assert_eq!(failure.fault, FetchFault::Refused);
    assert!(failure.to_string().contains("has 10 batches"), "{failure}");
}

#[tokio::test]
async fn a_row_may_be_larger_than_a_batch_but_not_than_a_message() {
    let limit = 8 << 20;
    let keeper = Keeper::start_with(1 << 30, |config| config.max_message_bytes = limit, None).await;
    let reader = Reader::with(1 << 30, |config| config.max_message_bytes = limit);
    let row = |bytes: usize| {
        let column: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(bytes)]));
        RecordBatch::try_from_iter([("text", column)]).unwrap()
    };
    let (large, too_large) = (row(5 << 20), row(9 << 20));
    let outputs = vec![vec![large.clone()], vec![too_large]];
    keeper.write(0, StorageLevel::MemoryAndDisk, outputs).await;
    let read = reader.read_as(keeper.output(0, 0), large.schema()).await.unwrap();
    assert_eq!(read, std::slice::from_ref(&large));
    let failure = reader.read_as(keeper.output(0, 1), large.schema()).await.unwrap_err();
    assert!(!failure.error.is_retryable());
    let text = failure.to_string();
    assert!(text.contains("needs a message of") && text.contains("the limit is 8388608"), "{text}");
}

#[tokio::test]
async fn other_columns_than_the_plan_has_are_an_error() {
    let keeper = Keeper::start().await;
    let reader = Reader::new();
    keeper.write(0, StorageLevel::MemoryAndDisk, vec![batches(0, 1)]).await;
    let of = |name, kind| {
        let text = Field::new("text", DataType::Utf8, true);
        Arc::new(Schema::new(vec![Field::new(name, kind, false), text]))
    };
    let others = [
        of("number", DataType::Int32),
        of("other", DataType::Int64),
        Arc::new(Schema::new(schema().fields()[..1].to_vec())),
    ];
    for other in others {
        let failure = reader.read_as(keeper.output(0, 0), other).await.unwrap_err();
        assert!(matches!(failure.error, Error::ColumnsDiffer { .. }), "{failure}");
    }
}
