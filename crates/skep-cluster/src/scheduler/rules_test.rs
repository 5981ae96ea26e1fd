//! One test per rule, each a few events and the actions that must follow.

use std::num::NonZeroU32;
use std::time::Duration;

use skep_proto::ErrorCode;

use super::*;
use crate::ids::{Attempt, Incarnation, QueryId, StageId, TaskId, WorkerId};
use crate::membership::{LossReason, Registration, WorkerLife};

const MS: Duration = Duration::from_millis(1);

pub(super) struct Cluster {
    pub(super) scheduler: Scheduler,
    now: Duration,
}

pub(super) fn life(worker: u64, incarnation: u64) -> WorkerLife {
    WorkerLife { worker: WorkerId(worker), incarnation: Incarnation(incarnation) }
}

pub(super) fn site(worker: u64) -> Site {
    Site::Worker(life(worker, 1))
}

pub(super) fn id(query: u64, stage: u32, partition: usize, attempt: u32) -> TaskAttempt {
    let task = TaskId { query: QueryId(query), stage: StageId(stage), partition };
    TaskAttempt { task, attempt: Attempt(attempt) }
}

pub(super) fn node(id: u32, task_count: usize, inputs: &[(u32, ReadPattern)]) -> StageNode {
    let input = |(producer, pattern): &(u32, ReadPattern)| StageInput {
        producer: StageId(*producer),
        pattern: pattern.clone(),
    };
    StageNode {
        id: StageId(id),
        task_count,
        inputs: inputs.iter().map(input).collect(),
        output: OutputKind::Whole,
        place: StagePlace::Workers,
        row_limit: None,
        is_by_chance: false,
        cached: None,
    }
}

/// `widths[0]` leaves, each further stage reading all of the one before.
fn chain(widths: &[usize]) -> QueryGraph {
    let input = |stage: usize| (stage as u32).checked_sub(1).map(|p| (p, ReadPattern::All));
    let stages = widths.iter().enumerate();
    let stages = stages.map(|(s, width)| node(s as u32, *width, input(s).as_slice()));
    QueryGraph::new(stages.collect(), Replay::Exact).unwrap()
}

impl Cluster {
    pub(super) fn new(config: SchedulerConfig, slots: &[usize]) -> Self {
        let mut cluster = Self { scheduler: Scheduler::new(config, MS), now: MS };
        cluster.tell(Event::Tick);
        for (index, slot_count) in slots.iter().enumerate() {
            cluster.join(life(index as u64 + 1, 1), *slot_count, Holdings::default());
        }
        cluster
    }

    pub(super) fn tell(&mut self, event: Event) -> Vec<Action> {
        self.scheduler.apply(event, self.now)
    }

    /// Lets time pass, with everybody alive.
    pub(super) fn wait(&mut self, time: Duration) -> Vec<Action> {
        let end = self.now + time;
        let mut actions = Vec::new();
        while self.now < end {
            self.now = end.min(self.now + Duration::from_secs(1));
            for worker in self.scheduler.snapshot().live() {
                let beat = Heartbeat::default();
                let life = worker.registration.life;
                actions.extend(self.scheduler.apply(Event::Heartbeat { life, beat }, self.now));
            }
            actions.extend(self.tell(Event::Tick));
        }
        actions
    }

    fn join(&mut self, life: WorkerLife, slot_count: usize, holdings: Holdings) -> Vec<Action> {
        let registration = Registration {
            life,
            slot_count,
            memory_bytes: 0,
            data_address: String::new(),
            pid: 0,
            version: String::new(),
        };
        self.tell(Event::WorkerJoined { registration, holdings })
    }

    pub(super) fn submit(&mut self, query: u64, graph: QueryGraph) -> Vec<Action> {
        self.submit_with(query, graph, QuerySettings::default())
    }

    fn submit_with(
        &mut self,
        query: u64,
        graph: QueryGraph,
        settings: QuerySettings,
    ) -> Vec<Action> {
        self.tell(Event::Submit { query: QueryId(query), graph, settings })
    }

    pub(super) fn finish(&mut self, site: Site, attempt: TaskAttempt) -> Vec<Action> {
        self.finish_with(site, attempt, 1)
    }

