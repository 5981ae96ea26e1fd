//! Every kind of column comes back as it went, from memory and from disk.

use std::sync::Arc;

use datafusion::arrow::array::*;
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::*;

use super::*;

const ROWS: usize = 40;

fn numbers_of_all_kinds() -> Vec<ArrayRef> {
    let source: ArrayRef =
        Arc::new(Int64Array::from_iter((0..ROWS as i64).map(|n| (n % 5 != 3).then_some(n))));
    let units =
        [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];
    let mut kinds = vec![
        DataType::Null,
        DataType::Boolean,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::UInt8,
        DataType::UInt16,
        DataType::UInt32,
        DataType::UInt64,
        DataType::Float16,
        DataType::Float32,
        DataType::Float64,
        DataType::Decimal32(6, 2),
        DataType::Decimal64(12, 2),
        DataType::Decimal128(20, 3),
        DataType::Decimal256(50, 3),
        DataType::Date64,
        DataType::Time64(TimeUnit::Microsecond),
        DataType::Time64(TimeUnit::Nanosecond),
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
    ];
    for unit in units {
        kinds.push(DataType::Timestamp(unit, None));
        kinds.push(DataType::Timestamp(unit, Some("Europe/Zurich".into())));
        kinds.push(DataType::Duration(unit));
    }
    let mut arrays: Vec<ArrayRef> = kinds
        .iter()
        .map(|kind| match kind {
            DataType::Null => new_null_array(kind, ROWS),
            _ => cast(&source, kind).unwrap(),
        })
        .collect();
    let small = cast(&source, &DataType::Int32).unwrap();
    for kind in [
        DataType::Date32,
        DataType::Time32(TimeUnit::Second),
        DataType::Time32(TimeUnit::Millisecond),
    ] {
        arrays.push(cast(&small, &kind).unwrap());
    }
    arrays
}

fn texts() -> StringArray {
    StringArray::from_iter(
        (0..ROWS).map(|n| (n % 4 != 1).then(|| format!("a text that is rather long {n}"))),
    )
}

fn bytes_and_intervals() -> Vec<ArrayRef> {
    let texts: ArrayRef = Arc::new(texts());
    let mut arrays: Vec<ArrayRef> = [
        DataType::Binary,
        DataType::LargeBinary,
        DataType::BinaryView,
        DataType::Utf8View,
        DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
        DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::LargeUtf8)),
    ]
    .iter()
    .map(|kind| cast(&texts, kind).unwrap())
    .collect();
    let fixed = (0..ROWS).map(|n| (n % 3 != 0).then_some([n as u8; 5]));
    arrays.push(Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed, 5).unwrap()));
    arrays.push(Arc::new(IntervalYearMonthArray::from_iter_values(0..ROWS as i32)));
    arrays.push(Arc::new(IntervalDayTimeArray::from_iter_values(
        (0..ROWS as i32).map(|n| IntervalDayTime::new(n, -n)),
    )));
    arrays.push(Arc::new(IntervalMonthDayNanoArray::from_iter(
        (0..ROWS as i32).map(|n| Some(IntervalMonthDayNano::new(n, -n, i64::from(n)))),
    )));
    arrays
}

fn nested() -> Vec<ArrayRef> {
    let texts: ArrayRef = Arc::new(texts());
    let views = cast(&texts, &DataType::Utf8View).unwrap();
    let item = |array: &ArrayRef| Arc::new(Field::new("item", array.data_type().clone(), true));
    let nulls = || Some(NullBuffer::from_iter((0..ROWS / 2).map(|n| n % 3 != 1)));
    let lengths = || OffsetBuffer::<i32>::from_lengths((0..ROWS / 2).map(|n| n % 5));
    let list: ArrayRef =
        Arc::new(ListArray::try_new(item(&views), lengths(), Arc::clone(&views), nulls()).unwrap());
    let lengths_of_large = OffsetBuffer::<i64>::from_lengths((0..ROWS / 2).map(|n| n % 4));
    let large: ArrayRef = Arc::new(
        LargeListArray::try_new(item(&texts), lengths_of_large, Arc::clone(&texts), None).unwrap(),
    );
    let fixed: ArrayRef = Arc::new(
        FixedSizeListArray::try_new(item(&texts), 2, Arc::clone(&texts), nulls()).unwrap(),
    );
    let dictionary: ArrayRef = cast(
        &texts.slice(0, ROWS / 2),
        &DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
    )
    .unwrap();
    let fields: Vec<Field> = [("list", &list), ("fixed", &fixed), ("dictionary", &dictionary)]
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let columns = vec![Arc::clone(&list), Arc::clone(&fixed), Arc::clone(&dictionary)];
    let structs: ArrayRef =
        Arc::new(StructArray::try_new(fields.into(), columns, nulls()).unwrap());
    let list_of_structs: ArrayRef = Arc::new(
        ListArray::try_new(
            item(&structs),
            OffsetBuffer::from_lengths(vec![1; ROWS / 2]),
            Arc::clone(&structs),
            nulls(),
        )
        .unwrap(),
    );
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for n in 0..ROWS / 2 {
        for entry in 0..n % 3 {
            map.keys().append_value(format!("key {n} {entry}"));
            map.values().append_option((entry != 1).then_some(n as i32));
        }
        map.append(n % 4 != 2).unwrap();
    }
    let runs: ArrayRef = Arc::new(
        RunArray::try_new(
            &Int32Array::from_iter_values((1..=ROWS as i32 / 4).map(|n| n * 2)),
            &texts.slice(0, ROWS / 4),
        )
        .unwrap(),
    );
    vec![
        list,
        large,
        fixed,
        dictionary,
        structs,
        list_of_structs,
        Arc::new(map.finish()),
        runs,
        unions(false),
        unions(true),
    ]
}

