//! Clauses that the planner drops or refuses, said in words that it obeys.
//!
//! `TABLESAMPLE` becomes a filter by `random()` or a limit, `FETCH FIRST` becomes `LIMIT`,
//! `GROUP BY ... WITH ROLLUP` becomes `ROLLUP (...)`, and `FROM t` alone gets its `SELECT *`.
//! The terms of `WITH RECURSIVE f(a, b)` name their columns `a` and `b` themselves, since the planner
//! does so only after it has refused `SELECT 1, CAST(1 AS BIGINT)` for two columns of one name.

use std::mem;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, GroupByWithModifier, Ident, LimitClause, Query, Select,
    SelectFlavor, SelectItem, SetExpr, TableFactor, TableSample, TableSampleKind,
    TableSampleMethod, TableSampleUnit, UnaryOperator, Value, VisitorMut,
};

use super::syntax;
use crate::error::{Error, Result};

/// The pass over these clauses.
#[derive(Debug)]
pub(super) struct Clauses;

impl VisitorMut for Clauses {
    type Break = Error;

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        if let Some(with) = query.with.as_mut().filter(|with| with.recursive) {
            for cte in &mut with.cte_tables {
                let names: Vec<_> =
                    cte.alias.columns.iter().map(|column| column.name.clone()).collect();
                if !names.is_empty() {
                    name_columns(&mut cte.query.body, &names);
                }
            }
        }
        into_flow(fetch_to_limit(query))
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        if select.flavor == SelectFlavor::FromFirstNoSelect && select.projection.is_empty() {
            select.projection.push(syntax::star());
            select.flavor = SelectFlavor::Standard;
        }
        into_flow(group_modifiers(select))
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        into_flow(sample_to_filter(factor))
    }
}

fn into_flow(result: Result<()>) -> ControlFlow<Error> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

/// Names the columns of every `SELECT` of a set operation where nothing in it could mean the names.
fn name_columns(body: &mut SetExpr, names: &[Ident]) {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            name_columns(left, names);
            name_columns(right, names);
        }
        SetExpr::Select(select) => {
            let is_plain = select.having.is_none()
                && select.qualify.is_none()
                && select.group_by == GroupByExpr::Expressions(vec![], vec![])
                && select.sort_by.is_empty()
                && select.projection.len() == names.len()
                && select.projection.iter().all(|item| {
                    matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. })
                });
            if !is_plain {
                return;
            }
            for (item, name) in select.projection.iter_mut().zip(names) {
                if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
                {
                    let (expr, alias) = (expr.clone(), name.clone());
                    *item = SelectItem::ExprWithAlias { expr, alias };
                }
            }
        }
        _ => {}
    }
}

fn fetch_to_limit(query: &mut Query) -> Result<()> {
    let Some(fetch) = query.fetch.take() else { return Ok(()) };
    let quantity = fetch.quantity.unwrap_or_else(|| syntax::number("1"));
    match &mut query.limit_clause {
        None => {
            query.limit_clause = Some(LimitClause::LimitOffset {
                limit: Some(quantity),
                offset: None,
                limit_by: vec![],
            });
        }
        Some(LimitClause::LimitOffset { limit: limit @ None, .. }) => *limit = Some(quantity),
        Some(_) => return Err(Error::plan("LIMIT and FETCH FIRST exclude each other")),
    }
    Ok(())
}

fn group_modifiers(select: &mut Select) -> Result<()> {
    let GroupByExpr::Expressions(exprs, modifiers) = &mut select.group_by else { return Ok(()) };
    let modifiers = mem::take(modifiers);
    let modifier = match modifiers.as_slice() {
        [] => return Ok(()),
        [modifier] => modifier,
        [_, second, ..] => {
            return Err(Error::unsupported(format!("{second} after another modifier"), ""));
        }
    };
    let sets = || exprs.iter().map(|expr| vec![expr.clone()]).collect();
    let grouping = match modifier {
        GroupByWithModifier::Rollup => Expr::Rollup(sets()),
        GroupByWithModifier::Cube => Expr::Cube(sets()),
        GroupByWithModifier::GroupingSets(sets @ Expr::GroupingSets(_)) => sets.clone(),
        GroupByWithModifier::GroupingSets(_) | GroupByWithModifier::Totals => {
            return Err(Error::unsupported(
                format!("GROUP BY ... {modifier}"),
                "use GROUP BY ROLLUP (...) or GROUPING SETS (...)",
            ));
        }
    };
    *exprs = vec![grouping];
    Ok(())
}

