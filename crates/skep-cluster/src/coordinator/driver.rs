//! The one task that owns the scheduler.
//!
//! Requests that wait are taken in together, so that one decision serves many events and what
//! starts on one worker travels in one message.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use super::connections::Connections;
use super::options::CoordinatorOptions;
use super::{Clock, system_tables::Views};
use crate::cache::CacheDirectory;
use crate::control::{JoinRequest, Joined, Refusal};
use crate::ids::{Epoch, QueryId, StageId, WorkerId};
use crate::membership::{
    ClusterSnapshot, LifeRegistry, LifeRequest, Registration, WorkerLife, WorkerState,
};
use crate::scheduler::{
    Action, CachedKey, CachedReport, Event, FetchFault, Holdings, QueryFailure, QueryGraph,
    QuerySettings, Scheduler, Site, TaskAttempt, TaskFailure,
};
use crate::worker::{Command, OperatorMetrics, StageProgram, TaskOutcome, TaskReport, TaskSite};

/// How many requests are taken in before the scheduler decides.
const REQUESTS_AT_ONCE: usize = 1024;

/// Something that the driver is told or asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// Run a query.
    Submit(Box<Submission>),
    /// Something happened.
    Event(Event),
    /// A worker wants in.
    Join {
        /// Who.
        request: Box<JoinRequest>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Joined, Refusal>>,
    },
    /// A control stream ended.
    Disconnected {
        /// Whose.
        life: WorkerLife,
        /// Which of its streams.
        connection: u64,
    },
    /// Attempts had their last word.
    Reports {
        /// Where.
        site: Site,
        /// What they said.
        reports: Vec<TaskReport>,
    },
    /// A content of a cached table is not wanted any more.
    EndContent {
        /// How stores call the table.
        table: Arc<str>,
        /// Which content of it.
        epoch: Epoch,
    },
    /// What the system tables show is wanted.
    Views {
        /// Of each attempt too.
        with_tasks: bool,
        /// Where the answer goes.
        reply: oneshot::Sender<Views>,
    },
}

/// A query to be run.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) query: QueryId,
    pub(crate) graph: QueryGraph,
    pub(crate) settings: QuerySettings,
    /// What the tasks of each stage run.
    pub(crate) programs: Vec<StageProgram>,
    /// The statement that it came from.
    pub(crate) text: Option<Arc<str>>,
    /// Whether the figures of all operators are wanted in the end.
    pub(crate) keeps_operators: bool,
    /// Where news of it goes. Bounded by what there can be: three notices for each attempt of a
    /// result task, and the end.
    pub(crate) notices: mpsc::UnboundedSender<Notice>,
}

/// News of a query, for whoever reads its result.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A result partition is being made, and may be read as it is.
    Begun {
        /// Which.
        result: TaskAttempt,
        /// Where it is; `None` is here.
        address: Option<String>,
    },
    /// A result partition can be read.
    Ready {
        /// Which.
        result: TaskAttempt,
        /// Where it is; `None` is here.
        address: Option<String>,
        /// Its rows.
        rows: u64,
    },
    /// A result partition is lost; another attempt of it will be ready later.
    Withdrawn {
        /// Which.
        result: TaskAttempt,
    },
    /// All of the result was read.
    Finished {
        /// The figures of each finished task's operators, if they were wanted.
        operators: Vec<TaskOperators>,
    },
    /// The query has failed.
    Failed(QueryFailure),
}

/// The figures of the operators of one finished task.
#[derive(Debug, Clone)]
pub struct TaskOperators {
    /// The stage.
    pub stage: StageId,
    /// The task.
    pub partition: usize,
    /// Depth first from the root of the task's plan.
    pub operators: Vec<OperatorMetrics>,
}

