//! Cached tables: what is kept is not made, its readers go where it is, what is lost is made again.

use std::time::Duration;

use super::rules_test::{Cluster, id, life, node, site};
use super::*;
use crate::ids::{Epoch, WorkerId};
use crate::membership::LossReason;

const MS: Duration = Duration::from_millis(1);

/// Stage 0 reads files, stage 1 makes the partitions of a table from all of it, stage 2 reads them one
/// to one, stage 3 gathers.
fn graph(parts: Vec<CachedPart>) -> QueryGraph {
    let width = parts.len();
    read(parts, width, ReadPattern::OneToOne)
}

/// The same, of which each task reads a group.
fn grouped(parts: Vec<CachedPart>, groups: &[&[usize]]) -> QueryGraph {
    let pattern = ReadPattern::groups(groups.iter().map(|group| group.to_vec()).collect());
    read(parts, groups.len(), pattern)
}

fn read(parts: Vec<CachedPart>, task_count: usize, pattern: ReadPattern) -> QueryGraph {
    let mut cached = node(1, parts.len(), &[(0, ReadPattern::All)]);
    cached.cached = Some(CachedStage { table: "t#1".into(), epoch: Epoch(1), parts });
    let stages = vec![
        node(0, 2, &[]),
        cached,
        node(2, task_count, &[(1, pattern)]),
        node(3, 1, &[(2, ReadPattern::All)]),
    ];
    QueryGraph::new(stages, Replay::Exact).unwrap()
}

fn kept_at(workers: &[u64]) -> CachedPart {
    let copy = |worker: &u64| CachedCopy { site: site(*worker), rows: 5, bytes: 100 };
    CachedPart { copies: workers.iter().map(copy).collect(), ..CachedPart::default() }
}

fn to_make_at(worker: u64) -> CachedPart {
    CachedPart { wish: Some(site(worker)), ..CachedPart::default() }
}

/// What was started: where, and which.
fn launched(actions: &[Action]) -> Vec<(Site, TaskAttempt)> {
    let mut launched = Vec::new();
    for action in actions {
        if let Action::LaunchTasks { site, tasks } = action {
            launched.extend(tasks.iter().map(|task| (*site, task.attempt)));
        }
    }
    launched
}

fn sources(actions: &[Action], of: TaskAttempt) -> Vec<Source> {
    let launches = actions.iter().filter_map(|action| match action {
        Action::LaunchTasks { tasks, .. } => Some(tasks),
        _ => None,
    });
    launches.flatten().find(|launch| launch.attempt == of).unwrap().sources.clone()
}

fn is_release(action: &Action) -> bool {
    matches!(action, Action::ReleasePartitions { .. })
}

#[test]
fn what_is_kept_is_read_where_it_is_and_nothing_below_it_runs() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[2, 2]);
    let actions = cluster.submit(1, graph(vec![kept_at(&[2]), kept_at(&[1]), kept_at(&[2])]));
    let mut readers = launched(&actions);
    readers.sort_by_key(|(_, attempt)| attempt.task.partition);
    assert_eq!(
        readers,
        [(site(2), id(1, 2, 0, 0)), (site(1), id(1, 2, 1, 0)), (site(2), id(1, 2, 2, 0))]
    );
    let read = sources(&actions, id(1, 2, 1, 0));
    assert_eq!((read.len(), read[0].site, read[0].producer), (1, site(1), id(1, 1, 1, 0)));
    let tasks = cluster.scheduler.tasks(crate::ids::QueryId(1));
    // What is kept is no attempt of this query.
    assert!(tasks.iter().all(|task| task.task.stage.0 == 2 || task.attempt.is_none()));
    assert!(tasks.iter().filter(|task| task.attempt.is_some()).all(|it| it.is_local == Some(true)));
    // It outlives its readers.
    for (at, attempt) in readers {
        assert!(!cluster.finish(at, attempt).iter().any(is_release));
    }
}

