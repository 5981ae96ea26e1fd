//! Rewrites of the syntax tree that give DataFusion's planner what it answers rightly.
//!
//! DataFusion's SQL planner drops some clauses without a word (`TABLESAMPLE`, `FOR UPDATE`, the
//! `ORDER BY` of `any_value`) and plans others wrongly (`RIGHT JOIN ... USING`, `= ANY` over the
//! same table, `EXCEPT ALL`). Every statement passes through here first: one read-only walk (the
//! [`survey`]) refuses what would be ignored and notes what must be rewritten; only then are trees
//! touched. Nodes that are kept keep their spans, so that errors still point at the user's text.
//!
//! **Invariant:** a statement that leaves [`rewrite_statement`] has no clause that the planner
//! would silently drop.

mod clauses;
mod distinct_names;
mod expressions;
mod merged_columns;
mod scope;
mod set_operations;
mod survey;
mod syntax;
mod using_joins;
mod windows;

#[cfg(test)]
mod fixture;

use std::ops::ControlFlow;

use datafusion::common::DFSchemaRef;
use datafusion::sql::sqlparser::ast::{Query, Statement, VisitMut};

use crate::error::Result;

pub(crate) use distinct_names::{
    explain_renamed, is_duplicate_name, rename_duplicate_outputs, restore_output_names,
};
use survey::Survey;

/// What a rewrite may ask about the relations of the statement.
pub(crate) trait RelationSchemas {
    /// Plans `query` and returns its output columns with qualifiers.
    ///
    /// # Errors
    /// Whatever is wrong with the query.
    fn schema_of(&self, query: &Query) -> Result<DFSchemaRef>;
}

/// Rewrites a statement so that DataFusion answers it rightly.
///
/// # Errors
/// `Unsupported` for a clause that the planner would ignore; `Plan` for one that has no meaning.
pub(crate) fn rewrite_statement(
    statement: &mut Statement,
    schemas: &dyn RelationSchemas,
) -> Result<()> {
    rewrite_node(statement, schemas)
}

/// Rewrites a query that stands outside a statement, as in `COPY (query) TO`.
///
/// # Errors
/// As [`rewrite_statement`].
pub(crate) fn rewrite_query(query: &mut Query, schemas: &dyn RelationSchemas) -> Result<()> {
    rewrite_node(query, schemas)
}

fn rewrite_node<N: VisitMut + survey::Surveyed>(
    node: &mut N,
    schemas: &dyn RelationSchemas,
) -> Result<()> {
    let needs = Survey::of(node)?;
    if needs.clauses {
        finish(node.visit(&mut clauses::Clauses))?;
    }
    if needs.windows {
        finish(node.visit(&mut windows::Windows))?;
    }
    if needs.expressions {
        finish(node.visit(&mut expressions::Expressions::default()))?;
    }
    if needs.using_joins {
        using_joins::rewrite(node, schemas)?;
    }
    if needs.set_operations {
        set_operations::rewrite(node, schemas)?;
    }
    Ok(())
}

fn finish(flow: ControlFlow<crate::error::Error>) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}
