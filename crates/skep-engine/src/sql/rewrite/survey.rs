//! One read-only walk over a statement: refuses what the planner would ignore, notes what needs
//! rewriting. A statement with nothing of either costs this walk and no more.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::LazyLock;

use datafusion::execution::SessionStateDefaults;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Distinct, DuplicateTreatment, Expr, Function, FunctionArgumentClause,
    FunctionArguments, GroupByExpr, JoinConstraint, JoinOperator, OrderByKind, PipeOperator, Query,
    Select, SelectFlavor, SelectItem, SetExpr, SetOperator, SetQuantifier, Statement, TableAlias,
    TableFactor, TableWithJoins, Value, Visit, Visitor, WindowType,
};

use super::syntax::{self, function_name};
use crate::error::{Error, Position, Result};

/// What may be surveyed; a bound of its own so that callers need not name the visitor.
pub(super) trait Surveyed: Visit {}
impl<N: Visit> Surveyed for N {}

/// What a statement needs; each is a later pass.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Survey {
    /// `TABLESAMPLE`, `FETCH FIRST`, `GROUP BY ... WITH ROLLUP`, `WITH RECURSIVE f(a, b)`.
    pub(super) clauses: bool,
    /// Named windows.
    pub(super) windows: bool,
    /// `SIMILAR TO`, `LIKE ... ESCAPE`, `ANY`, `ALL`, `IN` and `EXISTS` of subqueries,
    /// `any_value(x ORDER BY y)`.
    pub(super) expressions: bool,
    /// Outer joins with `USING` or `NATURAL`, chains of such joins, and `*`, `WHERE` or a subquery
    /// over one.
    pub(super) using_joins: bool,
    /// `INTERSECT ALL`, `EXCEPT ALL`.
    pub(super) set_operations: bool,
}

impl Survey {
    /// Walks a statement or a query.
    ///
    /// # Errors
    /// `Unsupported` for a clause that the planner would ignore.
    pub(super) fn of(node: &impl Visit) -> Result<Self> {
        let mut survey = Self::default();
        match node.visit(&mut survey) {
            ControlFlow::Continue(()) => Ok(survey),
            ControlFlow::Break(error) => Err(error),
        }
    }

    fn set_expr(&mut self, body: &SetExpr) {
        if let SetExpr::SetOperation { op, set_quantifier, left, right } = body {
            self.set_operations |= *set_quantifier == SetQuantifier::All
                && matches!(op, SetOperator::Intersect | SetOperator::Except | SetOperator::Minus);
            self.set_expr(left);
            self.set_expr(right);
        }
    }

    /// Notes joins that merge columns: outer ones, and any second one. `merging` says how many came
    /// before; a `*` counts as one, since it would list the merged column in the wrong place, and so
    /// do `WHERE` and subqueries, in which the planner takes the merged column for ambiguous.
    fn joins(&mut self, table: &TableWithJoins, mut merging: usize) {
        for join in &table.joins {
            if let Some((constraint, outer)) = constraint_of(&join.join_operator)
                && matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural)
            {
                merging += 1;
                self.using_joins |= outer || merging > 1;
            }
        }
        self.nested_joins(&table.relation, merging);
        for join in &table.joins {
            self.nested_joins(&join.relation, merging);
        }
    }

    fn nested_joins(&mut self, relation: &TableFactor, merging: usize) {
        if let TableFactor::NestedJoin { table_with_joins, .. } = relation {
            self.joins(table_with_joins, merging);
        }
    }
}

/// Returns the constraint of a join that merges columns, and whether it keeps unmatched rows.
fn constraint_of(operator: &JoinOperator) -> Option<(&JoinConstraint, bool)> {
    use JoinOperator as J;
    match operator {
        J::Left(constraint)
        | J::LeftOuter(constraint)
        | J::Right(constraint)
        | J::RightOuter(constraint)
        | J::FullOuter(constraint) => Some((constraint, true)),
        J::Join(constraint) | J::Inner(constraint) => Some((constraint, false)),
        _ => None,
    }
}

