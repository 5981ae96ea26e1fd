//! What a task's rows are when it runs again: the same, the same in another order, or others.
//!
//! Who recovers from a loss must know. An output of the same rows can be made again behind the backs
//! of those who have read part of it; an output of others cannot, as some readers would keep the
//! first and some see the second ([`Remake::Other`]).
//!
//! Rows come in another order wherever they come from several tasks as they come, and wherever an
//! operator may spill. Operators that pick by order then pick others: a limit, a `TopK` with ties,
//! `first_value`, `row_number`, batches dealt out in turn. So do functions that roll dice. A sum of
//! floats differs in its last digits; that is taken for the same, except where it decides who gets a
//! row, or is a value that several tasks compare with.
//!
//! The stage of the result reads its producers one after the other where its rows are then the same
//! in the same order (`read_in_order`): such a result can be gone on with ([`resume`]).
//!
//! **Invariant:** what is not known here counts as [`Remake::Other`], which costs more work after a
//! loss and is never wrong.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::logical_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::window::{
    PlainAggregateWindowExpr, SlidingAggregateWindowExpr, StandardWindowExpr, WindowExpr,
};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec, WindowUDFExpr};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use skep_engine::CacheScanExec;

use super::stage::Stage;
use crate::exchange::plan::{Exchange, ExchangeReadExec, Output};
use crate::ids::StageId;

/// What a task's rows are when it runs again, on inputs that are the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remake {
    /// The same rows in the same order.
    Same,
    /// The same rows.
    Reordered,
    /// Perhaps other rows.
    Other,
}

#[derive(Debug, Clone, Copy)]
struct Class {
    remake: Remake,
    /// Whether some values are sums of floats, whose last digits depend on the order.
    drifts: bool,
    /// Whether the rows may come in other batches.
    is_cut_otherwise: bool,
}

const SAME: Class = Class { remake: Remake::Same, drifts: false, is_cut_otherwise: false };

impl Class {
    fn at_least(self, remake: Remake) -> Self {
        Self { remake: self.remake.max(remake), ..self }
    }

    /// What becomes of rows of which some are picked by their order.
    fn picked(self) -> Self {
        match self.remake {
            Remake::Same => self,
            Remake::Reordered | Remake::Other => self.at_least(Remake::Other),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            remake: self.remake.max(other.remake),
            drifts: self.drifts || other.drifts,
            is_cut_otherwise: self.is_cut_otherwise || other.is_cut_otherwise,
        }
    }
}

/// How a result that was partly passed on is gone on with, when it is made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// Behind the rows that were passed on: it is the same rows in the same order.
    Exact,
    /// It has one partition, of the same rows, in this order but for ties.
    Sorted(LexOrdering),
    /// Not at all.
    Never,
}

/// Tells how the result of some stages is gone on with.
///
/// Where any of them picks by chance, not at all: rows that have left could not be taken back with
/// what they were made of, and the query would fail that could have been repaired.
pub fn resume(stages: &[Stage]) -> Resume {
    let classes = classes(stages);
    let (Some(stage), Some(class)) = (stages.last(), classes.last()) else {
        return Resume::Never;
    };
    if classes.iter().any(|class| class.remake == Remake::Other) {
        return Resume::Never;
    }
    match (class.remake, stage.plan.output_ordering()) {
        (Remake::Same, _) => Resume::Exact,
        (Remake::Reordered, Some(order)) if stage.task_count == 1 && !class.drifts => {
            Resume::Sorted(order.clone())
        }
        _ => Resume::Never,
    }
}

/// Lets the stage of the result read its producers one after the other, if that makes its rows more
/// alike when they are made again. Else it reads them as they come, which is faster.
pub(super) fn read_in_order(stages: &mut [Stage]) {
    let mut known = classes(stages);
    let (Some(stage), Some(as_they_come)) = (stages.last_mut(), known.pop()) else { return };
    let in_order = class_of(&stage.plan, &known, true);
    if in_order.remake < as_they_come.remake {
        stage.output = Output::Result { in_order: true };
    }
}