    pub(super) fn finish_with(
        &mut self,
        site: Site,
        attempt: TaskAttempt,
        rows: u64,
    ) -> Vec<Action> {
        let output = TaskOutput { rows, bytes: vec![rows * 10], ..TaskOutput::default() };
        self.tell(Event::TaskFinished { site, attempt, output })
    }

    pub(super) fn fail(
        &mut self,
        site: Site,
        attempt: TaskAttempt,
        failure: TaskFailure,
    ) -> Vec<Action> {
        self.tell(Event::TaskFailed { site, attempt, failure })
    }
}

pub(super) fn launched(actions: &[Action]) -> Vec<(Site, TaskAttempt)> {
    let tasks = actions.iter().filter_map(|action| match action {
        Action::LaunchTasks { site, tasks } => Some(tasks.iter().map(|task| (*site, task.attempt))),
        _ => None,
    });
    tasks.flatten().collect()
}

pub(super) fn failed(actions: &[Action]) -> Option<&QueryFailure> {
    actions.iter().find_map(|action| match action {
        Action::QueryFailed { failure, .. } | Action::QueryRejected { failure, .. } => {
            Some(failure)
        }
        _ => None,
    })
}

fn refused(producer: TaskAttempt, at: Site, fault: FetchFault) -> TaskFailure {
    let (also_missing, message) = (Vec::new(), "refused".to_owned());
    TaskFailure::Fetch { producer, site: at, fault, also_missing, message }
}

fn worker_fault() -> TaskFailure {
    TaskFailure::WorkerFault { message: "disk full".to_owned() }
}

#[test]
fn a_query_runs_stage_by_stage_and_leaves_nothing() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1]);
    let actions = cluster.submit(1, chain(&[2, 1]));
    let plan =
        |worker| Action::SendPlan { site: site(worker), query: QueryId(1), stage: StageId(0) };
    assert!(actions.contains(&plan(1)) && actions.contains(&plan(2)));
    assert_eq!(launched(&actions), [(site(1), id(1, 0, 0, 0)), (site(2), id(1, 0, 1, 0))]);
    assert_eq!(launched(&cluster.finish(site(1), id(1, 0, 0, 0))), []);
    let actions = cluster.finish_with(site(2), id(1, 0, 1, 0), 5);
    assert_eq!(launched(&actions), [(site(2), id(1, 1, 0, 0))], "where most of its input is");
    let result = id(1, 1, 0, 0);
    let actions = cluster.finish(site(2), result);
    assert!(actions.contains(&Action::ResultReady { result, site: site(2), rows: 1 }));
    let actions = cluster.tell(Event::ResultFetched { result });
    assert_eq!(
        actions,
        [
            Action::DropQuery { site: site(1), query: QueryId(1) },
            Action::DropQuery { site: site(2), query: QueryId(1) },
            Action::QueryFinished { query: QueryId(1) },
        ]
    );
    assert!(cluster.scheduler.is_idle());
}

#[test]
fn a_query_wider_than_the_cluster_waits_for_slots() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[2, 1]);
    let first = launched(&cluster.submit(1, chain(&[10])));
    assert_eq!(first.len(), 3);
    let next = launched(&cluster.finish(first[0].0, first[0].1));
    assert_eq!(next, [(first[0].0, id(1, 0, 3, 0))]);
    assert_eq!(cluster.finish(first[0].0, first[0].1), [], "said twice, heard once");
}

#[test]
fn leaves_are_spread_evenly() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[4, 4, 4]);
    let sites: Vec<_> =
        launched(&cluster.submit(1, chain(&[6]))).into_iter().map(|l| l.0).collect();
    for worker in 1..=3 {
        assert_eq!(sites.iter().filter(|at| **at == site(worker)).count(), 2);
    }
}

