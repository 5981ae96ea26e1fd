//! What an exchange is in a plan: [`Output`] below a cut, [`ExchangeReadExec`] above it.
//!
//! Each task of a producing stage writes one or several *outputs*, numbered from 0. A reader's
//! partition is made of [`ExchangePart`]s: one output number of a range of producer tasks. Where
//! the rows come from, the store of this process or a stream from another, is decided by the
//! [`ExchangeSource`] that the task's session configuration carries, so that a plan holds no
//! connection and may be decoded anywhere.
//!
//! Hash exchanges route rows by DataFusion's own [`BatchPartitioner`]: `create_hashes` with the
//! fixed seed `REPARTITION_RANDOM_STATE` (0), modulo the number of outputs. Every process of one
//! build therefore agrees, and sides with equal keys, types and counts are co-partitioned. A build
//! with another version of DataFusion may not agree; builds are never mixed in one cluster.
//!
//! **Invariant:** the rows of one output of one producer task are read in the order in which they
//! were written. Nothing else is promised about order, but where each producer is read apart, and
//! in a stage of the result that reads them one after the other.
//!
//! **Invariant:** an [`ExchangeReadExec`] claims the order, constants and partitioning that its
//! exchange keeps, and no other: its properties are those of the DataFusion operator that would
//! stand in its place in one process.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{internal_datafusion_err, internal_err};
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{LexOrdering, Partitioning, PhysicalExpr, RangePartitioning};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, Time,
};
use datafusion::physical_plan::repartition::{BatchPartitioner, RepartitionExec};
use datafusion::physical_plan::sorts::streaming_merge::StreamingMergeBuilder;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    PlanProperties, ReplaceChildrenOptions,
};
use skep_engine::CachedShape;

use crate::ids::StageId;
use crate::scheduler::CachedKey;
use crate::store::StorageLevel;

/// What a stage does with the rows of its tasks.
#[derive(Debug, Clone)]
pub enum Output {
    /// Each row goes to the output that the hash of its keys names.
    Hash {
        /// The keys, over the schema of the stage's plan.
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        /// How many outputs each task writes.
        partitions: usize,
    },
    /// Each batch goes to the next output in turn; task `t` of `n` starts at `t * partitions / n`.
    RoundRobin {
        /// How many outputs each task writes.
        partitions: usize,
    },
    /// Each row goes to the output whose range it falls into.
    Range(RangePartitioning),
    /// One output per task; one reader reads all of them, as they come.
    Gather,
    /// One output per task; the reader reads each apart and merges them by their order.
    Merge,
    /// One output per task; every reader reads all of them, as they come.
    Broadcast,
    /// One output per task, read by the one task that stands in the same place.
    Forward,
    /// The rows are the query's answer.
    Result {
        /// Whether each task reads the tasks of a producer one after the other, for the same rows
        /// in the same order every time.
        in_order: bool,
    },
    /// The rows are partitions of a cached table, kept for later queries; in this one, task `p` is
    /// read as of [`Forward`](Self::Forward).
    Cached(Arc<CachedTarget>),
}

/// The table whose partitions a stage makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedTarget {
    /// What it is.
    pub shape: Arc<CachedShape>,
    /// Where its partitions may be kept.
    pub level: StorageLevel,
}

impl CachedTarget {
    /// Returns what names a partition.
    pub fn key(&self, partition: usize) -> CachedKey {
        let CachedShape { key, epoch, .. } = self.shape.as_ref();
        CachedKey { table: Arc::clone(key), epoch: *epoch, partition }
    }
}

impl Output {
    /// Returns how many outputs each task writes.
    pub fn partition_count(&self) -> usize {
        match self.partitioning() {
            Some(partitioning) => partitioning.partition_count(),
            None => 1,
        }
    }

    /// Returns how rows are split, if they are.
    pub fn partitioning(&self) -> Option<Partitioning> {
        match self {
            Self::Hash { exprs, partitions } => {
                Some(Partitioning::Hash(exprs.clone(), *partitions))
            }
            Self::RoundRobin { partitions } => Some(Partitioning::RoundRobinBatch(*partitions)),
            Self::Range(range) => Some(Partitioning::Range(range.clone())),
            Self::Gather | Self::Merge | Self::Broadcast | Self::Forward => None,
            Self::Result { .. } | Self::Cached(_) => None,
        }
    }

