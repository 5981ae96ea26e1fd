//! Cached tables: the rows of a plan, kept in the partition store and used wherever a query
//! contains that plan.
//!
//! `CACHE TABLE` ([`CachedTables`]) keeps a logical plan in its canonical form ([`Canonical`]) with
//! its [`Content`]: partitions of encoded batches ([`encode`]) and what is known of them
//! ([`summary`]). An analyzer rule ([`SubstituteCached`]) puts a scan of the content in the place of
//! the plan, whoever wrote the query; [`CacheScanExec`] reads it. What the store had to drop is made
//! again from its [`Lineage`] by the next query that wants it.
//!
//! **Invariant:** a cached table is never the only copy of anything: its lineage makes it again, or
//! says that a source file is not what it was.
//!
//! **Invariant:** a query reads one content of a table, the one that it was planned with, whatever
//! becomes of the table meanwhile. Within a content, partitions that would not come out the same
//! again are made again all together or not at all.
//!
//! **Invariant:** every byte of a cached table is in the memory pool's account or in a bounded file.

mod level;
// Which plan is cached.
mod canonical;
mod clustering;
mod substitute;
// How rows are kept.
mod encode;
mod summary;
mod summary_wire;
// Where they come from, and where they are.
mod build;
mod content;
mod definitions;
mod hosted;
mod lineage;
mod open;
mod through;
// How they are read.
mod code_groups;
mod codes;
mod gather;
mod groups;
mod known;
mod output;
mod plain;
mod provider;
mod prune;
mod scan;
mod select;
mod slice;
// What the world sees.
mod describe;
mod making;
mod renewal;
mod tables;
#[cfg(test)]
mod tests;

pub(crate) use canonical::{address_of, providers_of};
pub(crate) use clustering::ChooseClustering;
pub(crate) use code_groups::CodeGroups;
pub use code_groups::code_groups;
pub use codes::DecodeGroupsExec;
pub(crate) use definitions::{CachedDefinition, DefinitionFile};
pub(crate) use describe::CacheReport;
pub use groups::ScanGroups;
pub use hosted::{
    CacheHost, CachedInputs, CachedRows, CachedShape, CachedSource, HostedFigures, HostedHold,
    HostedParts, HostedTable, RowsWanted, StoreFailure, as_cached, cache_partition, decode_cached,
};
pub use level::{CacheLevel, CacheOptions, ClusterBy};
pub use lineage::{check_files, check_sources};
pub(crate) use plain::plain_texts;
pub use scan::{CacheScanExec, CacheScanParts};
pub use slice::slice_of_files;
pub(crate) use substitute::{CacheScope, SubstituteCached};
pub use summary::PartitionSummary;
pub(crate) use tables::{
    CacheLease, CacheName, CacheRequest, CachedTables, Hosting, StoreSlot, ViewIdentity,
};