#[derive(Debug)]
struct Running {
    programs: Vec<StageProgram>,
    notices: mpsc::UnboundedSender<Notice>,
    keeps_operators: bool,
    operators: HashMap<(StageId, usize), Vec<OperatorMetrics>>,
    /// The stages that make cached tables: which content.
    cached: HashMap<StageId, (Arc<str>, Epoch)>,
}

/// Owns the scheduler and performs what it decides.
#[derive(Debug)]
pub(super) struct Driver {
    scheduler: Scheduler,
    clock: Clock,
    tick: Duration,
    last_tick: Duration,
    connections: Connections,
    lives: LifeRegistry,
    /// The coordinator as a site.
    site: Arc<dyn TaskSite>,
    address: String,
    running: HashMap<QueryId, Running>,
    /// The statements of running and remembered queries, oldest first.
    texts: VecDeque<(QueryId, Arc<str>)>,
    text_bound: usize,
    snapshot: watch::Sender<Arc<ClusterSnapshot>>,
    cache: Arc<CacheDirectory>,
    /// What is to be decided upon next.
    events: Vec<Event>,
}

impl Driver {
    pub(super) fn new(
        options: &CoordinatorOptions,
        clock: Clock,
        site: Arc<dyn TaskSite>,
        cache: Arc<CacheDirectory>,
    ) -> (Self, watch::Receiver<Arc<ClusterSnapshot>>) {
        site.begin_life(Site::Coordinator);
        let scheduler = Scheduler::new(options.scheduler.clone(), clock.now());
        let (snapshot, receiver) = watch::channel(Arc::new(scheduler.snapshot()));
        let limits = &options.scheduler;
        let since_1970 = clock.started_at.duration_since(std::time::UNIX_EPOCH);
        let first_incarnation = since_1970.map_or(0, |since| since.as_micros() as u64);
        let driver = Self {
            scheduler,
            clock,
            tick: options.tick,
            last_tick: clock.now(),
            connections: Connections::new(options.command_queue_length),
            lives: LifeRegistry::new(first_incarnation, limits.membership.remembered_worker_count),
            site,
            address: options.data_address.clone(),
            running: HashMap::new(),
            texts: VecDeque::new(),
            text_bound: limits.remembered_query_count
                + limits.running_query_count
                + limits.queued_query_count,
            snapshot,
            cache,
            events: Vec::new(),
        };
        (driver, receiver)
    }

