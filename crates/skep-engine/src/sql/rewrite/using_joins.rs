//! Joins that merge columns: `USING` and `NATURAL`.
//!
//! DataFusion takes a merged column from one fixed side: the left one, or for `SELECT *` the one
//! whose qualifier sorts first. On an outer join that side may be the one filled with nulls. Such
//! joins become joins with `ON`, and the merged column is written out: the left side's for an inner
//! or left join, the right side's for a right join, `coalesce` of both for a full join. `SELECT *`
//! lists it in the left side's place, as DataFusion does. Qualified references stay one-sided.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Ident, JoinConstraint, JoinOperator, Query, Select, SelectItem, SetExpr,
    TableAlias, TableFactor, TableWithJoins, Value, VisitMut,
};

use super::RelationSchemas;
use super::merged_columns::{self, MergedColumns};
use super::scope::{self, Scope};
use super::syntax::{self, normalize, quoted};
use crate::error::{Error, Result};

/// Rewrites all queries of `node`.
///
/// # Errors
/// If a merged column is missing or ambiguous, or an operand cannot be planned by itself.
pub(super) fn rewrite(node: &mut impl VisitMut, schemas: &dyn RelationSchemas) -> Result<()> {
    let mut relation_count = 0;
    scope::bottom_up(node, &Scope::default(), &mut |query, scope| {
        let mut joins =
            UsingJoins { scope, schemas, relation_count: &mut relation_count, has_unknown: false };
        joins.query(query)
    })
}

/// A column that a reference without qualifier, or `*`, sees.
#[derive(Debug, Clone)]
pub(super) struct VisibleColumn {
    pub(super) name: String,
    /// How to say it without doubt.
    pub(super) expr: Expr,
    /// Whether it stands for a column of either side.
    pub(super) is_merged: bool,
}

/// The rewriting of the joins of one query.
struct UsingJoins<'a> {
    scope: &'a Scope,
    schemas: &'a dyn RelationSchemas,
    /// How many relations without a name were given one.
    relation_count: &'a mut usize,
    /// Whether a lateral relation is there, which cannot be planned by itself.
    has_unknown: bool,
}

/// Which rows, and so which columns, a join keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Inner,
    Left,
    Right,
    Full,
    OnlyLeft,
    OnlyRight,
}

