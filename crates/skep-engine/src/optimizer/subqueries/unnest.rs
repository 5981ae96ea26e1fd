//! Carries the domain of outer values through a subquery's plan, from its leaves to its root.
//!
//! One file, because it is one case analysis: how each operator is computed for many outer rows at
//! once.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, NullEquality, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::{GroupingSet, WindowFunction};
use datafusion::logical_expr::logical_plan::{
    Aggregate, Distinct, DistinctOn, FetchType, Filter, Join, Limit, LogicalPlan, Projection,
    SkipType, Sort, SubqueryAlias, Union, Unnest, Values, Window,
};
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, ExprSchemable, JoinType, LogicalPlanBuilder, Operator, SortExpr,
    WindowFunctionDefinition, binary_expr, lit, when,
};

use super::attach::{conjoin, equal_columns, join_on};
use super::stability;
use crate::error::Error;
use crate::functions::row_number;

/// The distinct outer values that a subquery refers to.
pub(super) struct Domain<'a> {
    pub(super) outer: Vec<Column>,
    pub(super) source: &'a LogicalPlan,
    pub(super) names: &'a mut Names,
}

/// Numbers for the columns that a rewrite adds to a plan; no two of them are alike.
#[derive(Debug, Default)]
pub(super) struct Names(usize);

impl Names {
    pub(super) fn next(&mut self, what: &str) -> String {
        self.0 += 1;
        format!("__{what}_{}", self.0)
    }
}

/// A plan that has the rows of the original once for every row of the domain that gives them.
pub(super) struct Unnested {
    pub(super) plan: LogicalPlan,
    /// The domain's columns in it, in the order of the outer columns.
    pub(super) domain: Vec<Column>,
}

impl<'a> Domain<'a> {
    /// Makes the domain of the `outer` columns of `source`.
    ///
    /// # Errors
    /// If `source` may give other values when it is evaluated a second time.
    pub(super) fn new(
        outer: Vec<Column>,
        source: &'a LogicalPlan,
        names: &'a mut Names,
    ) -> Result<Self> {
        if let Some(cause) = stability::instability(source, &outer) {
            return Err(refuse(format!("a correlated subquery over rows that come from {cause}")));
        }
        Ok(Self { outer, source, names })
    }

