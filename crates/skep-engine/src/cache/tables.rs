//! Which tables of a process are cached.
//!
//! **Invariant:** a table is in the list only with a content whose plan was made from the table's;
//! a content that is taken out or replaced is ended.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use parking_lot::RwLock;
use skep_store::ids::Epoch;
use skep_store::{PartitionStore, StoreConfig};
use tokio::sync::OnceCell;
use tracing::info;

use super::canonical::{Canonical, Kind, address_of, kind_of, marked, providers_of};
use super::content::{Content, HeldContent};
use super::definitions::{CachedDefinition, DefinitionFile, Identity};
use super::hosted::CacheHost;
use super::level::CacheOptions;
use super::making::Making;
use super::renewal::Family;
use super::substitute::CacheScope;
use crate::catalog::{PUBLIC, TEMP, ViewText};
use crate::error::{Error, Result};
use crate::query::QueryExecutor;

/// The most partitions that a table has.
pub(super) const MAX_PARTITIONS: usize = 10_000;

/// The cached tables of a process.
#[derive(Debug)]
pub(crate) struct CachedTables {
    pub(super) store: StoreSlot,
    pub(super) list: RwLock<Listed>,
    pub(super) epochs: Arc<AtomicU64>,
    ids: AtomicU64,
    pub(super) hosting: Hosting,
    /// Waits for what the process before this one had.
    finding: parking_lot::Mutex<Vec<SpawnedTask<()>>>,
}

/// What is cached, and what is about to be.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) tables: Vec<Arc<CachedTable>>,
    /// What is loaded for the first time. Changes of its sources are noted, and it may be taken out
    /// before it is there.
    pub(super) loading: Vec<Arc<CachedPlan>>,
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

/// What is cached, and for whom.
#[derive(Debug)]
pub(crate) struct CachedPlan {
    pub(crate) id: u64,
    pub(crate) name: CacheName,
    /// The session that it ends with, if it is one session's own.
    owner: Option<u64>,
    pub(super) kind: Kind,
    pub(super) canonical: Canonical,
    pub(super) plan: LogicalPlan,
    /// The view whose rows these are.
    view: Option<ViewIdentity>,
    pub(super) options: CacheOptions,
    pub(super) is_lazy: bool,
    pub(super) family: Arc<Family>,
}

/// One cached table. Several may have one content: the same rows, cached in the same way by several
/// sessions or under several names.
#[derive(Debug)]
pub(crate) struct CachedTable {
    pub(super) plan: Arc<CachedPlan>,
    pub(super) content: RwLock<Arc<Content>>,
}

