//! Each output makes progress by itself, and what waits is bounded.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use futures::future::{join_all, poll_immediate};

use super::*;
use crate::exchange::fetch::Arrival;
use crate::scheduler::FetchFault;

const BUDGET: usize = 256 << 10;

fn small(config: &mut FetchConfig) {
    config.task_budget_bytes = BUDGET;
    config.expected_batch_bytes = 32 << 10;
}

/// The most that one batch of `batches` may cost.
const BATCH: usize = 64 << 10;

#[tokio::test]
async fn outputs_that_nobody_polls_hold_nobody_up() {
    let keeper = Keeper::start().await;
    let reader = Reader::with(1 << 30, small);
    let outputs = (0..20).map(|n| batches(n * 1_000_000, 100)).collect();
    keeper.write(0, StorageLevel::MemoryAndDisk, outputs).await;
    let task = reader.task();
    let mut streams: Vec<_> =
        (0..20).map(|output| task.open(keeper.output(0, output), schema())).collect();
    // Everyone begins; then one after the other is drained, the last ones first.
    for stream in &mut streams {
        assert!(bounded(stream.next()).await.unwrap().is_ok());
    }
    let mut most = 0;
    while let Some(mut stream) = streams.pop() {
        let mut rows = 1000;
        while let Some(batch) = bounded(stream.next()).await {
            rows += batch.unwrap().num_rows();
            most = most.max(reader.pool.reserved());
        }
        assert_eq!(rows, 100_000);
    }
    assert!(most <= BUDGET + 20 * BATCH, "{most} bytes waited");
    assert_eq!(reader.pool.reserved(), 0);
}

