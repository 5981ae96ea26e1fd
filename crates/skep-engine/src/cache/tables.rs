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
use skep_store::{PartitionStore, StoreConfig};
use tokio::sync::{Mutex, OnceCell};

use super::canonical::{Canonical, Kind, address_of, kind_of, providers_of};
use super::content::{Content, ContentParts};
use super::level::{CacheOptions, ClusterBy};
use super::lineage::{Lineage, widened};
use crate::catalog::{PUBLIC, TEMP, ViewText};
use crate::error::{Error, Result};
use crate::optimizer;
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
    /// The text of the view whose rows these are.
    view: Option<ViewText>,
    pub(super) options: CacheOptions,
    is_lazy: bool,
    content: RwLock<Arc<Content>>,
    /// Held by who replaces the content.
    changing: Mutex<()>,
}

/// What is to be cached.
#[derive(Debug)]
pub(crate) struct CacheRequest {
    pub(crate) name: CacheName,
    pub(crate) owner: Option<u64>,
    pub(crate) plan: LogicalPlan,
    /// The text of a view that is kept as text.
    pub(crate) view: Option<ViewText>,
    pub(crate) options: CacheOptions,
    pub(crate) is_lazy: bool,
}

impl CachedTables {
    pub(crate) fn new(store: StoreSlot) -> Arc<Self> {
        Arc::new(Self {
            store,
            tables: RwLock::default(),
            epochs: Arc::new(AtomicU64::new(1)),
            ids: AtomicU64::new(1),
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
        tables.iter().filter(|table| table.canonical == *canonical).cloned().collect()
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
    /// Planned anew, a view that names files would be another one each time, and never found.
    pub(crate) fn plan_of_view(
        &self,
        name: &CacheName,
        view: &ViewText,
        owner: u64,
    ) -> Option<LogicalPlan> {
        let table = self.named(name, owner)?;
        (table.view.as_ref() == Some(view)).then(|| table.plan.clone())
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
        let id = self.next_id();
        let CacheRequest { name, owner, plan, view, options, is_lazy } = request;
        let content = self.new_content(state, id, &name, &plan, &options).await?;
        let filled = if is_lazy { Ok(()) } else { content.fill().await };
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
        let mut tables = self.tables.write();
        let is_same = |other: &Arc<CachedTable>| {
            other.canonical == table.canonical && other.options == table.options
        };
        match tables.iter().any(is_same) {
            // Somebody else was faster.
            true => table.content().end(),
            false => tables.push(table),
        }
        Ok(())
    }

    /// Takes a plan out of the cache; returns whether it was in it.
    pub(crate) fn uncache(&self, plan: &LogicalPlan) -> bool {
        let canonical = Canonical::of(plan);
        self.remove(|table| table.canonical == canonical)
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
            let content = self.new_content(state, *id, name, plan, options).await?;
            if is_at_once && !table.is_lazy {
                content.fill().await?;
            }
            let old = std::mem::replace(&mut *table.content.write(), content);
            old.end();
            // It may have been taken out meanwhile, with the content that it had.
            if !self.tables.read().iter().any(|known| known.id == *id) {
                table.content().end();
            }
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
        let content = self.new_content(state, *id, name, plan, options).await?;
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
        id: u64,
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
        let mut clustered = None;
        if let Some(cluster_by) = &options.cluster_by {
            let (columns, count) = cluster_columns(cluster_by, &schema, width)?;
            physical = clustered_plan(physical, &schema, &columns, count)?;
            // Rows lie by the values that the plan gives, which queries see as these only if they
            // are of the same types.
            let is_as_seen = |column: &usize| {
                physical.schema().field(*column).data_type() == schema.field(*column).data_type()
            };
            clustered = columns.iter().all(is_as_seen).then_some(columns);
        }
        let lineage = Lineage::new(physical, state.task_ctx())?;
        Ok(Content::new(ContentParts {
            name: name.to_string(),
            key: format!("{name}#{id}").into(),
            schema,
            level: options.level,
            clustered,
            store,
            lineage,
            epochs: Arc::clone(&self.epochs),
        }))
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

    /// Returns whether the content is that of a lazy table which nobody used yet: it is to have the
    /// files that are there when it is used, not those of when it was named.
    pub(super) fn waits_for_use(&self) -> bool {
        self.is_lazy && self.content().is_unused()
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
