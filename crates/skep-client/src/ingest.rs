//! Rows into tables.

use arrow_array::RecordBatch;
use arrow_flight::sql::{
    CommandStatementIngest, DoPutUpdateResult, ProstMessageExt, TableDefinitionOptions,
    TableExistsOption, TableNotExistOption,
};
use arrow_schema::SchemaRef;
use futures::Stream;
use prost::Message;
use skep_proto::{IfExists, IfMissing, Ingest};

use crate::client::Client;
use crate::error::Result;

impl Client {
    /// Puts rows into a table; returns how many. If an error comes among them, or this is dropped
    /// before their end, nothing has changed.
    ///
    /// Shape: `rows` have `schema`. Appended columns go by name.
    ///
    /// # Errors
    /// The first of `rows`; `AlreadyExists` and `NotFound` as `ingest` says.
    pub async fn ingest(
        &self,
        ingest: Ingest,
        schema: SchemaRef,
        rows: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    ) -> Result<u64> {
        let if_not_exist = match ingest.if_missing {
            IfMissing::Create => TableNotExistOption::Create,
            IfMissing::Fail => TableNotExistOption::Fail,
        };
        let if_exists = match ingest.if_exists {
            IfExists::Fail => TableExistsOption::Fail,
            IfExists::Append => TableExistsOption::Append,
            IfExists::Replace => TableExistsOption::Replace,
        };
        let options = TableDefinitionOptions {
            if_not_exist: if_not_exist.into(),
            if_exists: if_exists.into(),
        };
        let command = CommandStatementIngest {
            table_definition_options: Some(options),
            table: ingest.table,
            schema: ingest.schema,
            temporary: ingest.is_temporary,
            ..CommandStatementIngest::default()
        };
        let answer = self.put(command.as_any().encode_to_vec(), Some(schema), rows).await?;
        let result = DoPutUpdateResult::decode(answer);
        let count = result.map_err(|error| self.unexpected(error))?.record_count;
        Ok(u64::try_from(count).unwrap_or_default())
    }
}
