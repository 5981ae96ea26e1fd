//! `EXPLAIN ANALYZE` over stages: the figures of all tasks of a stage, put together at its plan.
//!
//! A task says the figures of its own plan's operators in one list, depth first from the root. That
//! plan may be *narrowed* ([`TaskPlan`](crate::stage_planner::TaskPlan)): it has
//! `OnePartitionExec`s that the stage's plan has not, and one branch of a `UNION` in place of all.
//! [`Analysis::record`] finds the operators of the stage's plan again by their names.
//!
//! Pure: no clock, no I/O.
//!
//! **Invariant:** a task counts once, however many of its attempts finish; a list that does not fit
//! its stage's plan counts not at all.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use datafusion::physical_plan::metrics::{Count, Gauge, Metric, MetricValue, MetricsSet, Time};
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, displayable};
use skep_proto::cluster::metric::Kind;

use crate::ids::StageId;
use crate::stage_planner::{Place, Stage, StagePlan};
use crate::worker::OperatorMetrics;

/// What a narrowed plan has and its stage's plan has not.
const NARROWING: &str = "OnePartitionExec";

/// The figures of a query's operators, put together as its tasks finish.
#[derive(Debug)]
pub struct Analysis {
    stages: Vec<StageFigures>,
}

#[derive(Debug)]
struct StageFigures {
    headline: String,
    /// The operators, depth first from the root.
    operators: Vec<Operator>,
    /// Which tasks have been counted.
    counted: Vec<bool>,
    /// Whether it makes a cached table.
    is_lineage: bool,
}

/// An operator of a stage's plan.
#[derive(Debug)]
struct Operator {
    name: String,
    /// As `EXPLAIN` shows it.
    line: String,
    depth: usize,
    /// Places in the stage's list.
    children: Vec<usize>,
    partition_count: usize,
    /// Whether each of its partitions is one of one child, so that a narrowed plan leaves it out.
    is_union: bool,
    figures: BTreeMap<String, (Kind, u64)>,
}

impl Analysis {
    /// Begins with no figures.
    pub fn new(plan: &StagePlan) -> Self {
        Self { stages: plan.stages.iter().map(StageFigures::new).collect() }
    }

    /// Adds what task `task` of a stage has said. Returns whether it counts: not if the task was
    /// counted before, or if the list does not fit the stage's plan.
    pub fn record(&mut self, stage: StageId, task: usize, operators: &[OperatorMetrics]) -> bool {
        let place = usize::try_from(stage.0).ok();
        let Some(stage) = place.and_then(|place| self.stages.get_mut(place)) else { return false };
        match stage.counted.get(task) {
            Some(false) => {}
            Some(true) | None => return false,
        }
        let mut pairs = Vec::with_capacity(operators.len());
        if stage.align(0, task, operators, 0, &mut pairs) != Some(operators.len()) {
            return false;
        }
        for (operator, at) in pairs {
            stage.operators[operator].add(&operators[at]);
        }
        stage.counted[task] = true;
        true
    }

    /// Returns each stage's headline and its plan with figures, leaves first.
    ///
    /// Shape: the figures of an operator are summed over the tasks, and of gauges the largest is
    /// taken; names and units are DataFusion's.
    pub fn sections(&self) -> Vec<(String, String)> {
        // What makes a cached table is no part of the query, unless some of it had to be made.
        let shown = self.stages.iter().filter(|it| !it.is_lineage || it.counted.contains(&true));
        shown.map(|stage| (stage.headline(), stage.to_string())).collect()
    }
}

