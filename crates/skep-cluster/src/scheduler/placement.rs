//! Where the next task of a query runs, and what each site has to offer.
//!
//! A task goes to the worker that holds the most of its input. If one worker holds so much that it
//! is worth waiting for, the task waits for a slot there, for a bounded time; then any slot will do. A
//! reader of cached tables waits as long as its keeper frees slots in such times: the later tasks of
//! a scan would else leave a worker that is at work on the earlier ones.
//! Leaves, which hold nothing anywhere, are spread evenly. A worker where the task failed before is
//! taken last.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::event::{Site, TaskAttempt};
use super::graph::StagePlace;
use super::state::{Query, Task};
use crate::ids::{QueryId, StageId, WorkerId};

/// What the scheduler keeps for one site.
#[derive(Debug, Default)]
pub(super) struct SiteState {
    pub(super) slot_count: usize,
    pub(super) is_connected: bool,
    /// Attempts launched there that have not said their last word.
    pub(super) occupied: BTreeSet<TaskAttempt>,
    /// When one of them last said it.
    pub(super) last_freed: Duration,
    pub(super) plans: BTreeSet<(QueryId, StageId)>,
    /// Queries of which it may hold anything.
    pub(super) queries: BTreeSet<QueryId>,
    pub(super) refusal_count: u32,
    pub(super) last_refusal: Duration,
    pub(super) quarantined_until: Duration,
}

impl SiteState {
    fn free_count(&self) -> usize {
        if self.is_connected { self.slot_count.saturating_sub(self.occupied.len()) } else { 0 }
    }
}

/// All sites that are not lost.
#[derive(Debug, Default)]
pub(super) struct Sites {
    pub(super) states: BTreeMap<Site, SiteState>,
}

/// One task and where it shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) stage: usize,
    pub(super) partition: usize,
    pub(super) site: Site,
}

impl Sites {
    pub(super) fn has_free_slot(&self, site: Site) -> bool {
        self.states.get(&site).is_some_and(|state| state.free_count() > 0)
    }

    fn last_freed(&self, site: Site) -> Duration {
        self.states.get(&site).map_or(Duration::ZERO, |state| state.last_freed)
    }

    pub(super) fn has_any_free_slot(&self) -> bool {
        self.states.values().any(|state| state.free_count() > 0)
    }

    pub(super) fn has_worker(&self) -> bool {
        self.states.keys().any(|site| matches!(site, Site::Worker(_)))
    }

    /// Returns the workers that may get tasks; the quarantined ones only if there are no others.
    fn usable(&self, now: Duration) -> Vec<(Site, WorkerId, usize)> {
        let workers = |only_trusted: bool| {
            let state = |(site, state): (&Site, &SiteState)| match site {
                Site::Worker(life) if state.is_connected => {
                    let is_trusted = state.quarantined_until <= now;
                    let offer = (*site, life.worker, state.free_count());
                    (is_trusted || !only_trusted).then_some(offer)
                }
                _ => None,
            };
            self.states.iter().filter_map(state).collect::<Vec<_>>()
        };
        let trusted = workers(true);
        if trusted.is_empty() { workers(false) } else { trusted }
    }
}

impl Query {
    /// Returns the worker that holds so much of a task's input that it is worth waiting for.
    pub(super) fn preferred_site(&self, stage: usize, partition: usize) -> Option<Site> {
        let node = &self.stages[stage].node;
        if node.cached.is_some() {
            return self.cached_wish(stage, partition);
        }
        if node.inputs.is_empty() || node.place == StagePlace::Coordinator {
            return None;
        }
        let held = self.held_bytes(stage, partition);
        let total: u64 = held.values().sum();
        let (site, bytes) =
            held.into_iter().max_by_key(|(site, bytes)| (*bytes, Reverse(*site)))?;
        let Site::Worker(life) = site else { return None };
        let is_worth_it =
            bytes.saturating_mul(100) >= total.saturating_mul(self.config.locality_share_percent);
        let is_avoided = self.stages[stage].tasks[partition].avoid.contains(&life.worker);
        let is_much = match self.stages[stage].is_about_cached {
            // Even of an empty partition only its keeper knows that it is.
            true => true,
            false => bytes > 0 && bytes >= self.config.locality_min_bytes,
        };
        (is_much && is_worth_it && !is_avoided).then_some(site)
    }