/// By what a view is known again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ViewIdentity {
    /// One that is kept as text, and the views that it names, directly or not: all that decides what
    /// its text means.
    Text { view: ViewText, nested: Vec<(CacheName, ViewText)> },
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
            list: RwLock::default(),
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

    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn all(&self) -> Vec<Arc<CachedTable>> {
        self.list.read().tables.clone()
    }

    /// Returns all tables with the contents that they have at this moment.
    pub(super) fn held(&self) -> Vec<(Arc<CachedTable>, HeldContent)> {
        let list = self.list.read();
        let held = |table: &Arc<CachedTable>| (Arc::clone(table), table.content().hold());
        list.tables.iter().map(held).collect()
    }

    pub(super) fn opened_store(&self) -> Option<&PartitionStore> {
        self.store.opened.get()
    }

    /// Returns whether a plan is cached in several ways.
    pub(super) fn has_choices(&self) -> bool {
        let list = self.list.read();
        let is_again = |(idx, table): (usize, &Arc<CachedTable>)| {
            list.tables[..idx].iter().any(|other| {
                Arc::ptr_eq(&other.family, &table.family) && other.options != table.options
            })
        };
        list.tables.iter().enumerate().any(is_again)
    }

    /// Returns the contents of the plan whose content this is: the same rows, lying otherwise.
    pub(super) fn alternatives(&self, content: &Content) -> Vec<HeldContent> {
        let list = self.list.read();
        let is_alike =
            |other: &Arc<Content>| other.reading == content.reading && other.as_of == content.as_of;
        let contents = list.tables.iter().map(|table| table.content());
        contents.filter(is_alike).map(|other| other.hold()).collect()
    }

    /// Returns the table that was cached under a name, one that any session or this one owns.
    pub(crate) fn named(&self, name: &CacheName, owner: u64) -> Option<Arc<CachedTable>> {
        let list = self.list.read();
        let is_meant = |table: &&Arc<CachedTable>| table.name == *name && table.is_seen_by(owner);
        list.tables.iter().find(is_meant).cloned()
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
            (true, _) => marked(table.plan.plan.clone(), table.id).ok(),
            (false, ViewIdentity::Text { .. }) => Some(table.plan.plan.clone()),
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
        mut request: CacheRequest,
    ) -> Result<()> {
        let identity = request.identity.take();
        let is_loaded = request.is_lazy || identity.is_some();
        let loading = match self.begin(request, identity.as_ref())? {
            Begun::Known(_) if is_loaded => return Ok(()),
            Begun::Known(table) => {
                return self.relisted(state, &table).await?.content.fill().await;
            }
            Begun::Loading(loading) => loading,
        };
        let plan = &loading.plan;
        let content = {
            let _nobody_changes_the_others = plan.family.changing.lock().await;
            let base = self.base_of(state, plan).await?;
            let as_of = plan.family.changes();
            let reading =
                base.as_ref().map_or_else(|| self.next_id(), |(_, content)| content.reading);
            let scope = CacheScope { family: Arc::clone(&plan.family), base };
            let identity = identity.as_ref();
            self.new_content(state, Making { plan, scope, as_of, reading, identity }).await?
        };
        if !is_loaded {
            content.fill().await?;
        }
        loading.finish(content, identity.as_ref())
    }

    /// Begins to cache a plan, unless its rows are there already.
    fn begin(
        self: &Arc<Self>,
        request: CacheRequest,
        identity: Option<&Identity>,
    ) -> Result<Begun> {
        let canonical = Canonical::of(&request.plan);
        if canonical.is_unique() {
            let hint = "CREATE TABLE ... AS keeps its rows";
            return Err(Error::unsupported("caching rows that are made up anew each time", hint));
        }
        let mut list = self.list.write();
        let known: Vec<_> = list.tables.iter().filter(|table| table.is_of(&canonical)).collect();
        let is_own =
            |table: &CachedTable| table.name == request.name && table.owner == request.owner;
        let alike = known.iter().filter(|table| table.options == request.options);
        if let Some(table) = alike.clone().find(|table| is_own(table)).or(alike.clone().next()) {
            let table = Arc::clone(table);
            if is_own(&table) {
                return Ok(Begun::Known(table));
            }
            // The rows stay as long as anybody wants them.
            let plan = CachedPlan {
                id: self.next_id(),
                canonical: table.canonical.clone(),
                kind: table.kind,
                plan: table.plan.plan.clone(),
                family: Arc::clone(&table.family),
                ..request.into_plan(canonical, Arc::default(), 0)
            };
            let content = RwLock::new(table.content());
            let table = Arc::new(CachedTable { plan: Arc::new(plan), content });
            list.tables.push(Arc::clone(&table));
            drop(list);
            self.note();
            return Ok(Begun::Known(table));
        }
        refuse_other_ways(&known, &request.name, &request.options, &canonical)?;
        let of_family = |plan: &&Arc<CachedPlan>| plan.is_of(&canonical);
        let relative = list.tables.iter().map(|table| &table.plan).chain(&list.loading);
        let family = relative.into_iter().find(of_family).map(|plan| Arc::clone(&plan.family));
        let id = identity.map_or_else(|| self.next_id(), |known| known.id);
        let plan = Arc::new(request.into_plan(canonical, family.unwrap_or_default(), id));
        list.loading.push(Arc::clone(&plan));
        drop(list);
        Ok(Begun::Loading(Loading { tables: Arc::clone(self), plan }))
    }

    /// Takes a plan out of the cache: what has this name or, if nothing has, what has these rows, and
    /// is not another session's own. Returns whether there was any.
    pub(crate) fn uncache(&self, plan: &LogicalPlan, name: Option<&CacheName>, owner: u64) -> bool {
        let canonical = Canonical::of(plan);
        let is_meant = |table: &CachedPlan| table.is_of(&canonical) && table.is_seen_by(owner);
        let is_named = |table: &CachedPlan| is_meant(table) && name == Some(&table.name);
        let has_awaited = name.is_some_and(|name| self.give_up(Some(name)));
        self.remove(is_named) || self.remove(is_meant) || has_awaited
    }

    /// Notes which tables of the catalog others keep.
    pub(super) fn note(&self) {
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
            let Identity { key, epoch, .. } = &definition.identity;
            let (key, epoch): (Arc<str>, _) = (key.as_str().into(), Epoch(*epoch));
            let found = host.expect(&key, epoch);
            let (host, restore) = (Arc::clone(host), restore.clone());
            let definitions = Arc::clone(&self.hosting.definitions);
            SpawnedTask::spawn(async move {
                let is_found = found.await;
                if is_found && definitions.awaits(&definition.identity) {
                    match restore(definition.clone()).await {
                        Ok(()) => info!(table = %name, "a cached table was found again"),
                        Err(error) => info!(table = %name, %error, "a cached table is of no use"),
                    }
                }
                // Of no meaning for one that was taken over.
                definitions.forget(&definition);
                host.give_up(&key, epoch);
            })
        };
        let finding: Vec<_> = awaited.into_iter().map(find).collect();
        self.finding.lock().extend(finding);
    }

    /// Takes out everything.
    pub(crate) fn clear(&self) {
        self.give_up(None);
        self.remove(|_| true);
    }

    /// Takes out what was cached under a name, what reads one of these tables, and the views that are
    /// made from the view with the name.
    pub(crate) fn forget(
        &self,
        name: &CacheName,
        owner: u64,
        providers: &[Arc<dyn TableProvider>],
    ) {
        self.give_up(Some(name));
        self.remove(|table| {
            (table.name == *name && table.is_seen_by(owner))
                || table.reads(providers)
                || table.names_view(name)
        });
    }

    pub(super) fn remove(&self, is_meant: impl Fn(&CachedPlan) -> bool) -> bool {
        let (removed, ended, has_stopped) = {
            let mut list = self.list.write();
            let removed: Vec<_> =
                list.tables.extract_if(.., |table| is_meant(&table.plan)).collect();
            let stopped = list.loading.extract_if(.., |plan| is_meant(plan)).count();
            let mut ended: Vec<_> = removed.iter().map(|table| table.content()).collect();
            ended.retain(|content| !list.shows(content));
            (removed, ended, stopped > 0)
        };
        for content in &ended {
            content.end();
        }
        if !removed.is_empty() {
            self.note();
        }
        !removed.is_empty() || has_stopped
    }

    /// Waits no longer for what the process before this one had cached under a name, or for anything;
    /// returns whether it did.
    fn give_up(&self, name: Option<&CacheName>) -> bool {
        let is_meant = |awaited: &CachedDefinition| {
            name.is_none_or(|name| awaited.schema == name.schema && awaited.table == name.table)
        };
        let given_up = self.hosting.definitions.take(is_meant);
        let Some(host) = self.hosting.host.as_ref().filter(|_| !given_up.is_empty()) else {
            return false;
        };
        for CachedDefinition { identity, .. } in &given_up {
            host.give_up(&identity.key.as_str().into(), Epoch(identity.epoch));
        }
        self.note();
        true
    }
}

