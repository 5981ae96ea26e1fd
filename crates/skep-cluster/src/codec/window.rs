//! Window functions: what DataFusion's message leaves out, and its functions do not tell.
//!
//! Whether a window function runs in reverse or passes NULLs over has no accessor in DataFusion 55.2,
//! nor has the `FILTER` of an aggregate; all stand at the end of what `Debug` shows. What is not
//! found there is taken for not travelling.

use std::sync::Arc;

use datafusion::common::{internal_err, not_impl_err};
use datafusion::error::Result;
use datafusion::physical_expr::window::{
    PlainAggregateWindowExpr, SlidingAggregateWindowExpr, StandardWindowExpr, WindowExpr,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec, WindowUDFExpr};

use super::wire::Windows;

/// Returns a window operator with all its functions forward, and which of them were in reverse;
/// `None` for another operator.
///
/// # Errors
/// If a function cannot travel.
pub(super) fn forward(
    plan: &Arc<dyn ExecutionPlan>,
) -> Result<Option<(Arc<dyn ExecutionPlan>, Windows)>> {
    let Some(exprs) = functions(plan.as_ref()) else { return Ok(None) };
    if let Some(filtered) = exprs.iter().find(|expr| has_filter(expr.as_ref())) {
        return not_impl_err!("the FILTER of \"{}\" does not travel", filtered.name());
    }
    let reversed = exprs.iter().map(|expr| is_reversed(expr.as_ref()));
    let reversed = reversed.collect::<Result<Vec<_>>>()?;
    let forward = with_reversed(plan, &reversed)?;
    Ok(Some((forward, Windows { reversed })))
}

/// Tells of each function of a window operator whether it passes NULLs over.
///
/// # Errors
/// If DataFusion does not tell.
pub(super) fn ignores_nulls(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<bool>> {
    let exprs = functions(plan.as_ref()).unwrap_or_default();
    exprs
        .iter()
        .map(|expr| Ok(flags_of(expr.as_ref())?.is_some_and(|(_, ignores)| ignores)))
        .collect()
}

/// Completes a window operator that DataFusion has read.
///
/// # Errors
/// If it is none.
pub(super) fn decode(
    wire: &Windows,
    plan: &Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    with_reversed(plan, &wire.reversed)
}

/// Tells whether some function of an operator sees only the rows that a `FILTER` lets through.
pub(crate) fn filters_rows(plan: &dyn ExecutionPlan) -> bool {
    functions(plan).is_some_and(|exprs| exprs.iter().any(|expr| has_filter(expr.as_ref())))
}

fn functions(plan: &dyn ExecutionPlan) -> Option<&[Arc<dyn WindowExpr>]> {
    let bounded =
        plan.downcast_ref::<BoundedWindowAggExec>().map(BoundedWindowAggExec::window_expr);
    bounded.or_else(|| plan.downcast_ref::<WindowAggExec>().map(WindowAggExec::window_expr))
}

fn with_reversed(
    plan: &Arc<dyn ExecutionPlan>,
    reversed: &[bool],
) -> Result<Arc<dyn ExecutionPlan>> {
    let exprs = functions(plan.as_ref()).unwrap_or_default();
    if exprs.len() != reversed.len() {
        return internal_err!("{} window functions, {} expected", exprs.len(), reversed.len());
    }
    if !reversed.contains(&true) {
        return Ok(Arc::clone(plan));
    }
    let exprs = exprs.iter().zip(reversed).map(|(expr, is_reversed)| match is_reversed {
        false => Ok(Arc::clone(expr)),
        true => match expr.get_reverse_expr() {
            Some(reverse) => Ok(reverse),
            None => not_impl_err!("\"{}\", in reverse, does not travel", expr.name()),
        },
    });
    let exprs = exprs.collect::<Result<Vec<_>>>()?;
    if let Some(bounded) = plan.downcast_ref::<BoundedWindowAggExec>() {
        let input = Arc::clone(bounded.input());
        let mode = bounded.input_order_mode.clone();
        let can_repartition = !bounded.partition_keys().is_empty();
        let window = BoundedWindowAggExec::try_new(exprs, input, mode, can_repartition)?;
        return Ok(Arc::new(window));
    }
    let Some(window) = plan.downcast_ref::<WindowAggExec>() else {
        return internal_err!("{} is no window operator", plan.name());
    };
    let can_repartition = !window.partition_keys().is_empty();
    Ok(Arc::new(WindowAggExec::try_new(exprs, Arc::clone(window.input()), can_repartition)?))
}

fn is_reversed(expr: &dyn WindowExpr) -> Result<bool> {
    if let Some(plain) = expr.as_any().downcast_ref::<PlainAggregateWindowExpr>() {
        return Ok(plain.get_aggregate_expr().is_reversed());
    }
    if let Some(sliding) = expr.as_any().downcast_ref::<SlidingAggregateWindowExpr>() {
        return Ok(sliding.get_aggregate_expr().is_reversed());
    }
    Ok(flags_of(expr)?.is_some_and(|(is_reversed, _)| is_reversed))
}

/// Returns whether a window function runs in reverse and whether it passes NULLs over; `None` for
/// an aggregate.
fn flags_of(expr: &dyn WindowExpr) -> Result<Option<(bool, bool)>> {
    let Some(standard) = expr.as_any().downcast_ref::<StandardWindowExpr>() else {
        return Ok(None);
    };
    let function = standard.get_standard_func_expr();
    let Some(function) = function.as_any().downcast_ref::<WindowUDFExpr>() else {
        return not_impl_err!("the window function \"{}\" does not travel", expr.name());
    };
    let shown = format!("{function:?}");
    for flags @ (is_reversed, ignores_nulls) in
        [(false, false), (false, true), (true, false), (true, true)]
    {
        let end = format!(", is_reversed: {is_reversed}, ignore_nulls: {ignores_nulls} }}");
        if shown.ends_with(&end) {
            return Ok(Some(flags));
        }
    }
    not_impl_err!("the window function \"{}\" does not tell how it runs", expr.name())
}

fn has_filter(expr: &dyn WindowExpr) -> bool {
    let any = expr.as_any();
    let shown = if let Some(plain) = any.downcast_ref::<PlainAggregateWindowExpr>() {
        format!("{plain:?}")
    } else if let Some(sliding) = any.downcast_ref::<SlidingAggregateWindowExpr>() {
        format!("{sliding:?}")
    } else {
        return false;
    };
    !shown.ends_with(", filter: None }")
}
