//! Output columns of the same name, as in `SELECT 1 AS a, 2 AS a`.
//!
//! DataFusion wants distinct names inside a plan; SQL and its clients do not. When planning fails
//! for that reason alone, every such column gets a marker and a number, planning is tried again, and
//! the markers are taken off the schema of the final result. **Invariant:** all columns of a repeated
//! name are renamed, never all but one, so that a reference to the name finds none of them.

use std::collections::HashMap;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Column, SchemaError, TableReference};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, OrderByKind, Query, Select, SelectItem, SetExpr, Statement, TableFactor, VisitMut,
};

use super::RelationSchemas;
use super::scope::{self, Scope};
use super::syntax::{MARKER, normalize, quoted};
use crate::error::{Error, Result};

/// Renames output columns of the same name in every `SELECT`; returns whether there were any.
///
/// For a statement whose planning failed with an error of which [`is_duplicate_name`] is true.
///
/// # Errors
/// If the names would be those of a table or view, or a reference is ambiguous.
pub(crate) fn rename_duplicate_outputs(
    statement: &mut Statement,
    schemas: &dyn RelationSchemas,
) -> Result<bool> {
    let is_changed = rename_in(statement, schemas)?;
    let stored = match statement {
        Statement::CreateView(view) if view.columns.is_empty() => Some(view.query.as_ref()),
        Statement::CreateTable(table) if table.columns.is_empty() => table.query.as_deref(),
        _ => None,
    };
    if is_changed && let Some(query) = stored {
        let schema = schemas.schema_of(query)?;
        if let Some(field) = schema.fields().iter().find(|field| field.name().contains(MARKER)) {
            return Err(stored_twice(without_markers(field.name())));
        }
    }
    Ok(is_changed)
}

fn rename_in(node: &mut impl VisitMut, schemas: &dyn RelationSchemas) -> Result<bool> {
    let mut is_changed = false;
    scope::bottom_up(node, &Scope::default(), &mut |query, scope| {
        is_changed |= rename_in_query(query, scope, schemas)?;
        Ok(())
    })?;
    Ok(is_changed)
}

fn stored_twice(name: String) -> Error {
    Error::Plan {
        message: format!("column \"{name}\" appears more than once in what is stored"),
        position: None,
        hint: Some("give the columns different names with AS".to_owned()),
    }
}

/// Takes the markers out of the schema of a final result, whose names may then repeat.
pub(crate) fn restore_output_names(schema: &SchemaRef) -> SchemaRef {
    if schema.fields().iter().all(|field| !field.name().contains(MARKER)) {
        return SchemaRef::clone(schema);
    }
    let fields = schema.fields().iter().map(|field| {
        let name = without_markers(field.name());
        field.as_ref().clone().with_name(name)
    });
    let fields: Vec<_> = fields.collect();
    SchemaRef::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Returns a text with every marker and its number left out.
pub(super) fn without_markers(text: &str) -> String {
    let mut parts = text.split(MARKER);
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        clean.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    clean
}

/// Returns whether an error says that output names repeat, so that renaming may mend it.
pub(crate) fn is_duplicate_name(error: &DataFusionError) -> bool {
    any_cause(error, &mut |cause| match cause {
        DataFusionError::SchemaError(error, _) => match error.as_ref() {
            SchemaError::DuplicateQualifiedField { .. }
            | SchemaError::DuplicateUnqualifiedField { .. } => true,
            // With a qualifier it speaks of a schema, without of a reference in the text.
            SchemaError::AmbiguousReference { field } => field.relation.is_some(),
            SchemaError::FieldNotFound { .. } => false,
        },
        DataFusionError::Plan(message) => message.contains("require unique expression names"),
        _ => false,
    })
}

/// Returns what a failed second planning means: a name that was renamed is ambiguous.
pub(crate) fn explain_renamed(error: &DataFusionError) -> Option<Error> {
    let mut name = None;
    any_cause(error, &mut |cause| {
        if let DataFusionError::SchemaError(error, _) = cause
            && let SchemaError::FieldNotFound { field, valid_fields } = error.as_ref()
            && valid_fields.iter().any(|valid| is_renamed(valid, field.name()))
        {
            name = Some(field.name().to_owned());
        }
        name.is_some()
    });
    name.map(ambiguous)
}

fn is_renamed(column: &Column, name: &str) -> bool {
    column.name().contains(MARKER) && without_markers(column.name()) == name
}

fn ambiguous(name: impl AsRef<str>) -> Error {
    Error::Plan {
        message: format!("column \"{}\" is ambiguous", name.as_ref()),
        position: None,
        hint: Some("several output columns have this name; give them different ones".to_owned()),
    }
}

fn any_cause(error: &DataFusionError, test: &mut dyn FnMut(&DataFusionError) -> bool) -> bool {
    if test(error) {
        return true;
    }
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            any_cause(inner, test)
        }
        DataFusionError::Shared(inner) => any_cause(inner, test),
        DataFusionError::Collection(errors) => errors.iter().any(|error| any_cause(error, test)),
        _ => false,
    }
}

