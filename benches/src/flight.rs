//! Rows per second of `SELECT *` through Flight SQL, and through a plain arrow-flight server.
//!
//! Both are processes of their own, send the same rows over loopback, and are read by the same
//! client, by turns: with the rows in a Parquet file, in the memory of the process that answers
//! (`CACHE TABLE` here, plain batches there), and in that of a worker, which is one process more.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{FlightDescriptor, Ticket};
use clap::Args;
use futures::TryStreamExt;
use prost::Message;
use serde_json::{Value, json};
use skep_bench::figures::{milliseconds, round};
use skep_testkit::tpch::{DataSet, Table};
use tonic::transport::{Channel, Endpoint};

use crate::processes::{Processes, Size, quantile, runtime};

#[derive(Debug, Args)]
pub(crate) struct FlightArguments {
    /// The scale factor of the table lineitem: 6 million rows at 1.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Runs on each side; the median counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Partitions on both sides.
    #[arg(long, default_value_t = 2)]
    partitions: usize,
}

const MEMORY: usize = 4 << 30;

/// Bytes that may be under way, as `skep-client` has them.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// The plain server's process; ends with this.
struct PlainServer {
    child: Child,
    url: String,
}

impl PlainServer {
    fn start(file: &Path, arguments: &FlightArguments, in_memory: bool) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve-plain-flight").arg("--file").arg(file);
        command.arg("--partitions").arg(arguments.partitions.to_string());
        if in_memory {
            command.arg("--in-memory");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let output = child.stdout.take().context("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        ensure!(!line.is_empty(), "the plain server does not start");
        Ok(Self { child, url: format!("http://{}", line.trim()) })
    }
}

impl Drop for PlainServer {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Client = FlightServiceClient<Channel>;

/// Rows, bytes of their arrays, and how long they took.
type Read = (u64, u64, Duration);

async fn connect(url: &str) -> Result<Client> {
    let endpoint = Endpoint::from_shared(url.replace("grpc://", "http://"))?
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let client = FlightServiceClient::new(endpoint.connect().await?);
    Ok(client.max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// Fetches a ticket; the time counts from `begin`.
async fn fetch(client: &mut Client, ticket: Ticket, begin: Instant) -> Result<Read> {
    let messages = client.do_get(ticket).await?.into_inner().map_err(FlightError::from);
    let mut batches = FlightRecordBatchStream::new_from_flight_data(messages);
    let (mut rows, mut bytes) = (0, 0);
    while let Some(batch) = batches.try_next().await? {
        rows += batch.num_rows() as u64;
        bytes += batch.get_array_memory_size() as u64;
    }
    Ok((rows, bytes, begin.elapsed()))
}

async fn plain(client: &mut Client) -> Result<Read> {
    fetch(client, Ticket::new("all"), Instant::now()).await
}

async fn skep(client: &mut Client, table: &str) -> Result<Read> {
    let begin = Instant::now();
    let query = format!("SELECT * FROM {table}");
    let command = CommandStatementQuery { query, transaction_id: None };
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let info = client.get_flight_info(descriptor).await?.into_inner();
    let endpoint = info.endpoint.into_iter().next().context("no endpoint")?;
    fetch(client, endpoint.ticket.context("no ticket")?, begin).await
}

/// Where skep has the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    File,
    Coordinator,
    Worker,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Coordinator => "memory",
            Self::Worker => "a worker",
        }
    }

    /// More for the coordinator's configuration.
    fn config(self) -> String {
        match self {
            // Whatever is small is cached by the coordinator, and read there.
            Self::Coordinator => format!("[planner]\nsmall_query_bytes = {MEMORY}\n"),
            Self::File | Self::Worker => String::new(),
        }
    }
}

/// The medians of both sides.
struct Measurement {
    place: Place,
    rows: u64,
    bytes: u64,
    skep: Duration,
    plain: Duration,
}

impl Measurement {
    fn rate(&self, time: Duration) -> f64 {
        self.rows as f64 / time.as_secs_f64()
    }

