//! The machine itself: takes events in, hands actions out, starts and ends queries.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, FailureKind, Launch, QueryFailure};
use super::config::{QuerySettings, SchedulerConfig};
use super::event::{CancelCause, Event, Site, TaskAttempt};
use super::fairness;
use super::graph::{QueryGraph, StagePlace};
use super::placement::{Choice, SiteState, Sites};
use super::state::Query;
use super::view::{History, QueryState};
use crate::ids::{QueryId, WorkerId};
use crate::membership::{ClusterSnapshot, Membership};

/// All decisions of one coordinator.
#[derive(Debug)]
pub struct Scheduler {
    pub(super) config: Arc<SchedulerConfig>,
    pub(super) membership: Membership,
    pub(super) sites: Sites,
    /// Running and queued queries.
    pub(super) queries: BTreeMap<QueryId, Query>,
    queue: VecDeque<QueryId>,
    pub(super) history: History,
    launch_count: u64,
    /// Since when there is no worker, if there is none.
    pub(super) no_worker_since: Option<Duration>,
    /// Workers that get no tasks until then, should they come back.
    pub(super) quarantine: BTreeMap<WorkerId, Duration>,
    pub(super) actions: Vec<Action>,
    launches: BTreeMap<Site, Vec<Launch>>,
    /// Result partitions that these launches begin.
    begun: Vec<Action>,
}

impl Scheduler {
    /// Creates a scheduler with no worker and no query.
    pub fn new(config: SchedulerConfig, now: Duration) -> Self {
        let coordinator = SiteState {
            slot_count: config.coordinator_slot_count.max(1),
            is_connected: true,
            ..SiteState::default()
        };
        Self {
            membership: Membership::new(config.membership.clone()),
            sites: Sites { states: BTreeMap::from([(Site::Coordinator, coordinator)]) },
            queries: BTreeMap::new(),
            queue: VecDeque::new(),
            history: History::new(config.remembered_query_count, config.remembered_task_count),
            launch_count: 0,
            no_worker_since: Some(now),
            quarantine: BTreeMap::new(),
            actions: Vec::new(),
            launches: BTreeMap::new(),
            begun: Vec::new(),
            config: Arc::new(config),
        }
    }

    /// Takes note of one event and returns what is to be done.
    pub fn apply(&mut self, event: Event, now: Duration) -> Vec<Action> {
        self.apply_all([event], now)
    }

    /// Takes note of several events, and decides once: what starts on a site travels together.
    pub fn apply_all(
        &mut self,
        events: impl IntoIterator<Item = Event>,
        now: Duration,
    ) -> Vec<Action> {
        for event in events {
            self.take_in(event, now);
        }
        self.schedule(now);
        std::mem::take(&mut self.actions)
    }

    /// Returns the moment by which a [`Event::Tick`] is due, if nothing happens before.
    pub fn next_wakeup(&self, now: Duration) -> Option<Duration> {
        let deadlines = self.queries.values().filter_map(Query::deadline);
        let patience = self.no_worker_since.filter(|_| !self.queries.is_empty());
        let patience = patience.map(|since| (since + self.config.no_worker_timeout).max(now));
        let ready = self.queries.values().flat_map(|query| {
            (0..query.stages.len()).flat_map(move |stage| {
                let ready = query.stages[stage].ready.iter();
                ready.filter_map(move |(wish, bucket)| {
                    let (since, _) = bucket.first()?;
                    Some(query.overdue_at(stage, *wish, *since, &self.sites))
                })
            })
        });
        let overdue = ready.filter(|at| *at > now);
        deadlines.chain(patience).chain(overdue).chain(self.membership.next_loss()).min()
    }

    /// Returns the picture of the cluster that a query may plan against.
    pub fn snapshot(&self) -> ClusterSnapshot {
        self.membership.snapshot()
    }

