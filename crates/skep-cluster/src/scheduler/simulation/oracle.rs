//! An account of what is sealed, lost and needed, kept from events and actions alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::cached::begun;
use crate::ids::{Attempt, QueryId, TaskId};
use crate::membership::WorkerLife;
use crate::scheduler::{
    Action, Event, FailureKind, FetchFault, Launch, QueryGraph, SchedulerConfig, Site, Source,
    TaskAttempt, TaskFailure,
};

#[derive(Debug, Clone, PartialEq)]
enum Status {
    /// With what it has yet to read.
    Running(Vec<Source>),
    Sealed,
    Gone,
}

#[derive(Debug, Clone)]
struct Known {
    attempt: Attempt,
    site: Site,
    status: Status,
    rows: u64,
    /// Needed by none while its worker could not be told to let it go: let go or not, both are right.
    is_uncertain: bool,
    failure_count: u32,
    start_count: u32,
    /// Whether it was sealed and something may have been made of it.
    has_left_traces: bool,
    /// Whether it was there before the query.
    is_kept: bool,
}

/// One query as the oracle sees it.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) graph: QueryGraph,
    tasks: BTreeMap<(usize, usize), Known>,
    fetched: BTreeSet<usize>,
    /// Of stages with enough rows, the tasks that gave them.
    pub(super) chosen: BTreeMap<usize, BTreeSet<usize>>,
    pub(super) is_cancelled: bool,
    pub(super) is_enough: bool,
    pub(super) deadline: Option<Duration>,
    pub(super) has_delivered: bool,
    failed_read_count: u32,
    final_failures: Vec<FailureKind>,
    pub(super) outcome: Option<Result<(), FailureKind>>,
}

#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub(super) accounts: BTreeMap<QueryId, Account>,
    lost: BTreeSet<WorkerLife>,
    /// Workers that the scheduler knows to be cut off for a moment.
    cut_off: BTreeSet<Site>,
    live: BTreeSet<WorkerLife>,
    /// The longest time without a worker so far, and since when there is none now.
    no_worker_since: Option<Duration>,
    pub(super) launch_count: usize,
    plans: BTreeSet<(Site, QueryId, u32)>,
    pub(super) config: SchedulerConfig,
}

type Check = Result<(), String>;

fn key(task: TaskId) -> (usize, usize) {
    (task.stage.0 as usize, task.partition)
}

macro_rules! ensure {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(format!($($text)*));
        }
    };
}

impl Account {
    pub(super) fn new(graph: QueryGraph, deadline: Option<Duration>) -> Self {
        let kept = begun(&graph).into_iter().map(|(stage, partition, attempt, copy)| {
            let known = Known {
                attempt,
                site: copy.site,
                status: Status::Sealed,
                rows: copy.rows,
                is_uncertain: false,
                failure_count: 0,
                start_count: 1,
                has_left_traces: false,
                is_kept: true,
            };
            ((stage, partition), known)
        });
        Self {
            tasks: kept.collect(),
            graph,
            fetched: BTreeSet::new(),
            chosen: BTreeMap::new(),
            is_cancelled: false,
            is_enough: false,
            deadline,
            has_delivered: false,
            failed_read_count: 0,
            final_failures: Vec::new(),
            outcome: None,
        }
    }

    fn is_sealed(&self, stage: usize, partition: usize) -> bool {
        matches!(self.tasks.get(&(stage, partition)), Some(Known { status: Status::Sealed, .. }))
    }

    fn is_skipped(&self, stage: usize, partition: usize) -> bool {
        self.chosen.get(&stage).is_some_and(|chosen| !chosen.contains(&partition))
    }

    /// Whether it runs with all that it reads in hand.
    fn is_fed(&self, stage: usize, partition: usize) -> bool {
        let known = self.tasks.get(&(stage, partition));
        known.is_some_and(|known| matches!(&known.status, Status::Running(rest) if rest.is_empty()))
    }

