//! The coordinator's end of the control streams, as a tonic service.
//!
//! Whoever builds the server has to
//! - add [`ControlService::into_server`], which sets the bounds of messages;
//! - switch HTTP/2 keepalive on (`Server::http2_keepalive_interval` and `_timeout`, some seconds):
//!   a worker whose machine is gone closes nothing, and only a probe that is not answered ends its
//!   connection. That the worker is lost is noticed earlier, by its missing heartbeats;
//! - set `tcp_nodelay`, or small commands wait for the acknowledgement of those before;
//! - let the [`Members`] drop all command queues before a graceful shutdown, which waits for the
//!   streams to end.

use std::sync::Arc;

use datafusion::common::runtime::JoinSet;
use parking_lot::Mutex;
use skep_proto::cluster::control_server::{Control, ControlServer};
use skep_proto::cluster::{CoordinatorMessage, WorkerMessage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::error;

use super::config::ControlServiceConfig;
use super::connection::Connection;
use super::members::Members;

/// Lets workers in, and passes on what is said between them and the [`Members`].
///
/// Dropping it ends all connections, without a word to the members.
#[derive(Debug)]
pub struct ControlService {
    members: Arc<dyn Members>,
    config: Arc<ControlServiceConfig>,
    connections: Mutex<JoinSet<()>>,
}

impl ControlService {
    /// Creates the service of these members.
    pub fn new(members: Arc<dyn Members>, config: ControlServiceConfig) -> Self {
        Self { members, config: Arc::new(config), connections: Mutex::new(JoinSet::new()) }
    }

    /// Returns it as what a tonic server takes, with the bounds of messages set.
    pub fn into_server(self) -> ControlServer<Self> {
        let max_bytes = self.config.max_message_bytes;
        ControlServer::new(self)
            .max_decoding_message_size(max_bytes)
            .max_encoding_message_size(max_bytes)
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    type AttachStream = ReceiverStream<Result<CoordinatorMessage, Status>>;

    /// Answers at once; who speaks is found out by a task of its own, so that however the request
    /// ends the members hear of it.
    async fn attach(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let peer = request.remote_addr();
        let (outbound, messages) = mpsc::channel(self.config.queued_message_count.max(1));
        let connection = Connection {
            members: Arc::clone(&self.members),
            config: Arc::clone(&self.config),
            peer,
            inbound: request.into_inner(),
            outbound,
        };
        let mut connections = self.connections.lock();
        while let Some(ended) = connections.try_join_next() {
            if let Err(error) = ended {
                error!(%error, "control connection ended by a defect");
            }
        }
        if connections.len() >= self.config.max_connection_count {
            return Err(Status::resource_exhausted("too many control connections"));
        }
        connections.spawn(connection.run());
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}
