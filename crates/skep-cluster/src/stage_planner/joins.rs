//! Joins whose build side is collected once, and what that means when tasks run apart.
//!
//! Three kinds of operator collect their left input whole: `HashJoinExec` in mode `CollectLeft`,
//! `NestedLoopJoinExec`, `CrossJoinExec`. If the right input has one partition, one task runs the
//! join and nothing needs care. Otherwise the left input is broadcast, with two exceptions:
//!
//! - A join that gives out rows *of its build side* at the end (left, full, left semi, left anti,
//!   left mark) does so when the last of its probe partitions in this process is done. Spread over
//!   tasks, each would hold its own copy of the build side and give out rows that found a partner
//!   elsewhere. A hash join is run partitioned instead, with both sides exchanged by their keys. A
//!   nested loop join has no keys; one task runs it.
//! - A null-aware anti join (`NOT IN`) must know whether *any* probe row is NULL; one task runs it.
//!
//! A hash join also makes a filter out of its build side for the scan of its probe side, when all
//! its partitions have reported. Partitions that run elsewhere never report: the join would wait
//! for ever. The filter is taken off wherever a join has more than one partition. Filters of
//! `TopK` and of aggregates wait for nobody, hold what their own task has seen, and stay.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::error::Result;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

/// Tells whether a join gives out rows of its build side after all probe partitions are done.
pub(super) fn emits_build_rows(join_type: JoinType) -> bool {
    match join_type {
        JoinType::Left
        | JoinType::Full
        | JoinType::LeftSemi
        | JoinType::LeftAnti
        | JoinType::LeftMark => true,
        JoinType::Inner
        | JoinType::Right
        | JoinType::RightSemi
        | JoinType::RightAnti
        | JoinType::RightMark => false,
    }
}

/// Makes a join out of another in which each partition holds its own share of both sides.
///
/// # Errors
/// If the sides do not fit.
pub(super) fn partitioned(
    join: &HashJoinExec,
    left: Arc<dyn ExecutionPlan>,
    right: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    join.builder()
        .with_partition_mode(PartitionMode::Partitioned)
        .recompute_properties()
        .with_new_children(vec![left, right])?
        .reset_state()
        .build_exec()
}

/// Takes the filter off a hash join that would wait for partitions of other tasks.
///
/// # Errors
/// If DataFusion cannot make the join again.
pub(super) fn without_shared_filter(
    plan: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(join) = plan.downcast_ref::<HashJoinExec>() else { return Ok(plan) };
    let reporters = join.right().output_partitioning().partition_count();
    if reporters <= 1 || join.dynamic_expressions_produced().is_empty() {
        return Ok(plan);
    }
    // What `reset_state` drops: the table not yet built, figures not yet taken, the filter.
    join.builder().reset_state().build_exec()
}
