//! What is taken back with a lost output that is not the same again.

use super::rules_test::{Cluster, failed, id, launched, life, node, site};
use super::*;
use crate::ids::QueryId;

use ReadPattern::{All, OneToOne};

fn rolling(mut node: StageNode) -> StageNode {
    node.is_by_chance = true;
    node
}

fn graph(stages: Vec<StageNode>) -> QueryGraph {
    QueryGraph::new(stages, Replay::Exact).unwrap()
}

fn released(actions: &[Action]) -> Vec<TaskAttempt> {
    let outputs = actions.iter().filter_map(|action| match action {
        Action::ReleasePartitions { outputs, .. } => Some(outputs.clone()),
        _ => None,
    });
    outputs.flatten().collect()
}

fn cancelled(actions: &[Action]) -> Vec<TaskAttempt> {
    let attempts = actions.iter().filter_map(|action| match action {
        Action::CancelTasks { attempts, .. } => Some(attempts.clone()),
        _ => None,
    });
    attempts.flatten().collect()
}

/// Three workers. What the first made has been read by one of two readers; the other reads it.
fn half_read(first: StageNode) -> Cluster {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1, 1]);
    let stages = vec![first, node(1, 2, &[(0, All)]), node(2, 1, &[(1, All)])];
    assert_eq!(launched(&cluster.submit(1, graph(stages))), [(site(1), id(1, 0, 0, 0))]);
    let readers = launched(&cluster.finish(site(1), id(1, 0, 0, 0)));
    // The first runs where its input is.
    assert_eq!(readers, [(site(1), id(1, 1, 0, 0)), (site(2), id(1, 1, 1, 0))]);
    cluster.finish(site(2), id(1, 1, 1, 0));
    cluster
}

#[test]
fn what_was_made_of_lost_dice_is_taken_back() {
    for is_by_chance in [false, true] {
        let mut first = node(0, 1, &[]);
        first.is_by_chance = is_by_chance;
        let mut cluster = half_read(first);
        let actions = cluster.tell(Event::WorkerLeft { life: life(1, 1) });
        let taken_back = [id(1, 1, 1, 0)];
        assert_eq!(released(&actions), if is_by_chance { &taken_back[..] } else { &[] });
        let [(at, again)] = launched(&actions)[..] else { panic!("{actions:?}") };
        assert_eq!(again, id(1, 0, 0, 1));
        let next = launched(&cluster.finish(at, again));
        let next: Vec<_> = next.into_iter().map(|(_, attempt)| attempt).collect();
        let both = [id(1, 1, 0, 1), id(1, 1, 1, 1)];
        assert_eq!(next, if is_by_chance { &both[..] } else { &both[..1] });
    }
}

#[test]
fn dice_that_all_have_read_stay_cast() {
    let mut cluster = half_read(rolling(node(0, 1, &[])));
    let last = launched(&cluster.finish(site(1), id(1, 1, 0, 0)));
    let [(at, reader)] = last[..] else { panic!("{last:?}") };
    assert_eq!(reader, id(1, 2, 0, 0));
    // Both readers are done; of one of them the output is lost, and made again of the same dice.
    let failure = TaskFailure::Fetch {
        producer: id(1, 1, 1, 0),
        site: site(2),
        fault: FetchFault::Missing,
        also_missing: Vec::new(),
        message: String::new(),
    };
    let actions = cluster.fail(at, reader, failure);
    assert_eq!(launched(&actions)[0].1, id(1, 1, 1, 1));
    assert_eq!(released(&actions), [id(1, 1, 1, 0)]);
    // With the dice themselves, what the other reader made goes too.
    let actions = cluster.tell(Event::WorkerLeft { life: life(1, 1) });
    assert_eq!(launched(&actions)[0].1, id(1, 0, 0, 1));
}

#[test]
fn what_is_made_of_other_dice_stays() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1]);
    let stages = vec![rolling(node(0, 2, &[])), node(1, 2, &[(0, OneToOne)])];
    cluster.submit(1, graph(stages));
    let first = launched(&cluster.finish(site(1), id(1, 0, 0, 0)))[0];
    cluster.finish(site(2), id(1, 0, 1, 0));
    assert_eq!(first, (site(1), id(1, 1, 0, 0)));
    let actions = cluster.tell(Event::WorkerLeft { life: life(2, 1) });
    assert_eq!((released(&actions), cancelled(&actions)), (Vec::new(), Vec::new()));
}

#[test]
fn rows_that_have_left_cannot_be_taken_back() {
    let result = id(1, 1, 1, 0);
    let left = [
        (Some(Event::ResultDelivered { result, rows: 1 }), None),
        (Some(Event::ResultFetched { result }), None),
        // The news comes when all was taken back already.
        (None, Some(Event::ResultDelivered { result, rows: 1 })),
        (None, Some(Event::ResultFetched { result })),
        (None, None),
    ];
    for (before, after) in left {
        let is_lost = before.is_some() || after.is_some();
        let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1, 1]);
        let stages = vec![rolling(node(0, 1, &[])), node(1, 2, &[(0, All)])];
        cluster.submit(1, graph(stages));
        cluster.finish(site(1), id(1, 0, 0, 0));
        cluster.finish(site(2), result);
        let mut actions = before.map(|event| cluster.tell(event)).unwrap_or_default();
        actions.extend(cluster.tell(Event::WorkerLeft { life: life(1, 1) }));
        let is_withdrawn = actions.contains(&Action::ResultWithdrawn { result });
        actions.extend(after.map(|event| cluster.tell(event)).unwrap_or_default());
        let kind = failed(&actions).map(|failure| failure.kind);
        assert_eq!(kind, is_lost.then_some(FailureKind::ResultLost), "{actions:?}");
        assert!(is_lost || is_withdrawn, "{actions:?}");
    }
}

#[test]
fn a_row_limit_is_met_anew_by_other_rows() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1]);
    let mut limited = rolling(node(0, 3, &[]));
    limited.row_limit = Some(10);
    cluster.submit(1, graph(vec![limited, node(1, 1, &[(0, All)])]));
    let actions = cluster.finish_with(site(1), id(1, 0, 0, 0), 10);
    assert_eq!(launched(&actions), [(site(1), id(1, 1, 0, 0))]);
    assert_eq!(cancelled(&actions), [id(1, 0, 1, 0)]);
    cluster.tell(Event::TaskStopped { site: site(2), attempt: id(1, 0, 1, 0) });
    let actions = cluster.tell(Event::WorkerLeft { life: life(1, 1) });
    assert_eq!(launched(&actions), [(site(2), id(1, 0, 0, 1))]);
    // The same task has less this time, and another must help out.
    let actions = cluster.finish_with(site(2), id(1, 0, 0, 1), 4);
    assert_eq!(launched(&actions), [(site(2), id(1, 0, 1, 1))]);
    let actions = cluster.finish_with(site(2), id(1, 0, 1, 1), 6);
    let [.., Action::LaunchTasks { tasks, .. }, Action::ResultBegun { .. }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!((tasks[0].attempt, tasks[0].sources.len()), (id(1, 1, 0, 1), 2));
}

#[test]
fn what_was_taken_back_is_shown_as_lost() {
    let mut cluster = half_read(rolling(node(0, 1, &[])));
    cluster.tell(Event::WorkerLeft { life: life(1, 1) });
    let lost = cluster.scheduler.tasks(QueryId(1));
    let lost: Vec<_> = lost.iter().filter(|task| task.state == AttemptState::Lost).collect();
    assert_eq!(lost.len(), 2, "{lost:?}");
}
