//! When a cached table gets another content, and from what.
//!
//! What is written through skep only marks what was cached from it: nothing can fail or be cut short
//! between a change and its mark. The next use of a marked plan plans it anew, and before it what it
//! is made from, since planning finds the marked plans inside. `REFRESH` makes new contents at once,
//! the parts before what contains them.
//!
//! **Invariant:** all contents of one plan (a [`Family`], in several clusterings) change together. The
//! first is made from the sources and the others from the first, so that each has the rows of all.
//!
//! **Invariant:** who changes a family waits only for families whose plans are parts of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::catalog::TableProvider;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use tokio::sync::Mutex;

use super::canonical::weight_of;
use super::content::{Content, HeldContent};
use super::making::Making;
use super::substitute::CacheScope;
use super::tables::{CacheName, CachedPlan, CachedTable, CachedTables};
use crate::error::Result;

/// All ways in which one plan is cached.
#[derive(Debug, Default)]
pub(crate) struct Family {
    /// How often what it is made from was changed through this process.
    changes: AtomicU64,
    /// Held by who replaces contents.
    pub(super) changing: Mutex<()>,
}

impl Family {
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }
}

impl CachedTable {
    /// Returns whether its sources were changed since the content was planned.
    pub(super) fn is_stale_with(&self, content: &Content) -> bool {
        content.as_of < self.family.changes()
    }

    /// Returns whether its next use gets another content than this: one of what is there by then. So
    /// do lazy tables that nobody used yet.
    pub(super) fn waits_with(&self, content: &Content) -> bool {
        self.is_stale_with(content) || (self.is_lazy && content.is_unused())
    }

    /// Returns whether its next use gets another content.
    pub(super) fn waits_for_use(&self) -> bool {
        self.waits_with(&self.content())
    }
}

impl CachedTables {
    /// Notes that rows were put into these tables: what is cached from them is made anew by its next
    /// use.
    pub(crate) fn source_changed(&self, providers: &[Arc<dyn TableProvider>]) {
        let ended: Vec<_> = {
            // All at one moment, for queries that read several of them.
            let list = self.list.write();
            let tables = list.tables.iter().map(|table| &table.plan);
            let mut families: Vec<&Arc<Family>> = Vec::new();
            for plan in tables.chain(&list.loading).filter(|plan| plan.reads(providers)) {
                if !families.iter().any(|known| Arc::ptr_eq(known, &plan.family)) {
                    families.push(&plan.family);
                }
            }
            for family in families {
                family.changes.fetch_add(1, Ordering::SeqCst);
            }
            let stale = list.tables.iter().filter(|table| table.reads(providers));
            stale.map(|table| table.content()).collect()
        };
        for content in &ended {
            content.end();
        }
        if !ended.is_empty() {
            self.note();
        }
    }

    /// Makes new contents of what reads one of these tables, and of what a session cached under a name.
    ///
    /// # Errors
    /// If a content cannot be planned or made; its table keeps the one that it had.
    pub(crate) async fn refresh(
        self: &Arc<Self>,
        state: &SessionState,
        (name, owner): (&CacheName, u64),
        providers: &[Arc<dyn TableProvider>],
    ) -> Result<()> {
        let is_meant = |table: &Arc<CachedTable>| {
            table.reads(providers) || (table.name == *name && table.is_seen_by(owner))
        };
        let mut meant: Vec<_> = self.all().into_iter().filter(is_meant).collect();
        let order = |table: &Arc<CachedTable>| {
            (weight_of(&table.plan.plan), Arc::as_ptr(&table.family) as usize)
        };
        meant.sort_by_key(order);
        meant.dedup_by(|next, known| Arc::ptr_eq(&next.family, &known.family));
        for table in meant {
            let _one_at_a_time = table.family.changing.lock().await;
            let members = self.members(&table.family);
            self.renew(state, &table.family, &members, None, true).await?;
        }
        Ok(())
    }

    /// Plans the content of a table anew that waits for its next use, and returns it.
    ///
    /// # Errors
    /// If it cannot be planned.
    pub(super) async fn relisted(
        self: &Arc<Self>,
        state: &SessionState,
        table: &Arc<CachedTable>,
    ) -> Result<HeldContent> {
        {
            let _one_at_a_time = table.family.changing.lock().await;
            if table.waits_for_use() {
                self.renew_for(state, table).await?;
            }
        }
        let _nobody_ends_it = self.list.read();
        Ok(table.content().hold())
    }

