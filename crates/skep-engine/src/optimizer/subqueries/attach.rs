//! Finds the subqueries of a plan's nodes and joins their values to the rows they belong to.
//!
//! One file, because it is one case analysis: where each kind of node may hold a subquery.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ExprSchema, NullEquality};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{AggregateFunction, Exists};
use datafusion::logical_expr::logical_plan::{
    Aggregate, Distinct, Filter, Join, LogicalPlan, Projection, Sort, Subquery, Union, Values,
    Window,
};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{
    Expr, ExprSchemable, JoinConstraint, JoinType, LogicalPlanBuilder, Operator, SortExpr,
    binary_expr, lit, when,
};

use super::eligibility::{self, Place};
use super::predicates;
use super::stability;
use super::unnest::{
    Domain, Names, Unnested, named_as, outer_references, refuse, value_for_nothing,
};
use crate::functions::single_value;

/// One rewrite of one plan.
#[derive(Debug, Default)]
pub(in crate::optimizer) struct Unnesting {
    pub(super) names: Names,
    /// How many subqueries the node at hand is inside of.
    pub(super) depth: usize,
}

impl Unnesting {
    /// Unnests the subqueries of `plan` that DataFusion would leave, from the innermost out.
    pub(in crate::optimizer) fn rewrite(&mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let plan = self.rewrite_tree(plan)?.data;
        refuse_leftovers(&plan)?;
        Ok(plan)
    }

    fn rewrite_tree(&mut self, plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        let lateral = usize::from(matches!(plan, LogicalPlan::Subquery(_)));
        self.depth += lateral;
        let plan = plan.map_children(|child| self.rewrite_tree(child));
        self.depth -= lateral;
        let plan = plan?;
        let plan = plan.transform_data(|plan| {
            self.depth += 1;
            let mapped = plan.map_subqueries(|subquery| self.rewrite_tree(subquery));
            self.depth -= 1;
            mapped
        })?;
        let plan =
            if plan.transformed { plan.map_data(LogicalPlan::recompute_schema)? } else { plan };
        plan.transform_data(|plan| self.rewrite_node(plan))
    }

