//! What is read while it is written: all of it, in order, wherever it lies by then.

use futures::StreamExt;
use futures::future::{join, poll_immediate};

use super::*;
use crate::error::Error;

#[tokio::test]
async fn batches_come_as_they_are_written_and_the_end_when_they_are_sealed() {
    let fixture = Fixture::roomy();
    let mut writer = fixture.writer(task(1, 0), StorageLevel::MemoryAndDisk);
    let key = task(1, 0).output(1);
    writer.append(1, batch(0, 10)).await.unwrap();
    let mut reader = fixture.store.read_growing(&key).unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap(), batch(0, 10));
    assert!(poll_immediate(reader.next()).await.is_none());
    writer.append(0, batch(7, 10)).await.unwrap();
    assert!(poll_immediate(reader.next()).await.is_none());
    // It sleeps when the next batch comes, and wakes by it.
    let (next, written) = join(reader.next(), writer.append(1, batch(10, 10))).await;
    written.unwrap();
    assert_eq!(next.unwrap().unwrap(), batch(10, 10));
    let (end, sealed) = join(reader.next(), writer.seal()).await;
    assert_eq!(sealed.unwrap()[1].rows, 20);
    assert!(end.is_none());
    assert_eq!(reader.counts().rows, 20);
    drop(reader);
    let again: Vec<_> = fixture.store.read_growing(&key).unwrap().try_collect().await.unwrap();
    assert_eq!(numbers(&again), (0..20).collect::<Vec<_>>());
    fixture.store.end_query(QueryId(1), Readers::Abort);
    fixture.assert_empty();
}

#[tokio::test]
async fn what_is_never_sealed_never_ends_well() {
    let fixture = Fixture::roomy();
    let key = task(1, 0).output(0);
    let missing = fixture.store.read_growing(&key).unwrap_err();
    assert!(matches!(missing, Error::PartitionNotFound { .. }), "{missing}");
    let mut writer = fixture.writer(task(1, 0), StorageLevel::MemoryAndDisk);
    writer.append(0, batch(0, 10)).await.unwrap();
    let mut reader = fixture.store.read_growing(&key).unwrap();
    reader.next().await.unwrap().unwrap();
    let dropping = async { drop(writer) };
    let (end, ()) = join(reader.next(), dropping).await;
    let error = end.unwrap().unwrap_err();
    assert!(matches!(error, Error::PartitionReleased { .. }), "{error}");
    assert!(reader.next().await.is_none());
    drop(reader);
    fixture.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_go_to_disk_under_the_reader_are_read_from_there() {
    let size = footprint::Footprint::of(&batch(0, 10)).total;
    for level in [StorageLevel::MemoryAndDisk, StorageLevel::DiskOnly] {
        for lag in [0, 1, 4, 30] {
            let fixture = Fixture::new(1 << 30, |config| {
                config.spill_chunk_bytes = 3 * size;
                config.memory_limit_bytes = 5 * size;
            });
            let mut writer = fixture.writer(task(1, 0), level);
            let mut reader = fixture.store.read_growing(&task(1, 0).output(0)).unwrap();
            let mut read = Vec::new();
            for n in 0..30 {
                writer.append(0, batch(n * 10, 10)).await.unwrap();
                if n >= lag {
                    read.push(reader.next().await.unwrap().unwrap());
                }
            }
            writer.seal().await.unwrap();
            while let Some(batch) = reader.next().await {
                read.push(batch.unwrap());
            }
            assert_eq!(numbers(&read), (0..300).collect::<Vec<_>>(), "{level:?}, {lag} behind");
            assert!(fixture.store.stats().disk_bytes > 0);
        }
    }
}

#[tokio::test]
async fn what_goes_through_is_let_go_of() {
    let size = footprint::Footprint::of(&batch(990, 10)).total;
    let fixture = Fixture::new(1 << 30, |config| config.spill_chunk_bytes = 3 * size);
    let mut writer = fixture.writer(task(1, 0), StorageLevel::MemoryAndDisk);
    let key = task(1, 0).output(0);
    let mut reader = fixture.store.read_growing(&key).unwrap().letting_go();
    for n in 0..100 {
        writer.append(0, batch(n * 10, 10)).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), batch(n * 10, 10));
        let held = fixture.store.stats().memory_bytes;
        assert!(held <= 8 * size, "{held} bytes after {n} batches");
    }
    writer.seal().await.unwrap();
    assert!(reader.next().await.is_none());
    assert_eq!(reader.counts().rows, 1000);
    assert_eq!(fixture.store.stats().disk_bytes, 0);
    // What is gone is not found empty.
    let again = fixture.store.read(&key, 0).unwrap().next().await.unwrap().unwrap_err();
    assert!(matches!(again, Error::PartitionReleased { .. }), "{again}");
    drop(reader);
    fixture.store.end_query(QueryId(1), Readers::Abort);
    fixture.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_bound_sends_the_rest_to_disk() {
    let size = footprint::Footprint::of(&batch(990, 10)).total;
    for lag in [0, 3, 20, 100] {
        let fixture = Fixture::new(1 << 30, |config| config.spill_chunk_bytes = 3 * size);
        let mut writer = fixture.writer(task(1, 0), StorageLevel::MemoryAndDisk);
        writer.hold_at_most(10 * size);
        let key = task(1, 0).output(0);
        let mut reader = fixture.store.read_growing(&key).unwrap().letting_go();
        let mut read = Vec::new();
        for n in 0..100 {
            writer.append(0, batch(n * 10, 10)).await.unwrap();
            let held = fixture.store.stats().memory_bytes;
            assert!(held <= 10 * size, "{held} bytes, {lag} behind");
            if n >= lag {
                read.push(reader.next().await.unwrap().unwrap());
            }
        }
        let on_disk = fixture.store.stats().disk_bytes;
        assert_eq!(on_disk > 0, lag > 10, "{on_disk} bytes on disk, {lag} behind");
        writer.seal().await.unwrap();
        read.extend(reader.try_collect::<Vec<_>>().await.unwrap());
        assert_eq!(numbers(&read), (0..1000).collect::<Vec<_>>(), "{lag} behind");
    }
}
