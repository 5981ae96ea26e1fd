//! Whose turn it is.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::state::Query;
use crate::ids::QueryId;

/// Returns the query that has the fewest running tasks for its weight, of those that have a task
/// ready and are not passed over; among equals the one that was served longest ago.
pub(super) fn next_query(
    queries: &BTreeMap<QueryId, Query>,
    passed_over: &BTreeSet<QueryId>,
) -> Option<QueryId> {
    let is_candidate = |query: &&Query| {
        query.admitted.is_some() && query.ready_count > 0 && !passed_over.contains(&query.id)
    };
    queries.values().filter(is_candidate).min_by(|a, b| compare(a, b)).map(|query| query.id)
}

/// Compares running / weight without dividing.
fn compare(a: &Query, b: &Query) -> Ordering {
    let load = |query: &Query, other: &Query| {
        query.running_count as u128 * u128::from(other.settings.weight.get())
    };
    load(a, b).cmp(&load(b, a)).then(a.served.cmp(&b.served)).then(a.id.cmp(&b.id))
}
