//! How much a query is to run: whether it is worth a worker.
//!
//! The measure is bytes of files. They are known before anything runs, and most of what most queries
//! cost. What else can be told counts in the same unit: a row that is made without a file counts as
//! [`ROW_BYTES`], a pair that a loop join compares as one.
//!
//! Rows are counted from above, for the loops alone. What nobody can bound is unknown, and so is
//! what such a plan costs: then it is the workers' work, as everything large is.

use std::sync::Arc;

use datafusion::arrow::datatypes::IntervalMonthDayNano;
use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::JoinType;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::functions_table::generate_series::{Empty, GenericSeriesState, TimestampValue};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec,
};
use datafusion::physical_plan::memory::{LazyBatchGenerator, LazyMemoryExec};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::streaming::StreamingTableExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use skep_engine::{CacheScanExec, planned_bytes};

/// What a row counts that no file holds. Units: bytes.
const ROW_BYTES: u64 = 8;

/// The shortest that a month and a day are. Units: nanoseconds.
const MONTH: i128 = 28 * DAY;
const DAY: i128 = 23 * 3_600_000_000_000;

/// What a plan costs, and what it gives.
#[derive(Debug, Clone, Copy)]
struct Effort {
    /// Units: bytes of files, or what is worth them.
    bytes: u64,
    /// At most so many; `None` if nobody knows.
    rows: Option<u64>,
}

impl Effort {
    /// Rows that are made of nothing.
    fn of_rows(rows: u64) -> Self {
        Self { bytes: rows.saturating_mul(ROW_BYTES), rows: Some(rows) }
    }
}

/// Returns what it costs to run a plan, if that can be told. Units: bytes of files.
pub(super) fn work(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    Some(effort(plan)?.bytes)
}

fn effort(plan: &Arc<dyn ExecutionPlan>) -> Option<Effort> {
    let children = plan.children();
    if children.is_empty() {
        return leaf(plan);
    }
    let inputs = children.into_iter().map(effort).collect::<Option<Vec<_>>>()?;
    let mut bytes = inputs.iter().fold(0_u64, |sum, input| sum.saturating_add(input.bytes));
    if (plan.is::<NestedLoopJoinExec>() || plan.is::<CrossJoinExec>())
        && let [left, right] = inputs.as_slice()
    {
        bytes = bytes.saturating_add(left.rows?.saturating_mul(right.rows?));
    }
    Some(Effort { bytes, rows: rows(plan, &inputs) })
}

/// Returns how many rows an operator gives at most.
fn rows(plan: &Arc<dyn ExecutionPlan>, inputs: &[Effort]) -> Option<u64> {
    let partitions = plan.output_partitioning().partition_count() as u64;
    let made = if plan.is::<UnionExec>() || plan.is::<InterleaveExec>() {
        inputs.iter().try_fold(0_u64, |sum, input| Some(sum.saturating_add(input.rows?)))
    } else if let (Some(join_type), [left, right]) = (join_type(plan), inputs) {
        joined(join_type, left.rows, right.rows)
    } else if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        // A row without groups in any case, else each row is in a group of each grouping set. Some
        // sets have a row where there was none.
        let sets = aggregate.group_expr().groups().len().max(1) as u64;
        match aggregate.group_expr().expr().is_empty() {
            true => Some(partitions.saturating_mul(sets)),
            false => inputs[0].rows.map(|rows| rows.max(partitions).saturating_mul(sets)),
        }
    } else {
        match plan.cardinality_effect() {
            CardinalityEffect::Equal | CardinalityEffect::LowerEqual => inputs[0].rows,
            CardinalityEffect::GreaterEqual | CardinalityEffect::Unknown => None,
        }
    };
    let wanted = plan.fetch().map(|fetch| (fetch as u64).saturating_mul(partitions));
    match (made, wanted) {
        (Some(made), Some(wanted)) => Some(made.min(wanted)),
        (made, wanted) => made.or(wanted),
    }
}

fn join_type(plan: &Arc<dyn ExecutionPlan>) -> Option<JoinType> {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        Some(*join.join_type())
    } else if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        Some(*join.join_type())
    } else if let Some(join) = plan.downcast_ref::<SortMergeJoinExec>() {
        Some(join.join_type())
    } else {
        plan.is::<CrossJoinExec>().then_some(JoinType::Inner)
    }
}