    /// Rows per second of skep's, as a share of the plain server's.
    fn ratio(&self) -> f64 {
        self.plain.as_secs_f64() / self.skep.as_secs_f64()
    }
}

pub(crate) fn run(arguments: &FlightArguments) -> Result<(String, Value)> {
    ensure!(arguments.runs > 0, "--runs must be at least 1");
    let runtime = runtime()?;
    let mut out = io::stdout();
    writeln!(out, "rows in        rows        MB   skep ms  plain ms   skep rows/s    ratio")?;
    let mut places = Vec::new();
    for place in [Place::File, Place::Coordinator, Place::Worker] {
        let measured = runtime.block_on(measure(arguments, place))?;
        let megabytes = measured.bytes as f64 / 1e6;
        writeln!(
            out,
            "{:<8} {:>10} {megabytes:>9.0} {:>9.1} {:>9.1} {:>13.0} {:>8.3}",
            measured.place.name(),
            measured.rows,
            milliseconds(measured.skep),
            milliseconds(measured.plain),
            measured.rate(measured.skep),
            measured.ratio(),
        )?;
        places.push(json!({
            "rows_in": measured.place.name(),
            "rows": measured.rows,
            "megabytes": megabytes.round(),
            "skep_rows_per_second": measured.rate(measured.skep).round(),
            "plain_rows_per_second": measured.rate(measured.plain).round(),
            "ratio": round(measured.ratio()),
        }));
    }
    let figures = json!({
        "scale": arguments.scale,
        "runs": arguments.runs,
        "partitions": arguments.partitions,
        "places": places,
    });
    Ok((format!("flight-sf{}", arguments.scale), figures))
}

/// Measures both sides by turns, so that whatever disturbs disturbs both.
async fn measure(arguments: &FlightArguments, place: Place) -> Result<Measurement> {
    let data_set = DataSet { scale: arguments.scale, ..DataSet::SMALL };
    let file = data_set.file(&data_set.cached()?, Table::LineItem);
    let table = Table::LineItem.name();
    let (slots, config) = (arguments.partitions, place.config());
    let size = Size { slots, memory_limit: MEMORY, config, ..Size::default() };
    let cluster = Processes::start(&size).await?;
    cluster.create_tables(arguments.scale, &[Table::LineItem]).await?;
    let in_memory = place != Place::File;
    if in_memory {
        cluster.ask(&format!("CACHE TABLE {table}")).await?;
        let keeper =
            format!("SELECT worker FROM system.cached_tables WHERE table_name = '{table}'");
        let keeper = cluster.ask(&keeper).await?.concat().concat();
        let is_worker = keeper.starts_with('w');
        ensure!(is_worker == (place == Place::Worker), "\"{keeper}\" keeps the rows");
    }
    let server = PlainServer::start(&file, arguments, in_memory)?;
    let mut theirs = connect(&server.url).await?;
    let mut ours = connect(&cluster.processes.url).await?;
    let (mut skep_times, mut plain_times) = (Vec::new(), Vec::new());
    let (mut rows, mut bytes) = (0, 0);
    // The first run of each opens files and is not counted.
    for run in 0..=arguments.runs {
        let (by_skep, by_plain) = if run % 2 == 0 {
            let by_skep = skep(&mut ours, table).await?;
            (by_skep, plain(&mut theirs).await?)
        } else {
            let by_plain = plain(&mut theirs).await?;
            (skep(&mut ours, table).await?, by_plain)
        };
        ensure!(by_skep.0 == by_plain.0, "{} rows, and {}", by_skep.0, by_plain.0);
        (rows, bytes) = (by_plain.0, by_plain.1);
        if run > 0 {
            skep_times.push(by_skep.2);
            plain_times.push(by_plain.2);
        }
    }
    skep_times.sort_unstable();
    plain_times.sort_unstable();
    let [skep, plain] = [&skep_times, &plain_times].map(|times| quantile(times, 0.5));
    Ok(Measurement { place, rows, bytes, skep, plain })
}
