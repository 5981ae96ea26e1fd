//! The bounds and choices of a coordinator.

use std::time::Duration;

use crate::scheduler::SchedulerConfig;

/// Bounds and choices of a [`Coordinator`](super::Coordinator).
#[derive(Debug, Clone)]
pub struct CoordinatorOptions {
    /// The scheduler's.
    pub scheduler: SchedulerConfig,
    /// Where workers fetch what the coordinator's own tasks made: HOST:PORT.
    pub data_address: String,
    /// The secret that workers must know; `None` lets everybody in.
    pub token: Option<String>,
    /// How many requests may wait for the driver.
    pub request_queue_length: usize,
    /// How many commands may wait for one worker; one that is slower than this is cut off.
    pub command_queue_length: usize,
    /// How often the driver looks at the time at least. Less than half of the heartbeat bound, or
    /// the coordinator would think that it slept itself.
    pub tick: Duration,
    /// Bytes of files below which a scan is not split further. Units: bytes in the files.
    pub min_scan_bytes_per_task: u64,
    /// Most bytes of one query's result that wait in the coordinator's memory for a client that is
    /// slower than the query; the rest waits on disk.
    pub result_memory_bytes: usize,
    /// A query that is worth no more than this runs on the coordinator, in one process. Units: bytes
    /// in the files, or what counts as much.
    pub small_query_bytes: u64,
    /// How long after its start a coordinator waits for workers that keep cached tables of the one
    /// before it.
    pub expect_kept: Duration,
    /// How long it may take to make the lost copies of a cached table again, waiting included.
    pub copy_timeout: Duration,
}

impl Default for CoordinatorOptions {
    fn default() -> Self {
        Self {
            scheduler: SchedulerConfig::default(),
            data_address: String::new(),
            token: None,
            request_queue_length: 4096,
            command_queue_length: 4096,
            tick: Duration::from_millis(500),
            min_scan_bytes_per_task: 1024 * 1024,
            result_memory_bytes: 32 << 20,
            small_query_bytes: 256 * 1024,
            expect_kept: Duration::from_secs(60),
            copy_timeout: Duration::from_secs(600),
        }
    }
}
