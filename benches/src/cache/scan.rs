//! `lineitem`: what loading costs, what the rows take, and what queries gain.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use skep_bench::figures::{geometric_mean, milliseconds, round};

use super::CacheArguments;
use super::data::create_lineitem;
use super::report::{Bound, Report};
use super::site::{Site, core_count, ratio, seconds};

/// A query over `{table}`.
struct ScanQuery {
    name: &'static str,
    /// Whether reading is most of it, even from Parquet. Where next to nothing is read, planning is.
    is_scan_bound: bool,
    text: &'static str,
}

const QUERIES: [ScanQuery; 6] = [
    ScanQuery {
        name: "revenue of a year, by discount and quantity",
        is_scan_bound: true,
        text: "SELECT sum(l_extendedprice * l_discount), count(*) FROM {table} \
               WHERE l_shipdate >= DATE '1994-01-01' AND l_shipdate < DATE '1995-01-01' \
               AND l_discount BETWEEN 0.05 AND 0.07 AND l_quantity < 24",
    },
    ScanQuery {
        name: "sums of keys",
        is_scan_bound: true,
        text: "SELECT sum(l_orderkey % 7), sum(l_partkey), sum(l_suppkey), sum(l_linenumber) \
               FROM {table}",
    },
    ScanQuery {
        name: "lengths of comments",
        is_scan_bound: true,
        text: "SELECT sum(octet_length(l_comment)) FROM {table}",
    },
    ScanQuery {
        name: "lines by way and instruction",
        is_scan_bound: true,
        text: "SELECT count(*), sum(l_linenumber) FROM {table} \
               WHERE l_shipmode IN ('AIR', 'REG AIR') AND l_shipinstruct = 'DELIVER IN PERSON'",
    },
    ScanQuery {
        name: "lines of one order",
        is_scan_bound: false,
        text: "SELECT count(*), sum(l_quantity), max(l_comment) FROM {table} \
               WHERE l_orderkey = 3000000",
    },
    ScanQuery {
        name: "totals by flag and status",
        is_scan_bound: false,
        text: "SELECT l_returnflag, l_linestatus, sum(l_quantity), sum(l_extendedprice), \
               sum(l_extendedprice * (1 - l_discount)), avg(l_discount), count(*) FROM {table} \
               WHERE l_shipdate <= DATE '1998-09-02' \
               GROUP BY l_returnflag, l_linestatus ORDER BY 1, 2",
    },
];

impl ScanQuery {
    fn over(&self, table: &str) -> String {
        self.text.replace("{table}", table)
    }
}

/// The query by which the other parts of the benchmark tell what a scan costs.
pub(super) fn usual_query(table: &str) -> String {
    QUERIES[0].over(table)
}

pub(super) async fn measure(arguments: &CacheArguments, report: &mut Report) -> Result<()> {
    let site = Site::open(arguments, None).await?;
    let text_bytes = create_lineitem(&site, arguments).await?;
    // The files into the page cache.
    site.ask("SELECT count(*), max(l_comment), max(l_shipmode) FROM csv").await?;
    site.ask("SELECT max(l_comment), max(l_shipmode) FROM parquet").await?;
    let (_, load_time) = site.time("CACHE TABLE cached").await?;
    report_load(&site, text_bytes, load_time, report).await?;
    let mut over_csv = Vec::new();
    let mut over_parquet = Vec::new();
    let mut details = Vec::new();
    for query in &QUERIES {
        let (rows, cached) = site.median(&query.over("cached"), arguments.runs).await?;
        let (of_csv, csv) = site.median(&query.over("csv"), arguments.runs).await?;
        let (of_parquet, parquet) = site.median(&query.over("parquet"), arguments.runs).await?;
        ensure!(rows == of_csv && rows == of_parquet, "{}: answers differ", query.name);
        over_csv.push(ratio(csv, cached));
        if query.is_scan_bound {
            over_parquet.push(ratio(parquet, cached));
        }
        details.push(json!({
            "query": query.name,
            "cached_ms": round(milliseconds(cached)),
            "csv_ms": round(milliseconds(csv)),
            "parquet_ms": round(milliseconds(parquet)),
            "csv_ratio": round(ratio(csv, cached)),
            "parquet_ratio": round(ratio(parquet, cached)),
        }));
    }
    let least = |ratios: &[f64]| ratios.iter().copied().fold(f64::INFINITY, f64::min);
    report.add(
        "query over CSV / over cached, least of all queries",
        least(&over_csv),
        Bound::AtLeast(10.0),
        json!({ "geometric_mean": round(geometric_mean(over_csv.iter().copied())) }),
    )?;
    report.add(
        "query over Parquet / over cached, least of scan-bound ones",
        least(&over_parquet),
        Bound::AtLeast(3.0),
        json!({
            "geometric_mean": round(geometric_mean(over_parquet.iter().copied())),
            "queries": details,
        }),
    )
}

async fn report_load(
    site: &Site,
    text_bytes: u64,
    load_time: Duration,
    report: &mut Report,
) -> Result<()> {
    let megabytes = text_bytes as f64 / 1e6;
    let cores = core_count()?;
    report.add(
        "MB/s of CSV that a core loads",
        megabytes / seconds(load_time) / cores as f64,
        Bound::AtLeast(150.0),
        json!({ "csv_mb": round(megabytes), "load_ms": round(milliseconds(load_time)) }),
    )?;
    let memory = site.cached_bytes("cached").await?;
    report.add(
        "memory of the cached table / text of the CSV",
        memory / text_bytes as f64,
        Bound::AtMost(1.0),
        json!({ "memory_mb": round(memory / 1e6) }),
    )?;
    let decoded = decoded_bytes(site, "cached").await?;
    report.add(
        "memory of the cached table / its columns, decoded",
        memory / decoded,
        Bound::AtMost(1.5),
        json!({ "decoded_mb": round(decoded / 1e6) }),
    )
}

/// Returns the bytes of a cached table's rows as queries see them, which its plan knows exactly.
async fn decoded_bytes(site: &Site, table: &str) -> Result<f64> {
    site.ask("SET datafusion.explain.show_statistics = true").await?;
    let plan = site.ask(&format!("EXPLAIN SELECT * FROM {table}")).await?.concat().join("\n");
    site.ask("SET datafusion.explain.show_statistics = false").await?;
    let found = plan.split_once("Bytes=Exact(").and_then(|(_, rest)| rest.split_once(')'));
    let (bytes, _) = found.with_context(|| format!("no exact number of bytes in\n{plan}"))?;
    Ok(bytes.parse()?)
}
