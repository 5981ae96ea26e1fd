//! Time, messages, and the coordinator's side: the scheduler, its driver, the clients.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use super::data::{Rng, Versions, combine};
use super::faults::{Fault, Profile};
use super::oracle::{Account, Oracle, addressee};
use super::sites::SimSite;
use crate::ids::{QueryId, WorkerId};
use crate::membership::WorkerLife;
use crate::scheduler::{
    Action, Event, FetchFault, QueryGraph, QuerySettings, Replay, Scheduler, SchedulerConfig, Site,
    TaskAttempt,
};

/// Something that happens at a moment.
#[derive(Debug, Clone)]
pub(super) enum Message {
    /// To the scheduler, on a stream of a worker if it comes from one.
    Up { from: Option<(WorkerLife, u64)>, event: Event },
    /// To a site.
    Down { site: Site, stream: u64, action: Action },
    /// A running attempt reads its input.
    Read { site: Site, attempt: TaskAttempt, tries: u32 },
    /// A running attempt ends.
    End { site: Site, attempt: TaskAttempt },
    /// A client reads on.
    Client { query: QueryId, partition: usize, attempt: TaskAttempt, tries: u32 },
    /// A worker learns that its life is over.
    Closed { life: WorkerLife },
    /// A worker dials.
    Join { life: WorkerLife },
    /// A worker says that it lives.
    Beat { life: WorkerLife },
    /// Time passes.
    Tick,
    /// Something goes wrong.
    Fault(Fault),
}

/// The reader of one result partition.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) rows: Vec<u64>,
    pub(super) current: Option<(TaskAttempt, Site)>,
    /// Whether that is said to be sealed; else it is read while it is made.
    is_sealed: bool,
    /// Until when what it said is under way: it is heard in order.
    last_word: Duration,
    pub(super) is_done: bool,
    /// What those rows were made of, and whether of two versions of anything.
    pub(super) versions: Versions,
    pub(super) clash: Option<(usize, usize)>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) rng: Rng,
    pub(super) now: Duration,
    pub(super) profile: Profile,
    serial: u64,
    heap: BinaryHeap<Reverse<(Duration, u64)>>,
    messages: BTreeMap<u64, Message>,
    pub(super) scheduler: Scheduler,
    pub(super) oracle: Oracle,
    pub(super) sites: BTreeMap<WorkerId, SimSite>,
    pub(super) readers: BTreeMap<(QueryId, usize), Reader>,
    /// Pairs that cannot reach each other.
    pub(super) cuts: BTreeSet<(WorkerId, WorkerId)>,
    pub(super) fault_count: BTreeMap<&'static str, usize>,
    /// Results that were read while they were made, and those of them that were then lost.
    pub(super) flow_count: usize,
    pub(super) lost_flow_count: usize,
    trace: VecDeque<String>,
}

/// The coordinator's own site.
pub(super) const COORDINATOR: WorkerId = WorkerId(0);

impl World {
    pub(super) fn new(seed: u64, mut rng: Rng, profile: Profile, config: SchedulerConfig) -> Self {
        let oracle = Oracle::new(config.clone(), Duration::ZERO);
        let coordinator = SimSite::coordinator(config.coordinator_slot_count);
        let rng = Rng(rng.below(u64::MAX));
        Self {
            seed,
            rng,
            now: Duration::ZERO,
            profile,
            serial: 0,
            heap: BinaryHeap::new(),
            messages: BTreeMap::new(),
            scheduler: Scheduler::new(config, Duration::ZERO),
            oracle,
            sites: BTreeMap::from([(COORDINATOR, coordinator)]),
            readers: BTreeMap::new(),
            cuts: BTreeSet::new(),
            fault_count: BTreeMap::new(),
            flow_count: 0,
            lost_flow_count: 0,
            trace: VecDeque::new(),
        }
    }

    pub(super) fn fail(&self, why: &str) -> ! {
        let trace: Vec<_> = self.trace.iter().cloned().collect();
        panic!("SEED={}: {why}, at {:?}\n{}", self.seed, self.now, trace.join("\n"));
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.profile.is_traced {
            self.trace.push_back(format!("{:?} {}", self.now, text()));
            if self.trace.len() > 400 {
                self.trace.pop_front();
            }
        }
    }

    pub(super) fn fired(&mut self, fault: &'static str) {
        *self.fault_count.entry(fault).or_default() += 1;
    }

    pub(super) fn at(&mut self, when: Duration, message: Message) {
        self.serial += 1;
        self.heap.push(Reverse((when, self.serial)));
        self.messages.insert(self.serial, message);
    }

    pub(super) fn after(&mut self, low: u64, high: u64, message: Message) {
        let when = self.now + self.rng.millis(low, high);
        self.at(when, message);
    }