/// How much of a table a sample takes.
enum SampleSize {
    /// Each row with this probability.
    Fraction(f64),
    /// So many rows.
    Rows(u64),
}

/// Turns `t TABLESAMPLE (p PERCENT)` into `(SELECT * FROM t WHERE random() < p / 100)`.
///
/// The derived table has no alias, so the columns keep the qualifier that they had.
fn sample_to_filter(factor: &mut TableFactor) -> Result<()> {
    let (sample, is_lateral) = match factor {
        TableFactor::Table { sample, .. } => (sample.take(), false),
        TableFactor::Derived { sample, lateral, .. } => (sample.take(), *lateral),
        _ => return Ok(()),
    };
    let Some(TableSampleKind::BeforeTableAlias(sample) | TableSampleKind::AfterTableAlias(sample)) =
        sample
    else {
        return Ok(());
    };
    let size = sample_size(&sample)?;
    let mut select = syntax::select(vec![syntax::star()], vec![syntax::from(factor.clone())]);
    let mut limit = None;
    match size {
        SampleSize::Fraction(fraction) => {
            let random = Expr::Function(syntax::call("random", vec![]));
            let bound = syntax::number(format!("{fraction:e}"));
            select.selection = Some(syntax::binary(random, BinaryOperator::Lt, bound));
        }
        SampleSize::Rows(rows) => {
            limit = Some(LimitClause::LimitOffset {
                limit: Some(syntax::number(rows.to_string())),
                offset: None,
                limit_by: vec![],
            });
        }
    }
    let mut query = syntax::query(SetExpr::Select(Box::new(select)));
    query.limit_clause = limit;
    let mut derived = syntax::derived(query, None);
    if let TableFactor::Derived { lateral, .. } = &mut derived {
        *lateral = is_lateral;
    }
    *factor = derived;
    Ok(())
}

fn sample_size(sample: &TableSample) -> Result<SampleSize> {
    if sample.seed.is_some() {
        let hint =
            "leave the seed out; the order of rows is not fixed, so it could not be repeated";
        return Err(Error::unsupported("TABLESAMPLE with a seed", hint));
    }
    if sample.bucket.is_some() {
        let hint = "use TABLESAMPLE (n PERCENT)";
        return Err(Error::unsupported("TABLESAMPLE (BUCKET ...)", hint));
    }
    let hint = "use TABLESAMPLE (n PERCENT) or TABLESAMPLE (n ROWS)";
    let Some(quantity) = &sample.quantity else {
        return Err(Error::unsupported("this form of TABLESAMPLE", hint));
    };
    if sample.offset.is_some() || (!quantity.parenthesized && quantity.unit.is_none()) {
        return Err(Error::unsupported("SAMPLE by a fraction", hint));
    }
    let Some(text) = number_text(&quantity.value) else {
        let what = format!("TABLESAMPLE by {}, which is not a number,", quantity.value);
        return Err(Error::unsupported(what, hint));
    };
    if quantity.unit == Some(TableSampleUnit::Rows) {
        if matches!(sample.name, Some(TableSampleMethod::Bernoulli | TableSampleMethod::System)) {
            let what = format!("{sample}");
            return Err(Error::unsupported(what, "use TABLESAMPLE (n ROWS)"));
        }
        return text.parse().map(SampleSize::Rows).map_err(|_error| {
            Error::plan(format!("a sample takes a whole number of rows from 0, not {text}"))
        });
    }
    match text.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => {
            Ok(SampleSize::Fraction(percent / 100.0))
        }
        _ => Err(Error::plan(format!("a sample takes 0 to 100 percent, not {text}"))),
    }
}

