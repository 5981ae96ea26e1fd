//! The tables that all sessions share and that survive a restart.
//!
//! Readers take a snapshot; writers take the file's lock, read what is there now, change it and
//! put the whole in place by a rename. So two processes may share a data directory, and nobody
//! ever reads half a catalog.
//!
//! **Invariant:** a change is visible in this process only after it is on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;

use crate::catalog::entry::TableEntry;
use crate::catalog::store::CatalogFile;
use crate::catalog::warehouse::Warehouse;
use crate::catalog::{PUBLIC, SYSTEM, TEMP};
use crate::error::{Error, Result};

/// All schemas with their tables, at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) schemas: BTreeMap<String, BTreeMap<String, Arc<TableEntry>>>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { schemas: BTreeMap::from([(PUBLIC.to_owned(), BTreeMap::new())]) }
    }
}

impl Snapshot {
    pub(crate) fn table(&self, schema: &str, name: &str) -> Option<&Arc<TableEntry>> {
        self.schemas.get(schema)?.get(name)
    }

    fn tables_mut(&mut self, schema: &str) -> Result<&mut BTreeMap<String, Arc<TableEntry>>> {
        if !self.schemas.contains_key(schema) {
            return Err(Error::not_found(
                "schema",
                schema,
                self.schemas.keys().map(String::as_str),
            ));
        }
        Ok(self.schemas.entry(schema.to_owned()).or_default())
    }
}

/// The shared part of the catalog, on disk under the data directory.
#[derive(Debug)]
pub(crate) struct PersistentCatalog {
    file: CatalogFile,
    warehouse: Warehouse,
    /// The catalog last read, with its text.
    current: RwLock<(Vec<u8>, Arc<Snapshot>)>,
}

impl PersistentCatalog {
    /// Opens the catalog of a data directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be used; [`Error::File`] if the catalog cannot be read.
    pub(crate) fn open(data_dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(data_dir).map_err(|source| Error::Io {
            action: "create the data directory",
            path: data_dir.to_owned(),
            source,
        })?;
        let data_dir = std::path::absolute(data_dir).map_err(|source| Error::Io {
            action: "find",
            path: data_dir.to_owned(),
            source,
        })?;
        let file = CatalogFile::new(&data_dir);
        let warehouse = Warehouse::new(&data_dir);
        let text = file.read()?;
        let snapshot = file.parse(&text)?;
        let catalog = Self { file, warehouse, current: RwLock::new((text, Arc::new(snapshot))) };
        catalog.sweep();
        Ok(catalog)
    }

    /// Removes what no table needs any more. That it cannot, in a directory that may only be read
    /// say, is no reason not to answer queries.
    fn sweep(&self) {
        let Ok(lock) = self.file.lock() else { return };
        if let Ok(snapshot) = self.snapshot() {
            self.warehouse.sweep(&snapshot, SystemTime::now());
        }
        drop(lock);
    }

    /// Lets go of a managed table's files, once no catalog names them.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be marked.
    pub(crate) fn forget_files(&self, entry: &TableEntry) -> Result<()> {
        self.warehouse.forget(entry)?;
        self.sweep();
        Ok(())
    }

    /// Returns the catalog as it is now, reading it again if another process changed it.
    ///
    /// # Errors
    /// [`Error::File`] if it changed and cannot be read.
    pub(crate) fn snapshot(&self) -> Result<Arc<Snapshot>> {
        let text = self.file.read()?;
        {
            let current = self.current.read();
            if current.0 == text {
                return Ok(Arc::clone(&current.1));
            }
        }
        let fresh = self.file.parse(&text)?;
        let mut current = self.current.write();
        let snapshot = Arc::new(keep_opened(fresh, &current.1));
        *current = (text, Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// Returns the snapshot last read, for callers that cannot fail.
    pub(crate) fn last_snapshot(&self) -> Arc<Snapshot> {
        self.snapshot().unwrap_or_else(|_| Arc::clone(&self.current.read().1))
    }

    /// Returns the directory in which a managed table's files go.
    pub(crate) fn warehouse(&self, schema: &str) -> PathBuf {
        self.warehouse.schema_dir(schema)
    }

    /// Adds a table; returns the entry it replaced.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] unless `or_replace`; [`Error::Io`] if it cannot be written.
    pub(crate) fn add_table(
        &self,
        schema: &str,
        name: &str,
        entry: Arc<TableEntry>,
        or_replace: bool,
    ) -> Result<Option<Arc<TableEntry>>> {
        self.change(|snapshot| {
            let tables = snapshot.tables_mut(schema)?;
            if !or_replace && tables.contains_key(name) {
                return Err(Error::AlreadyExists { kind: "table", name: name.to_owned() });
            }
            Ok(tables.insert(name.to_owned(), entry))
        })
    }

    /// Removes a table; returns its entry, if it was there.
    ///
    /// # Errors
    /// [`Error::Io`] if the change cannot be written.
    pub(crate) fn remove_table(&self, schema: &str, name: &str) -> Result<Option<Arc<TableEntry>>> {
        self.change(|snapshot| Ok(snapshot.tables_mut(schema)?.remove(name)))
    }

    /// Adds a schema; returns whether it is new.
    ///
    /// # Errors
    /// [`Error::Io`] if the change cannot be written.
    pub(crate) fn add_schema(&self, name: &str) -> Result<bool> {
        if matches!(name, TEMP | SYSTEM | "information_schema") {
            return Err(Error::AlreadyExists { kind: "schema", name: name.to_owned() });
        }
        self.change(|snapshot| {
            let is_new = !snapshot.schemas.contains_key(name);
            snapshot.schemas.entry(name.to_owned()).or_default();
            Ok(is_new)
        })
    }

    /// Removes a schema; returns its tables.
    ///
    /// # Errors
    /// [`Error::Plan`] if it has tables and `cascade` is not said, or for `public`.
    pub(crate) fn remove_schema(
        &self,
        name: &str,
        cascade: bool,
    ) -> Result<Option<BTreeMap<String, Arc<TableEntry>>>> {
        if name == PUBLIC {
            return Err(Error::plan("schema \"public\" cannot be dropped"));
        }
        self.change(|snapshot| {
            if let Some(tables) = snapshot.schemas.get(name)
                && !tables.is_empty()
                && !cascade
            {
                return Err(Error::Plan {
                    message: format!(
                        "schema \"{name}\" is not empty: it has {} tables",
                        tables.len()
                    ),
                    position: None,
                    hint: Some("DROP SCHEMA ... CASCADE drops them too".to_owned()),
                });
            }
            Ok(snapshot.schemas.remove(name))
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Snapshot) -> Result<T>) -> Result<T> {
        let lock = self.file.lock()?;
        let mut snapshot = (*self.snapshot()?).clone();
        let outcome = change(&mut snapshot)?;
        let text = self.file.write(&snapshot)?;
        *self.current.write() = (text, Arc::new(snapshot));
        drop(lock);
        Ok(outcome)
    }
}

/// Carries over the entries that did not change, which may be open already.
fn keep_opened(mut fresh: Snapshot, old: &Snapshot) -> Snapshot {
    for (schema, tables) in &mut fresh.schemas {
        for (name, entry) in tables {
            if let Some(known) = old.table(schema, name)
                && crate::catalog::store::is_same(known, entry)
            {
                *entry = Arc::clone(known);
            }
        }
    }
    fresh
}
