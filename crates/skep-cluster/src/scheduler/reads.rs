//! Who reads whom: which tasks of a producer each task of a consumer reads.

use std::sync::Arc;

/// Which producer tasks a consumer task reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadPattern {
    /// Something of every one: hash exchange, gather, broadcast. Always a safe choice.
    All,
    /// That with its own partition number only; both stages are equally wide.
    OneToOne,
    /// Those of its group, and each of them whole.
    Groups(Arc<TaskGroups>),
}

/// The tasks of a producer that each task of a consumer reads. They may be none, and a producer task
/// may have no reader: nobody wants it then.
#[derive(Debug, PartialEq, Eq)]
pub struct TaskGroups {
    /// By consumer task, ascending.
    reads: Vec<Vec<usize>>,
    /// By producer task, ascending; those after the last one have no reader.
    readers: Vec<Vec<usize>>,
}

/// Some tasks of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskSet<'a> {
    /// All of them.
    All,
    /// One.
    One(usize),
    /// These, ascending.
    These(&'a [usize]),
}

impl ReadPattern {
    /// Returns the pattern in which each consumer task reads what is listed for it.
    pub fn groups(reads: Vec<Vec<usize>>) -> Self {
        Self::Groups(Arc::new(TaskGroups::new(reads)))
    }

    /// Returns the producer tasks that a consumer task reads.
    pub fn reads(&self, consumer: usize) -> TaskSet<'_> {
        match self {
            Self::All => TaskSet::All,
            Self::OneToOne => TaskSet::One(consumer),
            Self::Groups(groups) => groups.reads.get(consumer).into(),
        }
    }

    /// Returns the consumer tasks that read a producer task.
    pub fn readers(&self, producer: usize) -> TaskSet<'_> {
        match self {
            Self::All => TaskSet::All,
            Self::OneToOne => TaskSet::One(producer),
            Self::Groups(groups) => groups.readers.get(producer).into(),
        }
    }
}

impl TaskGroups {
    fn new(mut reads: Vec<Vec<usize>>) -> Self {
        let mut readers: Vec<Vec<usize>> = Vec::new();
        for (consumer, producers) in reads.iter_mut().enumerate() {
            producers.sort_unstable();
            producers.dedup();
            if let Some(last) = producers.last() {
                readers.resize(readers.len().max(last + 1), Vec::new());
            }
            for producer in producers {
                readers[*producer].push(consumer);
            }
        }
        Self { reads, readers }
    }

    /// Returns how many consumer tasks there are.
    pub fn consumer_count(&self) -> usize {
        self.reads.len()
    }

    /// Returns the least number of tasks that the producer must have.
    pub fn producer_bound(&self) -> usize {
        self.readers.len()
    }
}

impl<'a> From<Option<&'a Vec<usize>>> for TaskSet<'a> {
    fn from(tasks: Option<&'a Vec<usize>>) -> Self {
        Self::These(tasks.map_or(&[], Vec::as_slice))
    }
}

impl<'a> TaskSet<'a> {
    /// Returns the tasks, ascending, of a stage that has so many.
    pub fn of(self, task_count: usize) -> impl DoubleEndedIterator<Item = usize> + 'a {
        let (range, listed): (_, &[usize]) = match self {
            Self::All => (0..task_count, &[]),
            Self::One(task) => (task..task + 1, &[]),
            Self::These(tasks) => (0..0, tasks),
        };
        range.chain(listed.iter().copied())
    }

    /// Whether a task is among them.
    pub fn contains(self, task: usize) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == task,
            Self::These(tasks) => tasks.binary_search(&task).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_know_their_readers() {
        let groups = ReadPattern::groups(vec![vec![4, 0, 4], vec![], vec![1, 4]]);
        let read = |consumer| groups.reads(consumer).of(9).collect::<Vec<_>>();
        assert_eq!([read(0), read(1), read(2), read(3)], [vec![0, 4], vec![], vec![1, 4], vec![]]);
        let readers = |producer| groups.readers(producer).of(9).collect::<Vec<_>>();
        assert_eq!([readers(0), readers(1), readers(2)], [vec![0], vec![2], vec![]]);
        assert_eq!([readers(4), readers(5)], [vec![0, 2], vec![]]);
        assert!(groups.reads(2).contains(4) && !groups.reads(1).contains(4));
    }

    #[test]
    fn the_other_patterns_are_sets_too() {
        let (all, one) = (ReadPattern::All, ReadPattern::OneToOne);
        assert_eq!(all.reads(1).of(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(one.readers(2).of(3).collect::<Vec<_>>(), [2]);
        assert!(
            all.readers(7).contains(1) && one.reads(1).contains(1) && !one.reads(1).contains(2)
        );
    }
}
