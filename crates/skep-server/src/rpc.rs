//! One gRPC server: bounds, keepalive, and an end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::runtime::SpawnedTask;
use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::{debug, warn};

use crate::config::GrpcConfig;
use crate::connection::{Connection, accept};
use crate::error::{Error, Result};
use crate::listen::Phase;
use crate::tls::Certificates;

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
    /// [`Error::Internal`] if the system does not tell where it listens.
    pub(crate) fn start(
        listener: TcpListener,
        routes: Routes,
        config: &GrpcConfig,
        tls: Option<Arc<Certificates>>,
    ) -> Result<Self> {
        let address = listener
            .local_addr()
            .map_err(|error| Error::Internal { message: format!("no local address: {error}") })?;
        let (phase, watched) = watch::channel(Phase::Serving);
        let connections = accept(listener, watched.clone(), config);
        let router = Server::builder()
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
        let encrypted = tls.map(|tls| (tls, config.handshake_timeout, config.max_connection_count));
        let task = SpawnedTask::spawn(async move {
            let served = match encrypted {
                None => router.serve_with_incoming_shutdown(connections, drain).await,
                Some((tls, patience, bound)) => {
                    let connections = greeted(connections, tls, patience, bound);
                    router.serve_with_incoming_shutdown(connections, drain).await
                }
            };
            if let Err(error) = served {
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

/// Greets connections by TLS, so many at a time, each in a task of its own; those that do not greet
/// back are gone.
fn greeted(
    connections: impl Stream<Item = io::Result<Connection>> + Send + 'static,
    tls: Arc<Certificates>,
    patience: Duration,
    bound: usize,
) -> impl Stream<Item = io::Result<TlsStream<Connection>>> + Send + 'static {
    let greetings = connections.map(move |connection| {
        let tls = Arc::clone(&tls);
        SpawnedTask::spawn(async move {
            match connection {
                Err(error) => Some(Err(error)),
                Ok(connection) => match tls.greet(connection, patience).await {
                    Ok(stream) => Some(Ok(stream)),
                    Err(error) => {
                        debug!(%error, "a connection without a greeting");
                        None
                    }
                },
            }
        })
    });
    greetings.buffer_unordered(bound).filter_map(async |greeted| greeted.ok().flatten())
}
