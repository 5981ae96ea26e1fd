//! A cluster of processes for one measurement, and what it says of itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use skep_client::Client;
use skep_testkit::cluster::{ClusterShape, MultiProcess};
use skep_testkit::render;
use skep_testkit::tpch::{DataSet, Table};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::baseline::skep_binary;

/// Deep plans recurse deeply.
const STACK_SIZE: usize = 64 << 20;

/// Rows as text, as the SQL scripts render them.
pub(crate) type Rows = Vec<Vec<String>>;

/// How large the processes are, and how they are told to behave.
#[derive(Debug, Clone)]
pub(crate) struct Size {
    pub(crate) workers: usize,
    pub(crate) slots: usize,
    /// Bytes of memory of each process.
    pub(crate) memory_limit: usize,
    /// Bytes of partitions that each worker keeps in memory; `None` is what the limit gives.
    pub(crate) partition_memory_limit: Option<usize>,
    /// More for the coordinator's configuration file.
    pub(crate) config: String,
}

impl Default for Size {
    /// One worker that runs one task at a time.
    fn default() -> Self {
        Self {
            workers: 1,
            slots: 1,
            memory_limit: 1 << 30,
            partition_memory_limit: None,
            config: String::new(),
        }
    }
}

/// A running cluster with its own directories, and one session there.
pub(crate) struct Processes {
    pub(crate) processes: MultiProcess,
    pub(crate) client: Client,
    _directory: TempDir,
}

impl Processes {
    pub(crate) async fn start(size: &Size) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let [data_dir, spill_dir] = ["data", "spill"].map(|name| directory.path().join(name));
        for path in [&data_dir, &spill_dir] {
            std::fs::create_dir(path)?;
        }
        let shape = ClusterShape {
            worker_count: size.workers,
            slot_count: size.slots,
            memory_limit: size.memory_limit,
            partition_memory_limit: size.partition_memory_limit,
            target_partitions: None,
            data_dir,
            spill_dir,
            spreads_small: false,
            extra_config: size.config.clone(),
            extra_arguments: Vec::new(),
        };
        let processes = MultiProcess::start(&skep_binary()?, &shape)?;
        let client = Client::connect(&processes.url).await?;
        Ok(Self { processes, client, _directory: directory })
    }

    /// Makes TPC-H tables of the cached files known.
    pub(crate) async fn create_tables(&self, scale: f64, tables: &[Table]) -> Result<()> {
        let data_set = DataSet { scale, ..DataSet::SMALL };
        let directory = data_set.cached()?;
        for table in tables {
            let file = data_set.file(&directory, *table);
            let statement = format!(
                "CREATE EXTERNAL TABLE {} STORED AS PARQUET LOCATION '{}'",
                table.name(),
                file.display()
            );
            self.ask(&statement).await?;
        }
        Ok(())
    }

    /// Runs a statement and returns its rows.
    pub(crate) async fn ask(&self, text: &str) -> Result<Rows> {
        ask(&self.client, text).await
    }

    /// Runs a statement and returns its one number.
    pub(crate) async fn ask_number(&self, text: &str) -> Result<u64> {
        let rows = self.ask(text).await?;
        let cell = rows.first().and_then(|row| row.first());
        let cell = cell.with_context(|| format!("{text}: no row"))?;
        cell.parse().with_context(|| format!("{text}: \"{cell}\" is no number"))
    }

    /// Runs a statement and returns its rows and how long they took.
    pub(crate) async fn time(&self, text: &str) -> Result<(Rows, Duration)> {
        time(&self.client, text).await
    }

    /// Returns the name of the one query whose text has this mark.
    pub(crate) async fn query_id(&self, mark: &str) -> Result<String> {
        let rows = self.ask(&format!("{} AND sql LIKE '%{mark}%'", QUERIES)).await?;
        anyhow::ensure!(rows.len() == 1, "{} queries on the cluster are marked {mark}", rows.len());
        Ok(rows[0].concat())
    }

    /// Returns how many queries with this mark had a task on a worker.
    pub(crate) async fn count_on_workers(&self, mark: &str) -> Result<usize> {
        let on_workers = "SELECT query FROM system.tasks WHERE worker <> 'coordinator'";
        let marked = format!("{QUERIES} AND sql LIKE '%{mark}%' AND query IN ({on_workers})");
        Ok(self.ask(&marked).await?.len())
    }
}

/// Not those that ask for it.
const QUERIES: &str = "SELECT query FROM system.queries WHERE sql NOT LIKE '%system.%'";

/// Runs a statement and returns its rows.
pub(crate) async fn ask(client: &Client, text: &str) -> Result<Rows> {
    Ok(time(client, text).await?.0)
}

/// Runs a statement and returns its rows and how long they took to be here.
pub(crate) async fn time(client: &Client, text: &str) -> Result<(Rows, Duration)> {
    let begin = Instant::now();
    let statement = client.execute(text).await?;
    let schema = statement.schema();
    let batches = statement.collect().await?;
    let elapsed = begin.elapsed();
    Ok((render::rows(&schema, &batches)?, elapsed))
}

/// Makes the runtime of a benchmark.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread().thread_stack_size(STACK_SIZE).enable_all().build()?)
}

/// Returns the time at a share of sorted times: 0.5 is the median.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