#[test]
fn a_task_waits_for_the_worker_with_its_input_for_a_while_only() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1]);
    cluster.submit(1, chain(&[1, 1]));
    cluster.submit(2, chain(&[2]));
    assert_eq!(launched(&cluster.finish(site(2), id(2, 0, 0, 0))), [(site(2), id(2, 0, 1, 0))]);
    // Query 3 takes the slot that query 1's producer gives back, so that its reader must wait.
    let graph = QueryGraph::new(
        vec![node(0, 2, &[]), node(1, 2, &[(0, ReadPattern::OneToOne)])],
        Replay::Exact,
    );
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1]);
    let settings = QuerySettings { weight: NonZeroU32::new(1).unwrap(), timeout: None };
    let first = launched(&cluster.submit_with(1, graph.unwrap(), settings));
    assert_eq!(first, [(site(1), id(1, 0, 0, 0)), (site(2), id(1, 0, 1, 0))]);
    cluster.submit(2, chain(&[4]));
    assert_eq!(launched(&cluster.finish(site(1), id(1, 0, 0, 0))), [(site(1), id(2, 0, 0, 0))]);
    let wakeup = cluster.scheduler.next_wakeup(cluster.now).unwrap();
    assert_eq!(wakeup, cluster.now + Duration::from_millis(50));
    cluster.now = wakeup;
    cluster.tell(Event::Tick);
    let freed = launched(&cluster.finish(site(2), id(1, 0, 1, 0)));
    assert_eq!(freed.len(), 1);
    assert_eq!(freed[0].0, site(2));
}

#[test]
fn slots_are_shared_by_weight() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[]);
    let settings =
        |weight| QuerySettings { weight: NonZeroU32::new(weight).unwrap(), timeout: None };
    cluster.submit_with(1, chain(&[20]), settings(1));
    cluster.submit_with(2, chain(&[20]), settings(3));
    let started = launched(&cluster.join(life(1, 1), 8, Holdings::default()));
    let of = |query| started.iter().filter(|(_, id)| id.task.query == QueryId(query)).count();
    assert_eq!((of(1), of(2)), (2, 6));
}

#[test]
fn queries_queue_and_a_full_queue_is_a_retryable_error() {
    let config = SchedulerConfig {
        running_query_count: 1,
        queued_query_count: 1,
        ..SchedulerConfig::default()
    };
    let mut cluster = Cluster::new(config, &[4]);
    assert_eq!(launched(&cluster.submit(1, chain(&[1]))).len(), 1);
    assert_eq!(cluster.submit(2, chain(&[1])), []);
    let actions = cluster.submit(3, chain(&[1]));
    let failure = failed(&actions).unwrap();
    assert_eq!(failure.kind, FailureKind::QueueFull);
    assert!(failure.kind.is_retryable());
    let actions = cluster.tell(cancel(1));
    assert_eq!(launched(&actions).len(), 1, "the next one's turn");
}

#[test]
fn errors_of_the_query_end_it_at_once() {
    let message = "x".to_owned();
    let cases = [
        (
            TaskFailure::Query {
                code: ErrorCode::InvalidArgument,
                message: message.clone(),
                hint: None,
            },
            FailureKind::Query(ErrorCode::InvalidArgument),
        ),
        (
            TaskFailure::OutOfMemory { message: message.clone(), hint: None },
            FailureKind::OutOfMemory,
        ),
        (TaskFailure::Panic { message }, FailureKind::Panic),
    ];
    for (failure, kind) in cases {
        let mut cluster = Cluster::new(SchedulerConfig::default(), &[2, 2]);
        cluster.submit(1, chain(&[3]));
        let actions = cluster.fail(site(1), id(1, 0, 0, 0), failure);
        let found = failed(&actions).unwrap();
        assert_eq!((found.kind, found.attempt), (kind, Some(id(1, 0, 0, 0))));
        assert_eq!(
            cluster.scheduler.workers(cluster.now)[0].info.state,
            crate::membership::WorkerState::Live
        );
    }
}

#[test]
fn a_worker_fault_is_retried_elsewhere_and_at_the_bound_the_first_cause_is_said() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1]);
    cluster.submit(1, chain(&[1]));
    let mut at = site(1);
    for attempt in 0..3 {
        let mut failure = worker_fault();
        if attempt > 0 {
            failure = TaskFailure::WorkerFault { message: "later".to_owned() };
        }
        let next = launched(&cluster.fail(at, id(1, 0, 0, attempt), failure));
        assert_eq!(next[0].1, id(1, 0, 0, attempt + 1));
        assert!(attempt > 0 || next[0].0 == site(2));
        at = next[0].0;
    }
    let actions = cluster.fail(at, id(1, 0, 0, 3), worker_fault());
    let failure = failed(&actions).unwrap();
    assert_eq!(failure.kind, FailureKind::Attempts);
    assert_eq!(failure.message, "task failed 4 times, first: worker fault: disk full");
    assert!(cluster.scheduler.is_idle());
}