/// What came of a request to cache a plan.
enum Begun {
    /// Its rows are there, or were to be there at their first use.
    Known(Arc<CachedTable>),
    Loading(Loading),
}

/// A plan that is being cached; when this goes, it no longer is.
struct Loading {
    tables: Arc<CachedTables>,
    plan: Arc<CachedPlan>,
}

impl Loading {
    /// Lists the table, unless somebody took it out meanwhile.
    fn finish(self, content: Arc<Content>, identity: Option<&Identity>) -> Result<()> {
        let Self { tables, plan } = &self;
        let definitions = &tables.hosting.definitions;
        {
            let mut list = tables.list.write();
            let is_wanted = list.loading.iter().any(|loading| Arc::ptr_eq(loading, plan))
                && identity.is_none_or(|identity| definitions.awaits(identity));
            let known = list.tables.iter().filter(|table| table.is_of(&plan.canonical));
            let known: Vec<_> = known.collect();
            let others = refuse_other_ways(&known, &plan.name, &plan.options, &plan.canonical);
            if !is_wanted || others.is_err() {
                drop(list);
                content.end();
                return if is_wanted { others } else { Ok(()) };
            }
            // Somebody else may have been faster.
            let mut alike = known.iter().filter(|table| table.options == plan.options);
            let content = alike.clone().next().map_or(content, |table| table.content());
            let is_listed = alike.any(|table| table.name == plan.name && table.owner == plan.owner);
            if let Some(identity) = identity {
                // From now on it is noted as a table of this process.
                definitions.take(|awaited| awaited.identity == *identity);
            }
            if !is_listed {
                let (plan, content) = (Arc::clone(plan), RwLock::new(content));
                list.tables.push(Arc::new(CachedTable { plan, content }));
            }
        }
        tables.note();
        Ok(())
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.tables.list.write().loading.retain(|plan| !Arc::ptr_eq(plan, &self.plan));
    }
}