#[test]
fn what_is_not_kept_is_made_where_it_belongs_and_only_that() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[2, 2]);
    let actions = cluster.submit(1, graph(vec![kept_at(&[1]), to_make_at(2)]));
    let begun = launched(&actions);
    // The reader of what is kept, and the files for what is not.
    assert_eq!(begun.len(), 3, "{begun:?}");
    let mut later = Vec::new();
    for (at, attempt) in begun.into_iter().filter(|(_, attempt)| attempt.task.stage.0 == 0) {
        later.extend(launched(&cluster.finish(at, attempt)));
    }
    assert_eq!(later, [(site(2), id(1, 1, 1, 0))]);
    let next = launched(&cluster.finish(site(2), id(1, 1, 1, 0)));
    assert_eq!(next, [(site(2), id(1, 2, 1, 0))]);
}

#[test]
fn what_a_lost_worker_kept_is_made_again_alone() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[2, 2]);
    cluster.submit(1, graph(vec![kept_at(&[1]), kept_at(&[2])]));
    let actions = cluster.tell(Event::WorkerLeft { life: life(2, 1) });
    assert!(actions.contains(&Action::WorkerLost { life: life(2, 1), reason: LossReason::Left }));
    let mut making = launched(&actions);
    let mut made = Vec::new();
    while let Some((at, attempt)) = making.pop() {
        if attempt.task.stage.0 == 1 {
            made.push((at, attempt));
        }
        if attempt.task.stage.0 < 2 {
            making.extend(launched(&cluster.finish(at, attempt)));
        }
    }
    assert_eq!(made, [(site(1), id(1, 1, 1, 1))]);
}

#[test]
fn a_second_copy_takes_the_place_of_the_first() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1, 1]);
    let first = launched(&cluster.submit(1, graph(vec![kept_at(&[1, 2])])));
    assert_eq!(first, [(site(2), id(1, 2, 0, 0))]);
    let actions = cluster.tell(Event::WorkerLeft { life: life(2, 1) });
    assert_eq!(launched(&actions), [(site(1), id(1, 2, 0, 1))]);
    assert_eq!(sources(&actions, id(1, 2, 0, 1))[0].site, site(1));
}

#[test]
fn a_reader_waits_for_its_keeper_and_then_reads_from_elsewhere() {
    let config = SchedulerConfig::default();
    let wait = config.cached_locality_wait;
    let mut cluster = Cluster::new(config, &[1, 1]);
    let first = launched(&cluster.submit(1, graph(vec![kept_at(&[1]), kept_at(&[1])])));
    assert_eq!(first, [(site(1), id(1, 2, 0, 0))]);
    assert_eq!(launched(&cluster.wait(wait - MS)), []);
    assert_eq!(launched(&cluster.wait(2 * MS)), [(site(2), id(1, 2, 1, 0))]);
    let tasks = cluster.scheduler.tasks(crate::ids::QueryId(1));
    let local: Vec<_> = tasks.iter().filter_map(|task| task.is_local).collect();
    assert_eq!(local, [true, false]);
}

#[test]
fn the_later_waves_of_a_scan_stay_with_a_keeper_that_works() {
    let config = SchedulerConfig::default();
    let wait = config.cached_locality_wait;
    let mut cluster = Cluster::new(config, &[1, 1]);
    let keeps_all = vec![kept_at(&[1]), kept_at(&[1]), kept_at(&[1]), kept_at(&[1])];
    let mut begun = launched(&cluster.submit(1, graph(keeps_all)));
    for partition in 0..3 {
        assert_eq!(begun, [(site(1), id(1, 2, partition, 0))]);
        assert_eq!(launched(&cluster.wait(wait - MS)), []);
        begun = launched(&cluster.finish(site(1), id(1, 2, partition, 0)));
    }
    // Ready for three times as long.
    assert_eq!(begun, [(site(1), id(1, 2, 3, 0))]);
    // One that does not go on is waited for no longer than the first was.
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1]);
    cluster.submit(1, graph(vec![kept_at(&[1]), kept_at(&[1]), kept_at(&[1])]));
    cluster.wait(wait - MS);
    assert_eq!(launched(&cluster.finish(site(1), id(1, 2, 0, 0))), [(site(1), id(1, 2, 1, 0))]);
    assert_eq!(launched(&cluster.wait(wait - MS)), []);
    assert_eq!(launched(&cluster.wait(MS)), [(site(2), id(1, 2, 2, 0))]);
}

