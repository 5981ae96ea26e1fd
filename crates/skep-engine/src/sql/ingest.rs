//! Rows that a client sends, into a table.
//!
//! They are written as those of `CREATE TABLE AS` and `INSERT` are: into a place that nobody sees,
//! and shown when the last has come.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::{Column, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::scalar::ScalarValue;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use skep_proto::{IfExists, IfMissing, Ingest};

use crate::catalog::TEMP;
use crate::error::{Error, Result};
use crate::files::{self, Format, WriteMode};
use crate::session::Session;
use crate::sql::ddl::Place;
use crate::sql::statement::CreateTable;

impl Session {
    /// Puts rows into a table; returns how many. If an error comes among them, or this is dropped
    /// before their end, nothing has changed.
    ///
    /// Shape: `batches` have `schema`. Appended columns go by name; the table's other columns become
    /// NULL.
    ///
    /// # Errors
    /// The first of `batches`; [`Error::AlreadyExists`] and [`Error::NotFound`] as `ingest` says;
    /// whatever keeps the rows from being written.
    pub async fn ingest(
        &self,
        ingest: Ingest,
        schema: SchemaRef,
        batches: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<u64> {
        self.inner.policy.require_writer("ingest")?;
        let place = self.ingest_place(&ingest)?;
        let rows = rows_plan(schema, batches)?;
        let is_there = self.exists(&place)?;
        match (is_there, ingest.if_missing, ingest.if_exists) {
            (true, _, IfExists::Fail) => {
                Err(Error::AlreadyExists { kind: "table", name: ingest.table })
            }
            (true, _, IfExists::Append) => self.append(&place, rows).await,
            (false, IfMissing::Fail, _) => {
                let known = self.inner.catalog.table_names(&self.scope().schema);
                let known = known.iter().map(String::as_str);
                Err(Error::not_found("table", ingest.table, known))
            }
            (true, _, IfExists::Replace) | (false, IfMissing::Create, _) => {
                let or_replace = ingest.if_exists == IfExists::Replace;
                let create = CreateTable { or_replace, ..CreateTable::default() };
                let written = self.fill_managed(place, create, Format::Parquet, rows).await?;
                Ok(written)
            }
        }
    }

    fn ingest_place(&self, ingest: &Ingest) -> Result<Place> {
        let name = ingest.table.clone();
        if name.is_empty() {
            return Err(Error::plan("a table needs a name"));
        }
        match (ingest.schema.as_deref(), ingest.is_temporary) {
            (None | Some(TEMP), true) | (Some(TEMP), false) => Ok(Place::Temporary { name }),
            (Some(schema), true) => Err(Error::plan(format!(
                "a temporary table has no schema, but \"{schema}\" is given"
            ))),
            (Some(schema), false) => self.persistent_place(schema.to_owned(), name),
            (None, false) => self.persistent_place(self.scope().schema, name),
        }
    }

    async fn append(&self, place: &Place, rows: LogicalPlan) -> Result<u64> {
        let catalog = &self.inner.catalog;
        let (reference, entry) = match place {
            Place::Temporary { name } => {
                (TableReference::partial(TEMP, name.as_str()), catalog.temporary(name))
            }
            Place::Persistent { schema, name } => {
                let snapshot = catalog.persistent().snapshot()?;
                let entry = snapshot.table(schema, name).cloned();
                (TableReference::partial(schema.as_str(), name.as_str()), entry)
            }
        };
        let Some(entry) = entry else {
            return Err(Error::not_found("table", reference.to_string(), []));
        };
        let target = self.write_target(&reference, &entry, WriteMode::Append)?;
        let rows = match &target.schema {
            Some(schema) => by_name(rows, schema)?,
            None => rows,
        };
        let state = self.state();
        let executor = self.inner.engine.executor.as_ref();
        let changed = self.cached_source_changed(&entry);
        files::write(&state, executor, rows, &target, changed).await
    }
}

/// Gives rows the columns of a table, by their names.
fn by_name(rows: LogicalPlan, table: &SchemaRef) -> Result<LogicalPlan> {
    let given = rows.schema().as_arrow().clone();
    for field in given.fields() {
        if table.field_with_name(field.name()).is_err() {
            let known = table.fields().iter().map(|field| field.name().as_str());
            return Err(Error::not_found("column", field.name(), known));
        }
    }
    let mut columns = Vec::with_capacity(table.fields().len());
    for field in table.fields() {
        let value = match given.field_with_name(field.name()) {
            Ok(_) => Expr::Column(Column::from_name(field.name())),
            Err(_) if field.is_nullable() => lit(ScalarValue::Null),
            Err(_) => {
                return Err(Error::plan(format!(
                    "the column \"{}\" is NOT NULL, and the rows have none",
                    field.name()
                )));
            }
        };
        columns.push(cast(value, field.data_type().clone()).alias(field.name()));
    }
    Ok(LogicalPlanBuilder::from(rows).project(columns)?.build()?)
}

/// Makes a plan of rows that come once.
fn rows_plan(
    schema: SchemaRef,
    batches: BoxStream<'static, Result<RecordBatch>>,
) -> Result<LogicalPlan> {
    let mut names = std::collections::HashSet::new();
    if let Some(field) = schema.fields().iter().find(|field| !names.insert(field.name())) {
        return Err(Error::plan(format!("column \"{}\" appears more than once", field.name())));
    }
    if schema.fields().is_empty() {
        return Err(Error::plan("the rows have no columns"));
    }
    let rows = Rows { schema: Arc::clone(&schema), batches: Mutex::new(Some(batches)) };
    let table = StreamingTable::try_new(schema, vec![Arc::new(rows)])?;
    Ok(LogicalPlanBuilder::scan("rows", provider_as_source(Arc::new(table)), None)?.build()?)
}

/// Rows that can be read once.
struct Rows {
    schema: SchemaRef,
    batches: Mutex<Option<BoxStream<'static, Result<RecordBatch>>>>,
}

impl PartitionStream for Rows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = self.batches.lock().take().unwrap_or_else(|| {
            let message = "rows that come once were read twice".to_owned();
            futures::stream::iter([Err(Error::Internal { message, source: None })]).boxed()
        });
        let batches = batches.map(|batch| batch.map_err(DataFusionError::from));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("schema", &self.schema).finish_non_exhaustive()
    }
}
