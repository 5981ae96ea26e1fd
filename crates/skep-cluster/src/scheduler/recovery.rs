//! What a loss costs, and what may be let go.
//!
//! When sealed output is lost, nothing is made again for its own sake: from the result stage down,
//! each stage is asked what its unfinished readers still want. What they want and is not held is
//! reopened, which makes its own inputs wanted in turn; so a loss goes up the lineage exactly as
//! far as it must.
//!
//! A running task whose input was lost is restarted at once, unless its worker has said that it has
//! fetched all that it reads: one that had not would wait for a worker that stopped without a word
//! until its own time-out. What such a task has read is not made again for its sake either, before
//! it fails or is lost itself.
//!
//! Where tasks pick by chance, what is made again is not what was lost, and what others made of the
//! first goes with it ([`rollback`](super::rollback)).
//!
//! **Invariant:** after [`Query::repair`] every input of every unfinished task that has yet to read is
//! sealed, skipped or unfinished itself.

use std::collections::BTreeMap;
use std::time::Duration;

use super::action::{Action, FailureKind, QueryFailure};
use super::event::{FetchFault, Site, TaskAttempt};
use super::graph::Replay;
use super::reads::TaskSet;
use super::state::{Phase, Query};
use super::view::AttemptState;

impl Query {
    /// Takes note that a site is gone with all it ran and held.
    pub(super) fn lose_site(&mut self, lost: Site, now: Duration) -> Result<(), QueryFailure> {
        self.forget_copies(lost);
        for stage in 0..self.stages.len() {
            if self.stages[stage].spread.remove(&lost).is_none() {
                continue;
            }
            for partition in 0..self.stages[stage].tasks.len() {
                match *self.phase(stage, partition) {
                    Phase::Running { attempt, site, .. } if site == lost => {
                        let id = self.attempt_id(stage, partition, attempt);
                        self.lose_attempt(id, site, now)?;
                    }
                    Phase::Sealed { attempt, site, .. } if site == lost => {
                        let id = self.attempt_id(stage, partition, attempt);
                        self.lose_output(id, now);
                    }
                    _ => {}
                }
            }
            self.stages[stage].held.remove(&lost);
        }
        self.repair(now)
    }

    /// Takes note that a running attempt vanished with its worker.
    pub(super) fn lose_attempt(
        &mut self,
        id: TaskAttempt,
        site: Site,
        now: Duration,
    ) -> Result<(), QueryFailure> {
        let cause = QueryFailure::new(FailureKind::Attempts, format!("worker {site} was lost"));
        self.retry(id, site, cause.of(id, site), now)
    }

    /// Takes note that a sealed output is held no longer. To be followed by [`Query::repair`].
    pub(super) fn lose_output(&mut self, id: TaskAttempt, now: Duration) {
        let Some((stage, partition)) = self.find(id.task) else { return };
        self.close_attempt(id, AttemptState::Lost, None, now);
        if stage == self.result_stage() {
            self.effects.actions.push(Action::ResultWithdrawn { result: id });
        }
        self.set_phase(stage, partition, Phase::Absent, now);
        self.take_copy(stage, partition, now);
    }

    /// Makes everything wanted and not held be made again, and restarts those who were reading it.
    pub(super) fn repair(&mut self, now: Duration) -> Result<(), QueryFailure> {
        // What is taken back has left its traces once less, so this ends.
        while self.reopen_wanted(now)? {}
        Ok(())
    }

    /// Returns whether stages that were looked at already have to be looked at again.
    fn reopen_wanted(&mut self, now: Duration) -> Result<bool, QueryFailure> {
        let mut has_taken_back = false;
        for stage in (0..self.stages.len()).rev() {
            for partition in 0..self.stages[stage].tasks.len() {
                match self.phase(stage, partition) {
                    Phase::Absent if self.is_awaited(stage, partition) => {
                        self.check_replay()?;
                        self.check_restart(stage, partition)?;
                        self.set_phase(stage, partition, Phase::Waiting, now);
                        has_taken_back |= self.take_back(stage, partition, now)?;
                    }
                    Phase::Running { has_inputs: false, .. }
                        if !self.are_inputs_available(stage, partition) =>
                    {
                        self.check_restart(stage, partition)?;
                        self.stop(stage, partition, Phase::Waiting, now);
                    }
                    _ => {}
                }
            }
        }
        Ok(has_taken_back)
    }

    /// Stops unfinished tasks that nobody wants any more, from the result stage down.
    pub(super) fn prune(&mut self, now: Duration) {
        for stage in (0..self.stages.len()).rev() {
            if self.stages[stage].unfinished_count == 0 {
                continue;
            }
            for partition in 0..self.stages[stage].tasks.len() {
                let is_unfinished = self.phase(stage, partition).is_unfinished();
                if is_unfinished && !self.is_awaited(stage, partition) {
                    self.stop(stage, partition, Phase::Absent, now);
                }
            }
        }
    }

    /// Deals with an input that a running attempt could not read from a site that lives on. The
    /// attempt itself has been taken back already.
    pub(super) fn miss(
        &mut self,
        producer: TaskAttempt,
        site: Site,
        fault: FetchFault,
        now: Duration,
    ) -> Result<(), QueryFailure> {
        let Some((stage, partition)) = self.find(producer.task) else { return Ok(()) };
        let is_held = self.is_sealed(stage, partition, producer.attempt, site);
        if fault == FetchFault::Missing && is_held {
            self.effects.releases.push((site, producer));
            self.lose_output(producer, now);
            return self.repair(now);
        }
        Ok(())
    }

