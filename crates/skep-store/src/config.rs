//! The store's bounds.

use std::path::PathBuf;

use crate::error::{Error, Result};

/// Bounds and places of a [`PartitionStore`](crate::PartitionStore).
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The directory for spill files. Each store makes a directory of its own in it.
    pub directory: PathBuf,
    /// Most bytes of spill files.
    pub disk_limit_bytes: u64,
    /// Most bytes in memory, whatever the pool would give.
    pub memory_limit_bytes: usize,
    /// Bytes of cached partitions that stay in memory when a query needs memory. Another table that
    /// is being cached takes their place nevertheless.
    pub protected_cache_bytes: usize,
    /// Bytes that the store keeps when the one who needs memory could spill by itself.
    pub yield_floor_bytes: usize,
    /// Bytes that are made free at once, at least, when memory runs out: finding victims costs a
    /// look at every partition, which should not be paid for each batch.
    pub yield_step_bytes: usize,
    /// Bytes of batches that become one frame of a spill file. A reader of a spilled partition
    /// holds one frame.
    pub spill_chunk_bytes: usize,
    /// Bytes that each writer may hold in memory when nobody has any to give: accounted, over the
    /// pool's limit. Keeps frames from becoming tiny.
    pub write_buffer_bytes: usize,
    /// Most bytes of one batch. Larger ones are cut by rows, so that a batch fits a message; a
    /// single row may be larger.
    pub max_batch_bytes: usize,
    /// Whether spill files are compressed by LZ4.
    pub compression: Compression,
    /// How many reads and writes of files run at once.
    pub io_concurrency: usize,
    /// How many ended queries are remembered, to refuse what their late attempts want to write.
    pub ended_queries_remembered: usize,
}

/// How spill files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// LZ4 frames, per buffer.
    #[default]
    Lz4,
    /// Not at all.
    None,
}

const MIB: usize = 1 << 20;

impl StoreConfig {
    /// Makes a configuration for a directory; everything else has its default.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            disk_limit_bytes: 100 << 30,
            memory_limit_bytes: usize::MAX,
            protected_cache_bytes: 0,
            yield_floor_bytes: 0,
            yield_step_bytes: 16 * MIB,
            spill_chunk_bytes: MIB,
            write_buffer_bytes: MIB,
            // Below the 4 MiB that gRPC takes by default, with room for what encoding adds.
            max_batch_bytes: 2 * MIB,
            compression: Compression::default(),
            io_concurrency: 4,
            ended_queries_remembered: 1024,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let positive = [
            ("spill_chunk_bytes", self.spill_chunk_bytes),
            ("max_batch_bytes", self.max_batch_bytes),
            ("io_concurrency", self.io_concurrency),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((option, _)) => {
                Err(Error::InvalidOption { option, message: "must be at least 1".to_owned() })
            }
            None => Ok(()),
        }
    }
}
