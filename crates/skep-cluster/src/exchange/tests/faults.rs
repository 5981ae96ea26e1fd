//! A short answer never looks like a whole one.

use std::sync::atomic::Ordering;

use futures::StreamExt;

use super::proxy::{Proxy, Tampering};
use super::*;
use crate::error::Error;
use crate::exchange::config::ExchangeCompression;
use crate::scheduler::FetchFault;
use crate::store::Readers;

#[tokio::test]
async fn an_output_that_is_not_there_is_missing() {
    let keeper = Keeper::start().await;
    let reader = Reader::new();
    keeper.write(0, StorageLevel::MemoryAndDisk, vec![batches(0, 2)]).await;
    let task = reader.task();
    for output in [keeper.output(7, 0), keeper.output(0, 1)] {
        let missing = bounded(task.open(output, schema()).try_collect::<Vec<_>>()).await;
        let failure = missing.unwrap_err();
        assert_eq!(failure.fault, FetchFault::Missing);
        assert!(matches!(failure.error, Error::PartitionNotFound { .. }), "{failure}");
    }
    // The stream goes on for the others.
    let read = bounded(task.open(keeper.output(0, 0), schema()).try_collect::<Vec<_>>()).await;
    assert_eq!(read.unwrap(), batches(0, 2));
}

#[tokio::test]
async fn an_output_that_is_released_midway_is_an_error() {
    let keeper = Keeper::start().await;
    let reader = Reader::with(1 << 30, |config| config.task_budget_bytes = 1);
    keeper.write(0, StorageLevel::MemoryAndDisk, vec![batches(0, 200)]).await;
    let mut stream = reader.task().open(keeper.output(0, 0), schema());
    assert!(bounded(stream.next()).await.unwrap().is_ok());
    keeper.store.release(&[writer_key(0).output(0)], Readers::Abort);
    let failure = bounded(stream.try_collect::<Vec<_>>()).await.unwrap_err();
    assert!(matches!(failure.error, Error::Remote { .. }), "{failure:?}");
    assert!(failure.to_string().contains("was released while it was read"), "{failure}");
}

#[tokio::test]
async fn a_keeper_that_dies_midway_is_unreachable() {
    let mut keeper = Keeper::start().await;
    let reader = Reader::with(1 << 30, |config| config.task_budget_bytes = 1);
    keeper.write(0, StorageLevel::MemoryAndDisk, vec![batches(0, 500), batches(0, 500)]).await;
    let task = reader.task();
    let mut streams = [0, 1].map(|output| task.open(keeper.output(0, output), schema()));
    for stream in &mut streams {
        assert!(bounded(stream.next()).await.unwrap().is_ok());
    }
    keeper.kill();
    for stream in streams {
        let failure = bounded(stream.try_collect::<Vec<_>>()).await.unwrap_err();
        assert_eq!(failure.fault, FetchFault::Refused);
        assert!(matches!(failure.error, Error::Unreachable { .. }), "{failure:?}");
    }
    // Nobody listens there now.
    let failure = reader.read(keeper.output(0, 0)).await.unwrap_err();
    assert_eq!(failure.fault, FetchFault::Refused);
    assert!(matches!(failure.error, Error::Unreachable { .. }), "{failure:?}");
    drop(task);
    assert_eq!(reader.pool.reserved(), 0);
}

#[tokio::test]
async fn a_connection_that_is_cut_anywhere_is_an_error() {
    let change = |config: &mut ServeConfig| config.compression = ExchangeCompression::None;
    let keeper = Keeper::start_with(1 << 30, change, None).await;
    keeper.write(0, StorageLevel::MemoryAndDisk, vec![batches(0, 4)]).await;
    let whole = Proxy::start(keeper.address, Tampering::CutAfter(usize::MAX)).await;
    Reader::new().read(output_at(whole.address, 0, 0)).await.unwrap();
    let length = whole.passed.load(Ordering::SeqCst);
    assert!(length > 50_000);
    // The last bytes are trailers that nobody needs: what counts is the end message.
    for limit in [0, 20, 100, 1000, length / 3, length / 2, length - 2000] {
        let proxy = Proxy::start(keeper.address, Tampering::CutAfter(limit)).await;
        let failure = Reader::new().read(output_at(proxy.address, 0, 0)).await.unwrap_err();
        assert_eq!(failure.fault, FetchFault::Refused, "cut after {limit}");
        assert!(failure.error.is_retryable(), "cut after {limit}: {failure}");
    }
}

