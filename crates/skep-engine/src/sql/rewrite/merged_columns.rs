//! References to merged columns, written out.
//!
//! A name without qualifier is replaced wherever it means the merged column: in the clauses of the
//! query itself, and in subqueries whose own relations do not have a column of that name. `ORDER BY`
//! looks at the select list first.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ExceptSelectItem, ExcludeSelectItem, Expr, Ident, LambdaFunctionParameter, ObjectName,
    OneOrManyWithParens, OrderBy, OrderByKind, Query, Select, SelectItem, SetExpr, VisitMut,
    VisitorMut, WildcardAdditionalOptions,
};

use super::scope::Scope;
use super::syntax::{self, normalize, quoted};
use super::using_joins::VisibleColumn;
use super::{RelationSchemas, finish};
use crate::error::{Error, Position, Result};

/// What a name stands for.
#[derive(Debug, Clone)]
enum Meaning {
    Column(Box<Expr>),
    Ambiguous,
}

/// The merged columns that a place sees, by name.
#[derive(Clone)]
pub(super) struct MergedColumns<'a> {
    meanings: HashMap<String, Meaning>,
    scope: Scope,
    schemas: &'a dyn RelationSchemas,
}

impl<'a> MergedColumns<'a> {
    /// Picks the merged ones of the columns that a query sees.
    pub(super) fn new(
        columns: &[VisibleColumn],
        scope: &Scope,
        schemas: &'a dyn RelationSchemas,
    ) -> Self {
        let merged = columns.iter().filter(|column| column.is_merged).map(|column| {
            let same = columns.iter().filter(|other| other.name == column.name).count();
            let meaning = if same == 1 {
                Meaning::Column(Box::new(column.expr.clone()))
            } else {
                Meaning::Ambiguous
            };
            (column.name.clone(), meaning)
        });
        Self { meanings: merged.collect(), scope: scope.clone(), schemas }
    }

    /// Replaces the references in `node`.
    ///
    /// # Errors
    /// If one is ambiguous, or a subquery cannot be planned by itself.
    pub(super) fn apply(&self, node: &mut impl VisitMut) -> Result<()> {
        if self.meanings.is_empty() {
            return Ok(());
        }
        finish(node.visit(&mut Replacement { merged: self, query_depth: 0, parameters: vec![] }))
    }

    /// Replaces the references in a subquery that mean the outer query's columns.
    fn apply_to_subquery(&self, query: &mut Query) -> Result<()> {
        if !self.is_mentioned(query) {
            return Ok(());
        }
        let inner = Self { scope: self.scope.inside(query.with.as_ref()), ..self.clone() };
        inner.apply_to_body(&mut query.body)?;
        if let (SetExpr::Select(select), Some(order_by)) =
            (query.body.as_ref(), &mut query.order_by)
        {
            let mut hidden = inner.hidden_by(select)?;
            hidden.meanings.retain(|name, _| !output_names(select).contains(name));
            hidden.apply(order_by)?;
        }
        Ok(())
    }

    fn apply_to_body(&self, body: &mut SetExpr) -> Result<()> {
        match body {
            SetExpr::Select(select) => {
                let hidden = self.hidden_by(select)?;
                hidden.apply(select)
            }
            SetExpr::Query(query) => self.apply_to_subquery(query),
            SetExpr::SetOperation { left, right, .. } => {
                self.apply_to_body(left)?;
                self.apply_to_body(right)
            }
            other => self.apply(other),
        }
    }

    /// Returns what is left when the relations of `select` hide columns of the same name.
    fn hidden_by(&self, select: &Select) -> Result<Self> {
        let mut left = self.clone();
        if select.from.is_empty() {
            return Ok(left);
        }
        let schema = self
            .scope
            .schema_of(vec![syntax::star()], select.from.clone(), self.schemas)
            .map_err(|_error| {
                let names: Vec<_> = self.meanings.keys().map(String::as_str).collect();
                Error::unsupported(
                    format!("a correlated FROM clause together with merged {}", names.join(", ")),
                    "qualify the columns of the join",
                )
            })?;
        for field in schema.fields() {
            left.meanings.remove(field.name());
        }
        Ok(left)
    }

