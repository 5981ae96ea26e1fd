//! The TPC-H tables, generated, and the 22 queries of the specification.
//!
//! The rows come from the crate `tpchgen`, which is byte for byte the reference generator; the
//! files are the same on every machine. A [`DataSet`] is generated once per target directory and
//! then found there.

mod data_set;
mod queries;
mod tables;

pub use data_set::{DataSet, Format};
pub use queries::{QUERY_COUNT, query};
pub use tables::{TABLES, Table};