/// A column that a select list puts out.
struct OutputColumn {
    qualifier: Option<TableReference>,
    name: String,
    expr: Expr,
}

fn rename_in_query(
    query: &mut Query,
    scope: &Scope,
    schemas: &dyn RelationSchemas,
) -> Result<bool> {
    match query.body.as_mut() {
        SetExpr::Select(select) => {
            let Some(renamed) = rename_in_select(select, scope, schemas)? else {
                return Ok(false);
            };
            let Some(order_by) = &mut query.order_by else { return Ok(true) };
            let OrderByKind::Expressions(exprs) = &mut order_by.kind else {
                return Err(Error::unsupported(
                    "ORDER BY ALL with columns of the same name",
                    "order by position",
                ));
            };
            for expr in exprs {
                if let Expr::Identifier(ident) = &expr.expr
                    && let Some(meaning) = renamed.get(&normalize(ident))
                {
                    expr.expr = match meaning {
                        Some(alias) => Expr::Identifier(alias.clone()),
                        None => return Err(ambiguous(normalize(ident))),
                    };
                }
            }
            Ok(true)
        }
        body => rename_in_branches(body, scope, schemas),
    }
}

fn rename_in_branches(
    body: &mut SetExpr,
    scope: &Scope,
    schemas: &dyn RelationSchemas,
) -> Result<bool> {
    match body {
        SetExpr::Select(select) => Ok(rename_in_select(select, scope, schemas)?.is_some()),
        SetExpr::SetOperation { left, right, .. } => {
            let left = rename_in_branches(left, scope, schemas)?;
            let right = rename_in_branches(right, scope, schemas)?;
            Ok(left || right)
        }
        _ => Ok(false),
    }
}

/// What `ORDER BY` may call the columns of each repeated name: one alias if all are the same.
type Renamed = HashMap<String, Option<Ident>>;

fn rename_in_select(
    select: &mut Select,
    scope: &Scope,
    schemas: &dyn RelationSchemas,
) -> Result<Option<Renamed>> {
    let mut items = vec![];
    for item in &select.projection {
        match outputs(item, select, scope, schemas) {
            Some(columns) => items.push(columns),
            None => return Ok(None),
        }
    }
    let mut groups: HashMap<String, Vec<&OutputColumn>> = HashMap::new();
    for column in items.iter().flatten() {
        groups.entry(without_markers(&column.name)).or_default().push(column);
    }
    groups.retain(|_, columns| columns.len() > 1);
    if !groups.values().any(|columns| conflict(columns)) {
        return Ok(None);
    }
    if let Some(name) = groups.keys().next()
        && select.into.is_some()
    {
        return Err(stored_twice(name.clone()));
    }
    let renamed = groups
        .iter()
        .map(|(name, columns)| {
            let is_one = columns.iter().all(|column| {
                column.expr == columns[0].expr
                    || (column.qualifier.is_some()
                        && (&column.qualifier, &column.name)
                            == (&columns[0].qualifier, &columns[0].name))
            });
            (name.clone(), is_one.then(|| marked(name, 1)))
        })
        .collect();
    let mut counts: HashMap<String, usize> = groups.keys().map(|name| (name.clone(), 0)).collect();
    let mut projection = vec![];
    for (item, columns) in std::mem::take(&mut select.projection).into_iter().zip(&items) {
        let is_touched =
            columns.iter().any(|column| counts.contains_key(&without_markers(&column.name)));
        if !is_touched {
            projection.push(item);
            continue;
        }
        refuse_replacing(&item)?;
        for column in columns {
            let name = without_markers(&column.name);
            projection.push(match counts.get_mut(&name) {
                Some(count) => {
                    *count += 1;
                    let alias = marked(&name, *count);
                    SelectItem::ExprWithAlias { expr: column.expr.clone(), alias }
                }
                None => SelectItem::UnnamedExpr(column.expr.clone()),
            });
        }
    }
    select.projection = projection;
    Ok(Some(renamed))
}

