//! Where the columns of a physical node come from, by position.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::{JoinSide, JoinType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::joins::utils::build_join_schema;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;

/// Whether a filter that goes through this node by the names of columns may reach a wrong one.
pub(super) fn ambiguous(node: &Arc<dyn ExecutionPlan>) -> bool {
    let children = node.children();
    if children.iter().any(|child| repeats_a_name(&child.schema())) {
        return true;
    }
    if children.is_empty() || node.is::<ProjectionExec>() {
        return repeats_a_name(&node.schema());
    }
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        return semi_join_misleads(join);
    }
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        let below = aggregate.input().schema();
        return aggregate.group_expr().expr().iter().any(|(expr, name)| {
            let same = expr.downcast_ref::<Column>().is_some_and(|column| column.name() == name);
            !same && below.index_of(name).is_ok()
        });
    }
    node.is::<UnionExec>()
        && children.iter().any(|child| {
            let (schema, below) = (node.schema(), child.schema());
            let names = schema.fields().iter().map(|field| field.name());
            !names.eq(below.fields().iter().map(|field| field.name()))
        })
}

/// Whether two columns of the schema have one name.
pub(super) fn repeats_a_name(schema: &Schema) -> bool {
    let mut names = HashSet::with_capacity(schema.fields().len());
    schema.fields().iter().any(|field| !names.insert(field.name()))
}

/// A semi join sends filters on its keys to both sides; the other side's key may have another name,
/// and the name may be another column's there.
fn semi_join_misleads(join: &HashJoinExec) -> bool {
    let misleads = |key: &Arc<dyn PhysicalExpr>, other: &Arc<dyn PhysicalExpr>, side: &Schema| {
        let Some(key) = key.downcast_ref::<Column>() else {
            return false;
        };
        match side.index_of(key.name()) {
            Ok(idx) => other.downcast_ref::<Column>().is_none_or(|other| other.index() != idx),
            Err(_) => false,
        }
    };
    let (left, right) = (join.left().schema(), join.right().schema());
    match join.join_type() {
        JoinType::LeftSemi => join.on().iter().any(|(l, r)| misleads(l, r, &right)),
        JoinType::RightSemi => join.on().iter().any(|(l, r)| misleads(r, l, &left)),
        _ => false,
    }
}

/// What the column at `idx` of the node is in terms of its child at `child`, if it comes from there.
pub(super) fn column_below(
    node: &Arc<dyn ExecutionPlan>,
    idx: usize,
    child: usize,
) -> Option<Arc<dyn PhysicalExpr>> {
    if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        return projection.expr().get(idx).map(|output| Arc::clone(&output.expr));
    }
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        return joined_column(join, idx, child);
    }
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        let (group, _) = aggregate.group_expr().expr().get(idx)?;
        return group.is::<Column>().then(|| Arc::clone(group));
    }
    let below = node.children().get(child)?.schema();
    if let Some(filter) = node.downcast_ref::<FilterExec>() {
        let idx = match filter.projection() {
            Some(projection) => *projection.get(idx)?,
            None => idx,
        };
        return column(&below, idx);
    }
    let same_width = node.schema().fields().len() == below.fields().len();
    if same_width { column(&below, idx) } else { None }
}

fn joined_column(join: &HashJoinExec, idx: usize, child: usize) -> Option<Arc<dyn PhysicalExpr>> {
    let idx = match &join.projection {
        Some(projection) => *projection.get(idx)?,
        None => idx,
    };
    let schemas = [join.left().schema(), join.right().schema()];
    let (_, origins) = build_join_schema(&schemas[0], &schemas[1], join.join_type());
    let origin = origins.get(idx)?;
    let side = if child == 0 { JoinSide::Left } else { JoinSide::Right };
    if origin.side == side {
        return column(&schemas[child], origin.index);
    }
    // A semi join's rows have an equal key on the other side.
    let is_origin = |key: &Arc<dyn PhysicalExpr>| {
        key.downcast_ref::<Column>().is_some_and(|key| key.index() == origin.index)
    };
    let equal = match (join.join_type(), side) {
        (JoinType::LeftSemi, JoinSide::Right) => {
            join.on().iter().find(|(left, _)| is_origin(left)).map(|(_, right)| right)
        }
        (JoinType::RightSemi, JoinSide::Left) => {
            join.on().iter().find(|(_, right)| is_origin(right)).map(|(left, _)| left)
        }
        _ => None,
    };
    equal.filter(|key| key.is::<Column>()).cloned()
}

fn column(schema: &Schema, idx: usize) -> Option<Arc<dyn PhysicalExpr>> {
    let field = schema.fields().get(idx)?;
    Some(Arc::new(Column::new(field.name(), idx)))
}