impl UsingJoins<'_> {
    fn query(&mut self, query: &mut Query) -> Result<()> {
        let Query { body, order_by, .. } = query;
        if let SetExpr::Select(select) = body.as_mut() {
            if !select.from.iter().any(merges) {
                return Ok(());
            }
            let columns = self.from(&mut select.from)?;
            self.refuse_unknown_star(select)?;
            let merged = MergedColumns::new(&columns, self.scope, self.schemas);
            return merged_columns::write_out(select, order_by.as_mut(), &columns, merged);
        }
        self.branches(body)
    }

    fn branches(&mut self, body: &mut SetExpr) -> Result<()> {
        match body {
            SetExpr::Select(select) if select.from.iter().any(merges) => {
                let columns = self.from(&mut select.from)?;
                self.refuse_unknown_star(select)?;
                let merged = MergedColumns::new(&columns, self.scope, self.schemas);
                merged_columns::write_out(select, None, &columns, merged)
            }
            SetExpr::SetOperation { left, right, .. } => {
                self.branches(left)?;
                self.branches(right)
            }
            _ => Ok(()),
        }
    }

    /// Refuses `*` over a relation whose columns are not known.
    fn refuse_unknown_star(&self, select: &Select) -> Result<()> {
        let has_star = select.projection.iter().any(|item| matches!(item, SelectItem::Wildcard(_)));
        if self.has_unknown && has_star {
            return Err(Error::unsupported(
                "* over a lateral relation beside a join with USING",
                "list the columns",
            ));
        }
        Ok(())
    }

    fn from(&mut self, from: &mut [TableWithJoins]) -> Result<Vec<VisibleColumn>> {
        self.has_unknown = false;
        let mut columns = vec![];
        for table in from {
            columns.extend(self.table_with_joins(table)?);
        }
        Ok(columns)
    }

    fn table_with_joins(&mut self, table: &mut TableWithJoins) -> Result<Vec<VisibleColumn>> {
        let mut columns = self.relation(&mut table.relation)?;
        for join in &mut table.joins {
            let right = self.relation(&mut join.relation)?;
            columns = self.join(columns, right, &mut join.join_operator)?;
        }
        Ok(columns)
    }

    fn relation(&mut self, relation: &mut TableFactor) -> Result<Vec<VisibleColumn>> {
        if let TableFactor::NestedJoin { table_with_joins, alias } = relation {
            let columns = self.table_with_joins(table_with_joins)?;
            let Some(alias) = alias.take() else { return Ok(columns) };
            *relation = aliased_join(table_with_joins.as_ref().clone(), &columns, alias);
        }
        let is_lateral = matches!(
            relation,
            TableFactor::Derived { lateral: true, .. }
                | TableFactor::Function { lateral: true, .. }
                | TableFactor::UNNEST { .. }
        );
        let columns = match self.relation_columns(relation) {
            Err(_) if is_lateral => {
                self.has_unknown = true;
                return Ok(vec![]);
            }
            columns => columns?,
        };
        if columns.iter().all(|column| matches!(column.expr, Expr::CompoundIdentifier(_))) {
            return Ok(columns);
        }
        if let TableFactor::Derived { alias: alias @ None, .. } = relation {
            *self.relation_count += 1;
            let name = format!("__relation_{}", self.relation_count);
            *alias = Some(syntax::table_alias(Ident::new(name)));
            return self.relation_columns(relation);
        }
        Ok(columns)
    }

    fn relation_columns(&self, relation: &TableFactor) -> Result<Vec<VisibleColumn>> {
        let from = vec![syntax::from(relation.clone())];
        let schema = self.scope.schema_of(vec![syntax::star()], from, self.schemas)?;
        let columns = schema.iter().map(|(qualifier, field)| {
            let name = field.name().clone();
            let expr = match qualifier {
                Some(qualifier) => {
                    let mut parts: Vec<_> = qualifier.to_vec().into_iter().map(quoted).collect();
                    parts.push(quoted(&name));
                    Expr::CompoundIdentifier(parts)
                }
                None => Expr::Identifier(quoted(&name)),
            };
            VisibleColumn { name, expr, is_merged: false }
        });
        Ok(columns.collect())
    }

    fn join(
        &self,
        left: Vec<VisibleColumn>,
        right: Vec<VisibleColumn>,
        operator: &mut JoinOperator,
    ) -> Result<Vec<VisibleColumn>> {
        let (side, mut constraint) = parts(operator)?;
        let keys = match constraint.as_deref_mut() {
            Some(JoinConstraint::Using(names)) => names
                .iter()
                .map(|name| match name.0.as_slice() {
                    [part] => part.as_ident().map(normalize).ok_or_else(|| not_a_column(name)),
                    _ => Err(not_a_column(name)),
                })
                .collect::<Result<Vec<_>>>()?,
            Some(JoinConstraint::Natural) => right
                .iter()
                .filter(|column| left.iter().any(|other| other.name == column.name))
                .map(|column| column.name.clone())
                .collect(),
            Some(JoinConstraint::On(condition)) => {
                let columns: Vec<_> = left.iter().chain(&right).cloned().collect();
                MergedColumns::new(&columns, self.scope, self.schemas).apply(condition)?;
                vec![]
            }
            Some(JoinConstraint::None) | None => vec![],
        };
        if let Some(constraint @ (JoinConstraint::Using(_) | JoinConstraint::Natural)) = constraint
        {
            *constraint = JoinConstraint::On(equal(&keys, &left, &right)?);
        }
        merge(side, &keys, left, right)
    }
}

fn not_a_column(name: &impl ToString) -> Error {
    Error::plan(format!("USING takes plain column names, not {}", name.to_string()))
}

/// Returns what a join keeps, and its constraint if it has one.
fn parts(operator: &mut JoinOperator) -> Result<(Side, Option<&mut JoinConstraint>)> {
    use JoinOperator as J;
    Ok(match operator {
        J::Join(on) | J::Inner(on) | J::CrossJoin(on) => (Side::Inner, Some(on)),
        J::Left(on) | J::LeftOuter(on) => (Side::Left, Some(on)),
        J::Right(on) | J::RightOuter(on) => (Side::Right, Some(on)),
        J::FullOuter(on) => (Side::Full, Some(on)),
        J::LeftSemi(on) | J::LeftAnti(on) => (Side::OnlyLeft, Some(on)),
        J::RightSemi(on) | J::RightAnti(on) => (Side::OnlyRight, Some(on)),
        J::CrossApply | J::OuterApply => (Side::Inner, None),
        other => {
            let what = format!("this kind of join ({other:?}) beside a join with USING");
            return Err(Error::unsupported(what, "write the join with ON"));
        }
    })
}

