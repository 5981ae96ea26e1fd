//! What there is, for clients that show it: schemas, tables, and their columns.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::SchemaProvider;
use datafusion::catalog::information_schema::{
    INFORMATION_SCHEMA, INFORMATION_SCHEMA_TABLES, InformationSchemaProvider,
};
use tracing::debug;

use crate::catalog::{CATALOG, CatalogList};
use crate::error::Result;
use crate::session::Session;

/// A table or view of a session, temporary ones included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableListing {
    /// The schema that it is in.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Whether it is a view.
    pub is_view: bool,
}

impl Session {
    /// Returns the name of the one catalog.
    pub fn catalog_name(&self) -> &'static str {
        CATALOG
    }

    /// Returns the schema in which bare names are looked up.
    pub fn current_schema(&self) -> String {
        self.scope().schema
    }

    /// Looks bare names up in another schema from now on, as `USE` does.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) if there is none of that name.
    pub fn set_current_schema(&self, name: &str) -> Result<()> {
        self.use_schema_named(name).map(drop)
    }

    /// Lists the schemas, `information_schema` included, by name.
    ///
    /// # Errors
    /// If the shared catalog changed and cannot be read.
    pub fn schema_names(&self) -> Result<Vec<String>> {
        let catalog = &self.inner.catalog;
        catalog.persistent().snapshot()?;
        let mut names = catalog.schemas();
        names.push(INFORMATION_SCHEMA.to_owned());
        names.sort_unstable();
        Ok(names)
    }

    /// Lists the tables and views of all schemas, by schema and name.
    ///
    /// # Errors
    /// As [`Session::schema_names`].
    pub fn table_listings(&self) -> Result<Vec<TableListing>> {
        let mut listings = Vec::new();
        for schema in self.schema_names()? {
            if schema == INFORMATION_SCHEMA {
                let mut names = INFORMATION_SCHEMA_TABLES.to_vec();
                names.sort_unstable();
                let view = |name: &str| TableListing {
                    schema: schema.clone(),
                    name: name.to_owned(),
                    is_view: true,
                };
                listings.extend(names.into_iter().map(view));
                continue;
            }
            for (name, entry) in self.inner.catalog.tables(&schema) {
                let is_view = entry.is_view();
                listings.push(TableListing { schema: schema.clone(), name, is_view });
            }
        }
        Ok(listings)
    }

    /// Returns the columns of a listed table; none if it cannot be opened now, as a view whose tables
    /// are gone.
    pub async fn table_columns(&self, table: &TableListing) -> SchemaRef {
        match self.find_columns(table).await {
            Ok(Some(schema)) => schema,
            Ok(None) => Arc::new(Schema::empty()),
            Err(error) => {
                debug!(schema = table.schema, table = table.name, %error, "no columns to show");
                Arc::new(Schema::empty())
            }
        }
    }

    /// Lists the scalar functions of a section of the documentation, aliases included, by name.
    pub fn function_names(&self, section: &str) -> Vec<String> {
        let state = self.inner.context.state_ref();
        let state = state.read();
        let functions = state.scalar_functions().iter().filter(|(_, function)| {
            function.documentation().is_some_and(|text| text.doc_section.label == section)
        });
        let mut names: Vec<_> = functions.map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    async fn find_columns(&self, table: &TableListing) -> Result<Option<SchemaRef>> {
        if table.schema == INFORMATION_SCHEMA {
            let catalog = Arc::new(CatalogList(Arc::clone(&self.inner.catalog)));
            let tables = InformationSchemaProvider::new(catalog);
            return Ok(tables.table(&table.name).await?.map(|table| table.schema()));
        }
        let tables = self.inner.catalog.tables(&table.schema);
        let Some(entry) = tables.get(&table.name) else { return Ok(None) };
        let state = self.state();
        Ok(Some(self.inner.open_entry_in(&state, entry, 0).await?.schema()))
    }
}