    /// Runs until nobody is left to ask anything.
    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Request>,
        mut own_reports: mpsc::UnboundedReceiver<(Site, TaskReport)>,
    ) {
        let mut requests = Vec::new();
        loop {
            let wakeup = self.next_wakeup();
            tokio::select! {
                count = inbox.recv_many(&mut requests, REQUESTS_AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                }
                report = own_reports.recv() => {
                    let Some((site, report)) = report else { return };
                    self.take_reports(site, vec![report]);
                }
                // Whatever it was due for, only a tick makes the scheduler look again.
                () = tokio::time::sleep(wakeup) => self.events.push(Event::Tick),
            }
            while let Ok((site, report)) = own_reports.try_recv() {
                self.take_reports(site, vec![report]);
            }
            for request in requests.drain(..) {
                self.take(request);
            }
            self.decide();
        }
    }

    fn next_wakeup(&self) -> Duration {
        let now = self.clock.now();
        let due = (self.last_tick + self.tick).saturating_sub(now);
        match self.scheduler.next_wakeup(now) {
            Some(at) => at.saturating_sub(now).min(due),
            None => due,
        }
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Submit(submission) => self.submit(*submission),
            Request::Event(event) => self.events.push(event),
            Request::Join { request, reply } => self.join(*request, reply),
            Request::Disconnected { life, connection } => {
                if self.connections.close_number(life, connection) {
                    self.events.push(Event::WorkerDisconnected { life });
                }
            }
            Request::Reports { site, reports } => self.take_reports(site, reports),
            Request::EndContent { table, epoch } => {
                for life in self.connections.lives() {
                    let table = Arc::clone(&table);
                    self.send(Site::Worker(life), Command::EndContent { table, epoch });
                }
            }
            Request::Views { with_tasks, reply } => {
                self.decide();
                // Nobody may be waiting any more.
                let _ = reply.send(self.views(with_tasks));
            }
        }
    }

    fn submit(&mut self, submission: Submission) {
        let Submission { query, graph, settings, programs, text, keeps_operators, notices } =
            submission;
        if let Some(text) = text {
            if self.texts.len() >= self.text_bound {
                self.texts.pop_front();
            }
            self.texts.push_back((query, text));
        }
        let operators = HashMap::new();
        let cached = graph.stages().iter().filter_map(|stage| {
            let cached = stage.cached.as_ref()?;
            Some((stage.id, (Arc::clone(&cached.table), cached.epoch)))
        });
        let cached = cached.collect();
        let running = Running { programs, notices, keeps_operators, operators, cached };
        self.running.insert(query, running);
        self.events.push(Event::Submit { query, graph, settings });
    }

    fn take_reports(&mut self, site: Site, reports: Vec<TaskReport>) {
        for TaskReport { attempt, outcome } in reports {
            let event = match outcome {
                TaskOutcome::Finished { mut output, operators } => {
                    if let Some(report) = output.cached.take() {
                        self.keep(site, &report);
                    }
                    let task = attempt.task;
                    if let Some(running) = self.running.get_mut(&task.query)
                        && running.keeps_operators
                    {
                        running.operators.insert((task.stage, task.partition), operators);
                    }
                    Event::TaskFinished { site, attempt, output }
                }
                TaskOutcome::Failed(failure) => {
                    debug!(%attempt, %site, %failure, "attempt failed");
                    self.miss(&failure);
                    Event::TaskFailed { site, attempt, failure }
                }
                TaskOutcome::Stopped => Event::TaskStopped { site, attempt },
            };
            self.events.push(event);
        }
    }

    /// Takes note of a partition of a cached table.
    fn keep(&mut self, site: Site, report: &CachedReport) {
        let Site::Worker(life) = site else { return };
        let snapshot = self.scheduler.snapshot();
        let is_current = snapshot.worker(life.worker).is_some_and(|known| {
            known.registration.life == life && !matches!(known.state, WorkerState::Lost(_))
        });
        if is_current && !self.cache.record(life, report) {
            let (table, epoch) = (Arc::clone(&report.table), report.epoch);
            self.send(site, Command::EndContent { table, epoch });
        }
    }

    /// Takes note that a worker has not got a partition of a cached table that it was to have.
    fn miss(&self, failure: &TaskFailure) {
        let TaskFailure::Fetch { producer, site, fault: FetchFault::Missing, also_missing, .. } =
            failure
        else {
            return;
        };
        for TaskAttempt { task, .. } in std::iter::once(producer).chain(also_missing) {
            let content = self.running.get(&task.query).and_then(|it| it.cached.get(&task.stage));
            if let (Some((table, epoch)), Site::Worker(life)) = (content, site) {
                let (table, partition) = (Arc::clone(table), task.partition);
                self.cache.lose_copy(*life, &CachedKey { table, epoch: *epoch, partition });
            }
        }
    }

    /// Compares what a worker that is back keeps of cached tables with what it was thought to keep;
    /// returns what nobody wants.
    fn compare_kept(&self, life: WorkerLife, holdings: &mut Holdings) -> Vec<Command> {
        for (_, output) in &mut holdings.sealed {
            if let Some(report) = output.cached.take() {
                self.cache.record(life, &report);
            }
        }
        let unwanted = self.cache.compare(life, &holdings.cached);
        unwanted.into_iter().map(|(table, epoch)| Command::EndContent { table, epoch }).collect()
    }

    /// Decides upon everything that has happened, the time included.
    fn decide(&mut self) {
        let now = self.clock.now();
        let is_due = self.scheduler.next_wakeup(now).is_some_and(|at| at <= now);
        if is_due || now.saturating_sub(self.last_tick) >= self.tick {
            self.last_tick = now;
            self.events.push(Event::Tick);
        }
        // Performing may cut a worker off, which is an event again.
        while !self.events.is_empty() {
            let events = std::mem::take(&mut self.events);
            let actions = self.scheduler.apply_all(events, self.clock.now());
            self.perform(actions);
        }
        self.publish_snapshot();
    }

    fn publish_snapshot(&self) {
        let snapshot = self.scheduler.snapshot();
        self.snapshot.send_if_modified(|known| {
            let is_new = known.version != snapshot.version;
            if is_new {
                *known = Arc::new(snapshot);
            }
            is_new
        });
    }

    fn join(&mut self, request: JoinRequest, reply: oneshot::Sender<Result<Joined, Refusal>>) {
        // What happened before comes before.
        self.decide();
        if request.life.is_none()
            && let Some(wanted) = request.wanted_id
        {
            self.make_way(wanted);
        }
        let life = self.lives.assign(LifeRequest {
            claimed: request.life,
            wanted_id: request.wanted_id,
            data_address: &request.data_address,
        });
        let registration = Registration {
            life,
            slot_count: request.slot_count,
            memory_bytes: request.memory_bytes,
            data_address: request.data_address.clone(),
            pid: request.pid,
            version: request.version,
        };
        let mut holdings =
            if request.life == Some(life) { request.holdings } else { Default::default() };
        let unwanted = self.compare_kept(life, &mut holdings);
        let event = Event::WorkerJoined { registration, holdings };
        let actions = self.scheduler.apply(event, self.clock.now());
        let is_refused = |action: &Action| *action == Action::RefuseWorker { life };
        if actions.iter().any(is_refused) {
            self.perform(actions);
            let message = format!("the life {life} is over");
            let _ = reply.send(Err(Refusal { message, may_register_anew: true }));
            return;
        }
        let (connection, commands) = self.connections.open(life, request.data_address.clone());
        info!(worker = %life, address = request.data_address, "worker joined");
        if reply.send(Ok(Joined { life, connection, commands })).is_err() {
            self.connections.close(life);
            self.events.push(Event::WorkerDisconnected { life });
        }
        self.announce(life, &request.data_address);
        for command in unwanted {
            self.send(Site::Worker(life), command);
        }
        self.perform(actions);
        self.publish_snapshot();
    }

    /// Lets a new process have the id of one that is cut off: it was started in its place, which is
    /// known here sooner than that the old one does not come back.
    fn make_way(&mut self, wanted: WorkerId) {
        let snapshot = self.scheduler.snapshot();
        if let Some(known) = snapshot.worker(wanted)
            && known.state == WorkerState::Disconnected
        {
            self.lives.end(known.registration.life);
        }
    }

    /// Tells the newcomer where everybody is, and everybody where the newcomer is.
    fn announce(&mut self, life: WorkerLife, address: &str) {
        let mut peers = self.connections.peers();
        peers.push((Site::Coordinator, self.address.clone()));
        self.send(Site::Worker(life), Command::Peers(peers));
        let newcomer = vec![(Site::Worker(life), address.to_owned())];
        for other in self.connections.lives() {
            if other != life {
                self.send(Site::Worker(other), Command::Peers(newcomer.clone()));
            }
        }
        self.send(Site::Coordinator, Command::Peers(newcomer));
    }

    fn send(&mut self, site: Site, command: Command) {
        match site {
            Site::Coordinator => self.site.perform(command),
            Site::Worker(life) => {
                if !self.connections.send(life, command) {
                    warn!(worker = %life, "worker is cut off: it does not take its commands");
                    self.events.push(Event::WorkerDisconnected { life });
                }
            }
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::SendPlan { site, query, stage } => {
                    let running = self.running.get(&query);
                    let program = running.and_then(|it| it.programs.get(stage.0 as usize)).cloned();
                    match program {
                        Some(program) => self.send(site, Command::Plan { query, stage, program }),
                        None => warn!(%query, %stage, "no program to send"),
                    }
                }
                Action::LaunchTasks { site, tasks } => self.send(site, Command::Launch(tasks)),
                Action::CancelTasks { site, attempts } => {
                    self.send(site, Command::Cancel(attempts));
                }
                Action::ReleasePartitions { site, outputs } => {
                    self.send(site, Command::Release(outputs));
                }
                Action::DropQuery { site, query } => self.send(site, Command::DropQuery(query)),
                Action::ResultBegun { result, site } => {
                    let address = self.address_of(site);
                    self.notify(result.task.query, Notice::Begun { result, address });
                }
                Action::ResultReady { result, site, rows } => {
                    let address = self.address_of(site);
                    self.notify(result.task.query, Notice::Ready { result, address, rows });
                }
                Action::ResultWithdrawn { result } => {
                    self.notify(result.task.query, Notice::Withdrawn { result });
                }
                Action::QueryFinished { query } => self.finish(query),
                Action::QueryRejected { query, failure }
                | Action::QueryFailed { query, failure } => {
                    debug!(%query, %failure, "query failed");
                    self.notify(query, Notice::Failed(failure));
                    self.running.remove(&query);
                }
                Action::WorkerLost { life, reason } => {
                    warn!(worker = %life, %reason, "worker lost");
                    self.cache.lose_life(life);
                    self.connections.close(life);
                    self.lives.end(life);
                }
                Action::RefuseWorker { life } => self.connections.close(life),
            }
        }
    }

    /// Returns where the outputs of a site are read; `None` is here.
    fn address_of(&self, site: Site) -> Option<String> {
        match site {
            Site::Coordinator => None,
            // A worker that is cut off for a moment has an address all the same.
            Site::Worker(life) => match self.connections.address(life) {
                Some(address) => Some(address.to_owned()),
                None => self
                    .scheduler
                    .snapshot()
                    .worker(life.worker)
                    .map(|worker| worker.registration.data_address.clone()),
            },
        }
    }

    fn finish(&mut self, query: QueryId) {
        let Some(running) = self.running.remove(&query) else { return };
        let operators = running.operators.into_iter();
        let operators = operators.map(|((stage, partition), operators)| TaskOperators {
            stage,
            partition,
            operators,
        });
        let mut operators: Vec<_> = operators.collect();
        operators.sort_by_key(|task| (task.stage, task.partition));
        // Whoever read the result may have left.
        let _ = running.notices.send(Notice::Finished { operators });
    }

    fn notify(&mut self, query: QueryId, notice: Notice) {
        if let Some(running) = self.running.get(&query) {
            // A reader that has left cancels the query by itself.
            let _ = running.notices.send(notice);
        }
    }

    fn views(&self, with_tasks: bool) -> Views {
        let now = self.clock.now();
        let texts: HashMap<QueryId, &Arc<str>> =
            self.texts.iter().map(|(query, text)| (*query, text)).collect();
        let queries = self.scheduler.queries();
        let tasks = match with_tasks {
            true => queries.iter().flat_map(|view| self.scheduler.tasks(view.query)).collect(),
            false => Vec::new(),
        };
        let text_of = |query| texts.get(&query).map(|text| Arc::clone(text));
        Views {
            now,
            clock_start: self.clock.started_at,
            stages: self.scheduler.stages(),
            tasks,
            workers: self.scheduler.workers(now),
            queries: queries
                .into_iter()
                .map(|view| {
                    let text = text_of(view.query);
                    (view, text)
                })
                .collect(),
            // Who asks for the tables knows them.
            users: HashMap::new(),
        }
    }
}

#[cfg(test)]
#[path = "driver_test.rs"]
mod tests;
