//! Expressions that the planner gets wrong.
//!
//! - `x op ANY (q)` and `ALL`: the optimizer puts the comparison into `q`, where an unaliased column
//!   of the same table has the same name, so `t.i = t.i`. `q` is wrapped in a derived table of its
//!   own name. Where only truth counts (`WHERE`), `= ANY` becomes `IN` and `<> ALL` `NOT IN`, which
//!   are hash joins.
//! - `SIMILAR TO` is planned as an unanchored regular expression; it becomes a call of our
//!   `similar_to`.
//! - `any_value(x ORDER BY y)` loses its order; it becomes `first_value` over the rows with a value.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArguments, Ident, ObjectName, Query, Select, SelectItem, UnaryOperator, Visit, Visitor,
    VisitorMut,
};

use super::syntax;
use crate::error::Error;

/// The pass over expressions.
#[derive(Debug, Default)]
pub(super) struct Expressions {
    set_comparison_count: usize,
}

impl VisitorMut for Expressions {
    type Break = Error;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        for item in &mut select.projection {
            keep_name(item);
        }
        for predicate in [&mut select.selection, &mut select.having].into_iter().flatten() {
            set_comparison_to_in(predicate);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        match expr {
            Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } => {
                if let Expr::Subquery(query) = right.as_mut() {
                    self.set_comparison_count += 1;
                    wrap(query, format!("__set_comparison_{}", self.set_comparison_count));
                }
            }
            Expr::SimilarTo { .. } => similar_to_call(expr),
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

/// Gives a select item that will be rewritten the name of what the user wrote.
fn keep_name(item: &mut SelectItem) {
    struct Rewritten;
    impl Visitor for Rewritten {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::SimilarTo { .. } | Expr::AnyOp { .. } | Expr::AllOp { .. } => {
                    ControlFlow::Break(())
                }
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

/// Turns `= ANY` into `IN` and `<> ALL` into `NOT IN` where unknown counts as false.
fn set_comparison_to_in(predicate: &mut Expr) {
    match predicate {
        Expr::Nested(inner) => set_comparison_to_in(inner),
        Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
            set_comparison_to_in(left);
            set_comparison_to_in(right);
        }
        Expr::AnyOp { left, compare_op, right, .. } | Expr::AllOp { left, compare_op, right } => {
            let _ = (left, compare_op, right);
            if let Some(replacement) = in_subquery(predicate) {
                *predicate = replacement;
            }
        }
        _ => {}
    }
}

fn in_subquery(comparison: &Expr) -> Option<Expr> {
    let (left, right, negated) = match comparison {
        Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => (left, right, false),
        Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => (left, right, true),
        _ => return None,
    };
    let Expr::Subquery(subquery) = right.as_ref() else { return None };
    Some(Expr::InSubquery { expr: left.clone(), subquery: subquery.clone(), negated })
}

fn wrap(query: &mut Box<Query>, name: String) {
    let inner = std::mem::replace(query.as_mut(), syntax::select_all(vec![]));
    let relation = syntax::derived(inner, Some(syntax::table_alias(Ident::new(name))));
    **query = syntax::select_all(vec![syntax::from(relation)]);
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
            ("i = ANY (VALUES (2), (3))", vec!["2", "3"]),
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
            ("i = ANY (SELECT i FROM n)", ["1|true", "2|NULL", "3|NULL", "4|NULL"]),
            ("i <> ALL (SELECT i FROM n)", ["1|false", "2|NULL", "3|NULL", "4|NULL"]),
            ("i >= ALL (SELECT i FROM n)", ["1|NULL", "2|NULL", "3|NULL", "4|NULL"]),
            ("i > ALL (SELECT i FROM none)", ["1|true", "2|true", "3|true", "4|true"]),
            ("j = ANY (SELECT i FROM none)", ["1|false", "2|false", "3|false", "4|false"]),
            ("j = ANY (SELECT i FROM t)", ["1|true", "2|true", "3|true", "4|NULL"]),
        ] {
            let sql = format!("SELECT i, {expression} FROM t");
            assert_eq!(fixture.rows(&sql).await, wanted, "{expression}");
        }
        let names = fixture.names("SELECT i > ALL (SELECT i FROM none) FROM t").await;
        assert_eq!(names, ["i > ALL(SELECT i FROM none)"]);
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
