//! Clusters for tests: in this process, or as processes of their own.

pub mod in_process;
pub mod multi_process;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use skep_client::Client;

use crate::render;

pub use in_process::InProcess;
pub use multi_process::{MultiProcess, Signal, WorkerProcess, signal};

/// The setting that says into how many partitions a query is cut.
const WIDTH: &str = "datafusion.execution.target_partitions";

/// How a cluster is made up.
#[derive(Debug, Clone)]
pub struct ClusterShape {
    /// How many workers it has.
    pub worker_count: usize,
    /// How many tasks each runs at a time.
    pub slot_count: usize,
    /// Bytes of memory of each process.
    pub memory_limit: usize,
    /// Bytes of partitions that a worker keeps in memory; `None` is what the limit gives.
    pub partition_memory_limit: Option<usize>,
    /// Partitions of a query; `None` is what the cluster has slots.
    pub target_partitions: Option<usize>,
    /// Where the coordinator keeps its tables.
    pub data_dir: PathBuf,
    /// Where all processes put what does not fit in memory.
    pub spill_dir: PathBuf,
    /// Whether queries and files go to the workers that are too small to be worth it. Tests want it,
    /// or they would test nothing; benchmarks do not.
    pub spreads_small: bool,
    /// More for the coordinator's configuration file.
    pub extra_config: String,
    /// More for the command line of `skep cluster`.
    pub extra_arguments: Vec<String>,
}

impl ClusterShape {
    /// Reads back from a cluster that it is of this shape.
    ///
    /// # Errors
    /// If it is not, or cannot be asked.
    pub async fn check(&self, client: &Client) -> Result<()> {
        let live = "SELECT count(*), sum(slots) FROM system.workers WHERE state = 'live'";
        let slot_count = self.worker_count * self.slot_count;
        self.expect(client, live, [self.worker_count.to_string(), slot_count.to_string()]).await?;
        let partitions = self.target_partitions.unwrap_or(slot_count);
        let width = [WIDTH.to_owned(), partitions.to_string()];
        self.expect(client, &format!("SHOW {WIDTH}"), width).await
    }

    async fn expect(&self, client: &Client, query: &str, wanted: [String; 2]) -> Result<()> {
        let statement = client.execute(query).await?;
        let schema = statement.schema();
        let rows = render::rows(&schema, &statement.collect().await?)?;
        ensure!(rows == [wanted.clone()], "{query} answers {rows:?}, not {wanted:?}: {self:?}");
        Ok(())
    }

    /// Returns the coordinator's configuration.
    fn config_text(&self) -> String {
        let mut text = String::new();
        if let Some(partitions) = self.target_partitions {
            text += &format!("partitions = {partitions}\n");
        }
        if self.spreads_small {
            text += "[planner]\nsmall_query_bytes = 1\nmin_scan_bytes_per_task = 1024\n";
        }
        text + &self.extra_config
    }
}
