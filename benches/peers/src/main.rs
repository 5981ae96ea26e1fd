//! TPC-H in skep and in the distributed engines beside it, within one run.
//!
//! datafusion-distributed and Ballista stand behind skep's own seam,
//! [`QueryExecutor`](skep_engine::QueryExecutor): the same session parses, plans and optimises, and
//! hands them the same kind of physical plan that skep's cluster gets. Ballista's own planner, which
//! adapts plans as it runs them, starts from logical plans; so it comes once more, from its own
//! session, as `ballista-sql`.
//!
//! Workers, executors and the scheduler are processes: this binary again, in another [`role`].

mod answer;
mod ballista;
mod contender;
mod distributed;
mod functions;
mod measure;
mod report;
mod role;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use skep_testkit::tpch::QUERY_COUNT;

use crate::contender::Peer;
use crate::role::Role;

/// All engines allocate from it, as the `skep` binary and Ballista's executor do.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(about = "TPC-H in skep, datafusion-distributed and Ballista, within one run")]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    /// What a process does that another of these has started.
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    race: Race,
}

/// What is run, and on what.
#[derive(Debug, clap::Args)]
pub(crate) struct Race {
    /// The scale factor.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) scale: f64,
    /// Runs of each query in each engine; the best counts.
    #[arg(long, default_value_t = 3)]
    pub(crate) runs: usize,
    /// Engines beside skep's.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Peer::ALL)]
    pub(crate) peers: Vec<Peer>,
    /// Worker processes of each cluster.
    #[arg(long, default_value_t = 2)]
    pub(crate) workers: usize,
    /// Tasks that each worker of skep's, and each executor of Ballista's, runs at a time.
    #[arg(long, default_value_t = 1)]
    pub(crate) slots: usize,
    /// Threads of each process; the number of cores if not given, as in skep's workers.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Megabytes of memory for the embedded engine, and for all workers of a cluster together.
    #[arg(long, default_value_t = 8192)]
    pub(crate) memory_mb: usize,
    /// Only these queries, as in 1,6,21.
    #[arg(long, value_delimiter = ',')]
    pub(crate) queries: Vec<usize>,
    /// Seconds after which an engine is taken to have no answer.
    #[arg(long, default_value_t = 120)]
    pub(crate) patience: u64,
    /// The `skep` binary, if it is not beside this one.
    #[arg(long)]
    pub(crate) skep: Option<PathBuf>,
    /// Shows how each engine runs the queries, with EXPLAIN ANALYZE, instead of measuring.
    #[arg(long)]
    pub(crate) explain: bool,
    /// Writes the figures to benches/baseline.
    #[arg(long)]
    pub(crate) save: bool,
}

impl Race {
    /// Returns the numbers of the queries to run.
    fn numbers(&self) -> Result<Vec<usize>> {
        if self.queries.is_empty() {
            return Ok((1..=QUERY_COUNT).collect());
        }
        match self.queries.iter().find(|number| !(1..=QUERY_COUNT).contains(*number)) {
            Some(number) => bail!("there is no query {number}"),
            None => Ok(self.queries.clone()),
        }
    }

    /// Returns how many partitions a query is cut into, in every engine.
    pub(crate) fn partitions(&self) -> usize {
        self.workers * self.slots
    }

    /// Returns how many bytes one process of a cluster may use.
    pub(crate) fn worker_memory(&self) -> usize {
        (self.memory_mb << 20) / self.workers
    }

    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(role) = arguments.role {
        return role.run();
    }
    let race = arguments.race;
    anyhow::ensure!(race.runs > 0, "--runs must be at least 1");
    anyhow::ensure!(race.workers > 0 && race.slots > 0, "a cluster needs a worker with a slot");
    let numbers = race.numbers()?;
    role::runtime(race.threads)?.block_on(async {
        let contenders = contender::open_all(&race).await?;
        if race.explain {
            return measure::explain(&race, &contenders, &numbers).await;
        }
        let figures = measure::run(&race, &contenders, &numbers).await?;
        report::write(&race, &figures)
    })
}