    /// Returns what splits the batches of task `task` of `task_count`; `None` if its only output
    /// takes them whole.
    ///
    /// # Errors
    /// If DataFusion refuses the partitioning, as with no outputs at all.
    pub fn partitioner(
        &self,
        task: usize,
        task_count: usize,
        timer: Time,
    ) -> Result<Option<BatchPartitioner>> {
        let Some(partitioning) = self.partitioning() else { return Ok(None) };
        BatchPartitioner::try_new(partitioning, timer, task, task_count).map(Some)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash { exprs, partitions } => {
                let keys: Vec<String> = exprs.iter().map(ToString::to_string).collect();
                write!(f, "hash({}) to {partitions}", keys.join(", "))
            }
            Self::RoundRobin { partitions } => write!(f, "round robin to {partitions}"),
            Self::Range(range) => write!(f, "range to {}", range.partition_count()),
            Self::Gather => write!(f, "gather"),
            Self::Merge => write!(f, "merge"),
            Self::Broadcast => write!(f, "broadcast"),
            Self::Forward => write!(f, "forward"),
            Self::Result { .. } => write!(f, "result"),
            Self::Cached(target) => {
                write!(f, "cached as {} {}", target.shape.key, target.shape.epoch)
            }
        }
    }
}

/// How a reader's partitions are made of a stage's outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exchange {
    /// Partition `p` is output `p` of every producer task, as they come.
    Shuffle,
    /// Partition `p` is output `p` of every producer task, each in this order, merged by it.
    ShuffleMerge(LexOrdering),
    /// The only partition is output 0 of every producer task, as they come.
    Gather,
    /// Partition `p` is output 0 of producer task `p`: a merge above reads each apart.
    Merge,
    /// As [`Gather`](Self::Gather), for many readers of the same rows.
    Broadcast,
    /// Partition `p` is output 0 of producer task `p`.
    Forward,
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shuffle => write!(f, "shuffle"),
            Self::ShuffleMerge(order) => write!(f, "shuffle merged by [{order}]"),
            Self::Gather => write!(f, "gather"),
            Self::Merge => write!(f, "merge"),
            Self::Broadcast => write!(f, "broadcast"),
            Self::Forward => write!(f, "forward"),
        }
    }
}

/// One output number of a range of producer tasks: what a reader asks for at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExchangePart {
    /// The stage whose tasks wrote it.
    pub producer: StageId,
    /// The tasks whose output is wanted.
    pub tasks: Range<usize>,
    /// The output of each of them.
    pub output: usize,
    /// Whether every task of the reading stage reads this same part.
    pub is_for_all: bool,
}

/// Where a task finds the outputs that it reads.
pub trait ExchangeSource: fmt::Debug + Send + Sync {
    /// Returns the rows of a part, of this schema: those of each task in the order in which they were written,
    /// those of several tasks in any order between them, or one after the other
    /// ([`Output::Result`]).
    ///
    /// The end of the stream means that all tasks' rows came; anything else is an error.
    ///
    /// # Errors
    /// If the part is known not to be there; what happens later comes through the stream.
    fn open(
        &self,
        part: ExchangePart,
        schema: SchemaRef,
        context: &TaskContext,
    ) -> Result<SendableRecordBatchStream>;
}

/// The exchange source of a task, as an extension of its session configuration.
#[derive(Debug, Clone)]
pub struct TaskInputs(pub Arc<dyn ExchangeSource>);

