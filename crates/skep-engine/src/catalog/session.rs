//! One session's view of the catalog: its temporary tables over the shared ones.
//!
//! Queries resolve their names in [`SessionCatalog::find`]. The provider traits of DataFusion are
//! implemented for what DataFusion looks up by itself: `information_schema`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::TableReference;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::TableType;
use parking_lot::RwLock;

use crate::catalog::entry::TableEntry;
use crate::catalog::persistent::PersistentCatalog;
use crate::catalog::system::SystemSchema;
use crate::catalog::{CATALOG, SYSTEM, TEMP};
use crate::error::{Error, Result};

/// Opens a table for a session; the session itself, seen from its catalog.
#[async_trait]
pub(crate) trait TableOpener: Send + Sync {
    /// Opens a table: lists files, infers schemas, plans views.
    async fn open_entry(&self, entry: &Arc<TableEntry>) -> Result<Arc<dyn TableProvider>>;
}

/// The names of one session.
pub(crate) struct SessionCatalog {
    persistent: Arc<PersistentCatalog>,
    system: SystemSchema,
    temporary: RwLock<BTreeMap<String, Arc<TableEntry>>>,
    /// The session owns this catalog, hence weak; set once the session is made.
    opener: RwLock<Option<Weak<dyn TableOpener>>>,
}

impl SessionCatalog {
    pub(crate) fn new(persistent: Arc<PersistentCatalog>, system: SystemSchema) -> Arc<Self> {
        Arc::new(Self {
            persistent,
            system,
            temporary: RwLock::new(BTreeMap::new()),
            opener: RwLock::new(None),
        })
    }

    pub(crate) fn set_opener(&self, opener: Weak<dyn TableOpener>) {
        *self.opener.write() = Some(opener);
    }

    pub(crate) fn persistent(&self) -> &PersistentCatalog {
        &self.persistent
    }

    pub(crate) fn system(&self) -> &SystemSchema {
        &self.system
    }

    /// Finds a table: a bare name among the temporary tables first, then in the current schema.
    ///
    /// # Errors
    /// If the shared catalog changed and cannot be read.
    pub(crate) fn find(
        &self,
        reference: &TableReference,
        current_schema: &str,
    ) -> Result<Option<Arc<TableEntry>>> {
        if reference.catalog().is_some_and(|catalog| catalog != CATALOG) {
            return Ok(None);
        }
        if matches!(reference.schema(), None | Some(TEMP))
            && let Some(entry) = self.temporary(reference.table())
        {
            return Ok(Some(entry));
        }
        let schema = reference.schema().unwrap_or(current_schema);
        if schema == SYSTEM {
            return Ok(self.system.table(reference.table()));
        }
        Ok(self.persistent.snapshot()?.table(schema, reference.table()).cloned())
    }

    pub(crate) fn temporary(&self, name: &str) -> Option<Arc<TableEntry>> {
        self.temporary.read().get(name).cloned()
    }

    /// Adds a temporary table.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] unless `or_replace`.
    pub(crate) fn add_temporary(
        &self,
        name: &str,
        entry: Arc<TableEntry>,
        or_replace: bool,
    ) -> Result<()> {
        let mut temporary = self.temporary.write();
        if !or_replace && temporary.contains_key(name) {
            return Err(Error::AlreadyExists { kind: "temporary table", name: name.to_owned() });
        }
        temporary.insert(name.to_owned(), entry);
        Ok(())
    }

    pub(crate) fn remove_temporary(&self, name: &str) -> Option<Arc<TableEntry>> {
        self.temporary.write().remove(name)
    }

    pub(crate) fn has_temporaries(&self) -> bool {
        !self.temporary.read().is_empty()
    }

    /// Lists the tables of a schema with their entries, by name.
    pub(crate) fn tables(&self, schema: &str) -> BTreeMap<String, Arc<TableEntry>> {
        if schema == TEMP {
            return self.temporary.read().clone();
        }
        if schema == SYSTEM {
            return self.system.tables();
        }
        self.persistent.last_snapshot().schemas.get(schema).cloned().unwrap_or_default()
    }

    /// Lists the schemas, without `information_schema`.
    pub(crate) fn schemas(&self) -> Vec<String> {
        let mut schemas: Vec<String> =
            self.persistent.last_snapshot().schemas.keys().cloned().collect();
        schemas.push(SYSTEM.to_owned());
        if !self.temporary.read().is_empty() {
            schemas.push(TEMP.to_owned());
        }
        schemas
    }

    /// Returns every name that a bare table reference could mean, and those of the system tables in
    /// full, for suggestions.
    pub(crate) fn table_names(&self, current_schema: &str) -> Vec<String> {
        let mut names: Vec<String> = self.temporary.read().keys().cloned().collect();
        names.extend(self.tables(current_schema).into_keys());
        names.extend(self.system.tables().keys().map(|table| format!("{SYSTEM}.{table}")));
        names
    }
}

impl fmt::Debug for SessionCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCatalog")
            .field("temporary", &self.temporary.read().keys())
            .finish_non_exhaustive()
    }
}

/// The one catalog, as DataFusion's list of catalogs.
#[derive(Debug)]
pub(crate) struct CatalogList(pub(crate) Arc<SessionCatalog>);

impl CatalogProviderList for CatalogList {
    /// There is one catalog and no place for more; DataFusion calls this only for its default.
    fn register_catalog(
        &self,
        _name: String,
        catalog: Arc<dyn CatalogProvider>,
    ) -> Option<Arc<dyn CatalogProvider>> {
        Some(catalog)
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG)
            .then(|| Arc::new(Schemas(Arc::clone(&self.0))) as Arc<dyn CatalogProvider>)
    }
}

#[derive(Debug)]
struct Schemas(Arc<SessionCatalog>);

impl CatalogProvider for Schemas {
    fn schema_names(&self) -> Vec<String> {
        self.0.schemas()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let is_known = name == TEMP || self.0.schemas().iter().any(|schema| schema == name);
        is_known.then(|| {
            let tables = Tables { catalog: Arc::clone(&self.0), schema: name.to_owned() };
            Arc::new(tables) as Arc<dyn SchemaProvider>
        })
    }
}

#[derive(Debug)]
struct Tables {
    catalog: Arc<SessionCatalog>,
    schema: String,
}

#[async_trait]
impl SchemaProvider for Tables {
    fn table_names(&self) -> Vec<String> {
        self.catalog.tables(&self.schema).into_keys().collect()
    }

    async fn table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        let Some(entry) = self.catalog.tables(&self.schema).get(name).cloned() else {
            return Ok(None);
        };
        let opener = self.catalog.opener.read().as_ref().and_then(Weak::upgrade);
        let Some(opener) = opener else {
            return Err(DataFusionError::from(Error::Cancelled));
        };
        Ok(Some(opener.open_entry(&entry).await?))
    }

    async fn table_type(&self, name: &str) -> DataFusionResult<Option<TableType>> {
        Ok(self.catalog.tables(&self.schema).get(name).map(|entry| entry.table_type()))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.catalog.tables(&self.schema).contains_key(name)
    }
}
