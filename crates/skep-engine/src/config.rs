//! What a process decides once about its engine.

use std::path::PathBuf;

/// The configuration of an [`Engine`](crate::Engine); `Default` is right for a laptop.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where the persistent catalog and its managed tables live; `None` keeps nothing.
    pub data_dir: Option<PathBuf>,
    /// Bytes that queries may hold in memory together; `None` is 70 % of the machine's memory.
    pub memory_limit: Option<usize>,
    /// Bytes that queries may spill to disk together.
    pub spill_limit: u64,
    /// Where spill files go; `None` is the system's directory for temporary files.
    pub spill_dir: Option<PathBuf>,
    /// How many partitions a query is cut into; `None` is the number of cores.
    pub target_partitions: Option<usize>,
    /// Directories and URLs below which users may name files who are no admins.
    pub allowed_roots: Vec<String>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            data_dir: None,
            memory_limit: None,
            spill_limit: 100 * 1024 * 1024 * 1024,
            spill_dir: None,
            target_partitions: None,
            allowed_roots: Vec::new(),
        }
    }
}
