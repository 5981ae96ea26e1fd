//! Which partitions of a cached table each partition of a scan reads.
//!
//! Whoever runs a scan may have one task read several partitions, one after the other, and none read
//! those in which the filter finds nothing.
//!
//! **Invariant:** a partition of the table is in one group at most: its rows come once.

use std::sync::Arc;

use datafusion::common::plan_err;
use datafusion::error::Result;

/// The partitions that each partition of a scan reads, in this order.
///
/// Shape: at least one group, which may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanGroups(Arc<[Vec<usize>]>);

impl ScanGroups {
    /// Makes the groups of a scan of a table with so many partitions.
    ///
    /// # Errors
    /// If there is no group, or one has a partition that the table has not got, or another has, too.
    pub fn try_new(groups: Vec<Vec<usize>>, partition_count: usize) -> Result<Self> {
        if groups.is_empty() {
            return plan_err!("a scan of a cached table without a group of partitions");
        }
        let mut is_known = vec![false; partition_count];
        for partition in groups.iter().flatten() {
            match is_known.get_mut(*partition) {
                Some(is_known) if !*is_known => *is_known = true,
                Some(_) => return plan_err!("partition {partition} of a cached table twice"),
                None => {
                    return plan_err!(
                        "partition {partition} of a cached table with {partition_count}"
                    );
                }
            }
        }
        Ok(Self(groups.into()))
    }

    /// Returns the partitions of each group.
    pub fn all(&self) -> &[Vec<usize>] {
        &self.0
    }

    /// Returns how many partitions are read.
    pub fn partition_count(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Whether group `i` has partition `i` or none, for all of the table: numbers keep their meaning.
    pub(super) fn keeps_numbers(&self, partition_count: usize) -> bool {
        let keeps = |(idx, group): (usize, &Vec<usize>)| group.iter().all(|known| *known == idx);
        self.0.len() == partition_count && self.0.iter().enumerate().all(keeps)
    }

    /// Whether each partition is read, by its own number.
    pub(super) fn is_one_to_one(&self, partition_count: usize) -> bool {
        self.keeps_numbers(partition_count) && self.partition_count() == partition_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(groups: Vec<Vec<usize>>) -> String {
        ScanGroups::try_new(groups, 3).unwrap_err().strip_backtrace()
    }

    #[test]
    fn groups_that_would_lose_or_double_rows_are_refused() {
        let missing = "Error during planning: partition 3 of a cached table with 3";
        assert_eq!(error(vec![vec![0], vec![3]]), missing);
        let twice = "Error during planning: partition 1 of a cached table twice";
        assert_eq!(error(vec![vec![1, 0, 1]]), twice);
        assert_eq!(error(vec![vec![1], vec![0, 1]]), twice);
        assert!(error(vec![]).ends_with("without a group of partitions"));
        assert_eq!(ScanGroups::try_new(vec![vec![]], 3).unwrap().partition_count(), 0);
    }

    #[test]
    fn numbers_are_kept_by_groups_of_one_in_their_place() {
        let groups = |groups| ScanGroups::try_new(groups, 3).unwrap();
        let all = groups(vec![vec![0], vec![1], vec![2]]);
        assert!(all.keeps_numbers(3) && all.is_one_to_one(3));
        let some = groups(vec![vec![0], vec![], vec![2]]);
        assert!(some.keeps_numbers(3) && !some.is_one_to_one(3));
        assert!(!groups(vec![vec![0], vec![2], vec![1]]).keeps_numbers(3));
        assert!(!groups(vec![vec![0], vec![1]]).keeps_numbers(3));
    }
}
