//! Partitions of cached tables: a task reads those of its group one after the other, and says of all
//! that are gone at once.

use skep_engine::{CacheScanExec, CacheScanParts, CachedShape};

use super::rows::{RowsExec, number_schema, numbered, numbers};
use super::*;
use crate::exchange::plan::CachedTarget;
use crate::ids::Epoch;
use crate::scheduler::TaskFailure;
use crate::store::{PartitionKey, Readers, StorageLevel};

const PARTS: usize = 6;

fn target() -> Arc<CachedTarget> {
    let shape = CachedShape {
        name: "t".to_owned(),
        key: "t#1".into(),
        epoch: Epoch(1),
        schema: number_schema(),
        clustered: None,
        partition_count: PARTS,
        is_narrow: true,
    };
    Arc::new(CachedTarget { shape: Arc::new(shape), level: StorageLevel::MemoryAndDisk })
}

fn scan(groups: Vec<Vec<usize>>) -> DataFusionResult<DecodedStage> {
    let scan = CacheScanExec::from_parts(CacheScanParts {
        shape: Arc::clone(&target().shape),
        producer: 0,
        projection: vec![0],
        filter: None,
        is_filter: false,
        dynamic_filters: Vec::new(),
        groups: Some(groups),
        batches: None,
        coded: Vec::new(),
        is_plain: false,
    })?;
    Ok(decoded(Arc::new(scan), Output::Gather))
}

/// A site that keeps all partitions, each with the ten numbers from ten times its own on, and knows a
/// stage that reads them in these groups.
async fn keeper(groups: Vec<Vec<usize>>) -> Fixture {
    let mut site = Fixture::new();
    site.plan(1, 0, |_context| {
        let rows = RowsExec::streams(number_schema(), PARTS, |partition, _context| {
            let batch = numbered(partition as i64 * 10, 10);
            futures::stream::iter([Ok(batch)]).boxed()
        });
        Ok(decoded(rows, Output::Cached(target())))
    });
    site.plan(1, 1, move |_context| scan(groups.clone()));
    for partition in 0..PARTS {
        site.finish(attempt(1, 0, partition, 0), vec![]).await;
    }
    site
}

fn sources(partitions: &[usize]) -> Vec<Source> {
    let kept = |partition: &usize| source(attempt(1, 0, *partition, 0), worker(1, 1));
    partitions.iter().map(kept).collect()
}

#[tokio::test]
async fn a_task_reads_the_partitions_of_its_group_one_after_the_other() {
    let groups = vec![vec![1, 2, 5], vec![4], vec![]];
    let mut site = keeper(groups.clone()).await;
    for (task, group) in groups.iter().enumerate() {
        let output = site.finish(attempt(1, 1, task, 0), sources(group)).await;
        let read = numbers(&site.read(attempt(1, 1, task, 0), 0).await);
        let expected = group.iter().flat_map(|it| *it as i64 * 10..*it as i64 * 10 + 10);
        assert_eq!(read, expected.collect::<Vec<_>>());
        assert_eq!((output.rows as usize, output.remote_bytes), (group.len() * 10, 0));
        assert_eq!(output.input_bytes > 0, !group.is_empty());
    }
    // What no source names is not there, whoever keeps it.
    let outcome = site.run(attempt(1, 1, 0, 1), sources(&[1, 2])).await;
    assert!(matches!(outcome, TaskOutcome::Failed(TaskFailure::Query { .. })), "{outcome:?}");
}

#[tokio::test]
async fn all_that_is_gone_of_a_group_is_named_at_once() {
    let all: Vec<usize> = (0..PARTS).collect();
    let mut site = keeper(vec![all.clone()]).await;
    let gone = |partition| PartitionKey::Cached { table: "t#1".into(), epoch: Epoch(1), partition };
    site.store.release(&[gone(2), gone(3), gone(5)], Readers::Finish);
    let outcome = site.run(attempt(1, 1, 0, 0), sources(&all)).await;
    let TaskOutcome::Failed(TaskFailure::Fetch { producer, site: at, fault, also_missing, .. }) =
        outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!((producer, at, fault), (attempt(1, 0, 2, 0), worker(1, 1), FetchFault::Missing));
    assert_eq!(also_missing, [attempt(1, 0, 3, 0), attempt(1, 0, 5, 0)]);
    // Made again, they are found.
    for partition in [2, 3, 5] {
        site.finish(attempt(1, 0, partition, 1), vec![]).await;
    }
    let again = |partition: usize| match [2, 3, 5].contains(&partition) {
        true => source(attempt(1, 0, partition, 1), worker(1, 1)),
        false => source(attempt(1, 0, partition, 0), worker(1, 1)),
    };
    site.finish(attempt(1, 1, 0, 1), all.iter().map(|it| again(*it)).collect()).await;
    let read = numbers(&site.read(attempt(1, 1, 0, 1), 0).await);
    assert_eq!(read, (0..PARTS as i64 * 10).collect::<Vec<_>>());
}
