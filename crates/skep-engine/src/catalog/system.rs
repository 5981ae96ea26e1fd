//! The schema `system`: what a process shows of itself as tables.
//!
//! What there is to show is somebody else's, the cache's and a coordinator's, and comes through
//! [`SystemTables`]. The schema is there for all sessions, and can only be read.
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

/// The tables of the schema `system`.
#[derive(Debug, Clone)]
pub(crate) struct SystemSchema {
    tables: Arc<BTreeMap<String, Arc<TableEntry>>>,
    /// Whether those of a cluster are among them.
    has_cluster: bool,
}

impl SystemSchema {
    /// Takes the tables of a cluster, if there is one, and the engine's own.
    pub(crate) fn new(cluster: Option<Arc<dyn SystemTables>>, own: Arc<dyn SystemTables>) -> Self {
        let has_cluster = cluster.is_some();
        let mut tables = BTreeMap::new();
        for source in cluster.into_iter().chain([own]) {
            for (name, schema) in source.schemas() {
                let table = SystemTable { source: Arc::clone(&source), name, schema };
                let definition = Definition::System(Arc::new(table));
                tables.insert(name.to_owned(), Arc::new(TableEntry::new(definition, None)));
            }
        }
        Self { tables: Arc::new(tables), has_cluster }
    }

    pub(crate) fn table(&self, name: &str) -> Option<Arc<TableEntry>> {
        self.tables.get(name).cloned()
    }

    pub(crate) fn tables(&self) -> BTreeMap<String, Arc<TableEntry>> {
        self.tables.as_ref().clone()
    }

    /// Says where most of the schema is to be found, if what was not found was looked for in it and
    /// this engine is not a cluster's.
    pub(crate) fn explain_missing(&self, error: Error) -> Error {
        match error {
            Error::NotFound { kind, name, position, hint: _ }
                if !self.has_cluster && is_in_system(kind, &name) =>
            {
                let hint =
                    Some("here is system.cached_tables; others are on a coordinator".to_owned());
                Error::NotFound { kind, name, position, hint }
            }
            other => other,
        }
    }
}

fn is_in_system(kind: &str, name: &str) -> bool {
    let name = name.strip_prefix("skep.").unwrap_or(name);
    matches!(kind, "table" | "view")
        && name.strip_prefix(SYSTEM).is_some_and(|rest| rest.starts_with('.'))
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
