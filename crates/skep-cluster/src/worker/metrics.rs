//! The figures of a task's operators, as they are sent.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{Metric, MetricValue};
use skep_proto::cluster::metric::Kind;
use skep_proto::cluster::{Metric as SentMetric, OperatorMetrics};

use crate::stage_planner::task_plan::OnePartitionExec;

/// Which of a plan's figures are a task's own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope {
    /// All: the plan was made for the task.
    Own,
    /// Those of its partition; the first task also has what belongs to no partition of the stage.
    Shared { partition: usize, task_count: usize },
}

impl Scope {
    fn contains(self, metric: &Metric) -> bool {
        match (self, metric.partition()) {
            (Self::Own, _) => true,
            (Self::Shared { partition, task_count }, Some(of)) if of < task_count => {
                of == partition
            }
            (Self::Shared { partition, .. }, _) => partition == 0,
        }
    }
}

/// Returns the figures of each operator, depth first from the root.
///
/// Shape: one entry per operator of the stage's plan that the task has; [`OnePartitionExec`], which
/// narrowing adds, is left out. Times are in nanoseconds.
pub(super) fn collect(plan: &Arc<dyn ExecutionPlan>, scope: Scope) -> Vec<OperatorMetrics> {
    let mut operators = Vec::new();
    visit(plan, scope, &mut operators);
    operators
}

/// Returns the bytes that the operators have written to spill files.
pub(super) fn spilled_bytes(operators: &[OperatorMetrics]) -> u64 {
    let metrics = operators.iter().flat_map(|operator| &operator.metrics);
    metrics.filter(|metric| metric.name == "spilled_bytes").map(|metric| metric.value).sum()
}

fn visit(plan: &Arc<dyn ExecutionPlan>, scope: Scope, operators: &mut Vec<OperatorMetrics>) {
    if !plan.is::<OnePartitionExec>() {
        operators.push(of_operator(plan, scope));
    }
    for child in plan.children() {
        visit(child, scope, operators);
    }
}

fn of_operator(plan: &Arc<dyn ExecutionPlan>, scope: Scope) -> OperatorMetrics {
    let mut metrics = Vec::new();
    for metric in plan.metrics().iter().flat_map(|set| set.iter()) {
        if scope.contains(metric) {
            add_value(metric.value(), &mut metrics);
        }
    }
    OperatorMetrics { operator: plan.name().to_owned(), metrics }
}

fn add_value(value: &MetricValue, metrics: &mut Vec<SentMetric>) {
    let kind = match value {
        MetricValue::OutputRows(_)
        | MetricValue::SpillCount(_)
        | MetricValue::SpilledBytes(_)
        | MetricValue::OutputBytes(_)
        | MetricValue::OutputBatches(_)
        | MetricValue::SpilledRows(_)
        | MetricValue::Count { .. }
        | MetricValue::Custom { .. } => Kind::Count,
        MetricValue::ElapsedCompute(_) | MetricValue::Time { .. } => Kind::Time,
        MetricValue::CurrentMemoryUsage(_)
        | MetricValue::Gauge { .. }
        | MetricValue::PeakMemoryUsage { .. } => Kind::Gauge,
        // Moments say nothing once those of several tasks are put together.
        MetricValue::StartTimestamp(_) | MetricValue::EndTimestamp(_) => return,
        MetricValue::PruningMetrics { name, pruning_metrics } => {
            add(&format!("{name}_pruned"), Kind::Count, pruning_metrics.pruned(), metrics);
            add(&format!("{name}_matched"), Kind::Count, pruning_metrics.matched(), metrics);
            return;
        }
        MetricValue::Ratio { name, ratio_metrics } => {
            add(&format!("{name}_part"), Kind::Count, ratio_metrics.part(), metrics);
            add(&format!("{name}_total"), Kind::Count, ratio_metrics.total(), metrics);
            return;
        }
    };
    add(value.name(), kind, value.as_usize(), metrics);
}

fn add(name: &str, kind: Kind, value: usize, metrics: &mut Vec<SentMetric>) {
    let (kind_number, value) = (i32::from(kind), value as u64);
    let known = metrics.iter_mut().find(|known| known.name == name && known.kind == kind_number);
    match known {
        Some(known) if kind == Kind::Gauge => known.value = known.value.max(value),
        Some(known) => known.value = known.value.saturating_add(value),
        None => metrics.push(SentMetric { name: name.to_owned(), kind: kind_number, value }),
    }
}
