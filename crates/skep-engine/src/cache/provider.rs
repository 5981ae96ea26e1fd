//! A cached table as the planner sees it.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::conjunction;
use datafusion::physical_plan::ExecutionPlan;

use super::content::Content;
use super::scan::CacheScanExec;
use super::tables::CachedTable;

/// The content that a cached table had when a query was planned.
#[derive(Debug)]
pub(crate) struct CacheProvider {
    content: Arc<Content>,
}

impl CacheProvider {
    pub(super) fn new(table: &CachedTable) -> Self {
        Self { content: table.content() }
    }
}

#[async_trait]
impl TableProvider for CacheProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.content.schema)
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
        let schema = &self.content.schema;
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
        Ok(Arc::new(CacheScanExec::try_new(&self.content, projection, filter)?))
    }

    /// Filters skip batches; what is left is filtered above.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}
