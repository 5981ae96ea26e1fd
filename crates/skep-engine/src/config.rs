//! What a process decides once about its engine.

use std::path::PathBuf;
use std::time::Duration;

/// The configuration of an [`Engine`](crate::Engine); `Default` is right for a laptop.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where the persistent catalog and its managed tables live; `None` keeps nothing.
    pub data_dir: Option<PathBuf>,
    /// Bytes that queries may hold in memory together; `None` is 70 % of the machine's memory.
    pub memory_limit: Option<usize>,
    /// Most bytes of cached tables in memory; `None` is what `memory_limit` leaves.
    pub cache_memory_limit: Option<usize>,
    /// Bytes of cached tables that stay in memory when running queries need memory; what is more
    /// yields to them.
    pub protected_cache: usize,
    /// Bytes that queries may spill to disk together.
    pub spill_limit: u64,
    /// Where spill files go; `None` is the system's directory for temporary files.
    pub spill_dir: Option<PathBuf>,
    /// How many partitions a query is cut into; `None` is the number of cores.
    pub target_partitions: Option<usize>,
    /// How long a statement may take unless its session sets `skep.statement_timeout`; `None` is as
    /// long as it takes.
    pub statement_timeout: Option<Duration>,
    /// Directories and URLs below which users may name files who are no admins.
    pub allowed_roots: Vec<String>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            data_dir: None,
            memory_limit: None,
            cache_memory_limit: None,
            protected_cache: 0,
            spill_limit: 100 * 1024 * 1024 * 1024,
            spill_dir: None,
            target_partitions: None,
            statement_timeout: None,
            allowed_roots: Vec::new(),
        }
    }
}
