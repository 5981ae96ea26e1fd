//! Pieces of syntax tree, made by hand, and a walk over them.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, GroupByExpr, Ident, ObjectName, Query, Select, SelectFlavor, SelectItem,
    SetExpr, TableAlias, TableFactor, TableWithJoins, Value, Visit, Visitor,
    WildcardAdditionalOptions,
};

/// Marks the statement's own names apart from ours; a noncharacter, so nobody types it by chance.
pub(super) const MARKER: char = '\u{FFFF}';

/// Returns the name that an identifier stands for.
pub(super) fn normalize(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() }
}

/// Returns an identifier that stands for exactly `name`.
pub(super) fn quoted(name: impl Into<String>) -> Ident {
    Ident::with_quote('"', name.into())
}

/// Walks the expressions of a node that are part of its own query, not of one inside it.
pub(super) fn own_expressions<B>(
    node: &impl Visit,
    visit: impl FnMut(&Expr) -> ControlFlow<B>,
) -> ControlFlow<B> {
    struct Own<F> {
        query_depth: usize,
        visit: F,
    }
    impl<B, F: FnMut(&Expr) -> ControlFlow<B>> Visitor for Own<F> {
        type Break = B;
        fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<B> {
            self.query_depth += 1;
            ControlFlow::Continue(())
        }
        fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<B> {
            self.query_depth -= 1;
            ControlFlow::Continue(())
        }
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<B> {
            if self.query_depth > 0 {
                return ControlFlow::Continue(());
            }
            (self.visit)(expr)
        }
    }
    node.visit(&mut Own { query_depth: 0, visit })
}

/// Tells whether a node has an expression of its own query that passes a test.
pub(super) fn has_own(node: &impl Visit, test: impl Fn(&Expr) -> bool) -> bool {
    let visit = |expr: &Expr| match test(expr) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    own_expressions(node, visit).is_break()
}

/// Makes `SELECT projection FROM from`.
pub(super) fn select(projection: Vec<SelectItem>, from: Vec<TableWithJoins>) -> Select {
    Select {
        select_token: AttachedToken::empty(),
        optimizer_hints: vec![],
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: false,
        projection,
        exclude: None,
        into: None,
        from,
        lateral_views: vec![],
        prewhere: None,
        selection: None,
        connect_by: vec![],
        group_by: GroupByExpr::Expressions(vec![], vec![]),
        cluster_by: vec![],
        distribute_by: vec![],
        sort_by: vec![],
        having: None,
        named_window: vec![],
        qualify: None,
        window_before_qualify: false,
        value_table_mode: None,
        flavor: SelectFlavor::Standard,
    }
}

/// Makes a query of a body.
pub(super) fn query(body: SetExpr) -> Query {
    Query {
        with: None,
        body: Box::new(body),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: vec![],
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: vec![],
    }
}

/// Makes `SELECT * FROM from`.
pub(super) fn select_all(from: Vec<TableWithJoins>) -> Query {
    query(SetExpr::Select(Box::new(select(vec![star()], from))))
}

/// Makes `*`.
pub(super) fn star() -> SelectItem {
    SelectItem::Wildcard(WildcardAdditionalOptions::default())
}

/// Makes a `FROM` entry without joins.
pub(super) fn from(relation: TableFactor) -> TableWithJoins {
    TableWithJoins { relation, joins: vec![] }
}

/// Makes `(subquery) AS alias`.
pub(super) fn derived(subquery: Query, alias: Option<TableAlias>) -> TableFactor {
    TableFactor::Derived { lateral: false, subquery: Box::new(subquery), alias, sample: None }
}

/// Makes a table alias.
pub(super) fn table_alias(name: Ident) -> TableAlias {
    TableAlias { explicit: true, name, columns: vec![], at: None }
}

/// Makes `name(args)`.
pub(super) fn call(name: &str, args: Vec<Expr>) -> Function {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)));
    Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args.collect(),
            clauses: vec![],
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    }
}

/// Makes `left op right`.
pub(super) fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

/// Makes a number.
pub(super) fn number(digits: impl Into<String>) -> Expr {
    Expr::value(Value::Number(digits.into(), false))
}

/// Returns the last part of a function's name, in lowercase.
pub(super) fn function_name(function: &Function) -> String {
    match function.name.0.last().and_then(|part| part.as_ident()) {
        Some(ident) if function.name.0.len() == 1 => normalize(ident),
        _ => function.name.to_string(),
    }
}