#[test]
fn a_keeper_that_has_it_no_more_makes_it_again() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1]);
    cluster.submit(1, graph(vec![kept_at(&[1])]));
    let (producer, site) = (id(1, 1, 0, 0), site(1));
    let fault = FetchFault::Missing;
    let (also_missing, message) = (Vec::new(), "gone".to_owned());
    let failure = TaskFailure::Fetch { producer, site, fault, also_missing, message };
    let mut begun = launched(&cluster.fail(site, id(1, 2, 0, 0), failure));
    let mut order = Vec::new();
    while let Some((at, attempt)) = begun.pop() {
        order.push(attempt.task.stage.0);
        if attempt.task.stage.0 < 3 {
            begun.extend(launched(&cluster.finish(at, attempt)));
        }
    }
    assert_eq!(order, [0, 0, 1, 2, 3]);
}

#[test]
fn making_a_table_ends_when_all_of_it_is_kept_and_releases_nothing() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[2, 2]);
    let made = |parts| {
        let mut cached = node(0, 2, &[]);
        cached.cached = Some(CachedStage { table: "t#1".into(), epoch: Epoch(1), parts });
        QueryGraph::new(vec![cached], Replay::Exact).unwrap()
    };
    let begun = launched(&cluster.submit(1, made(vec![kept_at(&[1]), to_make_at(2)])));
    assert_eq!(begun, [(site(2), id(1, 0, 1, 0))]);
    let actions = cluster.finish(site(2), id(1, 0, 1, 0));
    assert!(actions.iter().any(|action| matches!(action, Action::ResultReady { .. })));
    let last = cluster.tell(Event::ResultFetched { result: id(1, 0, 1, 0) });
    assert!(last.iter().any(|action| matches!(action, Action::QueryFinished { .. })));
    assert!(!last.iter().any(is_release), "{last:?}");
    // Of what is whole there is nothing to make.
    let none = cluster.submit(2, made(vec![kept_at(&[1]), kept_at(&[2])]));
    assert!(none.iter().any(|action| matches!(action, Action::QueryFinished { .. })), "{none:?}");
    // A further copy goes elsewhere.
    let second = |worker| CachedPart { avoid: vec![WorkerId(1)], ..to_make_at(worker) };
    let mut begun = launched(&cluster.submit(3, made(vec![second(2), second(1)])));
    begun.sort();
    assert_eq!(begun[..1], [(site(2), id(3, 0, 0, 0))], "{begun:?}");
    let elsewhere = begun.iter().all(|(at, _)| *at == site(2));
    assert!(elsewhere, "{begun:?}");
}

#[test]
fn a_group_is_read_by_one_task_where_it_lies() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1]);
    let parts = || vec![kept_at(&[1]), kept_at(&[2]), kept_at(&[1]), kept_at(&[2])];
    let actions = cluster.submit(1, grouped(parts(), &[&[1, 3], &[0, 2]]));
    let mut readers = launched(&actions);
    readers.sort_by_key(|(_, attempt)| attempt.task.partition);
    assert_eq!(readers, [(site(2), id(1, 2, 0, 0)), (site(1), id(1, 2, 1, 0))]);
    let read: Vec<_> = sources(&actions, id(1, 2, 0, 0)).iter().map(|it| it.producer).collect();
    assert_eq!(read, [id(1, 1, 1, 0), id(1, 1, 3, 0)]);
    let tasks = cluster.scheduler.tasks(crate::ids::QueryId(1));
    let local: Vec<_> = tasks.iter().filter_map(|task| task.is_local).collect();
    assert_eq!(local, [true, true]);
    // One worker has most of a group, and not all.
    let parts = vec![kept_at(&[1]), kept_at(&[1]), kept_at(&[1]), kept_at(&[2])];
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1]);
    let mixed = launched(&cluster.submit(1, grouped(parts, &[&[0, 1, 2, 3]])));
    assert_eq!(mixed, [(site(1), id(1, 2, 0, 0))]);
    let tasks = cluster.scheduler.tasks(crate::ids::QueryId(1));
    assert_eq!(tasks.iter().filter_map(|task| task.is_local).collect::<Vec<_>>(), [false]);
}

