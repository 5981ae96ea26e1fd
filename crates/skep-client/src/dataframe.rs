//! DataFrames over a coordinator's tables.
//!
//! A DataFrame is put together here and run there: it travels as a Substrait plan, in which tables and
//! functions are names. So nothing but the columns of its tables is known here, and none of its rows
//! are ever read here.

use std::sync::Arc;

use arrow_schema::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use datafusion_substrait::logical_plan::producer::to_substrait_plan;
use prost::Message;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::statement::Statement;

impl Client {
    /// Returns a table of the coordinator as a DataFrame; the name is as in SQL: `t`, `s.t`, `"T"`.
    ///
    /// It is run by [`execute_dataframe`](Self::execute_dataframe); its own `collect` has no rows to
    /// collect, and says so.
    ///
    /// # Errors
    /// `NotFound` if there is no such table; `Unavailable` if the connection is lost.
    pub async fn table(&self, name: &str) -> Result<DataFrame> {
        let schema = self.schema_of(format!("SELECT * FROM {name}")).await?;
        let table: Arc<dyn TableProvider> = Arc::new(RemoteTable { schema: Arc::new(schema) });
        let reference = TableReference::from(name);
        let scan = LogicalPlanBuilder::scan(reference, provider_as_source(table), None);
        let plan = scan.and_then(LogicalPlanBuilder::build).map_err(|error| unplanned(&error))?;
        Ok(DataFrame::new(SessionContext::new().state(), plan))
    }

    /// Runs a DataFrame over tables of the coordinator, there.
    ///
    /// # Errors
    /// `InvalidArgument` for a DataFrame that no Substrait plan says; as
    /// [`execute_substrait`](Self::execute_substrait) otherwise.
    pub async fn execute_dataframe(&self, frame: DataFrame) -> Result<Statement> {
        self.execute_substrait(substrait_plan(frame)?).await
    }
}

/// Writes a DataFrame as a Substrait plan: the bytes of a `substrait.Plan`.
///
/// # Errors
/// `InvalidArgument` for one that has what Substrait has not.
pub fn substrait_plan(frame: DataFrame) -> Result<Bytes> {
    let (state, plan) = frame.into_parts();
    let plan = to_substrait_plan(&plan, &state).map_err(|error| unplanned(&error))?;
    Ok(plan.encode_to_vec().into())
}

fn unplanned(error: &DataFusionError) -> Error {
    let message = format!("the DataFrame cannot be sent: {}", error.strip_backtrace());
    Error::invalid(message, "send the query as SQL")
}

/// A table that is elsewhere.
#[derive(Debug)]
struct RemoteTable {
    schema: SchemaRef,
}

#[async_trait]
impl TableProvider for RemoteTable {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let message = "the rows are at the coordinator: run it by Client::execute_dataframe";
        Err(DataFusionError::NotImplemented(message.to_owned()))
    }
}
