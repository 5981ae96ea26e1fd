//! What can leave this process, and what must stay on the coordinator.
//!
//! The list is of what is known to travel: an operator that nobody thought of stays here, slower
//! and right. The codec has the last word at submit.

use datafusion::catalog::memory::DataSourceExec;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::sink::DataSinkExec;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::explain::ExplainExec;
use datafusion::physical_plan::memory::LazyMemoryExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::streaming::StreamingTableExec;

use crate::codec::window::filters_rows;

/// Where a piece of a plan may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Home {
    /// Wherever the rest runs.
    Anywhere,
    /// Where files are read: on a worker.
    Workers,
    /// On the coordinator, for this reason.
    Coordinator(String),
}

/// Tells where a leaf may run.
pub(super) fn home_of_leaf(leaf: &dyn ExecutionPlan) -> Home {
    if let Some(scan) = leaf.downcast_ref::<DataSourceExec>() {
        let source = scan.data_source();
        return if source.is::<FileScanConfig>() {
            Home::Workers
        } else if source.is::<MemorySourceConfig>() {
            Home::Coordinator("reads rows held in the coordinator's memory".to_owned())
        } else {
            Home::Coordinator("reads a source of a kind that is not known to travel".to_owned())
        };
    }
    if leaf.is::<EmptyExec>() || leaf.is::<PlaceholderRowExec>() {
        return Home::Anywhere;
    }
    // A series; it travels if it has one generator.
    if leaf.downcast_ref::<LazyMemoryExec>().is_some_and(|lazy| lazy.generators().len() == 1) {
        return Home::Workers;
    }
    let why = if leaf.is::<StreamingTableExec>() {
        "reads a table of the coordinator's own".to_owned()
    } else if leaf.is::<ExplainExec>() {
        "explains a plan".to_owned()
    } else {
        format!("{} is not known to travel", leaf.name())
    };
    Home::Coordinator(why)
}

/// Says what keeps an operator with children on the coordinator, if anything does.
pub(super) fn stays(node: &dyn ExecutionPlan) -> Option<String> {
    if node.is::<DataSinkExec>() {
        return Some("writes, which one process does".to_owned());
    }
    filters_rows(node)
        .then(|| "has a window function with a FILTER, which cannot travel".to_owned())
}

/// Says why a subtree must run whole in one task, if it must.
///
/// Its partitions share state that no exchange carries, or nobody knows whether they do.
pub(super) fn runs_whole(node: &dyn ExecutionPlan) -> Option<String> {
    match node.name() {
        "RecursiveQueryExec" => Some("runs a recursive query".to_owned()),
        // Who wants the figures of all stages takes the node off before planning.
        "AnalyzeExec" => Some("measures a plan in one process".to_owned()),
        name if SPREADABLE.contains(&name) => None,
        name => Some(format!("{name} is not known to run in pieces")),
    }
}

/// Operators with children whose partition `p` needs no more than partition `p` of each child, or
/// that the planner knows how to cut.
const SPREADABLE: [&str; 29] = [
    "AggregateExec",
    "BoundedWindowAggExec",
    "BufferExec",
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "CrossJoinExec",
    "DataSinkExec",
    "FilterExec",
    "GlobalLimitExec",
    "HashJoinExec",
    "InterleaveExec",
    "LocalLimitExec",
    "NestedLoopJoinExec",
    "OutputRequirementExec",
    "PartialSortExec",
    "PartitionedTopKExec",
    "ProjectionExec",
    "RepartitionExec",
    "ScalarSubqueryExec",
    "SortExec",
    "SortExec(TopK)",
    "SortMergeJoinExec",
    "SortPreservingMergeExec",
    "SymmetricHashJoinExec",
    "UnionExec",
    "UnnestExec",
    "WindowAggExec",
    "async_func",
];