    /// Whether the client, or a task that is needed itself and not sealed, has yet to read it.
    fn is_needed(&self, stage: usize, partition: usize) -> bool {
        if self.is_skipped(stage, partition) {
            return false;
        }
        let stages = self.graph.stages();
        if stage + 1 == stages.len() {
            return !self.fetched.contains(&partition);
        }
        stages.iter().enumerate().skip(stage + 1).any(|(reader, node)| {
            let mine = node.inputs.iter().filter(|input| input.producer == stages[stage].id);
            let unread = |p| {
                !self.is_sealed(reader, p) && !self.is_fed(reader, p) && self.is_needed(reader, p)
            };
            mine.into_iter().any(|input| {
                let reads = |p: &usize| input.pattern.reads(*p).contains(partition);
                (0..node.task_count).filter(reads).any(unread)
            })
        })
    }

    fn note_rows(&mut self, stage: usize) {
        let Some(limit) = self.graph.stages()[stage].row_limit else { return };
        let is_result = stage + 1 == self.graph.stages().len();
        let counts = |p: &usize, known: &Known| {
            known.status == Status::Sealed || (is_result && self.fetched.contains(p))
        };
        let mine = self.tasks.iter().filter(|((s, p), known)| *s == stage && counts(p, known));
        let sealed: Vec<_> = mine.map(|((_, p), known)| (*p, known.rows)).collect();
        if sealed.iter().map(|(_, rows)| rows).sum::<u64>() >= limit {
            self.chosen.entry(stage).or_insert_with(|| sealed.iter().map(|(p, _)| *p).collect());
        }
    }

    /// Whether a partition of a cached table is not where it was.
    fn has_lost_cached(&self, failure: &TaskFailure) -> bool {
        let TaskFailure::Fetch { producer, site, fault: FetchFault::Missing, .. } = failure else {
            return false;
        };
        let is_cached = self.graph.stages()[producer.task.stage.0 as usize].cached.is_some();
        let known = self.tasks.get(&key(producer.task));
        let is_there = known.is_some_and(|known| {
            known.status == Status::Sealed
                && known.attempt == producer.attempt
                && known.site == *site
        });
        is_cached && is_there
    }

    fn gone(&mut self, id: TaskAttempt) {
        if let Some(known) = self.tasks.get_mut(&key(id.task))
            && known.attempt == id.attempt
        {
            known.status = Status::Gone;
        }
    }

    /// What follows from losses, whether or not those concerned can be told so now.
    fn void_readers(&mut self) {
        self.void_unfed();
        if self.outcome.is_some() {
            return;
        }
        while let Some((stage, partition)) = self.to_be_made_otherwise() {
            self.void_made_of(stage, partition);
            self.void_unfed();
        }
    }

    /// Finds a task that will give other rows than those that others have been made of.
    fn to_be_made_otherwise(&self) -> Option<(usize, usize)> {
        let found = self.tasks.iter().find(|((stage, partition), known)| {
            self.graph.stages()[*stage].is_by_chance
                && known.has_left_traces
                && known.status == Status::Gone
                && self.is_needed(*stage, *partition)
        });
        found.map(|(task, _)| *task)
    }

    fn void_made_of(&mut self, stage: usize, partition: usize) {
        self.chosen.remove(&stage);
        for (task, known) in &mut self.tasks {
            if *task == (stage, partition) {
                known.has_left_traces = false;
            }
        }
        for (stage, partition) in made_of(&self.graph, (stage, partition)) {
            self.chosen.remove(&stage);
            if let Some(known) = self.tasks.get_mut(&(stage, partition)) {
                known.has_left_traces = false;
                known.status = Status::Gone;
            }
        }
    }

    /// The scheduler may have let go of what a worker that is cut off holds; if so, it shows.
    fn concede(&mut self, id: TaskAttempt) {
        let uncertain: Vec<_> = self
            .tasks
            .iter()
            .filter(|((stage, partition), known)| {
                known.is_uncertain
                    && known.status == Status::Sealed
                    && self.graph.stages()[*stage].is_by_chance
                    && self.is_needed(*stage, *partition)
                    && made_of(&self.graph, (*stage, *partition)).contains(&key(id.task))
            })
            .map(|(task, _)| *task)
            .collect();
        for task in uncertain {
            if let Some(known) = self.tasks.get_mut(&task) {
                known.status = Status::Gone;
            }
        }
        self.void_readers();
    }

