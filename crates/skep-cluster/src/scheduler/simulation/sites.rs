//! Workers, and the coordinator as the site that it is too: what runs there, what is sealed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skep_proto::ErrorCode;

use super::data::{Made, Versions, byte_counts, combine, derive, wanted};
use super::world::{COORDINATOR, Message, World};
use crate::ids::{Incarnation, QueryId, StageId, WorkerId};
use crate::membership::{Registration, WorkerLife};
use crate::scheduler::{
    Action, Event, FetchFault, Heartbeat, Holdings, Launch, Replay, Site, Source, TaskAttempt,
    TaskFailure, TaskOutput,
};

#[derive(Debug)]
pub(super) struct SimSite {
    pub(super) life: WorkerLife,
    slot_count: usize,
    pub(super) is_alive: bool,
    pub(super) is_paused: bool,
    pub(super) is_connected: bool,
    /// The stream that the worker talks on, and the one that the coordinator listens to.
    pub(super) stream: u64,
    pub(super) open_stream: u64,
    last_up: Duration,
    pub(super) last_down: Duration,
    /// What runs, with its rows once it has read its input; and what is being stopped.
    running: BTreeMap<TaskAttempt, (Launch, Option<Made>)>,
    stopping: BTreeSet<TaskAttempt>,
    pub(super) sealed: BTreeMap<TaskAttempt, Made>,
    /// Partitions of cached tables, by the query, stage and partition that would make them.
    pub(super) kept: BTreeMap<(QueryId, usize, usize), Made>,
    plans: BTreeSet<(QueryId, StageId)>,
    /// What happened to it while it stood still.
    deferred: Vec<Message>,
}

impl SimSite {
    fn new(life: WorkerLife, slot_count: usize) -> Self {
        Self {
            life,
            slot_count,
            is_alive: true,
            is_paused: false,
            is_connected: true,
            stream: 0,
            open_stream: 0,
            last_up: Duration::ZERO,
            last_down: Duration::ZERO,
            running: BTreeMap::new(),
            stopping: BTreeSet::new(),
            sealed: BTreeMap::new(),
            kept: BTreeMap::new(),
            plans: BTreeSet::new(),
            deferred: Vec::new(),
        }
    }

    pub(super) fn coordinator(slot_count: usize) -> Self {
        Self::new(WorkerLife { worker: COORDINATOR, incarnation: Incarnation(0) }, slot_count)
    }

    pub(super) fn clear(&mut self) {
        self.running.clear();
        self.stopping.clear();
        self.sealed.clear();
        self.kept.clear();
        self.plans.clear();
        self.deferred.clear();
    }

    pub(super) fn is_clean(&self) -> bool {
        self.running.is_empty()
            && self.stopping.is_empty()
            && self.sealed.is_empty()
            && self.plans.is_empty()
    }

    /// Returns what an attempt has made so far, sealed or not.
    pub(super) fn made(&self, attempt: TaskAttempt) -> Option<&Made> {
        let running = self.running.get(&attempt).and_then(|(_, made)| made.as_ref());
        self.sealed.get(&attempt).or(running)
    }

    pub(super) fn site(&self) -> Site {
        if self.life.worker == COORDINATOR { Site::Coordinator } else { Site::Worker(self.life) }
    }
}

fn worker_of(site: Site) -> WorkerId {
    match site {
        Site::Coordinator => COORDINATOR,
        Site::Worker(life) => life.worker,
    }
}

impl World {
    pub(super) fn site(&self, site: Site) -> &SimSite {
        &self.sites[&worker_of(site)]
    }

    /// The site, if it still lives this life.
    pub(super) fn site_mut(&mut self, site: Site) -> Option<&mut SimSite> {
        let state = self.sites.get_mut(&worker_of(site))?;
        (state.is_alive && state.site() == site).then_some(state)
    }