    fn rewrite_node(&mut self, plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        if let LogicalPlan::Join(join) = &plan
            && let Some(plan) = self.lateral_join(join)?
        {
            return Ok(Transformed::yes(plan));
        }
        if !holds_subquery(&plan) {
            return Ok(Transformed::no(plan));
        }
        let rewritten = match &plan {
            LogicalPlan::Filter(filter) => self.filter(filter)?,
            LogicalPlan::Projection(projection) => self.projection(projection)?,
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate)?,
            LogicalPlan::Window(window) => self.window(window)?,
            LogicalPlan::Sort(sort) => self.sort(sort)?,
            LogicalPlan::Join(join) => self.join_condition(join)?,
            LogicalPlan::Values(values) => Some(self.values(values)?),
            LogicalPlan::Limit(_) => return Err(refuse("a subquery in LIMIT or OFFSET")),
            _ => None,
        };
        Ok(match rewritten {
            Some(rewritten) => Transformed::yes(rewritten),
            None => Transformed::no(plan),
        })
    }

    fn filter(&mut self, filter: &Filter) -> Result<Option<LogicalPlan>> {
        let mut input = filter.input.as_ref().clone();
        let predicate = self.attach(&mut input, &filter.predicate, Place::Filter)?;
        if !predicate.transformed {
            return Ok(None);
        }
        let plan = LogicalPlan::Filter(Filter::try_new(predicate.data, Arc::new(input))?);
        restore(plan, filter.input.schema()).map(Some)
    }

    fn projection(&mut self, projection: &Projection) -> Result<Option<LogicalPlan>> {
        let mut input = projection.input.as_ref().clone();
        let Some(exprs) = self.attach_all(&mut input, &projection.expr, Place::Projection)? else {
            return Ok(None);
        };
        Ok(Some(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?)))
    }

    fn aggregate(&mut self, aggregate: &Aggregate) -> Result<Option<LogicalPlan>> {
        let mut input = aggregate.input.as_ref().clone();
        let groups = self.attach_all(&mut input, &aggregate.group_expr, Place::Elsewhere)?;
        let aggregates = self.attach_all(&mut input, &aggregate.aggr_expr, Place::Elsewhere)?;
        if groups.is_none() && aggregates.is_none() {
            return Ok(None);
        }
        let groups = groups.unwrap_or_else(|| aggregate.group_expr.clone());
        let aggregates = aggregates.unwrap_or_else(|| aggregate.aggr_expr.clone());
        let plan = Aggregate::try_new(Arc::new(input), groups, aggregates)?;
        Ok(Some(LogicalPlan::Aggregate(plan)))
    }

    fn window(&mut self, window: &Window) -> Result<Option<LogicalPlan>> {
        let mut input = window.input.as_ref().clone();
        let Some(exprs) = self.attach_all(&mut input, &window.window_expr, Place::Elsewhere)?
        else {
            return Ok(None);
        };
        let plan = LogicalPlan::Window(Window::try_new(exprs, Arc::new(input))?);
        restore(plan, &window.schema).map(Some)
    }

    /// A subquery in `ORDER BY` may refer to columns that the select list above does not keep.
    fn sort(&mut self, sort: &Sort) -> Result<Option<LogicalPlan>> {
        let mut input = widened(sort)?;
        let mut changed = false;
        let mut exprs: Vec<SortExpr> = Vec::with_capacity(sort.expr.len());
        for by in &sort.expr {
            let expr = self.attach(&mut input, &by.expr, Place::Elsewhere)?;
            changed |= expr.transformed;
            exprs.push(by.with_expr(expr.data));
        }
        if !changed {
            return Ok(None);
        }
        let plan =
            LogicalPlan::Sort(Sort { expr: exprs, input: Arc::new(input), fetch: sort.fetch });
        restore(plan, sort.input.schema()).map(Some)
    }

    /// `VALUES` as a union of one-row selects, which can hold subqueries.
    fn values(&mut self, values: &Values) -> Result<LogicalPlan> {
        let mut inputs = Vec::with_capacity(values.values.len());
        for row in &values.values {
            let nothing = LogicalPlanBuilder::empty(true).build()?;
            let mut exprs = Vec::with_capacity(row.len());
            for (expr, (qualifier, field)) in row.iter().zip(values.schema.iter()) {
                let expr = expr.clone().unalias().cast_to(field.data_type(), nothing.schema())?;
                exprs.push(expr.alias_qualified(qualifier.cloned(), field.name()));
            }
            let row = Projection::try_new(exprs, Arc::new(nothing))?;
            let row = self.projection(&row)?.unwrap_or(LogicalPlan::Projection(row));
            inputs.push(Arc::new(row));
        }
        if inputs.len() == 1 {
            return Ok(inputs.pop().map_or_else(LogicalPlan::default, Arc::unwrap_or_clone));
        }
        let schema = Arc::clone(&values.schema);
        Ok(LogicalPlan::Union(Union { inputs, schema }))
    }

    /// A subquery in a join's condition: a filter above an inner join; a column of the one side
    /// that it depends on below an outer join.
    fn join_condition(&mut self, join: &Join) -> Result<Option<LogicalPlan>> {
        let on = join.on.iter().map(|(a, b)| binary_expr(a.clone(), Operator::Eq, b.clone()));
        let filter = join.filter.iter().cloned().flat_map(split_conjunction_owned);
        let (subqueries, others): (Vec<Expr>, Vec<Expr>) = on.chain(filter).partition(has_subquery);
        if join.join_type == JoinType::Inner {
            let (left, right) = (join.left.as_ref().clone(), join.right.as_ref().clone());
            let joined = join_on(left, right, JoinType::Inner, others)?;
            let filter = Filter::try_new(conjoin(subqueries), Arc::new(joined))?;
            let filtered = self.filter(&filter)?.unwrap_or(LogicalPlan::Filter(filter));
            return restore(filtered, &join.schema).map(Some);
        }
        let (mut left, mut right) = (join.left.as_ref().clone(), join.right.as_ref().clone());
        let mut changed = false;
        let mut conditions = others;
        for condition in subqueries {
            let needs = dependencies(&condition)?;
            let condition = if needs.iter().all(|column| left.schema().has_column(column)) {
                self.attach(&mut left, &condition, Place::Elsewhere)?
            } else if needs.iter().all(|column| right.schema().has_column(column)) {
                self.attach(&mut right, &condition, Place::Elsewhere)?
            } else {
                return Err(refuse(format!(
                    "a subquery over columns of both sides in the condition of a {} join",
                    join.join_type
                )));
            };
            changed |= condition.transformed;
            conditions.push(condition.data);
        }
        if !changed {
            return Ok(None);
        }
        let plan = join_on(left, right, join.join_type, conditions)?;
        restore(plan, &join.schema).map(Some)
    }

    /// Attaches to a list of expressions that name columns; `None` if there was nothing to do.
    fn attach_all(
        &mut self,
        input: &mut LogicalPlan,
        exprs: &[Expr],
        place: Place,
    ) -> Result<Option<Vec<Expr>>> {
        let mut changed = false;
        let mut attached = Vec::with_capacity(exprs.len());
        for expr in exprs {
            let new = self.attach(input, expr, place)?;
            if new.transformed {
                changed = true;
                attached.push(named_as(new.data, &expr.qualified_name()));
            } else {
                attached.push(new.data);
            }
        }
        Ok(changed.then_some(attached))
    }

    /// Replaces the subqueries in `expr` by columns, which it joins to `input`.
    fn attach(
        &mut self,
        input: &mut LogicalPlan,
        expr: &Expr,
        place: Place,
    ) -> Result<Transformed<Expr>> {
        let left_alone = eligibility::left_to_datafusion(expr, input.schema(), place)?;
        expr.clone().transform_up(|expr| {
            if left_alone.contains(&expr) {
                return Ok(Transformed::no(expr));
            }
            let value = match &expr {
                Expr::ScalarSubquery(scalar) => self.scalar(input, &scalar.subquery)?,
                Expr::Exists(exists) => self.exists(input, exists)?,
                Expr::InSubquery(within) => {
                    self.scalar(input, &predicates::membership(input.schema(), within)?)?
                }
                Expr::SetComparison(comparison) => {
                    self.scalar(input, &predicates::comparison(input.schema(), comparison)?)?
                }
                _ => return Ok(Transformed::no(expr)),
            };
            Ok(Transformed::yes(value))
        })
    }

    /// Joins the value of a scalar subquery to the rows of `input`.
    fn scalar(&mut self, input: &mut LogicalPlan, subquery: &LogicalPlan) -> Result<Expr> {
        let value = Expr::Column(Column::from(subquery.schema().qualified_field(0)));
        let name = self.names.next("scalar");
        let outer = self.resolved(input.schema(), subquery);
        if stability::instability(input, &outer).is_some()
            && !outer.is_empty()
            && let Some(column) = self.scalar_of_numbered(input, subquery, &name)?
        {
            return Ok(column);
        }
        if !outer.is_empty()
            && let Some(default) = value_for_nothing(subquery)?
        {
            let matched = self.names.next("matched");
            let mut domain = Domain::new(outer.clone(), input, &mut self.names)?;
            let unnested = domain.unnest_unfilled(subquery)?;
            let columns = unnested.domain.iter().cloned().map(Expr::Column);
            let values = [value.alias(name.as_str()), lit(true).alias(matched.as_str())];
            let exprs = columns.chain(values).collect();
            let plan = Projection::try_new(exprs, Arc::new(unnested.plan))?;
            let plan = LogicalPlan::Projection(plan);
            let default = seen_from(input.schema(), default)?;
            join_back(input, Unnested { plan, domain: unnested.domain }, &outer)?;
            let found = Expr::Column(Column::new_unqualified(name));
            if matches!(&default, Expr::Literal(value, _) if value.is_null()) {
                return Ok(found);
            }
            let missing = Expr::Column(Column::new_unqualified(matched)).is_null();
            return when(missing, default).otherwise(found);
        }
        let unnested = self.over_domain(input, subquery, &outer)?;
        let domain = unnested.domain.iter().cloned().map(Expr::Column);
        let plan = if at_most_one_row(subquery) {
            let exprs = domain.chain([value.alias(name.as_str())]).collect();
            LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(unnested.plan))?)
        } else {
            let single = AggregateFunction::new_udf(
                single_value::single_value_udaf(),
                vec![value],
                false,
                None,
                vec![],
                None,
            );
            let single = Expr::AggregateFunction(single).alias(name.as_str());
            let plan = Aggregate::try_new(Arc::new(unnested.plan), domain.collect(), vec![single])?;
            LogicalPlan::Aggregate(plan)
        };
        join_back(input, Unnested { plan, domain: unnested.domain }, &outer)?;
        Ok(Expr::Column(Column::new_unqualified(name)))
    }

    /// Computes a scalar subquery beside outer rows that must not be evaluated twice.
    fn scalar_of_numbered(
        &mut self,
        input: &mut LogicalPlan,
        subquery: &LogicalPlan,
        name: &str,
    ) -> Result<Option<Expr>> {
        let schema = Arc::clone(input.schema());
        let mut rows = Domain { outer: schema.columns(), source: input, names: &mut self.names };
        let Some(unnested) = rows.numbered(subquery)? else {
            return Ok(None);
        };
        let mut exprs = Vec::with_capacity(schema.fields().len() + 1);
        for ((qualifier, field), column) in schema.iter().zip(&unnested.domain) {
            let column = Expr::Column(column.clone());
            exprs.push(column.alias_qualified(qualifier.cloned(), field.name()));
        }
        let value = Expr::Column(Column::from(subquery.schema().qualified_field(0)));
        exprs.push(value.alias(name));
        let plan = Projection::try_new(exprs, Arc::new(unnested.plan))?;
        *input = LogicalPlan::Projection(plan);
        Ok(Some(Expr::Column(Column::new_unqualified(name))))
    }

    /// Joins a mark to the rows of `input` for which the subquery gives a row.
    fn exists(&mut self, input: &mut LogicalPlan, exists: &Exists) -> Result<Expr> {
        let subquery = exists.subquery.subquery.as_ref();
        let name = self.names.next("exists");
        let outer = self.resolved(input.schema(), subquery);
        let unnested = self.over_domain(input, subquery, &outer)?;
        let domain = unnested.domain.iter().cloned().map(Expr::Column);
        let exprs = domain.chain([lit(true).alias(name.as_str())]).collect();
        let marked = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(unnested.plan))?);
        let plan = LogicalPlan::Distinct(Distinct::All(Arc::new(marked)));
        join_back(input, Unnested { plan, domain: unnested.domain }, &outer)?;
        let mark = Expr::Column(Column::new_unqualified(name));
        Ok(if exists.negated { mark.is_null() } else { mark.is_not_null() })
    }

    /// The columns of `schema` that the subquery refers to; others belong further out.
    pub(super) fn resolved(&self, schema: &DFSchema, subquery: &LogicalPlan) -> Vec<Column> {
        let mut columns = outer_references(subquery);
        columns.retain(|column| schema.has_column(column));
        columns
    }

    pub(super) fn over_domain(
        &mut self,
        input: &LogicalPlan,
        subquery: &LogicalPlan,
        outer: &[Column],
    ) -> Result<Unnested> {
        if outer.is_empty() {
            return Ok(Unnested { plan: subquery.clone(), domain: Vec::new() });
        }
        Domain::new(outer.to_vec(), input, &mut self.names)?.unnest(subquery)
    }
}

