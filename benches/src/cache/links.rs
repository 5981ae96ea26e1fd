//! A loop over ranks of pages: the ranks change, the links stay.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skep_bench::figures::{milliseconds, round};

use super::CacheArguments;
use super::data::create_links;
use super::report::{Bound, Report, are_near};
use super::site::{Site, ratio};
use crate::processes::{Rows, quantile};

const ITERATIONS: usize = 5;

/// One run of the loop.
struct Ranks {
    iterations: Vec<Duration>,
    /// The sum of all ranks, and the greatest.
    summary: Rows,
    is_exchanged: bool,
    /// Bytes that the tasks which read links had from other workers, in the last iteration; `None` in
    /// one process.
    remote_bytes: Option<f64>,
}

pub(super) async fn measure(arguments: &CacheArguments, report: &mut Report) -> Result<()> {
    let clustered = run(arguments, true).await?;
    let unclustered = run(arguments, false).await?;
    ensure!(
        are_near(&clustered.summary, &unclustered.summary, 1e-9)?,
        "clustered: {:?}, not clustered: {:?}",
        clustered.summary,
        unclustered.summary
    );
    ensure!(unclustered.is_exchanged, "links that are not clustered are not exchanged");
    let (fast, slow) = (median(&clustered.iterations), median(&unclustered.iterations));
    report.add(
        "ranks of pages, links not clustered / clustered by source",
        ratio(slow, fast),
        Bound::AtLeast(2.0),
        json!({
            "clustered_ms": millis(&clustered.iterations),
            "not_clustered_ms": millis(&unclustered.iterations),
        }),
    )?;
    report.add(
        "exchanges of clustered links",
        f64::from(u8::from(clustered.is_exchanged)),
        Bound::AtMost(0.0),
        Value::Null,
    )?;
    let Some(bytes) = clustered.remote_bytes else { return Ok(()) };
    report.add(
        "bytes that tasks which join clustered links had from others",
        bytes,
        Bound::AtMost(0.0),
        Value::Null,
    )
}

async fn run(arguments: &CacheArguments, is_clustered: bool) -> Result<Ranks> {
    let site = Site::open(arguments, None).await?;
    create_links(&site, arguments).await?;
    // Else a table of ranks that is not clustered would be copied to all, which no table of links
    // that is worth a cluster allows.
    for setting in ["", "_rows"] {
        site.ask(&format!(
            "SET datafusion.optimizer.hash_join_single_partition_threshold{setting} = 0"
        ))
        .await?;
    }
    let by =
        |column: &str| if is_clustered { format!("CLUSTER BY ({column})") } else { String::new() };
    site.ask(&format!("CACHE TABLE links {}", by("src"))).await?;
    site.ask(&format!(
        "CACHE TABLE ranks_0 {} AS \
         SELECT src AS id, 1e0 AS rank, count(*) AS degree FROM links GROUP BY src",
        by("id")
    ))
    .await?;
    let mut iterations = Vec::with_capacity(ITERATIONS);
    for iteration in 0..ITERATIONS {
        let (_, time) = site
            .time(&format!(
                "CACHE TABLE ranks_{} {} AS {}",
                iteration + 1,
                by("id"),
                rank_query(&format!("ranks_{iteration}"))
            ))
            .await?;
        iterations.push(time);
    }
    // Of a query whose own rows are not cached.
    let last = format!("ranks_{ITERATIONS}");
    let plan = site.ask(&format!("EXPLAIN {}", rank_query(&last))).await?;
    let remote_bytes = remote_bytes(&site, &format!("CACHE TABLE {last}")).await?;
    let summary = site.ask(&format!("SELECT sum(rank), max(rank) FROM ranks_{ITERATIONS}")).await?;
    Ok(Ranks { iterations, summary, is_exchanged: exchanges_links(&plan)?, remote_bytes })
}

/// Returns what the first tasks of a statement that read cached rows had from other workers: those
/// that join the links, unless the links are exchanged before.
async fn remote_bytes(site: &Site, statement: &str) -> Result<Option<f64>> {
    let Site::Cluster(cluster) = site else { return Ok(None) };
    let id = cluster.query_id(statement).await?;
    let inputs = format!(
        "SELECT sum(remote_bytes) FROM system.tasks \
         WHERE query = '{id}' AND locality IS NOT NULL \
         GROUP BY stage ORDER BY CAST(substr(stage, 2) AS INT) LIMIT 1"
    );
    Ok(Some(site.ask_number(&inputs).await?))
}

/// Each page passes its rank on to those that it links to, in equal parts.
fn rank_query(ranks: &str) -> String {
    format!(
        "SELECT r.id, 0.15e0 + 0.85e0 * coalesce(given.rank, 0e0) AS rank, r.degree \
         FROM {ranks} AS r LEFT JOIN ( \
           SELECT dst, sum(s.rank / s.degree) AS rank \
           FROM links JOIN {ranks} AS s ON src = s.id GROUP BY dst) AS given \
         ON r.id = given.dst"
    )
}

/// Returns whether rows of the cached links go through an exchange on their way to the join.
fn exchanges_links(plan: &Rows) -> Result<bool> {
    // The first cell of a row says which plan it is of.
    let lines: Vec<&str> = plan.iter().filter_map(|row| row.last()).map(String::as_str).collect();
    let depth = |line: &str| {
        let drawn = line.split_once(')').map_or(line, |(_, rest)| rest);
        drawn.len() - drawn.trim_start_matches('-').len()
    };
    let scan = lines.iter().position(|line| line.contains("CacheScanExec: table=links"));
    let scan = scan.with_context(|| format!("no scan of the cached links in {plan:?}"))?;
    let mut at = depth(lines[scan]);
    for line in lines[..scan].iter().rev() {
        if depth(line) >= at {
            continue;
        }
        at = depth(line);
        if line.contains("JoinExec") {
            return Ok(false);
        }
        if line.contains("RepartitionExec") || line.contains("Exchange") {
            return Ok(true);
        }
    }
    anyhow::bail!("no join above the scan of the cached links in {plan:?}")
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    quantile(&times, 0.5)
}

fn millis(times: &[Duration]) -> Vec<f64> {
    times.iter().map(|time| round(milliseconds(*time))).collect()
}
