//! Whether evaluating a plan a second time gives the same values.
//!
//! The domain of outer values is computed beside the rows that it is joined back to.
//! Both must agree bit for bit, or rows find no partner.

use std::collections::HashSet;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::logical_plan::{Distinct, LogicalPlan};
use datafusion::logical_expr::{Expr, ExprSchemable};

/// Names what may give other values for `columns` of `plan` the second time; `None` if nothing.
pub(super) fn instability(plan: &LogicalPlan, columns: &[Column]) -> Option<&'static str> {
    visit(plan, columns.iter().cloned().collect())
}

fn visit(plan: &LogicalPlan, needed: HashSet<Column>) -> Option<&'static str> {
    if plan.expressions().iter().any(Expr::is_volatile) {
        return Some("a volatile function");
    }
    match plan {
        LogicalPlan::Projection(projection) => {
            let exprs = chosen(&projection.expr, &projection.schema, &needed);
            visit(&projection.input, references(exprs))
        }
        LogicalPlan::Aggregate(aggregate) => {
            let width = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
            let schema = aggregate.schema.as_ref();
            for (idx, expr) in aggregate.aggr_expr.iter().enumerate() {
                if needs(schema, width + idx, &needed) && !is_exact(expr, aggregate.input.schema())
                {
                    return Some("an aggregate whose last digits or choice vary from run to run");
                }
            }
            let exprs = aggregate.group_expr.iter().chain(&aggregate.aggr_expr);
            visit(&aggregate.input, references(exprs))
        }
        LogicalPlan::Window(window) => {
            let width = window.input.schema().fields().len();
            let outputs = width..window.schema.fields().len();
            if outputs.into_iter().any(|idx| needs(&window.schema, idx, &needed)) {
                return Some("a window function");
            }
            visit(&window.input, needed)
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let inner = alias.schema.iter().zip(alias.input.schema().columns());
            let needed = inner
                .filter(|(outer, _)| needed.contains(&Column::from(*outer)))
                .map(|(_, inner)| inner)
                .collect();
            visit(&alias.input, needed)
        }
        LogicalPlan::Union(union) => union.inputs.iter().find_map(|input| {
            let inner = union.schema.iter().zip(input.schema().columns());
            let needed = inner
                .filter(|(outer, _)| needed.contains(&Column::from(*outer)))
                .map(|(_, inner)| inner)
                .collect();
            visit(input, needed)
        }),
        LogicalPlan::Limit(_) => Some("LIMIT"),
        LogicalPlan::Sort(sort) if sort.fetch.is_some() => Some("LIMIT"),
        LogicalPlan::Distinct(Distinct::On(_)) => Some("DISTINCT ON"),
        LogicalPlan::Extension(_) => Some("an operator of an extension"),
        // Filters and joins decide about rows with the columns that they read.
        other => {
            let mut needed = needed;
            for expr in other.expressions() {
                needed.extend(expr.column_refs().into_iter().cloned());
            }
            other.inputs().into_iter().find_map(|input| visit(input, needed.clone()))
        }
    }
}

fn needs(schema: &DFSchema, idx: usize, needed: &HashSet<Column>) -> bool {
    needed.contains(&Column::from(schema.qualified_field(idx)))
}

fn chosen<'a>(
    exprs: &'a [Expr],
    schema: &'a DFSchema,
    needed: &'a HashSet<Column>,
) -> impl Iterator<Item = &'a Expr> {
    let chosen = exprs.iter().enumerate().filter(|(idx, _)| needs(schema, *idx, needed));
    chosen.map(|(_, expr)| expr)
}

fn references<'a>(exprs: impl Iterator<Item = &'a Expr>) -> HashSet<Column> {
    exprs.flat_map(|expr| expr.column_refs().into_iter().cloned()).collect()
}

/// Tells whether an aggregate gives the same value in whichever order its rows come.
fn is_exact(expr: &Expr, schema: &DFSchema) -> bool {
    match expr {
        Expr::Alias(alias) => is_exact(&alias.expr, schema),
        Expr::AggregateFunction(function) => match function.func.name() {
            "min" | "max" | "count" | "bool_and" | "bool_or" | "bit_and" | "bit_or" | "bit_xor"
            | "median" | "grouping" => true,
            "sum" | "avg" => expr.get_type(schema).is_ok_and(|data_type| {
                !matches!(data_type, DataType::Float16 | DataType::Float32 | DataType::Float64)
            }),
            _ => false,
        },
        _ => false,
    }
}
