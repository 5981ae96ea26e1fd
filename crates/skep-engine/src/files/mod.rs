//! Tables over files, and files out of queries.
//!
//! A [`FileTable`] says what a table over files is; [`open`] lists the files, checks them, infers
//! what was not declared, and returns the provider that queries scan. [`write`] is the way back.
//!
//! The provider is our own and not DataFusion's `ListingTable`, because a table over files has to
//! skip hidden files, know NULL partitions, mix compressed and plain files, check every file before
//! a decoder sees it, and say which file is to blame. What it makes is DataFusion's: scans are
//! plain `DataSourceExec`s and projections, so that plans stay serialisable.
//!
//! **Invariant:** nothing half-written is ever visible on a local disk; and no file reaches a
//! binary decoder unchecked.

mod check;
mod delimited;
mod failure;
mod format;
mod listing;
mod location;
mod open;
mod options;
mod partition;
mod pattern;
mod provider;
mod prune;
mod read;
mod scan;
mod schema;
mod staging;
mod table;
mod text;
mod write;

#[cfg(test)]
mod tests;

pub use failure::explain_failure;
pub(crate) use format::Format;
pub(crate) use location::{Location, shown_location};
pub(crate) use open::{keep_inferred, names_files, open, open_path};
pub use scan::{JsonArrayFile, planned_bytes};
pub(crate) use table::{FileTable, SortColumn};
pub(crate) use write::{FileTarget, WriteMode, copy_target, insert_target, write};
