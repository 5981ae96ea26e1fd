//! One gRPC server: bounds, keepalive, and an end.

use std::net::SocketAddr;
use std::time::Duration;

use datafusion::common::runtime::SpawnedTask;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::service::Routes;
use tonic::transport::{Server, ServerTlsConfig};
use tracing::warn;

use crate::config::GrpcConfig;
use crate::connection::accept;
use crate::error::{Error, Result};
use crate::listen::Phase;
use crate::tls::unusable;

/// A gRPC server that runs. Dropping it cuts its connections.
#[derive(Debug)]
pub(crate) struct RpcServer {
    address: SocketAddr,
    phase: watch::Sender<Phase>,
    task: SpawnedTask<()>,
}

impl RpcServer {
    /// Begins to serve.
    ///
    /// # Errors
    /// [`Error::Internal`] if the system does not tell where it listens; [`Error::Tls`] if certificate
    /// and key do not fit together.
    pub(crate) fn start(
        listener: TcpListener,
        routes: Routes,
        config: &GrpcConfig,
        tls: Option<ServerTlsConfig>,
    ) -> Result<Self> {
        let address = listener
            .local_addr()
            .map_err(|error| Error::Internal { message: format!("no local address: {error}") })?;
        let (phase, watched) = watch::channel(Phase::Serving);
        let connections = accept(listener, watched.clone(), config);
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls.timeout(config.handshake_timeout)).map_err(unusable)?;
        }
        let router = server
            // A stream that HTTP/2 made wait could be one that another waits for; what serves bounds
            // its streams by refusing them.
            .max_concurrent_streams(u32::MAX)
            .http2_keepalive_interval(Some(config.keepalive_interval))
            .http2_keepalive_timeout(Some(config.keepalive_timeout))
            .initial_stream_window_size(config.stream_window_bytes)
            .initial_connection_window_size(config.connection_window_bytes)
            .add_routes(routes);
        let mut draining = watched;
        let drain = async move {
            let _ = draining.wait_for(|phase| *phase >= Phase::Draining).await;
        };
        let task = SpawnedTask::spawn(async move {
            if let Err(error) = router.serve_with_incoming_shutdown(connections, drain).await {
                warn!(%error, "server ended");
            }
        });
        Ok(Self { address, phase, task })
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes nothing new, lets what runs finish for so long, and cuts what is left.
    pub(crate) async fn shutdown(self, patience: Duration) {
        let Self { address, phase, mut task } = self;
        phase.send_replace(Phase::Draining);
        if timeout(patience, &mut task).await.is_err() {
            warn!(%address, "connections cut that did not end in time");
            phase.send_replace(Phase::Cut);
        }
    }
}