    /// Rewrites `plan` so that it is computed for every row of the domain.
    pub(super) fn unnest(&mut self, plan: &LogicalPlan) -> Result<Unnested> {
        if !self.reaches(plan) {
            let values = self.instance()?;
            let plan = LogicalPlanBuilder::from(values.plan).cross_join(plan.clone())?.build()?;
            return Ok(Unnested { plan, domain: values.domain });
        }
        match plan {
            LogicalPlan::Projection(projection) => {
                let input = self.unnest(&projection.input)?;
                self.projection(projection, input)
            }
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::Aggregate(aggregate) => {
                let grouped = self.aggregate(aggregate)?;
                if aggregate.group_expr.is_empty() {
                    self.fill_empty_groups(aggregate, grouped)
                } else {
                    Ok(grouped)
                }
            }
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::SubqueryAlias(alias) => {
                let input = self.unnest(&alias.input)?;
                self.alias(alias, input)
            }
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::Sort(sort) => self.sort(sort),
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let input = self.unnest_exactly(input)?;
                let plan = LogicalPlan::Distinct(Distinct::All(Arc::new(input.plan)));
                Ok(Unnested { plan, domain: input.domain })
            }
            LogicalPlan::Distinct(Distinct::On(distinct)) => self.distinct_on(distinct),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Unnest(unnest) => {
                let input = self.unnest(&unnest.input)?;
                let plan = LogicalPlan::Unnest(Unnest::try_new(
                    Arc::new(input.plan),
                    unnest.exec_columns.clone(),
                    unnest.options.clone(),
                )?);
                Ok(Unnested { plan, domain: input.domain })
            }
            LogicalPlan::Values(values) => self.values(values),
            LogicalPlan::Subquery(lateral) => self.unnest(&lateral.subquery),
            LogicalPlan::RecursiveQuery(_) => {
                Err(refuse("a correlated subquery with a recursive query inside"))
            }
            other => Err(refuse(format!(
                "a correlated subquery with outer columns in the operator {}",
                other.display()
            ))),
        }
    }

    /// Tells whether `plan` refers to the outer columns.
    fn reaches(&self, plan: &LogicalPlan) -> bool {
        outer_references(plan).iter().any(|column| self.outer.contains(column))
    }

    /// Makes one more copy of the domain; its columns are named as no others.
    fn instance(&mut self) -> Result<Unnested> {
        let names: Vec<String> = self.outer.iter().map(|_| self.names.next("outer")).collect();
        let values = self
            .outer
            .iter()
            .zip(&names)
            .map(|(column, name)| Expr::Column(column.clone()).alias(name));
        let source = Arc::new(self.source.clone());
        let values = LogicalPlan::Projection(Projection::try_new(values.collect(), source)?);
        let plan = LogicalPlan::Distinct(Distinct::All(Arc::new(values)));
        Ok(Unnested { plan, domain: names.into_iter().map(Column::new_unqualified).collect() })
    }

    /// Unnests, and gives exactly the original columns and then the domain's.
    fn unnest_exactly(&mut self, plan: &LogicalPlan) -> Result<Unnested> {
        let unnested = self.unnest(plan)?;
        exactly(plan.schema(), unnested)
    }

    /// Replaces the outer columns in an expression of a node by the domain's.
    pub(super) fn substitute(&self, expr: &Expr, domain: &[Column]) -> Result<Expr> {
        expr.clone()
            .transform(|expr| {
                if let Expr::OuterReferenceColumn(_, column) = &expr
                    && let Some(idx) = self.outer.iter().position(|outer| outer == column)
                {
                    return Ok(Transformed::yes(Expr::Column(domain[idx].clone())));
                }
                Ok(Transformed::no(expr))
            })
            .data()
    }

    /// Substitutes in expressions that make a node's columns, keeping the columns' names.
    fn outputs(&self, exprs: &[Expr], domain: &[Column]) -> Result<Vec<Expr>> {
        exprs
            .iter()
            .map(|expr| Ok(named_as(self.substitute(expr, domain)?, &expr.qualified_name())))
            .collect()
    }

    fn sort_exprs(&self, exprs: &[SortExpr], domain: &[Column]) -> Result<Vec<SortExpr>> {
        exprs.iter().map(|sort| Ok(sort.with_expr(self.substitute(&sort.expr, domain)?))).collect()
    }

    /// Rewrites a plan that ends in a scalar aggregate, but for the groups that are empty.
    pub(super) fn unnest_unfilled(&mut self, plan: &LogicalPlan) -> Result<Unnested> {
        match plan {
            LogicalPlan::Projection(projection) => {
                let input = self.unnest_unfilled(&projection.input)?;
                self.projection(projection, input)
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let input = self.unnest_unfilled(&alias.input)?;
                self.alias(alias, input)
            }
            LogicalPlan::Aggregate(aggregate) if self.reaches(plan) => self.aggregate(aggregate),
            plan => self.unnest(plan),
        }
    }

    pub(super) fn projection(
        &mut self,
        projection: &Projection,
        input: Unnested,
    ) -> Result<Unnested> {
        let mut exprs = self.outputs(&projection.expr, &input.domain)?;
        exprs.extend(input.domain.iter().cloned().map(Expr::Column));
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input.plan))?);
        Ok(Unnested { plan, domain: input.domain })
    }

    fn filter(&mut self, filter: &Filter) -> Result<Unnested> {
        let input = self.unnest(&filter.input)?;
        let predicate = self.substitute(&filter.predicate, &input.domain)?;
        let plan = LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(input.plan))?);
        Ok(Unnested { plan, domain: input.domain })
    }

    fn aggregate(&mut self, aggregate: &Aggregate) -> Result<Unnested> {
        if aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
            return self.grouping_sets(aggregate);
        }
        let input = self.unnest(&aggregate.input)?;
        let mut groups = self.outputs(&aggregate.group_expr, &input.domain)?;
        groups.extend(input.domain.iter().cloned().map(Expr::Column));
        let aggregates = self.outputs(&aggregate.aggr_expr, &input.domain)?;
        let plan =
            LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(input.plan), groups, aggregates)?);
        Ok(Unnested { plan, domain: input.domain })
    }

    /// A scalar aggregate gives a row over no rows too: adds it for the domain rows that have none.
    fn fill_empty_groups(&mut self, aggregate: &Aggregate, grouped: Unnested) -> Result<Unnested> {
        let matched = self.names.next("matched");
        let schema = Arc::clone(grouped.plan.schema());
        let columns = schema.columns().into_iter().map(Expr::Column);
        let present = columns.chain([lit(true).alias(matched.as_str())]).collect();
        let present = Projection::try_new(present, Arc::new(grouped.plan))?;
        let present = LogicalPlan::Projection(present);
        let values = self.instance()?;
        let condition =
            equal_columns(&values.domain, &grouped.domain, values.plan.schema(), &schema);
        let joined = join_on(values.plan, present, JoinType::Left, condition)?;
        let mut outputs = Vec::new();
        for (expr, (qualifier, field)) in aggregate.aggr_expr.iter().zip(aggregate.schema.iter()) {
            let column = Expr::Column(Column::from((qualifier, field)));
            let default = value_over_nothing(expr, field.data_type())?;
            outputs.push(if default.is_null() {
                column
            } else {
                let missing = Expr::Column(Column::new_unqualified(&matched)).is_null();
                let filled = when(missing, lit(default)).otherwise(column)?;
                named_as(filled, &(qualifier.cloned(), field.name().clone()))
            });
        }
        outputs.extend(values.domain.iter().cloned().map(Expr::Column));
        let plan = LogicalPlan::Projection(Projection::try_new(outputs, Arc::new(joined))?);
        Ok(Unnested { plan, domain: values.domain })
    }

    fn grouping_sets(&mut self, aggregate: &Aggregate) -> Result<Unnested> {
        let [Expr::GroupingSet(sets)] = aggregate.group_expr.as_slice() else {
            return Err(refuse("a correlated subquery with GROUPING SETS beside other groups"));
        };
        let sets: Vec<Vec<Expr>> = match sets {
            GroupingSet::GroupingSets(sets) => sets.clone(),
            GroupingSet::Rollup(exprs) => (0..=exprs.len()).map(|n| exprs[..n].to_vec()).collect(),
            GroupingSet::Cube(exprs) => (0..1_usize << exprs.len())
                .map(|mask| {
                    let chosen = exprs.iter().enumerate().filter(|(n, _)| mask & (1 << n) != 0);
                    chosen.map(|(_, expr)| expr.clone()).collect()
                })
                .collect(),
        };
        // The grand total of no rows is a row; the domain would have to be filled in for it alone.
        if sets.iter().any(Vec::is_empty) {
            return Err(refuse("a correlated subquery with a grand total in its GROUPING SETS"));
        }
        let input = self.unnest(&aggregate.input)?;
        let mut widened = Vec::with_capacity(sets.len());
        for set in &sets {
            let mut set = self.outputs(set, &input.domain)?;
            set.extend(input.domain.iter().cloned().map(Expr::Column));
            widened.push(set);
        }
        let groups = vec![Expr::GroupingSet(GroupingSet::GroupingSets(widened))];
        let aggregates = self.outputs(&aggregate.aggr_expr, &input.domain)?;
        let plan = Aggregate::try_new(Arc::new(input.plan), groups, aggregates)?;
        Ok(Unnested { plan: LogicalPlan::Aggregate(plan), domain: input.domain })
    }

    fn join(&mut self, join: &Join) -> Result<Unnested> {
        use JoinType::{Full, Inner, Left, LeftAnti, LeftSemi, Right, RightAnti, RightSemi};
        let (left_reaches, right_reaches) = (self.reaches(&join.left), self.reaches(&join.right));
        let (on_left, on_right) = match join.join_type {
            Inner => (left_reaches || !right_reaches, right_reaches),
            Left | LeftSemi | LeftAnti => (true, right_reaches),
            Right | RightSemi | RightAnti => (left_reaches, true),
            Full => (true, true),
            other => {
                return Err(refuse(format!("a correlated subquery with a {other} join inside")));
            }
        };
        if join.null_aware && on_right {
            return Err(refuse("a correlated subquery with NOT IN over outer columns inside"));
        }
        let left = self.side(&join.left, on_left)?;
        let right = self.side(&join.right, on_right)?;
        let mut conditions = Vec::new();
        if on_left && on_right {
            let (left_schema, right_schema) = (left.plan.schema(), right.plan.schema());
            conditions.extend(equal_columns(
                &left.domain,
                &right.domain,
                left_schema,
                right_schema,
            ));
        }
        let domain = match join.join_type {
            Right | RightSemi | RightAnti => &right.domain,
            _ if on_left => &left.domain,
            _ => &right.domain,
        };
        let mut on = Vec::new();
        for (a, b) in &join.on {
            if a.contains_outer() || b.contains_outer() {
                let op = match join.null_equality {
                    NullEquality::NullEqualsNothing => Operator::Eq,
                    NullEquality::NullEqualsNull => Operator::IsNotDistinctFrom,
                };
                let (a, b) = (self.substitute(a, domain)?, self.substitute(b, domain)?);
                conditions.push(binary_expr(a, op, b));
            } else {
                on.push((a.clone(), b.clone()));
            }
        }
        if let Some(filter) = &join.filter {
            conditions.push(self.substitute(filter, domain)?);
        }
        let outputs = self.join_outputs(join, &left, &right, domain)?;
        let names = outputs[outputs.len() - self.outer.len()..].iter().map(Expr::qualified_name);
        let domain = names.map(|(qualifier, name)| Column::new(qualifier, name)).collect();
        let joined = LogicalPlan::Join(Join::try_new(
            Arc::new(left.plan),
            Arc::new(right.plan),
            on,
            (!conditions.is_empty()).then(|| conjoin(conditions)),
            join.join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )?);
        let plan = LogicalPlan::Projection(Projection::try_new(outputs, Arc::new(joined))?);
        Ok(Unnested { plan, domain })
    }

    fn side(&mut self, plan: &LogicalPlan, carries: bool) -> Result<Unnested> {
        if carries {
            self.unnest(plan)
        } else {
            Ok(Unnested { plan: plan.clone(), domain: Vec::new() })
        }
    }

    /// The join's own columns and one copy of the domain's, whichever side has it.
    fn join_outputs(
        &mut self,
        join: &Join,
        left: &Unnested,
        right: &Unnested,
        domain: &[Column],
    ) -> Result<Vec<Expr>> {
        let mut outputs: Vec<Expr> = join.schema.columns().into_iter().map(Expr::Column).collect();
        if join.join_type == JoinType::Full {
            for (a, b) in left.domain.iter().zip(&right.domain) {
                let (a, b) = (Expr::Column(a.clone()), Expr::Column(b.clone()));
                let either = when(a.clone().is_not_null(), a).otherwise(b)?;
                outputs.push(either.alias(self.names.next("outer")));
            }
        } else {
            outputs.extend(domain.iter().cloned().map(Expr::Column));
        }
        Ok(outputs)
    }

    pub(super) fn alias(&mut self, alias: &SubqueryAlias, input: Unnested) -> Result<Unnested> {
        let input = exactly(alias.input.schema(), input)?;
        let domain = input
            .domain
            .iter()
            .map(|column| Column::new(Some(alias.alias.clone()), column.name.clone()))
            .collect();
        let plan = SubqueryAlias::try_new(Arc::new(input.plan), alias.alias.clone())?;
        Ok(Unnested { plan: LogicalPlan::SubqueryAlias(plan), domain })
    }

    fn window(&mut self, window: &Window) -> Result<Unnested> {
        let input = self.unnest(&window.input)?;
        let mut exprs = Vec::with_capacity(window.window_expr.len());
        for expr in &window.window_expr {
            let (_, name) = expr.qualified_name();
            let Expr::WindowFunction(mut function) =
                self.substitute(&expr.clone().unalias(), &input.domain)?
            else {
                return Err(refuse("a correlated subquery with an unusual window function inside"));
            };
            let domain = input.domain.iter().cloned().map(Expr::Column);
            function.params.partition_by.extend(domain);
            exprs.push(Expr::WindowFunction(function).alias(name));
        }
        let plan = LogicalPlan::Window(Window::try_new(exprs, Arc::new(input.plan))?);
        Ok(Unnested { plan, domain: input.domain })
    }

    fn sort(&mut self, sort: &Sort) -> Result<Unnested> {
        if let Some(fetch) = sort.fetch {
            return self.rows_between(sort.input.as_ref(), &sort.expr, 0, Some(fetch));
        }
        let input = self.unnest(&sort.input)?;
        let expr = self.sort_exprs(&sort.expr, &input.domain)?;
        let plan = LogicalPlan::Sort(Sort { expr, input: Arc::new(input.plan), fetch: None });
        Ok(Unnested { plan, domain: input.domain })
    }

    fn limit(&mut self, limit: &Limit) -> Result<Unnested> {
        // Rows are numbered below the projections, where the order is still to be seen.
        let below = |input: &Arc<LogicalPlan>| {
            let (skip, fetch) = (limit.skip.clone(), limit.fetch.clone());
            LogicalPlan::Limit(Limit { skip, fetch, input: Arc::clone(input) })
        };
        match limit.input.as_ref() {
            LogicalPlan::Projection(projection) => {
                let input = self.unnest(&below(&projection.input))?;
                self.projection(projection, input)
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let input = self.unnest(&below(&alias.input))?;
                self.alias(alias, input)
            }
            input => {
                let (SkipType::Literal(skip), FetchType::Literal(fetch)) =
                    (limit.get_skip_type()?, limit.get_fetch_type()?)
                else {
                    return Err(refuse("a correlated subquery with a computed LIMIT inside"));
                };
                match input {
                    LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
                        self.rows_between(&sort.input, &sort.expr, skip, fetch)
                    }
                    input => self.rows_between(input, &[], skip, fetch),
                }
            }
        }
    }

    /// `LIMIT` and `OFFSET` for every domain row by itself.
    fn rows_between(
        &mut self,
        input: &LogicalPlan,
        order: &[SortExpr],
        skip: usize,
        fetch: Option<usize>,
    ) -> Result<Unnested> {
        let unnested = self.unnest(input)?;
        let function = WindowFunctionDefinition::WindowUDF(row_number());
        let row = self.names.next("row");
        let number = Expr::from(WindowFunction::new(function, vec![]))
            .partition_by(unnested.domain.iter().cloned().map(Expr::Column).collect())
            .order_by(self.sort_exprs(order, &unnested.domain)?)
            .build()?
            .alias(row.as_str());
        let numbered = LogicalPlan::Window(Window::try_new(vec![number], Arc::new(unnested.plan))?);
        let row = Expr::Column(Column::new_unqualified(row));
        let mut kept = row.clone().gt(lit(signed(skip)));
        if let Some(fetch) = fetch {
            kept = kept.and(row.lt_eq(lit(signed(skip.saturating_add(fetch)))));
        }
        let plan = LogicalPlan::Filter(Filter::try_new(kept, Arc::new(numbered))?);
        exactly(input.schema(), Unnested { plan, domain: unnested.domain })
    }

    fn distinct_on(&mut self, distinct: &DistinctOn) -> Result<Unnested> {
        let input = self.unnest(&distinct.input)?;
        let domain: Vec<Expr> = input.domain.iter().cloned().map(Expr::Column).collect();
        let mut on = domain.clone();
        for expr in &distinct.on_expr {
            on.push(self.substitute(expr, &input.domain)?);
        }
        let mut select = self.outputs(&distinct.select_expr, &input.domain)?;
        select.extend(domain.iter().cloned());
        let order = match &distinct.sort_expr {
            Some(order) => {
                let mut by: Vec<SortExpr> =
                    domain.into_iter().map(|column| column.sort(true, false)).collect();
                by.extend(self.sort_exprs(order, &input.domain)?);
                Some(by)
            }
            None => None,
        };
        let distinct = DistinctOn::try_new(on, select, order, Arc::new(input.plan))?;
        Ok(Unnested { plan: LogicalPlan::Distinct(Distinct::On(distinct)), domain: input.domain })
    }

    fn union(&mut self, union: &Union) -> Result<Unnested> {
        let names: Vec<String> = self.outer.iter().map(|_| self.names.next("outer")).collect();
        let mut inputs = Vec::with_capacity(union.inputs.len());
        for input in &union.inputs {
            let unnested = self.unnest(input)?;
            let columns = input.schema().columns().into_iter().map(Expr::Column);
            let domain = unnested.domain.into_iter().zip(&names);
            let domain = domain.map(|(column, name)| Expr::Column(column).alias(name));
            let exprs = columns.chain(domain).collect();
            let plan = Projection::try_new(exprs, Arc::new(unnested.plan))?;
            inputs.push(Arc::new(LogicalPlan::Projection(plan)));
        }
        let mut fields: Vec<_> = union
            .schema
            .iter()
            .map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field)))
            .collect();
        let first = inputs[0].schema();
        let width = union.schema.fields().len();
        for idx in width..width + names.len() {
            fields.push((None, Arc::new(first.field(idx).as_ref().clone().with_nullable(true))));
        }
        let schema = Arc::new(DFSchema::new_with_metadata(fields, Default::default())?);
        Ok(Unnested {
            plan: LogicalPlan::Union(Union { inputs, schema }),
            domain: names.into_iter().map(Column::new_unqualified).collect(),
        })
    }

    /// Each row of `VALUES` is a projection of the domain.
    fn values(&mut self, values: &Values) -> Result<Unnested> {
        let names: Vec<String> = self.outer.iter().map(|_| self.names.next("outer")).collect();
        let mut rows = Vec::with_capacity(values.values.len());
        for row in &values.values {
            let input = self.instance()?;
            let mut exprs = Vec::with_capacity(row.len() + names.len());
            for (expr, (qualifier, field)) in row.iter().zip(values.schema.iter()) {
                let expr = self.substitute(expr, &input.domain)?;
                let expr = expr.cast_to(field.data_type(), input.plan.schema())?;
                exprs.push(expr.alias_qualified(qualifier.cloned(), field.name()));
            }
            let domain = input.domain.into_iter().zip(&names);
            exprs.extend(domain.map(|(column, name)| Expr::Column(column).alias(name)));
            rows.push(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input.plan))?));
        }
        let mut rows = rows.into_iter();
        let Some(first) = rows.next() else {
            return Err(refuse("a correlated subquery with VALUES of no rows"));
        };
        let mut plan = LogicalPlanBuilder::from(first);
        for row in rows {
            plan = plan.union(row)?;
        }
        let domain = names.into_iter().map(Column::new_unqualified).collect();
        Ok(Unnested { plan: plan.build()?, domain })
    }
}

