//! Which tables of a process are cached.
//!
//! **Invariant:** a table is in the list only with a content whose plan was made from the table's;
//! a content that is taken out or replaced is ended.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::repartition::RepartitionExec;
use parking_lot::RwLock;
use skep_store::ids::Epoch;
use skep_store::{PartitionStore, StoreConfig};
use tokio::sync::{Mutex, OnceCell};
use tracing::info;

use super::canonical::{Canonical, Kind, address_of, kind_of, marked, providers_of};
use super::content::{Content, ContentParts};
use super::definitions::{CachedDefinition, DefinitionFile, Identity};
use super::hosted::{CacheHost, CachedShape, HostedParts, HostedTable};
use super::level::{CacheOptions, ClusterBy};
use super::lineage::{Lineage, reads_hosted, widened};
use super::through::ThroughExec;
use crate::catalog::{PUBLIC, TEMP, ViewText};
use crate::error::{Error, Result};
use crate::optimizer;
use crate::query::QueryExecutor;
use crate::session::guard;

/// The most partitions that a table has.
pub(super) const MAX_PARTITIONS: usize = 10_000;

/// The cached tables of a process.
#[derive(Debug)]
pub(crate) struct CachedTables {
    store: StoreSlot,
    tables: RwLock<Vec<Arc<CachedTable>>>,
    epochs: Arc<AtomicU64>,
    ids: AtomicU64,
    hosting: Hosting,
    /// Waits for what the process before this one had.
    finding: parking_lot::Mutex<Vec<SpawnedTask<()>>>,
}

/// What it takes to let others keep partitions.
#[derive(Debug)]
pub(crate) struct Hosting {
    /// Who may keep partitions in place of this process.
    pub(crate) host: Option<Arc<dyn CacheHost>>,
    /// How what they keep is read by this process.
    pub(crate) executor: Arc<dyn QueryExecutor>,
    /// Where it is noted.
    pub(crate) definitions: Arc<DefinitionFile>,
}

/// The name under which a table was cached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheName {
    pub(crate) schema: String,
    pub(crate) table: String,
}

/// One cached table.
#[derive(Debug)]
pub(crate) struct CachedTable {
    pub(crate) id: u64,
    pub(crate) name: CacheName,
    /// The session that it ends with, if it is one session's own.
    owner: Option<u64>,
    pub(super) kind: Kind,
    pub(super) canonical: Canonical,
    plan: LogicalPlan,
    /// The view whose rows these are.
    view: Option<ViewIdentity>,
    pub(super) options: CacheOptions,
    is_lazy: bool,
    content: RwLock<Arc<Content>>,
    /// Held by who replaces the content.
    changing: Mutex<()>,
}

/// By what a view is known again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ViewIdentity {
    /// One that is kept as text.
    Text(ViewText),
    /// A temporary one, by the address of its provider. Whoever drops or replaces it takes its rows
    /// out of the cache, so that the address stays its own.
    Provider(usize),
}

/// What is to be cached.
#[derive(Debug)]
pub(crate) struct CacheRequest {
    pub(crate) name: CacheName,
    pub(crate) owner: Option<u64>,
    pub(crate) plan: LogicalPlan,
    /// The view, if it is one.
    pub(crate) view: Option<ViewIdentity>,
    pub(crate) options: CacheOptions,
    pub(crate) is_lazy: bool,
    /// If it was cached by the process before this one, and somebody keeps it still.
    pub(crate) identity: Option<Identity>,
}

impl CachedTables {
    pub(crate) fn new(store: StoreSlot, hosting: Hosting) -> Arc<Self> {
        let last_id = hosting.definitions.awaited.lock().iter().map(|it| it.identity.id).max();
        let first_epoch = hosting.host.as_ref().map_or(1, |host| host.first_epoch());
        Arc::new(Self {
            store,
            tables: RwLock::default(),
            epochs: Arc::new(AtomicU64::new(first_epoch)),
            ids: AtomicU64::new(last_id.unwrap_or(0) + 1),
            hosting,
            finding: parking_lot::Mutex::default(),
        })
    }

