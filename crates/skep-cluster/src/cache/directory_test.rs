//! The directory as workers come, report and go.

use datafusion::arrow::datatypes::Schema;
use datafusion::execution::memory_pool::UnboundedMemoryPool;

use super::*;
use crate::ids::{Incarnation, StageId};
use crate::membership::{Registration, WorkerInfo, WorkerLoad, WorkerState};
use crate::scheduler::{OutputKind, Replay, StageNode, StagePlace};

fn life(worker: u64) -> WorkerLife {
    WorkerLife { worker: WorkerId(worker), incarnation: Incarnation(1) }
}

fn cluster(workers: impl IntoIterator<Item = u64>) -> ClusterSnapshot {
    let info = |worker| WorkerInfo {
        registration: Registration {
            life: life(worker),
            slot_count: 1,
            memory_bytes: 0,
            data_address: String::new(),
            pid: 0,
            version: String::new(),
        },
        state: WorkerState::Live,
        load: WorkerLoad::default(),
        last_heard: Default::default(),
    };
    ClusterSnapshot { version: 1, workers: workers.into_iter().map(info).collect() }
}

fn shape(key: &str, partition_count: usize, is_clustered: bool) -> Arc<CachedShape> {
    Arc::new(CachedShape {
        name: key.to_owned(),
        key: key.into(),
        epoch: Epoch(1),
        schema: Arc::new(Schema::empty()),
        clustered: is_clustered.then(Vec::new),
        partition_count,
        is_narrow: false,
    })
}

fn directory() -> CacheDirectory {
    CacheDirectory::new(Arc::new(UnboundedMemoryPool::default()))
}

fn report(table: &str, partition: usize) -> CachedReport {
    CachedReport {
        table: table.into(),
        epoch: Epoch(1),
        partition,
        is_kept: true,
        summary: Default::default(),
        memory_bytes: 100,
        disk_bytes: 10,
        rows: 5,
    }
}

/// What a query that makes or reads a table is told.
fn told(
    directory: &CacheDirectory,
    shape: &CachedShape,
    cluster: &ClusterSnapshot,
    purpose: Purpose,
) -> Vec<CachedPart> {
    let table = Arc::clone(&shape.key);
    let node = StageNode {
        id: StageId(0),
        task_count: shape.partition_count,
        inputs: Vec::new(),
        output: OutputKind::Whole,
        place: StagePlace::Workers,
        row_limit: None,
        is_by_chance: false,
        cached: Some(CachedStage { table, epoch: shape.epoch, parts: Vec::new() }),
    };
    let mut graph = QueryGraph::new(vec![node], Replay::Exact).unwrap();
    directory.tell(&mut graph, cluster, purpose);
    graph.cached_stages().next().unwrap().parts.clone()
}

fn wishes(parts: &[CachedPart]) -> Vec<u64> {
    let wish = |part: &CachedPart| match part.wish {
        Some(Site::Worker(life)) => life.worker.0,
        other => panic!("{other:?}"),
    };
    parts.iter().map(wish).collect()
}

#[test]
fn what_was_reported_is_told_until_its_keeper_is_lost() {
    let (directory, four) = (directory(), cluster(1..=4));
    let table = shape("t#1", 4, false);
    directory.add(&table);
    let parts = told(&directory, &table, &four, Purpose::Keep(1));
    assert_eq!(wishes(&parts), [1, 2, 3, 4]);
    assert!(parts.iter().all(|part| part.copies.is_empty()));
    for partition in 0..4 {
        assert!(directory.record(life(partition as u64 + 1), &report("t#1", partition)));
    }
    assert!(!directory.record(life(1), &report("u#2", 0)));
    let parts = told(&directory, &table, &four, Purpose::Read);
    let copy = CachedCopy { site: Site::Worker(life(3)), rows: 5, bytes: 110 };
    assert_eq!(parts[2].copies, [copy]);
    let figures = directory.figures(&table);
    assert_eq!((figures.cached_partitions, figures.hits, figures.memory_bytes), (4, 4, 400));
    assert_eq!(figures.keepers, "w1, w2, w3, w4");
    directory.lose_life(life(2));
    directory.lose_copy(life(4), &report("t#1", 3).key());
    let parts = told(&directory, &table, &cluster([1, 3, 4]), Purpose::Read);
    let kept: Vec<usize> = parts.iter().map(|part| part.copies.len()).collect();
    assert_eq!(kept, [1, 0, 1, 0]);
    // What is kept stays; the worker that keeps least gets the rest.
    assert_eq!(wishes(&parts), [1, 4, 3, 4]);
    directory.remove(&table.key, table.epoch);
    assert!(!directory.record(life(1), &report("t#1", 0)));
}