/// The input of a sort with the columns that its subqueries refer to.
fn widened(sort: &Sort) -> Result<LogicalPlan> {
    let LogicalPlan::Projection(projection) = sort.input.as_ref() else {
        return Ok(sort.input.as_ref().clone());
    };
    let mut exprs = projection.expr.clone();
    for by in &sort.expr {
        for column in dependencies(&by.expr)? {
            let hidden = !sort.input.schema().has_column(&column)
                && projection.input.schema().has_column(&column);
            let column = Expr::Column(column);
            if hidden && !exprs.contains(&column) {
                exprs.push(column);
            }
        }
    }
    let input = Arc::clone(&projection.input);
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, input)?))
}

/// Replaces outer columns that `schema` has by plain ones.
fn seen_from(schema: &DFSchema, expr: Expr) -> Result<Expr> {
    expr.transform(|expr| match expr {
        Expr::OuterReferenceColumn(_, column) if schema.has_column(&column) => {
            Ok(Transformed::yes(Expr::Column(column)))
        }
        other => Ok(Transformed::no(other)),
    })
    .data()
}

/// Replaces `input` by its join with a plan that has at most one row for each of its rows.
fn join_back(input: &mut LogicalPlan, unnested: Unnested, outer: &[Column]) -> Result<()> {
    let condition = equal_columns(outer, &unnested.domain, input.schema(), unnested.plan.schema());
    *input = join_on(std::mem::take(input), unnested.plan, JoinType::Left, condition)?;
    Ok(())
}

