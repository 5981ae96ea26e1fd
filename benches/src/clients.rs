//! Many clients with small queries at a time, each on a connection of its own, for a while.
//!
//! What is shown is the time from asking to the last row at the client. One error fails it.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures::future::try_join_all;
use serde_json::{Value, json};
use skep_bench::figures::round;
use skep_client::Client;
use skep_testkit::tpch::Table;

use crate::processes::{Processes, Size, ask, millis, quantile, runtime};

#[derive(Debug, Args)]
pub(crate) struct ClientsArguments {
    /// How many clients ask at a time.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// For how many seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Worker processes.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Tasks that each worker runs at a time.
    #[arg(long, default_value_t = 1)]
    slots: usize,
}

/// What a client asks in turn, and the answer in one line.
const QUERIES: [(&str, &str); 4] = [
    ("SELECT 1 AS x", "1"),
    ("SELECT n_name FROM nation WHERE n_nationkey = 7", "GERMANY"),
    ("SELECT count(*) FROM nation JOIN region ON n_regionkey = r_regionkey", "25"),
    (
        "SELECT r_name, count(*) AS n FROM nation JOIN region ON n_regionkey = r_regionkey \
      GROUP BY r_name ORDER BY r_name LIMIT 1",
        "AFRICA 5",
    ),
];

const MEMORY: usize = 1 << 30;

pub(crate) fn run(arguments: &ClientsArguments) -> Result<(String, Value)> {
    ensure!(arguments.clients > 0, "--clients must be at least 1");
    let (times, elapsed) = runtime()?.block_on(measure(arguments))?;
    let rate = times.len() as f64 / elapsed.as_secs_f64();
    let at = |share| millis(quantile(&times, share));
    let [median, p95, p99, longest] = [0.5, 0.95, 0.99, 1.0].map(at);
    writeln!(
        io::stdout(),
        "{} clients, {:.0} s: {} queries, none failed, {rate:.0} per second\n\
         median {median:.1} ms, p95 {p95:.1} ms, p99 {p99:.1} ms, longest {longest:.1} ms",
        arguments.clients,
        elapsed.as_secs_f64(),
        times.len(),
    )?;
    let figures = json!({
        "clients": arguments.clients,
        "seconds": arguments.seconds,
        "workers": arguments.workers,
        "slots": arguments.slots,
        "queries": times.len(),
        "queries_per_second": round(rate),
        "median_ms": median,
        "p95_ms": p95,
        "p99_ms": p99,
        "longest_ms": longest,
    });
    Ok((format!("clients-{}", arguments.clients), figures))
}

/// Returns the times of all queries in order, and how long all took together.
async fn measure(arguments: &ClientsArguments) -> Result<(Vec<Duration>, Duration)> {
    let ClientsArguments { workers, slots, .. } = *arguments;
    let size = Size { workers, slots, memory_limit: MEMORY, ..Size::default() };
    let cluster = Processes::start(&size).await?;
    cluster.create_tables(0.01, &[Table::Nation, Table::Region]).await?;
    let url = cluster.processes.url.as_str();
    let clients = (0..arguments.clients).map(|_number| Client::connect(url));
    let clients = try_join_all(clients).await?;
    let begin = Instant::now();
    let end = begin + Duration::from_secs(arguments.seconds);
    let asking = clients.iter().enumerate().map(|(number, client)| ask_until(client, number, end));
    let times = try_join_all(asking).await?;
    let elapsed = begin.elapsed();
    let mut times = times.concat();
    times.sort_unstable();
    for client in clients {
        client.close().await?;
    }
    Ok((times, elapsed))
}

/// Asks one query after the other, beginning with another than the neighbours do.
async fn ask_until(client: &Client, number: usize, end: Instant) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for (query, expected) in QUERIES.iter().cycle().skip(number % QUERIES.len()) {
        let begin = Instant::now();
        if begin >= end {
            break;
        }
        let rows = ask(client, query).await.with_context(|| format!("client {number}: {query}"))?;
        times.push(begin.elapsed());
        let answer: Vec<String> = rows.iter().map(|row| row.join(" ")).collect();
        ensure!(answer == [*expected], "client {number}: {query} answers {answer:?}");
    }
    Ok(times)
}
