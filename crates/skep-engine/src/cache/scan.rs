//! The operator that reads a cached table.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::BatchCoalescer;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Statistics;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    DynamicFilterTracking, EquivalenceProperties, Partitioning, PhysicalExpr, conjunction,
    split_conjunction,
};
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::filter::FilterExec;
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
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::OnceCell;

use super::build::fitted;
use super::content::{Content, KeptPartition};
use super::open::{Opened, Pin};
use super::prune::wanted;
use super::select::{Conditions, is_total};
use super::summary::PartitionSummary;
use super::tables::CachedTables;

/// Reads a cached table.
///
/// Shape: the projected columns as they were cached; the partitions of the plan that was cached, or
/// those that it is clustered into.
#[derive(Debug, Clone)]
pub(crate) struct CacheScanExec {
    content: Arc<Content>,
    projection: Arc<[usize]>,
    schema: SchemaRef,
    /// Over the content's columns. Batches in which it finds nothing are skipped; those of its
    /// conditions that [`Conditions`] takes are applied to each row.
    filter: Option<Arc<dyn PhysicalExpr>>,
    conditions: Arc<Conditions>,
    /// Whether operators above rely on the conditions.
    is_filter: bool,
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
        let conditions = Conditions::of(filter.as_ref(), &projection, &content.schema)?;
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
            conditions: Arc::new(conditions),
            is_filter: false,
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

