//! What goes wrong, and how often.

use std::collections::BTreeSet;
use std::time::Duration;

use super::data::{Rng, Versions, combine, random_graph};
use super::world::{COORDINATOR, Message, World};
use crate::ids::{QueryId, WorkerId};
use crate::membership::{MembershipConfig, WorkerLife};
use crate::scheduler::{Event, QuerySettings, SchedulerConfig, Site};

#[derive(Debug, Clone)]
pub(super) enum Fault {
    Submit(QueryId),
    Cancel(QueryId),
    Kill(WorkerId),
    Restart(WorkerId),
    Pause(WorkerId),
    Wake(WorkerId),
    Disconnect(WorkerId),
    Corrupt,
    Cut(WorkerId, WorkerId),
    Heal(WorkerId, WorkerId),
    /// All workers die; after this many milliseconds they are back.
    KillAll(u64),
}

/// How one schedule goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Profile {
    pub(super) is_traced: bool,
    pub(super) task_length: u64,
    pub(super) client_pause: u64,
    pub(super) worker_fault_percent: u64,
    pub(super) final_failure_permille: u64,
    pub(super) doubled_percent: u64,
    pub(super) enough_percent: u64,
    /// No fault at all, which makes the number of launches exact.
    pub(super) is_clean: bool,
}

impl Profile {
    fn random(rng: &mut Rng, is_traced: bool) -> Self {
        let is_clean = rng.chance(10);
        let mut maybe = |percent, value| if !is_clean && rng.chance(percent) { value } else { 0 };
        Self {
            is_traced,
            worker_fault_percent: maybe(30, 10),
            final_failure_permille: maybe(20, 10),
            doubled_percent: maybe(30, 10),
            enough_percent: maybe(15, 5),
            task_length: [30, 200, 800][rng.below(3) as usize],
            client_pause: [5, 50, 200][rng.below(3) as usize],
            is_clean,
        }
    }
}

fn random_config(rng: &mut Rng) -> SchedulerConfig {
    let grace = [0, 100, 400][rng.below(3) as usize];
    SchedulerConfig {
        membership: MembershipConfig {
            reconnect_grace: Duration::from_millis(grace),
            ..MembershipConfig::default()
        },
        running_query_count: rng.between(1, 3) as usize,
        queued_query_count: rng.below(4) as usize,
        coordinator_slot_count: rng.between(1, 2) as usize,
        retained_generations: rng.below(4) as usize,
        result_window_bytes: [1, 100, 1 << 20][rng.below(3) as usize],
        locality_share_percent: rng.between(20, 80),
        locality_min_bytes: rng.between(0, 40),
        max_tasks_per_message: rng.between(1, 4) as usize,
        remembered_query_count: 2,
        quarantine: Duration::from_millis(rng.between(0, 5000)),
        ..SchedulerConfig::default()
    }
}

/// Makes the world of one seed.
pub(super) fn world(seed: u64, is_traced: bool) -> World {
    let mut rng = Rng(seed);
    let profile = Profile::random(&mut rng, is_traced);
    let config = random_config(&mut rng);
    let is_clean = profile.is_clean;
    let mut world = World::new(seed, rng, profile, config);
    let workers = world.rng.between(1, 5);
    for worker in 1..=workers {
        let slots = world.rng.between(1, 3) as usize;
        world.add_worker(worker, slots);
    }
    for query in 0..world.rng.between(1, 4) {
        world.after(0, 1500, Message::Fault(Fault::Submit(QueryId(query))));
    }
    world.after(0, 250, Message::Tick);
    if !is_clean {
        for _ in 0..world.rng.below(6) {
            let fault = random_fault(&mut world.rng, workers);
            world.after(0, 4000, Message::Fault(fault));
        }
    }
    world
}

fn random_fault(rng: &mut Rng, workers: u64) -> Fault {
    let worker = WorkerId(rng.between(1, workers));
    let other = WorkerId(rng.between(0, workers));
    match rng.below(16) {
        0..=4 => Fault::Kill(worker),
        5..=6 => Fault::Pause(worker),
        7..=9 => Fault::Disconnect(worker),
        10..=11 => Fault::Corrupt,
        12..=13 => Fault::Cut(worker.min(other), worker.max(other)),
        14 => Fault::Cancel(QueryId(rng.below(4))),
        _ => Fault::KillAll([500, 8_000, 40_000][rng.below(3) as usize]),
    }
}

