//! The operator that reads a cached table.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Statistics;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    DynamicFilterTracking, EquivalenceProperties, Partitioning, PhysicalExpr,
};
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
    ReplaceChildrenOptions, StatisticsArgs,
};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::OnceCell;

use super::build::fitted;
use super::content::{Content, KeptPartition};
use super::encode::decode_batch;
use super::open::{Opened, Pin};
use super::prune::wanted;
use super::summary::PartitionSummary;

/// Reads a cached table.
///
/// Shape: the projected columns as they were cached; the partitions of the plan that was cached, or
/// those that it is clustered into.
#[derive(Debug, Clone)]
pub(crate) struct CacheScanExec {
    content: Arc<Content>,
    projection: Arc<[usize]>,
    schema: SchemaRef,
    /// Over the content's columns.
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// Filters that operators above find while they run, over the projected columns.
    dynamic_filters: Vec<Arc<dyn PhysicalExpr>>,
    pin: Arc<OnceCell<Pin>>,
    /// What was known of the partitions at planning, all of them.
    known: Option<Arc<Known>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// What is known of the rows before they are read.
#[derive(Debug)]
struct Known {
    /// Of each partition.
    statistics: Vec<Arc<Statistics>>,
    /// Of all.
    total: Arc<Statistics>,
    batch_count: usize,
    /// Batches that the filter does not skip.
    wanted_count: usize,
}

/// What a stream counts.
#[derive(Debug, Clone)]
struct Counts {
    baseline: BaselineMetrics,
    skipped_batches: Count,
    passing_partitions: Count,
}

impl CacheScanExec {
    /// Plans to read the columns `projection` of a content, of which only what passes `filter` is
    /// asked for.
    ///
    /// # Errors
    /// If there is no such column.
    pub(super) fn try_new(
        content: &Arc<Content>,
        projection: Vec<usize>,
        filter: Option<Arc<dyn PhysicalExpr>>,
    ) -> Result<Self> {
        let schema = Arc::new(content.schema.project(&projection)?);
        let pin = Pin::ready(content);
        let known = match pin.as_ref().and_then(Pin::summaries) {
            Some(summaries) => {
                Some(Arc::new(known(content, &projection, filter.as_ref(), &summaries)?))
            }
            None => None,
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            partitioning(content, &projection, &schema),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Ok(Self {
            content: Arc::clone(content),
            projection: projection.into(),
            schema,
            filter,
            dynamic_filters: Vec::new(),
            pin: Arc::new(OnceCell::new_with(pin)),
            known,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// The same scan for another query: pinned to nothing yet.
    pub(super) fn unpinned(&self) -> Self {
        Self { pin: Arc::new(OnceCell::new()), known: None, ..self.clone() }
    }

    /// Returns whether each partition is the same whenever it is read.
    pub(super) fn is_narrow(&self) -> bool {
        self.content.is_narrow()
    }

    async fn open(self, partition: usize, counts: Counts) -> Result<SendableRecordBatchStream> {
        let pin = self.pin.get_or_try_init(|| Pin::new(&self.content)).await?;
        match pin.open(partition).await? {
            Opened::Kept(kept) => Ok(self.read(kept, counts)),
            Opened::Passing(rows) => {
                counts.passing_partitions.add(1);
                let (all, projection) = (Arc::clone(&self.content.schema), self.projection);
                let rows = rows.map(move |batch| {
                    let batch = fitted(batch?, &all)?.project(&projection)?;
                    counts.baseline.record_output(batch.num_rows());
                    Ok(batch)
                });
                Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema, rows)))
            }
        }
    }

    fn read(self, kept: KeptPartition, counts: Counts) -> SendableRecordBatchStream {
        let KeptPartition { reader, summary } = kept;
        let wanted = self.wanted(&summary);
        let skipped = wanted.iter().filter(|is_wanted| !**is_wanted).count();
        counts.skipped_batches.add(skipped);
        let reader = reader.only(wanted.into());
        let (projection, schema) = (self.projection, Arc::clone(&self.schema));
        let content = self.content;
        let rows = reader.map(move |batch| {
            let batch = batch.map_err(|error| content.unreadable(error))?;
            let _timer = counts.baseline.elapsed_compute().timer();
            let batch: RecordBatch = decode_batch(&batch, &projection, &schema)?;
            counts.baseline.record_output(batch.num_rows());
            Ok::<_, DataFusionError>(batch)
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema, rows))
    }

    /// Returns which batches of a partition may have rows that pass all filters.
    fn wanted(&self, summary: &PartitionSummary) -> Vec<bool> {
        let mut all = vec![true; summary.batch_count];
        let schema = &self.content.schema;
        // What operators above found is in terms of the projected columns.
        let found = self.dynamic_filters.iter().filter_map(|filter| self.over_all(filter).ok());
        for filter in self.filter.iter().cloned().chain(found) {
            if let Some(of_filter) = wanted(&filter, schema, summary) {
                for (all, of_filter) in all.iter_mut().zip(of_filter) {
                    *all &= of_filter;
                }
            }
        }
        all
    }
}

impl CacheScanExec {
    /// Puts a filter over the projected columns in terms of all columns.
    fn over_all(&self, filter: &Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let all = &self.content.schema;
        let moved = Arc::clone(filter).transform(|expr| {
            let Some(column) = expr.downcast_ref::<Column>() else {
                return Ok(Transformed::no(expr));
            };
            match self.projection.get(column.index()) {
                Some(place) => {
                    let column = Column::new(all.field(*place).name(), *place);
                    Ok(Transformed::yes(Arc::new(column) as Arc<dyn PhysicalExpr>))
                }
                None => datafusion::common::internal_err!("no column {column} in a cached table"),
            }
        })?;
        Ok(moved.data)
    }
}

fn known(
    content: &Content,
    projection: &[usize],
    filter: Option<&Arc<dyn PhysicalExpr>>,
    summaries: &[Arc<PartitionSummary>],
) -> Result<Known> {
    let total = Statistics::try_merge_iter(
        summaries.iter().map(|summary| &summary.statistics),
        &content.schema,
    )?;
    let shown = |statistics: Statistics| {
        let projected = statistics.project(Some(&projection));
        // With a filter, these are of the rows before it.
        Arc::new(if filter.is_some() { projected.to_inexact() } else { projected })
    };
    let wanted_of = |summary: &Arc<PartitionSummary>| {
        let wanted = filter.and_then(|filter| wanted(filter, &content.schema, summary));
        wanted.map_or(summary.batch_count, |all| all.iter().filter(|wanted| **wanted).count())
    };
    Ok(Known {
        statistics: summaries.iter().map(|summary| shown(summary.statistics.clone())).collect(),
        total: shown(total),
        batch_count: summaries.iter().map(|summary| summary.batch_count).sum(),
        wanted_count: summaries.iter().map(wanted_of).sum(),
    })
}

/// Returns how the rows are spread: by their values, if the table is clustered by columns that are
/// all read.
fn partitioning(content: &Content, projection: &[usize], schema: &SchemaRef) -> Partitioning {
    let count = content.partition_count();
    let columns = content.clustered.as_ref().and_then(|clustered| {
        let of_column = |column: &usize| {
            let place = projection.iter().position(|projected| projected == column)?;
            Some(Arc::new(Column::new(schema.field(place).name(), place)) as Arc<dyn PhysicalExpr>)
        };
        clustered.iter().map(of_column).collect::<Option<Vec<_>>>()
    });
    match columns {
        Some(columns) => Partitioning::Hash(columns, count),
        None => Partitioning::UnknownPartitioning(count),
    }
}

impl DisplayAs for CacheScanExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        if matches!(format, DisplayFormatType::TreeRender) {
            writeln!(f, "table={}", self.content.name)?;
            return writeln!(f, "projection={}", names.join(", "));
        }
        write!(
            f,
            "CacheScanExec: table={}, partitions={}, projection=[{}]",
            self.content.name,
            self.content.partition_count(),
            names.join(", ")
        )?;
        if let Some(columns) = &self.content.clustered {
            let name = |column: &usize| self.content.schema.field(*column).name().clone();
            let names: Vec<String> = columns.iter().map(name).collect();
            write!(f, ", clustered_by=[{}]", names.join(", "))?;
        }
        if let Some(filter) = &self.filter {
            write!(f, ", pruning={filter}")?;
            if let Some(known) = &self.known {
                write!(f, ", batches={} of {}", known.wanted_count, known.batch_count)?;
            }
        }
        for filter in &self.dynamic_filters {
            write!(f, ", pruning={filter}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for CacheScanExec {
    fn name(&self) -> &'static str {
        "CacheScanExec"
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
        for filter in self.filter.iter().chain(&self.dynamic_filters) {
            if f(filter)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    /// Forgets what it counted, and filters that come anew. What it is pinned to stays: all
    /// instances of one query's plan read the same rows.
    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self {
            dynamic_filters: Vec::new(),
            metrics: ExecutionPlanMetricsSet::new(),
            ..self.as_ref().clone()
        }))
    }