/// Tells of each stage what its tasks give when they run again.
///
/// Shape: one entry for each stage, in their order.
pub fn remakes(stages: &[Stage]) -> Vec<Remake> {
    classes(stages).into_iter().map(|class| class.remake).collect()
}

fn classes(stages: &[Stage]) -> Vec<Class> {
    let mut known: Vec<Class> = Vec::with_capacity(stages.len());
    for stage in stages {
        let reads_in_order = matches!(stage.output, Output::Result { in_order: true });
        let class = class_of(&stage.plan, &known, reads_in_order);
        known.push(of_output(class, stage));
    }
    known
}

/// Tells whether the order of a plan's rows depends on how those that it reads were cut into
/// batches.
pub fn minds_batches(plan: &Arc<dyn ExecutionPlan>) -> bool {
    const MINDING: [&str; 4] =
        ["HashJoinExec", "CrossJoinExec", "SortExec(TopK)", "PartitionedTopKExec"];
    MINDING.contains(&plan.name()) || plan.children().into_iter().any(minds_batches)
}

/// Tells whether a plan gives its first rows before it has read its last: nothing in it gathers,
/// sorts or builds. Of what it reads it keeps the order.
pub fn only_passes(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let passes = plan.children().is_empty()
        || plan.is::<FilterExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<CooperativeExec>()
        || plan.is::<UnionExec>();
    passes && plan.children().into_iter().all(only_passes)
}

fn of_output(class: Class, stage: &Stage) -> Class {
    let schema = stage.plan.schema();
    match &stage.output {
        Output::Hash { exprs, .. } => by_keys(class, exprs.iter(), &schema),
        Output::Range(range) => {
            by_keys(class, range.ordering().iter().map(|sort| &sort.expr), &schema)
        }
        // Who gets a batch depends on how the rows were cut into batches.
        Output::RoundRobin { .. } if stage.inputs.is_empty() && only_passes(&stage.plan) => {
            class.picked()
        }
        Output::RoundRobin { .. } => class.at_least(Remake::Other),
        Output::Broadcast if class.drifts => class.at_least(Remake::Other),
        Output::Broadcast | Output::Gather | Output::Merge | Output::Forward => class,
        Output::Result { .. } | Output::Cached(_) => class,
    }
}

fn by_keys<'a>(
    class: Class,
    keys: impl Iterator<Item = &'a Arc<dyn PhysicalExpr>>,
    schema: &Schema,
) -> Class {
    let mut class = class;
    for key in keys {
        let is_exact = key.data_type(schema).is_ok_and(|kind| !kind.is_floating());
        if is_volatile(key) || (class.drifts && !is_exact) {
            class = class.at_least(Remake::Other);
        }
    }
    class
}

fn class_of(plan: &Arc<dyn ExecutionPlan>, known: &[Class], reads_in_order: bool) -> Class {
    if let Some(read) = plan.downcast_ref::<ExchangeReadExec>() {
        return of_read(read, known, reads_in_order);
    }
    if let Some(scan) = plan.downcast_ref::<CacheScanExec>()
        && let Some(producer) = scan.producer()
    {
        return of_one_producer(StageId(producer), known);
    }
    let children = plan.children();
    let is_wide = children.iter().any(|child| child.output_partitioning().partition_count() > 1);
    let inputs = children.iter().map(|child| class_of(child, known, reads_in_order));
    let input = inputs.fold(SAME, Class::and);
    let class = match children.is_empty() {
        true => of_leaf(plan.as_ref()),
        false => of_operator(plan.as_ref(), input, is_wide),
    };
    match rolls_dice(plan.as_ref()) {
        true => class.at_least(Remake::Other),
        false => class,
    }
}

/// A partition of a cached table is one producer's rows.
fn of_one_producer(producer: StageId, known: &[Class]) -> Class {
    let producer = usize::try_from(producer.0).ok().and_then(|id| known.get(id));
    let Some(producer) = producer else { return SAME.at_least(Remake::Other) };
    // Its keeper skips batches; who reads it from elsewhere gets all.
    let remake = producer.remake.min(Remake::Reordered);
    Class { remake, drifts: producer.drifts, is_cut_otherwise: true }
}