#[tokio::test]
async fn batches_of_an_output_that_is_still_written_come_as_they_are_made() {
    let keeper = Keeper::start().await;
    let reader = Reader::with(1 << 30, |config| config.stall_timeout = Duration::from_millis(1));
    let task = reader.task();
    let growing = RemoteOutput { is_growing: true, ..keeper.output(0, 0) };
    let missing = bounded(task.open(growing.clone(), schema()).next()).await.unwrap();
    assert_eq!(missing.unwrap_err().fault, FetchFault::Missing);
    let spec = WriterSpec {
        key: writer_key(0),
        schema: schema(),
        output_count: 1,
        level: StorageLevel::MemoryAndDisk,
    };
    let mut writer = keeper.store.writer(spec).unwrap();
    let mut stream = task.open(growing, schema());
    let mut all = batches(0, 3).into_iter();
    for _ in 0..2 {
        let batch = all.next().unwrap();
        writer.append(0, batch.clone()).await.unwrap();
        assert_eq!(bounded(stream.next()).await.unwrap().unwrap(), batch);
    }
    // Longer than a reader waits for what is sealed.
    let silence = timeout(Duration::from_millis(50), stream.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    let batch = all.next().unwrap();
    writer.append(0, batch.clone()).await.unwrap();
    assert_eq!(bounded(stream.next()).await.unwrap().unwrap(), batch);
    writer.seal().await.unwrap();
    assert!(bounded(stream.next()).await.is_none());
}

#[tokio::test]
async fn a_merge_of_many_outputs_goes_on_with_hardly_any_memory() {
    let keeper = Keeper::start().await;
    for (producer, pool_bytes) in [1, 1 << 30].into_iter().enumerate() {
        let reader = Reader::with(pool_bytes, |config| config.task_budget_bytes = 1);
        let outputs = (0..50).map(|n| batches(n * 1_000_000, 20)).collect();
        keeper.write(producer, StorageLevel::MemoryAndDisk, outputs).await;
        let task = reader.task();
        let mut streams: Vec<_> =
            (0..50).map(|output| task.open(keeper.output(producer, output), schema())).collect();
        // As a merge does: a batch of each before the next of any.
        for round in 0..20 {
            let next = bounded(join_all(streams.iter_mut().map(StreamExt::next))).await;
            for (output, batch) in next.into_iter().enumerate() {
                let first = output as i64 * 1_000_000 + round * 1000;
                assert_eq!(batch.unwrap().unwrap(), super::batch(first, 1000));
            }
            assert!(reader.pool.reserved() <= 2 * BATCH, "{}", reader.pool.reserved());
        }
        for stream in &mut streams {
            assert!(bounded(stream.next()).await.is_none());
        }
        drop((streams, task));
        assert_eq!(reader.pool.reserved(), 0);
    }
}

#[tokio::test]
async fn a_thousand_outputs_share_one_stream() {
    let keeper = Keeper::start().await;
    let reader = Reader::new();
    let outputs = (0..1000).map(|n| batches(n * 10_000, 3)).collect();
    keeper.write(0, StorageLevel::MemoryAndDisk, outputs).await;
    let task = reader.task();
    let most_streams = AtomicUsize::new(0);
    let reads = (0..1000).map(|output| {
        let stream = task.open(keeper.output(0, output), schema());
        let most_streams = &most_streams;
        let exchanges = &keeper.exchanges;
        async move {
            let read: Vec<_> = stream.try_collect().await.unwrap();
            most_streams.fetch_max(exchanges.open_streams(), Ordering::Relaxed);
            numbers(&read)
        }
    });
    for (output, read) in bounded(join_all(reads)).await.into_iter().enumerate() {
        let first = output as i64 * 10_000;
        assert!(read.into_iter().eq(first..first + 3000), "output {output}");
    }
    assert_eq!(most_streams.load(Ordering::Relaxed), 1);
    assert_eq!(reader.pool.reserved(), 0);
    drop(task);
    keeper.wait_for_idle().await;
}

#[tokio::test]
async fn spilled_outputs_come_beside_those_in_memory() {
    let keeper = Keeper::start_with(1 << 30, |config| config.reads_per_stream = 2, None).await;
    let reader = Reader::with(1 << 30, small);
    for producer in 0..8 {
        let level = match producer % 2 {
            0 => StorageLevel::DiskOnly,
            _ => StorageLevel::MemoryAndDisk,
        };
        let outputs = vec![batches(producer as i64 * 1_000_000, 80)];
        keeper.write(producer, level, outputs).await;
    }
    let task = reader.task();
    let reads = (0..8)
        .map(|producer| task.open(keeper.output(producer, 0), schema()).try_collect::<Vec<_>>());
    for (producer, read) in bounded(join_all(reads)).await.into_iter().enumerate() {
        assert_eq!(read.unwrap(), batches(producer as i64 * 1_000_000, 80));
    }
}

#[tokio::test]
async fn a_reader_that_stops_polling_stops_the_keeper() {
    let keeper = Keeper::start().await;
    let reader = Reader::with(1 << 30, small);
    keeper.write(0, StorageLevel::MemoryAndDisk, vec![batches(0, 2000), batches(0, 10)]).await;
    let task = reader.task();
    let mut idle = task.open(keeper.output(0, 0), schema());
    assert!(bounded(idle.next()).await.unwrap().is_ok());
    // While the other is read again and again, no more comes than was asked for.
    for _ in 0..20 {
        let other = task.open(keeper.output(0, 1), schema());
        assert_eq!(bounded(other.try_collect::<Vec<_>>()).await.unwrap(), batches(0, 10));
        assert!(reader.pool.reserved() <= BUDGET + 2 * BATCH);
    }
    drop(idle);
    assert_eq!(reader.pool.reserved(), 0, "what was dropped is given back");
    let again = task.open(keeper.output(0, 1), schema());
    assert_eq!(bounded(again.try_collect::<Vec<_>>()).await.unwrap(), batches(0, 10));
    drop(task);
    keeper.wait_for_idle().await;
}

#[tokio::test]
async fn nothing_is_asked_for_before_the_first_poll_and_dropping_ends_the_stream() {
    let keeper = Keeper::start().await;
    let reader = Reader::new();
    keeper.write(0, StorageLevel::MemoryAndDisk, vec![batches(0, 2000)]).await;
    let task = reader.task();
    let mut stream = task.open(keeper.output(0, 0), schema());
    assert_eq!((keeper.exchanges.open_streams(), reader.pool.reserved()), (0, 0));
    assert!(poll_immediate(stream.next()).await.is_none());
    until(|| keeper.exchanges.open_streams() == 1).await;
    drop(task);
    // The stream alone still holds the link.
    assert!(bounded(stream.next()).await.unwrap().is_ok());
    drop(stream);
    keeper.wait_for_idle().await;
    assert_eq!(reader.pool.reserved(), 0);
}

#[tokio::test]
async fn what_is_read_ahead_is_here_before_anybody_reads_it() {
    let keeper = Keeper::start().await;
    let reader = Reader::new();
    keeper.write(0, StorageLevel::MemoryAndDisk, vec![batches(0, 40), vec![]]).await;
    let task = reader.task();
    let (told, arrivals) = std::sync::mpsc::channel();
    let open = |output: usize| {
        let told = told.clone();
        let arrival = Arrival::new(move || told.send(output).unwrap());
        task.open_ahead(keeper.output(0, output), schema(), arrival)
    };
    let streams = [open(0), open(1)];
    let mut arrived = Vec::new();
    bounded(async {
        while arrived.len() < 2 {
            arrived.extend(arrivals.try_iter());
            tokio::task::yield_now().await;
        }
    })
    .await;
    // The keeper is gone; nobody has polled a stream.
    drop(keeper);
    let [full, empty] = streams.map(|stream| stream.try_collect::<Vec<_>>());
    assert_eq!(bounded(full).await.unwrap(), batches(0, 40));
    assert_eq!(bounded(empty).await.unwrap(), vec![]);
    assert_eq!(reader.pool.reserved(), 0);
}

#[tokio::test]
async fn reading_ahead_takes_half_of_what_there_is() {
    let keeper = Keeper::start().await;
    keeper.write(0, StorageLevel::MemoryAndDisk, vec![batches(0, 2000), batches(0, 10)]).await;
    // Of its budget, and of the pool.
    let small_batches = |config: &mut FetchConfig| config.expected_batch_bytes = 32 << 10;
    for reader in [Reader::with(1 << 30, small), Reader::with(BUDGET, small_batches)] {
        let task = reader.task();
        let told = Arc::new(AtomicUsize::new(0));
        let arrived = Arc::clone(&told);
        let arrival = Arrival::new(move || {
            arrived.fetch_add(1, Ordering::Relaxed);
        });
        let ahead = task.open_ahead(keeper.output(0, 0), schema(), arrival);
        for _ in 0..20 {
            let other = task.open(keeper.output(0, 1), schema());
            assert_eq!(bounded(other.try_collect::<Vec<_>>()).await.unwrap(), batches(0, 10));
        }
        until(|| reader.pool.reserved() > 0).await;
        assert!(reader.pool.reserved() <= BUDGET / 2 + 2 * BATCH, "{}", reader.pool.reserved());
        assert_eq!(bounded(ahead.try_collect::<Vec<_>>()).await.unwrap(), batches(0, 2000));
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }
}