#[test]
fn a_lost_worker_costs_what_it_held_and_is_needed() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1, 1]);
    cluster.submit(1, chain(&[3, 3, 1]));
    for stage in 0..2 {
        for worker in 1..=3 {
            cluster.finish(site(worker), id(1, stage, worker as usize - 1, 0));
        }
    }
    let tasks = cluster.scheduler.tasks(QueryId(1));
    let of = |at| {
        tasks.iter().filter(|task| task.site == Some(site(at)) && task.ended.is_some()).count()
    };
    let lost = (1..=3).find(|worker| of(*worker) == 2).unwrap();
    let actions = cluster.tell(Event::WorkerLeft { life: life(lost, 1) });
    assert_eq!(actions[0], Action::WorkerLost { life: life(lost, 1), reason: LossReason::Left });
    // Of the leaves only the lost one, for the lost one of the middle; nothing else.
    let partition = lost as usize - 1;
    let next = launched(&actions);
    assert_eq!(next.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [id(1, 0, partition, 1)]);
    let next = launched(&cluster.finish(next[0].0, next[0].1));
    assert_eq!(next.iter().map(|(_, id)| id.task.stage).collect::<Vec<_>>(), [StageId(1)]);
}

#[test]
fn a_running_reader_of_lost_output_is_restarted() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1]);
    cluster.submit(1, chain(&[2, 1]));
    cluster.finish(site(1), id(1, 0, 0, 0));
    assert_eq!(launched(&cluster.finish_with(site(2), id(1, 0, 1, 0), 9))[0].0, site(2));
    let actions = cluster.tell(Event::WorkerLeft { life: life(1, 1) });
    let cancel = Action::CancelTasks { site: site(2), attempts: vec![id(1, 1, 0, 0)] };
    assert!(actions.contains(&cancel));
    assert_eq!(launched(&actions), [], "its slot is taken until it has stopped");
    let stopped = Event::TaskStopped { site: site(2), attempt: id(1, 1, 0, 0) };
    assert_eq!(launched(&cluster.tell(stopped)), [(site(2), id(1, 0, 0, 1))]);
}

#[test]
fn two_refused_fetches_lose_a_worker_and_a_missing_partition_does_not() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1]);
    cluster.submit(1, chain(&[2, 1]));
    cluster.finish(site(1), id(1, 0, 0, 0));
    cluster.finish_with(site(2), id(1, 0, 1, 0), 9);
    let source = id(1, 0, 0, 0);
    let next = launched(&cluster.fail(
        site(2),
        id(1, 1, 0, 0),
        refused(source, site(1), FetchFault::Missing),
    ));
    assert_eq!(next[0].1, id(1, 0, 0, 1), "made again alone");
    let (at, source) = next[0];
    let next = launched(&cluster.finish(at, source));
    let other = if at == site(1) { site(2) } else { site(1) };
    let (reader, source) = if next[0].0 == at { (at, id(1, 0, 1, 0)) } else { (other, source) };
    let from = if source.task.partition == 1 { site(2) } else { at };
    let next =
        launched(&cluster.fail(reader, id(1, 1, 0, 1), refused(source, from, FetchFault::Refused)));
    assert_eq!(next[0].1, id(1, 1, 0, 2));
    let actions = cluster.fail(next[0].0, next[0].1, refused(source, from, FetchFault::Refused));
    let Site::Worker(life) = from else { unreachable!() };
    assert!(actions.contains(&Action::WorkerLost { life, reason: LossReason::FetchRefused }));
    let back = WorkerLife { incarnation: Incarnation(2), ..life };
    cluster.join(back, 1, Holdings::default());
    let view = cluster.scheduler.workers(cluster.now);
    assert!(
        view.iter().any(|worker| worker.info.registration.life == back && worker.is_quarantined)
    );
}

