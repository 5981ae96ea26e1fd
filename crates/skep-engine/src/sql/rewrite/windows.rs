//! Named windows, written out where they are used.
//!
//! The planner resolves `OVER w` in the select list only: elsewhere it takes the call for a plain
//! aggregate, and `OVER (w ORDER BY x)` loses `w`.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, NamedWindowDefinition, NamedWindowExpr, Query, Select, SetExpr, VisitMut,
    VisitorMut, WindowSpec, WindowType,
};

use super::syntax::normalize;
use crate::error::{Error, Result};

/// The pass over all queries, inner ones first.
#[derive(Debug)]
pub(super) struct Windows;

impl VisitorMut for Windows {
    type Break = Error;

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let definitions = match query.body.as_mut() {
            SetExpr::Select(select) => {
                inline(select)?;
                std::mem::take(&mut select.named_window)
            }
            other => {
                inline_branches(other)?;
                vec![]
            }
        };
        match &mut query.order_by {
            Some(order_by) => order_by.visit(&mut Inline(&definitions)),
            None => ControlFlow::Continue(()),
        }
    }
}

fn inline_branches(body: &mut SetExpr) -> ControlFlow<Error> {
    match body {
        SetExpr::Select(select) => {
            inline(select)?;
            select.named_window.clear();
            ControlFlow::Continue(())
        }
        SetExpr::SetOperation { left, right, .. } => {
            inline_branches(left)?;
            inline_branches(right)
        }
        _ => ControlFlow::Continue(()),
    }
}

fn inline(select: &mut Select) -> ControlFlow<Error> {
    if let Some(name) = repeated(&select.named_window) {
        return ControlFlow::Break(Error::plan(format!("window \"{name}\" is defined twice")));
    }
    let definitions = std::mem::take(&mut select.named_window);
    let flow = select.visit(&mut Inline(&definitions));
    select.named_window = definitions;
    flow
}

fn repeated(definitions: &[NamedWindowDefinition]) -> Option<String> {
    let mut names: Vec<_> = definitions.iter().map(|window| normalize(&window.0)).collect();
    names.sort();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone())
}

/// Replaces references to the windows of one query.
struct Inline<'a>(&'a [NamedWindowDefinition]);

impl VisitorMut for Inline<'_> {
    type Break = Error;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Expr::Function(function) = expr
            && let Some(over) = &function.over
        {
            let spec = match over {
                WindowType::NamedWindow(name) => self.named(name, self.0.len()),
                WindowType::WindowSpec(spec) if spec.window_name.is_some() => {
                    self.based(spec, self.0.len())
                }
                WindowType::WindowSpec(_) => return ControlFlow::Continue(()),
            };
            match spec {
                Ok(spec) => function.over = Some(WindowType::WindowSpec(spec)),
                Err(error) => return ControlFlow::Break(error),
            }
        }
        ControlFlow::Continue(())
    }
}

impl Inline<'_> {
    /// Returns what `name` stands for; a definition may refer to those before it, so the search
    /// sees the first `visible` only and ends.
    fn named(&self, name: &Ident, visible: usize) -> Result<WindowSpec> {
        let wanted = normalize(name);
        let position = self.0[..visible]
            .iter()
            .position(|window| normalize(&window.0) == wanted)
            .ok_or_else(|| Error::plan(format!("window \"{wanted}\" is not defined")))?;
        match &self.0[position].1 {
            NamedWindowExpr::NamedWindow(other) => self.named(other, position),
            NamedWindowExpr::WindowSpec(spec) => self.based(spec, position),
        }
    }

    /// Returns `spec` with what it takes from the window that it names.
    fn based(&self, spec: &WindowSpec, visible: usize) -> Result<WindowSpec> {
        let Some(name) = &spec.window_name else { return Ok(spec.clone()) };
        let base = self.named(name, visible)?;
        if !spec.partition_by.is_empty() {
            return Err(Error::plan(format!("PARTITION BY cannot override that of window {name}")));
        }
        if !spec.order_by.is_empty() && !base.order_by.is_empty() {
            return Err(Error::plan(format!("ORDER BY cannot override that of window {name}")));
        }
        if base.window_frame.is_some() {
            return Err(Error::plan(format!("window {name} has a frame and cannot be extended")));
        }
        let order_by = if spec.order_by.is_empty() { base.order_by } else { spec.order_by.clone() };
        Ok(WindowSpec {
            window_name: None,
            partition_by: base.partition_by,
            order_by,
            window_frame: spec.window_frame.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;

    async fn fixture() -> Fixture {
        Fixture::new(&["CREATE TABLE t(g INT, x INT) AS VALUES (1, 10), (1, 20), (2, 5)"]).await
    }

    #[tokio::test]
    async fn a_named_window_counts_everywhere() {
        let fixture = fixture().await;
        let sql = "SELECT x FROM t WINDOW w AS (PARTITION BY g) ORDER BY sum(x) OVER w, x";
        assert_eq!(fixture.ordered(sql).await, ["5", "10", "20"]);
        let sql = "SELECT x FROM t WINDOW w AS (PARTITION BY g) QUALIFY sum(x) OVER w > 10";
        assert_eq!(fixture.rows(sql).await, ["10", "20"]);
        let sql =
            "SELECT x, row_number() OVER (w ORDER BY x DESC) FROM t WINDOW w AS (PARTITION BY g)";
        assert_eq!(fixture.rows(sql).await, ["10|2", "20|1", "5|1"]);
        let sql = "SELECT sum(x) OVER v FROM t WINDOW w AS (PARTITION BY g), v AS (w ORDER BY x)";
        assert_eq!(fixture.rows(sql).await, ["10", "30", "5"]);
    }

    #[tokio::test]
    async fn refuses_windows_that_are_not_there() {
        let fixture = fixture().await;
        for (sql, wanted) in [
            ("SELECT x FROM t ORDER BY sum(x) OVER w", "window \"w\" is not defined"),
            ("SELECT sum(x) OVER w FROM t", "window \"w\" is not defined"),
            ("SELECT sum(x) OVER w FROM t WINDOW w AS (w)", "window \"w\" is not defined"),
            ("SELECT sum(x) OVER w FROM t WINDOW w AS (), w AS ()", "defined twice"),
            (
                "SELECT sum(x) OVER (w PARTITION BY x) FROM t WINDOW w AS (PARTITION BY g)",
                "cannot override",
            ),
        ] {
            let message = fixture.error(sql).await;
            assert!(message.contains(wanted), "{sql}: {message}");
        }
    }
}