fn unions(is_dense: bool) -> ArrayRef {
    let rows = ROWS / 2;
    let fields = UnionFields::try_new(
        vec![0, 1],
        vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)],
    )
    .unwrap();
    let tags = ScalarBuffer::from_iter((0..rows).map(|n| (n % 2) as i8));
    let offsets = is_dense.then(|| ScalarBuffer::from_iter((0..rows).map(|n| n as i32 / 2)));
    let length = if is_dense { rows / 2 } else { rows };
    let children: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from_iter(0..length as i64)), Arc::new(texts().slice(0, length))];
    Arc::new(UnionArray::try_new(fields, tags, offsets, children).unwrap())
}

/// One batch per array: the lengths differ.
fn batches_of(arrays: &[ArrayRef]) -> Vec<RecordBatch> {
    arrays
        .iter()
        .map(|array| {
            let field = Field::new("column", array.data_type().clone(), true);
            RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::clone(array)])
                .unwrap()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_column_comes_back_from_memory_and_from_disk() {
    let batches = batches_of(&[numbers_of_all_kinds(), bytes_and_intervals(), nested()].concat());
    for compression in [Compression::Lz4, Compression::None] {
        let fixture = Fixture::new(1 << 30, |config| config.compression = compression);
        for (producer, whole) in batches.iter().enumerate() {
            let rows = whole.num_rows();
            let written = [
                whole.clone(),
                whole.slice(3, 9),
                whole.slice(rows - 1, 1),
                whole.slice(5, 0),
                whole.clone(),
            ];
            for (query, level) in [(1, StorageLevel::MemoryAndDisk), (2, StorageLevel::DiskOnly)] {
                let key = task(query, producer);
                let mut writer = fixture.writer_of(key.clone(), level, whole.schema(), 1);
                for batch in &written {
                    writer.append(0, batch.clone()).await.unwrap();
                }
                let counts = writer.seal().await.unwrap();
                assert_eq!(counts[0].batches, written.len() as u64);
                let read = fixture.read(&key.output(0)).await.unwrap();
                assert_eq!(read, written, "{} {level:?}", whole.schema());
            }
        }
        assert!(!fixture.spill_files().is_empty());
        fixture.store.end_query(QueryId(1), Readers::Finish);
        fixture.store.end_query(QueryId(2), Readers::Finish);
        fixture.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_columns_and_columns_without_rows_come_back() {
    let fixture = Fixture::roomy();
    let bare: SchemaRef = Arc::new(Schema::empty());
    let rows = |count| {
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(Arc::clone(&bare), vec![], &options).unwrap()
    };
    for (query, level) in [(1, StorageLevel::MemoryAndDisk), (2, StorageLevel::DiskOnly)] {
        let mut writer = fixture.writer_of(task(query, 0), level, Arc::clone(&bare), 2);
        writer.append(0, rows(12)).await.unwrap();
        writer.append(0, rows(0)).await.unwrap();
        let counts = writer.seal().await.unwrap();
        assert_eq!((counts[0].rows, counts[0].batches), (12, 2));
        assert_eq!((counts[1].rows, counts[1].batches), (0, 0));
        let read = fixture.read(&task(query, 0).output(0)).await.unwrap();
        assert_eq!(read, [rows(12), rows(0)]);
        assert_eq!(fixture.read(&task(query, 0).output(1)).await.unwrap(), []);

        let mut writer = fixture.writer(task(query, 1), level);
        writer.append(2, batch(0, 0)).await.unwrap();
        writer.seal().await.unwrap();
        assert_eq!(fixture.read(&task(query, 1).output(2)).await.unwrap(), [batch(0, 0)]);
    }
}

#[tokio::test]
async fn a_batch_with_other_columns_is_refused() {
    let fixture = Fixture::roomy();
    let mut writer =
        fixture.writer_of(task(1, 0), StorageLevel::MemoryAndDisk, Arc::new(Schema::empty()), 1);
    let error = writer.append(0, batch(0, 4)).await.unwrap_err();
    assert!(matches!(error, Error::SchemaMismatch { .. }), "{error}");
    drop(writer);
    fixture.assert_empty();
}
