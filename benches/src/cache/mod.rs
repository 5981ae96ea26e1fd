//! Cached tables against the same work without them, embedded and on a cluster.
//!
//! Every figure is a ratio within one run. What needs workers that die is measured on a cluster
//! alone; the rest in both.

mod data;
mod iterations;
mod links;
mod loss;
mod report;
mod scan;
mod share;
mod site;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::report::Report;
use self::site::Mode;
use crate::processes::runtime;

#[derive(Debug, Args)]
pub(crate) struct CacheArguments {
    /// In this process, or on a cluster of processes.
    #[arg(long, value_enum, default_value_t = Mode::Embedded)]
    mode: Mode,
    /// What is measured; everything that the mode has if not said.
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// The scale factor of `lineitem`: 1.5 is more than a gigabyte of CSV.
    #[arg(long, default_value_t = 1.5)]
    scale: f64,
    /// Points of the iterative jobs: 10.5 million are more than a gigabyte of CSV.
    #[arg(long, default_value_t = 10_500_000)]
    points: u64,
    /// Links between the pages of the loop over ranks: 12.5 million are more than a gigabyte of CSV.
    #[arg(long, default_value_t = 12_500_000)]
    links: u64,
    /// Pages that the links lead to: some sixty on each page.
    #[arg(long, default_value_t = 200_000)]
    pages: u64,
    /// Centers of the job that loses a worker: what an iteration computes grows with them.
    #[arg(long, default_value_t = 48)]
    centers: usize,
    /// Runs of each query; the median counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Worker processes of a cluster.
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Tasks that each worker runs at a time.
    #[arg(long, default_value_t = 1)]
    slots: usize,
    /// Megabytes of memory of the embedded engine, or of all workers together.
    #[arg(long, default_value_t = 12_288)]
    memory_mb: usize,
}

/// What is measured together, over one loaded table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Loading, memory, and queries over cached rows against those over files.
    Scan,
    /// Gradient steps over cached points against those over CSV.
    Iterations,
    /// A loop over ranks, its links clustered by their source and not.
    Links,
    /// Too little memory for the table.
    Share,
    /// A worker that dies in an iterative job, and one that dies before a query.
    Loss,
}

pub(crate) fn run(arguments: &CacheArguments) -> Result<(String, Value)> {
    ensure!(arguments.runs > 0, "--runs must be at least 1");
    let parts: Vec<Part> = match (arguments.parts.as_slice(), arguments.mode) {
        ([], Mode::Embedded) => vec![Part::Scan, Part::Iterations, Part::Links, Part::Share],
        ([], Mode::Cluster) => Part::value_variants().to_vec(),
        (parts, Mode::Embedded) if parts.contains(&Part::Loss) => {
            anyhow::bail!("loss takes --mode cluster: in one process there is no worker to lose")
        }
        (parts, _) => parts.to_vec(),
    };
    let runtime = runtime()?;
    let mut report = Report::begin()?;
    for part in parts {
        runtime.block_on(async {
            match part {
                Part::Scan => scan::measure(arguments, &mut report).await,
                Part::Iterations => iterations::measure(arguments, &mut report).await,
                Part::Links => links::measure(arguments, &mut report).await,
                Part::Share => share::measure(arguments, &mut report).await,
                Part::Loss => loss::measure(arguments, &mut report).await,
            }
        })?;
    }
    let figures = json!({
        "scale": arguments.scale,
        "points": arguments.points,
        "links": arguments.links,
        "pages": arguments.pages,
        "runs": arguments.runs,
        "slots": site::slot_count(arguments)?,
        "lines": report.into_lines(),
    });
    Ok((format!("cache-{}", arguments.mode), figures))
}
