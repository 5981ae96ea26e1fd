//! SQL functions of our own, and those of DataFusion's that answer wrongly, made right.

pub(crate) mod checked_arithmetic;
pub(crate) mod checked_sum;
mod signed;
mod similar_to;
pub(crate) mod single_value;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};

pub(crate) use signed::row_number;

/// Returns the scalar functions that every session has besides DataFusion's: those that people
/// call, and those that stand for arithmetic in plans, so that plans can be decoded.
pub(crate) fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let mut functions = checked_arithmetic::checked_functions();
    functions.push(Arc::new(ScalarUDF::from(similar_to::SimilarTo::default())));
    functions.extend(signed::scalar_functions());
    functions
}

/// Returns the window functions that stand in place of DataFusion's.
pub(crate) fn window_functions() -> Vec<Arc<WindowUDF>> {
    signed::window_functions()
}

/// Returns the aggregates that stand in place of DataFusion's, or beside them.
pub(crate) fn aggregate_functions() -> Vec<Arc<AggregateUDF>> {
    vec![checked_sum::checked_sum_udaf(), single_value::single_value_udaf()]
}