    /// A running task whose input is lost is restarted.
    fn void_unfed(&mut self) {
        let held: BTreeSet<_> = self
            .tasks
            .iter()
            .filter_map(|((stage, partition), known)| {
                let is_held = known.status == Status::Sealed;
                is_held.then_some((*stage, *partition, known.attempt))
            })
            .collect();
        for known in self.tasks.values_mut() {
            let Status::Running(sources) = &known.status else { continue };
            let is_held = |source: &Source| {
                let (stage, partition) = key(source.producer.task);
                held.contains(&(stage, partition, source.producer.attempt))
            };
            if !sources.iter().all(is_held) {
                known.status = Status::Gone;
            }
        }
    }

    fn running(&mut self, id: TaskAttempt, site: Site) -> Option<&mut Known> {
        let known = self.tasks.get_mut(&key(id.task))?;
        let is_it = known.attempt == id.attempt && known.site == site;
        (is_it && matches!(known.status, Status::Running(_))).then_some(known)
    }
}

impl Oracle {
    pub(super) fn new(config: SchedulerConfig, now: Duration) -> Self {
        Self { config, no_worker_since: Some(now), ..Self::default() }
    }

    /// Takes note of what the scheduler is about to hear.
    pub(super) fn hear(&mut self, event: &Event) {
        match event {
            Event::WorkerDisconnected { life } if self.is_live(Site::Worker(*life)) => {
                self.cut_off.insert(Site::Worker(*life));
            }
            Event::Cancel { query, .. } => {
                self.open(*query, |account| account.is_cancelled = true);
            }
            Event::ResultEnough { query } => self.open(*query, |account| account.is_enough = true),
            Event::ResultFetched { result } => {
                let partition = result.task.partition;
                self.open(result.task.query, |account| account.fetched.extend([partition]));
            }
            Event::ResultDelivered { result, .. } => {
                self.open(result.task.query, |account| account.has_delivered = true);
            }
            Event::TaskFinished { site, attempt, output } if self.is_live(*site) => {
                self.open(attempt.task.query, |account| {
                    if let Some(known) = account.running(*attempt, *site) {
                        known.status = Status::Sealed;
                        known.rows = output.rows;
                        known.has_left_traces = true;
                        account.note_rows(key(attempt.task).0);
                    }
                });
            }
            Event::TaskFailed { site, attempt, failure } if self.is_live(*site) => {
                self.hear_failure(*site, *attempt, failure);
            }
            Event::Heartbeat { life, beat } if self.is_live(Site::Worker(*life)) => {
                for attempt in &beat.has_inputs {
                    self.open(attempt.task.query, |account| {
                        if let Some(known) = account.running(*attempt, Site::Worker(*life)) {
                            known.status = Status::Running(Vec::new());
                        }
                    });
                }
            }
            Event::ResultFetchFailed { result, fault, .. } => {
                self.open(result.task.query, |account| {
                    account.failed_read_count += 1;
                    if *fault == FetchFault::Missing {
                        account.gone(*result);
                        account.void_readers();
                    }
                });
            }
            _ => {}
        }
    }

    fn hear_failure(&mut self, site: Site, attempt: TaskAttempt, failure: &TaskFailure) {
        self.open(attempt.task.query, |account| {
            let is_nobodys_fault = account.has_lost_cached(failure);
            let Some(known) = account.running(attempt, site) else { return };
            known.status = Status::Gone;
            known.failure_count += u32::from(!is_nobodys_fault);
            match failure {
                TaskFailure::Query { code, .. } => {
                    account.final_failures.push(FailureKind::Query(*code));
                }
                TaskFailure::OutOfMemory { .. } => {
                    account.final_failures.push(FailureKind::OutOfMemory);
                }
                TaskFailure::Panic { .. } => account.final_failures.push(FailureKind::Panic),
                TaskFailure::Fetch {
                    producer, fault: FetchFault::Missing, also_missing, ..
                } => {
                    account.gone(*producer);
                    also_missing.iter().for_each(|producer| account.gone(*producer));
                    account.void_readers();
                }
                _ => {}
            }
        });
    }

    /// Takes note, after what was heard, of what those that are cut off hold and nobody needs.
    pub(super) fn note_uncertain(&mut self) {
        if self.cut_off.is_empty() {
            return;
        }
        for account in self.accounts.values_mut() {
            for (stage, partition) in account.tasks.keys().copied().collect::<Vec<_>>() {
                let is_needed = account.is_needed(stage, partition);
                let known = account.tasks.get_mut(&(stage, partition));
                if let Some(known) = known.filter(|known| self.cut_off.contains(&known.site)) {
                    known.is_uncertain |= !is_needed && known.status == Status::Sealed;
                }
            }
        }
    }