    async fn renew_for(
        self: &Arc<Self>,
        state: &SessionState,
        table: &Arc<CachedTable>,
    ) -> Result<()> {
        let content = table.content();
        let state = as_cached(state, &content);
        let mut members = self.members(&table.family);
        if !members.iter().any(|member| Arc::ptr_eq(member, table)) {
            // It was taken out since the query found it.
            members.push(Arc::clone(table));
        }
        let base = members.iter().find(|member| !member.waits_for_use()).cloned();
        let is_meant = |member: &Arc<CachedTable>| match &base {
            // Nobody uses the others yet.
            Some(_) => Arc::ptr_eq(&member.content(), &content),
            None => true,
        };
        let meant: Vec<_> = members.iter().filter(|member| is_meant(member)).cloned().collect();
        let base = base.map(|base| (Arc::clone(&base), base.content()));
        self.renew(&state, &table.family, &meant, base, false).await
    }

    /// Makes new contents of members of a family, from one of another member if there is one to make
    /// them from, else from the sources.
    async fn renew(
        self: &Arc<Self>,
        state: &SessionState,
        family: &Arc<Family>,
        members: &[Arc<CachedTable>],
        mut base: Option<(Arc<CachedTable>, Arc<Content>)>,
        is_at_once: bool,
    ) -> Result<()> {
        // A change that comes from now on may be missed.
        let as_of = family.changes();
        let reading = base.as_ref().map_or_else(|| self.next_id(), |(_, content)| content.reading);
        let mut made: Vec<(Arc<CachedTable>, Arc<Content>)> = Vec::with_capacity(members.len());
        for member in members {
            let alike = made.iter().find(|(other, _)| other.options == member.options);
            let content = match alike {
                Some((_, content)) => Arc::clone(content),
                None => {
                    let scope = CacheScope { family: Arc::clone(family), base: base.clone() };
                    let plan = &member.plan;
                    let making = Making { plan, scope, as_of, reading, identity: None };
                    self.new_content(state, making).await?
                }
            };
            if base.is_none() {
                base = Some((Arc::clone(member), Arc::clone(&content)));
            }
            made.push((Arc::clone(member), content));
        }
        if is_at_once {
            for (_, content) in made.iter().filter(|(member, _)| !member.is_lazy) {
                content.fill().await?;
            }
        }
        self.publish(made);
        Ok(())
    }

    fn publish(&self, made: Vec<(Arc<CachedTable>, Arc<Content>)>) {
        let mut ended = Vec::new();
        {
            let list = self.list.write();
            for (member, content) in made {
                // One that was taken out meanwhile still answers whoever found it.
                if !list.shows(&content) && !list.has(&member) {
                    ended.push(Arc::clone(&content));
                }
                ended.push(std::mem::replace(&mut *member.content.write(), content));
            }
            ended.retain(|content| !list.shows(content));
        }
        for content in ended {
            content.end();
        }
        self.note();
    }

    /// Returns what the first content of a plan is made from, if its rows are cached already, in another
    /// way: the rows must be the same.
    ///
    /// # Errors
    /// If what is cached has to be planned anew, and cannot be.
    pub(super) async fn base_of(
        self: &Arc<Self>,
        state: &SessionState,
        plan: &CachedPlan,
    ) -> Result<Option<(Arc<CachedTable>, Arc<Content>)>> {
        let members = self.members(&plan.family);
        if let Some(first) = members.first()
            && members.iter().all(|member| member.waits_for_use())
        {
            self.renew_for(state, first).await?;
        }
        let base = members.into_iter().find(|member| !member.is_stale_with(&member.content()));
        Ok(base.map(|base| (Arc::clone(&base), base.content())))
    }

    /// Returns the tables of a family, the first that was cached first.
    fn members(&self, family: &Arc<Family>) -> Vec<Arc<CachedTable>> {
        let mut members = self.all();
        members.retain(|table| Arc::ptr_eq(&table.family, family));
        members.sort_by_key(|table| table.id);
        members
    }
}

/// The state of a query, as of the session that cached a table: its settings, and what it may read.
fn as_cached(state: &SessionState, content: &Content) -> SessionState {
    let context = content.lineage.context();
    let width = state.config().target_partitions();
    SessionStateBuilder::new_from_existing(state.clone())
        .with_config(context.session_config().clone().with_target_partitions(width))
        .with_runtime_env(context.runtime_env())
        .build()
}
