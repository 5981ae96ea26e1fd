//! Plans in a form in which two are equal if they give the same rows.
//!
//! Names are what users choose, so they do not count: columns become their places in the input,
//! aliases and projections that change nothing go away. A table is the provider behind its name, so
//! that a table that was dropped and made again is another one.
//!
//! What is not deterministic gives the same rows only if it is one and the same plan: such parts,
//! and those of kinds that nobody taught this module, are equal if they are made of the very same
//! parts in memory. DataFusion's planner copies the plans of views, so those of cached views come
//! [`marked`]: a mark is equal to itself.
//!
//! **Invariant:** whoever keeps a [`Canonical`] keeps its plan, too: addresses in it stay taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType, NullEquality, TableReference};
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::logical_expr::expr::{InList, Placeholder, Sort as SortExpr};
use datafusion::logical_expr::{
    Distinct, Expr, Join, LogicalPlan, LogicalPlanBuilder, Subquery, TableScan, Volatility,
};

/// A plan without its names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Canonical {
    node: Node,
    exprs: Vec<Expr>,
    inputs: Vec<Self>,
}

/// What a plan is at its top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Scan,
    Empty,
    Values,
    Projection,
    Filter,
    Aggregate,
    Join,
    Union,
    Sort,
    Limit,
    Distinct,
    Window,
    /// The rows of one cached table.
    Marked,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Node {
    Scan {
        provider: usize,
        projection: Option<Vec<usize>>,
        fetch: Option<usize>,
    },
    Empty {
        has_row: bool,
    },
    Values {
        width: usize,
        types: Vec<DataType>,
    },
    Projection,
    Filter,
    Aggregate {
        groups: usize,
    },
    Join {
        kind: JoinType,
        keys: usize,
        nulls: NullEquality,
        is_null_aware: bool,
    },
    Union {
        types: Vec<DataType>,
    },
    Sort {
        fetch: Option<usize>,
        orders: Vec<(bool, bool)>,
    },
    Limit {
        has_skip: bool,
        has_fetch: bool,
    },
    Distinct,
    Window,
    /// The rows of the cached table with this id.
    Marked(u64),
    /// The very same plan, told by its own expressions and the addresses of what is below.
    Same {
        plan: Box<LogicalPlan>,
        addresses: Vec<usize>,
    },
    /// Equal to nothing else.
    Unique(usize),
}

/// Returns what kind of node decides whether a plan may be equal to another.
pub(crate) fn kind_of(plan: &LogicalPlan) -> Kind {
    match plan {
        LogicalPlan::SubqueryAlias(_) if mark_of(plan).is_some() => Kind::Marked,
        LogicalPlan::SubqueryAlias(alias) => kind_of(&alias.input),
        LogicalPlan::Projection(projection) if is_identity(plan) => kind_of(&projection.input),
        LogicalPlan::TableScan(_) => Kind::Scan,
        LogicalPlan::EmptyRelation(_) => Kind::Empty,
        LogicalPlan::Values(_) => Kind::Values,
        LogicalPlan::Projection(_) => Kind::Projection,
        LogicalPlan::Filter(_) => Kind::Filter,
        LogicalPlan::Aggregate(_) => Kind::Aggregate,
        LogicalPlan::Join(_) => Kind::Join,
        LogicalPlan::Union(_) => Kind::Union,
        LogicalPlan::Sort(_) => Kind::Sort,
        LogicalPlan::Limit(_) => Kind::Limit,
        LogicalPlan::Distinct(Distinct::All(_)) => Kind::Distinct,
        LogicalPlan::Window(_) => Kind::Window,
        _ => Kind::Other,
    }
}

impl Canonical {
    /// Brings a plan into the form.
    pub(crate) fn of(plan: &LogicalPlan) -> Self {
        if let Some(id) = mark_of(plan) {
            return Self { node: Node::Marked(id), exprs: Vec::new(), inputs: Vec::new() };
        }
        match plan {
            LogicalPlan::SubqueryAlias(alias) => Self::of(&alias.input),
            LogicalPlan::Projection(projection) if is_identity(plan) => Self::of(&projection.input),
            _ if is_deterministic(plan) => match known(plan) {
                Ok(Some(canonical)) => canonical,
                // What cannot be taken apart may still be the same.
                Ok(None) | Err(_) => same(plan),
            },
            _ => same(plan),
        }
    }

