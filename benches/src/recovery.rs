//! What the death of a worker costs: a query undisturbed, and with a worker killed at half time.
//!
//! Each run has a cluster of its own, for a killed worker does not come back. The fault must be seen
//! to have fired: the worker is lost, attempts that ran or lay there are, and others took their
//! place. Both answers are compared.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use datafusion::common::runtime::SpawnedTask;
use serde_json::{Value, json};
use skep_client::Client;
use skep_testkit::cluster::{Signal, signal};
use skep_testkit::tpch::Table;

use crate::processes::{Processes, Rows, Size, ask, millis, runtime, time};
use crate::tpch::round;

#[derive(Debug, Args)]
pub(crate) struct RecoveryArguments {
    /// The scale factor.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Runs, each with a cluster of its own and another worker to die; the median ratio counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Worker processes.
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Tasks that each worker runs at a time.
    #[arg(long, default_value_t = 1)]
    slots: usize,
    /// Megabytes of memory for all workers together.
    #[arg(long, default_value_t = 8192)]
    memory_mb: usize,
    /// Partitions of the query; as many as there are slots if not said.
    #[arg(long)]
    partitions: Option<usize>,
    /// Seconds that the query takes at least when nothing disturbs it.
    #[arg(long, default_value_t = 10.0)]
    min_seconds: f64,
}

/// Pairs of order lines, by what they have in common: joins and groups over several exchanges, each
/// of them a good part of the whole.
const QUERY: &str = "
    WITH pairs AS (
        SELECT a.l_suppkey AS left_supplier, b.l_suppkey AS right_supplier, a.l_orderkey AS order_key,
               count(*) AS pair_count, sum(a.l_quantity * b.l_quantity) AS quantity
        FROM lineitem a JOIN lineitem b ON a.l_partkey = b.l_partkey AND a.l_orderkey < b.l_orderkey
        WHERE a.l_shipmode IN ('AIR', 'MAIL', 'SHIP')
        GROUP BY 1, 2, 3),
    customers AS (
        SELECT o_custkey, left_supplier, right_supplier, sum(pair_count) AS pair_count,
               sum(quantity) AS quantity
        FROM pairs JOIN orders ON o_orderkey = order_key
        GROUP BY 1, 2, 3)
    SELECT left_supplier % 10, count(*), count(DISTINCT o_custkey), sum(pair_count), sum(quantity)
    FROM customers GROUP BY 1 ORDER BY 1";

/// What one run saw.
struct Run {
    undisturbed: Duration,
    disturbed: Duration,
    tasks: u64,
    /// Attempts of the disturbed query beyond the first of each task.
    again: u64,
}

impl Run {
    fn ratio(&self) -> f64 {
        self.disturbed.as_secs_f64() / self.undisturbed.as_secs_f64()
    }
}

pub(crate) fn run(arguments: &RecoveryArguments) -> Result<(String, Value)> {
    anyhow::ensure!(arguments.runs > 0, "--runs must be at least 1");
    anyhow::ensure!(arguments.workers > 1, "--workers must be at least 2: one dies");
    let runtime = runtime()?;
    let mut out = io::stdout();
    writeln!(out, "run   undisturbed ms   one killed ms    ratio   tasks   run again")?;
    let mut runs = Vec::with_capacity(arguments.runs);
    for number in 0..arguments.runs {
        let run = runtime
            .block_on(measure(arguments, number))
            .with_context(|| format!("run {}", number + 1))?;
        writeln!(
            out,
            "{:<3} {:>16.1} {:>15.1} {:>8.3} {:>7} {:>11}",
            number + 1,
            millis(run.undisturbed),
            millis(run.disturbed),
            run.ratio(),
            run.tasks,
            run.again
        )?;
        runs.push(run);
    }
    runs.sort_by(|a, b| a.ratio().total_cmp(&b.ratio()));
    let median = runs[runs.len() / 2].ratio();
    writeln!(out, "median ratio {median:.3}")?;
    let figures = runs.iter().map(|run| {
        json!({
            "undisturbed_ms": millis(run.undisturbed),
            "one_killed_ms": millis(run.disturbed),
            "ratio": round(run.ratio()),
            "tasks": run.tasks,
            "run_again": run.again,
        })
    });
    let figures = json!({
        "scale": arguments.scale,
        "workers": arguments.workers,
        "slots": arguments.slots,
        "partitions": arguments.partitions,
        "median_ratio": round(median),
        "runs": figures.collect::<Vec<_>>(),
    });
    Ok((format!("recovery-sf{}", arguments.scale), figures))
}

async fn measure(arguments: &RecoveryArguments, number: usize) -> Result<Run> {
    let cluster = Processes::start(&Size {
        workers: arguments.workers,
        slots: arguments.slots,
        memory_limit: (arguments.memory_mb << 20) / arguments.workers,
        ..Size::default()
    })
    .await?;
    cluster.create_tables(arguments.scale, &[Table::LineItem, Table::Orders]).await?;
    let mut settings = Vec::new();
    if let Some(partitions) = arguments.partitions {
        settings.push(format!("SET datafusion.execution.target_partitions = {partitions}"));
    }
    for setting in &settings {
        cluster.ask(setting).await?;
    }
    // Files into the page cache, code into memory, connections open.
    cluster.ask("SELECT count(DISTINCT l_comment) FROM lineitem").await?;
    let (expected, undisturbed) = cluster.time(&format!("{QUERY} /* undisturbed */")).await?;
    anyhow::ensure!(
        undisturbed.as_secs_f64() >= arguments.min_seconds,
        "undisturbed, the query takes only {undisturbed:?}"
    );
    let client = Client::connect(&cluster.processes.url).await?;
    for setting in &settings {
        ask(&client, setting).await?;
    }
    let query: SpawnedTask<Result<(Rows, Duration)>> =
        SpawnedTask::spawn(async move { time(&client, &format!("{QUERY} /* disturbed */")).await });
    tokio::time::sleep(undisturbed / 2).await;
    let victim = &cluster.processes.workers[number % arguments.workers];
    signal(victim.pid, Signal::Kill)?;
    let (answer, disturbed) = query.await??;
    anyhow::ensure!(answer == expected, "the two answer differently");
    let (tasks, again) = losses(&cluster, victim.pid).await?;
    Ok(Run { undisturbed, disturbed, tasks, again })
}

/// Returns how many tasks the disturbed query had, and how many attempts more than that.
async fn losses(cluster: &Processes, pid: u32) -> Result<(u64, u64)> {
    let lost = format!("SELECT id FROM system.workers WHERE pid = {pid} AND state = 'lost'");
    let lost = cluster.ask(&lost).await?;
    anyhow::ensure!(lost.len() == 1, "the coordinator has not lost the worker that was killed");
    let worker = lost[0].concat();
    let query = cluster.query_id("/* disturbed */").await?;
    let of = format!("FROM system.tasks WHERE query = '{query}' AND attempt");
    let gone = cluster
        .ask_number(&format!(
            "SELECT count(*) {of} IS NOT NULL AND worker = '{worker}' AND state IN ('lost', 'failed')"
        ))
        .await?;
    let (tasks, again) = (
        cluster.ask_number(&format!("SELECT count(*) {of} = 0")).await?,
        cluster.ask_number(&format!("SELECT count(*) {of} > 0")).await?,
    );
    anyhow::ensure!(gone > 0, "nothing of the query was lost with {worker}");
    anyhow::ensure!(again > 0, "no task of the query ran again");
    Ok((tasks, again))
}