    /// Deals with a result partition that the coordinator could not read from a site that lives on.
    pub(super) fn miss_result(
        &mut self,
        result: TaskAttempt,
        site: Site,
        (fault, cause): (FetchFault, QueryFailure),
        now: Duration,
    ) -> Result<(), QueryFailure> {
        let Some((stage, partition)) = self.find(result.task) else { return Ok(()) };
        if !self.is_sealed(stage, partition, result.attempt, site) {
            return Ok(());
        }
        self.check_failure(stage, partition, cause)?;
        if fault == FetchFault::Missing {
            return self.miss(result, site, fault, now);
        }
        let attempts = &self.stages[stage].tasks[partition].attempts;
        let rows = attempts.get(result.attempt.0 as usize).map_or(0, |record| record.output.rows);
        self.effects.actions.push(Action::ResultReady { result, site, rows });
        Ok(())
    }

    fn check_replay(&self) -> Result<(), QueryFailure> {
        let is_begun = self.results.iter().any(|part| part.delivered_rows > 0);
        if self.replay == Replay::Never && is_begun {
            let message =
                "a worker was lost after rows had left that cannot be made again in order";
            return Err(QueryFailure::new(FailureKind::ResultLost, message));
        }
        Ok(())
    }

    pub(super) fn check_restart(
        &mut self,
        stage: usize,
        partition: usize,
    ) -> Result<(), QueryFailure> {
        let max_restarts = self.config.max_restarts;
        let task = &mut self.stages[stage].tasks[partition];
        task.restart_count += 1;
        if task.restart_count <= max_restarts {
            return Ok(());
        }
        let message = format!("a task was started again {max_restarts} times as its data was lost");
        let fallback = QueryFailure::new(FailureKind::Attempts, message);
        Err(task.first_failure.clone().unwrap_or(fallback))
    }

    /// Releases what a task that has just ended was the last to need.
    pub(super) fn release_read_by(&mut self, stage: usize, partition: usize, now: Duration) {
        if self.stages[stage].unfinished_count == 0 {
            self.release_unneeded(now);
        } else {
            self.release_one_to_one(stage, partition, now);
        }
    }

    /// Releases what a task has read that no other task reads.
    pub(super) fn release_one_to_one(&mut self, stage: usize, partition: usize, now: Duration) {
        for index in 0..self.stages[stage].node.inputs.len() {
            let input = self.stages[stage].node.inputs[index].clone();
            let producer = input.producer.0 as usize;
            let read = match input.pattern.reads(partition) {
                // It is let go of with the last reader of all.
                TaskSet::All => continue,
                tasks => tasks.of(self.stages[producer].tasks.len()),
            };
            for task in read {
                if !self.is_kept(producer, task) {
                    self.release(producer, task, now);
                }
            }
        }
    }

    /// Whether one output alone is still kept for its readers or for theirs.
    fn is_kept(&self, stage: usize, partition: usize) -> bool {
        Needs { query: self, memo: BTreeMap::new() }.task(
            stage,
            partition,
            self.config.retained_generations,
        )
    }

    fn release_unneeded(&mut self, now: Duration) {
        let mut unneeded = Vec::new();
        let mut needs = Needs { query: self, memo: BTreeMap::new() };
        // The result stage is let go by the client's word alone.
        for (stage, state) in self.stages[..self.result_stage()].iter().enumerate() {
            for (partition, task) in state.tasks.iter().enumerate() {
                let is_sealed = matches!(task.phase, Phase::Sealed { .. });
                if is_sealed && !needs.task(stage, partition, self.config.retained_generations) {
                    unneeded.push((stage, partition));
                }
            }
        }
        for (stage, partition) in unneeded {
            self.release(stage, partition, now);
        }
    }
}

/// Answers whether outputs are needed by readers up to some generations away.
struct Needs<'a> {
    query: &'a Query,
    /// Whether any task of a stage is needed at a generation.
    memo: BTreeMap<(usize, usize), bool>,
}

impl Needs<'_> {
    /// Whether an unfinished task wants this output, or would, if what its readers made were lost.
    fn task(&mut self, stage: usize, partition: usize, generations: usize) -> bool {
        if self.query.is_wanted(stage, partition) {
            return true;
        }
        let Some(next) = generations.checked_sub(1) else { return false };
        let readers = &self.query.stages[stage].readers;
        readers.iter().any(|(reader, pattern)| match pattern.readers(partition) {
            TaskSet::All => self.any_task(*reader, next),
            tasks => {
                let count = self.query.stages[*reader].tasks.len();
                tasks.of(count).any(|task| self.task(*reader, task, next))
            }
        })
    }

    fn any_task(&mut self, stage: usize, generations: usize) -> bool {
        if let Some(known) = self.memo.get(&(stage, generations)) {
            return *known;
        }
        let width = self.query.stages[stage].tasks.len();
        let any = (0..width).any(|partition| self.task(stage, partition, generations));
        self.memo.insert((stage, generations), any);
        any
    }
}
