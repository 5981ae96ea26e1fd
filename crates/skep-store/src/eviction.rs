//! Who gives memory or disk back first: pure decisions.
//!
//! A cached partition can be made again and its readers are in the future; exchange output will be
//! read soon by a query that runs now. So cached partitions go first, least recently used first,
//! until only the protected share is left; then exchange output, least recently used first.
//!
//! A content of a table that is being written drops no partition of its own: a table that does not fit
//! would otherwise drop each partition shortly before it is wanted, and nothing would ever be found.
//! What the table was before has to go like any other's.
//!
//! **Invariant:** exchange output is never dropped, and neither is what somebody reads.

use std::sync::Arc;

use crate::ids::Epoch;
use crate::key::StorageLevel;

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Exchange,
    Cached,
}

/// One content of a cached table.
pub(super) type ContentKey = (Arc<str>, Epoch);

/// What a decision needs to know about one partition.
#[derive(Debug, Clone)]
pub(super) struct Descriptor {
    pub(super) id: u64,
    pub(super) purpose: Purpose,
    /// The cached table, and the content of it, that it is of.
    pub(super) content: Option<ContentKey>,
    pub(super) level: StorageLevel,
    /// Whether its writer has finished; only then may it be dropped.
    pub(super) is_sealed: bool,
    /// Bytes in memory that are not on their way to disk.
    pub(super) memory_bytes: usize,
    pub(super) disk_bytes: u64,
    /// A tick of the store's own clock.
    pub(super) last_used: u64,
    pub(super) readers: usize,
}

/// What is done with one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Spill(u64),
    /// Not more than these bytes.
    SpillSome(u64, usize),
    Drop(u64),
}

/// Chooses whose memory to free, in order, until `needed` bytes are reached or nobody is left, on
/// behalf of `writing`, a content of a cached table, or of anybody else.
pub(super) fn free_memory(
    partitions: &[Descriptor],
    needed: usize,
    protected_cache_bytes: usize,
    writing: Option<&ContentKey>,
) -> Vec<Decision> {
    let is_open = |partition: &&Descriptor| match memory_decision(partition) {
        Some(Decision::Drop(_)) => writing.is_none() || partition.content.as_ref() != writing,
        Some(Decision::Spill(_) | Decision::SpillSome(_, _)) => true,
        None => false,
    };
    let mut order: Vec<&Descriptor> = partitions.iter().filter(is_open).collect();
    order.sort_by_key(|partition| (partition.purpose == Purpose::Exchange, partition.last_used));
    let mut cached_left: usize = partitions
        .iter()
        .filter(|partition| partition.purpose == Purpose::Cached)
        .map(|partition| partition.memory_bytes)
        .sum();
    let mut decisions = Vec::new();
    let mut freed = 0;
    for partition in order {
        if freed >= needed {
            break;
        }
        let Some(decision) = memory_decision(partition) else { continue };
        if partition.purpose == Purpose::Exchange {
            freed += partition.memory_bytes;
            decisions.push(decision);
            continue;
        }
        let spare = cached_left.saturating_sub(protected_cache_bytes);
        let (decision, bytes) = match decision {
            // A part of it may go.
            Decision::Spill(id) if partition.memory_bytes > spare => {
                (Decision::SpillSome(id, spare), spare)
            }
            decision => (decision, partition.memory_bytes),
        };
        // One that goes as a whole stays if the share would suffer; a smaller one may fit.
        if spare == 0 || bytes > spare {
            continue;
        }
        cached_left -= bytes;
        freed += bytes;
        decisions.push(decision);
    }
    decisions
}

fn memory_decision(partition: &Descriptor) -> Option<Decision> {
    if partition.memory_bytes == 0 {
        return None;
    }
    match (partition.purpose, partition.level) {
        (Purpose::Cached, StorageLevel::MemoryOnly) => can_drop(partition),
        _ => Some(Decision::Spill(partition.id)),
    }
}

fn can_drop(partition: &Descriptor) -> Option<Decision> {
    (partition.purpose == Purpose::Cached && partition.is_sealed && partition.readers == 0)
        .then_some(Decision::Drop(partition.id))
}

