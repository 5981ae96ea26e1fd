//! Where in a statement a table or a function is named.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as PlanStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, Statement as SqlStatement, visit_expressions, visit_relations,
};

use crate::error::Position;

/// Finds the first mention of a table, named as its reference prints.
pub(crate) fn place_of_table(statement: &PlanStatement, name: &str) -> Option<Position> {
    let wanted = plain(name);
    search(statement, |statement| {
        let found = visit_relations(statement, |relation| match names(relation) == wanted {
            true => ControlFlow::Break(place(relation)),
            false => ControlFlow::Continue(()),
        });
        found.break_value().flatten()
    })
}

/// Finds the first call of a function.
pub(crate) fn place_of_function(statement: &PlanStatement, name: &str) -> Option<Position> {
    let wanted = plain(name);
    search(statement, |statement| {
        let found = visit_expressions(statement, |expression| match expression {
            Expr::Function(function) if names(&function.name) == wanted => {
                ControlFlow::Break(place(&function.name))
            }
            _ => ControlFlow::Continue(()),
        });
        found.break_value().flatten()
    })
}

fn search(
    statement: &PlanStatement,
    find: impl Fn(&SqlStatement) -> Option<Position>,
) -> Option<Position> {
    match statement {
        PlanStatement::Statement(inner) => find(inner),
        PlanStatement::Explain(explain) => search(&explain.statement, find),
        _ => None,
    }
}

fn names(name: &ObjectName) -> String {
    plain(&name.to_string())
}

/// Quotes and capitals are the planner's affair; here the letters decide.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '"' | '`' | '\'')).flat_map(char::to_lowercase).collect()
}

pub(crate) fn place(name: &ObjectName) -> Option<Position> {
    let span = name.0.first()?.as_ident()?.span;
    let start = span.start;
    (start.line > 0).then_some(Position { line: start.line, column: start.column })
}
