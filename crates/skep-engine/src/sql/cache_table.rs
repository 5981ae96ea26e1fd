//! `CACHE`, `UNCACHE`, `CLEAR CACHE`, `REFRESH`, and what other statements do to cached tables.
//!
//! As in Spark: what a cached table is made from may be changed through skep, and the table follows.
//! Rows that are inserted make it load again at its next use; a table that is dropped or replaced
//! takes what was cached from it along; a view that is dropped or replaced takes its own.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::ObjectName;

use crate::cache::{
    CacheName, CacheOptions, CacheRequest, CachedDefinition, ViewIdentity, address_of, providers_of,
};
use crate::catalog::{CATALOG, Definition, TEMP, TableEntry, TableOpener};
use crate::error::{Error, Result};
use crate::guard::guard;
use crate::query::QueryStream;
use crate::session::{Session, command_done, named_columns};
use crate::sql::statement::CacheTable;

impl Session {
    /// Caches the rows of a DataFrame: every query that contains its plan uses them from now on.
    ///
    /// # Errors
    /// Whatever keeps the rows from being made; [`Error::PermissionDenied`] for a reader.
    pub async fn cache(&self, frame: &DataFrame, options: CacheOptions) -> Result<()> {
        self.may_change_cache("caching a DataFrame")?;
        let plan = frame.logical_plan().clone();
        // The name is for people alone.
        let id = self.inner.cache.tables.next_id();
        let name = CacheName { schema: TEMP.to_owned(), table: format!("dataframe_{id}") };
        let owner = Some(self.inner.cache.id);
        let is_lazy = false;
        let (view, identity) = (None, None);
        let request = CacheRequest { name, owner, plan, view, options, is_lazy, identity };
        self.inner.cache.tables.cache(&self.lasting_state(), request).await
    }

    /// Takes the rows of a DataFrame out of the cache; returns whether they were in it.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`] for a reader.
    pub fn unpersist(&self, frame: &DataFrame) -> Result<bool> {
        self.may_change_cache("unpersisting a DataFrame")?;
        let cache = &self.inner.cache;
        Ok(cache.tables.uncache(frame.logical_plan(), None, cache.id))
    }

    /// Checks that what is kept for everybody may be changed: memory that one takes is another's no
    /// more, and what is cached of a table is used by all.
    fn may_change_cache(&self, what: &str) -> Result<()> {
        self.inner.policy.require_writer(what)
    }

    /// `CACHE TABLE`.
    pub(crate) async fn cache_table(&self, cache: CacheTable) -> Result<QueryStream> {
        self.may_change_cache("CACHE TABLE")?;
        let mut options = CacheOptions::parse(&cache.options)?;
        options.cluster_by = cache.cluster_by;
        let state = self.lasting_state();
        let Some(query) = cache.query else {
            let (reference, entry) = self.find_table(&cache.name)?;
            refuse_system(&reference, &entry, "be cached")?;
            let (name, owner) = self.cache_name(&reference);
            let plan = self.plan_of(&reference, &entry).await?;
            let view = self.inner.view_identity(&entry)?;
            let is_lazy = cache.is_lazy;
            let request =
                CacheRequest { name, owner, plan, view, options, is_lazy, identity: None };
            self.inner.cache.tables.cache(&state, request).await?;
            return Ok(command_done("CACHE TABLE"));
        };
        let reference = super::ddl::table_reference(&cache.name)?;
        if reference.schema().is_some_and(|schema| schema != TEMP) {
            return Err(Error::Plan {
                message: format!("a cached query has no schema, but \"{reference}\" names one"),
                position: None,
                hint: Some(format!("CACHE TABLE {} AS ...", reference.table())),
            });
        }
        let table = reference.table().to_owned();
        let exists = || Error::AlreadyExists { kind: "temporary table", name: table.clone() };
        if self.inner.catalog.temporary(&table).is_some() {
            return Err(exists());
        }
        let planned = self.inner.plan_query(&state, query, self.scope()).await?;
        let plan = named_columns(planned, &[])?;
        let name = CacheName { schema: TEMP.to_owned(), table: table.clone() };
        let owner = Some(self.inner.cache.id);
        let is_lazy = cache.is_lazy;
        let provider: Arc<dyn TableProvider> =
            Arc::new(ViewTable::new(plan.clone(), Some(cache.text.clone())));
        let view = Some(ViewIdentity::Provider(address_of(&provider)));
        let request = CacheRequest { name, owner, plan, view, options, is_lazy, identity: None };
        self.inner.cache.tables.cache(&state, request).await?;
        let definition = Definition::Provider { provider, text: Some(cache.text) };
        let entry = Arc::new(TableEntry::new(definition, None));
        self.inner.catalog.add_temporary(&table, entry, false)?;
        Ok(command_done("CACHE TABLE"))
    }

    /// Caches a table of the catalog again that others still keep for the process before this one.
    ///
    /// # Errors
    /// If it is not what it was.
    pub(crate) async fn restore_cached(&self, definition: CachedDefinition) -> Result<()> {
        let CachedDefinition { schema, table, is_lazy, width, identity, .. } = &definition;
        let catalog = self.inner.catalog.persistent().snapshot()?;
        let Some(entry) = catalog.table(schema, table) else {
            return Err(Error::not_found("table", table, []));
        };
        let reference = TableReference::partial(schema.as_str(), table.as_str());
        let plan = self.plan_of(&reference, entry).await?;
        let view = self.inner.view_identity(entry)?;
        let name = CacheName { schema: schema.clone(), table: table.clone() };
        let request = CacheRequest {
            name,
            owner: None,
            plan,
            view,
            options: definition.options()?,
            is_lazy: *is_lazy,
            identity: Some(identity.clone()),
        };
        let mut state = self.lasting_state();
        state.config_mut().options_mut().execution.target_partitions = *width;
        self.inner.cache.tables.cache(&state, request).await
    }

