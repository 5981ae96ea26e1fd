//! `INTERSECT ALL` and `EXCEPT ALL`, which count.
//!
//! DataFusion plans them as semi and anti joins without duplicate removal, so `{1, 1} EXCEPT ALL {1}`
//! is empty. Here equal rows are numbered on each side; then the plain operation does the counting:
//! the n-th copy on the left meets the n-th copy on the right.

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, SelectItem, SetExpr, SetOperator, SetQuantifier, TableAlias,
    TableAliasColumnDef, VisitMut, WindowSpec, WindowType,
};

use super::RelationSchemas;
use super::distinct_names::without_markers;
use super::scope::{self, Scope};
use super::syntax::{self, quoted};
use crate::error::{Error, Result};

/// Rewrites all queries of `node`.
///
/// # Errors
/// If a side cannot be planned by itself.
pub(super) fn rewrite(node: &mut impl VisitMut, schemas: &dyn RelationSchemas) -> Result<()> {
    scope::bottom_up(node, &Scope::default(), &mut |query, scope| {
        rewrite_body(&mut query.body, scope, schemas)
    })
}

fn rewrite_body(body: &mut SetExpr, scope: &Scope, schemas: &dyn RelationSchemas) -> Result<()> {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = body else { return Ok(()) };
    rewrite_body(left, scope, schemas)?;
    rewrite_body(right, scope, schemas)?;
    if *set_quantifier != SetQuantifier::All || *op == SetOperator::Union {
        return Ok(());
    }
    let op = *op;
    let names = output_names(left, scope, schemas)?;
    let width = output_names(right, scope, schemas)?.len();
    if names.len() != width {
        return Err(Error::plan(format!(
            "{op} queries have different number of columns: {} and {width}",
            names.len()
        )));
    }
    let counted = SetExpr::SetOperation {
        op,
        set_quantifier: SetQuantifier::None,
        left: Box::new(numbered(left.as_ref().clone(), names.len(), "__left")),
        right: Box::new(numbered(right.as_ref().clone(), names.len(), "__right")),
    };
    let projection = names.iter().enumerate().map(|(idx, name)| SelectItem::ExprWithAlias {
        expr: Expr::Identifier(column(idx)),
        alias: quoted(name),
    });
    let alias = syntax::table_alias(Ident::new("__counted"));
    let relation = syntax::derived(syntax::query(counted), Some(alias));
    let select = syntax::select(projection.collect(), vec![syntax::from(relation)]);
    *body = SetExpr::Select(Box::new(select));
    Ok(())
}

fn output_names(
    side: &SetExpr,
    scope: &Scope,
    schemas: &dyn RelationSchemas,
) -> Result<Vec<String>> {
    let schema = scope.schema_of_query(as_query(side.clone()), schemas)?;
    Ok(schema.fields().iter().map(|field| without_markers(field.name())).collect())
}

fn as_query(body: SetExpr) -> Query {
    match body {
        SetExpr::Query(query) => *query,
        other => syntax::query(other),
    }
}

fn column(idx: usize) -> Ident {
    Ident::new(format!("__c{idx}"))
}

/// Makes `SELECT *, row_number() OVER (PARTITION BY all columns) FROM (side) AS alias (columns)`.
fn numbered(side: SetExpr, width: usize, alias: &str) -> SetExpr {
    let columns: Vec<_> = (0..width).map(column).collect();
    let mut number = syntax::call("row_number", vec![]);
    number.over = Some(WindowType::WindowSpec(WindowSpec {
        window_name: None,
        partition_by: columns.iter().cloned().map(Expr::Identifier).collect(),
        order_by: vec![],
        window_frame: None,
    }));
    let projection = columns
        .iter()
        .cloned()
        .map(|column| SelectItem::UnnamedExpr(Expr::Identifier(column)))
        .chain([SelectItem::ExprWithAlias {
            expr: Expr::Function(number),
            alias: Ident::new("__copy"),
        }]);
    let alias = TableAlias {
        columns: columns
            .iter()
            .cloned()
            .map(|name| TableAliasColumnDef { name, data_type: None })
            .collect(),
        ..syntax::table_alias(Ident::new(alias))
    };
    let relation = syntax::derived(as_query(side), Some(alias));
    SetExpr::Select(Box::new(syntax::select(projection.collect(), vec![syntax::from(relation)])))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;

    async fn fixture() -> Fixture {
        Fixture::new(&[
            "CREATE TABLE a(x INT, y TEXT) AS VALUES (1, 'p'), (1, 'p'), (1, 'p'), (2, NULL), (2, NULL)",
            "CREATE TABLE b(x BIGINT, y TEXT) AS VALUES (1, 'p'), (1, 'p'), (2, NULL), (3, 'q')",
        ])
        .await
    }

    #[tokio::test]
    async fn counts_copies() {
        let fixture = fixture().await;
        for (sql, wanted) in [
            ("SELECT * FROM a EXCEPT ALL SELECT * FROM b", vec!["1|p", "2|NULL"]),
            ("SELECT * FROM a INTERSECT ALL SELECT * FROM b", vec!["1|p", "1|p", "2|NULL"]),
            ("SELECT * FROM b EXCEPT ALL SELECT * FROM a", vec!["3|q"]),
            ("SELECT * FROM a EXCEPT ALL SELECT * FROM b EXCEPT ALL SELECT 1, 'p'", vec!["2|NULL"]),
            ("SELECT x, x FROM a EXCEPT ALL SELECT x, x FROM b", vec!["1|1", "2|2"]),
            ("SELECT * FROM a EXCEPT SELECT * FROM b", vec![]),
            (
                "WITH c AS (SELECT x FROM a) SELECT x FROM c EXCEPT ALL (SELECT x FROM c LIMIT 0)",
                vec!["1", "1", "1", "2", "2"],
            ),
            ("SELECT count(*) FROM (SELECT x FROM a EXCEPT ALL SELECT x FROM b) AS d", vec!["2"]),
        ] {
            assert_eq!(fixture.rows(sql).await, wanted, "{sql}");
        }
        let sql = "SELECT x AS z FROM a INTERSECT ALL SELECT x FROM b ORDER BY z DESC";
        assert_eq!(fixture.ordered(sql).await, ["2", "1", "1"]);
        assert_eq!(fixture.names(sql).await, ["z"]);
    }

    #[tokio::test]
    async fn refuses_sides_of_different_width() {
        let message = fixture().await.error("SELECT 1, 2 EXCEPT ALL SELECT 1").await;
        assert!(message.contains("different number of columns: 2 and 1"), "{message}");
    }
}
