//! Flight SQL: every command of clients, each to whom it concerns.

use std::sync::Arc;
use std::time::Instant;

use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::metadata::SqlInfoData;
use arrow_flight::sql::server::{DoPutError, FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionBeginSavepointRequest, ActionBeginSavepointResult, ActionBeginTransactionRequest,
    ActionBeginTransactionResult, ActionCancelQueryRequest, ActionCancelQueryResult,
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult, ActionCreatePreparedSubstraitPlanRequest,
    ActionEndSavepointRequest, ActionEndTransactionRequest, Any, Command, CommandGetCatalogs,
    CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandGetXdbcTypeInfo, CommandPreparedStatementQuery, CommandPreparedStatementUpdate,
    CommandStatementIngest, CommandStatementQuery, CommandStatementSubstraitPlan,
    CommandStatementUpdate, DoPutPreparedStatementResult, ProstMessageExt, SqlInfo, SubstraitPlan,
    TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus,
    FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, PollInfo,
    RenewFlightEndpointRequest, SchemaResult, Ticket,
};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use prost::Message;
use skep_cluster::coordinator::QueryMonitor;
use skep_proto::ErrorCode;
use skep_proto::client::close_session_result::Status as CloseStatus;
use skep_proto::client::{CloseSessionResult, SetSessionOptionsRequest};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::front::Answers;
use super::place::Place;
use super::queries::{Said, Wanted, encode_schema, is_exact, shown};
use super::results::PendingResults;
use super::session_options::{options, set_options};
use super::sessions::{OpenSession, Sessions};
use super::sql_info::{Bounds, sql_info};
use super::statements::Statements;
use super::tickets::Tickets;
use super::xdbc::XDBC_TYPES;
use super::{metadata, parameters};
use crate::auth::SigningKey;
use crate::auth::gate::Caller;
use crate::config::{CoordinatorConfig, ResultsConfig};
use crate::error::{Error, Result as ServerResult};
use crate::status::refuse;

/// Actions of Flight, beside those of Flight SQL.
const ACTIONS: [(&str, &str); 5] = [
    ("SetSessionOptions", "Sets options of the session: catalog, schema, string_view, settings."),
    ("GetSessionOptions", "Returns the options of the session."),
    ("CloseSession", "Ends the session of the request."),
    ("CancelFlightInfo", "Cancels the statement of a FlightInfo."),
    ("RenewFlightEndpoint", "Gives a result more time to be fetched."),
];

/// The statements of all clients.
#[derive(Debug)]
pub(super) struct SqlService {
    pub(super) sessions: Arc<Sessions>,
    pub(super) results: Arc<PendingResults>,
    pub(super) statements: Statements,
    pub(super) tickets: Tickets,
    pub(super) monitor: QueryMonitor,
    pub(super) config: ResultsConfig,
    info: Info,
}

/// What the server says of itself.
struct Info(SqlInfoData);

impl std::fmt::Debug for Info {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Info").finish_non_exhaustive()
    }
}

impl SqlService {
    /// Makes the service over sessions and results that somebody sweeps; handles are signed with this
    /// key.
    ///
    /// # Errors
    /// [`Error::Internal`] if what it says of itself does not fit together.
    pub(super) fn new(
        sessions: Arc<Sessions>,
        results: Arc<PendingResults>,
        monitor: QueryMonitor,
        config: &CoordinatorConfig,
        key: &SigningKey,
    ) -> ServerResult<Self> {
        let bounds = Bounds {
            statement_bytes: config.results.max_statement_bytes,
            sessions: config.sessions.max_count,
            prepared_timeout: config.results.prepared_timeout,
        };
        let failed = |error: FlightError| Error::Internal { message: error.to_string() };
        let info = sql_info(&sessions.bare_session(), bounds).map_err(failed)?;
        Ok(Self {
            sessions,
            results,
            statements: Statements::default(),
            tickets: Tickets::new(key),
            monitor,
            config: config.results.clone(),
            info: Info(info),
        })
    }

