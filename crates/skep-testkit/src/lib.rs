//! What skep's tests share: the sqllogictest harness and generated data.
//!
//! Dev only: nothing that ships depends on this crate. `slt` runs the files of `sql-tests` against
//! every way of running skep, and stands behind a feature of the same name: benches do without its
//! dependencies, so that they build with the same features as the binary alone. [`render`] makes
//! rows comparable; [`cluster`] starts clusters; [`object_server`] serves files and holds them back;
//! [`proxy`] is a network to be cut; [`tpch`] makes the TPC-H tables and holds the 22 queries;
//! [`workspace`] knows where the checkout and its target directory are.

pub mod cluster;
pub mod object_server;
pub mod proxy;
pub mod render;
#[cfg(feature = "slt")]
pub mod slt;
pub mod tpch;
pub mod workspace;
