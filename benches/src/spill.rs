//! What it costs to have too little memory for a query's exchanges.
//!
//! Two clusters run the same query by turns: one whose workers can hold all that is exchanged, one
//! whose workers together have a third of that. The second must be seen to spill.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use skep_testkit::tpch::Table;

use crate::processes::{Processes, Rows, Size, millis, quantile, runtime};
use crate::tpch::round;

#[derive(Debug, Args)]
pub(crate) struct SpillArguments {
    /// The scale factor.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Runs on each cluster; the medians count.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Worker processes.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Tasks that each worker runs at a time.
    #[arg(long, default_value_t = 1)]
    slots: usize,
    /// How many times the memory of all workers together the exchanges must be, at least.
    #[arg(long, default_value_t = 3.0)]
    times: f64,
    /// Megabytes of memory of each worker that has enough.
    #[arg(long, default_value_t = 4096)]
    enough_mb: usize,
}

/// Rows as wide as they are, exchanged by a key; little is made of them.
const QUERY: &str = "
    SELECT o_orderpriority, count(*), sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)),
           sum(l_quantity), max(l_comment), min(l_shipinstruct || l_shipmode), max(l_returnflag),
           max(l_shipdate), max(l_commitdate), max(l_receiptdate), sum(l_partkey), sum(l_suppkey)
    FROM lineitem JOIN orders ON l_orderkey = o_orderkey
    GROUP BY o_orderpriority ORDER BY o_orderpriority";

/// One run on one cluster.
struct Run {
    rows: Rows,
    time: Duration,
    exchanged: u64,
    spilled: u64,
}

pub(crate) fn run(arguments: &SpillArguments) -> Result<(String, Value)> {
    ensure!(arguments.runs > 0, "--runs must be at least 1");
    let (limit, enough, short) = runtime()?.block_on(measure(arguments))?;
    let median = |runs: &[Run]| {
        let mut times: Vec<_> = runs.iter().map(|run| run.time).collect();
        times.sort_unstable();
        quantile(&times, 0.5)
    };
    let (enough_time, short_time) = (median(&enough), median(&short));
    let ratio = short_time.as_secs_f64() / enough_time.as_secs_f64();
    let exchanged = short.iter().map(|run| run.exchanged).min().unwrap_or_default();
    let spilled = short.iter().map(|run| run.spilled).min().unwrap_or_default();
    let times = exchanged as f64 / (limit * arguments.workers) as f64;
    writeln!(
        io::stdout(),
        "{} workers of {} MB exchange {} MB: {times:.2} times their memory; {} MB spilled\n\
         enough memory {:.1} ms, short {:.1} ms: ratio {ratio:.3}",
        arguments.workers,
        limit >> 20,
        exchanged >> 20,
        spilled >> 20,
        millis(enough_time),
        millis(short_time),
    )?;
    let figures = json!({
        "scale": arguments.scale,
        "workers": arguments.workers,
        "slots": arguments.slots,
        "short_worker_bytes": limit,
        "exchanged_bytes": exchanged,
        "exchanged_to_memory": round(times),
        "spilled_bytes": spilled,
        "enough_ms": millis(enough_time),
        "short_ms": millis(short_time),
        "ratio": round(ratio),
    });
    Ok((format!("spill-sf{}", arguments.scale), figures))
}

/// Returns the memory of each worker that has too little, and the runs of both clusters.
async fn measure(arguments: &SpillArguments) -> Result<(usize, Vec<Run>, Vec<Run>)> {
    let enough = open(arguments, arguments.enough_mb << 20).await?;
    // How much is exchanged, and the files into the page cache.
    let first = once(&enough, "first").await?;
    ensure!(first.spilled == 0, "{} bytes were spilled with memory enough", first.spilled);
    let limit = (first.exchanged as f64 / arguments.times) as usize / arguments.workers;
    let short = open(arguments, limit).await?;
    let (mut enough_runs, mut short_runs) = (Vec::new(), Vec::new());
    for run in 0..arguments.runs {
        enough_runs.push(once(&enough, &format!("enough {run}")).await?);
        short_runs.push(once(&short, &format!("short {run}")).await?);
    }
    for run in short_runs.iter().chain(&enough_runs) {
        ensure!(run.rows == first.rows, "two runs answer differently");
    }
    for run in &short_runs {
        ensure!(run.spilled > 0, "nothing was spilled with {limit} bytes for each worker");
    }
    Ok((limit, enough_runs, short_runs))
}

async fn open(arguments: &SpillArguments, memory_limit: usize) -> Result<Processes> {
    let SpillArguments { workers, slots, scale, .. } = *arguments;
    let size = Size { workers, slots, memory_limit, ..Size::default() };
    let cluster = Processes::start(&size).await?;
    cluster.create_tables(scale, &[Table::LineItem, Table::Orders]).await?;
    Ok(cluster)
}

async fn once(cluster: &Processes, mark: &str) -> Result<Run> {
    let mark = format!("/* {mark} */");
    let (rows, time) = cluster.time(&format!("{QUERY} {mark}")).await?;
    let id = cluster.query_id(&mark).await?;
    let sum = async |column: &str| {
        let tasks = format!("FROM system.tasks WHERE query = '{id}' AND worker <> 'coordinator'");
        cluster.ask_number(&format!("SELECT coalesce(sum({column}), 0) {tasks}")).await
    };
    let (exchanged, spilled) = (sum("output_bytes").await?, sum("spilled_bytes").await?);
    Ok(Run { rows, time, exchanged, spilled })
}
