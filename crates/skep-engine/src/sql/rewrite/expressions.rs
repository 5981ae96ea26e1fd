//! Expressions that the planner gets wrong.
//!
//! - `x op ANY (q)` and `ALL`: the optimizer puts the comparison into `q`, where an unaliased column
//!   of the same table has the same name, so `t.i = t.i`. The column of `q` gets a name of its own.
//!   Where only truth counts, `= ANY` becomes `IN` and `<> ALL` `NOT IN`, which are hash joins.
//! - `x IN (q)` deeper in a filter takes unknown for false, so `x NOT IN (q) OR y` keeps rows that
//!   it must not; there it becomes `= ANY` or `<> ALL`.
//! - `x NOT IN (q)` where `x` has no column is a join without a key, which loses the nulls of `q`;
//!   it becomes `<> ALL` too.
//! - `EXISTS (q)` and `x IN (q)`: an output of `q` with the bare name of a correlated column of
//!   another relation is taken for that column. It gets a name of its own.
//! - `SIMILAR TO` is planned as an unanchored regular expression; it becomes a call of our
//!   `similar_to`.
//! - `LIKE` knows no escape character but the backslash; a literal pattern is said with that one.
//! - `any_value(x ORDER BY y)` loses its order; it becomes `first_value` over the rows with a value.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, Distinct, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArguments, GroupByExpr, Ident, JoinConstraint, JoinOperator,
    ObjectName, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableFactor,
    TableWithJoins, UnaryOperator, Value, ValueWithSpan, Visit, Visitor, VisitorMut,
    WildcardAdditionalOptions,
};

use super::syntax::{self, normalize};
use crate::error::Error;

/// The pass over expressions.
#[derive(Debug, Default)]
pub(super) struct Expressions {
    set_comparison_count: usize,
    output_count: usize,
}

impl VisitorMut for Expressions {
    type Break = Error;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        for item in &mut select.projection {
            refuse_set_comparison(item)?;
            keep_name(item);
        }
        let filters = [&mut select.selection, &mut select.having, &mut select.qualify];
        for filter in filters.into_iter().flatten() {
            membership(filter, Place::Conjunct);
        }
        select.from.iter_mut().for_each(constant_memberships);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        match expr {
            Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } => {
                if let Expr::Subquery(query) = right.as_mut() {
                    self.set_comparison_count += 1;
                    let name = format!("__set_comparison_{}", self.set_comparison_count);
                    rename_output(query, name);
                }
            }
            Expr::InSubquery { subquery, .. } => {
                hide_outputs(subquery, false, &mut self.output_count);
            }
            Expr::Exists { subquery, .. } => {
                hide_outputs(subquery, true, &mut self.output_count);
            }
            Expr::SimilarTo { .. } => similar_to_call(expr),
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                if let Err(error) = escape_by_backslash(pattern, escape_char) {
                    return ControlFlow::Break(error);
                }
            }
            Expr::Function(function) if is_ordered_any_value(function) => {
                if let Err(error) = any_value_to_first_value(function) {
                    return ControlFlow::Break(error);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Says a pattern with the one escape character that the engine's `LIKE` knows.
fn escape_by_backslash(
    pattern: &mut Expr,
    escape: &mut Option<ValueWithSpan>,
) -> Result<(), Error> {
    let Some(value) = escape else { return Ok(()) };
    let Value::SingleQuotedString(text) = &value.value else {
        return Err(Error::plan("ESCAPE takes one character in quotes"));
    };
    let mut characters = text.chars();
    let character = characters.next();
    if characters.next().is_some() {
        return Err(Error::plan(format!("ESCAPE takes one character, not '{text}'")));
    }
    if character == Some('\\') {
        return Ok(());
    }
    while let Expr::Nested(inner) = pattern {
        *pattern = inner.as_ref().clone();
    }
    match pattern {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) => {
            *text = escaped_pattern(text, character)?;
        }
        Expr::Value(ValueWithSpan { value: Value::Null, .. }) => {}
        _ => {
            return Err(Error::unsupported(
                "LIKE with ESCAPE and a pattern that is not a literal",
                "escape with a backslash and leave ESCAPE out",
            ));
        }
    }
    *escape = None;
    Ok(())
}

fn escaped_pattern(pattern: &str, escape: Option<char>) -> Result<String, Error> {
    let mut out = String::with_capacity(pattern.len());
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        let is_escape = Some(character) == escape;
        let literal = match is_escape {
            true => characters.next().ok_or_else(|| {
                Error::plan(format!("the LIKE pattern '{pattern}' ends with its escape character"))
            })?,
            false => character,
        };
        if literal == '\\' || (is_escape && matches!(literal, '%' | '_')) {
            out.push('\\');
        }
        out.push(literal);
    }
    Ok(out)
}

