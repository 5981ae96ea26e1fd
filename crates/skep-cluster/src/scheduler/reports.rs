//! What tasks, and the reader of the result, say.

use std::time::Duration;

use super::action::Action;
use super::event::{FetchFault, Site, TaskAttempt, TaskFailure, TaskOutput};
use super::machine::Scheduler;
use super::state::{Phase, Query};
use super::view::AttemptState;
use crate::membership::{LossReason, WorkerLife};

impl Scheduler {
    pub(super) fn task_finished(
        &mut self,
        site: Site,
        id: TaskAttempt,
        output: TaskOutput,
        now: Duration,
    ) {
        if !self.last_word(site, id, now) {
            return;
        }
        if !self.is_current(site, id) {
            // It finished before it heard that it was not wanted any more.
            if self.queries.contains_key(&id.task.query) {
                self.address(site, Action::ReleasePartitions { site, outputs: vec![id] });
            }
            return;
        }
        self.change(id.task.query, now, |query| {
            query.seal(id, site, output, now);
            Ok(())
        });
    }

    pub(super) fn task_failed(
        &mut self,
        site: Site,
        id: TaskAttempt,
        failure: TaskFailure,
        now: Duration,
    ) {
        if !self.last_word(site, id, now) || !self.is_current(site, id) {
            return;
        }
        let cause = Query::fault(&failure, id, site);
        let is_final =
            !matches!(failure, TaskFailure::Fetch { .. } | TaskFailure::WorkerFault { .. });
        self.change(id.task.query, now, |query| {
            if is_final {
                query.close_attempt(id, AttemptState::Failed, Some(cause.message.clone()), now);
                return Err(cause);
            }
            match query.has_lost_cached(&failure) {
                true => query.start_again(id, cause, now)?,
                false => query.retry(id, site, cause, now)?,
            }
            // Something of what it had read may have been lost since, and was not made again.
            query.repair(now)
        });
        if let TaskFailure::Fetch { producer, site, fault, also_missing, .. } = failure {
            for producer in std::iter::once(producer).chain(also_missing) {
                self.fetch_failed(producer, site, fault, now);
            }
        }
    }

    pub(super) fn task_stopped(&mut self, site: Site, id: TaskAttempt, now: Duration) {
        if self.last_word(site, id, now) && self.is_current(site, id) {
            let message = "stopped without being told to".to_owned();
            let cause = Query::fault(&TaskFailure::WorkerFault { message }, id, site);
            self.change(id.task.query, now, |query| {
                query.retry(id, site, cause, now)?;
                query.repair(now)
            });
        }
    }

    pub(super) fn result_fetch_failed(
        &mut self,
        result: TaskAttempt,
        fault: FetchFault,
        message: String,
        now: Duration,
    ) {
        let Some(query) = self.queries.get(&result.task.query) else { return };
        let Some((stage, partition)) = query.find(result.task) else { return };
        let Phase::Sealed { attempt, site, .. } = *query.phase(stage, partition) else { return };
        if attempt != result.attempt {
            return;
        }
        if let (Site::Worker(life), FetchFault::Refused) = (site, fault) {
            self.refused(life, now);
        }
        let also_missing = Vec::new();
        let failure = TaskFailure::Fetch { producer: result, site, fault, also_missing, message };
        let cause = Query::fault(&failure, result, site);
        self.change(result.task.query, now, |query| {
            query.miss_result(result, site, (fault, cause), now)
        });
    }

    fn fetch_failed(
        &mut self,
        producer: TaskAttempt,
        site: Site,
        fault: FetchFault,
        now: Duration,
    ) {
        if let (Site::Worker(life), FetchFault::Refused) = (site, fault) {
            self.refused(life, now);
        }
        self.change(producer.task.query, now, |query| query.miss(producer, site, fault, now));
    }

    /// Holds a refused fetch against a worker, and gives it up at the bound.
    fn refused(&mut self, life: WorkerLife, now: Duration) {
        let Some(state) = self.sites.states.get_mut(&Site::Worker(life)) else { return };
        if now.saturating_sub(state.last_refusal) > self.config.refusal_window {
            state.refusal_count = 0;
        }
        state.refusal_count += 1;
        state.last_refusal = now;
        if state.refusal_count >= self.config.max_refusals {
            let changes = self.membership.lose(life, LossReason::FetchRefused);
            self.follow(&changes, now);
        }
    }

    /// Frees the slot of an attempt. Returns false if it is nobody's, or has been freed before.
    fn last_word(&mut self, site: Site, id: TaskAttempt, now: Duration) -> bool {
        let Some(state) = self.sites.states.get_mut(&site) else { return false };
        if let Site::Worker(life) = site {
            self.membership.heard(life, None, now);
        }
        let is_freed = state.occupied.remove(&id);
        if is_freed {
            state.last_freed = now;
        }
        is_freed
    }

    fn is_current(&self, site: Site, id: TaskAttempt) -> bool {
        let Some(query) = self.queries.get(&id.task.query) else { return false };
        let found = query.find(id.task);
        found.is_some_and(|(stage, partition)| query.is_running(stage, partition, id.attempt, site))
    }
}
