//! Clusters for tests: in this process, or as processes of their own.

pub mod in_process;
pub mod multi_process;

use std::path::PathBuf;

pub use in_process::InProcess;
pub use multi_process::{MultiProcess, Signal, WorkerProcess, signal};

/// How a cluster is made up.
#[derive(Debug, Clone)]
pub struct ClusterShape {
    /// How many workers it has.
    pub worker_count: usize,
    /// How many tasks each runs at a time.
    pub slot_count: usize,
    /// Bytes of memory of each process.
    pub memory_limit: usize,
    /// Bytes of partitions that a worker in this process keeps in memory; `None` is what the limit
    /// gives.
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