    /// Gives a session a name of its own here.
    pub(crate) fn lease(self: &Arc<Self>) -> CacheLease {
        CacheLease { id: self.next_id(), tables: Arc::clone(self) }
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn all(&self) -> Vec<Arc<CachedTable>> {
        self.tables.read().clone()
    }

    pub(super) fn opened_store(&self) -> Option<&PartitionStore> {
        self.store.opened.get()
    }

    /// Returns all ways in which a plan is cached.
    fn find(&self, canonical: &Canonical) -> Vec<Arc<CachedTable>> {
        let tables = self.tables.read();
        tables.iter().filter(|table| table.is_of(canonical)).cloned().collect()
    }

    /// Returns whether a plan is cached in several ways.
    pub(super) fn has_choices(&self) -> bool {
        let tables = self.tables.read();
        let is_again = |(idx, table): (usize, &Arc<CachedTable>)| {
            tables[..idx].iter().any(|other| other.canonical == table.canonical)
        };
        tables.iter().enumerate().any(is_again)
    }

    /// Returns the contents of the plan whose content this is: the same rows, lying otherwise.
    pub(super) fn alternatives(&self, content: &Content) -> Vec<Arc<Content>> {
        let own = self.all().into_iter().find(|table| table.content().key == content.key);
        let all = own.map(|table| self.find(&table.canonical)).unwrap_or_default();
        all.iter().map(|table| table.content()).collect()
    }

    /// Returns the table that was cached under a name, one that any session or this one owns.
    pub(crate) fn named(&self, name: &CacheName, owner: u64) -> Option<Arc<CachedTable>> {
        let tables = self.tables.read();
        let is_meant = |table: &&Arc<CachedTable>| {
            table.name == *name && table.owner.is_none_or(|own| own == owner)
        };
        tables.iter().find(is_meant).cloned()
    }

    /// Returns the plan by which a view was cached, unless it has another text by now.
    ///
    /// Planned anew, a view that draws by chance, tells the time or names files would be another one
    /// each time, and never found.
    pub(crate) fn plan_of_view(
        &self,
        name: &CacheName,
        view: &ViewIdentity,
        owner: u64,
    ) -> Option<LogicalPlan> {
        let table = self.named(name, owner)?;
        if table.view.as_ref() != Some(view) {
            return None;
        }
        match (table.canonical.is_by_chance(), view) {
            (true, _) => marked(table.plan.clone(), table.id).ok(),
            (false, ViewIdentity::Text(_)) => Some(table.plan.clone()),
            (false, ViewIdentity::Provider(_)) => None,
        }
    }

    /// Caches the rows of a plan. Of a plan that is cached already, the rows are kept.
    ///
    /// # Errors
    /// Whatever keeps the rows from being made; [`Error::Plan`] if the plan is cached in another way,
    /// [`Error::Unsupported`] for one that no query could be found to contain.
    pub(crate) async fn cache(
        self: &Arc<Self>,
        state: &SessionState,
        request: CacheRequest,
    ) -> Result<()> {
        let canonical = Canonical::of(&request.plan);
        if canonical.is_unique() {
            let hint = "CREATE TABLE ... AS keeps its rows";
            return Err(Error::unsupported("caching rows that are made up anew each time", hint));
        }
        let known = self.find(&canonical);
        if let Some(table) = known.iter().find(|table| table.options == request.options) {
            return if request.is_lazy { Ok(()) } else { table.content().fill().await };
        }
        // Two contents stand for each other, so they have to have the same rows.
        if let Some(table) = known.first()
            && (table.options.level != request.options.level || !canonical.is_repeatable())
        {
            return Err(Error::Plan {
                message: format!(
                    "the rows of \"{}\" are cached already, in another way",
                    request.name
                ),
                position: None,
                hint: Some(format!("UNCACHE TABLE {} comes first", table.name)),
            });
        }
        let id = request.identity.map_or_else(|| self.next_id(), |known| known.id);
        let CacheRequest { name, owner, plan, view, options, is_lazy, identity } = request;
        let content = self.new_content(state, (id, identity), &name, &plan, &options).await?;
        let is_loaded = is_lazy || identity.is_some();
        let filled = if is_loaded { Ok(()) } else { content.fill().await };
        if let Err(error) = filled {
            content.end();
            return Err(error);
        }
        let kind = kind_of(&plan);
        let table = Arc::new(CachedTable {
            id,
            name,
            owner,
            kind,
            canonical,
            plan,
            view,
            options,
            is_lazy,
            content: RwLock::new(content),
            changing: Mutex::default(),
        });
        {
            let mut tables = self.tables.write();
            let is_same = |other: &Arc<CachedTable>| {
                other.canonical == table.canonical && other.options == table.options
            };
            match tables.iter().any(is_same) {
                // Somebody else was faster.
                true => table.content().end(),
                false => tables.push(table),
            }
        }
        self.note();
        Ok(())
    }

    /// Takes a plan out of the cache; returns whether it was in it.
    pub(crate) fn uncache(&self, plan: &LogicalPlan) -> bool {
        let canonical = Canonical::of(plan);
        self.remove(|table| table.is_of(&canonical))
    }

    /// Notes which tables of the catalog others keep.
    fn note(&self) {
        self.hosting.definitions.write(|| {
            let tables = self.all();
            let hosted = tables.iter().filter_map(|table| table.definition());
            hosted.collect()
        });
    }

    /// Looks for what the process before this one had others keep: `restore` is told of each table
    /// that somebody keeps.
    pub(crate) fn find_again<F, R>(&self, restore: R)
    where
        R: Fn(CachedDefinition) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let Some(host) = &self.hosting.host else { return };
        let awaited = self.hosting.definitions.awaited.lock().clone();
        let find = |definition: CachedDefinition| {
            let name =
                CacheName { schema: definition.schema.clone(), table: definition.table.clone() };
            let Identity { id, epoch, .. } = definition.identity;
            let (key, epoch): (Arc<str>, _) = (format!("{name}#{id}").into(), Epoch(epoch));
            let found = host.expect(&key, epoch);
            let (host, restore) = (Arc::clone(host), restore.clone());
            let definitions = Arc::clone(&self.hosting.definitions);
            SpawnedTask::spawn(async move {
                let is_found = found.await;
                // From now on it is noted as a table of this process, if it becomes one.
                definitions.forget(&definition);
                if is_found {
                    match restore(definition.clone()).await {
                        Ok(()) => info!(table = %name, "a cached table was found again"),
                        Err(error) => info!(table = %name, %error, "a cached table is of no use"),
                    }
                }
                // Of no meaning for one that was taken over.
                host.give_up(&key, epoch);
            })
        };
        let finding: Vec<_> = awaited.into_iter().map(find).collect();
        self.finding.lock().extend(finding);
    }