    /// Opens a partition. Whichever way its rows come, the conditions are applied to them.
    async fn open(
        self,
        partition: usize,
        batch_size: usize,
        counts: Counts,
    ) -> Result<SendableRecordBatchStream> {
        let pin = self.pin.get_or_try_init(|| Pin::new(&self.content)).await?;
        match pin.open(partition).await? {
            Opened::Kept(kept) => Ok(self.read(kept, batch_size, counts)),
            Opened::Passing(rows) => {
                counts.passing_partitions.add(1);
                let (all, projection) = (Arc::clone(&self.content.schema), self.projection);
                let (conditions, schema) = (self.conditions, Arc::clone(&self.schema));
                let rows = rows.map(move |batch| {
                    let batch = fitted(batch?, &all)?.project(&projection)?;
                    conditions.of_projected(batch)
                });
                let rows = gathered(rows, schema, batch_size, counts.baseline);
                Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema, rows)))
            }
        }
    }

    fn read(
        self,
        kept: KeptPartition,
        batch_size: usize,
        counts: Counts,
    ) -> SendableRecordBatchStream {
        let KeptPartition { reader, summary } = kept;
        let wanted = self.wanted(&summary);
        let skipped = wanted.iter().filter(|is_wanted| !**is_wanted).count();
        counts.skipped_batches.add(skipped);
        let reader = reader.only(wanted.into());
        let (projection, schema) = (self.projection, Arc::clone(&self.schema));
        let (content, conditions) = (self.content, self.conditions);
        let time = counts.baseline.elapsed_compute().clone();
        let rows = reader.map(move |batch| {
            let batch = batch.map_err(|error| content.unreadable(error))?;
            let _timer = time.timer();
            conditions.of_encoded(&batch, &projection, &schema)
        });
        let rows = gathered(rows, Arc::clone(&self.schema), batch_size, counts.baseline);
        Box::pin(RecordBatchStreamAdapter::new(self.schema, rows))
    }

    /// The same scan, which gives only rows that pass these conditions over all columns, too.
    fn with_conditions(self, taken: Vec<Arc<dyn PhysicalExpr>>) -> Result<Self> {
        let mut all: Vec<Arc<dyn PhysicalExpr>> = match &self.filter {
            Some(filter) => split_conjunction(filter).into_iter().cloned().collect(),
            None => Vec::new(),
        };
        // Most came with the planning of the scan already.
        for condition in taken {
            if !all.contains(&condition) {
                all.push(condition);
            }
        }
        let scan = Self::try_new(&self.content, self.projection.to_vec(), Some(conjunction(all)))?;
        let Self { dynamic_filters, pin, metrics, .. } = self;
        Ok(Self { is_filter: true, dynamic_filters, pin, metrics, ..scan })
    }

    /// The same scan of rows that are clustered by these of the projected columns, if the plan is
    /// cached so, too, and these are not.
    pub(super) fn clustered_by(
        &self,
        columns: &[usize],
        tables: &CachedTables,
    ) -> Result<Option<Self>> {
        let of_content = columns.iter().map(|column| self.projection.get(*column).copied());
        let Some(wanted) = of_content.collect::<Option<Vec<_>>>() else { return Ok(None) };
        let is_wanted = |content: &Content| {
            content.clustered.as_ref().is_some_and(|own| {
                own.len() == wanted.len() && own.iter().all(|column| wanted.contains(column))
            })
        };
        if is_wanted(&self.content) {
            return Ok(None);
        }
        let others = tables.alternatives(&self.content);
        let is_alike = |other: &&Arc<Content>| other.schema == self.content.schema;
        let Some(other) = others.iter().filter(is_alike).find(|other| is_wanted(other)) else {
            return Ok(None);
        };
        let scan = Self::try_new(other, self.projection.to_vec(), self.filter.clone())?;
        let dynamic_filters = self.dynamic_filters.clone();
        Ok(Some(Self { is_filter: self.is_filter, dynamic_filters, ..scan }))
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

/// Leaves out what is empty, and gathers what filters left of batches into whole ones.
fn gathered(
    rows: impl Stream<Item = Result<Option<RecordBatch>>> + Send + 'static,
    schema: SchemaRef,
    batch_size: usize,
    counts: BaselineMetrics,
) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    // Rows without columns are only counted.
    let gathering = (!schema.fields().is_empty()).then(|| {
        BatchCoalescer::new(schema, batch_size)
            .with_biggest_coalesce_batch_size(Some(batch_size / 2))
    });
    let state = (Box::pin(rows), gathering, false);
    futures::stream::try_unfold(
        (state, counts),
        |((mut rows, mut gathering, mut ended), counts)| async move {
            loop {
                let whole = gathering.as_mut().and_then(BatchCoalescer::next_completed_batch);
                if let Some(batch) = whole {
                    counts.record_output(batch.num_rows());
                    return Ok(Some((batch, ((rows, gathering, ended), counts))));
                }
                if ended {
                    return Ok(None);
                }
                match (rows.next().await, &mut gathering) {
                    (Some(batch), gathering) => match (batch?, gathering) {
                        (Some(batch), Some(gathering)) => gathering.push_batch(batch)?,
                        (Some(batch), None) => {
                            counts.record_output(batch.num_rows());
                            return Ok(Some((batch, ((rows, None, ended), counts))));
                        }
                        // Nothing passed; others have their turn.
                        (None, _) => tokio::task::coop::consume_budget().await,
                    },
                    (None, gathering) => {
                        ended = true;
                        if let Some(gathering) = gathering {
                            gathering.finish_buffered_batch()?;
                        }
                    }
                }
            }
        },
    )
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
            let what = if self.is_filter { "filter" } else { "pruning" };
            write!(f, ", {what}={filter}")?;
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
        context: Arc<TaskContext>,
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
        let batch_size = context.session_config().batch_size();
        let rows =
            futures::stream::once(self.clone().open(partition, batch_size, counts)).try_flatten();
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
        let all = found.cloned().unwrap_or_else(|| Arc::new(Statistics::new_unknown(&self.schema)));
        if !self.is_filter {
            return Ok(all);
        }
        // As many rows as the operator would be thought to leave whose work this is.
        let Some(filter) = self.conditions.over_projected() else { return Ok(all) };
        FilterExec::try_new(filter, Arc::new(EmptyExec::new(Arc::clone(&self.schema))))?
            .statistics_from_inputs(&[all], args)
    }

    /// Takes conditions on rows that cannot fail; and the filters that operators above find while
    /// they run, to skip batches. The rest is filtered above.
    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        child_pushdown_result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let mut scan = self.clone();
        let mut answers = Vec::with_capacity(child_pushdown_result.parent_filters.len());
        let mut taken = Vec::new();
        for result in &child_pushdown_result.parent_filters {
            let filter = &result.filter;
            if DynamicFilterTracking::classify(filter).contains_dynamic_filter() {
                scan.dynamic_filters.push(Arc::clone(filter));
                answers.push(PushedDown::No);
            } else if is_total(filter, &self.schema) {
                taken.push(self.over_all(filter)?);
                answers.push(PushedDown::Yes);
            } else {
                answers.push(PushedDown::No);
            }
        }
        let is_changed =
            scan.dynamic_filters.len() > self.dynamic_filters.len() || !taken.is_empty();
        let propagation = FilterPushdownPropagation::with_parent_pushdown_result(answers);
        if !is_changed {
            return Ok(propagation);
        }
        if !taken.is_empty() {
            scan = scan.with_conditions(taken)?;
        }
        Ok(propagation.with_updated_node(Arc::new(scan)))
    }
}
