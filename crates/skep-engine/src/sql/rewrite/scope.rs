//! Queries from the inside out, each with the common table expressions that it sees.

use std::ops::ControlFlow;

use datafusion::common::DFSchemaRef;
use datafusion::sql::sqlparser::ast::{
    Cte, Query, SelectItem, SetExpr, SetOperator, TableWithJoins, VisitMut, VisitorMut, With,
};

use super::{RelationSchemas, finish, syntax};
use crate::error::{Error, Result};

/// The `WITH` clauses visible at a place, outermost first.
#[derive(Debug, Default, Clone)]
pub(super) struct Scope {
    clauses: Vec<With>,
}

impl Scope {
    /// Returns the scope inside a query that begins with `with`.
    pub(super) fn inside(&self, with: Option<&With>) -> Self {
        let mut scope = self.clone();
        scope.clauses.extend(with.filter(|with| !with.cte_tables.is_empty()).cloned());
        scope
    }

    /// Returns the columns of `SELECT projection FROM from` at this place.
    ///
    /// # Errors
    /// Whatever is wrong with it; also if it refers to columns of an outer query.
    pub(super) fn schema_of(
        &self,
        projection: Vec<SelectItem>,
        from: Vec<TableWithJoins>,
        schemas: &dyn RelationSchemas,
    ) -> Result<DFSchemaRef> {
        let select = Box::new(syntax::select(projection, from));
        self.schema_of_query(syntax::query(SetExpr::Select(select)), schemas)
    }

    /// Returns the columns of `query` at this place.
    ///
    /// # Errors
    /// As [`Scope::schema_of`].
    pub(super) fn schema_of_query(
        &self,
        mut query: Query,
        schemas: &dyn RelationSchemas,
    ) -> Result<DFSchemaRef> {
        for with in self.clauses.iter().rev() {
            if query.with.is_some() {
                query = syntax::query(SetExpr::Query(Box::new(query)));
            }
            query.with = Some(with.clone());
        }
        schemas.schema_of(&query)
    }
}

/// What is done with a query once all queries inside it are done.
type Step<'a> = dyn FnMut(&mut Query, &Scope) -> Result<()> + 'a;

/// Calls `step` on every query of `node`, inner ones first; the scope includes the query's `WITH`.
///
/// # Errors
/// The first error of `step`.
pub(super) fn bottom_up(
    node: &mut impl VisitMut,
    scope: &Scope,
    step: &mut Step<'_>,
) -> Result<()> {
    let mut outermost = Outermost { depth: 0, scope, step };
    finish(node.visit(&mut outermost))
}

/// Reaches the queries that are inside no other query of the node, and leaves the rest to them.
struct Outermost<'a, 'b> {
    depth: usize,
    scope: &'a Scope,
    step: &'a mut Step<'b>,
}

impl VisitorMut for Outermost<'_, '_> {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        if self.depth == 0
            && let Err(error) = bottom_up_query(query, self.scope, self.step)
        {
            return ControlFlow::Break(error);
        }
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<Error> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

/// Returns what a recursive table sees of itself: its first term, which has all its columns.
fn anchor(table: &Cte) -> Cte {
    let mut table = table.clone();
    if let SetExpr::SetOperation { op: SetOperator::Union, left, .. } = *table.query.body {
        table.query.body = left;
        table.query.order_by = None;
        table.query.limit_clause = None;
    }
    table
}

fn bottom_up_query(query: &mut Query, scope: &Scope, step: &mut Step<'_>) -> Result<()> {
    let mut with = query.with.take();
    if let Some(with) = &mut with {
        for idx in 0..with.cte_tables.len() {
            let mut before = with.cte_tables[..idx].to_vec();
            if with.recursive {
                before.push(anchor(&with.cte_tables[idx]));
            }
            let inner = scope.inside(Some(&With { cte_tables: before, ..with.clone() }));
            bottom_up_query(&mut with.cte_tables[idx].query, &inner, step)?;
        }
    }
    let inner = scope.inside(with.as_ref());
    let result = bottom_up(query.body.as_mut(), &inner, step)
        .and_then(|()| bottom_up(&mut query.order_by, &inner, step))
        .and_then(|()| bottom_up(&mut query.limit_clause, &inner, step))
        .and_then(|()| bottom_up(&mut query.pipe_operators, &inner, step));
    query.with = with;
    result?;
    step(query, &inner)
}