    /// Says what columns a command's rows will have.
    pub(super) async fn schema(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<SchemaResult, Status> {
        let session = session(&request)?;
        let command = Any::decode(&*request.get_ref().cmd)
            .ok()
            .and_then(|any| Command::try_from(any).ok())
            .ok_or_else(malformed)?;
        let exact = is_exact(&session, request.metadata());
        let schema = match command {
            Command::CommandStatementQuery(command) => {
                refuse_transaction(command.transaction_id.as_ref())?;
                let said = Said::now(&session, Wanted::Text(command.query), exact);
                let description = self.describe(&session, &said, None).await?;
                shown(&description.schema, exact)
            }
            Command::CommandPreparedStatementQuery(command) => {
                let said = self.prepared(&session, &command.prepared_statement_handle)?;
                let values = parameters::decode(&said.parameters)?;
                let description = self.describe(&session, &said, values.as_ref()).await?;
                shown(&description.schema, said.is_exact)
            }
            Command::CommandStatementSubstraitPlan(command) => {
                refuse_transaction(command.transaction_id.as_ref())?;
                let said = Said::now(&session, planned(command.plan)?, exact);
                let description = self.describe(&session, &said, None).await?;
                shown(&description.schema, exact)
            }
            command => metadata::schema_of(command).ok_or_else(malformed)?,
        };
        Ok(SchemaResult { schema: encode_schema(&schema)? })
    }

    /// Prepares a Substrait plan, and answers with its handle.
    pub(super) async fn prepare_plan(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Answers<arrow_flight::Result>>, Status> {
        let command = Any::decode(&*request.get_ref().body)
            .ok()
            .and_then(|any| any.unpack::<ActionCreatePreparedSubstraitPlanRequest>().ok()?)
            .ok_or_else(malformed)?;
        let created = self.do_action_create_prepared_substrait_plan(command, request).await?;
        let result = arrow_flight::Result { body: created.as_any().encode_to_vec().into() };
        Ok(Response::new(stream::iter([Ok(result)]).boxed()))
    }

    /// Begins a statement, or says how far one is.
    pub(super) async fn poll_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<PollInfo, Status> {
        let session = session(&request)?;
        if let Some(polled) = self.polled(&session, request.get_ref()) {
            return self.poll(polled?).await;
        }
        let info = FlightService::get_flight_info(self, request).await?.into_inner();
        self.begin_poll(&session, info).await
    }

    async fn act(&self, session: &Arc<OpenSession>, action: &Action) -> Result<Vec<u8>, Status> {
        let body = &*action.body;
        Ok(match action.r#type.as_str() {
            "SetSessionOptions" => {
                let request =
                    SetSessionOptionsRequest::decode(body).map_err(|_decode| malformed())?;
                let answer = set_options(session, request).await;
                session.keep().await?;
                answer.encode_to_vec()
            }
            "GetSessionOptions" => options(session).await?.encode_to_vec(),
            "CloseSession" => {
                self.statements.cancel_of(session.id);
                self.results.drop_of(session.id);
                self.sessions.close(&session.token);
                CloseSessionResult { status: CloseStatus::Closed.into() }.encode_to_vec()
            }
            "CancelFlightInfo" => {
                let request =
                    CancelFlightInfoRequest::decode(body).map_err(|_decode| malformed())?;
                let info = request.info.ok_or_else(malformed)?;
                CancelFlightInfoResult::new(self.cancel(session, &info)?).encode_to_vec()
            }
            "RenewFlightEndpoint" => {
                let request =
                    RenewFlightEndpointRequest::decode(body).map_err(|_decode| malformed())?;
                let endpoint = request.endpoint.ok_or_else(malformed)?;
                self.renew(session, &endpoint)?.encode_to_vec()
            }
            other => {
                return Err(refuse(
                    ErrorCode::Unimplemented,
                    format!("the action \"{other}\" is not supported"),
                    "ListActions tells which are",
                ));
            }
        })
    }
}

/// Returns the session in which a request came in.
///
/// # Errors
/// `UNAUTHENTICATED` if it came in without one.
fn session<T>(request: &Request<T>) -> Result<Arc<OpenSession>, Status> {
    let entered = request.extensions().get::<Arc<OpenSession>>();
    entered.cloned().ok_or_else(|| {
        refuse(ErrorCode::Unauthenticated, "the request names no session", "begin with a handshake")
    })
}

/// Refuses a request that is to be part of a transaction.
///
/// # Errors
/// `UNIMPLEMENTED`, if one is named.
pub(super) fn refuse_transaction(transaction: Option<&Bytes>) -> Result<(), Status> {
    match transaction {
        Some(id) if !id.is_empty() => Err(no_transactions()),
        _ => Ok(()),
    }
}

fn no_transactions() -> Status {
    refuse(
        ErrorCode::Unimplemented,
        "there are no transactions",
        "each statement is done whole or not at all; connect with autocommit",
    )
}

/// Takes the plan out of a command.
///
/// # Errors
/// `INVALID_ARGUMENT` if there is none.
fn planned(plan: Option<SubstraitPlan>) -> Result<Wanted, Status> {
    match plan.filter(|plan| !plan.plan.is_empty()) {
        Some(plan) => Ok(Wanted::Plan(plan.plan)),
        None => Err(refuse(
            ErrorCode::InvalidArgument,
            "the command has no Substrait plan",
            "the plan is a substrait.Plan, in bytes",
        )),
    }
}

/// Makes the status of a command that cannot be read.
pub(super) fn malformed() -> Status {
    refuse(
        ErrorCode::InvalidArgument,
        "the command cannot be read",
        "a command is a message of FlightSql.proto, packed into google.protobuf.Any",
    )
}

/// Makes the answer to a metadata command.
macro_rules! list {
    ($request:ident, $command:ident) => {{
        session(&$request)?;
        let schema = metadata::schema_of($command.clone().into_command()).ok_or_else(malformed)?;
        Ok(Response::new(metadata::announce(&$command, &schema, $request.into_inner())?))
    }};
}

/// A command as one of all.
trait IntoCommand {
    fn into_command(self) -> Command;
}

macro_rules! into_command {
    ($($command:ident),* $(,)?) => {
        $(impl IntoCommand for $command {
            fn into_command(self) -> Command {
                Command::$command(self)
            }
        })*
    };
}

into_command!(
    CommandGetCatalogs,
    CommandGetCrossReference,
    CommandGetDbSchemas,
    CommandGetExportedKeys,
    CommandGetImportedKeys,
    CommandGetPrimaryKeys,
    CommandGetSqlInfo,
    CommandGetTableTypes,
    CommandGetTables,
    CommandGetXdbcTypeInfo,
);

type Fetched = Result<Response<Answers<arrow_flight::FlightData>>, Status>;
type Announced = Result<Response<FlightInfo>, Status>;

#[async_trait]
impl FlightSqlService for SqlService {
    type FlightService = Self;

    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<BoxStream<'static, Result<HandshakeResponse, Status>>>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        let place = Place::of(request.metadata());
        let session = self.sessions.open(&caller, Instant::now()).await?;
        // Who names what is not there should know it at once.
        let begun = match place.and_then(|place| session.begin_in(&place)) {
            Ok(false) => Ok(()),
            Ok(true) => session.keep().await,
            Err(refused) => Err(refused),
        };
        if let Err(refused) = begun {
            self.sessions.close(&session.token);
            return Err(refused);
        }
        // The gate says the token in a header too.
        let payload = caller.token.clone().unwrap_or_default().into();
        let answer = HandshakeResponse { protocol_version: 0, payload };
        Ok(Response::new(stream::iter([Ok(answer)]).boxed()))
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Announced {
        let session = session(&request)?;
        refuse_transaction(query.transaction_id.as_ref())?;
        let is_exact = is_exact(&session, request.metadata());
        let said = Said::now(&session, Wanted::Text(query.query), is_exact);
        self.announce(&session, said, request.into_inner()).await.map(Response::new)
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Announced {
        let session = session(&request)?;
        let said = self.prepared(&session, &query.prepared_statement_handle)?;
        self.announce(&session, said, request.into_inner()).await.map(Response::new)
    }

    async fn get_flight_info_substrait_plan(
        &self,
        query: CommandStatementSubstraitPlan,
        request: Request<FlightDescriptor>,
    ) -> Announced {
        let session = session(&request)?;
        refuse_transaction(query.transaction_id.as_ref())?;
        let is_exact = is_exact(&session, request.metadata());
        let said = Said::now(&session, planned(query.plan)?, is_exact);
        self.announce(&session, said, request.into_inner()).await.map(Response::new)
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Announced {
        list!(request, query)
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Announced {
        list!(request, query)
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Announced {
        list!(request, query)
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Announced {
        list!(request, query)
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Announced {
        list!(request, query)
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Announced {
        list!(request, query)
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Announced {
        list!(request, query)
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Announced {
        list!(request, query)
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Announced {
        list!(request, query)
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Announced {
        list!(request, query)
    }

    async fn get_flight_info_fallback(
        &self,
        _command: Command,
        _request: Request<FlightDescriptor>,
    ) -> Announced {
        Err(malformed())
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<Ticket>,
    ) -> Fetched {
        let session = session(&request)?;
        self.fetch(&session, &ticket.statement_handle).await.map(Response::new)
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<Ticket>,
    ) -> Fetched {
        let session = session(&request)?;
        let said = self.prepared(&session, &query.prepared_statement_handle)?;
        let values = parameters::decode(&said.parameters)?;
        let result = self.run(&session, &said, values.as_ref()).await?;
        let schema = shown(&result.stream.schema(), said.is_exact);
        Ok(Response::new(self.rows(result, schema)))
    }

    async fn do_get_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<Ticket>,
    ) -> Fetched {
        let batch = metadata::catalogs(&*session(&request)?, query)?;
        Ok(Response::new(metadata::answer(batch)))
    }

    async fn do_get_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<Ticket>,
    ) -> Fetched {
        let batch = metadata::schemas(&*session(&request)?, query)?;
        Ok(Response::new(metadata::answer(batch)))
    }

    async fn do_get_tables(&self, query: CommandGetTables, request: Request<Ticket>) -> Fetched {
        let batch = metadata::tables(&*session(&request)?, query).await?;
        Ok(Response::new(metadata::answer(batch)))
    }

    async fn do_get_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<Ticket>,
    ) -> Fetched {
        session(&request)?;
        Ok(Response::new(metadata::answer(metadata::table_types(query)?)))
    }

    async fn do_get_sql_info(&self, query: CommandGetSqlInfo, request: Request<Ticket>) -> Fetched {
        session(&request)?;
        Ok(Response::new(metadata::answer(self.info.0.record_batch(query.info)?)))
    }

    async fn do_get_primary_keys(
        &self,
        _query: CommandGetPrimaryKeys,
        request: Request<Ticket>,
    ) -> Fetched {
        session(&request)?;
        Ok(Response::new(metadata::answer(metadata::primary_keys())))
    }

    async fn do_get_exported_keys(
        &self,
        _query: CommandGetExportedKeys,
        request: Request<Ticket>,
    ) -> Fetched {
        session(&request)?;
        Ok(Response::new(metadata::answer(metadata::foreign_keys())))
    }

    async fn do_get_imported_keys(
        &self,
        _query: CommandGetImportedKeys,
        request: Request<Ticket>,
    ) -> Fetched {
        session(&request)?;
        Ok(Response::new(metadata::answer(metadata::foreign_keys())))
    }

    async fn do_get_cross_reference(
        &self,
        _query: CommandGetCrossReference,
        request: Request<Ticket>,
    ) -> Fetched {
        session(&request)?;
        Ok(Response::new(metadata::answer(metadata::foreign_keys())))
    }

    async fn do_get_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<Ticket>,
    ) -> Fetched {
        session(&request)?;
        let batch = query.into_builder(&XDBC_TYPES).build()?;
        Ok(Response::new(metadata::answer(batch)))
    }

    async fn do_get_fallback(&self, _request: Request<Ticket>, _message: Any) -> Fetched {
        Err(malformed())
    }

    async fn do_put_fallback(
        &self,
        _request: Request<PeekableFlightDataStream>,
        _message: Any,
    ) -> Result<Response<<Self as FlightService>::DoPutStream>, Status> {
        Err(malformed())
    }

    async fn do_put_error_callback(
        &self,
        _request: Request<PeekableFlightDataStream>,
        error: DoPutError,
    ) -> Result<Response<<Self as FlightService>::DoPutStream>, Status> {
        Err(refuse(
            ErrorCode::InvalidArgument,
            error.to_string(),
            "the first message has a descriptor with the command",
        ))
    }

    async fn do_put_statement_update(
        &self,
        command: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let session = session(&request)?;
        refuse_transaction(command.transaction_id.as_ref())?;
        let said = Said::now(&session, Wanted::Text(command.query), false);
        self.update(&session, &said, None).await
    }

    async fn do_put_statement_ingest(
        &self,
        command: CommandStatementIngest,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let session = session(&request)?;
        self.ingest(&session, command, request.into_inner()).await
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let session = session(&request)?;
        let bound = self.config.max_statement_bytes;
        let values = parameters::receive(request.into_inner(), bound).await?;
        let handle = self.bound(&session, &query.prepared_statement_handle, values.as_ref())?;
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(handle) })
    }

    async fn do_put_prepared_statement_update(
        &self,
        query: CommandPreparedStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let session = session(&request)?;
        let said = self.prepared(&session, &query.prepared_statement_handle)?;
        let bound = self.config.max_parameter_bytes;
        let values = match parameters::receive(request.into_inner(), bound).await? {
            Some(values) => Some(values),
            None => parameters::decode(&said.parameters)?,
        };
        self.update(&session, &said, values.as_ref()).await
    }

    async fn do_put_substrait_plan(
        &self,
        _query: CommandStatementSubstraitPlan,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(refuse(
            ErrorCode::Unimplemented,
            "changes by Substrait plans are not supported",
            "send the change as SQL, or rows by ingest",
        ))
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let session = session(&request)?;
        refuse_transaction(query.transaction_id.as_ref())?;
        let is_exact = is_exact(&session, request.metadata());
        let said = Said::now(&session, Wanted::Text(query.query), is_exact);
        self.prepare(&session, said).await
    }

    /// Nothing is kept for a handle.
    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<(), Status> {
        let session = session(&request)?;
        self.prepared(&session, &query.prepared_statement_handle).map(drop)
    }

    async fn do_action_create_prepared_substrait_plan(
        &self,
        query: ActionCreatePreparedSubstraitPlanRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let session = session(&request)?;
        refuse_transaction(query.transaction_id.as_ref())?;
        let is_exact = is_exact(&session, request.metadata());
        let said = Said::now(&session, planned(query.plan)?, is_exact);
        self.prepare(&session, said).await
    }

    async fn do_action_begin_transaction(
        &self,
        _query: ActionBeginTransactionRequest,
        _request: Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        Err(no_transactions())
    }

    async fn do_action_end_transaction(
        &self,
        _query: ActionEndTransactionRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        Err(no_transactions())
    }

    async fn do_action_begin_savepoint(
        &self,
        _query: ActionBeginSavepointRequest,
        _request: Request<Action>,
    ) -> Result<ActionBeginSavepointResult, Status> {
        Err(no_transactions())
    }

    async fn do_action_end_savepoint(
        &self,
        _query: ActionEndSavepointRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        Err(no_transactions())
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        request: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let session = session(&request)?;
        let info = FlightInfo::decode(&*query.info).map_err(|_decode| malformed())?;
        let status: CancelStatus = self.cancel(&session, &info)?;
        // The numbers of the two lists are the same.
        Ok(ActionCancelQueryResult { result: status.into() })
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>, Status> {
        let session = session(&request)?;
        let body = self.act(&session, request.get_ref()).await?;
        let result = arrow_flight::Result { body: body.into() };
        Ok(Response::new(stream::iter([Ok(result)]).boxed()))
    }

    async fn list_custom_actions(&self) -> Option<Vec<Result<ActionType, Status>>> {
        let action = |(name, description): (&str, &str)| {
            Ok(ActionType { r#type: name.to_owned(), description: description.to_owned() })
        };
        Some(ACTIONS.into_iter().map(action).collect())
    }

    /// Does nothing: what the server is, is not told to it from outside.
    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}
}
