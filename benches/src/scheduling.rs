//! What scheduling costs: thousands of tasks that do nothing, and one task that does next to nothing.
//!
//! All of it through Flight SQL on a warm connection, with real workers: planning, encoding, the
//! control streams, the exchange of what little there is, and the answer's way back are in the
//! figures.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use skep_testkit::tpch::Table;

use crate::processes::{Processes, Size, millis, quantile, runtime};
use crate::tpch::round;

#[derive(Debug, Args)]
pub(crate) struct SchedulingArguments {
    /// Tasks of the query of tasks that do nothing.
    #[arg(long, default_value_t = 4000)]
    tasks: usize,
    /// Runs of that query; the median counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Runs of each query of one task.
    #[arg(long, default_value_t = 300)]
    small_runs: usize,
    /// Worker processes.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Tasks that each worker runs at a time.
    #[arg(long, default_value_t = 4)]
    slots: usize,
}

/// Reads 25 rows: one task.
const SMALL: &str = "SELECT n_regionkey, n_name FROM nation WHERE n_nationkey = 7 ORDER BY n_name";

/// Tasks run on workers, however little there is to them.
const SPREAD: &str = "[planner]\nsmall_query_bytes = 0\n";

const MEMORY: usize = 1 << 30;

pub(crate) fn run(arguments: &SchedulingArguments) -> Result<(String, Value)> {
    ensure!(arguments.runs > 0 && arguments.small_runs > 0, "--runs must be at least 1");
    let runtime = runtime()?;
    let (tasks, times) = runtime.block_on(many(arguments))?;
    let median = quantile(&times, 0.5);
    let rate = tasks as f64 / median.as_secs_f64();
    let mut out = io::stdout();
    writeln!(
        out,
        "{tasks} tasks: median {:.1} ms, {rate:.0} tasks per second ({:.1} to {:.1} ms)",
        millis(median),
        millis(quantile(&times, 0.0)),
        millis(quantile(&times, 1.0))
    )?;
    let mut small = Vec::new();
    for on_worker in [true, false] {
        let times = runtime.block_on(one(arguments, on_worker))?;
        let place = if on_worker { "worker" } else { "coordinator" };
        let (median, p95) = (millis(quantile(&times, 0.5)), millis(quantile(&times, 0.95)));
        writeln!(out, "one task on a {place}: median {median:.2} ms, p95 {p95:.2} ms")?;
        small.push(json!({ "place": place, "median_ms": median, "p95_ms": p95 }));
    }
    let figures = json!({
        "workers": arguments.workers,
        "slots": arguments.slots,
        "tasks": tasks,
        "median_ms": millis(median),
        "tasks_per_second": round(rate),
        "one_task": small,
    });
    Ok(("scheduling".to_owned(), figures))
}

/// Runs a query that has as many tasks as were asked for, each of which gets one row or none.
/// Returns how many tasks ran on workers each time, and the times in order.
async fn many(arguments: &SchedulingArguments) -> Result<(u64, Vec<Duration>)> {
    let size = size(arguments, SPREAD.to_owned());
    let cluster = Processes::start(&size).await?;
    let count = arguments.tasks;
    cluster.ask(&format!("SET datafusion.execution.target_partitions = {count}")).await?;
    let query = format!("SELECT count(*) FROM generate_series(1, {count}) WHERE value % 2 = 0");
    let mut times = Vec::with_capacity(arguments.runs);
    let mut tasks = u64::MAX;
    // The first opens connections and is not counted.
    for run in 0..=arguments.runs {
        let mark = format!("/* run {run} */");
        let (rows, time) = cluster.time(&format!("{query} {mark}")).await?;
        ensure!(rows.concat() == [(count / 2).to_string()], "{query} answers {rows:?}");
        let id = cluster.query_id(&mark).await?;
        let sealed = format!(
            "SELECT count(*) FROM system.tasks \
             WHERE query = '{id}' AND state = 'sealed' AND worker <> 'coordinator'"
        );
        tasks = tasks.min(cluster.ask_number(&sealed).await?);
        if run > 0 {
            times.push(time);
        }
    }
    ensure!(tasks >= count as u64, "only {tasks} tasks ran on workers, of {count}");
    times.sort_unstable();
    Ok((tasks, times))
}

/// Runs a query of one task again and again, and returns the times in order.
async fn one(arguments: &SchedulingArguments, on_worker: bool) -> Result<Vec<Duration>> {
    // A table of 25 rows is read on the coordinator, unless that is not to happen.
    let config = match on_worker {
        true => SPREAD.to_owned(),
        false => String::new(),
    };
    let cluster = Processes::start(&size(arguments, config)).await?;
    cluster.create_tables(0.01, &[Table::Nation]).await?;
    let mut times = Vec::with_capacity(arguments.small_runs);
    for run in 0..arguments.small_runs + 20 {
        let (rows, time) = cluster.time(&format!("{SMALL} /* run */")).await?;
        ensure!(rows.len() == 1, "{SMALL} answers {rows:?}");
        // The first open connections and fill caches.
        if run >= 20 {
            times.push(time);
        }
    }
    if on_worker {
        let query = format!("{SMALL} /* last */");
        cluster.ask(&query).await?;
        let id = cluster.query_id("/* last */").await?;
        let sites = format!("SELECT worker FROM system.tasks WHERE query = '{id}'");
        let sites = cluster.ask(&sites).await?;
        let ran_there = sites.len() == 1 && sites.concat() != ["coordinator"];
        ensure!(ran_there, "the query of one task ran on {sites:?}");
    } else {
        let count = cluster.count_on_workers("/* run */").await?;
        ensure!(count == 0, "{count} runs of the small query went to workers");
    }
    times.sort_unstable();
    Ok(times)
}

fn size(arguments: &SchedulingArguments, config: String) -> Size {
    let SchedulingArguments { workers, slots, .. } = *arguments;
    Size { workers, slots, memory_limit: MEMORY, config, ..Size::default() }
}
