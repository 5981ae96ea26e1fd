//! The operator that reads a cached table.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Statistics, internal_err};
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
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use skep_store::PartitionReader;
use tokio::sync::OnceCell;

use super::build::fitted;
use super::content::{Content, HeldContent, KeptPartition};
use super::gather::gathered;
use super::groups::ScanGroups;
use super::hosted::{CachedInputs, CachedRows, CachedShape, HostedTable, RowsWanted, StoreFailure};
use super::known::Known;
use super::open::{Opened, Pin};
use super::prune::wanted;
use super::select::{Conditions, is_total};
use super::summary::PartitionSummary;
use super::tables::CachedTables;

/// Reads a cached table.
///
/// Shape: the projected columns as they were cached; the partitions of the plan that was cached, or
/// those that it is clustered into, or groups of them.
#[derive(Debug, Clone)]
pub struct CacheScanExec {
    shape: Arc<CachedShape>,
    /// Where the query was planned.
    held: Option<HeldContent>,
    rows: Rows,
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
    /// Which partitions each partition of the plan reads, unless it is that of its number.
    groups: Option<ScanGroups>,
    /// What was known of the partitions at planning, all of them.
    known: Option<Arc<Known>>,
    /// Batches that the filter does not skip, and all, as far as they were known at planning.
    batches: Option<(usize, usize)>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// Where the rows are.
#[derive(Debug, Clone)]
enum Rows {
    /// In the store of this process.
    Here { content: Arc<Content>, pin: Arc<OnceCell<Pin>> },
    /// With others. A task finds them through its [`CachedInputs`].
    Hosted {
        /// Not where the plan arrived from elsewhere.
        table: Option<Arc<dyn HostedTable>>,
        /// What the query calls the making of the table.
        producer: Option<u32>,
    },
}

/// All that a scan of a hosted table is, so that it can travel.
#[derive(Debug, Clone)]
pub struct CacheScanParts {
    /// The table.
    pub shape: Arc<CachedShape>,
    /// What the query calls the making of the table.
    pub producer: u32,
    /// The columns that are read.
    pub projection: Vec<usize>,
    /// What is asked for, over all columns.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Whether operators above rely on that.
    pub is_filter: bool,
    /// What operators above find, over the projected columns.
    pub dynamic_filters: Vec<Arc<dyn PhysicalExpr>>,
    /// Which partitions each partition of the plan reads, unless it is that of its number.
    pub groups: Option<Vec<Vec<usize>>>,
    /// Of how many batches the filter wants how many, as far as that was known.
    pub batches: Option<(usize, usize)>,
}

/// The rows of one partition, batch by batch; `None` where nothing of a batch passed.
type Passing = BoxStream<'static, Result<Option<RecordBatch>>>;

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
        held: &HeldContent,
        projection: Vec<usize>,
        filter: Option<Arc<dyn PhysicalExpr>>,
    ) -> Result<Self> {
        let content = &held.content;
        let shape = content.shape();
        let (rows, summaries) = match content.hosted() {
            Some(table) => {
                let summaries = table.summaries();
                (Rows::Hosted { table: Some(Arc::clone(table)), producer: None }, summaries)
            }
            None => {
                let (content, pin) = (Arc::clone(content), Pin::ready(held));
                let summaries = pin.as_ref().and_then(Pin::summaries);
                (Rows::Here { content, pin: Arc::new(OnceCell::new_with(pin)) }, summaries)
            }
        };
        let known = match summaries {
            Some(summaries) => {
                Some(Arc::new(Known::of(&shape, &projection, filter.as_ref(), &summaries)?))
            }
            None => None,
        };
        let mut scan = Self::over(shape, rows, projection, filter)?;
        scan.batches =
            known.as_ref().map(|known| (known.wanted_counts.iter().sum(), known.batch_count));
        scan.known = known;
        scan.held = Some(held.clone());
        Ok(scan)
    }

    /// Makes a scan out of what travelled.
    ///
    /// # Errors
    /// If there is no such column or partition, or groups share one.
    pub fn from_parts(parts: CacheScanParts) -> Result<Self> {
        let CacheScanParts {
            shape,
            producer,
            projection,
            filter,
            is_filter,
            dynamic_filters,
            groups,
            batches,
        } = parts;
        let rows = Rows::Hosted { table: None, producer: Some(producer) };
        let scan = Self::over(shape, rows, projection, filter)?;
        let scan = Self { is_filter, dynamic_filters, batches, ..scan };
        match groups {
            Some(groups) => scan.in_groups(groups),
            None => Ok(scan),
        }
    }

    /// Returns all that the scan is, if it is of a hosted table whose making has a name.
    pub fn parts(&self) -> Option<CacheScanParts> {
        Some(CacheScanParts {
            shape: Arc::clone(&self.shape),
            producer: self.producer()?,
            projection: self.projection.to_vec(),
            filter: self.filter.clone(),
            is_filter: self.is_filter,
            dynamic_filters: self.dynamic_filters.clone(),
            groups: self.groups.as_ref().map(|groups| groups.all().to_vec()),
            batches: self.batches,
        })
    }

    /// Returns what the table is.
    pub fn shape(&self) -> &Arc<CachedShape> {
        &self.shape
    }

    /// Returns which partitions of the table each partition of the plan reads, unless it is that of
    /// its number.
    pub fn groups(&self) -> Option<&ScanGroups> {
        self.groups.as_ref()
    }

    /// Returns whether its partitions are numbered by values, which operators may rely on.
    pub fn is_clustered(&self) -> bool {
        matches!(self.properties.output_partitioning(), Partitioning::Hash(_, _))
    }

    /// Returns which partitions may have rows that pass the filter, as far as that was known at
    /// planning.
    ///
    /// Shape: an entry for each partition of the table.
    pub fn wanted_partitions(&self) -> Vec<bool> {
        match &self.known {
            Some(known) => known.wanted_counts.iter().map(|count| *count > 0).collect(),
            None => vec![true; self.shape.partition_count],
        }
    }

    /// Returns a scan whose partition `i` reads the partitions `groups[i]`, one after the other.
    ///
    /// Partitions that are in no group are not read: those that the filter wants nothing of. If the
    /// scan is clustered, each group has the partition of its own number, or none.
    ///
    /// # Errors
    /// If groups have a partition twice, or one that the table has not got, or if a scan that is
    /// clustered would be so no more.
    pub fn in_groups(&self, groups: Vec<Vec<usize>>) -> Result<Self> {
        let count = self.shape.partition_count;
        let groups = ScanGroups::try_new(groups, count)?;
        if self.is_clustered() && !groups.keeps_numbers(count) {
            return internal_err!("groups of partitions that are numbered by their values");
        }
        Ok(self.clone().grouped(Some(groups)))
    }

    fn grouped(mut self, groups: Option<ScanGroups>) -> Self {
        let count = self.shape.partition_count;
        self.groups = groups.filter(|groups| !groups.is_one_to_one(count));
        if let Some(groups) = &self.groups
            && !self.is_clustered()
        {
            let partitioning = Partitioning::UnknownPartitioning(groups.all().len());
            let properties = self.properties.as_ref().clone().with_partitioning(partitioning);
            self.properties = Arc::new(properties);
        }
        self
    }

    /// Returns the table, if others keep it.
    pub fn hosted_table(&self) -> Option<&Arc<dyn HostedTable>> {
        match &self.rows {
            Rows::Hosted { table, .. } => table.as_ref(),
            Rows::Here { .. } => None,
        }
    }

    /// Returns what the query calls the making of a hosted table.
    pub fn producer(&self) -> Option<u32> {
        match &self.rows {
            Rows::Hosted { producer, .. } => *producer,
            Rows::Here { .. } => None,
        }
    }

    /// Returns the scan in a query that calls the making of the table `producer`.
    pub fn of_producer(&self, producer: u32) -> Self {
        let mut scan = self.clone();
        if let Rows::Hosted { producer: known, .. } = &mut scan.rows {
            *known = Some(producer);
        }
        scan
    }

    fn over(
        shape: Arc<CachedShape>,
        rows: Rows,
        projection: Vec<usize>,
        filter: Option<Arc<dyn PhysicalExpr>>,
    ) -> Result<Self> {
        let schema = Arc::new(shape.schema.project(&projection)?);
        let conditions = Conditions::of(filter.as_ref(), &projection, &shape.schema)?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            partitioning(&shape, &projection, &schema),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Ok(Self {
            shape,
            held: None,
            rows,
            projection: projection.into(),
            schema,
            filter,
            conditions: Arc::new(conditions),
            is_filter: false,
            dynamic_filters: Vec::new(),
            groups: None,
            known: None,
            batches: None,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// The same scan for another query: it holds on to nothing yet.
    pub(super) fn unpinned(&self) -> Self {
        let mut scan = Self { held: None, known: None, batches: None, ..self.clone() };
        if let Rows::Here { pin, .. } = &mut scan.rows {
            *pin = Arc::new(OnceCell::new());
        }
        scan
    }

    /// Returns whether each partition is the same whenever it is read.
    pub(super) fn is_narrow(&self) -> bool {
        self.shape.is_narrow
    }

    /// Returns the partitions of the table that one of the plan reads.
    fn partitions_of(&self, partition: usize) -> Result<Vec<usize>> {
        let found = match &self.groups {
            Some(groups) => groups.all().get(partition).cloned(),
            None => (partition < self.shape.partition_count).then(|| vec![partition]),
        };
        match found {
            Some(partitions) => Ok(partitions),
            None => internal_err!("partition {partition} of a scan of \"{}\"", self.shape.name),
        }
    }

    /// Opens a partition of the table. Whichever way its rows come, the conditions are applied to
    /// them.
    async fn open(
        self,
        partition: usize,
        context: Arc<TaskContext>,
        counts: Counts,
    ) -> Result<Passing> {
        let (content, pin) = match &self.rows {
            Rows::Here { content, pin } => (Arc::clone(content), Arc::clone(pin)),
            Rows::Hosted { .. } => return self.open_hosted(partition, &context, &counts),
        };
        let pin = pin.get_or_try_init(|| Pin::new(&content)).await?;
        match pin.open(partition).await? {
            Opened::Kept(kept) => {
                let KeptPartition { reader, summary } = *kept;
                let failure: StoreFailure = Arc::new(move |error| content.unreadable(error).into());
                Ok(self.read(reader, Some(&summary), failure, &counts))
            }
            Opened::Passing(rows) => {
                counts.passing_partitions.add(1);
                let (all, projection) = (Arc::clone(&content.schema), self.projection);
                let conditions = self.conditions;
                let rows = rows.map(move |batch| {
                    let batch = fitted(batch?, &all)?.project(&projection)?;
                    conditions.of_projected(batch)
                });
                Ok(rows.boxed())
            }
        }
    }

    fn open_hosted(
        self,
        partition: usize,
        context: &TaskContext,
        counts: &Counts,
    ) -> Result<Passing> {
        let inputs = context.session_config().get_extension::<CachedInputs>();
        let (Some(inputs), Some(producer)) = (inputs, self.producer()) else {
            return internal_err!("a scan of \"{}\" runs outside of a task", self.shape.name);
        };
        let wanted = RowsWanted {
            shape: &self.shape,
            producer,
            partition,
            projection: &self.projection,
            schema: &self.schema,
        };
        match inputs.0.open(wanted, context)? {
            CachedRows::Kept { reader, summary, failure } => {
                Ok(self.read(*reader, summary.as_deref(), failure, counts))
            }
            CachedRows::Plain(rows) => {
                counts.passing_partitions.add(1);
                let conditions = self.conditions;
                Ok(rows.map(move |batch| conditions.of_projected(batch?)).boxed())
            }
        }
    }

    fn read(
        self,
        reader: PartitionReader,
        summary: Option<&PartitionSummary>,
        failure: StoreFailure,
        counts: &Counts,
    ) -> Passing {
        let reader = match summary {
            Some(summary) => {
                let wanted = self.wanted(summary);
                let skipped = wanted.iter().filter(|is_wanted| !**is_wanted).count();
                counts.skipped_batches.add(skipped);
                reader.only(wanted.into())
            }
            None => reader,
        };
        let (projection, schema) = (self.projection, self.schema);
        let conditions = self.conditions;
        let time = counts.baseline.elapsed_compute().clone();
        let rows = reader.map(move |batch| {
            let batch = batch.map_err(|error| failure(error))?;
            let _timer = time.timer();
            conditions.of_encoded(&batch, &projection, &schema)
        });
        rows.boxed()
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
        let (projection, filter) = (self.projection.to_vec(), Some(conjunction(all)));
        let scan = match &self.held {
            Some(held) => Self::try_new(held, projection, filter)?,
            None => Self::over(Arc::clone(&self.shape), self.rows.clone(), projection, filter)?,
        };
        let Self { dynamic_filters, rows, metrics, groups, .. } = self;
        Ok(Self { is_filter: true, dynamic_filters, rows, metrics, ..scan }.grouped(groups))
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
        let own = self.held.as_ref().map(|held| &held.content);
        let Some(own) = own.filter(|own| !is_wanted(own)) else {
            return Ok(None);
        };
        let others = tables.alternatives(own);
        let is_alike = |other: &&HeldContent| other.content.schema == own.schema;
        let is_meant = |other: &&HeldContent| is_wanted(&other.content);
        let Some(other) = others.iter().filter(is_alike).find(is_meant) else {
            return Ok(None);
        };
        let scan = Self::try_new(other, self.projection.to_vec(), self.filter.clone())?;
        let dynamic_filters = self.dynamic_filters.clone();
        Ok(Some(Self { is_filter: self.is_filter, dynamic_filters, ..scan }))
    }

    /// Returns which batches of a partition may have rows that pass all filters.
    fn wanted(&self, summary: &PartitionSummary) -> Vec<bool> {
        let mut all = vec![true; summary.batch_count];
        let schema = &self.shape.schema;
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
        let all = &self.shape.schema;
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

/// Returns how the rows are spread: by their values, if the table is clustered by columns that are
/// all read.
fn partitioning(shape: &CachedShape, projection: &[usize], schema: &SchemaRef) -> Partitioning {
    let count = shape.partition_count;
    let columns = shape.clustered.as_ref().and_then(|clustered| {
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
            writeln!(f, "table={}", self.shape.name)?;
            return writeln!(f, "projection={}", names.join(", "));
        }
        let all = self.shape.partition_count;
        write!(f, "CacheScanExec: table={}, partitions=", self.shape.name)?;
        if let Some(groups) = &self.groups {
            let (read, tasks) = (groups.partition_count(), groups.all().len());
            let of_all = if read < all { format!(" of {all}") } else { String::new() };
            let plural = if tasks == 1 { "" } else { "s" };
            write!(f, "{read}{of_all} in {tasks} task{plural}")?;
        } else {
            write!(f, "{all}")?;
        }
        write!(f, ", projection=[{}]", names.join(", "))?;
        if let Some(columns) = &self.shape.clustered {
            let name = |column: &usize| self.shape.schema.field(*column).name().clone();
            let names: Vec<String> = columns.iter().map(name).collect();
            write!(f, ", clustered_by=[{}]", names.join(", "))?;
        }
        if let Some(filter) = &self.filter {
            let what = if self.is_filter { "filter" } else { "pruning" };
            write!(f, ", {what}={filter}")?;
            if let Some((wanted, all)) = self.batches {
                write!(f, ", batches={wanted} of {all}")?;
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
        let batch_size = context.session_config().batch_size();
        let (scan, baseline) = (self.clone(), counts.baseline.clone());
        // Each is opened when its turn comes: by then the operators above have found their filters.
        let rows = futures::stream::iter(self.partitions_of(partition)?.into_iter().map(Ok));
        let rows = rows.and_then(move |partition| {
            scan.clone().open(partition, Arc::clone(&context), counts.clone())
        });
        let rows = gathered(rows.try_flatten(), Arc::clone(&schema), batch_size, baseline);
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
        let all = match (&self.known, args.partition()) {
            (Some(known), Some(partition)) => {
                known.of_partitions(&self.partitions_of(partition)?, &self.schema)?
            }
            (Some(known), None) => Arc::clone(&known.total),
            (None, _) => Arc::new(Statistics::new_unknown(&self.schema)),
        };
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
