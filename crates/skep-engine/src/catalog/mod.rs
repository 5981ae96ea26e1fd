//! The names a session sees: schemas and tables, persistent ones shared, temporary ones its own.
//!
//! [`PersistentCatalog`] is what all sessions of an engine share and what survives a restart;
//! [`SessionCatalog`] lays one session's temporary tables over it and shows both to DataFusion.

mod entry;
mod persistent;
mod session;
mod store;
mod system;
mod warehouse;

pub(crate) use entry::{Definition, TableEntry, ViewText};
pub(crate) use persistent::PersistentCatalog;
pub(crate) use session::{CatalogList, SessionCatalog, TableOpener};
pub(crate) use system::SystemSchema;
pub use system::SystemTables;

/// The one catalog of an engine.
pub(crate) const CATALOG: &str = "skep";
/// The schema that is there from the beginning, and cannot be dropped.
pub(crate) const PUBLIC: &str = "public";
/// The schema in which a session's temporary tables are listed.
pub(crate) const TEMP: &str = "temp";
/// The schema in which a process shows what it does; read-only.
pub(crate) const SYSTEM: &str = "system";