    /// Returns whether the plan gives the same rows whenever it runs on the same tables: not those
    /// that a limit, or an order among equals, happens to choose.
    pub(crate) fn is_repeatable(&self) -> bool {
        let is_known = match &self.node {
            Node::Scan { fetch, .. } => fetch.is_none(),
            Node::Empty { .. }
            | Node::Values { .. }
            | Node::Projection
            | Node::Filter
            | Node::Join { .. }
            | Node::Union { .. }
            | Node::Distinct => true,
            Node::Aggregate { .. }
            | Node::Sort { .. }
            | Node::Limit { .. }
            | Node::Window
            | Node::Marked(_)
            | Node::Same { .. }
            | Node::Unique(_) => false,
        };
        is_known && self.inputs.iter().all(Self::is_repeatable)
    }

    /// Returns whether a copy of the plan would be another one.
    pub(crate) fn is_by_chance(&self) -> bool {
        matches!(self.node, Node::Same { .. } | Node::Unique(_))
            || self.inputs.iter().any(Self::is_by_chance)
    }

    /// Returns whether it is the mark of this cached table.
    pub(crate) fn is_mark_of(&self, id: u64) -> bool {
        self.node == Node::Marked(id)
    }

    /// Returns whether another plan can ever be equal to it.
    pub(crate) fn is_unique(&self) -> bool {
        matches!(self.node, Node::Unique(_)) || self.inputs.iter().any(Self::is_unique)
    }
}

/// Marks a plan as that of the rows of a cached table.
///
/// # Errors
/// If DataFusion cannot put a name around it.
pub(crate) fn marked(plan: LogicalPlan, id: u64) -> Result<LogicalPlan> {
    let name = TableReference::bare(format!("{MARK}{id}"));
    LogicalPlanBuilder::from(plan).alias(name)?.build()
}

/// Returns the id of the cached table whose rows a plan is marked to give.
fn mark_of(plan: &LogicalPlan) -> Option<u64> {
    let LogicalPlan::SubqueryAlias(alias) = plan else { return None };
    alias.alias.table().strip_prefix(MARK)?.parse().ok()
}

/// Returns how large a plan is: as large as all that are equal to it, and larger than its parts.
pub(crate) fn weight_of(plan: &LogicalPlan) -> usize {
    let mut weight = 0;
    // The closure cannot fail.
    let _ = plan.apply_with_subqueries(|node| {
        let is_name = matches!(node, LogicalPlan::SubqueryAlias(_)) || is_identity(node);
        weight += usize::from(!is_name);
        Ok(TreeNodeRecursion::Continue)
    });
    weight
}