fn marked(name: &str, count: usize) -> Ident {
    quoted(format!("{name}{MARKER}{count}"))
}

/// Returns whether DataFusion refuses these columns of one name side by side.
fn conflict(columns: &[&OutputColumn]) -> bool {
    columns.iter().enumerate().any(|(idx, column)| {
        columns[idx + 1..].iter().any(|other| {
            column.name == other.name
                && (column.qualifier.is_none()
                    || other.qualifier.is_none()
                    || column.qualifier == other.qualifier)
        })
    })
}

fn refuse_replacing(item: &SelectItem) -> Result<()> {
    match item {
        SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options)
            if options.opt_replace.is_some() =>
        {
            Err(Error::unsupported(
                "* REPLACE beside columns of the same name",
                "give the columns different names with AS",
            ))
        }
        _ => Ok(()),
    }
}

/// Returns the columns that a select item puts out, or none if it cannot be planned by itself.
fn outputs(
    item: &SelectItem,
    select: &Select,
    scope: &Scope,
    schemas: &dyn RelationSchemas,
) -> Option<Vec<OutputColumn>> {
    let planned = || scope.schema_of(vec![item.clone()], select.from.clone(), schemas).ok();
    match item {
        SelectItem::ExprWithAlias { expr, alias } => {
            Some(vec![OutputColumn { qualifier: None, name: normalize(alias), expr: expr.clone() }])
        }
        SelectItem::UnnamedExpr(expr) => {
            let schema = planned().filter(|schema| schema.fields().len() == 1);
            let (qualifier, name) = match schema {
                Some(schema) => {
                    let (qualifier, field) = schema.qualified_field(0);
                    (qualifier.cloned(), field.name().clone())
                }
                None => (None, unplanned_name(expr)),
            };
            Some(vec![OutputColumn { qualifier, name, expr: expr.clone() }])
        }
        SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => {
            if select
                .from
                .iter()
                .any(|table| matches!(table.relation, TableFactor::Function { .. }))
            {
                return None;
            }
            let schema = planned()?;
            let columns = schema.iter().map(|(qualifier, field)| {
                let mut parts: Vec<_> = qualifier
                    .map(TableReference::to_vec)
                    .unwrap_or_default()
                    .into_iter()
                    .map(quoted)
                    .collect();
                parts.push(quoted(field.name()));
                let expr = if parts.len() == 1 {
                    Expr::Identifier(parts.swap_remove(0))
                } else {
                    Expr::CompoundIdentifier(parts)
                };
                OutputColumn { qualifier: qualifier.cloned(), name: field.name().clone(), expr }
            });
            Some(columns.collect())
        }
        SelectItem::ExprWithAliases { .. } => None,
    }
}

fn unplanned_name(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(ident) => normalize(ident),
        Expr::CompoundIdentifier(parts) => parts.last().map(normalize).unwrap_or_default(),
        other => other.to_string(),
    }
}