    pub(super) fn add_worker(&mut self, worker: u64, slot_count: usize) {
        let life = WorkerLife { worker: WorkerId(worker), incarnation: Incarnation(1) };
        let mut site = SimSite::new(life, slot_count);
        site.is_connected = false;
        self.sites.insert(life.worker, site);
        self.after(0, 50, Message::Join { life });
    }

    /// Whether one site can read from another now; an error says whether it may yet answer.
    pub(super) fn reachable(&self, from: WorkerId, to: Site) -> Result<&SimSite, bool> {
        let worker = worker_of(to);
        let site = &self.sites[&worker];
        if !site.is_alive
            || site.site() != to
            || self.cuts.contains(&(from.min(worker), from.max(worker)))
        {
            return Err(false);
        }
        if site.is_paused { Err(true) } else { Ok(site) }
    }

    fn send(&mut self, site: Site, event: Event) {
        let jitter = if site == Site::Coordinator { (0, 1) } else { (0, 5) };
        let when = self.now + self.rng.millis(jitter.0, jitter.1);
        let is_doubled = matches!(event, Event::TaskFinished { .. } | Event::TaskFailed { .. })
            && self.profile.doubled_percent > 0
            && self.rng.chance(self.profile.doubled_percent);
        let Some(state) = self.site_mut(site) else { return };
        if !state.is_connected {
            return;
        }
        let when = when.max(state.last_up);
        state.last_up = when;
        let from = (site != Site::Coordinator).then_some((state.life, state.stream));
        if is_doubled {
            self.fired("doubled message");
            let again = Message::Up { from, event: event.clone() };
            self.after(1, 800, again);
        }
        self.at(when, Message::Up { from, event });
    }

    pub(super) fn down(&mut self, site: Site, stream: u64, action: Action) {
        let Some(state) = self.site_mut(site) else { return };
        if !state.is_connected || state.stream != stream {
            return;
        }
        if state.is_paused {
            return state.deferred.push(Message::Down { site, stream, action });
        }
        match action {
            Action::SendPlan { query, stage, .. } => drop(state.plans.insert((query, stage))),
            Action::LaunchTasks { tasks, .. } => {
                for launch in tasks {
                    self.begin(site, launch);
                }
            }
            Action::CancelTasks { attempts, .. } => {
                for attempt in attempts {
                    self.stop(site, attempt);
                }
            }
            Action::ReleasePartitions { outputs, .. } => {
                for output in outputs {
                    state.sealed.remove(&output);
                }
            }
            Action::DropQuery { query, .. } => {
                state.plans.retain(|(id, _)| *id != query);
                state.sealed.retain(|id, _| id.task.query != query);
                let running = state.running.keys().filter(|id| id.task.query == query);
                for attempt in running.copied().collect::<Vec<_>>() {
                    self.stop(site, attempt);
                }
            }
            other => self.fail(&format!("not for a site: {other:?}")),
        }
    }

    fn begin(&mut self, site: Site, launch: Launch) {
        let attempt = launch.attempt;
        let state = self.site_mut(site).unwrap();
        let is_planned = state.plans.contains(&(attempt.task.query, attempt.task.stage));
        state.running.insert(attempt, (launch, None));
        let is_full = state.running.len() + state.stopping.len() > state.slot_count;
        if !is_planned || is_full {
            self.fail(&format!("{attempt} on {site}: plan {is_planned}, over slots {is_full}"));
        }
        self.after(1, 40, Message::Read { site, attempt, tries: 0 });
    }

    fn stop(&mut self, site: Site, attempt: TaskAttempt) {
        let state = self.site_mut(site).unwrap();
        state.sealed.remove(&attempt);
        if state.running.remove(&attempt).is_some() {
            state.stopping.insert(attempt);
            self.after(0, 30, Message::End { site, attempt });
        }
    }

