//! The operator that reads a cached table.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{
    EquivalenceProperties, Partitioning, PhysicalExpr, conjunction, split_conjunction,
};
use datafusion::physical_plan::PlanProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use tokio::sync::OnceCell;

use super::content::{Content, HeldContent};
use super::groups::ScanGroups;
use super::hosted::{CachedShape, HostedTable};
use super::known::Known;
use super::open::Pin;
use super::output::{ScanOutput, is_text};
use super::select::{Conditions, is_total};
use super::tables::CachedTables;

mod operator;
mod read;

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
    /// The columns that are read: those that are given, then those that conditions alone are about.
    read: Arc<[usize]>,
    read_schema: SchemaRef,
    output: ScanOutput,
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
    /// Which of the projected columns are given as one number of all.
    pub coded: Vec<usize>,
    /// Whether texts are given without views.
    pub is_plain: bool,
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
                let read = columns_read(&projection, filter.as_ref(), &shape.schema);
                Some(Arc::new(Known::of(&shape, &read, filter.as_ref(), &summaries)?))
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
            coded,
            is_plain,
        } = parts;
        let rows = Rows::Hosted { table: None, producer: Some(producer) };
        let scan = Self::over(shape, rows, projection, filter)?;
        let scan = Self { is_filter, dynamic_filters, batches, ..scan };
        let scan = match groups {
            Some(groups) => scan.in_groups(groups)?,
            None => scan,
        };
        let scan = if is_plain { scan.plain() } else { scan };
        if coded.is_empty() { Ok(scan) } else { scan.coded(&coded) }
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
            coded: self.output.codes().to_vec(),
            is_plain: self.output.is_plain(),
        })
    }

    /// Returns the same scan, which gives these of its columns as one number of all, for the groups
    /// of a [`DecodeGroupsExec`](super::DecodeGroupsExec).
    ///
    /// # Errors
    /// If there is no such column, or it is no text.
    pub(super) fn coded(&self, columns: &[usize]) -> Result<Self> {
        let output = self.output.coded(columns)?;
        Ok(Self { output, ..self.clone() }.with_properties_of_output())
    }

    /// Returns the same scan, which gives texts without views.
    pub(super) fn plain(&self) -> Self {
        Self { output: self.output.plain(), ..self.clone() }.with_properties_of_output()
    }

    /// Whether it gives its columns as queries see them.
    pub(super) fn gives_as_seen(&self) -> bool {
        self.output.codes().is_empty() && !self.output.is_plain()
    }

    /// Whether a column is a text that is kept as dictionaries that are small against its rows, and
    /// has no more values than so many bits can number.
    pub(super) fn has_few(&self, column: usize, bits: usize) -> bool {
        let field = self.output.seen().fields().get(column);
        field.is_some_and(|field| is_text(field.data_type()))
            && self.known.as_ref().is_some_and(|known| known.has_few(column, bits))
    }

    /// The properties of what it gives. Where columns lie is told of columns as they are seen alone.
    fn with_properties_of_output(mut self) -> Self {
        let count = self.properties.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(self.output.schema())),
            Partitioning::UnknownPartitioning(count),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let cooperative = properties.with_scheduling_type(SchedulingType::Cooperative);
        self.properties = Arc::new(cooperative);
        self
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

    /// Returns which columns of the table it reads, and what they are; the first of them are those
    /// that it gives.
    pub(super) fn columns_read(&self) -> (&[usize], &SchemaRef) {
        (&self.read, &self.read_schema)
    }

    /// Returns how many columns it gives.
    pub(super) fn width(&self) -> usize {
        self.projection.len()
    }

    /// Returns the conditions that it applies to each row.
    pub(super) fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// Returns which partitions it reads that may have rows which pass the filter, as far as that was
    /// known at planning.
    ///
    /// Shape: an entry for each partition of the table.
    pub fn wanted_partitions(&self) -> Vec<bool> {
        let mut wanted = match &self.groups {
            Some(_) => vec![false; self.shape.partition_count],
            None => vec![true; self.shape.partition_count],
        };
        for partition in self.groups.iter().flat_map(|groups| groups.all().iter().flatten()) {
            wanted[*partition] = true;
        }
        if let Some(known) = &self.known {
            for (wanted, count) in wanted.iter_mut().zip(&known.wanted_counts) {
                *wanted &= *count > 0;
            }
        }
        wanted
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
        let read = columns_read(&projection, filter.as_ref(), &shape.schema);
        let read_schema = Arc::new(shape.schema.project(&read)?);
        let conditions = Conditions::of(filter.as_ref(), &read, &shape.schema)?;
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
            read: read.into(),
            read_schema,
            output: ScanOutput::as_seen(schema),
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
        let projection = self.projection.to_vec();
        let scan = self.replanned(projection, Some(conjunction(all)))?;
        Ok(Self { is_filter: true, ..scan })
    }

    /// The same scan of other columns, or with another filter.
    fn replanned(
        self,
        projection: Vec<usize>,
        filter: Option<Arc<dyn PhysicalExpr>>,
    ) -> Result<Self> {
        let scan = match &self.held {
            Some(held) => Self::try_new(held, projection, filter)?,
            None => Self::over(Arc::clone(&self.shape), self.rows.clone(), projection, filter)?,
        };
        let Self { is_filter, dynamic_filters, rows, metrics, groups, .. } = self;
        Ok(Self { is_filter, dynamic_filters, rows, metrics, ..scan }.grouped(groups))
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

/// Returns the columns of a projection, then those that the rest of the conditions are about.
fn columns_read(
    projection: &[usize],
    filter: Option<&Arc<dyn PhysicalExpr>>,
    all: &Schema,
) -> Vec<usize> {
    let mut read = projection.to_vec();
    for condition in filter.map(|filter| split_conjunction(filter)).unwrap_or_default() {
        if !is_total(condition, all) {
            continue;
        }
        let mut columns: Vec<usize> =
            collect_columns(condition).iter().map(Column::index).collect();
        columns.sort_unstable();
        columns.retain(|column| !read.contains(column));
        read.extend(columns);
    }
    read
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
