//! The skep engine in one process: SQL or DataFrame in, record batches out.
//!
//! An [`Engine`] holds what a process has once: memory, disk, object stores, the persistent
//! catalog. A [`Session`] holds what one user has: temporary tables, settings, the current schema.
//! Every query leaves a session through the [`QueryExecutor`] seam and comes back as a
//! [`QueryStream`].
//!
//! **Invariant:** this crate opens no listener, reads no environment variable (object store
//! credentials apart) and knows no cluster.

mod access;
mod cache;
mod carried;
mod catalog;
mod config;
mod datafusion_error;
mod deadline;
mod engine;
mod error;
mod files;
mod functions;
mod guard;
mod listing;
mod object_stores;
mod optimizer;
mod planner_message;
mod query;
mod runtime;
mod session;
mod settings;
mod sql;
mod substrait;
mod task_settings;
#[cfg(test)]
mod tests;

pub use access::{Principal, Role};
pub use cache::{
    CacheHost, CacheLevel, CacheOptions, CacheScanExec, CacheScanParts, CachedInputs, CachedRows,
    CachedShape, CachedSource, ClusterBy, DecodeGroupsExec, HostedFigures, HostedHold, HostedParts,
    HostedTable, PartitionSummary, RowsWanted, ScanGroups, StoreFailure, as_cached,
    cache_partition, check_files, check_sources, code_groups, decode_cached, slice_of_files,
};
pub use carried::CarriedSession;
pub use catalog::SystemTables;
pub use config::EngineConfig;
pub use datafusion;
pub use datafusion::dataframe::DataFrame;
pub use deadline::Deadline;
pub use engine::{Engine, EngineParts};
pub use error::{Error, Position, Result};
pub use files::{JsonArrayFile, explain_failure, planned_bytes};
pub use listing::TableListing;
pub use query::{LocalExecutor, QueryExecutor, QueryStream, QueryTag, QueryText, StatementKind};
pub use runtime::{build_runtime, default_memory_limit};
pub use session::Session;
pub use settings::read_duration;
pub use skep_proto::{IfExists, IfMissing, Ingest};
pub use sql::Description;
pub use sql::secrets::mask_secrets;
pub use sql::split::{ScriptSplitter, ScriptStatement};
pub use substrait::SUBSTRAIT_VERSIONS;
pub use task_settings::TaskSettings;