    /// A running attempt reads all its input, or fails to.
    pub(super) fn read(&mut self, site: Site, attempt: TaskAttempt, tries: u32) {
        let Some(state) = self.site_mut(site) else { return };
        if state.is_paused {
            return state.deferred.push(Message::Read { site, attempt, tries });
        }
        let Some((launch, _)) = state.running.get(&attempt) else { return };
        let launch = launch.clone();
        let stages = self.oracle.accounts[&attempt.task.query].graph.stages().to_vec();
        let node = &stages[attempt.task.stage.0 as usize];
        let (mut input, mut versions) = (Vec::new(), Versions::new());
        let mut clash = None;
        for source in &launch.sources {
            self.evict(source.site, source.producer);
            let fault = match self.reachable(worker_of(site), source.site) {
                Err(true) if tries < 3 => {
                    return self.after(300, 500, Message::Read { site, attempt, tries: tries + 1 });
                }
                Err(_) => FetchFault::Refused,
                Ok(from) => match from.output_of(&source.producer) {
                    Some(made) => {
                        let producer = &stages[source.producer.task.stage.0 as usize];
                        input.extend(wanted(producer, &made.rows, attempt.task.partition));
                        clash = clash.or(combine(&mut versions, &made.versions));
                        continue;
                    }
                    None => FetchFault::Missing,
                },
            };
            let (producer, at) = (source.producer, source.site);
            let message = "cannot fetch".to_owned();
            let also_missing = match fault {
                FetchFault::Missing => self.also_missing(&launch, source),
                FetchFault::Refused => Vec::new(),
            };
            let failure = TaskFailure::Fetch { producer, site: at, fault, also_missing, message };
            return self.task_fails(site, attempt, failure);
        }
        if let Some(task) = clash {
            self.fail(&format!("{attempt} combines two versions of {task:?}"));
        }
        if let Some(failure) = self.random_failure() {
            return self.task_fails(site, attempt, failure);
        }
        let (query, partition, version) =
            (attempt.task.query, attempt.task.partition, attempt.attempt.0);
        let mut rows = derive(query, node, partition, version, &input);
        if node.is_by_chance {
            versions.insert((node.id.0 as usize, partition), version);
        }
        let is_result = node.id.0 as usize + 1 == stages.len();
        let replay = self.oracle.accounts[&attempt.task.query].graph.replay();
        if is_result && replay == Replay::Never {
            let turn = attempt.attempt.0 as usize % rows.len().max(1);
            rows.rotate_left(turn);
        }
        let state = self.site_mut(site).unwrap();
        state.running.insert(attempt, (launch, Some(Made { rows, versions })));
        self.after(1, self.profile.task_length, Message::End { site, attempt });
        if let Site::Worker(life) = site
            && self.rng.chance(50)
        {
            self.send_heartbeat(life);
        }
    }

    fn task_fails(&mut self, site: Site, attempt: TaskAttempt, failure: TaskFailure) {
        self.site_mut(site).unwrap().running.remove(&attempt);
        self.send(site, Event::TaskFailed { site, attempt, failure });
    }

    fn random_failure(&mut self) -> Option<TaskFailure> {
        let message = "injected".to_owned();
        if self.rng.chance(self.profile.worker_fault_percent) {
            self.fired("worker fault");
            return Some(TaskFailure::WorkerFault { message });
        }
        if self.rng.below(1000) >= self.profile.final_failure_permille {
            return None;
        }
        self.fired("final failure");
        Some(match self.rng.below(3) {
            0 => TaskFailure::Panic { message },
            1 => TaskFailure::OutOfMemory { message, hint: None },
            _ => TaskFailure::Query { code: ErrorCode::InvalidArgument, message, hint: None },
        })
    }

    /// A running attempt ends, or one that was told to stop has stopped.
    pub(super) fn end(&mut self, site: Site, attempt: TaskAttempt) {
        let Some(state) = self.site_mut(site) else { return };
        if state.is_paused {
            return state.deferred.push(Message::End { site, attempt });
        }
        if state.stopping.remove(&attempt) {
            return self.send(site, Event::TaskStopped { site, attempt });
        }
        let Some((launch, Some(made))) = state.running.remove(&attempt) else { return };
        state.sealed.insert(launch.attempt, made);
        let is_gone = |source: &Source| {
            let maker = self.site(source.site);
            !maker.is_alive || maker.site() != source.site
        };
        if launch.sources.iter().any(is_gone) {
            self.fired("inputs outlived");
        }
        let output = self.output(site, attempt);
        self.send(site, Event::TaskFinished { site, attempt, output });
    }

