//! From text to statements to plans, and the statements that skep runs itself.

mod cache_table;
mod chain;
mod ddl;
mod describe;
pub(crate) mod dialect;
mod dml;
mod explain;
mod ingest;
mod parser;
mod place;
mod placeholder;
mod planner;
mod prepared;
pub(crate) mod rewrite;
pub(crate) mod secrets;
pub(crate) mod settings;
mod show;
pub(crate) mod split;
mod statement;

pub(crate) use parser::{ParserLimits, normalize, parse};
pub(crate) use planner::{Planned, Planner};
pub use prepared::Description;
pub(crate) use statement::Statement;
