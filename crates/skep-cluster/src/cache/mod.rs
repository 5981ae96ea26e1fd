//! Cached tables on a cluster: their partitions lie in the stores of the workers.
//!
//! - [`table`]: one content of a cached table; the stages that make it stand in every query that
//!   reads it, so that a lost partition is made again as any lost output is.
//! - [`directory`]: who keeps which partition, and what is known of them.
//! - [`placement`]: where partitions are made. Pure.
//! - [`groups`]: which partitions one task reads. Pure.
//! - `kept`: what one worker keeps.
//!
//! **Invariant:** a content that is kept here gives the same rows whenever and wherever one of its
//! partitions is made; what is picked by chance stays in the coordinator's own process.

pub mod directory;
pub mod groups;
pub(crate) mod kept;
pub mod placement;
pub mod table;

pub use directory::CacheDirectory;
pub use table::{ClusterTable, Keeper, TableUse, UseGuard};
