//! Makes the plan of one task out of the plan of its stage, so that filters that a join finds can
//! be used again, by this task alone.
//!
//! The planner takes a collected join's filter off, because it would wait for tasks that run
//! elsewhere ([`joins`](super::joins)). A task that probes a broadcast needs to wait for nobody: it
//! holds the whole build side and scans its own partition. So the task's plan is *narrowed*: every
//! such join gets [`OnePartitionExec`] around its probe side and has one partition; then
//! DataFusion's own rule puts the filters back.
//!
//! Optional: `plan.execute(partition)` gives the same rows.
//!
//! **Invariant:** the narrowed plan's partition 0 is the stage plan's partition `p`.

use std::fmt;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    PlanProperties, ReplaceChildrenOptions,
};

use super::joins::without_shared_filter;

/// What a task runs: `plan.execute(partition)`.
#[derive(Debug, Clone)]
pub struct TaskPlan {
    /// The plan, for this task alone.
    pub plan: Arc<dyn ExecutionPlan>,
    /// The partition of it that is the task's.
    pub partition: usize,
}

impl TaskPlan {
    /// Makes the plan of task `task` of a stage.
    ///
    /// The stage's plan must be an instance of the task's own, as when it was decoded for it.
    ///
    /// # Errors
    /// If DataFusion refuses the narrowed plan.
    pub fn new(
        stage: &Arc<dyn ExecutionPlan>,
        task: usize,
        config: &ConfigOptions,
    ) -> Result<Self> {
        if !config.optimizer.enable_join_dynamic_filter_pushdown || !has_spread_join(stage) {
            return Ok(Self { plan: Arc::clone(stage), partition: task });
        }
        let plan = narrowed(stage, task)?;
        let plan = FilterPushdown::new_post_optimization().optimize(plan, config)?;
        // The rule also gives filters to joins below, whose other partitions run elsewhere.
        let plan = plan.transform_up(|node| {
            let bare = without_shared_filter(Arc::clone(&node))?;
            let is_same = Arc::ptr_eq(&bare, &node);
            Ok(if is_same { Transformed::no(node) } else { Transformed::yes(bare) })
        });
        let plan = plan.data()?;
        Ok(Self { plan, partition: 0 })
    }
}

/// Tells whether a join that lost its filter stands where narrowing reaches it.
fn has_spread_join(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if plan.output_partitioning().partition_count() <= 1 {
        return false;
    }
    is_collected(plan)
        || plan.is::<UnionExec>() && plan.children().into_iter().any(has_spread_join)
        || passes(plan) && has_spread_join(plan.children()[0])
}

fn is_collected(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.downcast_ref::<HashJoinExec>()
        .is_some_and(|join| *join.partition_mode() == PartitionMode::CollectLeft)
}

/// Tells whether partition `p` of a node is made of partition `p` of its first child alone, and
/// the node is the same over one partition.
fn passes(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<FilterExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<AggregateExec>()
        || plan.is::<SortExec>()
        || plan.is::<LocalLimitExec>()
        || plan.is::<CooperativeExec>()
        || plan.is::<ScalarSubqueryExec>()
}

fn narrowed(plan: &Arc<dyn ExecutionPlan>, partition: usize) -> Result<Arc<dyn ExecutionPlan>> {
    if plan.output_partitioning().partition_count() <= 1 {
        return Ok(Arc::clone(plan));
    }
    if plan.is::<UnionExec>() {
        let mut local = partition;
        for child in plan.children() {
            let count = child.output_partitioning().partition_count();
            if local < count {
                let child = narrowed(child, local)?;
                return match child.schema() == plan.schema() {
                    true => Ok(child),
                    false => Ok(OnePartitionExec::over(Arc::clone(plan), partition)),
                };
            }
            local -= count;
        }
        return internal_err!("partition {partition} of a union");
    }
    let mut children: Vec<_> = plan.children().into_iter().cloned().collect();
    let idx = match (is_collected(plan), passes(plan)) {
        (true, _) => 1,
        (_, true) => 0,
        _ => return Ok(OnePartitionExec::over(Arc::clone(plan), partition)),
    };
    children[idx] = narrowed(&children[idx], partition)?;
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Arc::clone(plan).replace_children(children, options)
}

/// One partition of its input, as its only one.
#[derive(Debug, Clone)]
pub struct OnePartitionExec {
    input: Arc<dyn ExecutionPlan>,
    partition: usize,
    properties: Arc<PlanProperties>,
}

impl OnePartitionExec {
    fn over(input: Arc<dyn ExecutionPlan>, partition: usize) -> Arc<dyn ExecutionPlan> {
        let mut properties = input.properties().as_ref().clone();
        properties = properties.with_partitioning(Partitioning::UnknownPartitioning(1));
        Arc::new(Self { input, partition, properties: Arc::new(properties) })
    }
}

impl DisplayAs for OnePartitionExec {
    fn fmt_as(&self, _kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnePartitionExec: partition={}", self.partition)
    }
}

impl ExecutionPlan for OnePartitionExec {
    fn name(&self) -> &'static str {
        "OnePartitionExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return internal_err!("OnePartitionExec has one child");
        };
        Ok(Self::over(input, self.partition))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("OnePartitionExec has one partition");
        }
        self.input.execute(self.partition, context)
    }

    fn gather_filters_for_pushdown(
        &self,
        _phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(parent_filters, &self.children())
    }

    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        child_pushdown_result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(child_pushdown_result))
    }
}
