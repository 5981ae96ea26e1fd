//! The schema `system`: what a process shows of itself as tables.
//!
//! What there is to show is somebody else's, a coordinator's mostly, and comes through
//! [`SystemTables`]. The schema is there for all sessions of an engine that has it, and can only be
//! read.
//!
//! **Invariant:** rows are taken anew by each scan. Two scans in one query may see two moments.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::memory::DataSourceExec;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DfResult;
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;

use crate::access::{Principal, Role};
use crate::catalog::SYSTEM;
use crate::catalog::entry::{Definition, TableEntry};
use crate::error::{Error, Result};

/// What is shown in the schema `system`.
#[async_trait]
pub trait SystemTables: fmt::Debug + Send + Sync {
    /// Returns the tables with their columns, which stay the same; names are lower case.
    fn schemas(&self) -> Vec<(&'static str, SchemaRef)>;

    /// Returns the rows that a table has now, as far as this user may see them.
    ///
    /// Shape: the table's columns; any number of batches.
    ///
    /// # Errors
    /// Whatever keeps them from being known.
    async fn rows(&self, table: &str, viewer: &Principal) -> Result<Vec<RecordBatch>>;
}

/// The tables of the schema `system`, or that there is no such schema.
#[derive(Debug, Clone, Default)]
pub(crate) struct SystemSchema(Option<Arc<BTreeMap<String, Arc<TableEntry>>>>);

impl SystemSchema {
    pub(crate) fn new(source: Option<&Arc<dyn SystemTables>>) -> Self {
        let tables = |source: &Arc<dyn SystemTables>| {
            let entry = |(name, schema)| {
                let table = SystemTable { source: Arc::clone(source), name, schema };
                let definition = Definition::System(Arc::new(table));
                (name.to_owned(), Arc::new(TableEntry::new(definition, None)))
            };
            Arc::new(source.schemas().into_iter().map(entry).collect())
        };
        Self(source.map(tables))
    }

    pub(crate) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn table(&self, name: &str) -> Option<Arc<TableEntry>> {
        self.0.as_ref()?.get(name).cloned()
    }

    pub(crate) fn tables(&self) -> BTreeMap<String, Arc<TableEntry>> {
        self.0.as_ref().map(|tables| tables.as_ref().clone()).unwrap_or_default()
    }

    /// Says where the schema is to be found, if what was not found was looked for in it and this
    /// engine has none.
    pub(crate) fn explain_missing(&self, error: Error) -> Error {
        match error {
            Error::NotFound { kind, name, position, hint: _ }
                if !self.is_there() && is_in_system(kind, &name) =>
            {
                let hint = Some("system tables exist on a coordinator only".to_owned());
                Error::NotFound { kind, name, position, hint }
            }
            other => other,
        }
    }
}

fn is_in_system(kind: &str, name: &str) -> bool {
    let name = name.strip_prefix("skep.").unwrap_or(name);
    let rest = name.strip_prefix(SYSTEM);
    match kind {
        "schema" => rest == Some(""),
        "table" | "view" => rest.is_some_and(|rest| rest.starts_with('.')),
        _ => false,
    }
}

#[derive(Debug)]
struct SystemTable {
    source: Arc<dyn SystemTables>,
    name: &'static str,
    schema: SchemaRef,
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Takes the rows of now: a source in memory, which no executor sends away.
    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let viewer = state.config().get_extension::<Principal>();
        // Each session has one; without, there is nobody whose work it is.
        let viewer = viewer.unwrap_or_else(|| Arc::new(Principal::new("", Role::Reader)));
        let batches = self.source.rows(self.name, &viewer).await?;
        if batches.iter().any(|batch| batch.schema() != self.schema) {
            return Err(DataFusionError::from(Error::Internal {
                message: format!("the rows of {SYSTEM}.{} have other columns than it", self.name),
                source: None,
            }));
        }
        let schema = Arc::clone(&self.schema);
        let source = MemorySourceConfig::try_new(&[batches], schema, projection.cloned())?;
        Ok(DataSourceExec::from_data_source(source.with_limit(limit)))
    }
}
