//! The partition store: exchange output and cached partitions of one process.
//!
//! A writer collects the output of one task attempt, one or many partitions, and seals them all at
//! once. A sealed partition is read any number of times, from any batch on, until its lease ends.
//! Batches are held in memory under the process's memory pool and go to checksummed files when
//! memory runs out, the store's own or somebody else's ([`StorePool`]).
//!
//! **Invariant:** nothing unsealed can be read, and a writer that is dropped leaves nothing behind.
//!
//! **Invariant:** end of stream means complete. Counts are compared with the seal's, frames with
//! their checksums; anything else is an error that names the partition.
//!
//! **Invariant:** every byte that a batch keeps alive is accounted in the pool, shared buffers once.
//! `try_grow` comes first; beyond the limit the store accounts at most `write_buffer_bytes` and a
//! batch per writer, a frame per reader and a frame per running write, and gives that back at once.
//!
//! **Invariant:** the index of a spill file is in memory alone: a file serves the process that
//! wrote it, and what a crashed process leaves is removed by the next one.

mod config;
pub mod error;
pub mod ids;
mod key;
// What batches cost, and how they cost less.
mod footprint;
mod ledger;
pub mod narrow;
// What is on disk.
mod frame;
mod spill;
// What is kept, and who goes first.
mod eviction;
mod partition;
// What the world sees.
mod partition_store;
mod pool;
mod pressure;
mod reader;
mod stats;
mod writer;

#[cfg(test)]
mod tests;

pub use config::{Compression, StoreConfig};
pub use error::{Error, Result};
pub use footprint::{compact_views, data_bytes, pieces};
pub use key::{PartitionKey, Readers, StorageLevel, WriterKey};
pub use partition_store::PartitionStore;
pub use pool::StorePool;
pub use reader::PartitionReader;
pub use stats::{StoreStats, Usage};
pub use writer::{PartitionCounts, PartitionWriter, WriterSpec};
