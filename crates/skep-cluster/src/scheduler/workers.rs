//! What workers say of themselves, and what follows when one is lost or back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, QueryFailure};
use super::event::{CachedKey, CachedReport, Heartbeat, Holdings, Site, TaskAttempt, TaskOutput};
use super::machine::Scheduler;
use super::placement::SiteState;
use super::state::{Phase, Query};
use crate::ids::QueryId;
use crate::membership::{LossReason, MembershipChange, Registration, WorkerLife};

impl Scheduler {
    pub(super) fn worker_joined(
        &mut self,
        registration: Registration,
        holdings: Holdings,
        now: Duration,
    ) {
        let slot_count = registration.slot_count.max(1);
        let changes = self.membership.register(registration, now);
        self.follow(&changes, now);
        match changes.last() {
            Some(MembershipChange::Joined(life)) => self.take_new(*life, slot_count, holdings),
            Some(MembershipChange::Rejoined(life)) => {
                self.take_back(*life, slot_count, holdings, now);
            }
            _ => {}
        }
    }

    pub(super) fn worker_disconnected(&mut self, life: WorkerLife, now: Duration) {
        let changes = self.membership.disconnect(life, now);
        self.follow(&changes, now);
    }

    pub(super) fn worker_left(&mut self, life: WorkerLife, now: Duration) {
        let changes = self.membership.lose(life, LossReason::Left);
        self.follow(&changes, now);
    }

    pub(super) fn heartbeat(&mut self, life: WorkerLife, beat: Heartbeat, now: Duration) {
        let changes = self.membership.heard(life, Some(beat.load), now);
        self.follow(&changes, now);
        for id in beat.has_inputs {
            self.change(id.task.query, now, |query| {
                query.has_inputs(id, Site::Worker(life), now);
                Ok(())
            });
        }
    }

    /// Lets follow what follows from changes of membership.
    pub(super) fn follow(&mut self, changes: &[MembershipChange], now: Duration) {
        for change in changes {
            match *change {
                MembershipChange::Joined(_) | MembershipChange::Rejoined(_) => {}
                MembershipChange::Refused(life) => {
                    self.actions.push(Action::RefuseWorker { life });
                }
                MembershipChange::Disconnected(life) => {
                    if let Some(state) = self.sites.states.get_mut(&Site::Worker(life)) {
                        state.is_connected = false;
                    }
                }
                MembershipChange::Lost(life, reason) => self.lose_worker(life, reason, now),
            }
        }
    }

    fn lose_worker(&mut self, life: WorkerLife, reason: LossReason, now: Duration) {
        let site = Site::Worker(life);
        self.sites.states.remove(&site);
        self.actions.push(Action::WorkerLost { life, reason });
        if reason == LossReason::FetchRefused {
            self.quarantine.retain(|_, until| *until > now);
            self.quarantine.insert(life.worker, now + self.config.quarantine);
        }
        if !self.sites.has_worker() {
            self.no_worker_since = Some(now);
        }
        for id in self.queries.keys().copied().collect::<Vec<_>>() {
            self.change(id, now, |query| query.lose_site(site, now));
        }
    }

    /// Takes in a new life. What it may hold was made for a coordinator that is no more.
    fn take_new(&mut self, life: WorkerLife, slot_count: usize, holdings: Holdings) {
        let site = Site::Worker(life);
        let quarantined_until = self.quarantine.get(&life.worker).copied().unwrap_or_default();
        let state = SiteState {
            slot_count,
            is_connected: true,
            occupied: holdings.running.into_iter().collect(),
            quarantined_until,
            ..SiteState::default()
        };
        self.sites.states.insert(site, state);
        self.no_worker_since = None;
        for query in holdings.queries {
            self.actions.push(Action::DropQuery { site, query });
        }
    }