/// Refuses `ANY` and `ALL` of a subquery in a select list, where no join can stand for them.
fn refuse_set_comparison(item: &SelectItem) -> ControlFlow<Error> {
    syntax::own_expressions(item, |expr| match expr {
        Expr::AnyOp { right, .. } | Expr::AllOp { right, .. }
            if matches!(right.as_ref(), Expr::Subquery(_)) =>
        {
            ControlFlow::Break(Error::unsupported(
                "ANY or ALL of a subquery in a select list",
                "use it in WHERE, or compare with min, max or count of the subquery",
            ))
        }
        _ => ControlFlow::Continue(()),
    })
}

/// Gives a select item that will be rewritten the name of what the user wrote.
fn keep_name(item: &mut SelectItem) {
    struct Rewritten;
    impl Visitor for Rewritten {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::SimilarTo { .. }
                | Expr::Like { escape_char: Some(_), .. }
                | Expr::ILike { escape_char: Some(_), .. } => ControlFlow::Break(()),
                Expr::Function(function) if is_ordered_any_value(function) => {
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    if let SelectItem::UnnamedExpr(expr) = item
        && expr.visit(&mut Rewritten).is_break()
    {
        let alias = syntax::quoted(expr.to_string());
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
    }
}

/// Where in a filter an expression stands: what of unknown and false it keeps apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is the filter, or one of the terms that all must be true.
    Conjunct,
    /// Unknown counts as false, but other terms may make the filter true.
    Term,
    /// Unknown is not false.
    Inside,
}

/// Chooses between `IN` and `= ANY`, and between `NOT IN` and `<> ALL`.
///
/// The first of each is a hash join, but DataFusion takes unknown for false in it unless it is a
/// conjunct; the second tells all three apart.
fn membership(expr: &mut Expr, place: Place) {
    match expr {
        Expr::Nested(inner) => membership(inner, place),
        Expr::BinaryOp { left, op, right } => {
            let place = match op {
                BinaryOperator::And => place,
                BinaryOperator::Or if place != Place::Inside => Place::Term,
                _ => Place::Inside,
            };
            membership(left, place);
            membership(right, place);
        }
        Expr::UnaryOp { op: UnaryOperator::Not, expr: inner } => match as_membership(inner) {
            Some(mut inner) => {
                inner.negated = !inner.negated;
                *expr = inner.into_expr(place);
            }
            None => membership(inner, Place::Inside),
        },
        _ => match as_membership(expr) {
            Some(membership) => *expr = membership.into_expr(place),
            None => {
                let _ = ast::VisitMut::visit(expr, &mut Inside { query_depth: 0 });
            }
        },
    }
}

/// Whether a value is among the rows of a subquery.
struct Membership {
    value: Box<Expr>,
    subquery: Box<Query>,
    negated: bool,
}

fn as_membership(expr: &Expr) -> Option<Membership> {
    let (value, subquery, negated) = match expr {
        Expr::Nested(inner) => return as_membership(inner),
        Expr::InSubquery { expr, subquery, negated } => (expr, subquery, *negated),
        Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. }
        | Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => {
            let Expr::Subquery(subquery) = right.as_ref() else { return None };
            (left, subquery, matches!(expr, Expr::AllOp { .. }))
        }
        _ => return None,
    };
    Some(Membership { value: value.clone(), subquery: subquery.clone(), negated })
}

impl Membership {
    fn into_expr(self, place: Place) -> Expr {
        let Self { value, subquery, negated } = self;
        let is_join = match place {
            Place::Conjunct => !negated || has_column(&value),
            Place::Term => !negated,
            Place::Inside => false,
        };
        if is_join {
            return Expr::InSubquery { expr: value, subquery, negated };
        }
        let right = Box::new(Expr::Subquery(subquery));
        if negated {
            return Expr::AllOp { left: value, compare_op: BinaryOperator::NotEq, right };
        }
        Expr::AnyOp { left: value, compare_op: BinaryOperator::Eq, right, is_some: false }
    }
}