    /// `UNCACHE TABLE`.
    pub(crate) async fn uncache_table(
        &self,
        name: &ObjectName,
        if_exists: bool,
    ) -> Result<QueryStream> {
        self.may_change_cache("UNCACHE TABLE")?;
        let (reference, entry) = match self.find_table(name) {
            Err(Error::NotFound { .. }) if if_exists => return Ok(command_done("UNCACHE TABLE")),
            found => found?,
        };
        let plan = self.plan_of(&reference, &entry).await?;
        let (name, _) = self.cache_name(&reference);
        let cache = &self.inner.cache;
        if !cache.tables.uncache(&plan, Some(&name), cache.id) && !if_exists {
            return Err(Error::Plan {
                message: format!("table \"{reference}\" is not cached"),
                position: None,
                hint: Some("SELECT * FROM system.cached_tables lists what is".to_owned()),
            });
        }
        Ok(command_done("UNCACHE TABLE"))
    }

    /// `CLEAR CACHE`.
    pub(crate) fn clear_cache(&self) -> Result<QueryStream> {
        self.may_change_cache("CLEAR CACHE")?;
        self.inner.cache.tables.clear();
        Ok(command_done("CLEAR CACHE"))
    }

    /// `REFRESH TABLE`: what was cached from it is cached anew from what is there now.
    pub(crate) async fn refresh_table(&self, name: &ObjectName) -> Result<QueryStream> {
        self.may_change_cache("REFRESH TABLE")?;
        let (reference, entry) = self.find_table(name)?;
        refuse_system(&reference, &entry, "be refreshed")?;
        let plan = self.plan_of(&reference, &entry).await?;
        let state = self.lasting_state();
        // Files that are not there any more are missed now, cached or not.
        let planned = guard(state.create_physical_plan(&plan)).await??;
        drop(planned);
        let (name, _) = self.cache_name(&reference);
        let cache = &self.inner.cache;
        cache.tables.refresh(&state, (&name, cache.id), &providers_of(&plan)).await?;
        Ok(command_done("REFRESH TABLE"))
    }

    /// Returns what is to be done when rows were put into a table, whoever waits for it or not: what
    /// was cached from it is loaded again by its next use.
    pub(crate) fn cached_source_changed(
        &self,
        entry: &Arc<TableEntry>,
    ) -> impl FnOnce() + Send + 'static {
        let (entry, tables) = (Arc::clone(entry), Arc::clone(&self.inner.cache.tables));
        // It may be opened, and cached, while the rows are written.
        move || tables.source_changed(&opened(&entry))
    }

    /// A table or view is not what it was under this name.
    pub(crate) fn forget_cached(&self, schema: &str, table: &str, entry: &TableEntry) {
        let name = CacheName { schema: schema.to_owned(), table: table.to_owned() };
        let cache = &self.inner.cache;
        // What was cached over a view's rows stays right when the view goes: it is made from its tables.
        // Views whose texts name it mean something else by now.
        let providers = if entry.is_view() { Vec::new() } else { opened(entry) };
        cache.tables.forget(&name, cache.id, &providers);
    }

    /// Says how a table is cached, if it is.
    pub(crate) fn cached_as(&self, schema: &str, table: &str) -> Option<String> {
        let name = CacheName { schema: schema.to_owned(), table: table.to_owned() };
        let cache = &self.inner.cache;
        cache.tables.named(&name, cache.id).map(|cached| cached.describe())
    }

    /// Returns the plan by which queries read a table.
    async fn plan_of(
        &self,
        reference: &TableReference,
        entry: &Arc<TableEntry>,
    ) -> Result<LogicalPlan> {
        let scope = self.scope();
        let provider = match self.inner.cached_view(reference, entry, &scope) {
            Some(view) => view,
            None => self.inner.open_entry(entry).await?,
        };
        let source = provider_as_source(provider);
        Ok(LogicalPlanBuilder::scan(reference.clone(), source, None)?.build()?)
    }

    fn cache_name(&self, reference: &TableReference) -> (CacheName, Option<u64>) {
        let table = reference.table().to_owned();
        let is_temporary = matches!(reference.schema(), None | Some(TEMP))
            && self.inner.catalog.temporary(&table).is_some();
        if is_temporary {
            return (CacheName { schema: TEMP.to_owned(), table }, Some(self.inner.cache.id));
        }
        let schema = reference.schema().map_or_else(|| self.scope().schema, str::to_owned);
        (CacheName { schema, table }, None)
    }
}

/// Returns the provider of a table, if it was ever opened: nobody else can have read it.
fn opened(entry: &TableEntry) -> Vec<Arc<dyn TableProvider>> {
    match &entry.definition {
        Definition::Provider { provider, .. } => vec![Arc::clone(provider)],
        _ => entry.opened.get().cloned().into_iter().collect(),
    }
}

fn refuse_system(reference: &TableReference, entry: &TableEntry, what: &str) -> Result<()> {
    match &entry.definition {
        Definition::System(_) => Err(Error::Plan {
            message: format!("\"{reference}\" is a system table and cannot {what}"),
            position: None,
            hint: Some(format!("it shows what {CATALOG} does at the moment")),
        }),
        _ => Ok(()),
    }
}
