//! Statements with parameters.

use arrow_array::RecordBatch;
use arrow_flight::IpcMessage;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult, ActionCreatePreparedSubstraitPlanRequest, Any,
    CommandPreparedStatementQuery, CommandPreparedStatementUpdate, DoPutPreparedStatementResult,
    DoPutUpdateResult, ProstMessageExt, SubstraitPlan,
};
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use futures::stream;
use prost::Message;

use crate::client::Client;
use crate::error::Result;
use crate::statement::Statement;

/// A statement that was looked at, and can be run any number of times with other parameters.
#[derive(Debug, Clone)]
pub struct Prepared {
    client: Client,
    handle: Bytes,
    schema: SchemaRef,
    parameters: SchemaRef,
}

impl Client {
    /// Prepares a statement, whose parameters are `?`, or `$1`, `$2` and so on.
    ///
    /// # Errors
    /// Whatever is wrong with it, with its place in the text.
    pub async fn prepare(&self, sql: &str) -> Result<Prepared> {
        let request =
            ActionCreatePreparedStatementRequest { query: sql.to_owned(), transaction_id: None };
        self.created("CreatePreparedStatement", request.as_any().encode_to_vec()).await
    }

    /// Prepares a query that is a Substrait plan: the bytes of a `substrait.Plan`.
    ///
    /// # Errors
    /// As [`execute_substrait`](Self::execute_substrait).
    pub async fn prepare_substrait(&self, plan: impl Into<Bytes>) -> Result<Prepared> {
        let plan = SubstraitPlan { plan: plan.into(), version: String::new() };
        let request =
            ActionCreatePreparedSubstraitPlanRequest { plan: Some(plan), transaction_id: None };
        self.created("CreatePreparedSubstraitPlan", request.as_any().encode_to_vec()).await
    }

    async fn created(&self, action: &str, body: Vec<u8>) -> Result<Prepared> {
        let answers = self.act(action, body).await?;
        let created = answers.first().and_then(|answer| {
            let any = Any::decode(answer.as_ref()).ok()?;
            any.unpack::<ActionCreatePreparedStatementResult>().ok()?
        });
        let Some(created) = created else {
            return Err(self.unexpected("the prepared statement has no handle"));
        };
        let schema = |bytes: Bytes| match bytes.is_empty() {
            true => Ok(Schema::empty()),
            false => Schema::try_from(IpcMessage(bytes)),
        };
        let columns = schema(created.dataset_schema).map_err(|error| self.unexpected(error))?;
        let parameters =
            schema(created.parameter_schema).map_err(|error| self.unexpected(error))?;
        Ok(Prepared {
            client: self.clone(),
            handle: created.prepared_statement_handle,
            schema: SchemaRef::new(columns),
            parameters: SchemaRef::new(parameters),
        })
    }
}

impl Prepared {
    /// Returns the columns of its rows, as far as they are known without parameters; none if it
    /// changes something.
    pub fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    /// Returns its parameters, in their order.
    pub fn parameters(&self) -> SchemaRef {
        SchemaRef::clone(&self.parameters)
    }

    /// Runs it with values for its parameters: one row, with a column for each. Without parameters
    /// `None` will do.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub async fn execute(&self, values: Option<RecordBatch>) -> Result<Statement> {
        let handle = match values {
            None => self.handle.clone(),
            Some(values) => {
                let command = CommandPreparedStatementQuery {
                    prepared_statement_handle: self.handle.clone(),
                };
                let answer = self.send(command.as_any().encode_to_vec(), Some(values)).await?;
                let bound = DoPutPreparedStatementResult::decode(answer);
                let bound = bound.map_err(|error| self.client.unexpected(error))?;
                bound.prepared_statement_handle.unwrap_or_else(|| self.handle.clone())
            }
        };
        let command = CommandPreparedStatementQuery { prepared_statement_handle: handle };
        self.client.run(command.as_any().encode_to_vec()).await
    }

    /// Runs it, a change, once for each row of values; returns how many rows it wrote.
    ///
    /// # Errors
    /// As [`Client::execute`]; `InvalidArgument` for a query.
    pub async fn update(&self, values: Option<RecordBatch>) -> Result<u64> {
        let command =
            CommandPreparedStatementUpdate { prepared_statement_handle: self.handle.clone() };
        let answer = self.send(command.as_any().encode_to_vec(), values).await?;
        let result = DoPutUpdateResult::decode(answer);
        let count = result.map_err(|error| self.client.unexpected(error))?.record_count;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    /// Says that it is not needed any more.
    ///
    /// # Errors
    /// `Unavailable` if the connection is lost.
    pub async fn close(self) -> Result<()> {
        let request =
            ActionClosePreparedStatementRequest { prepared_statement_handle: self.handle };
        let body = request.as_any().encode_to_vec();
        self.client.act("ClosePreparedStatement", body).await.map(drop)
    }

    async fn send(&self, command: Vec<u8>, values: Option<RecordBatch>) -> Result<Bytes> {
        let schema = values.as_ref().map(RecordBatch::schema);
        self.client.put(command, schema, stream::iter(values.map(Ok))).await
    }
}