/// Joins on conditions whose columns are resolved already.
pub(super) fn join_on(
    left: LogicalPlan,
    right: LogicalPlan,
    join_type: JoinType,
    conditions: Vec<Expr>,
) -> Result<LogicalPlan> {
    Ok(LogicalPlan::Join(Join::try_new(
        Arc::new(left),
        Arc::new(right),
        vec![],
        Some(conjoin(conditions)),
        join_type,
        JoinConstraint::On,
        NullEquality::NullEqualsNothing,
        false,
    )?))
}

/// Says that columns are equal pair by pair, NULL equal to NULL.
pub(super) fn equal_columns(
    left: &[Column],
    right: &[Column],
    left_schema: &DFSchema,
    right_schema: &DFSchema,
) -> Vec<Expr> {
    let nullable = |schema: &DFSchema, columns: &[Column]| {
        columns.iter().any(|column| {
            schema.field_from_column(column).map_or(true, |field| field.is_nullable())
        })
    };
    // An operator for all: equalities of two kinds would not make one hash join.
    let op = if nullable(left_schema, left) || nullable(right_schema, right) {
        Operator::IsNotDistinctFrom
    } else {
        Operator::Eq
    };
    left.iter()
        .zip(right)
        .map(|(a, b)| binary_expr(Expr::Column(a.clone()), op, Expr::Column(b.clone())))
        .collect()
}