/// Tells whether an expression has a column of its own query.
fn has_column(expr: &Expr) -> bool {
    syntax::has_own(expr, |expr| matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)))
}

/// Rewrites the terms `constant NOT IN (q)` in the conditions of inner joins.
fn constant_memberships(table: &mut TableWithJoins) {
    let mut relations = vec![&mut table.relation];
    for join in &mut table.joins {
        if let JoinOperator::Join(JoinConstraint::On(condition))
        | JoinOperator::Inner(JoinConstraint::On(condition)) = &mut join.join_operator
        {
            constant_terms(condition);
        }
        relations.push(&mut join.relation);
    }
    for relation in relations {
        if let TableFactor::NestedJoin { table_with_joins, .. } = relation {
            constant_memberships(table_with_joins);
        }
    }
}

fn constant_terms(expr: &mut Expr) {
    match expr {
        Expr::Nested(inner) => constant_terms(inner),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            constant_terms(left);
            constant_terms(right);
        }
        Expr::UnaryOp { op: UnaryOperator::Not, expr: inner } => {
            if let Some(mut inner) = as_membership(inner)
                && !has_column(&inner.value)
            {
                inner.negated = !inner.negated;
                *expr = inner.into_expr(Place::Conjunct);
            }
        }
        _ => {
            if let Some(membership) = as_membership(expr)
                && !has_column(&membership.value)
            {
                *expr = membership.into_expr(Place::Conjunct);
            }
        }
    }
}

/// Reaches what stands deeper in a filter, under functions, `CASE` or `IS NULL`.
struct Inside {
    query_depth: usize,
}

impl VisitorMut for Inside {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.query_depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.query_depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.query_depth == 0
            && let Some(membership) = as_membership(expr)
        {
            *expr = membership.into_expr(Place::Inside);
        }
        ControlFlow::Continue(())
    }
}

/// Gives the column of a subquery a name that no other column has.
fn rename_output(query: &mut Query, name: String) {
    if let Some(item) = only_item(query) {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else {
            return;
        };
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::new(name) };
        return;
    }
    let inner = std::mem::replace(query, syntax::select_all(vec![]));
    let relation = syntax::derived(inner, Some(syntax::table_alias(Ident::new(name))));
    *query = syntax::select_all(vec![syntax::from(relation)]);
}

/// Gives the outputs of a subquery names that no correlated column has.
///
/// Only where names can meet: an alias, or a column out of several relations. What `EXISTS` selects
/// by a wildcard does not matter, so that becomes a constant.
fn hide_outputs(query: &mut Query, is_exists: bool, count: &mut usize) {
    let is_simple = query.order_by.is_none() && query.pipe_operators.is_empty();
    let has_limit = query.limit_clause.is_some() || query.fetch.is_some();
    let SetExpr::Select(select) = query.body.as_mut() else { return };
    if !is_simple || matches!(select.distinct, Some(Distinct::On(_))) {
        return;
    }
    let is_plain = select.having.is_none()
        && select.qualify.is_none()
        && matches!(&select.group_by, GroupByExpr::Expressions(exprs, _) if exprs.is_empty());
    let has_join = select.from.len() > 1 || select.from.iter().any(|table| !table.joins.is_empty());
    // A limit counts rows, and DISTINCT of a constant would leave one.
    let counts_rows = select.distinct.is_some() && has_limit;
    let is_free = is_exists && has_join && is_plain && !counts_rows;
    let relations = relation_names(&select.from);
    for item in &mut select.projection {
        let expr =
            match item {
                SelectItem::UnnamedExpr(
                    expr @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_)),
                ) if has_join => expr.clone(),
                SelectItem::ExprWithAlias { expr, .. } if is_plain => expr.clone(),
                SelectItem::Wildcard(options)
                    if is_free && *options == WildcardAdditionalOptions::default() =>
                {
                    syntax::number("1")
                }
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(name),
                    options,
                ) if is_free
                    && *options == WildcardAdditionalOptions::default()
                    && last_name(name).is_some_and(|name| relations.contains(&name)) =>
                {
                    syntax::number("1")
                }
                _ => continue,
            };
        *count += 1;
        let alias = Ident::new(format!("__output_{count}"));
        *item = SelectItem::ExprWithAlias { expr, alias };
    }
}

