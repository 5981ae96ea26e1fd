//! How the coordinator's parts are put together: engine, store, scheduler, exchanges, control.

use arrow_flight::FlightData;
use skep_engine::Engine;
use skep_proto::ErrorCode;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::front::{Answers, Exchanges};
use crate::config::CoordinatorConfig;
use crate::error::Result;
use crate::status::refuse;

/// The parts of a coordinator.
#[derive(Debug)]
pub(super) struct Wiring {
    engine: Engine,
}

/// The partitions that this process keeps.
#[derive(Debug, Clone)]
pub(super) struct ProcessExchanges;

impl Wiring {
    /// Puts a coordinator together.
    ///
    /// # Errors
    /// Whatever part does not start.
    pub(super) async fn start(config: &CoordinatorConfig, _data_address: String) -> Result<Self> {
        Ok(Self { engine: Engine::open(config.engine.clone()).await? })
    }

    /// Returns the engine.
    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns what serves the partitions of this process.
    pub(super) fn exchanges(&self) -> ProcessExchanges {
        ProcessExchanges
    }

    /// Adds the service to which workers attach.
    pub(super) fn add_control(&self, routes: Routes) -> Routes {
        routes
    }

    /// Ends.
    pub(super) fn stop(&self) {}

    /// Returns how many workers live.
    pub(super) fn live_worker_count(&self) -> usize {
        0
    }
}

#[async_trait]
impl Exchanges for ProcessExchanges {
    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Answers<FlightData>>, Status> {
        Err(refuse(ErrorCode::Unimplemented, "this process keeps no partitions", "ask a worker"))
    }
}