fn number_text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => Some(digits.clone()),
            _ => None,
        },
        Expr::Nested(inner) => number_text(inner),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => {
            number_text(expr).map(|digits| format!("-{digits}"))
        }
        Expr::UnaryOp { op: UnaryOperator::Plus, expr } => number_text(expr),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;

    async fn fixture() -> Fixture {
        Fixture::new(&[
            "CREATE TABLE t AS SELECT value AS a FROM generate_series(1, 10000)",
            "CREATE TABLE s AS VALUES (1, 'x', 10), (1, 'y', 20), (2, 'x', 5)",
        ])
        .await
    }

    async fn count(fixture: &Fixture, sql: &str) -> u64 {
        fixture.rows(sql).await[0].parse().unwrap()
    }

    #[tokio::test]
    async fn samples_a_share_of_the_rows() {
        let fixture = fixture().await;
        for from in [
            "t TABLESAMPLE BERNOULLI (10 PERCENT)",
            "t TABLESAMPLE BERNOULLI (10)",
            "t TABLESAMPLE SYSTEM (10)",
            "t TABLESAMPLE (10 PERCENT)",
            "t AS u TABLESAMPLE (10 PERCENT)",
            "t TABLESAMPLE (10 PERCENT) AS u",
            "(SELECT * FROM t) AS u TABLESAMPLE (10 PERCENT)",
        ] {
            if super::super::fixture::parses(from) {
                let rows = count(&fixture, &format!("SELECT count(*) FROM {from}")).await;
                assert!((800..1200).contains(&rows), "{from}: {rows}");
            }
        }
        let all = count(&fixture, "SELECT count(*) FROM t TABLESAMPLE (100 PERCENT)").await;
        assert_eq!(all, 10000);
        assert_eq!(count(&fixture, "SELECT count(*) FROM t TABLESAMPLE (0 PERCENT)").await, 0);
    }

    #[tokio::test]
    async fn samples_a_number_of_rows() {
        let fixture = fixture().await;
        assert_eq!(count(&fixture, "SELECT count(*) FROM t TABLESAMPLE (7 ROWS)").await, 7);
        let filtered = "SELECT count(*) FROM t TABLESAMPLE (7 ROWS) WHERE t.a > 0";
        assert_eq!(count(&fixture, filtered).await, 7);
    }

    #[tokio::test]
    async fn a_sample_keeps_its_name() {
        let fixture = fixture().await;
        let sql = "SELECT count(t.a) FROM t TABLESAMPLE (100 PERCENT) WHERE t.a <= 5";
        assert_eq!(count(&fixture, sql).await, 5);
        let sql = "SELECT count(public.t.a) FROM public.t TABLESAMPLE (100 PERCENT)";
        assert_eq!(count(&fixture, sql).await, 10000);
    }

    #[tokio::test]
    async fn refuses_samples_that_it_cannot_take() {
        let fixture = fixture().await;
        for (sample, wanted) in [
            ("TABLESAMPLE (101 PERCENT)", "0 to 100 percent"),
            ("TABLESAMPLE (-1 PERCENT)", "0 to 100 percent"),
            ("TABLESAMPLE (1.5 ROWS)", "whole number of rows"),
            ("TABLESAMPLE BERNOULLI (10) REPEATABLE (1)", "with a seed"),
            ("TABLESAMPLE (BUCKET 1 OUT OF 4)", "BUCKET"),
            ("TABLESAMPLE (a PERCENT)", "not a number"),
            ("SAMPLE 0.1", "by a fraction"),
        ] {
            let message = fixture.error(&format!("SELECT * FROM t {sample}")).await;
            assert!(message.contains(wanted), "{sample}: {message}");
        }
    }

    #[tokio::test]
    async fn fetch_first_is_a_limit() {
        let fixture = fixture().await;
        let sql = "SELECT a FROM t ORDER BY a FETCH FIRST 2 ROWS ONLY";
        assert_eq!(fixture.ordered(sql).await, ["1", "2"]);
        let sql = "SELECT a FROM t ORDER BY a OFFSET 3 ROWS FETCH NEXT ROW ONLY";
        assert_eq!(fixture.ordered(sql).await, ["4"]);
    }

    #[tokio::test]
    async fn groups_with_rollup() {
        let fixture = fixture().await;
        let sql =
            "SELECT column1, column2, sum(column3) FROM s GROUP BY column1, column2 WITH ROLLUP";
        let rollup = ["1|NULL|30", "1|x|10", "1|y|20", "2|NULL|5", "2|x|5", "NULL|NULL|35"];
        assert_eq!(fixture.rows(sql).await, rollup);
        let sql = "SELECT column1, sum(column3) FROM s GROUP BY column1 WITH CUBE";
        assert_eq!(fixture.rows(sql).await, ["1|30", "2|5", "NULL|35"]);
        let message = fixture.error("SELECT 1 FROM s GROUP BY column1 WITH TOTALS").await;
        assert!(message.contains("WITH TOTALS"), "{message}");
    }

    #[tokio::test]
    async fn from_alone_selects_everything() {
        let fixture = fixture().await;
        assert_eq!(fixture.rows("FROM s").await, ["1|x|10", "1|y|20", "2|x|5"]);
    }
}
