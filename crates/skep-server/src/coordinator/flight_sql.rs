//! Flight SQL: statements of clients.

use std::sync::Arc;
use std::time::Instant;

use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::server::FlightSqlService;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt, SqlInfo, TicketStatementQuery};
use arrow_flight::{
    Action, ActionType, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    HandshakeResponse, Ticket,
};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use skep_engine::StatementKind;
use skep_proto::ErrorCode;
use skep_proto::client::close_session_result::Status as CloseStatus;
use skep_proto::client::statement_outcome::Kind;
use skep_proto::client::{
    CloseSessionResult, CommandOutcome, QueryOutcome, StatementOutcome, WriteOutcome,
};
use tonic::{Request, Response, Status, Streaming, async_trait};
use tracing::error;

use super::results::{PendingResult, PendingResults};
use super::sessions::Sessions;
use crate::auth::gate::Caller;
use crate::config::ResultsConfig;
use crate::status::{refuse, status_of};

/// The name of the action that ends a session.
const CLOSE_SESSION: &str = "CloseSession";

/// The statements of all clients.
///
/// A handshake makes a session; later calls name it. A statement runs when its `FlightInfo` is asked
/// for, once: what it changes is changed then, and its rows wait for the `DoGet` of the ticket.
#[derive(Debug)]
pub(super) struct SqlService {
    sessions: Arc<Sessions>,
    results: Arc<PendingResults>,
    message_bytes: usize,
}

impl SqlService {
    /// Makes the service over sessions and results that somebody sweeps.
    pub(super) fn new(
        sessions: Arc<Sessions>,
        results: Arc<PendingResults>,
        config: &ResultsConfig,
    ) -> Self {
        Self { sessions, results, message_bytes: config.message_bytes }
    }
}

#[async_trait]
impl FlightSqlService for SqlService {
    type FlightService = Self;

    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<BoxStream<'static, Result<HandshakeResponse, Status>>>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.sessions.open(caller, Instant::now())?;
        // The gate says the token in a header too.
        let payload = caller.token.clone().unwrap_or_default().into();
        let answer = HandshakeResponse { protocol_version: 0, payload };
        Ok(Response::new(stream::iter([Ok(answer)]).boxed()))
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let session = self.sessions.of(request.extensions(), Instant::now())?;
        let place = self.results.place()?;
        let executed = session.session.execute(&query.query).await;
        let stream = executed.map_err(|error| reported(&error))?;
        let schema = stream.schema();
        let mut info = FlightInfo::new()
            .try_with_schema(&schema)
            .map_err(|error| Status::internal(format!("cannot encode the schema: {error}")))?
            .with_app_metadata(outcome(stream.kind()).encode_to_vec())
            .with_descriptor(request.into_inner())
            // One endpoint is in order whatever the statement.
            .with_ordered(true);
        if matches!(stream.kind(), StatementKind::Query) {
            let handle = self.results.put(PendingResult { stream, session }, place, Instant::now());
            let ticket = TicketStatementQuery { statement_handle: handle.into() };
            let ticket = Ticket::new(ticket.as_any().encode_to_vec());
            info = info.with_endpoint(FlightEndpoint::new().with_ticket(ticket));
        }
        Ok(Response::new(info))
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        _request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        let handle = String::from_utf8_lossy(&ticket.statement_handle);
        let PendingResult { stream, session } = self.results.take(&handle)?;
        let schema = stream.schema();
        let batches = stream.map_err(|error| FlightError::Tonic(Box::new(reported(&error))));
        let messages = FlightDataEncoderBuilder::new()
            .with_schema(schema)
            // Types stay as they are said in FlightInfo.
            .with_dictionary_handling(DictionaryHandling::Resend)
            .with_max_flight_data_size(self.message_bytes)
            .build(batches)
            .map_err(move |error| {
                // The session is in use for as long as its rows flow.
                let _in_use = &session;
                Status::from(error)
            });
        Ok(Response::new(messages.boxed()))
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>, Status> {
        match request.get_ref().r#type.as_str() {
            CLOSE_SESSION => {
                let session = self.sessions.of(request.extensions(), Instant::now())?;
                self.results.drop_of(&session.token);
                self.sessions.close(&session.token);
                let result = CloseSessionResult { status: CloseStatus::Closed.into() };
                let result = arrow_flight::Result { body: result.encode_to_vec().into() };
                Ok(Response::new(stream::iter([Ok(result)]).boxed()))
            }
            other => Err(refuse(
                ErrorCode::Unimplemented,
                format!("the action \"{other}\" is not supported"),
                "ListActions tells which are",
            )),
        }
    }

    async fn list_custom_actions(&self) -> Option<Vec<Result<ActionType, Status>>> {
        Some(vec![Ok(ActionType {
            r#type: CLOSE_SESSION.to_owned(),
            description: "Ends the session of the request's token.".to_owned(),
        })])
    }

    /// Does nothing: what the server is, is not told to it from outside.
    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}
}

/// Makes the status of a statement's error; a defect is logged, because somebody must look.
fn reported(error: &skep_engine::Error) -> Status {
    if error.code() == ErrorCode::Internal {
        error!(%error, "a statement failed by a defect");
    }
    status_of(error)
}

fn outcome(kind: &StatementKind) -> StatementOutcome {
    let kind = match kind {
        StatementKind::Query => Kind::Query(QueryOutcome {}),
        StatementKind::Write { row_count } => Kind::Write(WriteOutcome { row_count: *row_count }),
        StatementKind::Command { tag } => Kind::Command(CommandOutcome { tag: tag.clone() }),
    };
    StatementOutcome { kind: Some(kind) }
}
