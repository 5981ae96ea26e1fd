//! The statements that run, and the ends that are put to them from outside.
//!
//! Each way to cancel comes here: `KILL QUERY`, the actions `CancelFlightInfo` and `CancelQuery`, the
//! end of a session. A client that goes away needs none of it: what it waited for is dropped.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use skep_engine::{Error, Principal, Result};
use tokio::sync::watch;

/// Cancelled statements that are remembered, so that a ticket of one does not run it again.
const REMEMBERED: usize = 4096;

/// All statements that run, or whose rows wait or flow.
#[derive(Debug, Default)]
pub(super) struct Statements {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    running: HashMap<u64, Entry>,
    cancelled: VecDeque<u64>,
}

#[derive(Debug)]
struct Entry {
    /// The statement whose ticket it runs again, if it does.
    origin: Option<u64>,
    session: u64,
    owner: Principal,
    cancel: watch::Sender<bool>,
}

/// A statement that runs, until this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    id: u64,
    cancelled: watch::Receiver<bool>,
    shared: Arc<Mutex<Shared>>,
}

impl Statements {
    /// Notes that a statement of a session runs under a number that no other has; `origin` is the
    /// number under which it ran first, if it is run again for its ticket.
    pub(super) fn begin(
        &self,
        id: u64,
        origin: Option<u64>,
        session: u64,
        owner: Principal,
    ) -> Running {
        let (cancel, cancelled) = watch::channel(false);
        self.shared.lock().running.insert(id, Entry { origin, session, owner, cancel });
        Running { id, cancelled, shared: Arc::clone(&self.shared) }
    }

    /// Cancels a statement and what runs it again; returns whether any of it ran. Whichever number
    /// it is, the ticket is none any more.
    pub(super) fn cancel(&self, id: u64) -> bool {
        let mut shared = self.shared.lock();
        let mut numbers = HashSet::new();
        for (number, entry) in shared.of(id) {
            entry.cancel.send_replace(true);
            numbers.extend([number, entry.origin.unwrap_or(number)]);
        }
        if numbers.is_empty() {
            return false;
        }
        numbers.insert(id);
        shared.cancelled.extend(numbers);
        while shared.cancelled.len() > REMEMBERED {
            shared.cancelled.pop_front();
        }
        true
    }

    /// Tells whether somebody may see, and so cancel, a statement that runs.
    pub(super) fn is_seen_by(&self, id: u64, viewer: &Principal) -> bool {
        self.shared.lock().of(id).any(|(_, entry)| viewer.sees(&entry.owner.user))
    }

    /// Cancels all statements of a session.
    pub(super) fn cancel_of(&self, session: u64) {
        let shared = self.shared.lock();
        for entry in shared.running.values().filter(|entry| entry.session == session) {
            entry.cancel.send_replace(true);
        }
    }

    /// Tells whether a statement runs, or its rows wait or flow.
    pub(super) fn is_running(&self, id: u64) -> bool {
        self.shared.lock().running.contains_key(&id)
    }

    /// Tells whether a statement was cancelled, not too long ago.
    pub(super) fn was_cancelled(&self, id: u64) -> bool {
        self.shared.lock().cancelled.contains(&id)
    }
}

impl Shared {
    /// Lists what runs under a number, or runs again what had it.
    fn of(&self, id: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let running = self.running.iter().map(|(number, entry)| (*number, entry));
        running.filter(move |(number, entry)| *number == id || entry.origin == Some(id))
    }
}

impl Running {
    /// Returns its number.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Tells whether it was cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    /// Waits until it is cancelled.
    pub(super) fn cancelled(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut cancelled = self.cancelled.clone();
        async move {
            if cancelled.wait_for(|is_cancelled| *is_cancelled).await.is_err() {
                // It has ended, and will not be cancelled any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Runs something of it, until it is cancelled.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; whatever else goes wrong in it.
    pub(super) async fn until_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            biased;
            () = self.cancelled() => Err(Error::Cancelled),
            outcome = work => outcome,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.lock().running.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use skep_engine::Role;

    use super::*;

    fn me() -> Principal {
        Principal::new("me", Role::Reader)
    }

    #[tokio::test]
    async fn what_runs_can_be_cancelled_and_what_has_ended_cannot() {
        let statements = Statements::default();
        let running = statements.begin(1, None, 10, me());
        let other = statements.begin(2, None, 10, me());
        assert!(statements.cancel(1));
        let outcome = running.until_cancelled(std::future::pending::<Result<()>>()).await;
        assert!(matches!(outcome, Err(Error::Cancelled)));
        assert!(statements.was_cancelled(1) && !statements.was_cancelled(2));
        assert!(other.until_cancelled(async { Ok(5) }).await.is_ok_and(|five| five == 5));
        drop(running);
        assert!(!statements.cancel(1));
        assert!(!statements.is_running(1) && statements.is_running(2));
    }

    #[tokio::test]
    async fn the_end_of_a_session_ends_its_statements_alone() {
        let statements = Statements::default();
        let (mine, others) =
            (statements.begin(1, None, 10, me()), statements.begin(2, None, 11, me()));
        statements.cancel_of(10);
        assert!(mine.is_cancelled());
        assert!(!others.is_cancelled());
    }

    #[test]
    fn what_runs_again_is_cancelled_by_either_number_and_its_ticket_with_it() {
        for number in [1, 2] {
            let statements = Statements::default();
            drop(statements.begin(1, None, 10, me()));
            assert!(!statements.cancel(1));
            let again = statements.begin(2, Some(1), 10, me());
            let other = statements.begin(3, None, 10, me());
            assert!(statements.is_seen_by(number, &me()));
            assert!(statements.cancel(number));
            assert!(again.is_cancelled() && !other.is_cancelled());
            drop(again);
            assert!(statements.was_cancelled(1) && statements.was_cancelled(2));
            assert!(!statements.was_cancelled(3) && !statements.cancel(number));
        }
    }

    #[test]
    fn a_statement_is_its_owners_and_the_admins_to_cancel() {
        let statements = Statements::default();
        let _running = statements.begin(1, None, 10, me());
        assert!(statements.is_seen_by(1, &me()));
        assert!(!statements.is_seen_by(1, &Principal::new("you", Role::Writer)));
        assert!(statements.is_seen_by(1, &Principal::new("root", Role::Admin)));
        assert!(!statements.is_seen_by(2, &me()));
    }

    #[test]
    fn what_is_remembered_of_cancelled_statements_has_a_bound() {
        let statements = Statements::default();
        for id in 0..REMEMBERED as u64 + 1 {
            let running = statements.begin(id, None, 1, me());
            assert!(statements.cancel(id));
            drop(running);
        }
        assert!(!statements.was_cancelled(0));
        assert!(statements.was_cancelled(REMEMBERED as u64));
        assert_eq!(statements.shared.lock().cancelled.len(), REMEMBERED);
    }
}