/// Reads what an earlier stage wrote. A leaf: the stages below are other plans.
#[derive(Debug, Clone)]
pub struct ExchangeReadExec {
    producer: StageId,
    producer_tasks: usize,
    exchange: Exchange,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ExchangeReadExec {
    /// Reads the exchange of a stage whose plan is `input` and whose output is `output`.
    ///
    /// # Errors
    /// If output and exchange do not fit.
    pub fn over(
        producer: StageId,
        input: &Arc<dyn ExecutionPlan>,
        output: &Output,
        exchange: Exchange,
    ) -> Result<Self> {
        let producer_tasks = input.output_partitioning().partition_count();
        let stand_in = stand_in(input, output, &exchange)?;
        Ok(Self::new(producer, producer_tasks, exchange, Arc::clone(stand_in.properties())))
    }

    /// Makes the node from its pieces, as when it was decoded.
    ///
    /// The properties must be those of [`over`](Self::over): operators above derive from them
    /// whether their input is sorted.
    pub fn new(
        producer: StageId,
        producer_tasks: usize,
        exchange: Exchange,
        properties: Arc<PlanProperties>,
    ) -> Self {
        let metrics = ExecutionPlanMetricsSet::new();
        Self { producer, producer_tasks, exchange, properties, metrics }
    }

    /// Returns the stage that is read.
    pub fn producer(&self) -> StageId {
        self.producer
    }

    /// Returns how many tasks that stage has.
    pub fn producer_tasks(&self) -> usize {
        self.producer_tasks
    }

    /// Returns how its outputs make the partitions of this node.
    pub fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Returns what partition `partition` is made of; several parts are merged by order.
    pub fn parts(&self, partition: usize) -> Vec<ExchangePart> {
        let is_for_all = self.exchange == Exchange::Broadcast;
        let producer = self.producer;
        let part = |tasks, output| ExchangePart { producer, tasks, output, is_for_all };
        let all = 0..self.producer_tasks;
        match self.exchange {
            Exchange::Shuffle => vec![part(all, partition)],
            Exchange::ShuffleMerge(_) => all.map(|task| part(task..task + 1, partition)).collect(),
            Exchange::Gather | Exchange::Broadcast => vec![part(all, 0)],
            Exchange::Merge | Exchange::Forward => vec![part(partition..partition + 1, 0)],
        }
    }
}

/// Returns the operator of DataFusion that does in one process what the exchange does between
/// several.
///
/// # Errors
/// If output and exchange do not fit.
pub fn stand_in(
    input: &Arc<dyn ExecutionPlan>,
    output: &Output,
    exchange: &Exchange,
) -> Result<Arc<dyn ExecutionPlan>> {
    let input = Arc::clone(input);
    let task_count = input.output_partitioning().partition_count();
    Ok(match (exchange, output.partitioning()) {
        (Exchange::Shuffle, Some(partitioning)) => {
            Arc::new(RepartitionExec::try_new(input, partitioning)?)
        }
        (Exchange::ShuffleMerge(_), Some(partitioning)) => {
            Arc::new(RepartitionExec::try_new(input, partitioning)?.with_preserve_order())
        }
        // One producer's rows come as they were written, so all that it claims still holds.
        (Exchange::Gather | Exchange::Broadcast, None) if task_count == 1 => input,
        (Exchange::Gather | Exchange::Broadcast, None) => {
            Arc::new(CoalescePartitionsExec::new(input))
        }
        (Exchange::Merge | Exchange::Forward, None) => input,
        (exchange, _) => return internal_err!("{exchange} of output {output}"),
    })
}

impl DisplayAs for ExchangeReadExec {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { producer, producer_tasks, exchange, .. } = self;
        let partitions = self.properties.output_partitioning().partition_count();
        match kind {
            DisplayFormatType::Default | DisplayFormatType::Verbose => write!(
                f,
                "ExchangeReadExec: {producer}, {exchange}, \
                 producer_tasks={producer_tasks}, partitions={partitions}"
            ),
            DisplayFormatType::TreeRender => writeln!(f, "{producer}\n{exchange}"),
        }
    }
}

impl ExecutionPlan for ExchangeReadExec {
    fn name(&self) -> &'static str {
        "ExchangeReadExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        if let Exchange::ShuffleMerge(order) = &self.exchange {
            for sort in order {
                if f(&sort.expr)? == TreeNodeRecursion::Stop {
                    return Ok(TreeNodeRecursion::Stop);
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !children.is_empty() {
            return internal_err!("ExchangeReadExec is a leaf");
        }
        // A new instance, with figures of its own.
        Ok(Arc::new(Self { metrics: ExecutionPlanMetricsSet::new(), ..Self::clone(&self) }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
        self.replace_children(children, options)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let inputs = context.session_config().get_extension::<TaskInputs>().ok_or_else(|| {
            internal_datafusion_err!("a task that reads {} has no exchange source", self.producer)
        })?;
        let open = |part| inputs.0.open(part, self.schema(), &context);
        let mut streams =
            self.parts(partition).into_iter().map(open).collect::<Result<Vec<_>>>()?;
        let Exchange::ShuffleMerge(order) = &self.exchange else {
            return match (streams.pop(), streams.is_empty()) {
                (Some(stream), true) => Ok(make_cooperative(stream)),
                _ => internal_err!("{} has one part in each partition", self.exchange),
            };
        };
        let consumer = MemoryConsumer::new(format!("ExchangeReadExec[{partition}]"));
        StreamingMergeBuilder::new()
            .with_streams(streams)
            .with_schema(self.schema())
            .with_expressions(order)
            .with_metrics(BaselineMetrics::new(&self.metrics, partition))
            .with_batch_size(context.session_config().batch_size())
            .with_reservation(consumer.register(context.memory_pool()))
            .build()
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
