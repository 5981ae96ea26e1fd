//! The harness of `sql-tests`: every file, in every mode that it names, as one test.
//!
//! A file is a sqllogictest script. Its leading comments are its header ([`Header`]): the first
//! line says what it is about (`# description: ...`), `# modes:` which modes it is for. Each trial
//! has an engine of its own on a fresh data directory; `connection NAME` records open further
//! sessions of it, and the statement `RESTART ENGINE` closes it and opens it again on the same
//! directory. CONTRIBUTING.md is the manual.

mod column_type;
mod connection;
mod header;
mod mode;
mod placeholders;
mod script;
mod suite;
mod validator;

pub use column_type::ColumnType;
pub use header::Header;
pub use mode::Mode;
pub use script::{Run, run_script};
pub use suite::{find_scripts, main};