    fn execute(
        &self,
        partition: usize,
        _context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let counts = Counts {
            baseline: BaselineMetrics::new(&self.metrics, partition),
            skipped_batches: MetricBuilder::new(&self.metrics)
                .counter("skipped_batches", partition),
            passing_partitions: MetricBuilder::new(&self.metrics)
                .counter("passing_partitions", partition),
        };
        let schema = Arc::clone(&self.schema);
        // Opened when first asked: by then the operators above have found their filters.
        let rows = futures::stream::once(self.clone().open(partition, counts)).try_flatten();
        Ok(make_cooperative(Box::pin(RecordBatchStreamAdapter::new(schema, rows))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _input_stats: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let found = self.known.as_ref().and_then(|known| match args.partition() {
            Some(partition) => known.statistics.get(partition),
            None => Some(&known.total),
        });
        Ok(found.cloned().unwrap_or_else(|| Arc::new(Statistics::new_unknown(&self.schema))))
    }

    /// Takes the filters that operators above find while they run, to skip batches; what is left is
    /// filtered above.
    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        child_pushdown_result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let filters = child_pushdown_result.parent_filters;
        let found: Vec<_> = filters
            .iter()
            .map(|result| Arc::clone(&result.filter))
            .filter(|filter| DynamicFilterTracking::classify(filter).contains_dynamic_filter())
            .collect();
        let answers = vec![PushedDown::No; filters.len()];
        let propagation = FilterPushdownPropagation::with_parent_pushdown_result(answers);
        if found.is_empty() {
            return Ok(propagation);
        }
        let mut scan = self.clone();
        scan.dynamic_filters.extend(found);
        Ok(propagation.with_updated_node(Arc::new(scan)))
    }
}
