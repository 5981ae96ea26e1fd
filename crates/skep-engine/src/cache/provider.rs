//! A cached table as the planner sees it.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::conjunction;
use datafusion::physical_plan::ExecutionPlan;

use super::content::HeldContent;
use super::scan::CacheScanExec;
use super::tables::{CachedTable, CachedTables};

/// The content that a cached table had when a query was planned.
#[derive(Debug)]
pub(crate) struct CacheProvider {
    held: HeldContent,
    /// The table, if its content is to be made anew by its next use.
    waiting: Option<(Weak<CachedTables>, Arc<CachedTable>)>,
}

impl CacheProvider {
    /// Makes the provider of a table's content; `is_given` takes it as it is.
    pub(super) fn new(
        tables: &Arc<CachedTables>,
        table: &Arc<CachedTable>,
        held: &HeldContent,
        is_given: bool,
    ) -> Self {
        let waits = !is_given && table.waits_with(&held.content);
        let waiting = waits.then(|| (Arc::downgrade(tables), Arc::clone(table)));
        Self { held: held.clone(), waiting }
    }

    async fn held(&self, state: &dyn Session) -> Result<HeldContent> {
        let state = state.as_any().downcast_ref::<SessionState>();
        if let (Some((tables, table)), Some(state)) = (&self.waiting, state)
            && let Some(tables) = tables.upgrade()
        {
            return Ok(tables.relisted(state, table).await?);
        }
        Ok(self.held.clone())
    }
}

#[async_trait]
impl TableProvider for CacheProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.held.content.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let held = self.held(state).await?;
        let schema = &held.content.schema;
        let projection = match projection {
            Some(projection) => projection.clone(),
            None => (0..schema.fields().len()).collect(),
        };
        let columns = DFSchema::try_from(schema.as_ref().clone())?;
        let filters = filters
            .iter()
            .map(|filter| state.create_physical_expr(filter.clone(), &columns))
            .collect::<Result<Vec<_>>>()?;
        let filter = (!filters.is_empty()).then(|| conjunction(filters));
        Ok(Arc::new(CacheScanExec::try_new(&held, projection, filter)?))
    }

    /// Filters skip batches; what is left is filtered above.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}
