//! The table that queries scan: lists its files anew for each query, prunes, and hands the rest to
//! DataFusion's readers.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use async_trait::async_trait;
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::common::Result as DfResult;
use datafusion::datasource::TableType;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::union::UnionExec;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use parking_lot::Mutex;

use super::check::{FileShape, check};
use super::delimited::Dialect;
use super::format::Format;
use super::listing::{FoundFile, list};
use super::location::Location;
use super::options::Rules;
use super::partition::PartitionColumns;
use super::prune::{is_partition_filter, prune};
use super::scan::{PartFile, ScanGroup, scan_group};
use super::schema::check_header;
use super::table::FileTable;
use super::text::{reader_schema, value_expr};
use crate::error::{Error, Result};

/// Files whose content is checked at the same time.
const CONCURRENCY: usize = 16;

/// A table over files.
#[derive(Debug)]
pub(crate) struct FilesProvider {
    table: FileTable,
    rules: Rules,
    locations: Vec<Location>,
    /// The columns in the files.
    file_schema: SchemaRef,
    partition_columns: PartitionColumns,
    /// The columns in the files, then those of the directories.
    schema: SchemaRef,
    checked: CheckedFiles,
}

impl FilesProvider {
    pub(super) fn new(
        table: FileTable,
        rules: Rules,
        locations: Vec<Location>,
        file_schema: SchemaRef,
        partition_columns: PartitionColumns,
        checked: CheckedFiles,
    ) -> Result<Self> {
        if let Some(location) =
            locations.iter().find(|location| location.store != locations[0].store)
        {
            return Err(Error::unsupported(
                format!("a table over two stores ({} and {})", locations[0].text, location.text),
                "make two tables and UNION ALL them",
            ));
        }
        let mut fields: Vec<Field> =
            file_schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        for (name, data_type) in &partition_columns {
            if fields.iter().any(|field| field.name() == name) {
                return Err(Error::plan(format!(
                    "column \"{name}\" is both in the files and in the names of directories"
                )));
            }
            fields.push(Field::new(name, data_type.clone(), true));
        }
        let schema = Arc::new(Schema::new(fields));
        for sort in table.order.iter().flatten() {
            schema.field_with_name(&sort.column).map_err(|_error| Error::NotFound {
                kind: "column",
                name: sort.column.clone(),
                position: None,
                hint: Some("WITH ORDER names columns of the table".to_owned()),
            })?;
        }
        Ok(Self { table, rules, locations, file_schema, partition_columns, schema, checked })
    }

    /// Returns the columns that are in the files.
    pub(crate) fn file_schema(&self) -> &SchemaRef {
        &self.file_schema
    }

    /// Returns the columns that directories give.
    pub(crate) fn partition_columns(&self) -> &PartitionColumns {
        &self.partition_columns
    }

    /// Lists the files as they are now, each checked.
    ///
    /// # Errors
    /// [`Error::File`] naming what is missing or damaged.
    pub(crate) async fn files(
        &self,
        runtime: &RuntimeEnv,
    ) -> Result<Vec<(FoundFile, Option<FileShape>)>> {
        let mut files: Vec<FoundFile> = Vec::new();
        for location in &self.locations {
            match list(runtime, location, &self.rules).await {
                // A declared table may have lost, or not yet got, its files.
                Err(Error::File { missing: true, .. })
                    if self.table.schema.is_some() && location.pattern.is_none() => {}
                other => files.extend(other?),
            }
        }
        // Locations may overlap; a file is read once.
        let mut seen = std::collections::HashSet::new();
        files.retain(|file| seen.insert(file.meta.location.clone()));
        self.checked.check(runtime, files, &self.rules).await
    }

    fn order(&self) -> DfResult<Vec<LexOrdering>> {
        let mut orders = Vec::with_capacity(self.table.order.len());
        for order in &self.table.order {
            let columns: Vec<PhysicalSortExpr> = order
                .iter()
                .map(|sort| {
                    let options =
                        SortOptions { descending: !sort.ascending, nulls_first: sort.nulls_first };
                    Ok(PhysicalSortExpr::new(col(&sort.column, &self.schema)?, options))
                })
                .collect::<DfResult<_>>()?;
            orders.extend(LexOrdering::new(columns));
        }
        Ok(orders)
    }

    /// Makes values of what the CSV reader reads as text.
    fn with_values(
        &self,
        state: &dyn Session,
        plan: Arc<dyn ExecutionPlan>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let input = plan.schema();
        let df_schema = DFSchema::try_from(input.as_ref().clone())?;
        let mut is_changed = false;
        let mut exprs: Vec<ProjectionExpr> = Vec::with_capacity(input.fields().len());
        for (i, field) in input.fields().iter().enumerate() {
            let declared = self.file_schema.field_with_name(field.name()).ok();
            let value = match declared {
                Some(declared) => value_expr(&self.rules.csv, declared)?,
                None => None,
            };
            let expr: Arc<dyn PhysicalExpr> = match value {
                Some(value) => {
                    is_changed = true;
                    state.create_physical_expr(value.unalias(), &df_schema)?
                }
                None => {
                    Arc::new(datafusion::physical_expr::expressions::Column::new(field.name(), i))
                }
            };
            exprs.push(ProjectionExpr { expr, alias: field.name().clone() });
        }
        if !is_changed {
            return Ok(plan);
        }
        Ok(Arc::new(ProjectionExec::try_new(exprs, plan)?))
    }
}

