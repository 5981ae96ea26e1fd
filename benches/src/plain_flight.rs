//! The yardstick of `flight`: a plain arrow-flight server, in a process of its own.
//!
//! It knows one result and answers every `DoGet` with it: the rows of a Parquet file, read by plain
//! DataFusion with plain strings, or the same rows out of memory. Nothing stands between them and
//! arrow-flight's encoder.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, Result as ActionResult, SchemaResult,
    Ticket,
};
use clap::Args;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncReadExt;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::processes::runtime;

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// The Parquet file.
    #[arg(long)]
    file: PathBuf,
    /// Into how many partitions its reading is cut.
    #[arg(long)]
    partitions: usize,
    /// Reads it once, and answers out of memory.
    #[arg(long)]
    in_memory: bool,
}

/// Bytes that may be under way, as a coordinator has them.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// Serves until the standard input ends; the first line of the output is the address.
pub(crate) fn serve(arguments: &ServeArguments) -> Result<()> {
    runtime()?.block_on(async {
        let source = Source::open(arguments).await?;
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let incoming = incoming.with_nodelay(Some(true));
        let mut out = io::stdout();
        writeln!(out, "{}", incoming.local_addr()?)?;
        out.flush()?;
        let end = async {
            // Whatever ends it, ends the server.
            let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
        };
        let server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .add_service(FlightServiceServer::new(PlainService { source }))
            .serve_with_incoming(incoming);
        tokio::select! {
            served = server => Ok(served?),
            () = end => Ok(()),
        }
    })
}

/// Where the rows are.
enum Source {
    File { context: SessionContext },
    Memory { schema: SchemaRef, batches: Vec<RecordBatch> },
}

type Batches = BoxStream<'static, Result<RecordBatch, DataFusionError>>;

impl Source {
    async fn open(arguments: &ServeArguments) -> Result<Self> {
        let context = open_file(&arguments.file, arguments.partitions).await?;
        let source = Self::File { context };
        if !arguments.in_memory {
            return Ok(source);
        }
        let (schema, batches) = source.read().await?;
        Ok(Self::Memory { schema, batches: batches.try_collect().await? })
    }

    async fn read(&self) -> Result<(SchemaRef, Batches), DataFusionError> {
        match self {
            Self::File { context } => {
                let rows = context.sql("SELECT * FROM t").await?.execute_stream().await?;
                Ok((rows.schema(), rows.boxed()))
            }
            Self::Memory { schema, batches } => {
                let batches = stream::iter(batches.clone()).map(Ok).boxed();
                Ok((SchemaRef::clone(schema), batches))
            }
        }
    }
}

async fn open_file(file: &Path, partitions: usize) -> Result<SessionContext> {
    let mut config = SessionConfig::new().with_target_partitions(partitions);
    // Strings as clients get them, without a detour over views.
    config.options_mut().execution.parquet.schema_force_view_types = false;
    let context = SessionContext::new_with_config(config);
    let options = ParquetReadOptions::default();
    context.register_parquet("t", file.to_string_lossy(), options).await?;
    Ok(context)
}

struct PlainService {
    source: Source,
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("there is only DoGet"))
}

#[async_trait]
impl FlightService for PlainService {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoActionStream = Answers<ActionResult>;
    type ListActionsStream = Answers<ActionType>;
    type DoExchangeStream = Answers<FlightData>;

    async fn do_get(
        &self,
        _request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        let failed = |error: DataFusionError| Status::internal(error.to_string());
        let (schema, batches) = self.source.read().await.map_err(failed)?;
        let batches = batches.map_err(|error| FlightError::ExternalError(Box::new(error)));
        let messages = FlightDataEncoderBuilder::new().with_schema(schema).build(batches);
        Ok(Response::new(messages.map_err(Status::from).boxed()))
    }

    async fn handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        unused()
    }

    async fn list_flights(
        &self,
        _request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        unused()
    }

    async fn get_flight_info(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        unused()
    }

    async fn poll_flight_info(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        unused()
    }

    async fn get_schema(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        unused()
    }

    async fn do_put(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        unused()
    }

    async fn do_action(
        &self,
        _request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        unused()
    }

    async fn list_actions(
        &self,
        _request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        unused()
    }

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        unused()
    }
}