#[test]
fn an_old_incarnation_is_ignored_and_told_to_join_anew() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1]);
    cluster.submit(1, chain(&[1]));
    cluster.tell(Event::WorkerLeft { life: life(1, 1) });
    assert_eq!(cluster.finish(site(1), id(1, 0, 0, 0)), []);
    let refused = [Action::RefuseWorker { life: life(1, 1) }];
    assert_eq!(
        cluster.tell(Event::Heartbeat { life: life(1, 1), beat: Heartbeat::default() }),
        refused
    );
    assert_eq!(cluster.join(life(1, 1), 1, Holdings::default()), refused);
    let next = launched(&cluster.join(life(1, 2), 1, Holdings::default()));
    assert_eq!(next, [(Site::Worker(life(1, 2)), id(1, 0, 0, 1))]);
}

/// Two tasks, one on each of two workers, and one that reads both. Returns where it runs, and where
/// not.
fn reader_of_two() -> (Cluster, u64, u64) {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1]);
    for (at, attempt) in launched(&cluster.submit(1, chain(&[2, 1]))) {
        assert_eq!(at, site(attempt.task.partition as u64 + 1));
    }
    cluster.finish(site(1), id(1, 0, 0, 0));
    let actions = cluster.finish(site(2), id(1, 0, 1, 0));
    let [(at, reader)] = launched(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!(reader, id(1, 1, 0, 0));
    let here = if at == site(1) { 1 } else { 2 };
    (cluster, here, 3 - here)
}

fn has_inputs(worker: u64, attempt: TaskAttempt) -> Event {
    let beat = Heartbeat { has_inputs: vec![attempt], ..Heartbeat::default() };
    Event::Heartbeat { life: life(worker, 1), beat }
}

#[test]
fn a_task_is_restarted_when_what_it_reads_is_lost() {
    let (mut cluster, here, there) = reader_of_two();
    let actions = cluster.tell(Event::WorkerLeft { life: life(there, 1) });
    let attempts = vec![id(1, 1, 0, 0)];
    assert!(actions.contains(&Action::CancelTasks { site: site(here), attempts }), "{actions:?}");
}

#[test]
fn a_task_that_has_read_all_is_left_alone() {
    let (mut cluster, here, there) = reader_of_two();
    let told = cluster.tell(has_inputs(here, id(1, 1, 0, 0)));
    assert_eq!(told, [], "it makes the result, which can still be read");
    let actions = cluster.tell(Event::WorkerLeft { life: life(there, 1) });
    let stops = |action: &Action| {
        matches!(action, Action::CancelTasks { .. } | Action::ResultWithdrawn { .. })
    };
    assert!(!actions.iter().any(stops), "{actions:?}");
    assert_eq!(launched(&actions), [], "nobody reads what was lost");
    // Unless it fails: then it reads again, and what was lost comes first.
    let failure = TaskFailure::WorkerFault { message: "disk full".to_owned() };
    let again = launched(&cluster.fail(site(here), id(1, 1, 0, 0), failure));
    let lost = there as usize - 1;
    assert_eq!(again, [(site(here), id(1, 0, lost, 1))]);
    let reader = launched(&cluster.finish(site(here), id(1, 0, lost, 1)));
    assert_eq!(reader, [(site(here), id(1, 1, 0, 1))]);
    // What was said of an attempt does not hold for the next.
    cluster.tell(has_inputs(here, id(1, 1, 0, 0)));
    assert!(!cluster.scheduler.is_idle());
}

#[test]
fn a_worker_that_reconnects_keeps_what_it_holds() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[3]);
    cluster.submit(1, chain(&[3, 1]));
    cluster.tell(Event::WorkerDisconnected { life: life(1, 1) });
    // One has finished meanwhile, one runs on, of the third nobody knows.
    let output = TaskOutput { rows: 1, bytes: vec![10], ..TaskOutput::default() };
    let holdings = Holdings {
        running: vec![id(1, 0, 1, 0)],
        sealed: vec![(id(1, 0, 0, 0), output)],
        queries: vec![QueryId(1), QueryId(77)],
        cached: Vec::new(),
    };
    let actions = cluster.join(life(1, 1), 3, holdings);
    assert!(actions.contains(&Action::DropQuery { site: site(1), query: QueryId(77) }));
    assert_eq!(launched(&actions), [(site(1), id(1, 0, 2, 1))]);
    cluster.finish(site(1), id(1, 0, 1, 0));
    let next = launched(&cluster.finish(site(1), id(1, 0, 2, 1)));
    assert_eq!(next, [(site(1), id(1, 1, 0, 0))]);
}