impl World {
    pub(super) fn strike(&mut self, fault: Fault) {
        self.note(|| format!("** {fault:?}"));
        match fault {
            Fault::Submit(query) => {
                let graph = random_graph(&mut self.rng);
                let timeout = (!self.profile.is_clean && self.rng.chance(10))
                    .then(|| Duration::from_millis(self.rng.between(100, 6000)));
                let weight = std::num::NonZeroU32::new(self.rng.between(1, 3) as u32).unwrap();
                self.submit(query, graph, QuerySettings { weight, timeout });
            }
            Fault::Cancel(query) => {
                if self.oracle.accounts.contains_key(&query) && self.outcome(query).is_none() {
                    self.fired("cancel");
                }
                self.tell(vec![Event::Cancel { query }]);
            }
            Fault::Kill(worker) => {
                let back = self.rng.between(100, 7000);
                self.kill(worker, back);
            }
            Fault::KillAll(back) => {
                self.fired("all lost");
                for worker in self.sites.keys().copied().skip(1).collect::<Vec<_>>() {
                    self.kill(worker, back);
                }
            }
            Fault::Restart(worker) => {
                if !self.sites[&worker].is_alive {
                    self.next_life(worker);
                }
            }
            Fault::Pause(worker) => self.pause(worker),
            Fault::Wake(worker) => self.wake(worker),
            Fault::Disconnect(worker) => self.disconnect(worker),
            Fault::Corrupt => self.corrupt(),
            Fault::Cut(a, b) => {
                if a != b {
                    self.fired("cut");
                    self.cuts.insert((a, b));
                    self.after(300, 4000, Message::Fault(Fault::Heal(a, b)));
                }
            }
            Fault::Heal(a, b) => drop(self.cuts.remove(&(a, b))),
        }
    }

    fn kill(&mut self, worker: WorkerId, back: u64) {
        let state = self.sites.get_mut(&worker).unwrap();
        if !state.is_alive {
            return;
        }
        state.is_alive = false;
        state.is_paused = false;
        state.clear();
        let (life, stream) = (state.life, state.stream);
        self.fired("kill");
        // A process that dies is noticed at once, a machine that dies by its silence.
        let noticed = match self.rng.below(10) {
            0..=5 => Some(Event::WorkerDisconnected { life }),
            6..=7 => Some(Event::WorkerLeft { life }),
            _ => None,
        };
        if let Some(event) = noticed {
            self.after(1, 30, Message::Up { from: Some((life, stream)), event });
        }
        self.after(back, back + 50, Message::Fault(Fault::Restart(worker)));
    }

    fn pause(&mut self, worker: WorkerId) {
        let state = self.sites.get_mut(&worker).unwrap();
        if state.is_alive && !state.is_paused {
            state.is_paused = true;
            self.fired("pause");
            self.after(500, 12_000, Message::Fault(Fault::Wake(worker)));
        }
    }

    fn disconnect(&mut self, worker: WorkerId) {
        let state = self.sites.get_mut(&worker).unwrap();
        if !state.is_alive || !state.is_connected {
            return;
        }
        let life = state.life;
        state.is_connected = false;
        state.open_stream = state.open_stream.max(state.stream);
        let stream = state.stream;
        // What was under way on the stream is gone.
        state.open_stream += 1;
        state.stream += 1;
        self.fired("disconnect");
        self.after(5, 500, Message::Join { life });
        let event = Event::WorkerDisconnected { life };
        self.after(0, 30, Message::Up { from: Some((life, stream + 1)), event });
    }

    fn corrupt(&mut self) {
        let mut all = Vec::new();
        for (worker, state) in &self.sites {
            let ids = state.sealed.keys().filter(|_| state.is_alive && *worker != COORDINATOR);
            all.extend(ids.map(|id| (*worker, *id)));
        }
        if let Some((worker, id)) = self.rng.pick(&all) {
            self.sites.get_mut(&worker).unwrap().sealed.remove(&id);
            self.fired("corrupt");
        }
    }

    /// Whether what the workers hold at the end can be judged: all are up and connected.
    pub(super) fn leftovers(&self) -> Vec<(WorkerLife, Site)> {
        let clean = |site: &&super::sites::SimSite| site.is_alive && !site.is_clean();
        self.sites.values().filter(clean).map(|site| (site.life, site.site())).collect()
    }

    /// Of which attempts the rows that a client got were made.
    fn versions(&self, query: QueryId) -> Versions {
        let mut versions = Versions::new();
        let readers = self.readers.range((query, 0)..=(query, usize::MAX));
        for (_, reader) in readers {
            let clash = reader.clash.or(combine(&mut versions, &reader.versions));
            if let Some(task) = clash {
                self.fail(&format!("{query}: its rows are of two versions of {task:?}"));
            }
        }
        versions
    }

    pub(super) fn expected_rows(&self, query: QueryId) -> Vec<Vec<u64>> {
        let account = &self.oracle.accounts[&query];
        let mut chosen = account.chosen.clone();
        // Part of a result partition may have been read before others had rows enough.
        chosen.remove(&(account.graph.stages().len() - 1));
        super::data::expected(query, &account.graph, &chosen, &self.versions(query))
    }

    pub(super) fn faults(&self) -> BTreeSet<&'static str> {
        self.fault_count.keys().copied().collect()
    }
}