    /// Returns the next task that can start, and where. Later stages go first: they turn what is
    /// held into less.
    pub(super) fn pick(&self, sites: &Sites, now: Duration) -> Option<Choice> {
        if self.ready_count == 0 {
            return None;
        }
        let workers = sites.usable(now);
        for stage in (0..self.stages.len()).rev() {
            if self.stages[stage].ready.is_empty() {
                continue;
            }
            let choice = if stage == self.result_stage() && !self.is_window_open() {
                self.pick_first_unfetched(stage, sites, &workers)
            } else {
                match self.stages[stage].node.place {
                    StagePlace::Coordinator => self.pick_for_coordinator(stage, sites),
                    StagePlace::Workers => self.pick_for_workers(stage, sites, &workers, now),
                }
            };
            if choice.is_some() {
                return choice;
            }
        }
        None
    }

    fn pick_for_coordinator(&self, stage: usize, sites: &Sites) -> Option<Choice> {
        let site = Site::Coordinator;
        let (_, partition) = *self.stages[stage].ready.get(&None)?.first()?;
        sites.has_free_slot(site).then_some(Choice { stage, partition, site })
    }

    /// While the client has enough to read, only the partition that it may be waiting for starts:
    /// held back as well, it could be waited for for ever.
    fn pick_first_unfetched(
        &self,
        stage: usize,
        sites: &Sites,
        workers: &[(Site, WorkerId, usize)],
    ) -> Option<Choice> {
        let partition = self.first_unfetched;
        self.stages[stage].tasks.get(partition)?.ready?;
        if self.stages[stage].node.place == StagePlace::Coordinator {
            let site = Site::Coordinator;
            return sites.has_free_slot(site).then_some(Choice { stage, partition, site });
        }
        let site = self.choose_site(stage, partition, workers, true)?;
        Some(Choice { stage, partition, site })
    }

    fn pick_for_workers(
        &self,
        stage: usize,
        sites: &Sites,
        workers: &[(Site, WorkerId, usize)],
        now: Duration,
    ) -> Option<Choice> {
        if workers.iter().all(|(_, _, free)| *free == 0) {
            return None;
        }
        let is_local = |wish: &Option<Site>| wish.is_some_and(|site| sites.has_free_slot(site));
        let buckets = &self.stages[stage].ready;
        let local = buckets.iter().filter(|(wish, _)| is_local(wish));
        let others = buckets.iter().filter(|(wish, _)| !is_local(wish));
        for (wish, bucket) in local.chain(others) {
            for &(since, partition) in bucket {
                let is_overdue = now >= self.overdue_at(stage, *wish, since, sites);
                let found = self.choose_site(stage, partition, workers, is_overdue);
                if let Some(site) = found {
                    return Some(Choice { stage, partition, site });
                }
                // All in this bucket wait for the same worker, and this one has waited longest.
                if wish.is_some() {
                    break;
                }
            }
        }
        None
    }

    /// Returns when a task that is ready since then has waited enough for the site that it would like.
    pub(super) fn overdue_at(
        &self,
        stage: usize,
        wish: Option<Site>,
        since: Duration,
        sites: &Sites,
    ) -> Duration {
        match (wish, self.stages[stage].is_about_cached) {
            (Some(keeper), true) => {
                since.max(sites.last_freed(keeper)) + self.config.cached_locality_wait
            }
            (None, true) => since + self.config.cached_locality_wait,
            (_, false) => since + self.config.locality_wait,
        }
    }

    fn choose_site(
        &self,
        stage: usize,
        partition: usize,
        workers: &[(Site, WorkerId, usize)],
        is_overdue: bool,
    ) -> Option<Site> {
        let Task { avoid, ready, .. } = &self.stages[stage].tasks[partition];
        let wish = ready.and_then(|(site, _)| site);
        match workers.iter().find(|(site, ..)| Some(*site) == wish) {
            Some((site, _, free)) if *free > 0 => return Some(*site),
            Some(_) if !is_overdue => return None,
            _ => {}
        }
        let is_avoided = |id: &WorkerId| avoid.contains(id);
        let has_better = workers.iter().any(|(_, id, _)| !is_avoided(id));
        let held = self.held_bytes(stage, partition);
        let spread = &self.stages[stage].spread;
        let best =
            workers.iter().filter(|(_, _, free)| *free > 0).min_by_key(|(site, id, free)| {
                let held = held.get(site).copied().unwrap_or(0);
                let here = spread.get(site).copied().unwrap_or(0);
                (is_avoided(id), Reverse(held), here, Reverse(*free))
            });
        let (site, id, _) = best?;
        (!is_avoided(id) || !has_better || is_overdue).then_some(*site)
    }

    /// Whether more of the result may be made than the client has taken.
    fn is_window_open(&self) -> bool {
        self.unfetched_bytes < self.config.result_window_bytes
    }
}
