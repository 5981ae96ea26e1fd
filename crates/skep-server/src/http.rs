//! HTTP for whoever watches over the process: is it alive, is it ready.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use datafusion::common::runtime::SpawnedTask;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::warn;

use crate::config::GrpcConfig;
use crate::connection::{Connection, accept};
use crate::error::{Error, Result};
use crate::listen::Phase;

/// What the probes ask.
pub(crate) trait Readiness: Send + Sync + 'static {
    /// Returns whether statements are taken.
    fn is_ready(&self) -> bool;

    /// Returns how many workers live.
    fn live_worker_count(&self) -> usize;
}

/// An HTTP server that runs, until it is dropped.
#[derive(Debug)]
pub(crate) struct HttpServer {
    address: SocketAddr,
    /// Gone with the server, which cuts its connections.
    _phase: watch::Sender<Phase>,
    _task: SpawnedTask<()>,
}

/// Lets connections in as the gRPC port does: a bounded number, and none that says nothing.
struct Incoming {
    connections: BoxStream<'static, io::Result<Connection>>,
}

impl axum::serve::Listener for Incoming {
    type Io = Connection;
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.connections.next().await {
                Some(Ok(connection)) => return (connection, ()),
                // It has waited a while; perhaps the system has room again.
                Some(Err(_refused)) => {}
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(())
    }
}

impl HttpServer {
    /// Begins to serve.
    ///
    /// # Errors
    /// [`Error::Internal`] if the system does not tell where it listens.
    pub(crate) fn start(
        listener: TcpListener,
        readiness: Arc<dyn Readiness>,
        config: &GrpcConfig,
    ) -> Result<Self> {
        let address = listener
            .local_addr()
            .map_err(|error| Error::Internal { message: format!("no local address: {error}") })?;
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(readiness);
        let (phase, watched) = watch::channel(Phase::Serving);
        let incoming = Incoming { connections: accept(listener, watched, config).boxed() };
        let task = SpawnedTask::spawn(async move {
            if let Err(error) = axum::serve(incoming, router).await {
                warn!(%error, "HTTP server ended");
            }
        });
        Ok(Self { address, _phase: phase, _task: task })
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn ready(State(readiness): State<Arc<dyn Readiness>>) -> Response {
    let is_ready = readiness.is_ready();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({ "ready": is_ready, "workers": readiness.live_worker_count() });
    (status, [(CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}
