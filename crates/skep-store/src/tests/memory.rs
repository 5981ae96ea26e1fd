//! Memory and disk run out: of the store itself, of others, of the device.

use datafusion::arrow::array::{Array, DictionaryArray, Int32Array, StringViewArray};
use datafusion::common::runtime::JoinSet;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer};
use skep_proto::ErrorCode;

use super::*;
use crate::error::Error;

async fn fill(fixture: &Fixture, key: WriterKey, level: StorageLevel, batches: i64) {
    let mut writer = fixture.writer(key, level);
    for n in 0..batches {
        writer.append(0, batch(n * 100, 100)).await.unwrap();
    }
    writer.seal().await.unwrap();
}

async fn assert_whole(fixture: &Fixture, key: WriterKey, batches: i64) {
    let read = fixture.read(&key.output(0)).await.unwrap();
    assert_eq!(numbers(&read), (0..batches * 100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tiny_pool_makes_exchanges_spill_and_is_never_exceeded_by_much() {
    let limit = 20_000;
    let fixture = Fixture::new(limit, |config| config.spill_chunk_bytes = 4096);
    for producer in 0..4 {
        let mut writer = fixture.writer(task(1, producer), StorageLevel::MemoryAndDisk);
        for n in 0..20 {
            writer.append(0, batch(n * 100, 100)).await.unwrap();
            assert!(fixture.pool.reserved() <= limit, "{}", fixture.pool.reserved());
        }
        writer.seal().await.unwrap();
    }
    assert!(!fixture.spill_files().is_empty());
    let stats = fixture.store.stats();
    assert!(stats.spilled_bytes_total > 0 && stats.disk_bytes > 0 && stats.memory_bytes > 0);
    for producer in 0..4 {
        assert_whole(&fixture, task(1, producer), 20).await;
    }
    fixture.store.end_query(QueryId(1), Readers::Finish);
    fixture.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_others_hold_lets_exchanges_go_to_disk_in_buffers() {
    let fixture = Fixture::new(1000, |config| config.write_buffer_bytes = 40_000);
    let other = MemoryConsumer::new("other").register(&fixture.pool);
    other.try_grow(1000).unwrap();
    let mut writer = fixture.writer(task(1, 0), StorageLevel::MemoryAndDisk);
    for n in 0..100 {
        writer.append(0, batch(n * 100, 100)).await.unwrap();
        assert!(fixture.pool.reserved() <= 1000 + 40_000 + 10_000);
    }
    writer.seal().await.unwrap();
    assert_whole(&fixture, task(1, 0), 100).await;
    assert_eq!(other.size(), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_consumer_makes_the_store_yield() {
    for can_spill in [false, true] {
        let fixture = Fixture::new(100_000, |config| {
            config.yield_floor_bytes = 30_000;
            config.spill_chunk_bytes = 5000;
        });
        fill(&fixture, task(1, 0), StorageLevel::MemoryAndDisk, 25).await;
        fill(&fixture, cached("t", 0), StorageLevel::MemoryOnly, 5).await;
        let held = fixture.pool.reserved();
        assert!(held > 80_000, "{held}");
        let other = MemoryConsumer::new("sort").with_can_spill(can_spill).register(&fixture.pool);
        other.try_grow(60_000).unwrap();
        assert!(fixture.pool.reserved() <= 100_000);
        assert!(fixture.store.stats().memory_bytes >= if can_spill { 25_000 } else { 0 });
        // The cached table went first, and was dropped, not spilled.
        assert!(fixture.store.counts(&cached("t", 0).output(0)).is_none());
        assert_eq!(fixture.store.stats().dropped_partitions_total, 1);
        // All of it only for one that has no other way.
        let outcome = other.try_grow(39_000);
        assert_eq!(outcome.is_ok(), !can_spill);
        drop(other);
        assert_whole(&fixture, task(1, 0), 25).await;
        fixture.store.end_query(QueryId(1), Readers::Finish);
        fixture.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fair_pool_works_as_well() {
    let directory = TempDir::new().unwrap();
    let mut config = StoreConfig::new(directory.path());
    config.yield_step_bytes = 1;
    let pool: Arc<dyn MemoryPool> = Arc::new(StorePool::new(Arc::new(FairSpillPool::new(200_000))));
    let store = PartitionStore::open(config, Arc::clone(&pool)).unwrap();
    let fixture = Fixture { store, pool, directory };
    fill(&fixture, task(1, 0), StorageLevel::MemoryAndDisk, 30).await;
    let spillers: Vec<_> = (0..2)
        .map(|_| MemoryConsumer::new("sort").with_can_spill(true).register(&fixture.pool))
        .collect();
    for spiller in &spillers {
        spiller.try_grow(90_000).unwrap();
    }
    assert!(fixture.pool.reserved() <= 200_000);
    drop(spillers);
    assert_whole(&fixture, task(1, 0), 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_only_without_memory_is_an_error() {
    let fixture = Fixture::new(10_000, |_| {});
    let mut writer = fixture.writer(cached("t", 0), StorageLevel::MemoryOnly);
    let mut outcome = Ok(());
    for n in 0..10 {
        outcome = writer.append(0, batch(n * 100, 100)).await;
        if outcome.is_err() {
            break;
        }
    }
    let error = outcome.unwrap_err();
    assert!(matches!(error, Error::MemoryExhausted { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::ResourceExhausted);
    // A writer that failed half-way does not seal what it has.
    assert!(writer.seal().await.is_err());
    fixture.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_limit_is_an_error_unless_cached_files_can_go() {
    let fixture = Fixture::new(1 << 30, |config| {
        config.disk_limit_bytes = 20_000;
        config.compression = Compression::None;
    });
    fill(&fixture, cached("t", 0), StorageLevel::DiskOnly, 3).await;
    fill(&fixture, task(1, 0), StorageLevel::DiskOnly, 3).await;
    assert_eq!(fixture.spill_files().len(), 2);
    fill(&fixture, task(1, 1), StorageLevel::DiskOnly, 3).await;
    assert!(fixture.store.counts(&cached("t", 0).output(0)).is_none());
    let mut writer = fixture.writer(task(1, 2), StorageLevel::DiskOnly);
    let error = writer.append(0, batch(0, 2000)).await.unwrap_err();
    assert!(matches!(error, Error::DiskLimit { limit: 20_000, .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::ResourceExhausted);
    drop(writer);
    assert_whole(&fixture, task(1, 0), 3).await;
    assert_whole(&fixture, task(1, 1), 3).await;
    fixture.store.end_query(QueryId(1), Readers::Finish);
    fixture.assert_empty();
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_device_and_a_vanished_directory_are_errors_with_their_place() {
    let fixture = Fixture::roomy();
    let incarnation = std::fs::read_dir(fixture.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir())
        .unwrap();
    // The first writer's file is the first thing that a store gives a number.
    std::os::unix::fs::symlink("/dev/full", incarnation.join("0.spill")).unwrap();
    let mut writer = fixture.writer(task(1, 0), StorageLevel::DiskOnly);
    let error = writer.append(0, batch(0, 10)).await.unwrap_err();
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    assert!(error.to_string().contains("0.spill"), "{error}");
    drop(writer);
    fixture.assert_empty();
    std::fs::remove_dir_all(&incarnation).unwrap();
    let mut writer = fixture.writer(task(1, 1), StorageLevel::DiskOnly);
    let error = writer.append(0, batch(0, 10)).await.unwrap_err();
    assert!(matches!(error, Error::Io { action: "write", .. }), "{error}");
    drop(writer);
    fixture.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stores_own_limit_holds_below_the_pools() {
    let fixture = Fixture::new(1 << 30, |config| config.memory_limit_bytes = 30_000);
    fill(&fixture, task(1, 0), StorageLevel::MemoryAndDisk, 50).await;
    assert!(fixture.pool.reserved() <= 30_000);
    assert_whole(&fixture, task(1, 0), 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_and_readers_work_side_by_side_under_pressure() {
    let fixture = Fixture::new(100_000, |config| config.spill_chunk_bytes = 8192);
    fill(&fixture, task(7, 0), StorageLevel::MemoryAndDisk, 30).await;
    let mut tasks = JoinSet::new();
    for producer in 0..6 {
        let mut writer = fixture.writer(task(1, producer), StorageLevel::MemoryAndDisk);
        tasks.spawn(async move {
            for n in 0..30 {
                writer.append(n as usize % 3, batch(n * 100, 100)).await.unwrap();
            }
            writer.seal().await.unwrap();
        });
        let reader = fixture.store.read(&task(7, 0).output(0), 0).unwrap();
        tasks.spawn(async move {
            let read: Vec<RecordBatch> = reader.try_collect().await.unwrap();
            assert_eq!(numbers(&read), (0..3000).collect::<Vec<_>>());
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome.unwrap();
    }
    for producer in 0..6 {
        let mut all = Vec::new();
        for output in 0..3 {
            let read = fixture.read(&task(1, producer).output(output)).await.unwrap();
            all.extend(numbers(&read));
        }
        all.sort_unstable();
        assert_eq!(all, (0..3000).collect::<Vec<_>>());
    }
    fixture.store.end_query(QueryId(1), Readers::Finish);
    fixture.store.end_query(QueryId(7), Readers::Finish);
    fixture.assert_empty();
}

fn one_column(array: ArrayRef) -> RecordBatch {
    let field = Field::new("column", array.data_type().clone(), true);
    RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![array]).unwrap()
}

/// What keeping these batches in a store of its own costs.
async fn cost(batches: &[RecordBatch]) -> usize {
    let fixture = Fixture::roomy();
    let mut writer = fixture.writer_of(
        task(1, 0),
        StorageLevel::MemoryAndDisk,
        batches[0].schema(),
        batches.len(),
    );
    for (output, batch) in batches.iter().enumerate() {
        writer.append(output, batch.clone()).await.unwrap();
    }
    writer.seal().await.unwrap();
    for (output, batch) in batches.iter().enumerate() {
        let read = fixture.read(&task(1, 0).output(output)).await.unwrap();
        assert_eq!(&read[0], batch);
    }
    fixture.pool.reserved()
}

#[tokio::test]
async fn narrow_windows_on_large_buffers_are_cut_out() {
    let texts = || (0..10_000).map(|n| format!("a text that is not inlined {n}"));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter(0..100_000));
    let views: ArrayRef = Arc::new(StringViewArray::from_iter_values(texts()));
    let values: ArrayRef = Arc::new(StringArray::from_iter_values(texts()));
    let keys = Int32Array::from_iter((0..10_000).map(|n| (n % 3 != 0).then_some(n)));
    let dictionary: ArrayRef =
        Arc::new(DictionaryArray::try_new(keys, Arc::clone(&values)).unwrap());
    for (name, array) in
        [("numbers", numbers), ("views", views), ("texts", values), ("dictionary", dictionary)]
    {
        let whole = cost(&[one_column(Arc::clone(&array))]).await;
        let window = cost(&[one_column(array.slice(500, 10))]).await;
        assert!(whole > 200_000, "{name}: {whole}");
        assert!(window < 3000, "{name}: {window}");
    }
}

#[tokio::test]
async fn buffers_that_batches_share_cost_once() {
    let texts = (0..500).map(|n| format!("a text that is not inlined {n}"));
    let values: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
    let dictionary = |shift: i32| -> RecordBatch {
        let keys = Int32Array::from_iter_values((0..200).map(|n| (n + shift) % 500));
        one_column(Arc::new(DictionaryArray::try_new(keys, Arc::clone(&values)).unwrap()))
    };
    let one = cost(&[dictionary(0)]).await;
    let ten = cost(&(0..10).map(dictionary).collect::<Vec<_>>()).await;
    let values_bytes = values.get_buffer_memory_size();
    assert!(one > values_bytes);
    assert!(ten < one + 9 * (one - values_bytes) + 2000, "{one}, {ten}, values {values_bytes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_last_stays_and_so_does_the_protected_share() {
    let fixture = Fixture::new(100_000, |config| config.protected_cache_bytes = 12_000);
    fill(&fixture, cached("t", 0), StorageLevel::MemoryAndDisk, 3).await;
    for producer in 0..3 {
        fill(&fixture, task(producer, 0), StorageLevel::MemoryAndDisk, 5).await;
    }
    assert_whole(&fixture, task(0, 0), 5).await;
    let other = MemoryConsumer::new("other").register(&fixture.pool);
    other.try_grow(100_000 - fixture.pool.reserved() + 1000).unwrap();
    let stats = fixture.store.stats();
    let is_in_memory = |query| stats.queries[&QueryId(query)].memory_bytes > 0;
    assert_eq!([0, 1, 2].map(is_in_memory), [true, false, true]);
    let is_cached = |usage: &Usage| usage.memory_bytes > 0;
    assert!(stats.tables.values().all(is_cached));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_spilled_stays_and_is_spilled_later() {
    let fixture = Fixture::new(60_000, |config| {
        config.disk_limit_bytes = 28_000;
        config.spill_chunk_bytes = 5000;
    });
    fill(&fixture, task(1, 0), StorageLevel::DiskOnly, 5).await;
    fill(&fixture, task(2, 0), StorageLevel::MemoryAndDisk, 15).await;
    let other = MemoryConsumer::new("other").register(&fixture.pool);
    let error = other.try_grow(60_000).unwrap_err();
    assert!(error.to_string().contains("disk limit"), "{error}");
    assert_whole(&fixture, task(2, 0), 15).await;
    fixture.store.end_query(QueryId(1), Readers::Finish);
    other.try_grow(60_000).unwrap();
    assert_whole(&fixture, task(2, 0), 15).await;
    drop(other);
    fixture.store.end_query(QueryId(2), Readers::Finish);
    fixture.assert_empty();
}