    /// Performs the next message. Returns false when there is none.
    pub(super) fn step(&mut self) -> bool {
        let Some(Reverse((when, serial))) = self.heap.pop() else { return false };
        let Some(message) = self.messages.remove(&serial) else { return true };
        self.now = self.now.max(when);
        match message {
            Message::Up { from, event } => self.up(from, event),
            Message::Down { site, stream, action } => self.down(site, stream, action),
            Message::Read { site, attempt, tries } => self.read(site, attempt, tries),
            Message::End { site, attempt } => self.end(site, attempt),
            Message::Client { query, partition, attempt, tries } => {
                self.client(query, partition, attempt, tries);
            }
            Message::Closed { life } => self.closed(life),
            Message::Join { life } => self.join(life),
            Message::Beat { life } => self.beat(life),
            Message::Tick => {
                self.after(200, 300, Message::Tick);
                self.tell(vec![Event::Tick]);
            }
            Message::Fault(fault) => self.strike(fault),
        }
        true
    }

    pub(super) fn submit(&mut self, query: QueryId, graph: QueryGraph, settings: QuerySettings) {
        let deadline = settings.timeout.map(|timeout| self.now + timeout);
        let width = graph.stages().last().unwrap().task_count;
        for partition in 0..width {
            self.readers.insert((query, partition), Reader::default());
        }
        let graph = self.with_cached(query, graph);
        self.oracle.accounts.insert(query, Account::new(graph.clone(), deadline));
        self.tell(vec![Event::Submit { query, graph, settings }]);
    }

    fn up(&mut self, from: Option<(WorkerLife, u64)>, event: Event) {
        if let Some((life, stream)) = from
            && let Some(site) = self.sites.get_mut(&life.worker)
        {
            // A broken stream delivers nothing more, and its end is old news after a new one.
            if site.life == life && stream < site.open_stream {
                return;
            }
            if let Event::WorkerJoined { .. } = &event {
                site.open_stream = stream;
            }
        }
        if let Event::WorkerJoined { registration, .. } = &event
            && !self.oracle_knows_lost(registration.life)
        {
            self.oracle.hear_join(&event);
        }
        let mut events = vec![event];
        if matches!(events[0], Event::TaskFinished { .. }) && self.rng.chance(10) {
            events.extend(self.finishes_due());
        }
        self.tell(events);
    }

    fn oracle_knows_lost(&self, life: WorkerLife) -> bool {
        let snapshot = self.scheduler.snapshot();
        let known = snapshot.worker(life.worker);
        known.is_some_and(|known| {
            let current = known.registration.life;
            let is_lost = !matches!(
                known.state,
                crate::membership::WorkerState::Live | crate::membership::WorkerState::Disconnected
            );
            life.incarnation < current.incarnation || (life == current && is_lost)
        })
    }

    /// Finishes that would arrive within a few milliseconds, to be heard of together.
    fn finishes_due(&mut self) -> Vec<Event> {
        let mut taken = Vec::new();
        while let Some(Reverse((when, serial))) = self.heap.peek().copied() {
            let due = when <= self.now + Duration::from_millis(5);
            let is_finish = matches!(
                self.messages.get(&serial),
                Some(Message::Up { event: Event::TaskFinished { .. }, from: None })
            );
            if !due || !is_finish {
                break;
            }
            self.heap.pop();
            if let Some(Message::Up { event, .. }) = self.messages.remove(&serial) {
                taken.push(event);
            }
        }
        taken
    }

