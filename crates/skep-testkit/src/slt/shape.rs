//! The shapes of cluster on which every script is also run: answers may not depend on them.
//!
//! Named by workers, slots of each, and partitions of a query: `in-process/5x1x16`; `-spill` where
//! workers keep next to nothing in memory of what tasks make. Two are part of every run; all of them
//! run with `SLOW=1`.

use std::fmt;

/// A shape of cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// How many workers it has.
    pub worker_count: usize,
    /// How many tasks each runs at a time.
    pub slot_count: usize,
    /// Into how many partitions a query is cut.
    pub target_partitions: usize,
    /// Whether exchanges have to go to disk.
    pub spills: bool,
}

/// Bytes that a worker keeps in memory where exchanges are to spill: less than a batch has, so that
/// each output goes to disk when the next one is written.
const SPILLING_LIMIT: usize = 1;

impl Shape {
    /// The shapes of every run: many workers with many narrow tasks, and few that spill.
    pub const ORDINARY: [Self; 2] = [Self::new(5, 1, 16, false), Self::new(2, 4, 3, true)];

    const fn new(
        worker_count: usize,
        slot_count: usize,
        target_partitions: usize,
        spills: bool,
    ) -> Self {
        Self { worker_count, slot_count, target_partitions, spills }
    }

    /// Returns all shapes, those of every run first.
    pub fn all() -> Vec<Self> {
        let mut shapes = Self::ORDINARY.to_vec();
        for worker_count in [1, 2, 5] {
            for slot_count in [1, 4] {
                for target_partitions in [1, 3, 16] {
                    shapes.push(Self::new(worker_count, slot_count, target_partitions, false));
                }
            }
        }
        shapes.push(Self::new(5, 1, 16, true));
        let mut seen = std::collections::HashSet::new();
        shapes.retain(|shape| seen.insert(*shape));
        shapes
    }

    /// Returns how many bytes of partitions a worker keeps in memory, if that is limited.
    pub fn partition_memory_limit(self) -> Option<usize> {
        self.spills.then_some(SPILLING_LIMIT)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worker_count, slot_count, target_partitions, spills } = self;
        let end = if *spills { "-spill" } else { "" };
        write!(f, "{worker_count}x{slot_count}x{target_partitions}{end}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_there_once() {
        let names: Vec<_> = Shape::all().iter().map(Shape::to_string).collect();
        assert_eq!(names.len(), 20);
        assert_eq!(names[..3], ["5x1x16", "2x4x3-spill", "1x1x1"]);
        assert!(names.contains(&"2x4x16".to_owned()) && names.contains(&"5x1x16-spill".to_owned()));
    }
}
