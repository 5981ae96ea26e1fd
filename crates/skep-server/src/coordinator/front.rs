//! The Flight service of a process: Flight SQL for clients, exchanges for workers, on one port.
//!
//! arrow-flight implements all of `FlightService` for whoever speaks Flight SQL, with no way to
//! replace one call; so the service in front is another type, which passes calls on.

use std::sync::Arc;
use std::time::Instant;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, Result as ActionResult, SchemaResult,
    Ticket,
};
use futures::stream::BoxStream;
use skep_proto::ErrorCode;
use tonic::{Code, Request, Response, Status, Streaming, async_trait};
use tracing::{debug, error};

use super::flight_sql::{SqlService, malformed};
use super::place::Place;
use crate::auth::gate::Caller;
use crate::status::refuse;

/// The action whose result arrow-flight makes and then drops.
const PREPARE_PLAN: &str = "CreatePreparedSubstraitPlan";

/// A stream of answers.
pub(super) type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// What serves the partitions that this process keeps.
#[async_trait]
pub(super) trait Exchanges: Send + Sync + 'static {
    /// Serves one reader.
    ///
    /// # Errors
    /// Whatever keeps the stream from starting; later errors come through it.
    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Answers<FlightData>>, Status>;
}

/// Passes `DoExchange` to the exchanges, and everything else to Flight SQL.
#[derive(Debug, Clone)]
pub(super) struct Front<E> {
    sql: Arc<SqlService>,
    exchange: E,
}

impl<E: Exchanges> Front<E> {
    /// Puts the two together.
    pub(super) fn new(sql: SqlService, exchange: E) -> Self {
        Self { sql: Arc::new(sql), exchange }
    }

    /// Finds the session of a request, which goes on with it.
    async fn enter<T: Send>(&self, mut request: Request<T>) -> Result<Request<T>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        let place = Place::of(request.metadata())?;
        let session = self.sql.sessions.of(&caller, Instant::now()).await?;
        if session.begin_in(&place)? {
            session.keep().await?;
        }
        request.extensions_mut().insert(session);
        Ok(request)
    }
}

#[async_trait]
impl<E: Exchanges> FlightService for Front<E> {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoActionStream = Answers<ActionResult>;
    type ListActionsStream = Answers<ActionType>;
    type DoExchangeStream = Answers<FlightData>;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        FlightService::handshake(&*self.sql, request).await
    }

    async fn list_flights(
        &self,
        _request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(refuse(
            ErrorCode::Unimplemented,
            "there are no flights to list",
            "Flight SQL lists tables by CommandGetTables",
        ))
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let request = self.enter(request).await?;
        FlightService::get_flight_info(&*self.sql, request).await.map_err(explained)
    }

    async fn poll_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        let request = self.enter(request).await?;
        self.sql.poll_info(request).await.map(Response::new).map_err(explained)
    }

    async fn get_schema(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        let request = self.enter(request).await?;
        self.sql.schema(request).await.map(Response::new).map_err(explained)
    }

    async fn do_get(
        &self,
        request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        let request = self.enter(request).await?;
        FlightService::do_get(&*self.sql, request).await.map_err(explained)
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        let request = self.enter(request).await?;
        FlightService::do_put(&*self.sql, request).await.map_err(explained)
    }

    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        let request = self.enter(request).await?;
        if request.get_ref().r#type == PREPARE_PLAN {
            return self.sql.prepare_plan(request).await.map_err(explained);
        }
        FlightService::do_action(&*self.sql, request).await.map_err(explained)
    }

    async fn list_actions(
        &self,
        request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        FlightService::list_actions(&*self.sql, request).await
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        self.exchange.do_exchange(request).await
    }
}

/// What arrow-flight says of a command that it cannot read, which it takes for a defect of the server.
const UNREAD: &str = "ParseError(";

/// arrow-flight reads commands itself. What we say has details; what it says has none.
fn explained(status: Status) -> Status {
    if !status.details().is_empty() {
        return status;
    }
    match status.code() {
        Code::InvalidArgument => {
            debug!(%status, "a command was not read");
            malformed()
        }
        Code::Internal if status.message().starts_with(UNREAD) => {
            debug!(%status, "a command was not read");
            malformed()
        }
        Code::Internal => {
            error!(%status, "a call failed by a defect");
            status
        }
        _ => status,
    }
}