/// Returns the names by which the relations of a `FROM` clause can be called.
fn relation_names(from: &[TableWithJoins]) -> Vec<String> {
    let relations = from.iter().flat_map(|table| {
        std::iter::once(&table.relation).chain(table.joins.iter().map(|join| &join.relation))
    });
    let names = relations.filter_map(|relation| match relation {
        TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. } => Some(normalize(&alias.name)),
        TableFactor::Table { name, alias: None, .. } => last_name(name),
        _ => None,
    });
    names.collect()
}

fn last_name(name: &ObjectName) -> Option<String> {
    name.0.last().and_then(|part| part.as_ident()).map(normalize)
}

/// Returns the select item of a query if no other clause can refer to it.
fn only_item(query: &mut Query) -> Option<&mut SelectItem> {
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let is_simple = query.order_by.is_none()
        && query.pipe_operators.is_empty()
        && select.having.is_none()
        && select.qualify.is_none()
        && !matches!(select.distinct, Some(Distinct::On(_)))
        && matches!(&select.group_by, GroupByExpr::Expressions(exprs, _) if exprs.is_empty());
    let has_order = query.order_by.is_some();
    let [item] = select.projection.as_mut_slice() else { return None };
    let is_safe = match item {
        SelectItem::UnnamedExpr(_) => !has_order,
        SelectItem::ExprWithAlias { .. } => is_simple,
        _ => false,
    };
    is_safe.then_some(item)
}

fn similar_to_call(expr: &mut Expr) {
    let Expr::SimilarTo { negated, expr: text, pattern, escape_char } = expr else { return };
    let mut args = vec![text.as_ref().clone(), pattern.as_ref().clone()];
    args.extend(escape_char.clone().map(Expr::Value));
    let call = Expr::Function(syntax::call("similar_to", args));
    *expr = if *negated {
        Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(call) }
    } else {
        call
    };
}

fn is_ordered_any_value(function: &Function) -> bool {
    let FunctionArguments::List(list) = &function.args else { return false };
    list.clauses.iter().any(|clause| matches!(clause, FunctionArgumentClause::OrderBy(_)))
        && syntax::function_name(function) == "any_value"
}