fn refuse(what: impl Into<String>, hint: &str) -> ControlFlow<Error> {
    ControlFlow::Break(Error::unsupported(what, hint))
}

impl Visitor for Survey {
    type Break = Error;

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<Error> {
        if let Statement::Update(update) = statement
            && !update.table.joins.is_empty()
        {
            return refuse("UPDATE of a join", "use a subquery in SET or WHERE");
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
        if let Some(lock) = query.locks.first() {
            return refuse(lock.to_string(), "there are no row locks; leave it out");
        }
        if let Some(clause) = &query.for_clause {
            return refuse(clause.to_string(), "");
        }
        if query.settings.is_some() {
            return refuse("SETTINGS in a query", "use SET");
        }
        if query.format_clause.is_some() {
            return refuse("FORMAT in a query", "");
        }
        if let Some(order_by) = &query.order_by
            && matches!(order_by.kind, OrderByKind::All(_))
            && !matches!(query.body.as_ref(), SetExpr::Select(_))
        {
            return refuse("ORDER BY ALL over a set operation", "name the columns");
        }
        if let Some(fetch) = &query.fetch {
            if fetch.with_ties || fetch.percent {
                return refuse(
                    fetch.to_string(),
                    "use a window function: rank() OVER (ORDER BY ...)",
                );
            }
            self.clauses = true;
        }
        for operator in &query.pipe_operators {
            if let PipeOperator::Join(join) = operator
                && let Some((JoinConstraint::Using(_) | JoinConstraint::Natural, true)) =
                    constraint_of(&join.join_operator)
            {
                return refuse("an outer join with USING in a pipe", "use ON");
            }
        }
        if let Some(with) = &query.with {
            self.clauses |=
                with.recursive && with.cte_tables.iter().any(|cte| !cte.alias.columns.is_empty());
        }
        self.set_expr(&query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Error> {
        if select.prewhere.is_some() {
            return refuse("PREWHERE", "use WHERE");
        }
        if !select.connect_by.is_empty() {
            return refuse("CONNECT BY", "use WITH RECURSIVE");
        }
        if select.exclude.is_some() {
            return refuse("EXCLUDE after the select list", "use * EXCLUDE (...)");
        }
        if select.value_table_mode.is_some() {
            return refuse("SELECT AS STRUCT or AS VALUE", "");
        }
        if select.select_modifiers.as_ref().is_some_and(|m| m.sql_calc_found_rows) {
            return refuse("SQL_CALC_FOUND_ROWS", "use count(*)");
        }
        if let Some(Distinct::On(exprs)) = &select.distinct
            && exprs.iter().any(has_placeholder)
        {
            return refuse("a parameter in DISTINCT ON", "write the expression out");
        }
        if let GroupByExpr::Expressions(exprs, _) = &select.group_by
            && exprs.iter().any(has_aggregate)
        {
            return ControlFlow::Break(Error::Plan {
                message: "aggregate functions are not allowed in GROUP BY".to_owned(),
                position: None,
                hint: Some("group by what the aggregate is of, or in a subquery".to_owned()),
            });
        }
        match &select.group_by {
            GroupByExpr::All(modifiers) if !modifiers.is_empty() => {
                return refuse(select.group_by.to_string(), "name the columns");
            }
            GroupByExpr::Expressions(_, modifiers) => self.clauses |= !modifiers.is_empty(),
            GroupByExpr::All(_) => {}
        }
        self.clauses |= select.flavor == SelectFlavor::FromFirstNoSelect;
        self.windows |= !select.named_window.is_empty();
        let has_star = select.projection.iter().any(|item| matches!(item, SelectItem::Wildcard(_)));
        let names_columns = has_star || select.selection.is_some() || has_subquery(select);
        select.from.iter().for_each(|table| self.joins(table, usize::from(names_columns)));
        refuse_window("WHERE", select.selection.as_ref())?;
        refuse_window("HAVING", select.having.as_ref())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Error> {
        let alias = match factor {
            TableFactor::Table {
                alias,
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
                ..
            } => {
                if let Some(version) = version {
                    return refuse(format!("reading a past version ({version})"), "");
                }
                if *with_ordinality {
                    return refuse("WITH ORDINALITY", "use row_number() OVER ()");
                }
                if !with_hints.is_empty() || !index_hints.is_empty() {
                    return refuse("a table hint", "leave it out");
                }
                if !partitions.is_empty() {
                    return refuse("PARTITION after a table name", "use WHERE");
                }
                if json_path.is_some() {
                    return refuse("a path after a table name", "");
                }
                self.clauses |= sample.is_some();
                alias
            }
            TableFactor::Derived { alias, sample, .. } => {
                self.clauses |= sample.is_some();
                alias
            }
            TableFactor::Function { alias, with_ordinality, .. } => {
                if *with_ordinality {
                    return refuse("WITH ORDINALITY", "use row_number() OVER ()");
                }
                alias
            }
            TableFactor::UNNEST { alias, .. } | TableFactor::NestedJoin { alias, .. } => alias,
            _ => return ControlFlow::Continue(()),
        };
        alias.as_ref().map_or(ControlFlow::Continue(()), survey_alias)
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Error> {
        match expr {
            // One that is a filter by itself is right as it is; telling costs more than rewriting.
            Expr::SimilarTo { .. }
            | Expr::InSubquery { .. }
            | Expr::Exists { .. }
            | Expr::Like { escape_char: Some(_), .. }
            | Expr::ILike { escape_char: Some(_), .. } => self.expressions = true,
            Expr::AnyOp { right, compare_op, .. } | Expr::AllOp { right, compare_op, .. } => {
                if matches!(right.as_ref(), Expr::Subquery(_)) {
                    if !is_comparison(compare_op) {
                        return refuse(format!("{compare_op} with ANY or ALL of a subquery"), "");
                    }
                    self.expressions = true;
                }
            }
            Expr::Function(function) => return self.function(function),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn survey_alias(alias: &TableAlias) -> ControlFlow<Error> {
    if alias.at.is_some() {
        return refuse("AT after a table alias", "");
    }
    if alias.columns.iter().any(|column| column.data_type.is_some()) {
        return refuse("a column type in a table alias", "use CAST in the select list");
    }
    ControlFlow::Continue(())
}

/// Tells whether a subquery stands in a clause that may name merged columns, `WHERE` aside.
fn has_subquery(select: &Select) -> bool {
    struct Subquery;
    impl Visitor for Subquery {
        type Break = ();
        fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }
    select.projection.visit(&mut Subquery).is_break()
        || select.group_by.visit(&mut Subquery).is_break()
        || select.having.visit(&mut Subquery).is_break()
        || select.qualify.visit(&mut Subquery).is_break()
}

/// Refuses window functions in a clause that chooses rows before there are windows.
fn refuse_window(clause: &str, filter: Option<&Expr>) -> ControlFlow<Error> {
    let Some(filter) = filter else { return ControlFlow::Continue(()) };
    syntax::own_expressions(filter, |expr| match expr {
        Expr::Function(function) if function.over.is_some() => {
            let name = function.name.0.last().and_then(|part| part.as_ident());
            let start = name.map(|ident| ident.span.start).filter(|start| start.line > 0);
            let hint = "use QUALIFY, or compute it in a subquery and filter that";
            ControlFlow::Break(Error::Plan {
                message: format!("window functions are not allowed in {clause}"),
                position: start.map(|start| Position { line: start.line, column: start.column }),
                hint: Some(hint.to_owned()),
            })
        }
        _ => ControlFlow::Continue(()),
    })
}

fn is_comparison(op: &BinaryOperator) -> bool {
    use BinaryOperator as B;
    matches!(op, B::Eq | B::NotEq | B::Lt | B::LtEq | B::Gt | B::GtEq)
}

fn has_placeholder(expr: &Expr) -> bool {
    struct Placeholder;
    impl Visitor for Placeholder {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => {
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    expr.visit(&mut Placeholder).is_break()
}

/// Returns whether an aggregate of this very `SELECT` stands in an expression.
fn has_aggregate(expr: &Expr) -> bool {
    syntax::has_own(expr, |expr| match expr {
        Expr::Function(function) => {
            function.over.is_none() && AGGREGATES.contains(&function_name(function))
        }
        _ => false,
    })
}

/// Names of aggregate functions that no scalar function has.
static AGGREGATES: LazyLock<HashSet<String>> = LazyLock::new(|| {
    SessionStateDefaults::default_aggregate_functions()
        .iter()
        .flat_map(|function| {
            std::iter::once(function.name().to_owned()).chain(function.aliases().iter().cloned())
        })
        .filter(|name| !SCALARS.contains(name))
        .collect()
});

/// Names that the planner takes for scalar functions, and so drops every clause of.
static SCALARS: LazyLock<HashSet<String>> = LazyLock::new(|| {
    SessionStateDefaults::default_scalar_functions()
        .iter()
        .flat_map(|function| {
            std::iter::once(function.name().to_owned()).chain(function.aliases().iter().cloned())
        })
        .chain(["unnest".to_owned(), "similar_to".to_owned()])
        .collect()
});

/// Window functions that are no aggregates: they take neither `FILTER` nor `DISTINCT`.
const WINDOW_ONLY: &[&str] = &[
    "row_number",
    "rank",
    "dense_rank",
    "percent_rank",
    "cume_dist",
    "ntile",
    "lag",
    "lead",
    "first_value",
    "last_value",
    "nth_value",
];

/// Functions that obey `IGNORE NULLS` over a window.
const NULL_TREATING: &[&str] =
    &["first_value", "last_value", "nth_value", "lag", "lead", "array_agg"];

/// Aggregates that take `DISTINCT` and do nothing about it.
const DISTINCT_DROPPING: &[&str] = &[
    "approx_percentile_cont",
    "corr",
    "covar",
    "covar_pop",
    "covar_samp",
    "nth_value",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
];

impl Survey {
    fn function(&mut self, function: &Function) -> ControlFlow<Error> {
        if function.parameters != FunctionArguments::None {
            return refuse("a function with two argument lists", "");
        }
        let mut distinct = false;
        let mut null_treatment = function.null_treatment.is_some();
        let mut ordered = false;
        if let FunctionArguments::List(list) = &function.args {
            distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
            for clause in &list.clauses {
                null_treatment |= matches!(clause, FunctionArgumentClause::IgnoreOrRespectNulls(_));
                ordered |= matches!(clause, FunctionArgumentClause::OrderBy(_));
            }
        }
        let over = function.over.is_some();
        match &function.over {
            Some(WindowType::NamedWindow(_)) => self.windows = true,
            Some(WindowType::WindowSpec(spec)) => self.windows |= spec.window_name.is_some(),
            None => {}
        }
        let filter = function.filter.is_some();
        let within_group = !function.within_group.is_empty();
        if !(distinct || null_treatment || ordered || over || filter || within_group) {
            return ControlFlow::Continue(());
        }
        let name = function_name(function);
        let clauses = [
            (distinct, "DISTINCT"),
            (null_treatment, "IGNORE or RESPECT NULLS"),
            (ordered, "ORDER BY"),
            (over, "OVER"),
            (filter, "FILTER"),
            (within_group, "WITHIN GROUP"),
        ];
        if SCALARS.contains(&name)
            && let Some((_, clause)) = clauses.iter().find(|(present, _)| *present)
        {
            return refuse(format!("{clause} with the scalar function {name}"), "");
        }
        let known = |names: &[&str]| names.contains(&name.as_str());
        if over && known(WINDOW_ONLY) && (filter || distinct) {
            let clause = if filter { "FILTER" } else { "DISTINCT" };
            return refuse(format!("{clause} with the window function {name}"), "");
        }
        if over && null_treatment && !known(NULL_TREATING) {
            return refuse(format!("IGNORE or RESPECT NULLS with {name}"), "");
        }
        if distinct && known(DISTINCT_DROPPING) {
            return refuse(
                format!("DISTINCT with {name}"),
                "select the distinct rows in a subquery",
            );
        }
        if name == "any_value" && (null_treatment || within_group) {
            return refuse("IGNORE NULLS or WITHIN GROUP with any_value", "it skips nulls anyway");
        }
        self.expressions |= name == "any_value" && ordered;
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::parse;
    use super::*;

    fn refused(sql: &str) -> String {
        Survey::of(&parse(sql)).expect_err(sql).to_string()
    }

    #[test]
    fn a_plain_statement_needs_nothing() {
        for sql in [
            "SELECT a, sum(b) FROM t JOIN u USING (k) GROUP BY a",
            "SELECT a FROM t WHERE x IN (1, 2)",
            "SELECT first_value(x IGNORE NULLS) OVER (ORDER BY y) FROM t",
            "SELECT lag(x) IGNORE NULLS OVER (ORDER BY y) FROM t",
            "SELECT count(DISTINCT x) FILTER (WHERE y) FROM t UNION ALL SELECT 1",
            "SELECT any_value(x), 'a' LIKE 'b' FROM t LEFT JOIN u ON t.a = u.a",
            "SELECT DISTINCT ON (a) a, b FROM t ORDER BY a, b LIMIT 3",
            "SELECT x = ANY (ARRAY[1, 2])",
            "SELECT 1 EXCEPT SELECT 2",
        ] {
            assert_eq!(Survey::of(&parse(sql)).expect(sql), Survey::default(), "{sql}");
        }
    }

    #[test]
    fn refuses_what_would_be_ignored() {
        for (sql, wanted) in [
            ("SELECT * FROM t FOR UPDATE", "FOR UPDATE"),
            ("SELECT * FROM t FETCH FIRST 3 ROWS WITH TIES", "WITH TIES"),
            ("SELECT * FROM t PREWHERE a", "PREWHERE"),
            ("SELECT * FROM generate_series(1, 3) WITH ORDINALITY", "WITH ORDINALITY"),
            ("SELECT * FROM t AS u(a INT)", "a column type in a table alias"),
            ("SELECT abs(DISTINCT x) FROM t", "DISTINCT with the scalar function abs"),
            ("SELECT abs(x) FILTER (WHERE y) FROM t", "FILTER with the scalar function abs"),
            ("SELECT abs(x) OVER () FROM t", "OVER with the scalar function abs"),
            ("SELECT upper(x ORDER BY y) FROM t", "ORDER BY with the scalar function upper"),
            ("SELECT row_number() FILTER (WHERE x) OVER () FROM t", "FILTER with the window"),
            ("SELECT sum(x) IGNORE NULLS OVER () FROM t", "NULLS with sum"),
            ("SELECT corr(DISTINCT x, y) FROM t", "DISTINCT with corr"),
            ("PREPARE v AS SELECT DISTINCT ON ($1) 42", "a parameter in DISTINCT ON"),
            ("SELECT * FROM t SETTINGS a = 1", "SETTINGS"),
            ("SELECT * FROM t FORMAT JSON", "FORMAT"),
            ("SELECT (SELECT 1 FROM t FOR UPDATE)", "FOR UPDATE"),
            ("INSERT INTO t SELECT * FROM u FOR SHARE", "FOR SHARE"),
            ("SELECT a FROM t GROUP BY ALL WITH ROLLUP", "GROUP BY ALL WITH ROLLUP"),
        ] {
            let message = refused(sql);
            assert!(message.contains(wanted), "{sql}: {message}");
        }
    }
}