    /// Takes note of a worker that is let in, with what it says it holds.
    pub(super) fn hear_join(&mut self, event: &Event) {
        let Event::WorkerJoined { registration, holdings } = event else { return };
        let site = Site::Worker(registration.life);
        self.no_worker_since = None;
        self.cut_off.remove(&site);
        if self.live.insert(registration.life) {
            return;
        }
        let running: BTreeSet<_> = holdings.running.iter().collect();
        let kept: BTreeSet<_> =
            holdings.cached.iter().map(|it| (QueryId(it.epoch.0), it.partition)).collect();
        let sealed: BTreeMap<_, _> =
            holdings.sealed.iter().map(|(id, out)| (*id, out.rows)).collect();
        self.plans.retain(|(at, ..)| *at != site);
        for (query, account) in &mut self.accounts {
            for (stage, partition) in account.tasks.keys().copied().collect::<Vec<_>>() {
                if account.is_skipped(stage, partition) {
                    continue;
                }
                let Some(known) = account.tasks.get_mut(&(stage, partition)) else { continue };
                if known.site != site {
                    continue;
                }
                let task =
                    TaskId { query: *query, stage: account.graph.stages()[stage].id, partition };
                let id = TaskAttempt { task, attempt: known.attempt };
                match (&known.status, sealed.get(&id)) {
                    (Status::Running(_), Some(rows)) => {
                        known.status = Status::Sealed;
                        known.rows = *rows;
                        known.has_left_traces = true;
                        account.note_rows(stage);
                    }
                    (Status::Running(_), None) if !running.contains(&id) => {
                        known.status = Status::Gone;
                        known.failure_count += 1;
                    }
                    (Status::Sealed, None)
                        if known.is_kept && kept.contains(&(*query, partition)) => {}
                    (Status::Sealed, None) => known.status = Status::Gone,
                    _ => {}
                }
            }
            account.void_readers();
        }
    }

    /// Checks one action, and takes note of it.
    pub(super) fn check(&mut self, action: &Action, now: Duration) -> Check {
        if let Some(site) = addressee(action) {
            ensure!(self.is_live(site), "addressed to {site}, which is lost: {action:?}");
        }
        match action {
            Action::SendPlan { site, query, stage } => {
                let is_new = self.plans.insert((*site, *query, stage.0));
                ensure!(is_new, "plan sent twice: {action:?}");
            }
            Action::LaunchTasks { site, tasks } => {
                for launch in tasks {
                    self.check_launch(*site, launch)?;
                }
            }
            Action::CancelTasks { attempts, site } => {
                for id in attempts {
                    self.check_cancel(*id, *site)?;
                }
            }
            Action::ReleasePartitions { outputs, site } => {
                for id in outputs {
                    self.check_release(*id, *site)?;
                }
            }
            Action::DropQuery { site, query } => {
                self.plans.retain(|(at, id, _)| (at, id) != (site, query));
            }
            Action::WorkerLost { life, .. } => self.lose(*life, now),
            Action::QueryFinished { query } => self.check_finished(*query)?,
            Action::QueryFailed { query, failure } => {
                self.check_failed(*query, failure.kind, now)?
            }
            Action::QueryRejected { query, failure } => {
                let open = self.accounts.values().filter(|account| account.outcome.is_none());
                let bound = self.config.running_query_count + self.config.queued_query_count;
                ensure!(open.count() > bound, "rejected with room left");
                self.settle(*query, Err(failure.kind))?;
            }
            Action::ResultReady { result, site, .. } => {
                let account = &self.accounts[&result.task.query];
                let known = account.tasks.get(&key(result.task));
                let is_it = known.is_some_and(|k| k.attempt == result.attempt && k.site == *site);
                let (stage, partition) = key(result.task);
                ensure!(is_it && account.is_sealed(stage, partition), "not ready: {action:?}");
            }
            Action::ResultBegun { result, site } => {
                let account = self.accounts.get_mut(&result.task.query).ok_or("unknown query")?;
                let (stage, _) = key(result.task);
                let limit = account.graph.stages()[stage].row_limit;
                let is_running = account.running(*result, *site).is_some();
                ensure!(is_running && limit.is_none(), "not begun: {action:?}");
            }
            Action::ResultWithdrawn { .. } | Action::RefuseWorker { .. } => {}
        }
        Ok(())
    }

