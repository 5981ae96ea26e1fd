//! What the stage planner hands over: stages, who reads whom, and how.

use std::sync::Arc;

use super::event::Site;
use super::reads::ReadPattern;
use crate::ids::{Epoch, StageId, WorkerId};
use crate::store::PartitionKey;

/// The stages of one query, producers before their consumers; the last one makes the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryGraph {
    stages: Vec<StageNode>,
    replay: Replay,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageNode {
    /// Its number, which is its place in the graph.
    pub id: StageId,
    /// How many partitions its plan has, at least one; each is a task.
    pub task_count: usize,
    /// What it reads; empty for a leaf.
    pub inputs: Vec<StageInput>,
    /// What one of its tasks leaves behind.
    pub output: OutputKind,
    /// Where its tasks may run.
    pub place: StagePlace,
    /// If any rows of the stage will do (an unordered LIMIT above a gather), how many its readers
    /// want of all tasks together: once sealed tasks have that many, the others are not run.
    pub row_limit: Option<u64>,
    /// Whether a task of it that runs again, on equal inputs, may give other rows: it rolls dice, or
    /// picks by the order in which rows happen to come. What was made of its first rows is taken
    /// back when it is made again.
    pub is_by_chance: bool,
    /// If its tasks' outputs are the partitions of a cached table: what is kept of them already.
    pub cached: Option<CachedStage>,
}

/// A stage that makes the partitions of a cached table, each as far as nobody keeps it.
///
/// What a task of it leaves behind outlives the query, and is not released by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedStage {
    /// How stores call the table.
    pub table: Arc<str>,
    /// Which content of it.
    pub epoch: Epoch,
    /// By task: what is known of its partition. Empty stands for nothing.
    pub parts: Vec<CachedPart>,
}

/// One partition of a cached table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CachedPart {
    /// Who keeps it, the last one first to be read.
    pub copies: Vec<CachedCopy>,
    /// Where it is to be made, if it must be.
    pub wish: Option<Site>,
    /// Where it is rather not to be made.
    pub avoid: Vec<WorkerId>,
}

/// A copy of a partition of a cached table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachedCopy {
    /// Who keeps it.
    pub site: Site,
    /// Its rows.
    pub rows: u64,
    /// Its bytes, as they are kept.
    pub bytes: u64,
}

impl CachedStage {
    /// Returns the name that stores have for a partition.
    pub fn key(&self, partition: usize) -> PartitionKey {
        PartitionKey::Cached { table: Arc::clone(&self.table), epoch: self.epoch, partition }
    }
}

/// One edge of the graph, on its consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageInput {
    /// The stage read from.
    pub producer: StageId,
    /// Which of its tasks a consumer task reads.
    pub pattern: ReadPattern,
}

/// What a task of a stage leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// Rows by hash: consumer partition p reads output partition p of every producer task.
    Hashed {
        /// How many output partitions each task writes.
        partition_count: usize,
    },
    /// One output partition: a gather, one-to-one, or the result.
    Whole,
    /// One output partition that every consumer task reads whole.
    Broadcast,
}

/// Where a stage's tasks may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StagePlace {
    /// On workers.
    Workers,
    /// On the coordinator only: its plan cannot travel.
    Coordinator,
}

/// Whether a result that the client has begun to read can be made again and continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// Every result partition has the same rows in the same order whenever it is made: the reader
    /// goes on from the row where it was.
    Exact,
    /// It has not; after the first delivered batch nothing that was sealed may be made again, and a
    /// query that would need it fails.
    Never,
}

/// What is wrong with a graph. A defect of the planner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// There is no stage.
    #[error("query without a stage")]
    Empty,
    /// A stage's number is not its place.
    #[error("stage {id} at place {index}")]
    Misplaced {
        /// The stage.
        id: StageId,
        /// Where it stands.
        index: usize,
    },
    /// A stage has no task.
    #[error("stage {id} without a task")]
    NoTask {
        /// The stage.
        id: StageId,
    },
    /// A stage reads one that does not come before it.
    #[error("stage {id} reads {producer}, which does not come before it")]
    Backward {
        /// The consumer.
        id: StageId,
        /// What it reads.
        producer: StageId,
    },
    /// A one-to-one input, or a hash exchange, of a different width.
    #[error("stage {id} reads {producer} one to one and is not as wide")]
    Width {
        /// The consumer.
        id: StageId,
        /// What it reads.
        producer: StageId,
    },
    /// The groups of a consumer do not fit its tasks, or the producer's.
    #[error("stage {id} reads groups of {producer} that do not fit")]
    Groups {
        /// The consumer.
        id: StageId,
        /// What it reads.
        producer: StageId,
    },
    /// A stage that nobody reads is not the last.
    #[error("stage {id} is read by none")]
    Unread {
        /// The stage.
        id: StageId,
    },
}

