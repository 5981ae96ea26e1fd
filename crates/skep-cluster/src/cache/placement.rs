//! Where the partitions of a cached table are made. Pure.
//!
//! A partition goes where it is known to belong; else to the worker that has the fewest partitions
//! of the table, and of those to the one that keeps the least. Tables that are clustered into equally
//! many partitions share what is known, so that partition `p` of each lies on the same worker.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::WorkerId;

/// Finds a worker for each partition.
///
/// `known` says where partitions belong, `avoided` where each must not go if there is another worker,
/// `load` what each worker keeps already.
///
/// Shape: an entry for each partition; `None` if there is no worker.
pub fn place(
    live: &BTreeSet<WorkerId>,
    known: &[Option<WorkerId>],
    avoided: &[Vec<WorkerId>],
    load: &BTreeMap<WorkerId, u64>,
) -> Vec<Option<WorkerId>> {
    let mut counts: BTreeMap<WorkerId, usize> = live.iter().map(|worker| (*worker, 0)).collect();
    let nobody = Vec::new();
    let avoided_of = |partition: usize| avoided.get(partition).unwrap_or(&nobody);
    let mut placed: Vec<Option<WorkerId>> = known
        .iter()
        .enumerate()
        .map(|(partition, known)| {
            known.filter(|it| live.contains(it) && !avoided_of(partition).contains(it))
        })
        .collect();
    for worker in placed.iter().flatten() {
        *counts.entry(*worker).or_default() += 1;
    }
    for (partition, place) in placed.iter_mut().enumerate() {
        if place.is_some() {
            continue;
        }
        let avoided = avoided_of(partition);
        let best = counts.iter().min_by_key(|(worker, count)| {
            let kept = load.get(worker).copied().unwrap_or(0);
            (avoided.contains(worker), **count, kept, **worker)
        });
        let Some(worker) = best.map(|(worker, _)| *worker) else { break };
        *counts.entry(worker).or_default() += 1;
        *place = Some(worker);
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(ids: impl IntoIterator<Item = u64>) -> BTreeSet<WorkerId> {
        ids.into_iter().map(WorkerId).collect()
    }

    fn placed(
        live: &BTreeSet<WorkerId>,
        known: &[Option<WorkerId>],
        avoided: &[Vec<WorkerId>],
    ) -> Vec<u64> {
        let placed = place(live, known, avoided, &BTreeMap::new());
        placed.into_iter().map(|worker| worker.unwrap().0).collect()
    }

    #[test]
    fn partitions_are_spread_evenly_and_the_emptier_worker_gets_what_is_over() {
        let live = workers(1..=4);
        assert_eq!(placed(&live, &[None; 8], &[]), [1, 2, 3, 4, 1, 2, 3, 4]);
        let load = BTreeMap::from([(WorkerId(1), 100), (WorkerId(2), 50)]);
        let five = place(&live, &[None; 5], &[], &load);
        assert_eq!(five.iter().filter(|worker| **worker == Some(WorkerId(3))).count(), 2);
        assert!(place(&workers([]), &[None; 2], &[], &load).iter().all(Option::is_none));
    }

    #[test]
    fn what_is_known_stays_and_a_lost_workers_share_goes_to_the_others_alike() {
        let first = place(&workers(1..=4), &[None; 8], &[], &BTreeMap::new());
        let second = place(&workers([1, 3, 4]), &first, &[], &BTreeMap::new());
        for (before, after) in first.iter().zip(&second) {
            assert!(*before == Some(WorkerId(2)) || before == after, "{first:?} {second:?}");
        }
        assert_ne!(second[1], second[5]);
        // A newcomer gets a share of what has no place.
        assert_eq!(placed(&workers([1, 9]), &[Some(WorkerId(1)), None], &[]), [1, 9]);
    }

    #[test]
    fn a_second_copy_lies_elsewhere_unless_there_is_one_worker() {
        let first = place(&workers(1..=3), &[None; 6], &[], &BTreeMap::new());
        let avoided: Vec<Vec<WorkerId>> =
            first.iter().map(|it| it.iter().copied().collect()).collect();
        let second = place(&workers(1..=3), &[None; 6], &avoided, &BTreeMap::new());
        for (first, second) in first.iter().zip(&second) {
            assert!(first != second);
        }
        assert_eq!(placed(&workers([1]), &[None], &[vec![WorkerId(1)]]), [1]);
    }
}