#[test]
fn a_worker_that_does_not_reconnect_in_time_is_lost() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1]);
    cluster.submit(1, chain(&[1]));
    cluster.tell(Event::WorkerDisconnected { life: life(1, 1) });
    cluster.now += Duration::from_millis(200);
    let actions = cluster.tell(Event::Tick);
    assert_eq!(launched(&actions), [(site(2), id(1, 0, 0, 1))]);
}

#[test]
fn no_worker_for_too_long_is_a_clear_error() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1]);
    cluster.submit(1, chain(&[1]));
    cluster.tell(Event::WorkerLeft { life: life(1, 1) });
    assert_eq!(failed(&cluster.wait(Duration::from_secs(29))), None);
    let actions = cluster.wait(Duration::from_secs(1));
    let failure = failed(&actions).unwrap();
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (FailureKind::NoWorker, "no live worker for 30s")
    );
}

#[test]
fn a_deadline_and_a_cancel_end_everything() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[2]);
    let settings = QuerySettings { timeout: Some(Duration::from_secs(2)), ..Default::default() };
    cluster.submit_with(1, chain(&[5]), settings);
    let actions = cluster.wait(Duration::from_secs(2));
    assert_eq!(failed(&actions).unwrap().kind, FailureKind::Deadline);
    assert!(actions.contains(&Action::DropQuery { site: site(1), query: QueryId(1) }));
    assert!(!cluster.scheduler.is_idle(), "the slots are taken until the tasks have stopped");
    for partition in 0..2 {
        cluster.tell(Event::TaskStopped { site: site(1), attempt: id(1, 0, partition, 0) });
    }
    assert!(cluster.scheduler.is_idle());
    cluster.submit_with(2, chain(&[5]), settings);
    let late = Event::Cancel { query: QueryId(2), cause: CancelCause::Late };
    assert_eq!(failed(&cluster.tell(late)).unwrap().kind, FailureKind::Deadline);
}

fn cancel(query: u64) -> Event {
    Event::Cancel { query: QueryId(query), cause: CancelCause::Unwanted }
}

#[test]
fn a_satisfied_limit_stops_the_waves_to_come() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[2]);
    let mut limited = node(0, 100, &[]);
    limited.row_limit = Some(10);
    let graph = QueryGraph::new(vec![limited, node(1, 1, &[(0, ReadPattern::All)])], Replay::Exact);
    cluster.submit(1, graph.unwrap());
    cluster.finish_with(site(1), id(1, 0, 0, 0), 4);
    let actions = cluster.finish_with(site(1), id(1, 0, 1, 0), 6);
    let [.., Action::LaunchTasks { tasks, .. }, Action::ResultBegun { .. }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(tasks[0].attempt, id(1, 1, 0, 0));
    assert_eq!(tasks[0].sources.len(), 2);
    let actions = cluster.tell(Event::ResultEnough { query: QueryId(1) });
    assert!(actions.contains(&Action::QueryFinished { query: QueryId(1) }));
}

#[test]
fn a_begun_result_goes_on_only_if_it_can_be_made_again() {
    for (replay, kind) in [(Replay::Exact, None), (Replay::Never, Some(FailureKind::ResultLost))] {
        let mut cluster = Cluster::new(SchedulerConfig::default(), &[1, 1]);
        cluster.submit(1, QueryGraph::new(vec![node(0, 1, &[])], replay).unwrap());
        cluster.finish(site(1), id(1, 0, 0, 0));
        cluster.tell(Event::ResultDelivered { result: id(1, 0, 0, 0), rows: 1 });
        let actions = cluster.tell(Event::WorkerLeft { life: life(1, 1) });
        assert_eq!(failed(&actions).map(|failure| failure.kind), kind);
        assert_eq!(launched(&actions).len(), usize::from(kind.is_none()));
    }
}