    fn check_launch(&mut self, site: Site, launch: &Launch) -> Check {
        self.launch_count += 1;
        let id = launch.attempt;
        let config = &self.config;
        let (stage, partition) = key(id.task);
        ensure!(self.plans.contains(&(site, id.task.query, id.task.stage.0)), "no plan for {id}");
        let account = self.accounts.get_mut(&id.task.query).ok_or("unknown query")?;
        ensure!(account.outcome.is_none(), "launched after the end: {id}");
        ensure!(account.is_needed(stage, partition), "{id} is needed by none");
        ensure!(id.attempt.0 <= config.max_attempts + config.max_restarts, "{id} is too many");
        if account.is_sealed(stage, partition) {
            account.concede(id);
        }
        let mut failure_count = 0;
        if let Some(known) = account.tasks.get(&(stage, partition)) {
            ensure!(id.attempt.0 == known.attempt.0 + 1, "{id} after {}", known.attempt);
            let is_gone = known.status == Status::Gone || known.is_uncertain;
            ensure!(is_gone, "{id} although {:?}", known.status);
            failure_count = known.failure_count;
            ensure!(failure_count < config.max_attempts, "{id} after {failure_count} failures");
        }
        check_sources(account, launch)?;
        let known = Known {
            attempt: id.attempt,
            site,
            status: Status::Running(launch.sources.clone()),
            rows: 0,
            is_uncertain: false,
            failure_count,
            start_count: id.attempt.0 + 1,
            has_left_traces: false,
            is_kept: false,
        };
        account.tasks.insert((stage, partition), known);
        Ok(())
    }

    /// A running attempt is stopped only if its input is gone, or it is not needed.
    fn check_cancel(&mut self, id: TaskAttempt, site: Site) -> Check {
        let Some(account) = self.accounts.get_mut(&id.task.query) else { return Ok(()) };
        let (stage, partition) = key(id.task);
        let is_needed = account.is_needed(stage, partition);
        let held = |source: &Source, account: &Account| {
            let known = account.tasks.get(&key(source.producer.task));
            known.is_some_and(|known| {
                known.attempt == source.producer.attempt && matches!(known.status, Status::Sealed)
            })
        };
        let Some(known) = account.running(id, site) else { return Ok(()) };
        if let Status::Running(sources) = &known.status {
            let sources = sources.clone();
            if sources.iter().all(|source| held(source, account)) && is_needed {
                account.concede(id);
                ensure!(account.running(id, site).is_none(), "{id} cancelled without need");
            }
        }
        account.gone(id);
        Ok(())
    }

    fn check_release(&mut self, id: TaskAttempt, site: Site) -> Check {
        let Some(account) = self.accounts.get_mut(&id.task.query) else { return Ok(()) };
        let (stage, partition) = key(id.task);
        let current = account.tasks.get(&(stage, partition));
        if current.is_some_and(|known| known.attempt == id.attempt && known.site == site)
            && account.is_sealed(stage, partition)
        {
            let is_uncertain = current.is_some_and(|known| known.is_uncertain);
            if account.is_needed(stage, partition) && !is_uncertain {
                account.concede(id);
                ensure!(!account.is_sealed(stage, partition), "{id} released and needed");
            }
            account.gone(id);
        }
        Ok(())
    }

    fn check_finished(&mut self, query: QueryId) -> Check {
        let account = &self.accounts[&query];
        let last = account.graph.stages().len() - 1;
        let width = account.graph.stages()[last].task_count;
        let is_read = |p| account.fetched.contains(&p) || account.is_skipped(last, p);
        ensure!(account.is_enough || (0..width).all(is_read), "{query} finished unread");
        self.settle(query, Ok(()))
    }