fn joined(join_type: JoinType, left: Option<u64>, right: Option<u64>) -> Option<u64> {
    match join_type {
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left,
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right,
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {
            let (left, right) = (left?, right?);
            // Those without a partner come on their own.
            Some(left.saturating_mul(right).saturating_add(left).saturating_add(right))
        }
    }
}

fn leaf(plan: &Arc<dyn ExecutionPlan>) -> Option<Effort> {
    if let Some(scan) = plan.downcast_ref::<DataSourceExec>() {
        return match scan.data_source().downcast_ref::<FileScanConfig>() {
            Some(files) => Some(Effort { bytes: planned_bytes(files), rows: rows_of(files) }),
            None => known(plan),
        };
    }
    if let Some(scan) = plan.downcast_ref::<CacheScanExec>() {
        // What workers keep, workers read.
        return if scan.hosted_table().is_some() { None } else { known(plan) };
    }
    if let Some(lazy) = plan.downcast_ref::<LazyMemoryExec>() {
        let rows = lazy.generators().iter().try_fold(0_u64, |sum, generator| {
            Some(sum.saturating_add(length(&*generator.read())?))
        });
        return rows.map(Effort::of_rows);
    }
    if plan.is::<EmptyExec>() {
        Some(Effort::of_rows(0))
    } else if plan.is::<PlaceholderRowExec>() {
        Some(Effort::of_rows(1))
    } else if plan.is::<StreamingTableExec>() || plan.name() == "WorkTableExec" {
        // The coordinator's own tables, and what a recursion that runs there has made last: nothing
        // that workers could take off it.
        Some(Effort { bytes: 0, rows: None })
    } else {
        None
    }
}

/// Returns what a source in memory says of itself.
fn known(plan: &Arc<dyn ExecutionPlan>) -> Option<Effort> {
    let (context, arguments) = (StatisticsContext::new(), StatisticsArgs::new());
    let statistics = context.compute(plan.as_ref(), &arguments).ok()?;
    let rows = *statistics.num_rows.get_value()? as u64;
    let made = Effort::of_rows(rows);
    let held = statistics.total_byte_size.get_value().map_or(0, |bytes| *bytes as u64);
    Some(Effort { bytes: made.bytes.max(held), ..made })
}

/// Returns how many rows files have at most.
fn rows_of(files: &FileScanConfig) -> Option<u64> {
    if let Some(rows) = files.statistics().num_rows.get_value() {
        return Some(*rows as u64);
    }
    // A row of text has one character at least; what is compressed may have any number.
    let is_text = matches!(files.file_source.file_type(), "csv" | "json");
    let is_plain = files.file_compression_type == FileCompressionType::UNCOMPRESSED;
    (is_text && is_plain).then(|| planned_bytes(files))
}

/// Returns how many rows a generator makes at most.
fn length(generator: &dyn LazyBatchGenerator) -> Option<u64> {
    let generator = generator.as_any();
    if let Some(series) = generator.downcast_ref::<GenericSeriesState<i64>>() {
        return steps(*series.start(), *series.end(), i128::from(*series.step()));
    }
    if let Some(series) = generator.downcast_ref::<GenericSeriesState<TimestampValue>>() {
        let step = step_of(*series.step())?;
        return steps(series.start().value(), series.end().value(), step);
    }
    generator.is::<Empty>().then_some(0)
}

/// Returns how long a step of a series of times is at least, with its direction. Units: nanoseconds.
fn step_of(step: IntervalMonthDayNano) -> Option<i128> {
    let parts = [i128::from(step.months), i128::from(step.days), i128::from(step.nanoseconds)];
    let is_mixed = parts.iter().any(|part| *part < 0) && parts.iter().any(|part| *part > 0);
    let [months, days, nanoseconds] = parts;
    (!is_mixed).then_some(months * MONTH + days * DAY + nanoseconds)
}

fn steps(start: i64, end: i64, step: i128) -> Option<u64> {
    let span = i128::from(end) - i128::from(start);
    let steps = span.checked_div(step)?;
    // Away from its end a series has no row; both ends may be of it.
    Some(if span.signum() * step.signum() < 0 { 0 } else { u64::try_from(steps + 1).ok()? })
}

#[cfg(test)]
#[path = "effort_test.rs"]
mod tests;
