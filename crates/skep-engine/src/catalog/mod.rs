//! The names a session sees: catalogs, schemas, tables.