/// Projects to the columns of `schema` and then the domain's.
fn exactly(schema: &DFSchema, unnested: Unnested) -> Result<Unnested> {
    let columns = schema.columns().into_iter().chain(unnested.domain.iter().cloned());
    let exprs = columns.map(Expr::Column).collect();
    let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(unnested.plan))?);
    Ok(Unnested { plan, domain: unnested.domain })
}

/// The value of an aggregate expression over no rows.
fn value_over_nothing(
    expr: &Expr,
    data_type: &datafusion::arrow::datatypes::DataType,
) -> Result<ScalarValue> {
    match expr {
        Expr::Alias(alias) => value_over_nothing(&alias.expr, data_type),
        Expr::AggregateFunction(function) => function.func.default_value(data_type),
        other => Err(refuse(format!("a correlated subquery with the aggregate {other} inside"))),
    }
}

/// The value of a scalar aggregate subquery for outer rows that it finds nothing for, in terms of
/// the outer columns; `None` if the plan is something else.
pub(super) fn value_for_nothing(plan: &LogicalPlan) -> Result<Option<Expr>> {
    Ok(values_for_nothing(plan)?.and_then(|values| values.into_iter().next()))
}

fn values_for_nothing(plan: &LogicalPlan) -> Result<Option<Vec<Expr>>> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let Some(below) = values_for_nothing(&projection.input)? else {
                return Ok(None);
            };
            let columns = projection.input.schema().columns();
            let in_terms_of_outer = |expr: &Expr| {
                let replaced = expr.clone().unalias().transform(|expr| {
                    let idx = match &expr {
                        Expr::Column(column) => columns.iter().position(|below| below == column),
                        _ => None,
                    };
                    Ok(match idx {
                        Some(idx) => Transformed::yes(below[idx].clone()),
                        None => Transformed::no(expr),
                    })
                });
                replaced.data()
            };
            projection.expr.iter().map(in_terms_of_outer).collect::<Result<_>>().map(Some)
        }
        LogicalPlan::SubqueryAlias(alias) => values_for_nothing(&alias.input),
        LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.is_empty() => {
            let values = aggregate.aggr_expr.iter().zip(aggregate.schema.fields());
            let values =
                values.map(|(expr, field)| Ok(lit(value_over_nothing(expr, field.data_type())?)));
            values.collect::<Result<_>>().map(Some)
        }
        _ => Ok(None),
    }
}

/// Names an expression as a column was named before it was rewritten.
pub(super) fn named_as(
    expr: Expr,
    name: &(Option<datafusion::common::TableReference>, String),
) -> Expr {
    if expr.qualified_name() == *name {
        expr
    } else {
        expr.alias_qualified(name.0.clone(), &name.1)
    }
}

/// The outer columns that the operators of a subquery's plan refer to, each once, in plan order.
pub(super) fn outer_references(plan: &LogicalPlan) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    let visited = plan.apply(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::OuterReferenceColumn(_, column) = expr
                    && !columns.contains(column)
                {
                    columns.push(column.clone());
                }
                Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
            })
        })
    });
    debug_assert!(visited.is_ok(), "the closures above return no error");
    columns
}

/// A count as a BIGINT, which `row_number` gives; there are never more rows.
fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The error for a shape that stays impossible.
pub(super) fn refuse(what: impl Into<String>) -> DataFusionError {
    let hint = "write the subquery as a join, or put its outer rows into a table first";
    Error::unsupported(what, hint).into()
}