    fn is_mentioned(&self, query: &mut Query) -> bool {
        struct Mention<'a>(&'a HashMap<String, Meaning>);
        impl VisitorMut for Mention<'_> {
            type Break = ();
            fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
                match expr {
                    Expr::Identifier(ident) if self.0.contains_key(&normalize(ident)) => {
                        ControlFlow::Break(())
                    }
                    _ => ControlFlow::Continue(()),
                }
            }
        }
        query.visit(&mut Mention(&self.meanings)).is_break()
    }
}

/// One walk that replaces references, leaving subqueries to [`MergedColumns::apply_to_subquery`].
struct Replacement<'a, 'b> {
    merged: &'a MergedColumns<'b>,
    query_depth: usize,
    /// Parameters of the lambdas around, which hide columns.
    parameters: Vec<String>,
}

impl VisitorMut for Replacement<'_, '_> {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        if self.query_depth == 0
            && let Err(error) = self.merged.apply_to_subquery(query)
        {
            return ControlFlow::Break(error);
        }
        self.query_depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<Error> {
        self.query_depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Expr::Lambda(lambda) = expr {
            self.parameters.extend(parameters(&lambda.params));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Expr::Lambda(lambda) = expr {
            let count = parameters(&lambda.params).count();
            self.parameters.truncate(self.parameters.len().saturating_sub(count));
        }
        if self.query_depth == 0
            && let Expr::Identifier(ident) = expr
        {
            let name = normalize(ident);
            if self.parameters.contains(&name) {
                return ControlFlow::Continue(());
            }
            match self.merged.meanings.get(&name) {
                Some(Meaning::Column(column)) => *expr = column.as_ref().clone(),
                Some(Meaning::Ambiguous) => return ControlFlow::Break(ambiguous(ident)),
                None => {}
            }
        }
        ControlFlow::Continue(())
    }
}

fn parameters(
    params: &OneOrManyWithParens<LambdaFunctionParameter>,
) -> impl Iterator<Item = String> + '_ {
    params.iter().map(|param| normalize(&param.name))
}

fn ambiguous(ident: &Ident) -> Error {
    let start = ident.span.start;
    Error::Plan {
        message: format!("column \"{}\" is ambiguous", normalize(ident)),
        position: (start.line > 0).then_some(Position { line: start.line, column: start.column }),
        hint: Some("qualify it with the name of its table".to_owned()),
    }
}

/// Writes out the merged columns of a query whose joins have been rewritten.
///
/// # Errors
/// If a reference is ambiguous or a wildcard has an option that cannot be expanded.
pub(super) fn write_out(
    select: &mut Select,
    order_by: Option<&mut OrderBy>,
    columns: &[VisibleColumn],
    merged: MergedColumns<'_>,
) -> Result<()> {
    let from = std::mem::take(&mut select.from);
    let mut projection = vec![];
    for item in std::mem::take(&mut select.projection) {
        match item {
            SelectItem::Wildcard(options) => {
                projection.extend(expand(columns, options, &merged)?);
            }
            SelectItem::UnnamedExpr(mut expr) => {
                let original = expr.clone();
                merged.apply(&mut expr)?;
                projection.push(named_as(original, expr));
            }
            mut item => {
                merged.apply(&mut item)?;
                projection.push(item);
            }
        }
    }
    let result = merged.apply(select);
    select.projection = projection;
    select.from = from;
    result?;
    let Some(order_by) = order_by else { return Ok(()) };
    for_order_by(select, &merged)?.apply(order_by)?;
    if let OrderByKind::All(_) = order_by.kind
        && select.projection.iter().any(|item| matches!(item, SelectItem::ExprWithAlias { .. }))
    {
        return Err(Error::unsupported("ORDER BY ALL with a merged column", "name the columns"));
    }
    Ok(())
}

