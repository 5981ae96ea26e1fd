//! Stages that make the partitions of cached tables: what is kept already is not made.
//!
//! Such a stage stands in every query that reads its table, with all stages below it, so that a
//! partition that is lost is made again as any other output is. Where a partition is kept, its task
//! begins sealed, on its keeper's site, and nothing below it is wanted.
//!
//! **Invariant:** the output of such a task is kept until its site is lost or says that it is not
//! there; no query releases it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::action::{QueryFailure, Source};
use super::event::{FetchFault, Site, TaskAttempt, TaskFailure, TaskOutput};
use super::graph::StagePlace;
use super::state::{AttemptRecord, Phase, Query};
use super::view::AttemptState;
use crate::ids::Attempt;

impl Query {
    /// Takes what sites that are there keep of cached tables for the output of its tasks.
    pub(super) fn take_in_cached(
        &mut self,
        sites: &BTreeSet<Site>,
        now: Duration,
    ) -> Result<(), QueryFailure> {
        for stage in 0..self.stages.len() {
            let Some(cached) = self.stages[stage].node.cached.clone() else { continue };
            for (partition, part) in cached.parts.into_iter().enumerate() {
                let Some(task) = self.stages[stage].tasks.get_mut(partition) else { break };
                task.copies = part.copies;
                task.copies.retain(|copy| sites.contains(&copy.site));
                task.avoid = part.avoid;
                if !self.take_copy(stage, partition, now) {
                    // It may be wished elsewhere now.
                    self.refresh_task(stage, partition, now);
                }
            }
        }
        // What is kept needs nothing made below it.
        self.prune(now);
        Ok(())
    }

    /// Takes the next copy of a cached partition for the output of its task; returns whether there
    /// is one.
    pub(super) fn take_copy(&mut self, stage: usize, partition: usize, now: Duration) -> bool {
        let task = &mut self.stages[stage].tasks[partition];
        let Some(copy) = task.copies.pop() else { return false };
        let attempt = Attempt(task.attempts.len() as u32);
        let output =
            TaskOutput { rows: copy.rows, bytes: vec![copy.bytes], ..TaskOutput::default() };
        task.attempts.push(AttemptRecord {
            site: copy.site,
            state: AttemptState::Kept,
            started: now,
            ended: Some(now),
            output,
            error: None,
            is_local: None,
        });
        let bytes = [copy.bytes].into();
        self.set_phase(stage, partition, Phase::Sealed { attempt, site: copy.site, bytes }, now);
        if stage == self.result_stage() {
            // All that is asked for is that it be kept.
            self.mark_fetched(partition);
        }
        true
    }

    /// Returns whether an attempt failed because a partition that is taken to be kept is not. Its keeper
    /// has let go of it for want of memory: that is nobody's fault, and no reason to go elsewhere.
    pub(super) fn has_lost_cached(&self, failure: &TaskFailure) -> bool {
        let TaskFailure::Fetch { producer, site, fault: FetchFault::Missing, .. } = failure else {
            return false;
        };
        self.find(producer.task).is_some_and(|(stage, partition)| {
            self.stages[stage].node.cached.is_some()
                && self.is_sealed(stage, partition, producer.attempt, *site)
        })
    }

    /// Takes note that an attempt ended because what it reads was lost under it.
    pub(super) fn start_again(
        &mut self,
        id: TaskAttempt,
        cause: QueryFailure,
        now: Duration,
    ) -> Result<(), QueryFailure> {
        let Some((stage, partition)) = self.find(id.task) else { return Ok(()) };
        self.close_attempt(id, AttemptState::Failed, Some(cause.message), now);
        let verdict = self.check_restart(stage, partition);
        self.set_phase(stage, partition, Phase::Waiting, now);
        verdict
    }

    /// Forgets the copies of a site that is lost.
    pub(super) fn forget_copies(&mut self, lost: Site) {
        for task in self.stages.iter_mut().flat_map(|stage| &mut stage.tasks) {
            task.copies.retain(|copy| copy.site != lost);
        }
    }

    /// Returns whether a task that reads cached partitions finds all of them at a site; `None` if it
    /// reads none.
    pub(super) fn is_local(&self, stage: usize, sources: &[Source], site: Site) -> Option<bool> {
        let inputs = &self.stages[stage].node.inputs;
        let is_cached = |source: &&Source| {
            let producer = source.producer.task.stage;
            inputs.iter().any(|input| input.producer == producer)
                && self.stages[producer.0 as usize].node.cached.is_some()
        };
        let mut cached = sources.iter().filter(is_cached).peekable();
        cached.peek()?;
        Some(cached.all(|source| source.site == site))
    }

    /// Returns where a cached partition is to be made.
    pub(super) fn cached_wish(&self, stage: usize, partition: usize) -> Option<Site> {
        let stage = &self.stages[stage];
        let part = stage.node.cached.as_ref()?.parts.get(partition)?;
        let wish = part.wish.filter(|_| stage.node.place == StagePlace::Workers)?;
        let avoid = &stage.tasks[partition].avoid;
        let is_avoided = matches!(wish, Site::Worker(life) if avoid.contains(&life.worker));
        (!is_avoided).then_some(wish)
    }
}