fn equal(keys: &[String], left: &[VisibleColumn], right: &[VisibleColumn]) -> Result<Expr> {
    let mut condition = None;
    for key in keys {
        let pair = syntax::binary(
            only(key, left, "left")?.expr.clone(),
            BinaryOperator::Eq,
            only(key, right, "right")?.expr.clone(),
        );
        condition = Some(match condition {
            None => pair,
            Some(before) => syntax::binary(before, BinaryOperator::And, pair),
        });
    }
    Ok(condition.unwrap_or_else(|| Expr::value(Value::Boolean(true))))
}

fn only<'a>(key: &str, columns: &'a [VisibleColumn], side: &str) -> Result<&'a VisibleColumn> {
    let mut found = columns.iter().filter(|column| column.name == key);
    match (found.next(), found.next()) {
        (Some(column), None) => Ok(column),
        (Some(_), Some(_)) => Err(Error::plan(format!(
            "column \"{key}\" in USING appears more than once on the {side} side of the join"
        ))),
        (None, _) => Err(Error::NotFound {
            kind: "column",
            name: key.to_owned(),
            position: None,
            hint: Some(format!("USING needs it on the {side} side of the join")),
        }),
    }
}

fn merge(
    side: Side,
    keys: &[String],
    mut left: Vec<VisibleColumn>,
    mut right: Vec<VisibleColumn>,
) -> Result<Vec<VisibleColumn>> {
    match side {
        Side::OnlyLeft => return Ok(left),
        Side::OnlyRight => return Ok(right),
        _ => {}
    }
    for column in left.iter_mut().filter(|column| keys.contains(&column.name)) {
        let other = only(&column.name, &right, "right")?.expr.clone();
        column.is_merged = true;
        match side {
            Side::Right => column.expr = other,
            Side::Full => {
                let both = vec![column.expr.clone(), other];
                column.expr = Expr::Function(syntax::call("coalesce", both));
            }
            _ => {}
        }
    }
    right.retain(|column| !keys.contains(&column.name));
    left.append(&mut right);
    Ok(left)
}

/// Makes `(SELECT columns FROM join) AS alias` of `(join) AS alias`.
fn aliased_join(join: TableWithJoins, columns: &[VisibleColumn], alias: TableAlias) -> TableFactor {
    let projection = columns.iter().map(merged_columns::select_item).collect();
    let select = Box::new(syntax::select(projection, vec![join]));
    syntax::derived(syntax::query(SetExpr::Select(select)), Some(alias))
}