/// Two contents of one plan stand for each other, so they have to have the same rows.
fn refuse_other_ways(
    known: &[&Arc<CachedTable>],
    name: &CacheName,
    options: &CacheOptions,
    canonical: &Canonical,
) -> Result<()> {
    match known.iter().find(|table| table.options != *options) {
        Some(table) if table.options.level != options.level || !canonical.is_repeatable() => {
            Err(Error::Plan {
                message: format!("the rows of \"{name}\" are cached already, in another way"),
                position: None,
                hint: Some(format!("UNCACHE TABLE {} comes first", table.name)),
            })
        }
        _ => Ok(()),
    }
}

impl CacheRequest {
    fn into_plan(self, canonical: Canonical, family: Arc<Family>, id: u64) -> CachedPlan {
        let Self { name, owner, plan, view, options, is_lazy, identity: _ } = self;
        let kind = kind_of(&plan);
        CachedPlan { id, name, owner, kind, canonical, plan, view, options, is_lazy, family }
    }
}

impl Listed {
    /// Returns whether a content is that of a table.
    pub(super) fn shows(&self, content: &Arc<Content>) -> bool {
        self.tables.iter().any(|table| Arc::ptr_eq(&table.content.read(), content))
    }

    pub(super) fn has(&self, table: &Arc<CachedTable>) -> bool {
        self.tables.iter().any(|known| Arc::ptr_eq(known, table))
    }
}

impl Deref for CachedTable {
    type Target = CachedPlan;

    fn deref(&self) -> &CachedPlan {
        &self.plan
    }
}

impl CachedTable {
    pub(crate) fn content(&self) -> Arc<Content> {
        Arc::clone(&self.content.read())
    }

    /// Returns what is noted of it, if others keep it and it is of the catalog.
    fn definition(&self) -> Option<CachedDefinition> {
        let content = self.content();
        let hosted = content.hosted()?;
        if self.owner.is_some() || self.name.schema == TEMP || self.is_stale_with(&content) {
            return None;
        }
        let identity = Identity {
            id: self.id,
            key: content.key.to_string(),
            epoch: hosted.shape().epoch.0,
            fingerprint: content.fingerprint,
        };
        let name = (self.name.schema.as_str(), self.name.table.as_str());
        let (options, width) = (&self.options, content.width);
        Some(CachedDefinition::new(name, options, self.is_lazy, width, identity))
    }
}

impl CachedPlan {
    /// Returns whether a plan gives the rows of the table.
    pub(super) fn is_of(&self, canonical: &Canonical) -> bool {
        self.canonical == *canonical || canonical.is_mark_of(self.id)
    }

    /// Returns whether it is everybody's or this session's.
    pub(super) fn is_seen_by(&self, session: u64) -> bool {
        self.owner.is_none_or(|owner| owner == session)
    }

    /// Returns whether the plan reads one of these tables.
    pub(super) fn reads(&self, providers: &[Arc<dyn TableProvider>]) -> bool {
        let own = providers_of(&self.plan);
        own.iter().any(|own| providers.iter().any(|other| address_of(other) == address_of(own)))
    }

    /// Returns whether it is a view over the view with this name.
    fn names_view(&self, name: &CacheName) -> bool {
        match &self.view {
            Some(ViewIdentity::Text { nested, .. }) => {
                nested.iter().any(|(known, _)| known == name)
            }
            Some(ViewIdentity::Provider(_)) | None => false,
        }
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

    pub(super) async fn get(&self) -> Result<&PartitionStore> {
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
