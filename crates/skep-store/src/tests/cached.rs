//! What only cached partitions have: types of their own for each batch, and readers that skip.

use datafusion::arrow::compute::cast;

use super::*;

/// The batches of a cached table, each in types of its own.
fn encoded() -> Vec<RecordBatch> {
    let kinds = [
        (DataType::Int64, DataType::Utf8),
        (
            DataType::Int16,
            DataType::Dictionary(Box::new(DataType::UInt8), Box::new(DataType::Utf8)),
        ),
        (DataType::Int32, DataType::Utf8View),
    ];
    (0..9_usize)
        .map(|n| {
            let (number, text) = &kinds[n % 3];
            let batch = batch(n as i64 * 40, 40);
            let columns: Vec<ArrayRef> =
                vec![cast(batch.column(0), number).unwrap(), cast(batch.column(1), text).unwrap()];
            RecordBatch::try_from_iter_with_nullable([
                ("number", Arc::clone(&columns[0]), false),
                ("text", Arc::clone(&columns[1]), true),
            ])
            .unwrap()
        })
        .collect()
}

async fn sealed(fixture: &Fixture, level: StorageLevel) -> PartitionKey {
    let mut writer = fixture.writer(cached("t", 0), level);
    for batch in encoded() {
        writer.append(0, batch).await.unwrap();
    }
    writer.seal().await.unwrap().remove(0).partition
}

#[tokio::test]
async fn batches_keep_their_own_types_in_memory_and_on_disk() {
    for level in [StorageLevel::MemoryOnly, StorageLevel::DiskOnly] {
        // Frames of several batches.
        let fixture = Fixture::new(1 << 20, |config| config.spill_chunk_bytes = 4096);
        let key = sealed(&fixture, level).await;
        assert_eq!(fixture.spill_files().is_empty(), level == StorageLevel::MemoryOnly);
        assert_eq!(fixture.read(&key).await.unwrap(), encoded());
        fixture.store.release([&key], Readers::Finish);
        fixture.assert_empty();
    }
}

#[tokio::test]
async fn a_reader_skips_what_is_not_wanted_and_still_counts_it() {
    for level in [StorageLevel::MemoryOnly, StorageLevel::DiskOnly] {
        let fixture = Fixture::new(1 << 20, |config| config.spill_chunk_bytes = 4096);
        let key = sealed(&fixture, level).await;
        for wanted in 0..1_u32 << 9 {
            let wanted: Vec<bool> = (0..9).map(|batch| wanted >> batch & 1 == 1).collect();
            let expected: Vec<RecordBatch> = encoded()
                .into_iter()
                .zip(&wanted)
                .filter_map(|(batch, is_wanted)| is_wanted.then_some(batch))
                .collect();
            let reader = fixture.store.read(&key, 0).unwrap().only(wanted.into());
            assert_eq!(reader.try_collect::<Vec<_>>().await.unwrap(), expected);
        }
    }
}

#[tokio::test]
async fn what_nobody_wants_is_not_read_from_disk() {
    let fixture = Fixture::new(1 << 20, |config| config.spill_chunk_bytes = 1);
    let key = sealed(&fixture, StorageLevel::DiskOnly).await;
    for file in fixture.spill_files() {
        std::fs::remove_file(file).unwrap();
    }
    let none: Arc<[bool]> = vec![false; 9].into();
    let reader = fixture.store.read(&key, 0).unwrap().only(none);
    assert_eq!(reader.try_collect::<Vec<_>>().await.unwrap(), []);
    assert!(fixture.read(&key).await.is_err());
}

#[tokio::test]
async fn another_reader_of_a_reader_outlives_the_lease() {
    let fixture = Fixture::roomy();
    let key = sealed(&fixture, StorageLevel::MemoryOnly).await;
    let held = fixture.store.read(&key, 0).unwrap();
    fixture.store.end_epoch(&"t".into(), Epoch(1), Readers::Finish);
    assert!(fixture.store.read(&key, 0).is_err());
    let again = held.again();
    drop(held);
    assert_eq!(again.try_collect::<Vec<_>>().await.unwrap(), encoded());
    fixture.assert_empty();
}

#[tokio::test]
async fn a_table_that_does_not_fit_keeps_the_partitions_that_it_has() {
    let fixture = Fixture::new(200_000, |_| {});
    let level = StorageLevel::MemoryOnly;
    let mut kept = Vec::new();
    for partition in 0..40 {
        let mut writer = fixture.writer(cached("large", partition), level);
        match writer.append(0, batch(0, 400)).await {
            Ok(()) => kept.extend(writer.seal().await.unwrap()),
            Err(error) => assert!(matches!(error, Error::MemoryExhausted { .. }), "{error}"),
        }
    }
    assert!(!kept.is_empty() && kept.len() < 40, "{}", kept.len());
    // All of the first that were kept, and none of the last.
    for (partition, counts) in kept.iter().enumerate() {
        assert_eq!(counts.partition, cached("large", partition).output(0));
        assert!(fixture.store.counts(&counts.partition).is_some());
    }
    // Another table makes them go.
    let mut writer = fixture.writer(cached("other", 0), level);
    writer.append(0, batch(0, 400)).await.unwrap();
    writer.seal().await.unwrap();
    assert!(fixture.store.counts(&kept[0].partition).is_none());
}
