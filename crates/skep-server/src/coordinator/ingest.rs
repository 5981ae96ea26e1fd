//! Rows that clients send, into tables: `CommandStatementIngest`.
//!
//! Rows are written as they come; the table changes when the last has come, or not at all.

use std::sync::Arc;

use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::sql::{CommandStatementIngest, TableExistsOption, TableNotExistOption};
use futures::{Stream, StreamExt, stream};
use skep_engine::{Error, IfExists, IfMissing, Ingest, QueryTag};
use skep_proto::ErrorCode;
use tonic::Status;

use super::columns::{plain_batch, plain_schema};
use super::flight_sql::{SqlService, refuse_transaction};
use super::parameters::{rows_of, status_of_rows};
use super::queries::reported;
use super::sessions::OpenSession;
use crate::status::refuse;

impl SqlService {
    /// Puts the rows of a stream into a table; returns how many.
    pub(super) async fn ingest(
        &self,
        session: &Arc<OpenSession>,
        command: CommandStatementIngest,
        messages: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
    ) -> Result<i64, Status> {
        let ingest = read_command(session, command)?;
        let _place = self.results.place()?;
        let running = self.begin(session, None);
        let mut rows = rows_of(messages);
        // The schema comes with the first batch, or before the end.
        let first = rows.next().await;
        let first = first.transpose().map_err(|error| status_of_rows(&error))?;
        let Some(schema) = rows.schema().cloned() else {
            return Err(refuse(
                ErrorCode::InvalidArgument,
                "there are no rows to put into the table, and no columns",
                "send the schema, then the rows",
            ));
        };
        let schema = plain_schema(&schema);
        let plain = Arc::clone(&schema);
        let batches = stream::iter(first.map(Ok))
            .chain(rows.map(row_error))
            .map(move |batch| plain_batch(batch?, &plain));
        let tagged = session.session.tagged(Arc::new(QueryTag::new(running.id())));
        let written = tagged.ingest(ingest, schema, batches.boxed());
        let written = Box::pin(running.until_cancelled(written)).await;
        let count = written.map_err(|error| reported(&error, running.id()))?;
        session.keep().await?;
        Ok(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

type Row = <FlightRecordBatchStream as Stream>::Item;

/// What stops the rows stops the statement, as the client's doing.
fn row_error(row: Row) -> skep_engine::Result<datafusion::arrow::array::RecordBatch> {
    row.map_err(|error| {
        let status = status_of_rows(&error);
        Error::Remote {
            code: ErrorCode::from_grpc_status(status.code().into())
                .unwrap_or(ErrorCode::InvalidArgument),
            message: status.message().to_owned(),
            position: None,
            hint: None,
            is_retryable: false,
        }
    })
}

fn read_command(session: &OpenSession, command: CommandStatementIngest) -> Result<Ingest, Status> {
    let CommandStatementIngest {
        table_definition_options,
        table,
        schema,
        catalog,
        temporary,
        transaction_id,
        options,
    } = command;
    refuse_transaction(transaction_id.as_ref())?;
    if let Some(option) = options.keys().min() {
        return Err(refuse(
            ErrorCode::InvalidArgument,
            format!("unknown option \"{option}\" of an ingest"),
            "there are no options beside catalog, schema, mode and temporary",
        ));
    }
    let known = session.session.catalog_name();
    if let Some(catalog) = catalog.filter(|catalog| !catalog.is_empty() && catalog != known) {
        return Err(refuse(
            ErrorCode::NotFound,
            format!("catalog \"{catalog}\" not found"),
            &format!("there is one catalog, {known}"),
        ));
    }
    let options = table_definition_options.unwrap_or_default();
    // What is not said fails, as the protocol's default does.
    let if_missing = match options.if_not_exist() {
        TableNotExistOption::Create => IfMissing::Create,
        TableNotExistOption::Fail | TableNotExistOption::Unspecified => IfMissing::Fail,
    };
    let if_exists = match options.if_exists() {
        TableExistsOption::Append => IfExists::Append,
        TableExistsOption::Replace => IfExists::Replace,
        TableExistsOption::Fail | TableExistsOption::Unspecified => IfExists::Fail,
    };
    let schema = schema.filter(|schema| !schema.is_empty());
    Ok(Ingest { schema, table, is_temporary: temporary, if_missing, if_exists })
}
