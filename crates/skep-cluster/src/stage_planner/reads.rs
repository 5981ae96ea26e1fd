//! Finds what the tasks of a stage read: a walk that knows which partitions of a child an operator
//! pulls when one of its own is run.
//!
//! `UNION ALL` numbers the partitions of its children one after the other, so a task below it
//! reads its own child's exchange at an offset, and no other.

use std::ops::Range;
use std::sync::Arc;

use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode,
};
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use skep_engine::CacheScanExec;

use super::stage::{Pattern, StageInput};
use crate::exchange::plan::{Exchange, ExchangeReadExec};
use crate::ids::StageId;

/// Returns an entry for each reading leaf of a stage's plan, in the plan's order.
pub fn inputs(plan: &Arc<dyn ExecutionPlan>) -> Vec<StageInput> {
    let mut found = Vec::new();
    let tasks = 0..plan.output_partitioning().partition_count();
    walk(plan, tasks, false, &mut found);
    found
}

/// Tells whether every partition of `plan` reads all of its child at `child_idx`.
pub(super) fn is_read_whole(plan: &dyn ExecutionPlan, child_idx: usize) -> bool {
    if plan.is::<ScalarSubqueryExec>() {
        return child_idx > 0;
    }
    let is_build_side = child_idx == 0;
    is_build_side
        && (plan.is::<NestedLoopJoinExec>()
            || plan.is::<CrossJoinExec>()
            || plan
                .downcast_ref::<HashJoinExec>()
                .is_some_and(|join| *join.partition_mode() == PartitionMode::CollectLeft))
}

fn walk(
    plan: &Arc<dyn ExecutionPlan>,
    tasks: Range<usize>,
    reads_all: bool,
    found: &mut Vec<StageInput>,
) {
    if let Some(read) = plan.downcast_ref::<ExchangeReadExec>() {
        found.push(StageInput {
            producer: read.producer(),
            producer_tasks: read.producer_tasks(),
            exchange: read.exchange().clone(),
            partitions: read.properties().output_partitioning().partition_count(),
            tasks,
            pattern: if reads_all { Pattern::All } else { Pattern::OneToOne },
        });
        return;
    }
    if let Some(scan) = plan.downcast_ref::<CacheScanExec>()
        && let Some(producer) = scan.producer()
    {
        let partitions = scan.shape().partition_count;
        let pattern = match (scan.groups(), reads_all) {
            (Some(groups), false) => Pattern::Groups(groups.all().into()),
            (Some(groups), true) => {
                let all: Vec<usize> = groups.all().iter().flatten().copied().collect();
                Pattern::Groups(vec![all; tasks.len()].into())
            }
            (None, false) => Pattern::OneToOne,
            (None, true) => Pattern::All,
        };
        found.push(StageInput {
            producer: StageId(producer),
            producer_tasks: partitions,
            exchange: Exchange::Forward,
            partitions,
            tasks,
            pattern,
        });
        return;
    }
    let partition_count = plan.output_partitioning().partition_count();
    let mut offset = tasks.start;
    for (child_idx, child) in plan.children().into_iter().enumerate() {
        let child_count = child.output_partitioning().partition_count();
        if !reads_all && plan.is::<UnionExec>() {
            walk(child, offset..offset + child_count, false, found);
            offset += child_count;
        } else {
            let is_whole =
                is_read_whole(plan.as_ref(), child_idx) || child_count != partition_count;
            walk(child, tasks.clone(), reads_all || is_whole, found);
        }
    }
}
