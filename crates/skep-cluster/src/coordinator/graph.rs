//! A query's stages as the scheduler sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use skep_engine::CachedShape;

use crate::error::{Error, Result};
use crate::exchange::plan::{Exchange, ExchangeReadExec, Output};
use crate::ids::StageId;
use crate::scheduler::{
    CachedStage, OutputKind, QueryGraph, ReadPattern, Replay, StageInput, StageNode, StagePlace,
};
use crate::stage_planner::{self, Pattern, Place, Remake, Stage, StagePlan};

/// Makes the graph of a query.
///
/// # Errors
/// If the planner made stages that cannot run: a defect.
pub fn query_graph(plan: &StagePlan) -> Result<QueryGraph> {
    let last = plan.stages.len().saturating_sub(1);
    let remakes = stage_planner::remakes(&plan.stages);
    let node = |(index, stage): (usize, &Stage)| StageNode {
        id: stage.id,
        task_count: stage.task_count,
        inputs: inputs(stage, plan),
        output: output_kind(&stage.output),
        place: place(stage, index == last),
        row_limit: row_limit(stage, plan),
        is_by_chance: remakes.get(index).is_none_or(|remake| *remake == Remake::Other),
        cached: cached(&stage.output),
    };
    let stages = plan.stages.iter().enumerate().map(node).collect();
    // Whoever reads the result passes on only what can be continued.
    QueryGraph::new(stages, Replay::Exact).map_err(|error| Error::internal(error.to_string()))
}

/// Returns where the tasks of a stage run.
pub fn place(stage: &Stage, is_result: bool) -> StagePlace {
    match &stage.place {
        // Who keeps it is who makes it.
        _ if matches!(stage.output, Output::Cached(_)) => StagePlace::Workers,
        Place::Coordinator { .. } => StagePlace::Coordinator,
        // The rows must come here in any case, and no more is done to them.
        Place::Anywhere if is_result && stage.task_count == 1 && only_collects(&stage.plan) => {
            StagePlace::Coordinator
        }
        Place::Anywhere | Place::Workers => StagePlace::Workers,
    }
}

fn only_collects(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let passes = plan.is::<ExchangeReadExec>()
        || plan.is::<CoalescePartitionsExec>()
        || plan.is::<SortPreservingMergeExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<GlobalLimitExec>()
        || plan.is::<LocalLimitExec>()
        || plan.is::<CooperativeExec>();
    passes && plan.children().into_iter().all(only_collects)
}

fn output_kind(output: &Output) -> OutputKind {
    match output {
        Output::Hash { .. } | Output::RoundRobin { .. } | Output::Range(_) => {
            OutputKind::Hashed { partition_count: output.partition_count() }
        }
        Output::Broadcast => OutputKind::Broadcast,
        Output::Gather | Output::Merge | Output::Forward | Output::Result { .. } => {
            OutputKind::Whole
        }
        Output::Cached(_) => OutputKind::Whole,
    }
}

fn cached(output: &Output) -> Option<CachedStage> {
    let Output::Cached(target) = output else { return None };
    let CachedShape { key, epoch, .. } = target.shape.as_ref();
    Some(CachedStage { table: Arc::clone(key), epoch: *epoch, parts: Vec::new() })
}

/// Returns one input for each producer; of several reads of one producer, what covers all.
fn inputs(stage: &Stage, plan: &StagePlan) -> Vec<StageInput> {
    let mut patterns = BTreeMap::<StageId, ReadPattern>::new();
    for input in &stage.inputs {
        let pattern = pattern(stage, input, plan);
        let covering = match patterns.remove(&input.producer) {
            Some(known) => covering(known, pattern, stage.task_count),
            None => pattern,
        };
        patterns.insert(input.producer, covering);
    }
    let input = |(producer, pattern)| StageInput { producer, pattern };
    patterns.into_iter().map(input).collect()
}

/// Returns the pattern in which each of so many tasks reads what it reads in either.
fn covering(one: ReadPattern, other: ReadPattern, task_count: usize) -> ReadPattern {
    match (one, other) {
        (one, other) if one == other => one,
        (ReadPattern::All, _) | (_, ReadPattern::All) => ReadPattern::All,
        (one, other) => {
            let both = |task| [&one, &other].map(|pattern| pattern.reads(task).of(0)).into_iter();
            ReadPattern::groups(
                (0..task_count).map(|task| both(task).flatten().collect()).collect(),
            )
        }
    }
}

fn pattern(stage: &Stage, input: &stage_planner::StageInput, plan: &StagePlan) -> ReadPattern {
    let reads_some = matches!(input.exchange, Exchange::Merge | Exchange::Forward)
        && input.pattern != Pattern::All;
    let producer_tasks = plan.stage(input.producer).map(|producer| producer.task_count);
    let is_aligned = input.tasks == (0..stage.task_count)
        && input.pattern == Pattern::OneToOne
        && producer_tasks == Some(stage.task_count);
    match reads_some {
        true if is_aligned => ReadPattern::OneToOne,
        true => {
            let producers = |task| input.parts(task).into_iter().flat_map(|part| part.tasks);
            let reads = (0..stage.task_count).map(|task| producers(task).collect());
            ReadPattern::groups(reads.collect())
        }
        false => ReadPattern::All,
    }
}

/// Returns how many rows of all tasks together the readers of a stage want, if any will do: where a
/// limit stands right above the gather.
fn row_limit(stage: &Stage, plan: &StagePlan) -> Option<u64> {
    if !matches!(stage.output, Output::Gather) {
        return None;
    }
    let mut wanted = Some(0);
    let mut readers = 0;
    for reader in &plan.stages {
        let root = reader.plan.downcast_ref::<ExchangeReadExec>();
        if root.is_some_and(|read| read.producer() == stage.id) {
            return None;
        }
        let walked = reader.plan.apply(|node| {
            let limit = node.downcast_ref::<GlobalLimitExec>();
            for child in node.children() {
                let Some(read) = child.downcast_ref::<ExchangeReadExec>() else { continue };
                if read.producer() != stage.id {
                    continue;
                }
                readers += 1;
                let rows = limit.and_then(|limit| Some(limit.skip() + limit.fetch()?));
                wanted = wanted.zip(rows).map(|(known, rows)| known.max(rows));
            }
            Ok(TreeNodeRecursion::Continue)
        });
        // The closure does not fail.
        walked.ok()?;
    }
    wanted.filter(|_| readers > 0).map(|rows| rows as u64)
}