fn any_value_to_first_value(function: &mut Function) -> Result<(), Error> {
    if function.over.is_some() {
        return Err(Error::unsupported(
            "any_value with ORDER BY over a window",
            "use first_value(x) IGNORE NULLS OVER (ORDER BY ...)",
        ));
    }
    let FunctionArguments::List(list) = &mut function.args else { return Ok(()) };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(value))] = list.args.as_slice() else {
        return Err(Error::plan("any_value takes one argument"));
    };
    list.duplicate_treatment = None;
    let has_value = Expr::IsNotNull(Box::new(Expr::Nested(Box::new(value.clone()))));
    let filter = match function.filter.take() {
        None => has_value,
        Some(filter) => syntax::binary(Expr::Nested(filter), BinaryOperator::And, has_value),
    };
    function.filter = Some(Box::new(filter));
    function.name = ObjectName::from(vec![Ident::new("first_value")]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;

    async fn fixture() -> Fixture {
        Fixture::new(&[
            "CREATE TABLE t(i INT, j INT) AS VALUES (1, 1), (2, 1), (3, 2), (4, NULL)",
            "CREATE TABLE n(i INT) AS VALUES (1), (NULL)",
            "CREATE TABLE none(i INT) AS SELECT 1 WHERE false",
            "CREATE TABLE s(x TEXT, y INT) AS VALUES ('b', 2), ('a', 3), (NULL, 1), ('c', NULL)",
        ])
        .await
    }

    #[tokio::test]
    async fn compares_with_subqueries_over_the_same_table() {
        let fixture = fixture().await;
        let filtered = |predicate: &str| format!("SELECT i FROM t WHERE {predicate}");
        for (predicate, wanted) in [
            ("i = ANY (SELECT i FROM t WHERE i < 3)", vec!["1", "2"]),
            ("i = SOME (SELECT i FROM t WHERE i < 3)", vec!["1", "2"]),
            ("NOT i = ANY (SELECT i FROM t WHERE i < 3)", vec!["3", "4"]),
            ("i <> ALL (SELECT i FROM t WHERE i < 3)", vec!["3", "4"]),
            ("i >= ALL (SELECT i FROM t)", vec!["4"]),
            ("i > ANY (SELECT i FROM t)", vec!["2", "3", "4"]),
            ("i < ALL (SELECT i FROM t WHERE i > 2)", vec!["1", "2"]),
            ("i <> ANY (SELECT i FROM t WHERE i = 1)", vec!["2", "3", "4"]),
            ("i = ALL (SELECT i FROM t WHERE i = 2)", vec!["2"]),
            ("i >= ALL (SELECT j FROM t)", vec![]),
            ("i >= ALL (SELECT j FROM t WHERE j IS NOT NULL)", vec!["2", "3", "4"]),
            ("i > ALL (SELECT i FROM none)", vec!["1", "2", "3", "4"]),
            ("i > ANY (SELECT i FROM none)", vec![]),
            ("i <> ALL (SELECT i FROM n)", vec![]),
            ("i = ANY (SELECT i FROM n)", vec!["1"]),
            ("i >= ALL (SELECT i + 1 FROM t WHERE i < 3)", vec!["3", "4"]),
            ("i >= ALL (SELECT max(i) FROM t GROUP BY j)", vec!["4"]),
            ("i <= ALL (SELECT i FROM t ORDER BY i DESC LIMIT 2)", vec!["1", "2", "3"]),
            ("i > ANY (SELECT * FROM n)", vec!["2", "3", "4"]),
            ("i = ANY (SELECT * FROM (VALUES (2), (3)) AS v(i))", vec!["2", "3"]),
            ("i = ANY (SELECT i FROM t WHERE i = ANY (SELECT i FROM t WHERE i > 3))", vec!["4"]),
            ("i + 0 = ANY (SELECT i FROM t WHERE i < 3) OR i = 4", vec!["1", "2", "4"]),
        ] {
            assert_eq!(fixture.rows(&filtered(predicate)).await, wanted, "{predicate}");
        }
    }

    #[tokio::test]
    async fn compares_with_nulls() {
        let fixture = fixture().await;
        for (expression, wanted) in [
            ("(i = ANY (SELECT i FROM n)) IS NULL", vec!["2", "3", "4"]),
            ("(i = ANY (SELECT i FROM n)) IS FALSE", vec![]),
            ("NOT i = ANY (SELECT i FROM n)", vec![]),
            ("(i <> ALL (SELECT i FROM n)) IS NULL", vec!["2", "3", "4"]),
            ("(i <> ALL (SELECT i FROM n)) IS FALSE", vec!["1"]),
            ("(i >= ALL (SELECT i FROM n)) IS NULL", vec!["1", "2", "3", "4"]),
            ("(j = ANY (SELECT i FROM t)) IS NULL", vec!["4"]),
            ("(j = ANY (SELECT i FROM none)) IS FALSE", vec!["1", "2", "3", "4"]),
            ("(j = ALL (SELECT i FROM none)) IS TRUE", vec!["1", "2", "3", "4"]),
        ] {
            let sql = format!("SELECT i FROM t WHERE {expression}");
            assert_eq!(fixture.rows(&sql).await, wanted, "{expression}");
        }
        let sql = "SELECT j FROM t GROUP BY j HAVING j >= ALL (SELECT j FROM t WHERE j > 0)";
        assert_eq!(fixture.rows(sql).await, ["2"]);
        let message = fixture.error("SELECT i > ALL (SELECT i FROM t) FROM t").await;
        assert!(message.contains("ANY or ALL of a subquery in a select list"), "{message}");
    }

    #[tokio::test]
    async fn membership_keeps_unknown_and_false_apart() {
        let fixture = fixture().await;
        for (predicate, wanted) in [
            ("i IN (SELECT i FROM n)", vec!["1"]),
            ("i NOT IN (SELECT i FROM n)", vec![]),
            ("NOT i IN (SELECT i FROM n)", vec![]),
            ("NOT (i NOT IN (SELECT i FROM n))", vec!["1"]),
            ("i NOT IN (SELECT i FROM n) OR i = 4", vec!["4"]),
            ("i IN (SELECT i FROM n) OR i = 4", vec!["1", "4"]),
            ("i <> ALL (SELECT i FROM n) OR i = 4", vec!["4"]),
            ("NOT (i IN (SELECT i FROM n) OR i = 4)", vec![]),
            ("(i IN (SELECT i FROM n)) IS NULL", vec!["2", "3", "4"]),
            ("(i NOT IN (SELECT i FROM n)) IS NULL", vec!["2", "3", "4"]),
            ("(i IN (SELECT i FROM n)) IS NOT FALSE", vec!["1", "2", "3", "4"]),
            ("coalesce(i IN (SELECT i FROM n), i = 3)", vec!["1", "3"]),
            ("j NOT IN (SELECT i FROM none) OR i = 1", vec!["1", "2", "3", "4"]),
            ("j NOT IN (SELECT i FROM t) OR i = 1", vec!["1"]),
        ] {
            let sql = format!("SELECT i FROM t WHERE {predicate}");
            assert_eq!(fixture.rows(&sql).await, wanted, "{predicate}");
        }
        // Most memberships are joins already and stay as they are.
        let sql = "SELECT i FROM t WHERE i NOT IN (SELECT i FROM n) AND i IN (SELECT i FROM n)";
        assert_eq!(fixture.rewritten(sql).unwrap(), sql);
    }

    #[tokio::test]
    async fn compares_with_correlated_subqueries() {
        let fixture = fixture().await;
        let sql = "SELECT i FROM t WHERE i = ANY (SELECT u.i FROM t u WHERE u.j = t.j)";
        assert_eq!(fixture.rows(sql).await, ["1", "2", "3"]);
        let sql = "SELECT i FROM t WHERE i >= ALL (SELECT u.i FROM t u WHERE u.j = t.j)";
        assert_eq!(fixture.rows(sql).await, ["2", "3", "4"]);
    }

    #[tokio::test]
    async fn similar_to_is_sql() {
        let fixture = fixture().await;
        for (expression, wanted) in [
            ("'abc' SIMILAR TO 'b'", "false"),
            ("'abc' SIMILAR TO '%(b|d)%'", "true"),
            ("'abc' NOT SIMILAR TO 'a_c'", "false"),
            ("'a%' SIMILAR TO 'a!%' ESCAPE '!'", "true"),
            ("'ab' SIMILAR TO 'a!%' ESCAPE '!'", "false"),
            ("NULL SIMILAR TO 'a'", "NULL"),
            ("'a' SIMILAR TO NULL", "NULL"),
            ("NOT 'a' SIMILAR TO 'b'", "true"),
            ("arrow_cast('abc', 'LargeUtf8') SIMILAR TO 'a%'", "true"),
            ("arrow_cast('abc', 'Utf8View') SIMILAR TO 'a%'", "true"),
            ("arrow_cast('abc', 'Dictionary(Int32, Utf8)') SIMILAR TO 'a%'", "true"),
        ] {
            assert_eq!(
                fixture.rows(&format!("SELECT {expression}")).await,
                [wanted],
                "{expression}"
            );
        }
        let sql = "SELECT x FROM s WHERE x SIMILAR TO '[a-b]'";
        assert_eq!(fixture.rows(sql).await, ["a", "b"]);
        let sql = "SELECT x, x SIMILAR TO x FROM s";
        assert_eq!(fixture.rows(sql).await, ["NULL|NULL", "a|true", "b|true", "c|true"]);
        let message = fixture.error("SELECT x SIMILAR TO '(' FROM s").await;
        assert!(message.contains("a ( is not closed"), "{message}");
        let message = fixture.error("SELECT y SIMILAR TO 'a' FROM s").await;
        assert!(message.contains("SIMILAR TO takes text, not Int32"), "{message}");
        let names = fixture.names("SELECT x SIMILAR TO 'a' FROM s").await;
        assert_eq!(names, ["x SIMILAR TO 'a'"]);
    }

    #[tokio::test]
    async fn any_value_obeys_its_order() {
        let fixture = fixture().await;
        for (expression, wanted) in [
            ("any_value(x ORDER BY y)", "b"),
            ("any_value(x ORDER BY y DESC NULLS LAST)", "a"),
            ("any_value(x ORDER BY y DESC NULLS FIRST)", "c"),
            ("any_value(x ORDER BY y) FILTER (WHERE y > 2)", "a"),
            ("any_value(x ORDER BY x DESC) FILTER (WHERE y = 1)", "NULL"),
        ] {
            assert_eq!(fixture.rows(&format!("SELECT {expression} FROM s")).await, [wanted]);
        }
        let sql = "SELECT i % 2, any_value(j ORDER BY i DESC) FROM t GROUP BY i % 2";
        assert_eq!(fixture.rows(sql).await, ["0|1", "1|2"]);
        let message = fixture.error("SELECT any_value(x ORDER BY y) OVER () FROM s").await;
        assert!(message.contains("any_value with ORDER BY over a window"), "{message}");
    }
}