    fn take_in(&mut self, event: Event, now: Duration) {
        match event {
            Event::Submit { query, graph, settings } => self.submit(query, &graph, settings, now),
            Event::Cancel { query, cause } => {
                self.end(query, Some(QueryFailure::cancelled(cause)), now)
            }
            Event::WorkerJoined { registration, holdings } => {
                self.worker_joined(registration, holdings, now);
            }
            Event::WorkerDisconnected { life } => self.worker_disconnected(life, now),
            Event::WorkerLeft { life } => self.worker_left(life, now),
            Event::Heartbeat { life, beat } => self.heartbeat(life, beat, now),
            Event::TaskFinished { site, attempt, output } => {
                self.task_finished(site, attempt, output, now);
            }
            Event::TaskFailed { site, attempt, failure } => {
                self.task_failed(site, attempt, failure, now);
            }
            Event::TaskStopped { site, attempt } => self.task_stopped(site, attempt, now),
            Event::ResultDelivered { result, rows } => {
                self.change(result.task.query, now, |query| query.delivered(result, rows));
            }
            Event::ResultFetched { result } => {
                self.change(result.task.query, now, |query| query.fetched(result, now));
            }
            Event::ResultFetchFailed { result, fault, message } => {
                self.result_fetch_failed(result, fault, message, now);
            }
            Event::ResultEnough { query } => self.end(query, None, now),
            Event::Tick => self.tick(now),
        }
    }

    fn submit(&mut self, id: QueryId, graph: &QueryGraph, settings: QuerySettings, now: Duration) {
        let bound = self.config.running_query_count + self.config.queued_query_count;
        let failure = if self.queries.contains_key(&id) {
            QueryFailure::new(FailureKind::Duplicate, format!("query {id} exists already"))
        } else if self.queries.len() >= bound {
            let waiting = self.queue.len();
            QueryFailure::new(FailureKind::QueueFull, format!("{waiting} queries wait already"))
        } else {
            let query = Query::new(id, graph, settings, Arc::clone(&self.config), now);
            self.queries.insert(id, query);
            self.queue.push_back(id);
            let sites: BTreeSet<Site> = self.sites.states.keys().copied().collect();
            self.change(id, now, |query| query.take_in_cached(&sites, now));
            return;
        };
        self.actions.push(Action::QueryRejected { query: id, failure });
    }

    /// Changes a query, and lets what follows from it happen.
    pub(super) fn change(
        &mut self,
        id: QueryId,
        now: Duration,
        change: impl FnOnce(&mut Query) -> Result<(), QueryFailure>,
    ) {
        let Some(query) = self.queries.get_mut(&id) else { return };
        let verdict = change(query);
        let is_fetched = query.is_fetched();
        let effects = std::mem::take(&mut query.effects);
        match verdict {
            Err(failure) => return self.end(id, Some(failure), now),
            Ok(()) if is_fetched => return self.end(id, None, now),
            Ok(()) => {}
        }
        for (site, attempts) in by_site(effects.cancels) {
            self.address(site, Action::CancelTasks { site, attempts });
        }
        for (site, outputs) in by_site(effects.releases) {
            self.address(site, Action::ReleasePartitions { site, outputs });
        }
        self.actions.extend(effects.actions);
    }

    /// Adds an action for a site. One that is cut off for a moment is told when it says what it has.
    pub(super) fn address(&mut self, site: Site, action: Action) {
        if self.sites.states.get(&site).is_some_and(|state| state.is_connected) {
            self.actions.push(action);
        }
    }

    /// Ends a query, finished or failed, and its leases.
    pub(super) fn end(&mut self, id: QueryId, failure: Option<QueryFailure>, now: Duration) {
        let Some(mut query) = self.queries.remove(&id) else { return };
        self.queue.retain(|queued| *queued != id);
        let touched: Vec<_> = self
            .sites
            .states
            .iter_mut()
            .filter_map(|(site, state)| {
                let first = (id, crate::ids::StageId(0));
                let mut rest = state.plans.split_off(&first);
                rest.retain(|(query, _)| *query != id);
                state.plans.append(&mut rest);
                state.queries.remove(&id).then_some(*site)
            })
            .collect();
        for site in touched {
            self.address(site, Action::DropQuery { site, query: id });
        }
        query.close_all(now);
        let state = if failure.is_some() { QueryState::Failed } else { QueryState::Finished };
        self.history.push(&query, state, failure.clone(), now);
        self.actions.push(match failure {
            Some(failure) => Action::QueryFailed { query: id, failure },
            None => Action::QueryFinished { query: id },
        });
    }

