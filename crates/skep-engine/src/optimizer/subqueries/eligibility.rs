//! Which subqueries DataFusion's own rules turn into joins, and rightly.
//!
//! The test is narrow on purpose: what it lets through is planned by DataFusion, with fewer joins
//! than [`unnest`](super::unnest) makes, and what it does not is planned there, more slowly but
//! for every shape.

use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::expr::InSubquery;
use datafusion::logical_expr::logical_plan::{Distinct, LogicalPlan};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, ExprSchemable, JoinType, Operator};
use datafusion::optimizer::decorrelate::PullUpCorrelatedExpr;

use super::attach::has_subquery;
use super::unnest::outer_references;

/// Where an expression stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Filter,
    Projection,
    Elsewhere,
}

/// Lists the subqueries in `expr` that are left to DataFusion.
pub(super) fn left_to_datafusion(
    expr: &Expr,
    schema: &DFSchema,
    place: Place,
) -> Result<Vec<Expr>> {
    let mut left = Vec::new();
    expr.apply(|expr| {
        if let Expr::ScalarSubquery(scalar) = expr
            && is_joinable_scalar(&scalar.subquery, schema, place)?
        {
            left.push(expr.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if place == Place::Filter {
        for condition in split_conjunction(expr) {
            predicates(condition, schema, Position::Top, &mut left)?;
        }
    }
    Ok(left)
}

/// Where a predicate stands in a filter's condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// It decides about the row by itself.
    Top,
    /// Under `AND` and `OR`: unknown is as good as false.
    Positive,
    /// Somewhere else: unknown and false differ.
    Inside,
}

fn predicates(
    expr: &Expr,
    schema: &DFSchema,
    position: Position,
    left: &mut Vec<Expr>,
) -> Result<()> {
    match expr {
        Expr::Exists(exists) => {
            if is_joinable_predicate(&exists.subquery.subquery, schema)
                && can_pull_up(
                    &exists.subquery.subquery,
                    PullUpCorrelatedExpr::new().with_exists_sub_query(true),
                )?
            {
                left.push(expr.clone());
            }
        }
        Expr::InSubquery(within) => {
            if is_joinable_membership(within, schema, position)? {
                left.push(expr.clone());
            }
        }
        Expr::BinaryExpr(binary) if matches!(binary.op, Operator::And | Operator::Or) => {
            let position = if position == Position::Inside { position } else { Position::Positive };
            predicates(&binary.left, schema, position, left)?;
            predicates(&binary.right, schema, position, left)?;
        }
        other => {
            other.apply_children(|child| {
                predicates(child, schema, Position::Inside, left)?;
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
    }
    Ok(())
}

/// A scalar subquery that is uncorrelated, or one aggregate over equalities with outer columns.
fn is_joinable_scalar(plan: &LogicalPlan, schema: &DFSchema, place: Place) -> Result<bool> {
    let outer = outer_references(plan);
    if outer.is_empty() {
        // DataFusion takes the value of no rows for as little nullable as the column.
        return Ok(plan.schema().field(0).is_nullable() || is_one_row(plan));
    }
    if place == Place::Elsewhere || !outer.iter().all(|column| schema.has_column(column)) {
        return Ok(false);
    }
    is_joinable_aggregate(plan)
}

/// Tells whether a plan always has exactly one row.
fn is_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => is_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_one_row(&alias.input),
        LogicalPlan::Sort(sort) => is_one_row(&sort.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::EmptyRelation(empty) => empty.produce_one_row,
        LogicalPlan::Values(values) => values.values.len() == 1,
        _ => false,
    }
}

/// The right side of a lateral join that is plain, or one aggregate over equalities.
pub(super) fn is_joinable_lateral(plan: &LogicalPlan, schema: &DFSchema) -> Result<bool> {
    if !outer_references(plan).iter().all(|column| schema.has_column(column)) {
        return Ok(false);
    }
    if is_plain(plan) {
        return can_pull_up(plan, PullUpCorrelatedExpr::new());
    }
    is_joinable_aggregate(plan)
}

fn is_joinable_aggregate(plan: &LogicalPlan) -> Result<bool> {
    let mut root = plan;
    let aggregate = loop {
        match root {
            LogicalPlan::Projection(projection)
                if !projection.expr.iter().any(Expr::contains_outer) =>
            {
                root = &projection.input;
            }
            LogicalPlan::SubqueryAlias(alias) => root = &alias.input,
            LogicalPlan::Aggregate(aggregate) => break aggregate,
            _ => return Ok(false),
        }
    };
    let correlated_inside = aggregate.aggr_expr.iter().any(Expr::contains_outer);
    if !aggregate.group_expr.is_empty() || correlated_inside || !is_plain(&aggregate.input) {
        return Ok(false);
    }
    can_pull_up(plan, PullUpCorrelatedExpr::new().with_need_handle_count_bug(true))
}

fn is_joinable_predicate(plan: &LogicalPlan, schema: &DFSchema) -> bool {
    outer_references(plan).iter().all(|column| schema.has_column(column)) && is_plain(plan)
}

fn is_joinable_membership(
    within: &InSubquery,
    schema: &DFSchema,
    position: Position,
) -> Result<bool> {
    let plan = within.subquery.subquery.as_ref();
    if !is_joinable_predicate(plan, schema) || has_subquery(&within.expr) {
        return Ok(false);
    }
    let correlated = !outer_references(plan).is_empty();
    // DataFusion has no join for a NOT IN that depends on more nullable columns than its own two,
    // and what is inside of something may become one.
    if correlated && (within.negated || position == Position::Inside) {
        return Ok(false);
    }
    // DataFusion's joins know two truth values but for a NOT IN by itself.
    let knows_unknown = match position {
        Position::Top => true,
        Position::Positive => !within.negated,
        Position::Inside => false,
    };
    if !knows_unknown && (within.expr.nullable(schema)? || plan.schema().field(0).is_nullable()) {
        return Ok(false);
    }
    can_pull_up(plan, PullUpCorrelatedExpr::new())
}

/// Outer columns occur in filters only, below nothing that depends on which rows come together.
fn is_plain(plan: &LogicalPlan) -> bool {
    if outer_references(plan).is_empty() {
        return true;
    }
    match plan {
        LogicalPlan::Filter(filter) => is_plain(&filter.input),
        LogicalPlan::Projection(projection) => {
            !projection.expr.iter().any(Expr::contains_outer) && is_plain(&projection.input)
        }
        LogicalPlan::SubqueryAlias(alias) => is_plain(&alias.input),
        LogicalPlan::Distinct(Distinct::All(input)) => is_plain(input),
        LogicalPlan::Join(join) => {
            let in_condition = join.filter.iter().any(Expr::contains_outer)
                || join.on.iter().any(|(a, b)| a.contains_outer() || b.contains_outer());
            join.join_type == JoinType::Inner
                && !in_condition
                && is_plain(&join.left)
                && is_plain(&join.right)
        }
        _ => false,
    }
}

/// Asks DataFusion's own rewrite whether it can.
fn can_pull_up(plan: &LogicalPlan, mut pull_up: PullUpCorrelatedExpr) -> Result<bool> {
    // A failure of the rewrite is a "no": the other way may succeed.
    let rewritten = plan.clone().rewrite(&mut pull_up).data();
    Ok(rewritten.is_ok() && pull_up.can_pull_up)
}
