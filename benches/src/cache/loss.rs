//! Workers that die with what they keep.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use datafusion::common::runtime::SpawnedTask;
use serde_json::json;
use skep_bench::figures::{milliseconds, round};
use skep_client::Client;
use skep_testkit::cluster::{Signal, signal};

use super::CacheArguments;
use super::data::{create_lineitem, create_points};
use super::iterations::{ITERATIONS, centers_query, first_centers, moved_centers};
use super::report::{Bound, Report, are_near};
use super::scan::usual_query;
use super::site::{Site, ratio, seconds};
use crate::processes::{Processes, quantile, time};

/// The iteration in which a worker dies, from 1, as in the paper on resilient distributed datasets.
const FATAL: usize = 6;

pub(super) async fn measure(arguments: &CacheArguments, report: &mut Report) -> Result<()> {
    ensure!(arguments.workers > 1, "--workers must be at least 2: one dies");
    before_a_query(arguments, report).await?;
    in_an_iteration(arguments, report).await
}

fn processes(site: &Site) -> Result<&Processes> {
    match site {
        Site::Cluster(cluster) => Ok(cluster),
        Site::Embedded { .. } => anyhow::bail!("in one process there is no worker to lose"),
    }
}

/// A worker dies, then a query wants what it kept.
async fn before_a_query(arguments: &CacheArguments, report: &mut Report) -> Result<()> {
    let site = Site::open(arguments, None).await?;
    create_lineitem(&site, arguments).await?;
    site.ask("SELECT count(*), max(l_comment) FROM csv").await?;
    let (_, load) = site.time("CACHE TABLE cached").await?;
    let query = usual_query("cached");
    let (expected, undisturbed) = site.median(&query, arguments.runs).await?;
    let partitions = kept_partitions(&site).await?;
    let cluster = processes(&site)?;
    let victim = cluster.processes.workers.last().context("no worker")?;
    signal(victim.pid, Signal::Kill)?;
    let (rows, disturbed) = site.time(&query).await?;
    ensure!(rows == expected, "after the loss the answer is another");
    let rebuilt = rebuilt(&site).await?;
    ensure!(rebuilt > 0.0, "nothing was rebuilt: nothing was lost");
    report.add(
        "query after the loss of a worker / reload and query",
        ratio(disturbed, load + undisturbed),
        Bound::AtMost(0.6),
        json!({
            "load_ms": round(milliseconds(load)),
            "query_ms": round(milliseconds(undisturbed)),
            "query_after_loss_ms": round(milliseconds(disturbed)),
            "partitions": partitions,
            "rebuilt": rebuilt,
        }),
    )
}

/// A worker dies in the middle of an iteration of k-means.
async fn in_an_iteration(arguments: &CacheArguments, report: &mut Report) -> Result<()> {
    let site = Site::open(arguments, None).await?;
    create_points(&site, arguments).await?;
    site.ask("CACHE TABLE cached_points").await?;
    let mut centers = first_centers(arguments.centers);
    let mut times: Vec<Duration> = Vec::with_capacity(ITERATIONS);
    let mut fatal = None;
    for iteration in 1..=ITERATIONS {
        let query = centers_query("cached_points", &centers);
        let (rows, took) = if iteration == FATAL {
            let cluster = processes(&site)?;
            let client = Client::connect(&cluster.processes.url).await?;
            let text = query.clone();
            let running = SpawnedTask::spawn(async move { time(&client, &text).await });
            tokio::time::sleep(usual(&times) / 2).await;
            signal(cluster.processes.workers[0].pid, Signal::Kill)?;
            let (rows, took) = running.await??;
            fatal = Some((query, rows.clone()));
            (rows, took)
        } else {
            site.time(&query).await?
        };
        times.push(took);
        moved_centers(&mut centers, &rows)?;
    }
    let rebuilt = rebuilt(&site).await?;
    ensure!(rebuilt > 0.0, "nothing was rebuilt: nothing was lost");
    let (query, disturbed) = fatal.context("no worker died")?;
    let undisturbed = site.ask(&query).await?;
    ensure!(
        are_near(&disturbed, &undisturbed, 1e-6)?,
        "{disturbed:?} with a death, else {undisturbed:?}"
    );
    let others = usual(&times[..FATAL - 1]);
    let all: Vec<f64> = times.iter().map(|time| round(milliseconds(*time))).collect();
    report.add(
        "iteration in which a worker dies / others",
        ratio(times[FATAL - 1], others),
        Bound::AtMost(1.42),
        json!({ "iterations_ms": all, "rebuilt": rebuilt }),
    )?;
    report.add(
        "the next iteration / those before",
        seconds(times[FATAL]) / seconds(others),
        Bound::AtMost(1.05),
        json!(null),
    )
}

/// The median of what iterations took; the first one warms up.
fn usual(times: &[Duration]) -> Duration {
    let mut later = times[1.min(times.len())..].to_vec();
    later.sort_unstable();
    quantile(&later, 0.5)
}

async fn kept_partitions(site: &Site) -> Result<f64> {
    site.ask_number("SELECT sum(cached_partitions) FROM system.cached_tables").await
}

async fn rebuilt(site: &Site) -> Result<f64> {
    site.ask_number("SELECT sum(rebuilt) FROM system.cached_tables").await
}
