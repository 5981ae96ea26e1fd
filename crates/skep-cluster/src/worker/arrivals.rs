//! What an attempt has yet to fetch from other sites.
//!
//! An attempt that has all of it can do without those who made it. Nobody relies on that: one that
//! turns out to read an output again, after its maker was lost, fails and is launched again.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::scheduler::TaskAttempt;

/// The outputs of other sites that one attempt reads.
#[derive(Debug, Default)]
pub(super) struct Arrivals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Nobody has begun to read them.
    unopened: HashSet<TaskAttempt>,
    /// Streams that have not come to their end.
    open_count: usize,
    /// Whether it was said what is read at all, and there is something.
    is_known: bool,
}

impl Arrivals {
    /// Says whose outputs will be read.
    pub(super) fn expect(&self, producers: impl IntoIterator<Item = TaskAttempt>) {
        let mut state = self.0.lock();
        state.unopened.extend(producers);
        state.is_known = !state.unopened.is_empty();
    }

    /// Takes note of a stream that was opened.
    pub(super) fn open(&self, producer: TaskAttempt) {
        let mut state = self.0.lock();
        state.unopened.remove(&producer);
        state.open_count += 1;
    }

    /// Takes note of one that has come to its end.
    pub(super) fn end(&self) {
        self.0.lock().open_count -= 1;
    }

    /// Whether there was something to fetch, and all of it is here.
    pub(super) fn is_complete(&self) -> bool {
        let state = self.0.lock();
        state.is_known && state.unopened.is_empty() && state.open_count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Attempt, QueryId, StageId, TaskId};

    fn producer(partition: usize) -> TaskAttempt {
        let task = TaskId { query: QueryId(1), stage: StageId(0), partition };
        TaskAttempt { task, attempt: Attempt(0) }
    }

    #[test]
    fn all_must_have_been_opened_and_have_ended() {
        let arrivals = Arrivals::default();
        assert!(!arrivals.is_complete(), "nothing was said yet");
        arrivals.expect([producer(0), producer(1)]);
        arrivals.open(producer(0));
        arrivals.end();
        assert!(!arrivals.is_complete());
        arrivals.open(producer(1));
        arrivals.open(producer(1));
        arrivals.end();
        assert!(!arrivals.is_complete(), "one of two streams");
        arrivals.end();
        assert!(arrivals.is_complete());
        arrivals.open(producer(0));
        assert!(!arrivals.is_complete(), "it is read once more");
    }

    #[test]
    fn who_reads_nothing_of_others_does_not_count() {
        let arrivals = Arrivals::default();
        arrivals.expect([]);
        assert!(!arrivals.is_complete());
    }
}