#[test]
fn what_is_in_no_group_is_not_made() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1, 1]);
    let parts = vec![to_make_at(1), kept_at(&[1]), kept_at(&[2]), kept_at(&[3])];
    let mut readers = launched(&cluster.submit(1, grouped(parts, &[&[1, 3]])));
    assert_eq!(readers.len(), 1, "{readers:?}");
    // Nobody asks for what this one kept.
    assert_eq!(launched(&cluster.tell(Event::WorkerLeft { life: life(2, 1) })), []);
    while let Some((at, attempt)) = readers.pop() {
        assert!(attempt.task.stage.0 >= 2, "{attempt}");
        readers.extend(launched(&cluster.finish(at, attempt)));
    }
    // Of nothing at all there is one task, which reads nothing.
    let none = cluster.submit(2, grouped(vec![to_make_at(1), to_make_at(3)], &[&[]]));
    let begun = launched(&none);
    assert_eq!(begun.iter().map(|(_, attempt)| *attempt).collect::<Vec<_>>(), [id(2, 2, 0, 0)]);
    assert_eq!(sources(&none, id(2, 2, 0, 0)), []);
}

#[test]
fn of_a_group_only_what_is_lost_is_made_again_and_its_reader_waits_for_it() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1]);
    let parts = vec![kept_at(&[1]), kept_at(&[2]), kept_at(&[1]), kept_at(&[1])];
    let begun = launched(&cluster.submit(1, grouped(parts, &[&[0, 1], &[2, 3]])));
    assert_eq!(begun.len(), 2);
    let mut making = launched(&cluster.tell(Event::WorkerLeft { life: life(2, 1) }));
    for (at, attempt) in begun {
        making.extend(launched(&cluster.finish(at, attempt)));
    }
    let mut order = Vec::new();
    while let Some((at, attempt)) = making.pop() {
        assert_eq!(at, site(1));
        order.push((attempt.task.stage.0, attempt.task.partition));
        if attempt.task.stage.0 < 3 {
            making.extend(launched(&cluster.finish(at, attempt)));
        }
    }
    order.retain(|(stage, _)| *stage > 0);
    let lost_with_its_reader: Vec<_> = order.iter().filter(|it| it.0 == 1).collect();
    assert_eq!(lost_with_its_reader, [&(1, 1)], "{order:?}");
    assert_eq!(order.last(), Some(&(3, 0)), "{order:?}");
    assert!(!order.contains(&(2, 1)), "{order:?}");
}

#[test]
fn a_reader_whose_keeper_let_go_of_much_is_not_to_blame() {
    let config = SchedulerConfig::default();
    let rounds = config.max_attempts as usize + 2;
    let mut cluster = Cluster::new(config, &[1, 1]);
    let part = || CachedPart { wish: Some(site(1)), ..kept_at(&[1]) };
    let parts = vec![part(), part(), part()];
    let mut reader = launched(&cluster.submit(1, grouped(parts, &[&[0, 1, 2]])));
    for round in 0..rounds {
        // It stays where its group was, however often.
        assert_eq!(reader, [(site(1), id(1, 2, 0, round as u32))]);
        let attempts = [0, 1, 2].map(|partition| id(1, 1, partition, round as u32));
        let failure = TaskFailure::Fetch {
            producer: attempts[0],
            site: site(1),
            fault: FetchFault::Missing,
            also_missing: attempts[1..].to_vec(),
            message: "gone".to_owned(),
        };
        let mut making = launched(&cluster.fail(site(1), reader[0].1, failure));
        let mut made = Vec::new();
        reader.clear();
        while let Some((at, attempt)) = making.pop() {
            match attempt.task.stage.0 {
                2 => reader.push((at, attempt)),
                _ => {
                    made.extend((attempt.task.stage.0 == 1).then_some(attempt.task.partition));
                    making.extend(launched(&cluster.finish(at, attempt)));
                }
            }
        }
        made.sort_unstable();
        assert_eq!(made, [0, 1, 2], "all are made again before it is tried again");
    }
}