#[test]
fn results_that_nobody_takes_hold_back_the_next_but_not_the_first() {
    let config = SchedulerConfig { result_window_bytes: 15, ..SchedulerConfig::default() };
    let mut cluster = Cluster::new(config, &[1]);
    cluster.submit(1, chain(&[5]));
    assert_eq!(launched(&cluster.finish(site(1), id(1, 0, 0, 0))).len(), 1);
    assert_eq!(launched(&cluster.finish(site(1), id(1, 0, 1, 0))), [], "20 bytes wait");
    let fetched = Event::ResultFetched { result: id(1, 0, 1, 0) };
    assert_eq!(launched(&cluster.tell(fetched)).len(), 1);
}

#[test]
fn what_is_read_is_let_go_after_its_generations() {
    for (retained_generations, released) in [(0, 1), (1, 0)] {
        let config = SchedulerConfig { retained_generations, ..SchedulerConfig::default() };
        let mut cluster = Cluster::new(config, &[1]);
        cluster.submit(1, chain(&[1, 1, 1]));
        cluster.finish(site(1), id(1, 0, 0, 0));
        let actions = cluster.finish(site(1), id(1, 1, 0, 0));
        let is_release = |action: &&Action| matches!(action, Action::ReleasePartitions { .. });
        assert_eq!(actions.iter().filter(is_release).count(), released);
    }
}

#[test]
fn stages_that_cannot_travel_run_on_the_coordinator() {
    let mut cluster = Cluster::new(SchedulerConfig::default(), &[1]);
    let mut leaf = node(0, 1, &[]);
    leaf.place = StagePlace::Coordinator;
    let graph = QueryGraph::new(vec![leaf, node(1, 1, &[(0, ReadPattern::All)])], Replay::Exact);
    let next = launched(&cluster.submit(1, graph.unwrap()));
    assert_eq!(next, [(Site::Coordinator, id(1, 0, 0, 0))]);
    let next = launched(&cluster.finish(Site::Coordinator, id(1, 0, 0, 0)));
    assert_eq!(next, [(site(1), id(1, 1, 0, 0))]);
}

#[test]
fn ended_queries_are_remembered_up_to_the_bounds() {
    let config = SchedulerConfig {
        remembered_query_count: 2,
        remembered_task_count: 3,
        ..SchedulerConfig::default()
    };
    let mut cluster = Cluster::new(config, &[4]);
    for query in 1..=3 {
        cluster.submit(query, chain(&[2]));
        cluster.tell(cancel(query));
        for partition in 0..2 {
            cluster.tell(Event::TaskStopped { site: site(1), attempt: id(query, 0, partition, 0) });
        }
    }
    let views = cluster.scheduler.queries();
    assert_eq!(views.iter().map(|view| view.query).collect::<Vec<_>>(), [QueryId(2), QueryId(3)]);
    assert_eq!(views[1].state, QueryState::Failed);
    assert_eq!(cluster.scheduler.tasks(QueryId(2)).len(), 0);
    let tasks = cluster.scheduler.tasks(QueryId(3));
    assert_eq!(tasks.len(), 2);
    assert!(tasks.iter().all(|task| task.state == AttemptState::Cancelled && task.ended.is_some()));
    assert_eq!(cluster.scheduler.stages().len(), 2);
}

#[test]
fn a_task_waits_for_the_worker_that_holds_much_of_its_input() {
    for (locality_min_bytes, is_much) in [(10, true), (11, false)] {
        let config = SchedulerConfig { locality_min_bytes, ..SchedulerConfig::default() };
        let mut cluster = Cluster::new(config, &[1, 1]);
        let first = launched(&cluster.submit(1, chain(&[1, 2])))[0].0;
        let at_once = launched(&cluster.finish(first, id(1, 0, 0, 0)));
        assert_eq!(at_once.len(), if is_much { 1 } else { 2 });
        assert_eq!(at_once[0].0, first);
        let later = launched(&cluster.wait(50 * MS));
        assert_eq!(later.len(), if is_much { 1 } else { 0 });
        assert!(later.iter().all(|(site, _)| *site != first));
    }
}