/// Rows of one producer come as they were written, those of several as they come, or one producer
/// after the other.
fn of_read(read: &ExchangeReadExec, known: &[Class], reads_in_order: bool) -> Class {
    let producer = usize::try_from(read.producer().0).ok().and_then(|id| known.get(id));
    let Some(producer) = producer else { return SAME.at_least(Remake::Other) };
    let is_one = read.parts(0).iter().map(|part| part.tasks.len()).sum::<usize>() <= 1;
    // Whatever was made of rows that are made otherwise is taken back with them.
    let is_merged = matches!(read.exchange(), Exchange::ShuffleMerge(_));
    let keeps_order = is_one || (reads_in_order && !is_merged);
    let order =
        if keeps_order { producer.remake.min(Remake::Reordered) } else { Remake::Reordered };
    // What is read in order is cut anew where that matters, into batches of one size.
    let is_cut_otherwise = !reads_in_order || is_merged;
    Class { remake: order, drifts: producer.drifts, is_cut_otherwise }
}

fn of_leaf(leaf: &dyn ExecutionPlan) -> Class {
    let scan = leaf.downcast_ref::<DataSourceExec>().map(DataSourceExec::data_source);
    let is_steady = match (scan, leaf.name()) {
        (Some(source), _) => source.is::<FileScanConfig>() || source.is::<MemorySourceConfig>(),
        (None, name) => {
            matches!(name, "EmptyExec" | "PlaceholderRowExec" | "LazyMemoryExec" | "WorkTableExec")
        }
    };
    if is_steady { SAME } else { SAME.at_least(Remake::Other) }
}

fn of_operator(plan: &dyn ExecutionPlan, input: Class, is_wide: bool) -> Class {
    let merged = if is_wide { input.at_least(Remake::Reordered) } else { input };
    let has_fetch = plan.fetch().is_some();
    match plan.name() {
        "FilterExec"
        | "ProjectionExec"
        | "CooperativeExec"
        | "BufferExec"
        | "CoalesceBatchesExec"
        | "UnionExec"
        | "OutputRequirementExec"
        | "UnnestExec"
        | "ScalarSubqueryExec"
        | "DataSinkExec" => {
            if has_fetch {
                input.picked()
            } else {
                input
            }
        }
        // They take their build side batch by batch, the last one first.
        "HashJoinExec" | "CrossJoinExec" => {
            let is_same = !input.is_cut_otherwise;
            let class = if is_same { input } else { input.at_least(Remake::Reordered) };
            if has_fetch { class.picked() } else { class }
        }
        "SortExec" | "SortExec(TopK)" | "PartitionedTopKExec"
            if has_fetch && input.is_cut_otherwise =>
        {
            input.at_least(Remake::Other)
        }
        "LocalLimitExec" | "GlobalLimitExec" | "PartitionedTopKExec" => input.picked(),
        // Ties come as memory lets them, but where nothing is ever spilled.
        "SortExec" | "SortExec(TopK)" if has_fetch => input.picked(),
        "CoalescePartitionsExec" | "SortPreservingMergeExec" if has_fetch => merged.picked(),
        "CoalescePartitionsExec" | "SortPreservingMergeExec" => merged,
        "SortExec"
        | "NestedLoopJoinExec"
        | "SortMergeJoinExec"
        | "SymmetricHashJoinExec"
        | "InterleaveExec"
        | "RepartitionExec"
        | "RecursiveQueryExec"
        | "PartialSortExec" => {
            let class = input.at_least(Remake::Reordered);
            if has_fetch { class.picked() } else { class }
        }
        _ => of_function(plan, input),
    }
}

