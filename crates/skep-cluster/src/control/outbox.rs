//! Last words that wait for a connection.

use std::collections::VecDeque;

use skep_proto::cluster::WorkerMessage;
use tracing::{debug, warn};

use super::wire;
use crate::membership::WorkerLife;
use crate::scheduler::Site;
use crate::worker::TaskReport;

/// The reports of the current life that have not been sent, in order.
///
/// Beyond the bound the oldest goes. That costs work and no answer: the coordinator takes what a
/// worker holds when it comes back for the truth, and runs again what is neither running nor sealed.
#[derive(Debug)]
pub(super) struct Outbox {
    life: Option<WorkerLife>,
    reports: VecDeque<TaskReport>,
    max_count: usize,
    dropped_count: u64,
}

impl Outbox {
    pub(super) fn new(max_count: usize) -> Self {
        Self { life: None, reports: VecDeque::new(), max_count, dropped_count: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// Goes on with this life; what is kept of another is forgotten.
    pub(super) fn set_life(&mut self, life: Option<WorkerLife>) {
        if self.life != life {
            self.reports.clear();
            self.life = life;
        }
    }

    pub(super) fn push(&mut self, site: Site, report: TaskReport) {
        if self.life.map(Site::Worker) != Some(site) {
            debug!(%site, attempt = %report.attempt, "report of a life that is over");
            return;
        }
        if self.reports.len() >= self.max_count && self.reports.pop_front().is_some() {
            if self.dropped_count == 0 {
                warn!(max_count = self.max_count, "too many reports wait for the coordinator");
            }
            self.dropped_count += 1;
        }
        self.reports.push_back(report);
    }

    /// Takes as many reports as one message of about this size has.
    pub(super) fn take(&mut self, target_bytes: usize) -> WorkerMessage {
        let mut next = std::iter::from_fn(|| self.reports.pop_front());
        wire::worker::reports(&mut next, target_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Attempt, Incarnation, QueryId, StageId, TaskId, WorkerId};
    use crate::scheduler::TaskAttempt;
    use crate::worker::TaskOutcome;

    fn life(incarnation: u64) -> WorkerLife {
        WorkerLife { worker: WorkerId(1), incarnation: Incarnation(incarnation) }
    }

    fn report(partition: usize) -> TaskReport {
        let task = TaskId { query: QueryId(1), stage: StageId(0), partition };
        let attempt = TaskAttempt { task, attempt: Attempt(0) };
        TaskReport { attempt, outcome: TaskOutcome::Stopped }
    }

    fn taken(outbox: &mut Outbox, target_bytes: usize) -> Vec<TaskReport> {
        let message = outbox.take(target_bytes);
        let decoded = wire::worker::decode_worker_message(message).unwrap();
        let wire::FromWorker::Reports(reports) = decoded else { panic!("{decoded:?}") };
        reports
    }

    #[test]
    fn only_the_current_life_is_kept() {
        let mut outbox = Outbox::new(10);
        outbox.push(Site::Worker(life(1)), report(0));
        assert!(outbox.is_empty());
        outbox.set_life(Some(life(1)));
        outbox.push(Site::Worker(life(1)), report(1));
        outbox.push(Site::Worker(life(2)), report(2));
        outbox.push(Site::Coordinator, report(3));
        outbox.set_life(Some(life(1)));
        assert_eq!(taken(&mut outbox, 1000), [report(1)]);
        outbox.push(Site::Worker(life(1)), report(1));
        outbox.set_life(Some(life(2)));
        assert!(outbox.is_empty());
    }

    #[test]
    fn the_oldest_goes_at_the_bound() {
        let mut outbox = Outbox::new(3);
        outbox.set_life(Some(life(1)));
        (0..5).for_each(|p| outbox.push(Site::Worker(life(1)), report(p)));
        assert_eq!(taken(&mut outbox, 1000), [report(2), report(3), report(4)]);
    }

    #[test]
    fn a_message_takes_what_fits_and_one_at_least() {
        let mut outbox = Outbox::new(100);
        outbox.set_life(Some(life(1)));
        (0..5).for_each(|p| outbox.push(Site::Worker(life(1)), report(p)));
        assert_eq!(taken(&mut outbox, 1), [report(0)]);
        assert_eq!(taken(&mut outbox, 1000).len(), 4);
    }
}