    fn tick(&mut self, now: Duration) {
        let changes = self.membership.tick(now);
        self.follow(&changes, now);
        let late = |query: &&Query| query.deadline().is_some_and(|deadline| deadline <= now);
        let late: Vec<_> = self.queries.values().filter(late).map(|query| query.id).collect();
        for id in late {
            self.end(id, Some(QueryFailure::cancelled(CancelCause::Late)), now);
        }
        let Some(since) = self.no_worker_since else { return };
        let timeout = self.config.no_worker_timeout;
        let starved =
            |query: &&Query| now >= since.max(query.submitted) + timeout && query.needs_workers();
        let starved: Vec<_> = self.queries.values().filter(starved).map(|query| query.id).collect();
        for id in starved {
            let message = format!("no live worker for {timeout:?}");
            self.end(id, Some(QueryFailure::new(FailureKind::NoWorker, message)), now);
        }
    }

    fn schedule(&mut self, now: Duration) {
        self.admit(now);
        let mut passed_over = BTreeSet::new();
        while self.sites.has_any_free_slot()
            && let Some(id) = fairness::next_query(&self.queries, &passed_over)
        {
            let choice = self.queries.get(&id).and_then(|query| query.pick(&self.sites, now));
            match choice {
                Some(choice) => self.launch(id, choice, now),
                None => drop(passed_over.insert(id)),
            }
        }
        for (site, mut tasks) in std::mem::take(&mut self.launches) {
            while !tasks.is_empty() {
                let rest =
                    tasks.split_off(tasks.len().min(self.config.max_tasks_per_message.max(1)));
                self.actions.push(Action::LaunchTasks { site, tasks });
                tasks = rest;
            }
        }
        // Whoever looks for their rows shall not come before them.
        self.actions.append(&mut self.begun);
    }

    fn admit(&mut self, now: Duration) {
        while self.queries.len() - self.queue.len() < self.config.running_query_count.max(1)
            && let Some(id) = self.queue.pop_front()
        {
            if let Some(query) = self.queries.get_mut(&id) {
                query.admitted = Some(now);
                query.served = self.launch_count;
            }
        }
    }

    fn launch(&mut self, id: QueryId, choice: Choice, now: Duration) {
        let Choice { stage, partition, site } = choice;
        let Some(query) = self.queries.get_mut(&id) else { return };
        let Some(state) = self.sites.states.get_mut(&site) else { return };
        let launch = query.start(stage, partition, site, now);
        self.launch_count += 1;
        query.served = self.launch_count;
        state.occupied.insert(launch.attempt);
        state.queries.insert(id);
        let stage = launch.attempt.task.stage;
        if state.plans.insert((id, stage)) {
            self.actions.push(Action::SendPlan { site, query: id, stage });
        }
        // Of a limited stage an attempt may yet turn out not to be wanted.
        let is_result = query.stages.len() == stage.0 as usize + 1;
        if is_result && query.stages[query.result_stage()].node.row_limit.is_none() {
            self.begun.push(Action::ResultBegun { result: launch.attempt, site });
        }
        self.launches.entry(site).or_default().push(launch);
    }
}

impl Query {
    fn needs_workers(&self) -> bool {
        let needs = |place, unfinished| place == StagePlace::Workers && unfinished > 0;
        self.stages.iter().any(|stage| needs(stage.node.place, stage.unfinished_count))
    }
}

fn by_site(attempts: Vec<(Site, TaskAttempt)>) -> BTreeMap<Site, Vec<TaskAttempt>> {
    let mut grouped = BTreeMap::<Site, Vec<TaskAttempt>>::new();
    for (site, attempt) in attempts {
        grouped.entry(site).or_default().push(attempt);
    }
    grouped
}
