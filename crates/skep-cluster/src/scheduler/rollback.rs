//! What has to be taken back when rows are made again that will not be the same.
//!
//! A task of a stage that picks by chance ([`StageNode::is_by_chance`]) gives other rows the second
//! time. Whatever was made of its first ones, by finished or running tasks, directly or through
//! others, would be joined with what is made of the new ones: rows lost or doubled. So all of it is
//! taken back at the moment when such a task is reopened. [`Query::repair`] then finds out what of
//! it is still wanted. Source: Spark does so for indeterminate stages since SPARK-23207; it runs the
//! whole stage again, here the other tasks of the stage keep what they made.
//!
//! A stage with a row limit is reopened as a whole: the tasks that gave rows enough may now give
//! less, and those that were skipped are needed.
//!
//! Rows that have left cannot be taken back. Then the query fails, and may be tried again.
//!
//! **Invariant:** when a task of such a stage is reopened, no running or sealed attempt and no row
//! that has left depends on an earlier attempt of it.
//!
//! [`StageNode::is_by_chance`]: super::graph::StageNode::is_by_chance

use std::time::Duration;

use super::action::{Action, QueryFailure};
use super::reads::TaskSet;
use super::state::{Phase, Query};
use super::view::AttemptState;
use crate::ids::Attempt;

impl Query {
    /// Takes back all that was made of an output that is to be made again, if that will be another.
    /// Returns whether there was anything. To be called within [`Query::repair`].
    pub(super) fn take_back(
        &mut self,
        stage: usize,
        partition: usize,
        now: Duration,
    ) -> Result<bool, QueryFailure> {
        let has_left_traces = self.stages[stage].tasks[partition].has_left_traces;
        if !self.stages[stage].node.is_by_chance || !has_left_traces {
            return Ok(false);
        }
        self.stages[stage].tasks[partition].has_left_traces = false;
        if stage == self.result_stage() {
            let next = self.next_attempt(stage, partition);
            let part = &mut self.results[partition];
            if part.delivered_rows > 0 {
                return Err(QueryFailure::rows_have_left());
            }
            part.first_alike = next;
        }
        let mut has_taken_back = self.reopen_row_limit(stage, now);
        for (reader, tainted) in self.made_of(stage, partition) {
            for partition in tainted {
                has_taken_back |= self.void(reader, partition, now)?;
            }
            has_taken_back |= self.reopen_row_limit(reader, now);
        }
        Ok(has_taken_back)
    }

    /// Returns the tasks that read an output, or what was made of it: by stage, ascending.
    fn made_of(&self, origin: usize, partition: usize) -> Vec<(usize, Vec<usize>)> {
        let mut is_tainted: Vec<Vec<bool>> =
            self.stages.iter().map(|stage| vec![false; stage.tasks.len()]).collect();
        is_tainted[origin][partition] = true;
        let mut found = Vec::new();
        for stage in origin..self.stages.len() {
            let tasks = (0..self.stages[stage].tasks.len()).filter(|p| is_tainted[stage][*p]);
            let tasks: Vec<usize> = tasks.collect();
            if tasks.is_empty() {
                continue;
            }
            for (reader, pattern) in &self.stages[stage].readers {
                let is_tainted = &mut is_tainted[*reader];
                for task in &tasks {
                    match pattern.readers(*task) {
                        TaskSet::All => {
                            is_tainted.fill(true);
                            break;
                        }
                        some => some.of(is_tainted.len()).for_each(|it| is_tainted[it] = true),
                    }
                }
            }
            if stage > origin {
                found.push((stage, tasks));
            }
        }
        found
    }

    /// Takes back what one task has made or makes now. Returns whether there was anything.
    fn void(
        &mut self,
        stage: usize,
        partition: usize,
        now: Duration,
    ) -> Result<bool, QueryFailure> {
        let phase = self.phase(stage, partition).clone();
        if stage == self.result_stage() {
            let next = self.next_attempt(stage, partition);
            let part = &mut self.results[partition];
            if part.delivered_rows > 0 || (part.is_fetched && phase != Phase::Skipped) {
                return Err(QueryFailure::rows_have_left());
            }
            (part.first_alike, part.first_valid) = (next, next);
        }
        self.stages[stage].tasks[partition].has_left_traces = false;
        match phase {
            Phase::Running { .. } => self.stop(stage, partition, Phase::Absent, now),
            Phase::Sealed { attempt, site, .. } => {
                let id = self.attempt_id(stage, partition, attempt);
                let why = "made of rows that were lost and are not the same again".to_owned();
                self.close_attempt(id, AttemptState::Lost, Some(why), now);
                self.effects.releases.push((site, id));
                if stage == self.result_stage() {
                    self.effects.actions.push(Action::ResultWithdrawn { result: id });
                }
                self.set_phase(stage, partition, Phase::Absent, now);
            }
            Phase::Waiting | Phase::Absent | Phase::Skipped => return Ok(false),
        }
        Ok(true)
    }

    /// Forgets that a stage had rows enough. Returns whether it had.
    fn reopen_row_limit(&mut self, stage: usize, now: Duration) -> bool {
        if !self.stages[stage].is_limit_met {
            return false;
        }
        self.stages[stage].is_limit_met = false;
        for partition in 0..self.stages[stage].tasks.len() {
            if *self.phase(stage, partition) == Phase::Skipped {
                if stage == self.result_stage() {
                    self.results[partition].is_fetched = false;
                    self.first_unfetched = self.first_unfetched.min(partition);
                }
                self.set_phase(stage, partition, Phase::Absent, now);
            }
        }
        true
    }

    fn next_attempt(&self, stage: usize, partition: usize) -> Attempt {
        Attempt(self.stages[stage].tasks[partition].attempts.len() as u32)
    }
}