    /// Takes out everything.
    pub(crate) fn clear(&self) {
        self.remove(|_| true);
    }

    /// Takes out what was cached under a name, and what reads one of these tables.
    pub(crate) fn forget(
        &self,
        name: &CacheName,
        owner: u64,
        providers: &[Arc<dyn TableProvider>],
    ) {
        let is_own = |table: &CachedTable| table.owner.is_none_or(|own| own == owner);
        self.remove(|table| (table.name == *name && is_own(table)) || table.reads(providers));
    }

    fn remove(&self, is_meant: impl Fn(&CachedTable) -> bool) -> bool {
        let removed: Vec<_> = self.tables.write().extract_if(.., |table| is_meant(table)).collect();
        for table in &removed {
            table.content().end();
        }
        if !removed.is_empty() {
            self.note();
        }
        !removed.is_empty()
    }

    /// Makes new contents of what reads one of these tables, and of what was cached under `name`: at
    /// once, or by their next use.
    ///
    /// # Errors
    /// If a content cannot be planned or made; its table keeps the one that it had.
    pub(crate) async fn renew(
        self: &Arc<Self>,
        state: &SessionState,
        name: Option<&CacheName>,
        providers: &[Arc<dyn TableProvider>],
        is_at_once: bool,
    ) -> Result<()> {
        let is_meant = |table: &Arc<CachedTable>| {
            table.reads(providers) || name.is_some_and(|name| table.name == *name)
        };
        for table in self.all().into_iter().filter(is_meant) {
            let _one_at_a_time = table.changing.lock().await;
            let CachedTable { id, name, plan, options, .. } = table.as_ref();
            let content = self.new_content(state, (*id, None), name, plan, options).await?;
            if is_at_once && !table.is_lazy {
                content.fill().await?;
            }
            let old = std::mem::replace(&mut *table.content.write(), content);
            old.end();
            // It may have been taken out meanwhile, with the content that it had.
            if !self.tables.read().iter().any(|known| known.id == *id) {
                table.content().end();
            }
            self.note();
        }
        Ok(())
    }

    /// Plans a lazy table anew for its first use, and returns its content.
    ///
    /// # Errors
    /// If it cannot be planned.
    pub(super) async fn relisted(
        self: &Arc<Self>,
        state: &SessionState,
        table: &CachedTable,
    ) -> Result<Arc<Content>> {
        let _one_at_a_time = table.changing.lock().await;
        if !table.waits_for_use() {
            return Ok(table.content());
        }
        let CachedTable { id, name, plan, options, .. } = table;
        let content = self.new_content(state, (*id, None), name, plan, options).await?;
        // The query was planned with these columns.
        if content.schema != table.content().schema {
            return Ok(table.content());
        }
        let old = std::mem::replace(&mut *table.content.write(), Arc::clone(&content));
        old.end();
        if !self.tables.read().iter().any(|known| known.id == *id) {
            content.end();
        }
        Ok(content)
    }

