//! Speed and memory of skep, as ratios within one run.
//!
//! A time in seconds says as much about the machine as about skep. So each benchmark measures its
//! yardstick in the same run: plain DataFusion for queries, the memory limit for memory.
//! README.md has the commands and the figures.

mod cluster;
mod memory;
mod startup;
mod tpch;

use anyhow::Result;
use clap::{Parser, Subcommand};
use skep_bench::baseline;

/// Both engines allocate from it, as the `skep` binary does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(about = "Speed and memory of skep, as ratios within one run")]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
    /// Writes the figures to benches/baseline.
    #[arg(long, global = true)]
    save: bool,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// The 22 TPC-H queries in skep's embedded engine and in plain DataFusion.
    Tpch(tpch::TpchArguments),
    /// The 22 TPC-H queries on a cluster of processes and in the embedded engine.
    Cluster(cluster::ClusterArguments),
    /// From the start of the `skep` process to its end, for `SELECT 1`.
    Startup(startup::StartupArguments),
    /// The peak resident memory of one `skep` process that runs the 22 queries under a limit.
    Memory(memory::MemoryArguments),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (name, figures) = match arguments.benchmark {
        Benchmark::Tpch(arguments) => tpch::run(&arguments)?,
        Benchmark::Cluster(arguments) => cluster::run(&arguments)?,
        Benchmark::Startup(arguments) => startup::run(&arguments)?,
        Benchmark::Memory(arguments) => memory::run(&arguments)?,
    };
    if arguments.save { baseline::save(&name, &figures) } else { Ok(()) }
}
