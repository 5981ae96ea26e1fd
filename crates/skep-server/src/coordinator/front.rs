//! The Flight service of a process: Flight SQL for clients, exchanges for workers, on one port.
//!
//! arrow-flight implements all of `FlightService` for whoever speaks Flight SQL, with no way to
//! replace one call; so the service in front is another type, which passes calls on.

use std::sync::Arc;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, Result as ActionResult, SchemaResult,
    Ticket,
};
use futures::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::flight_sql::SqlService;

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
        request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        FlightService::list_flights(&*self.sql, request).await
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        FlightService::get_flight_info(&*self.sql, request).await
    }

    async fn poll_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        FlightService::poll_flight_info(&*self.sql, request).await
    }

    async fn get_schema(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        FlightService::get_schema(&*self.sql, request).await
    }

    async fn do_get(
        &self,
        request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        FlightService::do_get(&*self.sql, request).await
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        FlightService::do_put(&*self.sql, request).await
    }

    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        FlightService::do_action(&*self.sql, request).await
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