    /// Takes out what reads one of these tables.
    pub(crate) fn forget_readers(&self, providers: &[Arc<dyn TableProvider>]) {
        self.remove(|table| table.reads(providers));
    }

    async fn new_content(
        self: &Arc<Self>,
        state: &SessionState,
        (id, identity): (u64, Option<Identity>),
        name: &CacheName,
        plan: &LogicalPlan,
        options: &CacheOptions,
    ) -> Result<Arc<Content>> {
        let store = self.store.get().await?.clone();
        // The plan may use other cached tables, and not itself.
        let state = SessionStateBuilder::new_from_existing(state.clone())
            .with_analyzer_rules(optimizer::analyzer_rules(Some((self, Some(id)))))
            .build();
        let mut physical = guard(state.create_physical_plan(plan)).await??;
        let width = state.config().target_partitions();
        physical = widened(physical, width)?;
        let schema = content_schema(plan, &physical)?;
        let clustering = match &options.cluster_by {
            Some(cluster_by) => Some(cluster_columns(cluster_by, &schema, width)?),
            None => None,
        };
        let context = state.task_ctx();
        let lineage_of = |physical: Arc<dyn ExecutionPlan>| {
            let physical = match &clustering {
                Some((columns, count)) => clustered_plan(physical, &schema, columns, *count)?,
                None => physical,
            };
            Ok::<_, Error>(Lineage::new(physical, Arc::clone(&context))?)
        };
        let mut lineage = lineage_of(Arc::clone(&physical))?;
        // Rows lie by the values that the plan gives, which queries see as these only if they are of
        // the same types.
        let is_as_seen = |column: &usize| {
            physical.schema().field(*column).data_type() == schema.field(*column).data_type()
        };
        let clustered = clustering.as_ref().map(|(columns, _count)| columns);
        let clustered = clustered.filter(|columns| columns.iter().all(is_as_seen)).cloned();
        let mut shape = CachedShape {
            name: name.to_string(),
            key: format!("{name}#{id}").into(),
            epoch: Epoch(match identity {
                Some(known) => known.epoch,
                None => self.epochs.fetch_add(1, Ordering::Relaxed),
            }),
            schema: Arc::clone(&schema),
            clustered,
            partition_count: lineage.partition_count(),
            is_narrow: lineage.is_narrow,
        };
        let hosted = self.host(&shape, options, &lineage)?;
        if let Some(hosted) = &hosted {
            shape = hosted.shape().as_ref().clone();
        } else if reads_hosted(lineage.plan())? {
            let executor = Arc::clone(&self.hosting.executor);
            lineage = lineage_of(Arc::new(ThroughExec::new(physical, executor)))?;
            shape.partition_count = lineage.partition_count();
            shape.is_narrow = lineage.is_narrow;
        }
        let content = Content::new(ContentParts {
            shape: Arc::new(shape),
            level: options.level,
            store,
            hosted,
            width,
            lineage,
            epochs: Arc::clone(&self.epochs),
        });
        match identity {
            Some(known) if content.fingerprint != known.fingerprint => {
                content.end();
                Err(Error::plan("it is not made as it was"))
            }
            _ => Ok(content),
        }
    }

    /// Finds somebody who keeps a content in place of this process.
    fn host(
        &self,
        shape: &CachedShape,
        options: &CacheOptions,
        lineage: &Lineage,
    ) -> Result<Option<Arc<dyn HostedTable>>> {
        let Some(host) = &self.hosting.host else { return Ok(None) };
        host.adopt(HostedParts {
            shape: Arc::new(shape.clone()),
            level: options.level,
            plan: Arc::clone(lineage.plan()),
            context: Arc::clone(lineage.context()),
        })
    }
}