impl QueryGraph {
    /// Creates a graph, checking that it can be run.
    ///
    /// # Errors
    /// The first [`GraphError`] found.
    pub fn new(stages: Vec<StageNode>, replay: Replay) -> Result<Self, GraphError> {
        let mut read = vec![false; stages.len()];
        for (index, stage) in stages.iter().enumerate() {
            let id = stage.id;
            if id.0 as usize != index {
                return Err(GraphError::Misplaced { id, index });
            }
            if stage.task_count == 0 {
                return Err(GraphError::NoTask { id });
            }
            for StageInput { producer, pattern } in &stage.inputs {
                let (before, producer) = (&stages[..index], *producer);
                let Some(node) = before.get(producer.0 as usize) else {
                    return Err(GraphError::Backward { id, producer });
                };
                match pattern {
                    ReadPattern::OneToOne if node.task_count != stage.task_count => {
                        return Err(GraphError::Width { id, producer });
                    }
                    ReadPattern::Groups(groups)
                        if groups.consumer_count() != stage.task_count
                            || groups.producer_bound() > node.task_count =>
                    {
                        return Err(GraphError::Groups { id, producer });
                    }
                    ReadPattern::All | ReadPattern::OneToOne | ReadPattern::Groups(_) => {}
                }
                read[producer.0 as usize] = true;
            }
        }
        read.pop().ok_or(GraphError::Empty)?;
        match read.iter().position(|read| !read) {
            Some(index) => Err(GraphError::Unread { id: stages[index].id }),
            None => Ok(Self { stages, replay }),
        }
    }

    /// Returns the stages, producers first, the result stage last.
    pub fn stages(&self) -> &[StageNode] {
        &self.stages
    }

    /// Returns the stages that make cached tables.
    pub fn cached_stages(&mut self) -> impl Iterator<Item = &mut CachedStage> {
        self.stages.iter_mut().filter_map(|stage| stage.cached.as_mut())
    }

    /// Returns whether a begun result can be continued.
    pub fn replay(&self) -> Replay {
        self.replay
    }
}

impl StageNode {
    /// Returns how many output partitions one task writes.
    pub fn output_count(&self) -> usize {
        match self.output {
            OutputKind::Hashed { partition_count } => partition_count,
            OutputKind::Whole | OutputKind::Broadcast => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u32, task_count: usize, inputs: &[(u32, ReadPattern)]) -> StageNode {
        let input = |(producer, pattern): &(u32, ReadPattern)| StageInput {
            producer: StageId(*producer),
            pattern: pattern.clone(),
        };
        StageNode {
            id: StageId(id),
            task_count,
            inputs: inputs.iter().map(input).collect(),
            output: OutputKind::Whole,
            place: StagePlace::Workers,
            row_limit: None,
            is_by_chance: false,
            cached: None,
        }
    }

    fn check(stages: Vec<StageNode>) -> Option<String> {
        QueryGraph::new(stages, Replay::Exact).err().map(|error| error.to_string())
    }

    #[test]
    fn a_graph_that_cannot_run_is_refused() {
        use ReadPattern::{All, OneToOne};
        assert_eq!(check(vec![node(0, 2, &[]), node(1, 1, &[(0, All)])]), None);
        assert_eq!(check(vec![]).unwrap(), "query without a stage");
        assert_eq!(check(vec![node(1, 1, &[])]).unwrap(), "stage s1 at place 0");
        assert_eq!(check(vec![node(0, 0, &[])]).unwrap(), "stage s0 without a task");
        let loops = vec![node(0, 1, &[(0, All)])];
        assert_eq!(check(loops).unwrap(), "stage s0 reads s0, which does not come before it");
        let uneven = vec![node(0, 2, &[]), node(1, 3, &[(0, OneToOne)])];
        assert_eq!(check(uneven).unwrap(), "stage s1 reads s0 one to one and is not as wide");
        let grouped =
            |groups| vec![node(0, 2, &[]), node(1, 2, &[(0, ReadPattern::groups(groups))])];
        assert_eq!(check(grouped(vec![vec![1], vec![]])), None);
        let unfit = "stage s1 reads groups of s0 that do not fit";
        assert_eq!(check(grouped(vec![vec![1]])).unwrap(), unfit);
        assert_eq!(check(grouped(vec![vec![1], vec![2]])).unwrap(), unfit);
        assert_eq!(
            check(vec![node(0, 1, &[]), node(1, 1, &[])]).unwrap(),
            "stage s0 is read by none"
        );
    }
}