/// Returns the providers that a plan reads, those of its subqueries too.
pub(crate) fn providers_of(plan: &LogicalPlan) -> Vec<Arc<dyn TableProvider>> {
    let mut providers = Vec::new();
    // The closure cannot fail.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
        {
            providers.push(provider);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    providers
}

/// Returns the address by which a provider is known.
pub(crate) fn address_of(provider: &Arc<dyn TableProvider>) -> usize {
    Arc::as_ptr(provider).cast::<()>() as usize
}

/// Returns whether a projection gives its input's columns as they are.
fn is_identity(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Projection(projection) = plan else { return false };
    let input = projection.input.schema();
    projection.expr.len() == input.fields().len()
        && projection.expr.iter().enumerate().all(|(idx, expr)| match unaliased(expr) {
            Expr::Column(column) => input.maybe_index_of_column(column) == Some(idx),
            _ => false,
        })
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

/// Returns whether a node's own expressions give the same values whenever they are computed.
fn is_deterministic(plan: &LogicalPlan) -> bool {
    let mut is_deterministic = true;
    // The closures cannot fail.
    let _ = plan.apply_expressions(|expr| {
        expr.apply(|inner| {
            is_deterministic &= match inner {
                Expr::ScalarFunction(function) => {
                    function.func.signature().volatility == Volatility::Immutable
                }
                Expr::AggregateFunction(function) => {
                    function.func.signature().volatility == Volatility::Immutable
                }
                Expr::ScalarVariable(_, _) | Expr::Placeholder(_) => false,
                _ => true,
            };
            Ok(TreeNodeRecursion::Continue)
        })
    });
    is_deterministic
}

/// A plan that is equal to itself alone.
fn same(plan: &LogicalPlan) -> Canonical {
    let mut addresses: Vec<usize> = plan
        .inputs()
        .into_iter()
        .map(|input| std::ptr::from_ref::<LogicalPlan>(input) as usize)
        .collect();
    let mut add = |subquery: &Subquery| addresses.push(Arc::as_ptr(&subquery.subquery) as usize);
    // The closures cannot fail.
    let _ = plan.apply_expressions(|expr| {
        expr.apply(|inner| {
            match inner {
                Expr::ScalarSubquery(subquery) => add(subquery),
                Expr::Exists(exists) => add(&exists.subquery),
                Expr::InSubquery(within) => add(&within.subquery),
                Expr::SetComparison(comparison) => add(&comparison.subquery),
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })
    });
    let node = match addresses.is_empty() {
        true => {
            static SERIAL: AtomicUsize = AtomicUsize::new(0);
            Node::Unique(SERIAL.fetch_add(1, Ordering::Relaxed))
        }
        false => Node::Same { plan: Box::new(plan.clone()), addresses },
    };
    Canonical { node, exprs: Vec::new(), inputs: Vec::new() }
}

/// Takes apart a node of a kind that is known; `None` for others.
fn known(plan: &LogicalPlan) -> Result<Option<Canonical>> {
    let mut parts = Parts::default();
    let node = match plan {
        LogicalPlan::TableScan(scan) => scan_node(scan, &mut parts)?,
        LogicalPlan::EmptyRelation(empty) if empty.schema.fields().is_empty() => {
            Node::Empty { has_row: empty.produce_one_row }
        }
        LogicalPlan::Values(values) => {
            for expr in values.values.iter().flatten() {
                parts.add(expr, DFSchema::empty_ref())?;
            }
            Node::Values { width: values.schema.fields().len(), types: types_of(&values.schema) }
        }
        LogicalPlan::Projection(projection) => {
            parts.add_input(&projection.input);
            parts.add_all(&projection.expr, projection.input.schema())?;
            Node::Projection
        }
        LogicalPlan::Filter(filter) => {
            parts.add_input(&filter.input);
            parts.add(&filter.predicate, filter.input.schema())?;
            Node::Filter
        }
        LogicalPlan::Aggregate(aggregate) => {
            parts.add_input(&aggregate.input);
            parts.add_all(&aggregate.group_expr, aggregate.input.schema())?;
            parts.add_all(&aggregate.aggr_expr, aggregate.input.schema())?;
            Node::Aggregate { groups: aggregate.group_expr.len() }
        }
        LogicalPlan::Window(window) => {
            parts.add_input(&window.input);
            parts.add_all(&window.window_expr, window.input.schema())?;
            Node::Window
        }
        LogicalPlan::Join(join) => join_node(join, &mut parts)?,
        LogicalPlan::Union(union) => {
            union.inputs.iter().for_each(|input| parts.add_input(input));
            Node::Union { types: types_of(&union.schema) }
        }
        LogicalPlan::Sort(sort) => {
            parts.add_input(&sort.input);
            for SortExpr { expr, .. } in &sort.expr {
                parts.add(expr, sort.input.schema())?;
            }
            let orders = sort.expr.iter().map(|sort| (sort.asc, sort.nulls_first)).collect();
            Node::Sort { fetch: sort.fetch, orders }
        }
        LogicalPlan::Limit(limit) => {
            parts.add_input(&limit.input);
            for expr in limit.skip.iter().chain(&limit.fetch) {
                parts.add(expr, limit.input.schema())?;
            }
            Node::Limit { has_skip: limit.skip.is_some(), has_fetch: limit.fetch.is_some() }
        }
        LogicalPlan::Distinct(Distinct::All(input)) => {
            parts.add_input(input);
            Node::Distinct
        }
        _ => return Ok(None),
    };
    let Parts { exprs, inputs, is_known } = parts;
    Ok(is_known.then_some(Canonical { node, exprs, inputs }))
}

fn scan_node(scan: &TableScan, parts: &mut Parts) -> Result<Node> {
    let provider = address_of(&source_as_provider(&scan.source)?);
    let schema = DFSchema::try_from(scan.source.schema().as_ref().clone())?;
    for filter in &scan.filters {
        parts.add(&unqualified(filter)?, &schema)?;
    }
    Ok(Node::Scan { provider, projection: scan.projection.clone(), fetch: scan.fetch })
}

fn join_node(join: &Join, parts: &mut Parts) -> Result<Node> {
    let (left, right) = (join.left.schema(), join.right.schema());
    parts.add_input(&join.left);
    parts.add_input(&join.right);
    for (left_key, right_key) in &join.on {
        parts.add(left_key, left)?;
        parts.add(right_key, right)?;
    }
    if let Some(filter) = &join.filter {
        parts.add(filter, &left.join(right)?)?;
    }
    Ok(Node::Join {
        kind: join.join_type,
        keys: join.on.len(),
        nulls: join.null_equality,
        is_null_aware: join.null_aware,
    })
}

fn types_of(schema: &DFSchema) -> Vec<DataType> {
    schema.fields().iter().map(|field| field.data_type().clone()).collect()
}

/// Takes the qualifiers off the columns of a scan's filter, which can mean that scan alone.
fn unqualified(filter: &Expr) -> Result<Expr> {
    let bare = filter.clone().transform(|expr| match expr {
        Expr::Column(column) => {
            Ok(Transformed::yes(Expr::Column(Column::new_unqualified(column.name))))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(bare.data)
}

/// The expressions of a node and the plans that they and it are over.
struct Parts {
    exprs: Vec<Expr>,
    inputs: Vec<Canonical>,
    is_known: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self { exprs: Vec::new(), inputs: Vec::new(), is_known: true }
    }
}

impl Parts {
    fn add_input(&mut self, input: &LogicalPlan) {
        self.inputs.push(Canonical::of(input));
    }

    fn add_all(&mut self, exprs: &[Expr], schema: &DFSchema) -> Result<()> {
        exprs.iter().try_for_each(|expr| self.add(expr, schema))
    }

    /// Adds an expression, its columns as their places in `schema` and its subqueries as inputs.
    fn add(&mut self, expr: &Expr, schema: &DFSchema) -> Result<()> {
        let plain = expr.clone().transform_down(|expr| {
            Ok(match expr {
                Expr::Alias(alias) => {
                    // What it stands for may be another one, or a column.
                    let inner = unaliased(&alias.expr).clone();
                    Transformed::yes(self.replace(inner, schema)?)
                }
                other => Transformed::yes(self.replace(other, schema)?),
            })
        })?;
        self.exprs.push(plain.data);
        Ok(())
    }

    fn replace(&mut self, expr: Expr, schema: &DFSchema) -> Result<Expr> {
        Ok(match expr {
            // What was put in the place of one already.
            Expr::Column(column) if column.name.starts_with(PLACE) => Expr::Column(column),
            Expr::Column(column) => {
                let place = schema.index_of_column(&column)?;
                Expr::Column(Column::new_unqualified(format!("{PLACE}{place}")))
            }
            Expr::ScalarSubquery(subquery) => self.subquery(&subquery, "value"),
            Expr::Exists(exists) => self
                .subquery(&exists.subquery, if exists.negated { "not exists" } else { "exists" }),
            Expr::InSubquery(within) => {
                let list = vec![self.subquery(&within.subquery, "in")];
                Expr::InList(InList { expr: within.expr, list, negated: within.negated })
            }
            Expr::SetComparison(_) | Expr::OuterReferenceColumn(_, _) => {
                self.is_known = false;
                expr
            }
            other => other,
        })
    }

    fn subquery(&mut self, subquery: &Subquery, what: &str) -> Expr {
        self.is_known &= subquery.outer_ref_columns.is_empty();
        let id = format!("{what} {}", self.inputs.len());
        self.add_input(&subquery.subquery);
        Expr::Placeholder(Placeholder::new_with_field(id, None))
    }
}

/// Begins the name around a plan that is marked; no user's table begins so.
const MARK: &str = "\u{0}cached ";

/// Begins the names of columns that are places; no user's column begins so, and one that did would
/// only not be found.
const PLACE: &str = "\u{0}";