/// Returns whether a `FROM` entry has a join that merges columns and must be rewritten.
fn merges(table: &TableWithJoins) -> bool {
    let nested = |relation: &TableFactor| match relation {
        TableFactor::NestedJoin { table_with_joins, .. } => merges(table_with_joins),
        _ => false,
    };
    nested(&table.relation)
        || table.joins.iter().any(|join| {
            let constraint = match &join.join_operator {
                JoinOperator::Join(constraint)
                | JoinOperator::Inner(constraint)
                | JoinOperator::Left(constraint)
                | JoinOperator::LeftOuter(constraint)
                | JoinOperator::Right(constraint)
                | JoinOperator::RightOuter(constraint)
                | JoinOperator::FullOuter(constraint) => constraint,
                _ => return nested(&join.relation),
            };
            matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural)
                || nested(&join.relation)
        })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;

    async fn fixture() -> Fixture {
        Fixture::new(&[
            "CREATE TABLE a(k INT, x TEXT) AS VALUES (1, 'a1'), (2, 'a2')",
            "CREATE TABLE b(k INT, y TEXT) AS VALUES (2, 'b2'), (3, 'b3')",
            "CREATE TABLE c(k BIGINT, z TEXT) AS VALUES (3, 'c3'), (4, 'c4')",
            "CREATE TABLE t(k INT, m INT) AS VALUES (1, 10), (3, 30)",
        ])
        .await
    }

    async fn check(cases: &[(&str, &[&str])]) {
        let fixture = fixture().await;
        for (sql, wanted) in cases {
            assert_eq!(fixture.rows(sql).await, *wanted, "{sql}");
        }
    }

    #[tokio::test]
    async fn a_merged_column_has_the_value_of_either_side() {
        check(&[
            ("SELECT k FROM a RIGHT JOIN b USING (k)", &["2", "3"]),
            ("SELECT k FROM a FULL JOIN b USING (k)", &["1", "2", "3"]),
            ("SELECT k FROM a NATURAL RIGHT JOIN b", &["2", "3"]),
            ("SELECT k FROM a NATURAL FULL JOIN b", &["1", "2", "3"]),
            ("SELECT k FROM a LEFT JOIN b USING (k)", &["1", "2"]),
            ("SELECT k, a.k, b.k FROM a FULL JOIN b USING (k)", &["1|1|NULL", "2|2|2", "3|NULL|3"]),
            ("SELECT k + 1 FROM a FULL JOIN b USING (k) WHERE k > 1", &["3", "4"]),
            (
                "SELECT k, count(*) FROM a FULL JOIN b USING (k) GROUP BY k HAVING k > 1",
                &["2|1", "3|1"],
            ),
            ("SELECT count(k), max(k) FROM a RIGHT JOIN b USING (k)", &["2|3"]),
            ("SELECT DISTINCT k FROM a FULL JOIN b USING (k) ORDER BY k", &["1", "2", "3"]),
            ("SELECT K FROM a FULL JOIN b USING (K) WHERE \"k\" = 3", &["3"]),
            ("SELECT NOT (k > 3), -k FROM a JOIN b USING (k)", &["true|-2"]),
            ("SELECT count(*) FROM a NATURAL JOIN b GROUP BY k HAVING NOT (k > 3)", &["1"]),
            ("SELECT x FROM a JOIN b USING (k) ORDER BY -k", &["a2"]),
        ])
        .await;
    }

    #[tokio::test]
    async fn a_star_lists_a_merged_column_once() {
        check(&[
            ("SELECT * FROM a FULL JOIN b USING (k)", &["1|a1|NULL", "2|a2|b2", "3|NULL|b3"]),
            ("SELECT * FROM a RIGHT JOIN b USING (k)", &["2|a2|b2", "3|NULL|b3"]),
            ("SELECT * FROM b LEFT JOIN a USING (k)", &["2|b2|a2", "3|b3|NULL"]),
            ("SELECT * FROM b NATURAL LEFT JOIN a", &["2|b2|a2", "3|b3|NULL"]),
            ("SELECT * FROM b JOIN a USING (k)", &["2|b2|a2"]),
            ("SELECT * FROM (SELECT y, k FROM b) AS z JOIN a USING (k)", &["b2|2|a2"]),
            ("SELECT a.* FROM a RIGHT JOIN b USING (k)", &["2|a2", "NULL|NULL"]),
            ("SELECT b.*, k FROM a FULL JOIN b USING (k)", &["2|b2|2", "3|b3|3", "NULL|NULL|1"]),
            ("SELECT * EXCEPT (x) FROM a FULL JOIN b USING (k)", &["1|NULL", "2|b2", "3|b3"]),
            (
                "SELECT * REPLACE (k * 10 AS k) FROM a FULL JOIN b USING (k)",
                &["10|a1|NULL", "20|a2|b2", "30|NULL|b3"],
            ),
            ("SELECT count(*) FROM a FULL JOIN b USING (k)", &["3"]),
        ])
        .await;
        let names = fixture().await.names("SELECT *, k, k + 1 FROM a FULL JOIN b USING (k)").await;
        assert_eq!(names, ["k", "x", "y", "k", "k + 1"]);
    }

    #[tokio::test]
    async fn merges_in_chains() {
        check(&[
            (
                "SELECT * FROM a FULL JOIN b USING (k) FULL JOIN c USING (k)",
                &["1|a1|NULL|NULL", "2|a2|b2|NULL", "3|NULL|b3|c3", "4|NULL|NULL|c4"],
            ),
            ("SELECT k FROM a FULL JOIN b USING (k) JOIN c USING (k)", &["3"]),
            ("SELECT y, z FROM a FULL JOIN b USING (k) JOIN c ON c.k = b.k", &["b3|c3"]),
            ("SELECT k FROM (a FULL JOIN b USING (k)) RIGHT JOIN c USING (k)", &["3", "4"]),
            ("SELECT j.k FROM (a FULL JOIN b USING (k)) AS j", &["1", "2", "3"]),
            ("SELECT k, m FROM t JOIN (a FULL JOIN b USING (k)) USING (k)", &["1|10", "3|30"]),
        ])
        .await;
    }

    #[tokio::test]
    async fn merges_subqueries_and_common_tables() {
        check(&[
            (
                "SELECT k FROM (SELECT k FROM a) RIGHT JOIN (SELECT k FROM b) AS q USING (k)",
                &["2", "3"],
            ),
            (
                "SELECT * FROM (SELECT 1 AS k) FULL JOIN (SELECT 2 AS k) USING (k)",
                &["1", "2"],
            ),
            (
                "WITH a AS (SELECT k FROM a), q AS (SELECT 9 AS k) SELECT * FROM a FULL JOIN q USING (k)",
                &["1", "2", "9"],
            ),
            (
                "WITH o AS (SELECT 5 AS k) SELECT (SELECT max(k) FROM (WITH i AS (SELECT 7 AS k) \
                 SELECT k FROM o FULL JOIN i USING (k)))",
                &["7"],
            ),
            (
                "SELECT k FROM a FULL JOIN b USING (k) UNION ALL SELECT k FROM b FULL JOIN c USING (k)",
                &["1", "2", "2", "3", "3", "4"],
            ),
            ("SELECT k FROM (SELECT * FROM a FULL JOIN b USING (k)) AS j", &["1", "2", "3"]),
            (
                "SELECT k, u FROM a LEFT JOIN b USING (k) CROSS JOIN LATERAL \
                 (SELECT z AS u FROM c WHERE c.k = a.k + 2) AS w",
                &["1|c3", "2|c4"],
            ),
            (
                "WITH RECURSIVE r AS (SELECT 1 AS k UNION ALL SELECT k + 1 FROM r LEFT JOIN a \
                 USING (k) WHERE k < 4) SELECT k FROM r",
                &["1", "2", "3", "4"],
            ),
        ])
        .await;
    }

    #[tokio::test]
    async fn subqueries_may_hide_a_merged_column() {
        check(&[
            (
                "SELECT k FROM a FULL JOIN b USING (k) WHERE EXISTS (SELECT 1 FROM t WHERE t.k = k)",
                &["1", "2", "3"],
            ),
            (
                "SELECT k FROM a FULL JOIN b USING (k) WHERE EXISTS \
                 (SELECT 1 FROM (SELECT m FROM t) AS u WHERE u.m = k * 10)",
                &["1", "3"],
            ),
            (
                "SELECT k FROM a FULL JOIN b USING (k) WHERE k IN (SELECT k FROM c)",
                &["3"],
            ),
        ])
        .await;
    }

    #[tokio::test]
    async fn order_by_looks_at_the_select_list_first() {
        let fixture = fixture().await;
        for (sql, wanted) in [
            ("SELECT k FROM a FULL JOIN b USING (k) ORDER BY k DESC", vec!["3", "2", "1"]),
            ("SELECT x FROM a FULL JOIN b USING (k) ORDER BY k DESC", vec!["NULL", "a2", "a1"]),
            ("SELECT -k AS k FROM a FULL JOIN b USING (k) ORDER BY k", vec!["-3", "-2", "-1"]),
            (
                "SELECT b.k FROM a FULL JOIN b USING (k) ORDER BY k NULLS FIRST",
                vec!["NULL", "2", "3"],
            ),
            ("SELECT * FROM a RIGHT JOIN b USING (k) ORDER BY k DESC LIMIT 1", vec!["3|NULL|b3"]),
        ] {
            assert_eq!(fixture.ordered(sql).await, wanted, "{sql}");
        }
    }

    #[tokio::test]
    async fn refuses_what_it_cannot_tell() {
        let fixture = fixture().await;
        for (sql, wanted) in [
            (
                "SELECT * FROM a LEFT JOIN b USING (k) CROSS JOIN LATERAL (SELECT a.k AS u) AS z",
                "* over a lateral relation",
            ),
            ("SELECT k FROM a FULL JOIN b USING (k), c", "column \"k\" is ambiguous"),
            ("SELECT 1 FROM a FULL JOIN b USING (nope)", "column \"nope\" not found"),
            ("SELECT 1 FROM (a CROSS JOIN b) FULL JOIN c USING (k)", "more than once on the left"),
        ] {
            let message = fixture.error(sql).await;
            assert!(message.contains(wanted), "{sql}: {message}");
        }
    }

    #[tokio::test]
    async fn leaves_other_joins_alone() {
        let fixture = fixture().await;
        for sql in ["SELECT k FROM a JOIN b USING(k)", "SELECT * FROM a LEFT JOIN b ON a.k = b.k"] {
            assert_eq!(fixture.rewritten(sql).unwrap(), sql);
        }
        let sql = "SELECT k FROM a FULL JOIN b USING (k)";
        assert_eq!(
            fixture.rewritten(sql).unwrap(),
            "SELECT coalesce(\"a\".\"k\", \"b\".\"k\") AS k FROM a FULL JOIN b \
             ON \"a\".\"k\" = \"b\".\"k\""
        );
    }
}