    fn check_failed(&mut self, query: QueryId, kind: FailureKind, now: Duration) -> Check {
        let account = &self.accounts[&query];
        let config = &self.config;
        let is_just = match kind {
            FailureKind::Cancelled => account.is_cancelled,
            FailureKind::Deadline => account.deadline.is_some_and(|deadline| deadline <= now),
            FailureKind::Query(_) | FailureKind::OutOfMemory | FailureKind::Panic => {
                account.final_failures.first() == Some(&kind)
            }
            FailureKind::Attempts => account.tasks.values().any(|known| {
                known.failure_count + account.failed_read_count >= config.max_attempts
                    || known.start_count > config.max_restarts
            }),
            FailureKind::NoWorker => {
                self.no_worker_since.is_some_and(|since| now >= since + config.no_worker_timeout)
            }
            FailureKind::ResultLost => {
                let by_chance = account.graph.stages().iter().any(|stage| stage.is_by_chance);
                account.has_delivered || (by_chance && !account.fetched.is_empty())
            }
            FailureKind::QueueFull | FailureKind::Duplicate => false,
        };
        ensure!(is_just, "{query} failed without reason: {kind:?}");
        self.settle(query, Err(kind))
    }

    fn settle(&mut self, query: QueryId, outcome: Result<(), FailureKind>) -> Check {
        let account = self.accounts.get_mut(&query).ok_or("unknown query")?;
        ensure!(account.outcome.is_none(), "{query} ended twice");
        account.outcome = Some(outcome);
        Ok(())
    }

    fn lose(&mut self, life: WorkerLife, now: Duration) {
        self.lost.insert(life);
        self.live.remove(&life);
        self.cut_off.remove(&Site::Worker(life));
        if self.live.is_empty() {
            self.no_worker_since = Some(now);
        }
        for account in self.accounts.values_mut() {
            for known in account.tasks.values_mut() {
                if known.site == Site::Worker(life) {
                    known.failure_count += u32::from(matches!(known.status, Status::Running(_)));
                    known.status = Status::Gone;
                }
            }
            account.void_readers();
        }
        self.plans.retain(|(site, ..)| *site != Site::Worker(life));
    }

    fn is_live(&self, site: Site) -> bool {
        match site {
            Site::Coordinator => true,
            Site::Worker(life) => self.live.contains(&life) && !self.lost.contains(&life),
        }
    }

    fn open(&mut self, query: QueryId, change: impl FnOnce(&mut Account)) {
        let account = self.accounts.get_mut(&query);
        if let Some(account) = account.filter(|account| account.outcome.is_none()) {
            change(account);
        }
    }
}

/// The tasks that read an output, or what was made of it.
fn made_of(graph: &QueryGraph, origin: (usize, usize)) -> BTreeSet<(usize, usize)> {
    let mut found = BTreeSet::from([origin]);
    for (reader, node) in graph.stages().iter().enumerate() {
        for input in &node.inputs {
            let producer = input.producer.0 as usize;
            for partition in 0..node.task_count {
                let reads = |p: usize| input.pattern.reads(partition).contains(p);
                if found.iter().any(|(stage, p)| *stage == producer && reads(*p)) {
                    found.insert((reader, partition));
                }
            }
        }
    }
    found.remove(&origin);
    found
}

/// Sources are exactly what the task reads, each sealed and held where it is said to be.
fn check_sources(account: &Account, launch: &Launch) -> Check {
    let (stage, partition) = key(launch.attempt.task);
    let mut given: BTreeSet<_> = BTreeSet::new();
    for source in &launch.sources {
        let known = account.tasks.get(&key(source.producer.task)).ok_or("source never ran")?;
        let is_it = known.attempt == source.producer.attempt && known.site == source.site;
        let is_sealed = matches!(known.status, Status::Sealed);
        ensure!(is_it && is_sealed, "{} starts before {source:?}", launch.attempt);
        ensure!(given.insert(key(source.producer.task)), "{source:?} given twice");
    }
    let mut due = BTreeSet::new();
    for input in &account.graph.stages()[stage].inputs {
        let producer = input.producer.0 as usize;
        let all = 0..account.graph.stages()[producer].task_count;
        let all = all.filter(|p| input.pattern.reads(partition).contains(*p));
        due.extend(all.filter(|p| !account.is_skipped(producer, *p)).map(|p| (producer, p)));
    }
    ensure!(given == due, "{} is given {given:?} of {due:?}", launch.attempt);
    Ok(())
}

pub(super) fn addressee(action: &Action) -> Option<Site> {
    match action {
        Action::SendPlan { site, .. }
        | Action::LaunchTasks { site, .. }
        | Action::CancelTasks { site, .. }
        | Action::ReleasePartitions { site, .. }
        | Action::DropQuery { site, .. } => Some(*site),
        _ => None,
    }
}