/// Of an aggregation or a window.
fn of_function(plan: &dyn ExecutionPlan, input: Class) -> Class {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return of_aggregation(aggregate, input);
    }
    let bounded =
        plan.downcast_ref::<BoundedWindowAggExec>().map(BoundedWindowAggExec::window_expr);
    let windows =
        bounded.or_else(|| plan.downcast_ref::<WindowAggExec>().map(WindowAggExec::window_expr));
    let Some(windows) = windows else { return input.at_least(Remake::Other) };
    let drifts =
        windows.iter().any(|window| window.field().is_ok_and(|it| it.data_type().is_floating()));
    let class = Class { drifts: input.drifts || drifts, ..input };
    if windows.iter().all(|window| is_calm_window(window.as_ref())) {
        class
    } else {
        class.picked()
    }
}

fn of_aggregation(aggregate: &AggregateExec, input: Class) -> Class {
    let functions = aggregate.aggr_expr();
    let mut class = input;
    if aggregate.limit_options().is_some() || !functions.iter().all(|it| is_calm(it)) {
        class = class.picked();
    }
    class.drifts |= functions.iter().any(|function| drifts(function));
    let is_one_row = aggregate.group_expr().is_true_no_grouping();
    match class.remake {
        Remake::Reordered if is_one_row => Class { remake: Remake::Same, ..class },
        _ if is_one_row => class,
        // Groups come in another order when memory is shorter.
        _ => class.at_least(Remake::Reordered),
    }
}

/// Tells whether an aggregate gives the same whatever the order of its rows, rounding apart.
fn is_calm(function: &AggregateFunctionExpr) -> bool {
    let name = function.fun().name();
    is_drifting(name)
        || matches!(
            name,
            "count"
                | "min"
                | "max"
                | "sum"
                | "bool_and"
                | "bool_or"
                | "bit_and"
                | "bit_or"
                | "bit_xor"
                | "median"
                | "approx_distinct"
                | "grouping"
                | "percentile_cont"
                | "single_value"
        )
}

/// Aggregates of floats whose last digits depend on the order.
fn is_drifting(name: &str) -> bool {
    matches!(
        name,
        "avg"
            | "mean"
            | "stddev"
            | "stddev_pop"
            | "stddev_samp"
            | "var"
            | "var_pop"
            | "var_samp"
            | "corr"
            | "covar"
            | "covar_pop"
            | "covar_samp"
    ) || name.starts_with("regr_")
}

fn drifts(function: &AggregateFunctionExpr) -> bool {
    let name = function.fun().name();
    (name == "sum" || is_drifting(name)) && function.field().data_type().is_floating()
}

fn is_calm_window(window: &dyn WindowExpr) -> bool {
    let any = window.as_any();
    let aggregate = any
        .downcast_ref::<PlainAggregateWindowExpr>()
        .map(PlainAggregateWindowExpr::get_aggregate_expr)
        .or_else(|| {
            any.downcast_ref::<SlidingAggregateWindowExpr>()
                .map(SlidingAggregateWindowExpr::get_aggregate_expr)
        });
    if let Some(aggregate) = aggregate {
        return is_calm(aggregate) && takes_peers_together(window.get_window_frame());
    }
    let Some(standard) = any.downcast_ref::<StandardWindowExpr>() else { return false };
    let function = standard.get_standard_func_expr();
    let name = function.as_any().downcast_ref::<WindowUDFExpr>().map(|it| it.fun().name());
    matches!(name, Some("rank" | "dense_rank" | "percent_rank" | "cume_dist"))
}

fn takes_peers_together(frame: &WindowFrame) -> bool {
    let is_all = |bound: &WindowFrameBound| bound.is_unbounded();
    match frame.units {
        WindowFrameUnits::Range | WindowFrameUnits::Groups => true,
        WindowFrameUnits::Rows => is_all(&frame.start_bound) && is_all(&frame.end_bound),
    }
}

fn rolls_dice(plan: &dyn ExecutionPlan) -> bool {
    let mut rolls = false;
    let walked = plan.apply_expressions(&mut |expr| {
        rolls |= is_volatile(expr);
        Ok(TreeNodeRecursion::Continue)
    });
    rolls || walked.is_err()
}
