//! The stages of a query, as the scheduler sees them.

use std::ops::Range;
use std::sync::Arc;

use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use crate::cache::TableUse;
use crate::exchange::plan::{Exchange, ExchangePart, Output};
use crate::ids::StageId;

/// A query cut into stages.
///
/// Shape: stage `i` has the id `i`; producers come before their readers; the last stage gives the
/// result.
#[derive(Debug, Clone)]
pub struct StagePlan {
    /// The stages, leaves first.
    pub stages: Vec<Stage>,
    /// The cached tables that it reads; those that these are made from are theirs.
    pub tables: Vec<TableUse>,
}

impl StagePlan {
    /// Returns a stage of this plan.
    pub fn stage(&self, id: StageId) -> Option<&Stage> {
        self.stages.get(usize::try_from(id.0).ok()?)
    }
}

/// A plan between exchanges: task `p` runs its partition `p`.
#[derive(Debug, Clone)]
pub struct Stage {
    /// The stage, numbered from the leaves.
    pub id: StageId,
    /// What its tasks run.
    pub plan: Arc<dyn ExecutionPlan>,
    /// How many tasks it has: the partitions of its plan.
    pub task_count: usize,
    /// What it reads, one entry for each reading leaf of the plan.
    pub inputs: Vec<StageInput>,
    /// What becomes of its rows.
    pub output: Output,
    /// Who may run it.
    pub place: Place,
    /// Of a stage that makes a cached table, how messages call it.
    pub lineage_of: Option<Arc<str>>,
}

impl Stage {
    /// Returns all that a task reads of earlier stages.
    pub fn reads(&self, task: usize) -> Vec<ExchangePart> {
        self.inputs.iter().flat_map(|input| input.parts(task)).collect()
    }

    pub(crate) fn new(
        id: StageId,
        plan: Arc<dyn ExecutionPlan>,
        output: Output,
        place: Place,
    ) -> Self {
        let task_count = plan.output_partitioning().partition_count();
        let inputs = super::reads::inputs(&plan);
        Self { id, plan, task_count, inputs, output, place, lineage_of: None }
    }
}

/// Who may run a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Workers.
    Workers,
    /// Anybody, the coordinator too: it does no more than read exchanges.
    Anywhere,
    /// The coordinator alone.
    Coordinator {
        /// What keeps it there.
        why: String,
    },
}

/// How the tasks that read an exchange share its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// Each of them reads all partitions.
    All,
    /// The first of them reads partition 0, the next partition 1, and so on.
    OneToOne,
    /// The first of them reads these partitions, one after the other, the next those, and so on. Of
    /// a cached table alone.
    Groups(Arc<[Vec<usize>]>),
}

/// One reading leaf of a stage's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageInput {
    /// The stage that is read.
    pub producer: StageId,
    /// How many tasks that stage has.
    pub producer_tasks: usize,
    /// How its outputs make partitions.
    pub exchange: Exchange,
    /// How many partitions they make, be they read or not.
    pub partitions: usize,
    /// The tasks that read it; below a `UNION` that is not all of them.
    pub tasks: Range<usize>,
    /// Which partitions each of those reads.
    pub pattern: Pattern,
}

impl StageInput {
    /// Returns what a task reads of this input.
    pub fn parts(&self, task: usize) -> Vec<ExchangePart> {
        if !self.tasks.contains(&task) {
            return Vec::new();
        }
        let place = task - self.tasks.start;
        let alone = |range| std::iter::once(range).collect::<Vec<Range<usize>>>();
        let partitions = match &self.pattern {
            Pattern::All => alone(0..self.partitions),
            Pattern::OneToOne => alone(place..place + 1),
            Pattern::Groups(groups) => {
                let group = groups.get(place).into_iter().flatten();
                group.map(|partition| *partition..partition + 1).collect()
            }
        };
        let partitions = partitions.into_iter();
        let all = 0..self.producer_tasks;
        let (producer, is_for_all) = (self.producer, self.exchange == Exchange::Broadcast);
        let part = |tasks, output| ExchangePart { producer, tasks, output, is_for_all };
        match self.exchange {
            Exchange::Shuffle | Exchange::ShuffleMerge(_) => {
                partitions.flatten().map(|partition| part(all.clone(), partition)).collect()
            }
            Exchange::Gather | Exchange::Broadcast => vec![part(all, 0)],
            Exchange::Merge | Exchange::Forward => partitions.map(|range| part(range, 0)).collect(),
        }
    }
}
