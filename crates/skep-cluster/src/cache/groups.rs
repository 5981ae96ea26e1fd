//! Which partitions of a cached table one task reads. Pure.
//!
//! A task for each partition would cost scheduling, decoding and reporting for each. So the partitions
//! of one worker are split into as many groups as it has slots, even in bytes; each group is read by
//! one task, where it lies. Partitions in which the query's filter finds nothing are in no group: what
//! is lost of them is not made for this query. Those that nobody keeps are alone, and made side by
//! side.

use std::collections::{BTreeMap, BTreeSet};

use super::directory::Kept;
use crate::membership::WorkerLife;

/// What one task reads at most, if there is more than one partition of it. Units: bytes as kept.
///
/// A core reads that much in about a quarter of a second. So long scans have tasks enough to go
/// elsewhere when a worker is busy, and the loss of one costs no more than that.
const GROUP_BYTES: u64 = 256 << 20;

/// Splits the partitions of a table into groups.
///
/// `kept` says where each partition is, `wanted` whether anything of it is asked for, `slots` how many
/// tasks each live worker runs at a time.
///
/// Shape: at least one group, which is empty if nothing is wanted; ordered by their first partitions,
/// each ascending.
pub fn groups(
    kept: &[Option<Kept>],
    wanted: &[bool],
    slots: &BTreeMap<WorkerLife, usize>,
) -> Vec<Vec<usize>> {
    let mut groups = Vec::new();
    let mut by_worker: BTreeMap<WorkerLife, Vec<(u64, usize)>> = BTreeMap::new();
    for (partition, kept) in kept.iter().enumerate() {
        if !wanted.get(partition).copied().unwrap_or(true) {
            continue;
        }
        match kept {
            Some(Kept { life, bytes }) if slots.contains_key(life) => {
                by_worker.entry(*life).or_default().push((*bytes, partition));
            }
            _ => groups.push(vec![partition]),
        }
    }
    for (life, parts) in by_worker {
        groups.extend(split(parts, slots.get(&life).copied().unwrap_or(1)));
    }
    groups.sort_unstable();
    if groups.is_empty() {
        groups.push(Vec::new());
    }
    groups
}

/// Splits what one worker keeps: the largest first, each into the lightest group.
fn split(mut parts: Vec<(u64, usize)>, slots: usize) -> Vec<Vec<usize>> {
    let slots = slots.max(1);
    let bytes: u64 = parts.iter().map(|(bytes, _)| bytes).sum();
    let rounds = bytes.div_ceil(GROUP_BYTES.saturating_mul(slots as u64)).max(1);
    let rounds = usize::try_from(rounds).unwrap_or(usize::MAX);
    let count = slots.saturating_mul(rounds).min(parts.len());
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); count];
    let mut lightest: BTreeSet<(u64, usize, usize)> = (0..count).map(|idx| (0, 0, idx)).collect();
    parts.sort_unstable_by_key(|(bytes, partition)| (std::cmp::Reverse(*bytes), *partition));
    for (more, partition) in parts {
        let Some((bytes, members, idx)) = lightest.pop_first() else { break };
        groups[idx].push(partition);
        lightest.insert((bytes + more, members + 1, idx));
    }
    for group in &mut groups {
        group.sort_unstable();
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, WorkerId};

    const MB: u64 = 1 << 20;

    fn life(worker: u64) -> WorkerLife {
        WorkerLife { worker: WorkerId(worker), incarnation: Incarnation(1) }
    }

    fn at(worker: u64, bytes: u64) -> Option<Kept> {
        Some(Kept { life: life(worker), bytes })
    }

    fn workers(slots: &[usize]) -> BTreeMap<WorkerLife, usize> {
        slots.iter().enumerate().map(|(idx, slots)| (life(idx as u64 + 1), *slots)).collect()
    }

    #[test]
    fn each_slot_reads_what_its_worker_keeps() {
        let kept: Vec<_> = (0..20).map(|partition| at(partition % 4 + 1, MB)).collect();
        let groups_of = |slots: &[usize]| groups(&kept, &[true; 20], &workers(slots));
        let four = groups_of(&[1, 1, 1, 1]);
        assert_eq!(four.len(), 4);
        assert_eq!(four[1], [1, 5, 9, 13, 17]);
        let eight = groups_of(&[2, 2, 2, 2]);
        assert_eq!(eight.len(), 8);
        assert!(eight.iter().all(|group| (2..=3).contains(&group.len())), "{eight:?}");
        assert!(eight.iter().all(|group| group.iter().all(|it| it % 4 == group[0] % 4)));
        // More slots than partitions: one for each.
        assert_eq!(groups_of(&[9, 9, 9, 9]), (0..20).map(|it| vec![it]).collect::<Vec<_>>());
    }

    #[test]
    fn groups_are_even_in_bytes_and_not_too_large() {
        let kept = [at(1, 60 * MB), at(1, 10 * MB), at(1, 20 * MB), at(1, 30 * MB), at(1, 0)];
        assert_eq!(groups(&kept, &[true; 5], &workers(&[2])), [vec![0, 4], vec![1, 2, 3]]);
        let nothing = [at(1, 0), at(1, 0), at(1, 0), at(1, 0)];
        assert_eq!(groups(&nothing, &[true; 4], &workers(&[2])), [vec![0, 2], vec![1, 3]]);
        let large: Vec<_> = (0..9).map(|_| at(1, 100 * MB)).collect();
        let split = groups(&large, &[true; 9], &workers(&[1]));
        assert_eq!(split.iter().map(Vec::len).collect::<Vec<_>>(), [3, 2, 2, 2]);
    }

    #[test]
    fn what_nobody_keeps_is_alone_and_what_nobody_wants_is_left_out() {
        let kept = [at(1, MB), None, at(1, MB), at(2, MB), None, at(9, MB)];
        let cluster = workers(&[1, 1]);
        let all = groups(&kept, &[true; 6], &cluster);
        // The last one is on a life that is over.
        assert_eq!(all, [vec![0, 2], vec![1], vec![3], vec![4], vec![5]]);
        let some = groups(&kept, &[true, false, true, false, true, false], &cluster);
        assert_eq!(some, [vec![0, 2], vec![4]]);
        assert_eq!(groups(&kept, &[false; 6], &cluster), [Vec::<usize>::new()]);
    }
}
