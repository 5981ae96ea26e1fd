//! The Flight service of a process that serves nothing but exchanges.

use std::fmt;
use std::sync::Arc;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use async_trait::async_trait;
use futures::stream::BoxStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::serve::{ExchangeServer, ExchangeStream, ReaderPlace};
use crate::secret::is_same_secret;

/// The metadata key of the cluster's shared secret.
pub const TOKEN_KEY: &str = "x-skep-cluster-token";

/// `DoExchange` of a process of the cluster; every other method is not implemented.
///
/// The gRPC server that it is added to must not bound the streams of a connection: a reader whose
/// stream waits for one of another reader could wait for ever. [`ServeConfig::max_streams`] is the
/// bound instead, and it refuses.
///
/// [`ServeConfig::max_streams`]: super::config::ServeConfig::max_streams
#[derive(Clone)]
pub struct ExchangeService {
    server: ExchangeServer,
    token: Option<Arc<str>>,
}

impl ExchangeService {
    /// Makes the service. With a token, only those are served who send it as [`TOKEN_KEY`].
    pub fn new(server: ExchangeServer, token: Option<String>) -> Self {
        Self { server, token: token.map(Arc::from) }
    }

    fn check_token(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let Some(token) = &self.token else { return Ok(()) };
        let given = metadata.get(TOKEN_KEY).map(|given| given.as_encoded_bytes());
        match given.is_some_and(|given| is_same_secret(given, token.as_bytes())) {
            true => Ok(()),
            false => Err(Status::unauthenticated("wrong cluster token")),
        }
    }
}

/// Finds out by the addresses of a connection whether both ends are on this machine.
fn place_of<T>(request: &Request<T>) -> ReaderPlace {
    let local = request.local_addr().map(|address| address.ip().to_canonical());
    match request.remote_addr().map(|address| address.ip().to_canonical()) {
        Some(remote) if remote.is_loopback() || Some(remote) == local => ReaderPlace::SameMachine,
        _ => ReaderPlace::Elsewhere,
    }
}

fn unimplemented<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("this process serves exchanges alone"))
}

#[async_trait]
impl FlightService for ExchangeService {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoExchangeStream = ExchangeStream;
    type DoActionStream = BoxStream<'static, Result<arrow_flight::Result, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        self.check_token(request.metadata())?;
        let place = place_of(&request);
        self.server.exchange(request.into_inner(), place).map(Response::new)
    }

    async fn handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        unimplemented()
    }

    async fn list_flights(
        &self,
        _request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        unimplemented()
    }

    async fn get_flight_info(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        unimplemented()
    }

    async fn poll_flight_info(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        unimplemented()
    }

    async fn get_schema(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        unimplemented()
    }

    async fn do_get(
        &self,
        _request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        unimplemented()
    }

    async fn do_put(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        unimplemented()
    }

    async fn do_action(
        &self,
        _request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        unimplemented()
    }

    async fn list_actions(
        &self,
        _request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        unimplemented()
    }
}

impl fmt::Debug for ExchangeService {
    /// Leaves the token out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeService").field("server", &self.server).finish_non_exhaustive()
    }
}
