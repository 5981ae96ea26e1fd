//! Whose queries are whose.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use skep_engine::Principal;

use super::system_tables::Views;
use crate::ids::QueryId;

/// The users of running and remembered queries.
///
/// **Invariant:** a query whose user is not known is shown to admins alone.
#[derive(Debug)]
pub(crate) struct Owners {
    bound: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    users: HashMap<QueryId, Arc<str>>,
    /// Oldest first.
    order: VecDeque<QueryId>,
}

impl Owners {
    /// Makes a memory for so many queries; the oldest are forgotten first.
    pub(crate) fn new(bound: usize) -> Self {
        Self { bound: bound.max(1), state: Mutex::default() }
    }

    /// Notes whose a query is.
    pub(crate) fn note(&self, query: QueryId, user: &Arc<str>) {
        let mut state = self.state.lock();
        if state.users.insert(query, Arc::clone(user)).is_none() {
            state.order.push_back(query);
        }
        while state.order.len() > self.bound {
            if let Some(oldest) = state.order.pop_front() {
                state.users.remove(&oldest);
            }
        }
    }

    /// Leaves of the views what this user may see, and says whose it is.
    pub(crate) fn show(&self, views: &mut Views, viewer: &Principal) {
        let state = self.state.lock();
        let sees = |query: &QueryId| match state.users.get(query) {
            Some(user) => viewer.sees(user),
            None => viewer.role == skep_engine::Role::Admin,
        };
        views.queries.retain(|(view, _)| sees(&view.query));
        views.stages.retain(|view| sees(&view.query));
        views.tasks.retain(|view| sees(&view.task.query));
        let known = views.queries.iter().filter_map(|(view, _)| {
            state.users.get_key_value(&view.query).map(|(query, user)| (*query, Arc::clone(user)))
        });
        views.users = known.collect();
    }
}

#[cfg(test)]
mod tests {
    use skep_engine::Role;

    use super::*;

    #[test]
    fn the_oldest_is_forgotten_and_then_nobodys() {
        let owners = Owners::new(2);
        let ann: Arc<str> = "ann".into();
        for id in 1..=3 {
            owners.note(QueryId(id), &ann);
        }
        let state = owners.state.lock();
        assert!(!state.users.contains_key(&QueryId(1)));
        assert_eq!(state.users.len(), 2);
        assert!(Principal::new("ann", Role::Reader).sees(&state.users[&QueryId(3)]));
    }
}
