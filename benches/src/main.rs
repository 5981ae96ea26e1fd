//! Speed and memory of skep, as ratios within one run.
//!
//! A time in seconds says as much about the machine as about skep. So each benchmark measures its
//! yardstick in the same run: plain DataFusion for queries, the memory limit for memory.
//! README.md has the commands and the figures.

mod cache;
mod clients;
mod cluster;
mod flight;
mod flow;
mod memory;
mod plain_flight;
mod processes;
mod recovery;
mod scheduling;
mod spill;
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
    /// Cached tables against files, embedded and on a cluster.
    Cache(cache::CacheArguments),
    /// From the start of the `skep` process to its end, for `SELECT 1`.
    Startup(startup::StartupArguments),
    /// The peak resident memory of one `skep` process that runs the 22 queries under a limit.
    Memory(memory::MemoryArguments),
    /// A query of several stages, undisturbed and with a worker killed at half time.
    Recovery(recovery::RecoveryArguments),
    /// Thousands of tasks that do nothing, and one task end to end.
    Scheduling(scheduling::SchedulingArguments),
    /// Results of millions of rows: the first row, and the coordinator's memory.
    Flow(flow::FlowArguments),
    /// A query whose exchanges are three times the workers' memory, and with memory enough.
    Spill(spill::SpillArguments),
    /// `SELECT *` through Flight SQL and through a plain arrow-flight server.
    Flight(flight::FlightArguments),
    /// Many clients with small queries at a time.
    Clients(clients::ClientsArguments),
    /// The plain server that `flight` starts.
    #[command(hide = true)]
    ServePlainFlight(plain_flight::ServeArguments),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (name, figures) = match arguments.benchmark {
        Benchmark::Tpch(arguments) => tpch::run(&arguments)?,
        Benchmark::Cluster(arguments) => cluster::run(&arguments)?,
        Benchmark::Cache(arguments) => cache::run(&arguments)?,
        Benchmark::Startup(arguments) => startup::run(&arguments)?,
        Benchmark::Memory(arguments) => memory::run(&arguments)?,
        Benchmark::Recovery(arguments) => recovery::run(&arguments)?,
        Benchmark::Scheduling(arguments) => scheduling::run(&arguments)?,
        Benchmark::Flow(arguments) => flow::run(&arguments)?,
        Benchmark::Spill(arguments) => spill::run(&arguments)?,
        Benchmark::Flight(arguments) => flight::run(&arguments)?,
        Benchmark::Clients(arguments) => clients::run(&arguments)?,
        Benchmark::ServePlainFlight(arguments) => return plain_flight::serve(&arguments),
    };
    if arguments.save { baseline::save(&name, &figures) } else { Ok(()) }
}