impl fmt::Display for Analysis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (headline, tree) in self.sections() {
            writeln!(f, "{headline}")?;
            for line in tree.lines() {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

impl StageFigures {
    fn new(stage: &Stage) -> Self {
        let Stage { id, task_count, output, .. } = stage;
        let tasks = if *task_count == 1 { "task" } else { "tasks" };
        let mut headline = format!("Stage {id} · {task_count} {tasks} · {output}");
        if let Place::Coordinator { why } = &stage.place {
            // Writing to a string cannot fail.
            let _ = write!(headline, " · on the coordinator ({why})");
        }
        let mut operators = Vec::new();
        push_operators(&stage.plan, 0, &mut operators);
        let is_lineage = stage.lineage_of.is_some();
        Self { headline, operators, counted: vec![false; *task_count], is_lineage }
    }

    fn headline(&self) -> String {
        let counted = self.counted.iter().filter(|is_counted| **is_counted).count();
        match self.counted.len() - counted {
            0 => self.headline.clone(),
            _ => format!("{} · figures of {counted}", self.headline),
        }
    }

    /// Pairs the operators below `operator` with those from place `at` of a task's list on, where
    /// the task runs this partition of the operator. Returns the place after the last one; `None`
    /// if they differ.
    fn align(
        &self,
        operator: usize,
        partition: usize,
        said: &[OperatorMetrics],
        at: usize,
        pairs: &mut Vec<(usize, usize)>,
    ) -> Option<usize> {
        let skipped = said.get(at..)?.iter().position(|said| said.operator != NARROWING)?;
        let at = at + skipped;
        let expected = &self.operators[operator];
        if expected.name == said[at].operator {
            let pair_count = pairs.len();
            pairs.push((operator, at));
            let end = expected
                .children
                .iter()
                .try_fold(at + 1, |next, child| self.align(*child, partition, said, next, pairs));
            if end.is_some() {
                return end;
            }
            pairs.truncate(pair_count);
        }
        if !expected.is_union {
            return None;
        }
        let mut partition = partition;
        for child in &expected.children {
            let count = self.operators[*child].partition_count;
            if partition < count {
                return self.align(*child, partition, said, at, pairs);
            }
            partition -= count;
        }
        None
    }
}

impl fmt::Display for StageFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for operator in &self.operators {
            let Operator { line, depth, .. } = operator;
            writeln!(
                f,
                "{:indent$}{line}, metrics=[{}]",
                "",
                operator.shown(),
                indent = depth * 2
            )?;
        }
        Ok(())
    }
}

/// Appends an operator and all below it; returns its place.
fn push_operators(
    plan: &Arc<dyn ExecutionPlan>,
    depth: usize,
    operators: &mut Vec<Operator>,
) -> usize {
    let place = operators.len();
    operators.push(Operator {
        name: plan.name().to_owned(),
        line: displayable(plan.as_ref()).one_line().to_string().trim_end().to_owned(),
        depth,
        children: Vec::new(),
        partition_count: plan.output_partitioning().partition_count(),
        is_union: plan.is::<UnionExec>(),
        figures: BTreeMap::new(),
    });
    for child in plan.children() {
        let child = push_operators(child, depth + 1, operators);
        operators[place].children.push(child);
    }
    place
}

impl Operator {
    fn add(&mut self, said: &OperatorMetrics) {
        for metric in &said.metrics {
            let figure = self.figures.entry(metric.name.clone()).or_insert((metric.kind(), 0));
            figure.1 = match figure.0 {
                Kind::Gauge => figure.1.max(metric.value),
                Kind::Count | Kind::Time => figure.1.saturating_add(metric.value),
            };
        }
    }

    /// The figures as DataFusion has them, most useful first; without moments, which cannot be
    /// summed.
    fn shown(&self) -> MetricsSet {
        let mut set = MetricsSet::new();
        for (name, (kind, value)) in &self.figures {
            if name != "start_timestamp" && name != "end_timestamp" {
                set.push(Arc::new(Metric::new(metric_value(name, *kind, *value), None)));
            }
        }
        set.sorted_for_display()
    }
}

/// Makes DataFusion's own metric again of what it was sent as.
fn metric_value(name: &str, kind: Kind, value: u64) -> MetricValue {
    let amount = usize::try_from(value).unwrap_or(usize::MAX);
    let owned = || name.to_owned().into();
    match kind {
        Kind::Count => {
            let count = Count::new();
            count.add(amount);
            match name {
                "output_rows" => MetricValue::OutputRows(count),
                "output_bytes" => MetricValue::OutputBytes(count),
                "output_batches" => MetricValue::OutputBatches(count),
                "spill_count" => MetricValue::SpillCount(count),
                "spilled_bytes" => MetricValue::SpilledBytes(count),
                "spilled_rows" => MetricValue::SpilledRows(count),
                _ => MetricValue::Count { name: owned(), count },
            }
        }
        Kind::Time => {
            let time = Time::new();
            // It takes no less than a nanosecond, which would make nothing of a time not measured.
            if value > 0 {
                time.add_duration(Duration::from_nanos(value));
            }
            match name {
                "elapsed_compute" => MetricValue::ElapsedCompute(time),
                _ => MetricValue::Time { name: owned(), time },
            }
        }
        Kind::Gauge => {
            let gauge = Gauge::new();
            gauge.set(amount);
            match name {
                "mem_used" => MetricValue::CurrentMemoryUsage(gauge),
                name if name.ends_with("mem_used") => {
                    MetricValue::PeakMemoryUsage { name: owned(), gauge }
                }
                _ => MetricValue::Gauge { name: owned(), gauge },
            }
        }
    }
}

#[cfg(test)]
#[path = "analyze_test.rs"]
mod tests;
