//! Leases end, with readers and writers under way; directories of the dead are cleared.

use std::fs;

use futures::StreamExt;

use super::*;
use crate::error::Error;

async fn sealed(fixture: &Fixture, key: WriterKey, level: StorageLevel) -> PartitionKey {
    let mut writer = fixture.writer(key.clone(), level);
    for n in 0..5 {
        writer.append(0, batch(n * 10, 10)).await.unwrap();
    }
    writer.seal().await.unwrap();
    key.output(0)
}

const LEVELS: [StorageLevel; 2] = [StorageLevel::MemoryAndDisk, StorageLevel::DiskOnly];

/// One frame per batch, so that a reader comes back to the file after the first.
fn fixture() -> Fixture {
    Fixture::new(1 << 30, |config| config.spill_chunk_bytes = 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_let_finish_has_everything_and_frees_it_after() {
    for level in LEVELS {
        let fixture = fixture();
        let key = sealed(&fixture, task(1, 0), level).await;
        let mut reader = fixture.store.read(&key, 0).unwrap();
        let first = reader.next().await.unwrap().unwrap();
        fixture.store.end_query(QueryId(1), Readers::Finish);
        assert!(fixture.store.read(&key, 0).is_err());
        assert_eq!(fixture.store.stats().sealed_partitions, 0);
        let rest: Vec<RecordBatch> = reader.try_collect().await.unwrap();
        assert_eq!(numbers(&[vec![first], rest].concat()), (0..50).collect::<Vec<_>>());
        fixture.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_aborted_is_told_and_everything_is_free_at_once() {
    for level in LEVELS {
        let fixture = fixture();
        let key = sealed(&fixture, task(1, 0), level).await;
        let mut reader = fixture.store.read(&key, 0).unwrap();
        reader.next().await.unwrap().unwrap();
        let frame_bytes = fixture.pool.reserved();
        fixture.store.end_query(QueryId(1), Readers::Abort);
        assert_eq!(fixture.spill_files(), Vec::<PathBuf>::new());
        assert!(fixture.pool.reserved() == 0 || level == StorageLevel::DiskOnly);
        assert!(fixture.pool.reserved() <= frame_bytes);
        let error = reader.next().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::PartitionReleased { .. }), "{error}");
        assert!(reader.next().await.is_none());
        fixture.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn single_partitions_and_epochs_are_released() {
    let fixture = fixture();
    for level in LEVELS {
        let first = sealed(&fixture, task(1, 0), level).await;
        let second = sealed(&fixture, task(1, 1), level).await;
        let table = sealed(&fixture, cached("t", 4), level).await;
        let other = sealed(&fixture, cached("u", 4), level).await;
        let stats = fixture.store.stats();
        // Two tasks of three outputs, of which two are empty.
        assert_eq!(stats.queries[&QueryId(1)].partitions, 6);
        assert_eq!(stats.tables.len(), 2);
        fixture.store.release([&first, &first], Readers::Finish);
        assert!(fixture.read(&first).await.is_err());
        assert_eq!(fixture.read(&second).await.unwrap().len(), 5);
        fixture.store.end_epoch(&"t".into(), Epoch(2), Readers::Finish);
        assert!(fixture.store.counts(&table).is_some());
        fixture.store.end_epoch(&"t".into(), Epoch(1), Readers::Finish);
        assert!(fixture.store.counts(&table).is_none());
        fixture.store.release([&second, &other], Readers::Finish);
        let usage = fixture.store.stats().queries[&QueryId(1)];
        assert_eq!((usage.partitions, usage.memory_bytes, usage.disk_bytes), (4, 0, 0));
        let empty: Vec<PartitionKey> = [task(1, 0), task(1, 1)]
            .iter()
            .flat_map(|task| [task.output(1), task.output(2)])
            .collect();
        fixture.store.release(&empty, Readers::Finish);
        fixture.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_an_ended_query_are_told_and_new_ones_refused() {
    for level in LEVELS {
        let fixture = fixture();
        let mut writer = fixture.writer(task(1, 0), level);
        let idle = fixture.writer(task(1, 1), level);
        writer.append(0, batch(0, 10)).await.unwrap();
        fixture.store.end_query(QueryId(1), Readers::Finish);
        fixture.assert_empty();
        let error = writer.append(0, batch(10, 10)).await.unwrap_err();
        assert!(matches!(error, Error::WriterEnded { .. }), "{error}");
        assert!(writer.seal().await.is_err());
        assert!(matches!(idle.seal().await.unwrap_err(), Error::WriterEnded { .. }));
        let refused = fixture.store.writer(WriterSpec {
            key: task(1, 2),
            schema: schema(),
            output_count: 1,
            level,
        });
        assert!(matches!(refused.unwrap_err(), Error::QueryEnded { query: QueryId(1) }));
        fixture.assert_empty();
    }
}

#[tokio::test]
async fn as_many_ended_queries_are_remembered_as_configured() {
    let fixture = Fixture::new(1 << 30, |config| config.ended_queries_remembered = 2);
    for query in 1..=3 {
        fixture.store.end_query(QueryId(query), Readers::Finish);
        fixture.store.end_query(QueryId(query), Readers::Finish);
    }
    let open = |query| {
        let key = task(query, 0);
        let level = StorageLevel::MemoryAndDisk;
        fixture.store.writer(WriterSpec { key, schema: schema(), output_count: 1, level })
    };
    assert!(open(1).is_ok());
    assert!(open(2).is_err());
    assert!(open(3).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_race_with_the_end_of_the_lease() {
    for round in 0..40 {
        let fixture = fixture();
        let level = LEVELS[round % 2];
        let policy = [Readers::Finish, Readers::Abort][round / 2 % 2];
        let key = sealed(&fixture, task(1, 0), level).await;
        let mut tasks = datafusion::common::runtime::JoinSet::new();
        for _ in 0..4 {
            let (store, key) = (fixture.store.clone(), key.clone());
            tasks.spawn(async move {
                let batches: Vec<RecordBatch> = store.read(&key, 0)?.try_collect().await?;
                Ok::<_, Error>(numbers(&batches))
            });
        }
        tokio::task::yield_now().await;
        fixture.store.end_query(QueryId(1), policy);
        while let Some(outcome) = tasks.join_next().await {
            match outcome.unwrap() {
                Ok(numbers) => assert_eq!(numbers, (0..50).collect::<Vec<_>>()),
                Err(Error::PartitionNotFound { .. }) => {}
                Err(Error::PartitionReleased { .. }) => assert_eq!(policy, Readers::Abort),
                Err(error) => panic!("{error}"),
            }
        }
        fixture.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_process_left_is_removed_and_the_living_stay() {
    let fixture = fixture();
    let base = fixture.directory.path();
    let key = sealed(&fixture, task(1, 0), StorageLevel::DiskOnly).await;
    for dead in ["incarnation-1-2-3", "incarnation-no-lock"] {
        fs::create_dir(base.join(dead)).unwrap();
        fs::write(base.join(dead).join("0.spill"), b"old").unwrap();
    }
    fs::write(base.join("incarnation-1-2-3.lock"), b"").unwrap();
    fs::create_dir(base.join("somebody-else")).unwrap();
    let second =
        PartitionStore::open(StoreConfig::new(base), Arc::clone(&fixture.pool)).unwrap_err();
    assert!(matches!(second, Error::InvalidOption { option: "memory_pool", .. }), "{second}");
    let second =
        PartitionStore::open(StoreConfig::new(base), Arc::new(GreedyMemoryPool::new(1 << 20)))
            .unwrap();
    assert_eq!(fixture.spill_files().len(), 1);
    assert!(base.join("somebody-else").exists());
    assert!(!base.join("incarnation-1-2-3.lock").exists());
    assert_eq!(fixture.read(&key).await.unwrap().len(), 5);
    drop(second);
    let Fixture { store, directory, .. } = fixture;
    drop(store);
    assert_eq!(files_below(directory.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_directory_that_cannot_be_written_to_is_named() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1));
    let error = PartitionStore::open(StoreConfig::new(file.join("below")), pool).unwrap_err();
    assert!(matches!(error, Error::Io { action: "create", .. }), "{error}");
    assert!(error.to_string().contains("below"), "{error}");
}