#[cfg(test)]
pub(super) fn restored(statement: &Statement) -> String {
    without_markers(&statement.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, parse};
    use super::*;

    async fn fixture() -> Fixture {
        Fixture::new(&["CREATE TABLE t(a INT, b INT) AS VALUES (2, 20), (1, 10)"]).await
    }

    #[tokio::test]
    async fn names_may_repeat() {
        let fixture = fixture().await;
        for (sql, names, rows) in [
            ("SELECT 1 AS a, 2 AS a", vec!["a", "a"], vec!["1|2"]),
            ("SELECT 1, 1", vec!["Int64(1)", "Int64(1)"], vec!["1|1"]),
            ("SELECT a, a FROM t", vec!["a", "a"], vec!["1|1", "2|2"]),
            ("SELECT *, a FROM t", vec!["a", "b", "a"], vec!["1|10|1", "2|20|2"]),
            ("SELECT t.*, t.* FROM t", vec!["a", "b", "a", "b"], vec!["1|10|1|10", "2|20|2|20"]),
            ("SELECT b AS a, * FROM t", vec!["a", "a", "b"], vec!["10|1|10", "20|2|20"]),
            ("SELECT count(*), count(*) FROM t", vec!["count(*)", "count(*)"], vec!["2|2"]),
            ("SELECT * FROM (SELECT 1 AS a, 2 AS a) AS d", vec!["a", "a"], vec!["1|2"]),
            ("SELECT d.*, d.* FROM (SELECT 1 AS a, 2 AS a) d", vec!["a"; 4], vec!["1|2|1|2"]),
            ("SELECT x, y FROM (SELECT 1, 1) AS d(x, y)", vec!["x", "y"], vec!["1|1"]),
            ("WITH c(x, y) AS (SELECT 1, 1) SELECT x + y AS z FROM c", vec!["z"], vec!["2"]),
            ("WITH c AS (SELECT 1, 1) SELECT * FROM c", vec!["Int64(1)"; 2], vec!["1|1"]),
            ("SELECT 1, 1 UNION ALL SELECT 2, 3", vec!["Int64(1)"; 2], vec!["1|1", "2|3"]),
            ("SELECT 1 AS p, 2 AS q UNION ALL SELECT 3, 3", vec!["p", "q"], vec!["1|2", "3|3"]),
            ("SELECT b FROM t WHERE EXISTS (SELECT 1, 1)", vec!["b"], vec!["10", "20"]),
            ("SELECT b FROM (SELECT *, a FROM t) AS d", vec!["b"], vec!["10", "20"]),
        ] {
            assert_eq!(fixture.rows(sql).await, rows, "{sql}");
            assert_eq!(fixture.names(sql).await, names, "{sql}");
        }
    }

    #[tokio::test]
    async fn orders_by_a_repeated_name_if_all_are_one() {
        let fixture = fixture().await;
        assert_eq!(fixture.ordered("SELECT a, a FROM t ORDER BY a").await, ["1|1", "2|2"]);
        let sql = "SELECT *, a FROM t ORDER BY a DESC";
        assert_eq!(fixture.ordered(sql).await, ["2|20|2", "1|10|1"]);
        let message = fixture.error("SELECT a AS x, b AS x FROM t ORDER BY x").await;
        assert!(message.contains("column \"x\" is ambiguous"), "{message}");
        let message = fixture.error("SELECT a, b AS a, b AS a FROM t ORDER BY a").await;
        assert!(message.contains("column \"a\" is ambiguous"), "{message}");
    }

    #[tokio::test]
    async fn a_reference_to_a_repeated_name_is_ambiguous() {
        let fixture = fixture().await;
        for sql in [
            "SELECT a FROM (SELECT 1 AS a, 2 AS a) AS d",
            "SELECT d.a FROM (SELECT 1 AS a, 2 AS a) AS d",
            "SELECT a FROM (SELECT *, a FROM t) AS d",
            "WITH c AS (SELECT a, a FROM t) SELECT * FROM c WHERE a = 1",
        ] {
            let message = fixture.error(sql).await;
            assert!(message.contains("column \"a\" is ambiguous"), "{sql}: {message}");
        }
    }

    #[tokio::test]
    async fn what_is_stored_needs_distinct_names() {
        let fixture = fixture().await;
        for sql in [
            "CREATE VIEW v AS SELECT 1 AS a, 2 AS a",
            "CREATE TABLE u AS SELECT *, a FROM t",
            "CREATE VIEW v AS SELECT * FROM (SELECT 1 AS a, 2 AS a) AS d",
        ] {
            let message = fixture.error(sql).await;
            assert!(message.contains("column \"a\" appears more than once"), "{sql}: {message}");
        }
    }

    #[tokio::test]
    async fn other_errors_are_not_mended() {
        let fixture = fixture().await;
        let message = fixture.error("SELECT a FROM t, (SELECT 1 AS a) AS u").await;
        assert!(message.to_lowercase().contains("ambiguous"), "{message}");
        let mut statement = parse("SELECT a, b FROM t");
        assert!(!rename_duplicate_outputs(&mut statement, &fixture).unwrap());
        assert_eq!(restored(&statement), "SELECT a, b FROM t");
    }

    #[test]
    fn takes_markers_out() {
        assert_eq!(without_markers(&format!("a{MARKER}12")), "a");
        assert_eq!(without_markers(&format!("f(a{MARKER}1, b{MARKER}2)")), "f(a, b)");
        assert_eq!(without_markers("plain1"), "plain1");
    }
}