/// Returns what names mean in `ORDER BY`: a column of the select list goes first.
fn for_order_by<'a>(select: &Select, merged: &MergedColumns<'a>) -> Result<MergedColumns<'a>> {
    let mut inside = merged.clone();
    for (name, meaning) in &mut inside.meanings {
        let outputs = select.projection.iter().filter_map(|item| match item {
            SelectItem::UnnamedExpr(expr @ Expr::CompoundIdentifier(parts))
                if parts.last().is_some_and(|part| normalize(part) == *name) =>
            {
                Some(expr.clone())
            }
            SelectItem::ExprWithAlias { alias, .. } if normalize(alias) == *name => {
                Some(Expr::Identifier(quoted(name)))
            }
            _ => None,
        });
        let mut outputs: Vec<_> = outputs.collect();
        outputs.dedup();
        match outputs.as_slice() {
            [] => {}
            [output] => *meaning = Meaning::Column(Box::new(output.clone())),
            _ => *meaning = Meaning::Ambiguous,
        }
    }
    Ok(inside)
}

/// Returns a select item for a column that `*` stands for.
pub(super) fn select_item(column: &VisibleColumn) -> SelectItem {
    named_as(Expr::Identifier(quoted(&column.name)), column.expr.clone())
}

/// Returns a select item for `expr` that has the name that `original` would have had.
fn named_as(original: Expr, expr: Expr) -> SelectItem {
    // A column keeps its name under a qualifier, so only what became an expression needs an alias.
    if original == expr || matches!(expr, Expr::CompoundIdentifier(_) | Expr::Identifier(_)) {
        return SelectItem::UnnamedExpr(expr);
    }
    let alias = match original {
        Expr::Identifier(ident) => ident,
        other => quoted(other.to_string()),
    };
    SelectItem::ExprWithAlias { expr, alias }
}

fn output_names(select: &Select) -> Vec<String> {
    let names = select.projection.iter().filter_map(|item| match item {
        SelectItem::UnnamedExpr(Expr::Identifier(ident)) => Some(normalize(ident)),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().map(normalize),
        SelectItem::ExprWithAlias { alias, .. } => Some(normalize(alias)),
        _ => None,
    });
    names.collect()
}

/// Lists what `*` stands for, with its options obeyed.
fn expand(
    columns: &[VisibleColumn],
    options: WildcardAdditionalOptions,
    merged: &MergedColumns<'_>,
) -> Result<Vec<SelectItem>> {
    if options.opt_ilike.is_some() || options.opt_rename.is_some() || options.opt_alias.is_some() {
        return Err(Error::unsupported(
            "ILIKE, RENAME or AS after * over a join with USING",
            "list the columns",
        ));
    }
    let mut left_out = excluded(options.opt_exclude.as_ref());
    if let Some(ExceptSelectItem { first_element, additional_elements }) = &options.opt_except {
        left_out.push(normalize(first_element));
        left_out.extend(additional_elements.iter().map(normalize));
    }
    if let Some(name) =
        left_out.iter().find(|name| columns.iter().all(|column| column.name != **name))
    {
        return Err(Error::NotFound {
            kind: "column",
            name: name.clone(),
            position: None,
            hint: None,
        });
    }
    let mut replacements = HashMap::new();
    for element in options.opt_replace.into_iter().flat_map(|replace| replace.items) {
        let mut expr = element.expr;
        merged.apply(&mut expr)?;
        replacements.insert(normalize(&element.column_name), expr);
    }
    let items = columns.iter().filter(|column| !left_out.contains(&column.name)).map(|column| {
        match replacements.get(&column.name) {
            Some(expr) => {
                SelectItem::ExprWithAlias { expr: expr.clone(), alias: quoted(&column.name) }
            }
            None => select_item(column),
        }
    });
    Ok(items.collect())
}

fn excluded(exclude: Option<&ExcludeSelectItem>) -> Vec<String> {
    let name = |name: &ObjectName| name.0.last().and_then(|part| part.as_ident()).map(normalize);
    match exclude {
        None => vec![],
        Some(ExcludeSelectItem::Single(column)) => name(column).into_iter().collect(),
        Some(ExcludeSelectItem::Multiple(columns)) => columns.iter().filter_map(name).collect(),
    }
}
