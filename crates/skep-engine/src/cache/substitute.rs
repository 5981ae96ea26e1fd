//! The rule that makes queries use what is cached.
//!
//! **Invariant:** it is the first of the analyzer's rules: plans are compared as the planner made
//! them, before any rule changed one of two that are equal.

use std::fmt;
use std::sync::{Arc, Weak};

use datafusion::common::Column;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNodeRecursion};
use datafusion::datasource::provider_as_source;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::AnalyzerRule;

use super::canonical::{Canonical, Kind, kind_of};
use super::content::Content;
use super::provider::CacheProvider;
use super::renewal::Family;
use super::tables::{CacheName, CachedTable, CachedTables};

/// The analyzer rule.
pub(crate) struct SubstituteCached {
    tables: Weak<CachedTables>,
    /// The plan whose own rows are being made.
    making: Option<CacheScope>,
}

/// From what a plan that is cached may be made: not from its own rows, unless they are given.
#[derive(Debug, Clone)]
pub(crate) struct CacheScope {
    pub(super) family: Arc<Family>,
    pub(super) base: Option<(Arc<CachedTable>, Arc<Content>)>,
}

impl SubstituteCached {
    /// Makes the rule; `making` is the plan that must not be made from itself.
    pub(crate) fn new(tables: &Arc<CachedTables>, making: Option<CacheScope>) -> Self {
        Self { tables: Arc::downgrade(tables), making }
    }
}

impl AnalyzerRule for SubstituteCached {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let Some(tables) = self.tables.upgrade() else { return Ok(plan) };
        // All at one moment: a query reads no two contents of one table.
        let mut cached = tables.held();
        if let Some(CacheScope { family, base }) = &self.making {
            cached.retain(|(table, _)| !Arc::ptr_eq(&table.family, family));
            let base = base.iter();
            cached.extend(base.map(|(table, content)| (Arc::clone(table), content.hold())));
        }
        if cached.is_empty() {
            return Ok(plan);
        }
        // From the top, so that the largest part that is cached is taken.
        plan.transform_down_with_subqueries(|node| {
            let kind = kind_of(&node);
            if kind != Kind::Marked && !cached.iter().any(|(table, _)| table.kind == kind) {
                return Ok(Transformed::no(node));
            }
            let canonical = Canonical::of(&node);
            match cached.iter().find(|(table, _)| table.is_of(&canonical)) {
                Some((table, held)) => {
                    let is_base = self.making.as_ref().is_some_and(|making| making.is_base(table));
                    let provider = CacheProvider::new(&tables, table, held, is_base);
                    let scan = scan_of(provider, &table.name, &node)?;
                    Ok(Transformed::new(scan, true, TreeNodeRecursion::Jump))
                }
                None => Ok(Transformed::no(node)),
            }
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "substitute_cached"
    }
}

impl CacheScope {
    /// Returns whether a table is the one that the rows are made from, as it is given.
    fn is_base(&self, table: &Arc<CachedTable>) -> bool {
        self.base.as_ref().is_some_and(|(base, _)| Arc::ptr_eq(base, table))
    }
}

/// Makes a scan of a cached table with the names that a plan's columns have.
fn scan_of(provider: CacheProvider, name: &CacheName, plan: &LogicalPlan) -> Result<LogicalPlan> {
    let source = provider_as_source(Arc::new(provider));
    // Under the name that the query has for it, if it has one.
    let mut qualifiers = plan.schema().iter().map(|(qualifier, _)| qualifier);
    let first = qualifiers.next().flatten();
    let reference = match first {
        Some(first) if qualifiers.all(|other| other == Some(first)) => first.clone(),
        _ => name.reference(),
    };
    let scan = LogicalPlanBuilder::scan(reference, source, None)?.build()?;
    let own = scan.schema().columns();
    if plan.schema().columns() == own {
        return Ok(scan);
    }
    let renamed = own.into_iter().zip(plan.schema().iter()).map(|(column, (qualifier, field))| {
        let is_same = column == Column::new(qualifier.cloned(), field.name());
        let expr = Expr::Column(column);
        if is_same { expr } else { expr.alias_qualified(qualifier.cloned(), field.name()) }
    });
    LogicalPlanBuilder::from(scan).project(renamed.collect::<Vec<_>>())?.build()
}

impl fmt::Debug for SubstituteCached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubstituteCached").field("making", &self.making).finish_non_exhaustive()
    }
}
