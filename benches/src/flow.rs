//! Results of millions of rows: when the first row comes, and what the coordinator holds meanwhile.
//!
//! Each query runs on a cluster of its own, once with a client that takes rows as fast as they come,
//! and once with one that takes them far more slowly than they could be made. What the coordinator
//! grows by is the system's own high-water mark of resident memory (`VmHWM`) against what was
//! resident before the statement.

use std::fs;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures::StreamExt;
use serde_json::{Value, json};
use skep_testkit::tpch::Table;

use crate::processes::{Processes, Size, millis, runtime};

#[derive(Debug, Args)]
pub(crate) struct FlowArguments {
    /// The scale factor; 1 has 6 million rows.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Worker processes.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Tasks that each worker runs at a time.
    #[arg(long, default_value_t = 1)]
    slots: usize,
    /// Megabytes of memory of each process, enough to hold the result.
    #[arg(long, default_value_t = 4096)]
    memory_mb: usize,
    /// Rows that the slow client takes in a second.
    #[arg(long, default_value_t = 400_000)]
    slow_rows: u64,
    /// Only these queries, as in join,sort.
    #[arg(long, value_delimiter = ',')]
    queries: Vec<String>,
}

/// A result as long as the largest table.
struct Case {
    name: &'static str,
    text: &'static str,
    /// Whether workers have a part in it.
    is_spread: bool,
}

const CASES: [Case; 4] = [
    Case { name: "table", text: "SELECT * FROM lineitem", is_spread: false },
    Case {
        name: "join",
        text: "SELECT lineitem.*, o_orderdate, o_totalprice
               FROM lineitem JOIN orders ON l_orderkey = o_orderkey",
        is_spread: true,
    },
    Case { name: "sort", text: "SELECT * FROM lineitem ORDER BY l_extendedprice", is_spread: true },
    Case {
        name: "group",
        text:
            "SELECT l_orderkey, l_linenumber, max(l_comment), max(l_shipinstruct), max(l_shipdate)
               FROM lineitem GROUP BY l_orderkey, l_linenumber",
        is_spread: true,
    },
];

/// What one run showed.
struct Run {
    rows: u64,
    first_row: Duration,
    total: Duration,
    grown_bytes: u64,
}

pub(crate) fn run(arguments: &FlowArguments) -> Result<(String, Value)> {
    let runtime = runtime()?;
    let mut out = io::stdout();
    writeln!(out, "query  client      rows  first row      total  coordinator grew by")?;
    let mut figures = Vec::new();
    let names = &arguments.queries;
    for case in CASES.iter().filter(|case| names.is_empty() || names.iter().any(|n| n == case.name))
    {
        let mut row_counts = Vec::new();
        for client in ["fast", "slow"] {
            let pace = (client == "slow").then_some(arguments.slow_rows);
            let run = runtime.block_on(measure(arguments, case, pace))?;
            let grown_mb = run.grown_bytes as f64 / f64::from(1 << 20);
            writeln!(
                out,
                "{:5}  {client:6}  {:8}  {:6.0} ms  {:6.0} ms  {grown_mb:.0} MB",
                case.name,
                run.rows,
                millis(run.first_row),
                millis(run.total),
            )?;
            figures.push(json!({
                "query": case.name,
                "client": client,
                "rows": run.rows,
                "first_row_ms": millis(run.first_row),
                "total_ms": millis(run.total),
                "grown_mb": grown_mb.round(),
            }));
            row_counts.push(run.rows);
        }
        ensure!(row_counts[0] == row_counts[1], "the slow client got another number of rows");
    }
    let figures = json!({
        "scale": arguments.scale,
        "workers": arguments.workers,
        "slots": arguments.slots,
        "memory_mb": arguments.memory_mb,
        "slow_rows_per_second": arguments.slow_rows,
        "runs": figures,
    });
    Ok((format!("flow-sf{}", arguments.scale), figures))
}

async fn measure(arguments: &FlowArguments, case: &Case, pace: Option<u64>) -> Result<Run> {
    let size = Size {
        workers: arguments.workers,
        slots: arguments.slots,
        memory_limit: arguments.memory_mb << 20,
        ..Size::default()
    };
    let cluster = Processes::start(&size).await?;
    cluster.create_tables(arguments.scale, &[Table::LineItem, Table::Orders]).await?;
    let expected = cluster.ask_number("SELECT count(*) FROM lineitem").await?;
    let coordinator = coordinator(&cluster)?;
    let before = resident(coordinator, "VmRSS:")?;
    // The high-water mark begins anew.
    fs::write(format!("/proc/{coordinator}/clear_refs"), "5")?;

    let begin = Instant::now();
    let mut statement = cluster.client.execute(&format!("{} /* flow */", case.text)).await?;
    let (mut rows, mut first_row) = (0, None);
    while let Some(batch) = statement.next().await {
        rows += batch?.num_rows() as u64;
        first_row = first_row.or((rows > 0).then(|| begin.elapsed()));
        if let Some(pace) = pace {
            let due = Duration::from_secs_f64(rows as f64 / pace as f64);
            tokio::time::sleep(due.saturating_sub(begin.elapsed())).await;
        }
    }
    let total = begin.elapsed();
    let peak = resident(coordinator, "VmHWM:")?;
    ensure!(rows == expected, "{rows} rows of {expected} came");
    let id = cluster.query_id("/* flow */").await?;
    let tasks = format!("FROM system.tasks WHERE query = '{id}' AND worker <> 'coordinator'");
    let on_workers = cluster.ask_number(&format!("SELECT count(*) {tasks}")).await?;
    ensure!((on_workers > 0) == case.is_spread, "{on_workers} tasks ran on workers");
    let first_row = first_row.context("no row came")?;
    Ok(Run { rows, first_row, total, grown_bytes: peak.saturating_sub(before) })
}

/// Finds the coordinator: the child of `skep cluster` that is no worker.
fn coordinator(cluster: &Processes) -> Result<u32> {
    let parent = cluster.processes.pid();
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let of = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        if of.and_then(|of| of.trim().parse().ok()) == Some(parent) {
            children.push(pid);
        }
    }
    children.retain(|pid| cluster.processes.workers.iter().all(|worker| worker.pid != *pid));
    ensure!(children.len() == 1, "{} processes may be the coordinator", children.len());
    Ok(children[0])
}

/// Reads one of the figures of a process's resident memory, in bytes.
fn resident(pid: u32, figure: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(figure));
    let kilobytes =
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kilobytes.with_context(|| format!("this system does not tell {figure}"))? << 10)
}