#[tokio::test]
async fn a_byte_that_changes_on_the_way_is_an_error_or_no_matter() {
    let change = |config: &mut ServeConfig| config.compression = ExchangeCompression::None;
    let keeper = Keeper::start_with(1 << 30, change, None).await;
    keeper.write(0, StorageLevel::MemoryAndDisk, vec![batches(0, 2)]).await;
    let whole = Proxy::start(keeper.address, Tampering::CutAfter(usize::MAX)).await;
    Reader::new().read(output_at(whole.address, 0, 0)).await.unwrap();
    let length = whole.passed.load(Ordering::SeqCst);
    let mut damaged = 0;
    for place in (100..length - 100).step_by(length / 60) {
        let proxy = Proxy::start(keeper.address, Tampering::Flip(place)).await;
        let reader = Reader::with(1 << 30, |config| {
            config.stall_timeout = Duration::from_millis(500);
            config.keep_alive_interval = Duration::from_millis(300);
            config.keep_alive_timeout = Duration::from_millis(300);
        });
        match reader.read(output_at(proxy.address, 0, 0)).await {
            Ok(read) => assert_eq!(read, batches(0, 2), "byte {place}"),
            Err(failure) => {
                assert_eq!(failure.fault, FetchFault::Refused);
                damaged += usize::from(matches!(failure.error, Error::TransferDamaged { .. }));
            }
        }
    }
    assert!(damaged > 30, "{damaged} were noticed by the checksum");
}

#[tokio::test]
async fn a_connection_that_hangs_is_given_up() {
    let keeper = Keeper::start().await;
    keeper.write(0, StorageLevel::MemoryAndDisk, vec![batches(0, 50)]).await;
    let proxy = Proxy::start(keeper.address, Tampering::HangAfter(100_000)).await;
    // By the missing sign of life, long before the other bound.
    let reader = Reader::with(1 << 30, |config| {
        config.keep_alive_interval = Duration::from_millis(200);
        config.keep_alive_timeout = Duration::from_millis(200);
        config.stall_timeout = Duration::from_secs(3600);
    });
    let failure = reader.read(output_at(proxy.address, 0, 0)).await.unwrap_err();
    assert!(matches!(failure.error, Error::Unreachable { .. }), "{failure:?}");
    // By having no answer, where nobody asks for signs of life.
    let proxy = Proxy::start(keeper.address, Tampering::HangAfter(100_000)).await;
    let reader = Reader::with(1 << 30, |config| {
        config.keep_alive_interval = Duration::from_secs(3600);
        config.stall_timeout = Duration::from_millis(300);
    });
    let failure = reader.read(output_at(proxy.address, 0, 0)).await.unwrap_err();
    assert!(failure.to_string().contains("no answer for 0.3 s"), "{failure}");
}

#[tokio::test]
async fn only_those_with_the_token_are_served() {
    let keeper = Keeper::start_with(1 << 30, |_| {}, Some("right")).await;
    keeper.write(0, StorageLevel::MemoryAndDisk, vec![batches(0, 2)]).await;
    for token in [None, Some("wrong"), Some("righ"), Some("right1")] {
        let reader = Reader::with(1 << 30, |config| config.token = token.map(str::to_owned));
        let failure = reader.read(keeper.output(0, 0)).await.unwrap_err();
        assert!(matches!(failure.error, Error::AccessRefused { .. }), "{failure:?}");
    }
    let reader = Reader::with(1 << 30, |config| config.token = Some("right".to_owned()));
    assert_eq!(reader.read(keeper.output(0, 0)).await.unwrap(), batches(0, 2));
}

#[tokio::test]
async fn a_full_keeper_refuses() {
    let change = |config: &mut ServeConfig| {
        config.max_streams = 1;
        config.max_slots_per_stream = 1;
    };
    let keeper = Keeper::start_with(1 << 30, change, None).await;
    keeper.write(0, StorageLevel::MemoryAndDisk, vec![batches(0, 500), batches(0, 1)]).await;
    let reader = Reader::with(1 << 30, |config| config.task_budget_bytes = 1);
    let task = reader.task();
    let mut first = task.open(keeper.output(0, 0), schema());
    assert!(bounded(first.next()).await.unwrap().is_ok());
    let second = task.open(keeper.output(0, 1), schema());
    let failure = bounded(second.try_collect::<Vec<_>>()).await.unwrap_err();
    assert!(failure.to_string().contains("all 1 places"), "{failure}");
    let failure = reader.read(keeper.output(0, 1)).await.unwrap_err();
    assert!(failure.to_string().contains("all 1 exchange streams are in use"), "{failure}");
    drop((first, task));
    keeper.wait_for_idle().await;
    assert_eq!(reader.read(keeper.output(0, 1)).await.unwrap(), batches(0, 1));
}