/// Returns the columns as queries see them, each with a name of its own.
fn content_schema(plan: &LogicalPlan, physical: &Arc<dyn ExecutionPlan>) -> Result<SchemaRef> {
    let (seen, made) = (plan.schema(), physical.schema());
    if seen.fields().len() != made.fields().len() {
        return Err(Error::Internal {
            message: "a plan has other columns than its query".to_owned(),
            source: None,
        });
    }
    let mut fields: Vec<Field> = Vec::with_capacity(seen.fields().len());
    for (idx, (field, made)) in seen.fields().iter().zip(made.fields()).enumerate() {
        let is_known = fields.iter().any(|other| other.name() == field.name());
        let name = if is_known { format!("{}:{idx}", field.name()) } else { field.name().clone() };
        let is_nullable = field.is_nullable() || made.is_nullable();
        fields.push(field.as_ref().clone().with_name(name).with_nullable(is_nullable));
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn cluster_columns(
    cluster_by: &ClusterBy,
    schema: &Schema,
    width: usize,
) -> Result<(Vec<usize>, usize)> {
    let count = cluster_by.partitions.unwrap_or(width);
    if count == 0 || count > MAX_PARTITIONS {
        return Err(Error::plan(format!(
            "a table is clustered into 1 to {MAX_PARTITIONS} partitions, not {count}"
        )));
    }
    let mut columns = Vec::with_capacity(cluster_by.columns.len());
    for name in &cluster_by.columns {
        let Ok(column) = schema.index_of(name) else {
            let known = schema.fields().iter().map(|field| field.name().as_str());
            return Err(Error::not_found("column", name, known));
        };
        if columns.contains(&column) {
            return Err(Error::plan(format!("column \"{name}\" is in CLUSTER BY twice")));
        }
        columns.push(column);
    }
    if columns.is_empty() {
        return Err(Error::plan("CLUSTER BY needs a column"));
    }
    Ok((columns, count))
}

fn clustered_plan(
    plan: Arc<dyn ExecutionPlan>,
    schema: &Schema,
    columns: &[usize],
    count: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let keys = columns.iter().map(|column| {
        Arc::new(Column::new(schema.field(*column).name(), *column)) as Arc<dyn PhysicalExpr>
    });
    let partitioning = Partitioning::Hash(keys.collect(), count);
    Ok(Arc::new(RepartitionExec::try_new(plan, partitioning)?))
}

impl CachedTable {
    pub(crate) fn content(&self) -> Arc<Content> {
        Arc::clone(&self.content.read())
    }

    /// Returns what is noted of it, if others keep it and it is of the catalog.
    fn definition(&self) -> Option<CachedDefinition> {
        let content = self.content();
        let hosted = content.hosted()?;
        if self.owner.is_some() || self.name.schema == TEMP {
            return None;
        }
        let identity = Identity {
            id: self.id,
            epoch: hosted.shape().epoch.0,
            fingerprint: content.fingerprint,
        };
        let name = (self.name.schema.as_str(), self.name.table.as_str());
        let (options, width) = (&self.options, content.width);
        Some(CachedDefinition::new(name, options, self.is_lazy, width, identity))
    }

    /// Returns whether the content is that of a lazy table which nobody used yet: it is to have the
    /// files that are there when it is used, not those of when it was named.
    pub(super) fn waits_for_use(&self) -> bool {
        self.is_lazy && self.content().is_unused()
    }

    /// Returns whether a plan gives the rows of the table.
    pub(super) fn is_of(&self, canonical: &Canonical) -> bool {
        self.canonical == *canonical || canonical.is_mark_of(self.id)
    }

    /// Returns whether the plan reads one of these tables.
    fn reads(&self, providers: &[Arc<dyn TableProvider>]) -> bool {
        let own = providers_of(&self.plan);
        own.iter().any(|own| providers.iter().any(|other| address_of(other) == address_of(own)))
    }
}

impl CacheName {
    /// Returns the name for plans.
    pub(crate) fn reference(&self) -> TableReference {
        match self.schema.as_str() {
            TEMP | PUBLIC => TableReference::bare(self.table.as_str()),
            schema => TableReference::partial(schema, self.table.as_str()),
        }
    }
}

impl fmt::Display for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reference())
    }
}

/// A session's part of the cache: its own tables end with it.
#[derive(Debug)]
pub(crate) struct CacheLease {
    pub(crate) id: u64,
    pub(crate) tables: Arc<CachedTables>,
}

impl Drop for CacheLease {
    fn drop(&mut self) {
        self.tables.remove(|table| table.owner == Some(self.id));
    }
}

/// The store of the process, opened when a table is cached for the first time.
#[derive(Debug)]
pub(crate) struct StoreSlot {
    opened: OnceCell<PartitionStore>,
    config: StoreConfig,
    pool: Arc<dyn MemoryPool>,
}

impl StoreSlot {
    /// Takes the store that the process has, or notes how to open one.
    pub(crate) fn new(
        store: Option<PartitionStore>,
        config: StoreConfig,
        pool: Arc<dyn MemoryPool>,
    ) -> Self {
        Self { opened: OnceCell::new_with(store), config, pool }
    }

    async fn get(&self) -> Result<&PartitionStore> {
        self.opened
            .get_or_try_init(|| async {
                let config = self.config.clone();
                let pool = Arc::clone(&self.pool);
                let opening =
                    SpawnedTask::spawn_blocking(move || PartitionStore::open(config, pool));
                match opening.join().await {
                    Ok(opened) => Ok(opened?),
                    Err(error) => Err(Error::Internal { message: error.to_string(), source: None }),
                }
            })
            .await
    }
}