/// The conjunction of all; of none, `true`.
pub(super) fn conjoin(exprs: Vec<Expr>) -> Expr {
    exprs.into_iter().reduce(Expr::and).unwrap_or_else(|| lit(true))
}

/// Projects to the columns that were there before columns were attached.
pub(super) fn restore(plan: LogicalPlan, schema: &DFSchema) -> Result<LogicalPlan> {
    let exprs = schema.columns().into_iter().map(Expr::Column).collect();
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?))
}

/// Tells whether a node has a subquery in its expressions, or is a lateral one.
pub(super) fn holds_subquery(plan: &LogicalPlan) -> bool {
    if matches!(plan, LogicalPlan::Subquery(_)) {
        return true;
    }
    let mut found = false;
    let visited = plan.apply_expressions(|expr| {
        found |= has_subquery(expr);
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(visited.is_ok(), "the closure above returns no error");
    found
}

pub(super) fn has_subquery(expr: &Expr) -> bool {
    expr.exists(|expr| Ok(subquery_of(expr).is_some())).unwrap_or(true)
}

/// The subquery of an expression that is one.
pub(super) fn subquery_of(expr: &Expr) -> Option<&Subquery> {
    match expr {
        Expr::ScalarSubquery(subquery) => Some(subquery),
        Expr::Exists(exists) => Some(&exists.subquery),
        Expr::InSubquery(within) => Some(&within.subquery),
        Expr::SetComparison(comparison) => Some(&comparison.subquery),
        _ => None,
    }
}

/// The columns that the subqueries in `expr` need from the rows they are attached to.
fn dependencies(expr: &Expr) -> Result<Vec<Column>> {
    let mut needs = Vec::new();
    expr.apply(|expr| {
        if let Some(subquery) = subquery_of(expr) {
            needs.extend(outer_references(&subquery.subquery));
            needs.extend(expr.column_refs().into_iter().cloned());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(needs)
}

/// Tells whether a plan can never have a second row.
fn at_most_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => at_most_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => at_most_one_row(&alias.input),
        LogicalPlan::Filter(filter) => at_most_one_row(&filter.input),
        LogicalPlan::Sort(sort) => at_most_one_row(&sort.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::EmptyRelation(_) => true,
        LogicalPlan::Limit(limit) => {
            use datafusion::logical_expr::logical_plan::FetchType;
            at_most_one_row(&limit.input)
                || matches!(limit.get_fetch_type(), Ok(FetchType::Literal(Some(0 | 1))))
        }
        _ => false,
    }
}

/// An outer column that nothing resolved is one that no row at hand has.
fn refuse_leftovers(plan: &LogicalPlan) -> Result<()> {
    plan.apply(|node| {
        if matches!(node, LogicalPlan::Subquery(_)) {
            return Ok(TreeNodeRecursion::Jump);
        }
        node.apply_expressions(|expr| {
            expr.apply(|expr| match expr {
                Expr::OuterReferenceColumn(_, column) => {
                    Err(refuse(format!("the outer column {column} in a subquery in this place")))
                }
                expr => match subquery_of(expr) {
                    Some(subquery) => match unresolved(&subquery.subquery, node).first() {
                        Some(column) => Err(refuse(format!(
                            "the outer column {column} in a subquery in this place"
                        ))),
                        None => Ok(TreeNodeRecursion::Continue),
                    },
                    None => Ok(TreeNodeRecursion::Continue),
                },
            })
        })
    })?;
    Ok(())
}

fn unresolved(subquery: &LogicalPlan, node: &LogicalPlan) -> Vec<Column> {
    let mut columns = outer_references(subquery);
    columns.retain(|column| !node.inputs().iter().any(|input| input.schema().has_column(column)));
    columns
}