    /// Takes back a life whose stream was cut: what it holds is the truth, whatever was said to it
    /// or by it that did not arrive.
    fn take_back(
        &mut self,
        life: WorkerLife,
        slot_count: usize,
        holdings: Holdings,
        now: Duration,
    ) {
        let site = Site::Worker(life);
        let Holdings { running, sealed, queries, cached } = holdings;
        let cached: BTreeSet<_> = cached.iter().map(CachedReport::key).collect();
        let running: BTreeSet<_> = running.into_iter().collect();
        let mut sealed: BTreeMap<_, _> = sealed.into_iter().collect();
        let Some(state) = self.sites.states.get_mut(&site) else { return };
        state.slot_count = slot_count;
        state.is_connected = true;
        state.occupied = running.clone();
        state.plans.clear();
        state.queries.clear();
        for query in queries {
            if self.queries.contains_key(&query) {
                state.queries.insert(query);
            } else {
                self.actions.push(Action::DropQuery { site, query });
            }
        }
        for id in self.queries.keys().copied().collect::<Vec<_>>() {
            self.change(id, now, |query| query.compare(site, &running, &mut sealed, &cached, now));
        }
        self.drop_strangers(site, running, sealed.into_keys().collect());
    }

    /// Ends what a worker runs or holds that is not, or no longer, wanted of it.
    fn drop_strangers(
        &mut self,
        site: Site,
        running: BTreeSet<TaskAttempt>,
        sealed: Vec<TaskAttempt>,
    ) {
        let is_stranger = |id: &TaskAttempt, test: fn(&Query, &TaskAttempt, Site) -> bool| {
            let query: Option<&Query> = self.queries.get(&id.task.query);
            query.is_some_and(|query| !test(query, id, site))
        };
        let attempts: Vec<_> =
            running.into_iter().filter(|id| is_stranger(id, Query::runs)).collect();
        let outputs: Vec<_> =
            sealed.into_iter().filter(|id| is_stranger(id, Query::holds)).collect();
        if !attempts.is_empty() {
            self.actions.push(Action::CancelTasks { site, attempts });
        }
        if !outputs.is_empty() {
            self.actions.push(Action::ReleasePartitions { site, outputs });
        }
    }
}

impl Query {
    fn runs(&self, id: &TaskAttempt, site: Site) -> bool {
        self.find(id.task).is_some_and(|(s, p)| self.is_running(s, p, id.attempt, site))
    }

    fn holds(&self, id: &TaskAttempt, site: Site) -> bool {
        self.find(id.task).is_some_and(|(s, p)| self.is_sealed(s, p, id.attempt, site))
    }

    /// Returns whether an output is a partition of a cached table that is among these.
    fn is_kept_there(&self, stage: usize, partition: usize, kept: &BTreeSet<CachedKey>) -> bool {
        self.stages[stage].node.cached.as_ref().is_some_and(|cached| {
            let (table, epoch) = (Arc::clone(&cached.table), cached.epoch);
            kept.contains(&CachedKey { table, epoch, partition })
        })
    }

    /// Compares what a site was thought to run and hold with what it says. Outputs of finishes
    /// that were not heard of are taken in.
    fn compare(
        &mut self,
        site: Site,
        running: &BTreeSet<TaskAttempt>,
        sealed: &mut BTreeMap<TaskAttempt, TaskOutput>,
        cached: &BTreeSet<CachedKey>,
        now: Duration,
    ) -> Result<(), QueryFailure> {
        for stage in 0..self.stages.len() {
            for partition in 0..self.stages[stage].tasks.len() {
                let (attempt, is_running) = match *self.phase(stage, partition) {
                    Phase::Running { attempt, site: at, .. } if at == site => (attempt, true),
                    Phase::Sealed { attempt, site: at, .. } if at == site => (attempt, false),
                    _ => continue,
                };
                let id = self.attempt_id(stage, partition, attempt);
                match (is_running, sealed.get_mut(&id)) {
                    (true, Some(output)) => self.seal(id, site, std::mem::take(output), now),
                    (true, None) if !running.contains(&id) => self.lose_attempt(id, site, now)?,
                    (false, None) if !self.is_kept_there(stage, partition, cached) => {
                        self.lose_output(id, now);
                    }
                    _ => {}
                }
            }
        }
        self.repair(now)
    }
}

impl Scheduler {
    /// Returns whether nothing is running, held or planned anywhere.
    pub fn is_idle(&self) -> bool {
        let is_idle = |state: &SiteState| {
            state.occupied.is_empty() && state.plans.is_empty() && state.queries.is_empty()
        };
        self.queries.is_empty() && self.sites.states.values().all(is_idle)
    }

    /// Returns the ids of queries that have not ended.
    pub fn open_queries(&self) -> impl Iterator<Item = QueryId> {
        self.queries.keys().copied()
    }
}