    fn output(&self, site: Site, attempt: TaskAttempt) -> TaskOutput {
        let rows = &self.site(site).sealed[&attempt].rows;
        let stages = self.oracle.accounts[&attempt.task.query].graph.stages();
        let bytes = byte_counts(&stages[attempt.task.stage.0 as usize], rows);
        TaskOutput { rows: rows.len() as u64, bytes, ..TaskOutput::default() }
    }

    /// A worker dials and says who it is and what it holds.
    pub(super) fn join(&mut self, life: WorkerLife) {
        let Some(state) = self.site_mut(Site::Worker(life)) else { return };
        if state.is_paused {
            return state.deferred.push(Message::Join { life });
        }
        if state.is_connected {
            return;
        }
        state.is_connected = true;
        state.stream += 1;
        let running = state.running.keys().chain(&state.stopping).copied().collect();
        let sealed: Vec<_> = state.sealed.keys().copied().collect();
        let mut queries: BTreeSet<_> = state.plans.iter().map(|(query, _)| *query).collect();
        queries.extend(sealed.iter().map(|id| id.task.query));
        let (slot_count, cached) = (state.slot_count, state.kept_reports());
        let site = Site::Worker(life);
        let sealed = sealed.into_iter().map(|id| (id, self.output(site, id))).collect();
        let registration = Registration {
            life,
            slot_count,
            memory_bytes: 1 << 30,
            data_address: String::new(),
            pid: 1,
            version: String::new(),
        };
        let holdings = Holdings { running, sealed, queries: queries.into_iter().collect(), cached };
        self.send(site, Event::WorkerJoined { registration, holdings });
        self.after(900, 1000, Message::Beat { life });
    }

    pub(super) fn beat(&mut self, life: WorkerLife) {
        let Some(state) = self.site_mut(Site::Worker(life)) else { return };
        if state.is_paused {
            return state.deferred.push(Message::Beat { life });
        }
        if state.is_connected {
            self.send_heartbeat(life);
            self.after(900, 1000, Message::Beat { life });
        }
    }

    fn send_heartbeat(&mut self, life: WorkerLife) {
        let Some(state) = self.site_mut(Site::Worker(life)) else { return };
        // Rows are there once everything was read.
        let fed = state.running.iter().filter(|(_, (_, made))| made.is_some());
        let has_inputs = fed.map(|(attempt, _)| *attempt).collect();
        let beat = Heartbeat { has_inputs, ..Heartbeat::default() };
        self.send(Site::Worker(life), Event::Heartbeat { life, beat });
    }

    /// A worker learns that its life is over: it drops everything and joins as a new one.
    pub(super) fn closed(&mut self, life: WorkerLife) {
        let Some(state) = self.site_mut(Site::Worker(life)) else { return };
        if state.is_paused {
            return state.deferred.push(Message::Closed { life });
        }
        self.next_life(life.worker);
    }

    pub(super) fn next_life(&mut self, worker: WorkerId) {
        let state = self.sites.get_mut(&worker).unwrap();
        state.clear();
        state.life.incarnation.0 += 1;
        state.is_alive = true;
        state.is_paused = false;
        state.is_connected = false;
        let life = state.life;
        self.after(5, 300, Message::Join { life });
    }

    pub(super) fn wake(&mut self, worker: WorkerId) {
        let state = self.sites.get_mut(&worker).unwrap();
        if !state.is_alive || !state.is_paused {
            return;
        }
        state.is_paused = false;
        for message in std::mem::take(&mut state.deferred) {
            // In the order in which it would have met them.
            self.at(self.now, message);
        }
    }
}