/// What a scan reads by one configuration of one reader.
type GroupKey = (ObjectStoreUrl, FileShape, u8);

#[async_trait]
impl TableProvider for FilesProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let runtime = state.runtime_env();
        let files = self.files(runtime).await?;
        let (on_partitions, on_rows): (Vec<&Expr>, Vec<&Expr>) =
            filters.iter().partition(|filter| is_partition_filter(filter, &self.partition_columns));
        let files = prune(state, files, &self.partition_columns, &on_partitions)?;
        let has_row_filters = !on_rows.is_empty();

        let mut groups: Vec<(GroupKey, Vec<PartFile>)> = Vec::new();
        for file in files {
            let dialect = Dialect::of(&self.rules.csv, file.found.name());
            let key = (file.found.store.clone(), file.shape, dialect.delimiter);
            match groups.iter_mut().find(|(other, _)| *other == key) {
                Some((_, group)) => group.push(file),
                None => groups.push((key, vec![file])),
            }
        }
        let is_csv = self.rules.format == Format::Csv;
        let reader = match is_csv {
            true => reader_schema(&self.rules.csv, &self.file_schema),
            false => Arc::clone(&self.file_schema),
        };
        let mut plans = Vec::with_capacity(groups.len());
        for (_, files) in groups {
            let group = ScanGroup {
                rules: &self.rules,
                file_schema: &reader,
                table_schema: &self.schema,
                partition_columns: &self.partition_columns,
                order: self.order()?,
                files,
            };
            let limit = limit.filter(|_| !has_row_filters);
            let plan = scan_group(state, group, projection, limit).await?;
            plans.push(if is_csv { self.with_values(state, plan)? } else { plan });
        }
        match plans.len() {
            0 => {
                let schema = match projection {
                    Some(indices) => Arc::new(self.schema.project(indices)?),
                    None => Arc::clone(&self.schema),
                };
                Ok(Arc::new(EmptyExec::new(schema)))
            }
            1 => Ok(plans.swap_remove(0)),
            _ => UnionExec::try_new(plans),
        }
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|filter| match is_partition_filter(filter, &self.partition_columns) {
                true => TableProviderFilterPushDown::Exact,
                false => TableProviderFilterPushDown::Inexact,
            })
            .collect())
    }
}

/// Which files have been looked at, so that each is checked once as long as it does not change.
#[derive(Debug, Default)]
pub(crate) struct CheckedFiles {
    seen: Mutex<HashMap<Path, SeenFile>>,
    /// The header that CSV files must have, once it is known.
    header: OnceLock<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SeenFile {
    size: u64,
    modified: SystemTime,
    shape: Option<FileShape>,
}

impl CheckedFiles {
    /// Says what header CSV files seen from now on must have.
    pub(super) fn expect_header(&self, schema: &Schema) {
        self.header
            .get_or_init(|| schema.fields().iter().map(|field| field.name().clone()).collect());
    }

    /// Checks the files that are new or have changed; their order stays.
    ///
    /// # Errors
    /// [`Error::File`] naming the first damaged one.
    pub(super) async fn check(
        &self,
        runtime: &RuntimeEnv,
        files: Vec<FoundFile>,
        rules: &Rules,
    ) -> Result<Vec<(FoundFile, Option<FileShape>)>> {
        let result: Vec<(FoundFile, Option<FileShape>)> = futures::stream::iter(files)
            .map(|file| async move {
                let modified = SystemTime::from(file.meta.last_modified);
                let known = self.seen.lock().get(&file.meta.location).cloned();
                if let Some(known) = known
                    && known.size == file.meta.size
                    && known.modified == modified
                {
                    return Ok((file, known.shape));
                }
                let shape = check(runtime, &file, rules).await?;
                if let (Some(header), Some(shape)) = (self.header.get(), shape) {
                    check_header(runtime, rules, &file, shape, header).await?;
                }
                let seen = SeenFile { size: file.meta.size, modified, shape };
                self.seen.lock().insert(file.meta.location.clone(), seen);
                Ok::<_, Error>((file, shape))
            })
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        let mut seen = self.seen.lock();
        if seen.len() > result.len() {
            // Files that are gone are forgotten, or the map would grow for ever.
            let current: std::collections::HashSet<&Path> =
                result.iter().map(|(file, _)| &file.meta.location).collect();
            seen.retain(|path, _| current.contains(path));
        }
        drop(seen);
        Ok(result)
    }
}

/// Returns whether a type can be the value of a directory's name.
pub(crate) fn can_partition(data_type: &DataType) -> bool {
    !data_type.is_nested() && !matches!(data_type, DataType::Null | DataType::Binary)
}