    /// Tells the scheduler, checks what it wants, and does it.
    pub(super) fn tell(&mut self, events: Vec<Event>) {
        for event in &events {
            self.note(|| format!("<- {event:?}"));
            self.oracle.hear(event);
        }
        self.oracle.note_uncertain();
        let actions = self.scheduler.apply_all(events, self.now);
        for action in actions {
            self.note(|| format!("   -> {action:?}"));
            if let Err(why) = self.oracle.check(&action, self.now) {
                self.fail(&why);
            }
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        if let Some(site) = addressee(&action) {
            let (low, high) = if site == Site::Coordinator { (0, 1) } else { (0, 5) };
            let when = self.now + self.rng.millis(low, high);
            let Some(state) = self.site_mut(site) else { return };
            let when = when.max(state.last_down);
            state.last_down = when;
            let stream = state.open_stream;
            self.at(when, Message::Down { site, stream, action });
            return;
        }
        match action {
            Action::ResultBegun { result, site } if self.flows(result) => {
                self.begin_reading(result, site, false);
            }
            Action::ResultReady { result, site, .. } => self.begin_reading(result, site, true),
            Action::ResultWithdrawn { result } => {
                let reader = self.readers.get_mut(&(result.task.query, result.task.partition));
                if let Some(reader) = reader
                    && reader.current.is_some_and(|(current, _)| current == result)
                {
                    reader.current = None;
                    let is_lost_flow = !reader.is_sealed && !reader.rows.is_empty();
                    self.lost_flow_count += usize::from(is_lost_flow);
                }
            }
            Action::WorkerLost { life, .. } if self.rng.chance(70) => {
                self.after(1, 50, Message::Closed { life });
            }
            Action::RefuseWorker { life } => self.after(1, 50, Message::Closed { life }),
            _ => {}
        }
    }

    /// Whether what attempts of the result give is read before it is sealed: if another attempt
    /// gives the same of the same input.
    fn flows(&self, result: TaskAttempt) -> bool {
        let graph = &self.oracle.accounts[&result.task.query].graph;
        let is_by_chance = graph.stages().last().is_none_or(|stage| stage.is_by_chance);
        graph.replay() == Replay::Exact && !is_by_chance
    }

    fn begin_reading(&mut self, attempt: TaskAttempt, site: Site, is_sealed: bool) {
        let (query, partition) = (attempt.task.query, attempt.task.partition);
        let Some(reader) = self.readers.get_mut(&(query, partition)) else { return };
        let is_read = reader.current == Some((attempt, site));
        reader.current = Some((attempt, site));
        reader.is_sealed = is_sealed;
        if !is_read {
            self.after(0, 20, Message::Client { query, partition, attempt, tries: 0 });
        }
    }

    /// Sends what the reader of a result says; all of it is heard in order.
    fn say(&mut self, event: Event, result: TaskAttempt, latest: u64) {
        let when = self.now + self.rng.millis(0, latest);
        let key = (result.task.query, result.task.partition);
        let Some(reader) = self.readers.get_mut(&key) else { return };
        reader.last_word = reader.last_word.max(when);
        let when = reader.last_word;
        self.at(when, Message::Up { from: None, event });
    }

    fn client(&mut self, query: QueryId, partition: usize, attempt: TaskAttempt, tries: u32) {
        let Some(reader) = self.readers.get(&(query, partition)) else { return };
        let Some((current, site)) = reader.current else { return };
        if current != attempt || reader.is_done || self.outcome(query).is_some() {
            return;
        }
        let position = reader.rows.len();
        let is_sealed = reader.is_sealed;
        let is_exact = self.oracle.accounts[&query].graph.replay() == Replay::Exact;
        let fault = match self.reachable(COORDINATOR, site) {
            Err(true) if tries < 3 => {
                let retry = Message::Client { query, partition, attempt, tries: tries + 1 };
                return self.after(300, 500, retry);
            }
            Err(_) => Some(FetchFault::Refused),
            Ok(state) if is_sealed && !state.sealed.contains_key(&attempt) => {
                Some(FetchFault::Missing)
            }
            Ok(state) if state.made(attempt).is_none_or(|made| made.rows.len() <= position) => {
                if is_sealed {
                    None
                } else {
                    // Not made yet, or its end not said yet.
                    let next = Message::Client { query, partition, attempt, tries: 0 };
                    return self.after(5, 200, next);
                }
            }
            Ok(_) => None,
        };
        if let Some(fault) = fault {
            self.readers.get_mut(&(query, partition)).unwrap().current = None;
            if !is_sealed {
                return;
            }
            let message = "cannot fetch".to_owned();
            let event = Event::ResultFetchFailed { result: attempt, fault, message };
            return self.tell(vec![event]);
        }
        let chunk = 1 + self.rng.below(3) as usize;
        let Some(made) = self.site(site).made(attempt).cloned() else { return };
        let rows = made.rows;
        let chunk: Vec<u64> = rows.iter().skip(position).take(chunk).copied().collect();
        self.flow_count += usize::from(!is_sealed);
        let reader = self.readers.get_mut(&(query, partition)).unwrap();
        reader.rows.extend(chunk);
        reader.clash = reader.clash.or(combine(&mut reader.versions, &made.versions));
        reader.is_done = is_sealed && reader.rows.len() >= rows.len();
        let (count, is_done) = (reader.rows.len() as u64, reader.is_done);
        let delivered = Event::ResultDelivered { result: attempt, rows: count };
        if is_exact {
            self.say(delivered, attempt, 10);
        } else {
            self.tell(vec![delivered]);
        }
        if is_done {
            self.say(Event::ResultFetched { result: attempt }, attempt, 20);
        } else {
            let next = Message::Client { query, partition, attempt, tries: 0 };
            self.after(1, self.profile.client_pause, next);
        }
        if self.profile.enough_percent > 0 && self.rng.chance(self.profile.enough_percent) {
            self.fired("enough");
            self.tell(vec![Event::ResultEnough { query }]);
        }
    }

    pub(super) fn outcome(
        &self,
        query: QueryId,
    ) -> Option<Result<(), crate::scheduler::FailureKind>> {
        self.oracle.accounts.get(&query).and_then(|account| account.outcome)
    }

    pub(super) fn all_ended(&self) -> bool {
        self.oracle.accounts.values().all(|account| account.outcome.is_some())
    }
}
