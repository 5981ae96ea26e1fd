//! The coordinator: performs what the scheduler decides, and gives queries their answers.

pub mod analyze;
pub mod system_tables;

pub use analyze::Analysis;
pub use system_tables::{ClusterTables, ViewSource, Views};