/// Chooses whose files to drop, in order, until `needed` bytes are reached or nobody is left.
pub(super) fn free_disk(partitions: &[Descriptor], needed: u64) -> Vec<Decision> {
    let mut order: Vec<&Descriptor> =
        partitions.iter().filter(|partition| partition.disk_bytes > 0).collect();
    order.sort_by_key(|partition| partition.last_used);
    let mut decisions = Vec::new();
    let mut freed = 0;
    for partition in order {
        if freed >= needed {
            break;
        }
        if let Some(decision) = can_drop(partition) {
            freed += partition.disk_bytes;
            decisions.push(decision);
        }
    }
    decisions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(id: u64, purpose: Purpose, memory_bytes: usize, last_used: u64) -> Descriptor {
        Descriptor {
            id,
            purpose,
            content: (purpose == Cached).then(|| (format!("t{id}").into(), Epoch(1))),
            level: StorageLevel::MemoryAndDisk,
            is_sealed: true,
            memory_bytes,
            disk_bytes: 0,
            last_used,
            readers: 0,
        }
    }

    use Decision::{Drop, Spill, SpillSome};
    use Purpose::{Cached, Exchange};

    #[test]
    fn least_recently_used_goes_first_and_no_more_than_needed() {
        let all = [
            partition(1, Exchange, 10, 5),
            partition(2, Exchange, 10, 3),
            partition(3, Exchange, 10, 4),
        ];
        assert_eq!(free_memory(&all, 11, 0, None), [Spill(2), Spill(3)]);
        assert_eq!(free_memory(&all, 10, 0, None), [Spill(2)]);
        assert_eq!(free_memory(&all, 0, 0, None), []);
        assert_eq!(free_memory(&all, 1000, 0, None).len(), 3);
    }

    #[test]
    fn cached_tables_yield_before_exchanges_down_to_their_share() {
        let all = [
            partition(1, Exchange, 10, 1),
            partition(2, Cached, 10, 9),
            partition(3, Cached, 10, 8),
        ];
        assert_eq!(free_memory(&all, 25, 0, None), [Spill(3), Spill(2), Spill(1)]);
        assert_eq!(free_memory(&all, 25, 10, None), [Spill(3), Spill(1)]);
        assert_eq!(free_memory(&all, 25, 20, None), [Spill(1)]);
    }

    #[test]
    fn a_share_is_left_to_the_byte_or_to_the_whole_partition() {
        let all = [partition(1, Cached, 10, 1), partition(2, Cached, 10, 2)];
        assert_eq!(free_memory(&all, 100, 5, None), [Spill(1), SpillSome(2, 5)]);
        assert_eq!(free_memory(&all, 100, 15, None), [SpillSome(1, 5)]);
        let only = all.map(|of| Descriptor { level: StorageLevel::MemoryOnly, ..of });
        assert_eq!(free_memory(&only, 100, 5, None), [Drop(1)]);
        assert_eq!(free_memory(&only, 100, 15, None), []);
    }

    #[test]
    fn memory_only_is_dropped_unless_read_or_unsealed() {
        let only =
            |id| Descriptor { level: StorageLevel::MemoryOnly, ..partition(id, Cached, 10, id) };
        let all = [
            Descriptor { readers: 1, ..only(1) },
            Descriptor { is_sealed: false, ..only(2) },
            only(3),
        ];
        assert_eq!(free_memory(&all, 100, 0, None), [Drop(3)]);
        assert_eq!(free_memory(&all, 100, 0, all[3 - 1].content.as_ref()), []);
        assert_eq!(free_memory(&all, 100, 0, all[0].content.as_ref()), [Drop(3)]);
        // The content that the table has from now on takes the place of the one that it had.
        let next = all[3 - 1].content.as_ref().map(|(table, _)| (Arc::clone(table), Epoch(2)));
        assert_eq!(free_memory(&all, 100, 0, next.as_ref()), [Drop(3)]);
    }

    #[test]
    fn disk_takes_back_cached_files_alone() {
        let on_disk =
            |id, purpose| Descriptor { disk_bytes: 10, ..partition(id, purpose, 0, 10 - id) };
        let all = [
            on_disk(1, Exchange),
            on_disk(2, Cached),
            on_disk(3, Cached),
            Descriptor { readers: 1, ..on_disk(4, Cached) },
        ];
        assert_eq!(free_disk(&all, 5), [Drop(3)]);
        assert_eq!(free_disk(&all, 500), [Drop(3), Drop(2)]);
        assert_eq!(free_memory(&all, 500, 0, None), []);
    }
}
