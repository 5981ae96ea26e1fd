//! Memory for a part of the table: what is not kept is read from its file again.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use skep_bench::figures::{milliseconds, round};

use super::CacheArguments;
use super::data::create_lineitem;
use super::report::{Bound, Report};
use super::scan::usual_query;
use super::site::{Site, ratio, seconds};

/// How much of the table there is memory for.
const SHARES: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];
/// How much longer than with less memory a query may take and still count as no longer.
const JITTER: f64 = 1.03;

pub(super) async fn measure(arguments: &CacheArguments, report: &mut Report) -> Result<()> {
    let (whole, expected) = whole_table(arguments).await?;
    let query = usual_query("cached");
    let mut times = Vec::with_capacity(SHARES.len());
    let mut kept = Vec::with_capacity(SHARES.len());
    for share in SHARES {
        // What the whole table takes is not to the byte the same each time.
        let limit = if share < 1.0 { whole * share } else { whole * 1.1 };
        let site = Site::open(arguments, Some(limit as usize)).await?;
        create_lineitem(&site, arguments).await?;
        site.ask("CACHE TABLE cached OPTIONS ('storageLevel' 'MEMORY_ONLY')").await?;
        let (rows, time) = site.median(&query, arguments.runs.max(5)).await?;
        ensure!(rows == expected, "with {share} of the memory the answer is another");
        times.push(time);
        kept.push(site.cached_bytes("cached").await? / whole);
    }
    let (none, all) = (seconds(times[0]), seconds(times[SHARES.len() - 1]));
    let above = SHARES.iter().zip(&times).map(|(share, time)| {
        let line = none + (all - none) * share;
        seconds(*time) / line
    });
    let above: Vec<f64> = above.collect();
    let details = json!({
        "memory_share": SHARES,
        "kept_share": kept.iter().map(|share| round(*share)).collect::<Vec<_>>(),
        "ms": times.iter().map(|time| round(milliseconds(*time))).collect::<Vec<_>>(),
        "over_straight_line": above.iter().map(|above| round(*above)).collect::<Vec<_>>(),
    });
    let worst = above.iter().copied().fold(0.0, f64::max);
    report.add("memory for a part, most above the line", worst, Bound::AtMost(1.2), details)?;
    let rises = times.windows(2).map(|pair: &[Duration]| ratio(pair[1], pair[0]));
    report.add(
        "memory for a part, with more memory / with less, at most",
        rises.fold(0.0, f64::max),
        Bound::AtMost(JITTER),
        json!(null),
    )
}

/// Returns what the whole table takes, and the answer.
async fn whole_table(arguments: &CacheArguments) -> Result<(f64, crate::processes::Rows)> {
    let site = Site::open(arguments, None).await?;
    create_lineitem(&site, arguments).await?;
    site.ask("SELECT count(*), max(l_comment) FROM csv").await?;
    let expected = site.ask(&usual_query("csv")).await?;
    site.ask("CACHE TABLE cached OPTIONS ('storageLevel' 'MEMORY_ONLY')").await?;
    Ok((site.cached_bytes("cached").await?, expected))
}