#[test]
fn tables_that_are_clustered_alike_lie_alike_and_second_copies_elsewhere() {
    let (directory, three) = (directory(), cluster(1..=3));
    let (one, other) = (shape("t#1", 6, true), shape("u#2", 6, true));
    directory.add(&one);
    let first = wishes(&told(&directory, &one, &three, Purpose::Keep(1)));
    // Whatever is kept meanwhile.
    let loud = shape("l#3", 1, false);
    directory.add(&loud);
    directory.record(life(1), &report("l#3", 0));
    directory.add(&other);
    assert_eq!(wishes(&told(&directory, &other, &three, Purpose::Keep(1))), first);
    for (partition, worker) in first.iter().enumerate() {
        directory.record(life(*worker), &report("t#1", partition));
    }
    assert_eq!((directory.copy_count(&one, 1), directory.copy_count(&one, 2)), (6, 6));
    let second = told(&directory, &one, &three, Purpose::Keep(2));
    for ((part, wish), first) in second.iter().zip(wishes(&second)).zip(&first) {
        assert_ne!(wish, *first);
        assert_eq!((part.copies.len(), &part.avoid), (0, &vec![WorkerId(*first)]));
    }
}

#[test]
fn what_workers_say_again_counts_in_place_of_their_reports() {
    let directory = directory();
    let table = shape("t#1", 2, false);
    directory.add(&table);
    directory.record(life(1), &report("t#1", 0));
    directory.record(life(2), &report("t#1", 1));
    let usage = |memory_bytes, disk_bytes| CachedUsage {
        table: "t#1".into(),
        epoch: Epoch(1),
        memory_bytes,
        disk_bytes,
    };
    directory.measure(life(1), &[usage(0, 90)]);
    // Of somebody who keeps nothing of it.
    directory.measure(life(9), &[usage(5, 5)]);
    let figures = directory.figures(&table);
    assert_eq!((figures.memory_bytes, figures.disk_bytes), (100, 100));
    directory.lose_life(life(1));
    let figures = directory.figures(&table);
    assert_eq!((figures.memory_bytes, figures.disk_bytes), (100, 10));
}

#[test]
fn a_content_of_the_process_before_is_kept_until_it_is_given_up() {
    let directory = directory();
    let table = shape("t#1", 2, false);
    let found = directory.expect(&table.key, table.epoch);
    let strange = report("u#2", 0);
    let unwanted = directory.compare(life(1), &[report("t#1", 1), strange]);
    assert_eq!(unwanted, BTreeSet::from([("u#2".into(), Epoch(1))]));
    assert!(*found.borrow());
    directory.compare(life(2), &[report("t#1", 0)]);
    directory.lose_life(life(2));
    directory.add(&table);
    assert_eq!(directory.figures(&table).keepers, "w1");
    assert!(!directory.give_up(&table.key, table.epoch));
    // One that is back with less has lost the rest.
    directory.compare(life(1), &[]);
    assert_eq!(directory.figures(&table).cached_partitions, 0);
    let other = shape("v#3", 1, false);
    drop(directory.expect(&other.key, other.epoch));
    assert!(directory.give_up(&other.key, other.epoch));
    assert!(!directory.record(life(1), &report("v#3", 0)));
}

#[test]
fn what_is_refused_is_offered_again_after_ever_more_uses() {
    let directory = directory();
    let table = shape("t#1", 3, false);
    directory.add(&table);
    let refused = CachedReport { is_kept: false, ..report("t#1", 1) };
    assert!(directory.record(life(1), &report("t#1", 0)));
    for uses in [8, 16, 32, 64, 64] {
        assert_eq!(directory.refused(&table), [0; 0]);
        assert!(directory.record(life(1), &refused));
        for _use in 0..uses {
            assert_eq!(directory.refused(&table), [1]);
            directory.pass(&table, &[1]);
        }
    }
    assert_eq!(directory.refused(&table), [0; 0]);
    assert_eq!(directory.figures(&table).passed, 5 + 8 + 16 + 32 + 64 + 64);
    // Once it was kept, it begins anew; and while somebody keeps it, it is there.
    assert!(directory.record(life(1), &report("t#1", 1)));
    assert!(directory.record(life(2), &refused));
    assert_eq!(directory.refused(&table), [0; 0]);
    directory.lose_life(life(1));
    assert_eq!(directory.refused(&table), [1]);
    for _use in 0..8 {
        directory.pass(&table, &[1]);
    }
    assert_eq!(directory.refused(&table), [0; 0]);
}

#[test]
fn a_table_lacks_copies_when_all_of_it_is_kept_and_some_of_it_by_too_few() {
    let (directory, table) = (directory(), shape("t", 2, false));
    directory.add(&table);
    let remade = directory.remade();
    // Not made yet, and made in part.
    assert!(!directory.lacks_copies(&table, 2));
    assert!(directory.record(life(1), &report("t", 0)));
    assert!(!directory.lacks_copies(&table, 2));
    assert!(directory.record(life(2), &report("t", 1)));
    assert!(directory.lacks_copies(&table, 2) && !directory.lacks_copies(&table, 1));
    for (worker, partition) in [(2, 0), (1, 1)] {
        assert!(directory.record(life(worker), &report("t", partition)));
    }
    assert!(!directory.lacks_copies(&table, 2));
    assert_eq!(directory.figures(&table).copies, 2);
    directory.lose_life(life(1));
    assert!(directory.lacks_copies(&table, 2));
    assert_eq!(directory.figures(&table).copies, 1);
    directory.lose_life(life(2));
    // What nobody keeps is not to be copied, but made.
    assert!(!directory.lacks_copies(&table, 2));
    assert_eq!(directory.figures(&table).copies, 0);
    directory.remove(&table.key, table.epoch);
    assert!(!directory.lacks_copies(&table, 2) && !remade.has_changed().unwrap());
}
