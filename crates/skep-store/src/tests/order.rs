//! What is read is what was sealed: whole, in order, from any batch on.

use futures::FutureExt;

use super::*;
use crate::error::Error;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_unsealed_can_be_read_and_a_dropped_writer_leaves_nothing() {
    let fixture = Fixture::roomy();
    for level in [StorageLevel::MemoryAndDisk, StorageLevel::DiskOnly] {
        let mut writer = fixture.writer(task(1, 0), level);
        writer.append(0, batch(0, 100)).await.unwrap();
        assert!(fixture.pool.reserved() > 0 || !fixture.spill_files().is_empty());
        assert_eq!(fixture.store.stats().open_writers, 1);
        let error = fixture.read(&task(1, 0).output(0)).await.unwrap_err();
        assert!(matches!(error, Error::PartitionNotFound { .. }), "{error}");
        drop(writer);
        fixture.assert_empty();
    }
}

#[tokio::test]
async fn the_first_seal_of_a_name_stands() {
    let fixture = Fixture::roomy();
    let mut first = fixture.writer(cached("t", 0), StorageLevel::MemoryAndDisk);
    let mut second = fixture.writer(cached("t", 0), StorageLevel::MemoryAndDisk);
    first.append(0, batch(0, 10)).await.unwrap();
    second.append(0, batch(5, 10)).await.unwrap();
    first.seal().await.unwrap();
    let error = second.seal().await.unwrap_err();
    assert!(matches!(error, Error::AlreadySealed { .. }), "{error}");
    let read = fixture.read(&cached("t", 0).output(0)).await.unwrap();
    assert_eq!(read, [batch(0, 10)]);
    fixture.store.end_epoch(&"t".into(), Epoch(1), Readers::Finish);
    fixture.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_begins_at_any_batch() {
    // Chunks of about three batches, so that starts fall on and between their bounds.
    let size = footprint::Footprint::of(&batch(0, 10)).total;
    let fixture = Fixture::new(1 << 30, |config| config.spill_chunk_bytes = 3 * size);
    for (query, level) in [(1, StorageLevel::MemoryAndDisk), (2, StorageLevel::DiskOnly)] {
        let mut writer = fixture.writer(task(query, 0), level);
        for n in 0..10 {
            writer.append(1, batch(n * 10, 10)).await.unwrap();
        }
        writer.seal().await.unwrap();
        let key = task(query, 0).output(1);
        for start in 0..=10 {
            let reader = fixture.store.read(&key, start).unwrap();
            assert_eq!(reader.counts().rows, 100);
            let read: Vec<RecordBatch> = reader.try_collect().await.unwrap();
            let expected: Vec<RecordBatch> =
                (start as i64..10).map(|n| batch(n * 10, 10)).collect();
            assert_eq!(read, expected, "from {start}");
        }
        let error = fixture.store.read(&key, 11).unwrap_err();
        assert!(matches!(error, Error::ResumeBeyondEnd { batches: 10, .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_batches_are_cut_and_keep_their_order() {
    let fixture = Fixture::new(1 << 30, |config| config.max_batch_bytes = 1000);
    let mut writer = fixture.writer(task(1, 0), StorageLevel::MemoryAndDisk);
    writer.append(0, batch(0, 1000)).await.unwrap();
    let counts = writer.seal().await.unwrap();
    assert!(counts[0].batches > 10, "{counts:?}");
    let read = fixture.read(&task(1, 0).output(0)).await.unwrap();
    assert!(read.iter().all(|batch| data_bytes(batch) <= 1000));
    assert_eq!(numbers(&read), (0..1000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_share_one_file() {
    let fixture = Fixture::new(1 << 30, |config| config.write_buffer_bytes = 1 << 20);
    let outputs = 10_000;
    let mut writer = fixture.writer_of(task(1, 0), StorageLevel::DiskOnly, schema(), outputs);
    for output in 0..outputs {
        writer.append(output, batch(output as i64, 2)).await.unwrap();
    }
    let counts = writer.seal().await.unwrap();
    assert_eq!(counts.len(), outputs);
    assert_eq!(fixture.spill_files().len(), 1);
    for output in (0..outputs).step_by(997) {
        let read = fixture.read(&task(1, 0).output(output)).await.unwrap();
        assert_eq!(read, [batch(output as i64, 2)]);
    }
    fixture.store.end_query(QueryId(1), Readers::Finish);
    fixture.assert_empty();
}

#[tokio::test]
async fn batches_in_memory_are_handed_over_without_a_copy() {
    let fixture = Fixture::roomy();
    let mut writer = fixture.writer(task(1, 0), StorageLevel::MemoryAndDisk);
    let written = batch(0, 1000);
    writer.append(0, written.clone()).await.unwrap();
    writer.seal().await.unwrap();
    let read = fixture.read(&task(1, 0).output(0)).await.unwrap();
    assert!(Arc::ptr_eq(read[0].column(0), written.column(0)));
}

#[tokio::test]
async fn the_stream_for_operators_keeps_the_error_whole() {
    let fixture = Fixture::roomy();
    let mut writer = fixture.writer(task(1, 0), StorageLevel::DiskOnly);
    writer.append(0, batch(0, 1000)).await.unwrap();
    writer.seal().await.unwrap();
    let key = task(1, 0).output(0);
    std::fs::write(&fixture.spill_files()[0], b"").unwrap();
    let stream = fixture.store.read(&key, 0).unwrap().into_stream();
    assert_eq!(stream.schema(), schema());
    let error = stream.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(Error::find(&error).unwrap().lost_partition(), Some(&key));
}

#[tokio::test]
async fn an_append_that_was_given_up_cannot_be_sealed_over() {
    let fixture = Fixture::new(10_000, |_| {});
    let mut writer = fixture.writer(task(1, 0), StorageLevel::MemoryAndDisk);
    writer.append(0, batch(0, 100)).await.unwrap();
    let all_io = fixture.store.inner.io.acquire_many(4).await.unwrap();
    // There is no room, and nobody can make any.
    let given_up = writer.append(0, batch(100, 300)).now_or_never();
    assert!(given_up.is_none());
    drop(all_io);
    assert!(writer.append(0, batch(400, 1)).await.is_err());
    assert!(writer.seal().await.is_err());
    fixture.assert_empty();
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused() {
    let fixture = Fixture::roomy();
    let open = |key, output_count, level| {
        fixture.store.writer(WriterSpec { key, schema: schema(), output_count, level })
    };
    for refused in [
        open(cached("t", 0), 2, StorageLevel::MemoryAndDisk),
        open(task(1, 0), 2, StorageLevel::MemoryOnly),
    ] {
        assert!(matches!(refused.unwrap_err(), Error::InvalidOption { .. }));
    }
    let mut writer = open(task(1, 0), 2, StorageLevel::MemoryAndDisk).unwrap();
    assert!(matches!(writer.append(2, batch(0, 1)).await.unwrap_err(), Error::Internal { .. }));
    drop(writer);
    fixture.assert_empty();
    let mut config = StoreConfig::new(fixture.directory.path());
    config.io_concurrency = 0;
    let error = PartitionStore::open(config, Arc::new(GreedyMemoryPool::new(1))).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { option: "io_concurrency", .. }), "{error}");
}

#[tokio::test]
async fn counts_that_do_not_match_the_seal_are_an_error() {
    let fixture = Fixture::roomy();
    for (query, level) in [(1, StorageLevel::MemoryAndDisk), (2, StorageLevel::DiskOnly)] {
        let mut writer = fixture.writer(task(query, 0), level);
        writer.append(0, batch(0, 10)).await.unwrap();
        writer.seal().await.unwrap();
        let key = task(query, 0).output(0);
        let change = |rows| {
            let mut state = fixture.store.inner.state.lock();
            state.sealed.get_mut(&key).unwrap().counts.rows = rows;
        };
        for rows in [9, 11] {
            change(rows);
            let error = fixture.read(&key).await.unwrap_err();
            assert_eq!(error.lost_partition(), Some(&key), "{error}");
        }
        change(10);
        assert_eq!(fixture.read(&key).await.unwrap(), [batch(0, 10)]);
    }
}
