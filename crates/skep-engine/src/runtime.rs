//! What queries share in a process: memory, spill disk, caches of file metadata.

use std::num::NonZeroUsize;
use std::sync::Arc;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool, TrackConsumersPool};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};

use crate::config::EngineConfig;
use crate::error::{Error, Result};

/// How many of the largest consumers an out-of-memory error names.
const CONSUMERS_NAMED: NonZeroUsize = NonZeroUsize::new(3).expect("three is not zero");

/// Makes the runtime of a process: its memory and disk. `wrap` may put a pool of its own around
/// the one that the configuration asks for.
///
/// # Errors
/// If the directory for spill files cannot be used.
pub fn build_runtime(
    config: &EngineConfig,
    wrap: impl FnOnce(Arc<dyn MemoryPool>) -> Arc<dyn MemoryPool>,
) -> Result<RuntimeEnv> {
    let limit = config.memory_limit.unwrap_or_else(default_memory_limit);
    let mode = match &config.spill_dir {
        Some(directory) => {
            std::fs::create_dir_all(directory).map_err(|source| Error::Io {
                action: "create the spill directory",
                path: directory.clone(),
                source,
            })?;
            DiskManagerMode::Directories(vec![directory.clone()])
        }
        None => DiskManagerMode::OsTmpDirectory,
    };
    let disk = DiskManagerBuilder::default()
        .with_mode(mode)
        .with_max_temp_directory_size(config.spill_limit);
    let pool = TrackConsumersPool::new(FairSpillPool::new(limit), CONSUMERS_NAMED);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(wrap(Arc::new(pool)))
        .with_disk_manager_builder(disk)
        // A cached listing would hide files that were added since.
        .with_object_list_cache_limit(0)
        .build()?;
    Ok(runtime)
}

/// Makes a session's runtime: the process's memory and disk, the session's own stores.
pub(crate) fn session_runtime(
    shared: &RuntimeEnv,
    stores: Arc<dyn ObjectStoreRegistry>,
) -> Arc<RuntimeEnv> {
    let mut runtime = shared.clone();
    runtime.object_store_registry = stores;
    Arc::new(runtime)
}

/// Returns 70 % of the memory that this process may use: the machine's, or its control group's.
pub fn default_memory_limit() -> usize {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        let kibibytes: usize = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kibibytes * 1024)
    });
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse::<usize>().ok());
    let total = match (machine, group) {
        (Some(machine), Some(group)) => machine.min(group),
        (Some(total), None) | (None, Some(total)) => total,
        (None, None) => FALLBACK_MEMORY,
    };
    total / 10 * 7
}

/// Where the system does not tell.
const FALLBACK_MEMORY: usize = 4 * 1024 * 1024 * 1024;
