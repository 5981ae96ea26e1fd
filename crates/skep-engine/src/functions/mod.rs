//! SQL functions of our own, and those of DataFusion's that answer wrongly, made right.

pub(crate) mod checked_arithmetic;
pub(crate) mod checked_sum;
pub(crate) mod single_value;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

/// Aggregates to register over DataFusion's.
pub(crate) fn aggregate_functions() -> Vec<Arc<AggregateUDF>> {
    vec![checked_sum::checked_sum_udaf(), single_value::single_value_udaf()]
}

/// Functions that stand for arithmetic in plans, to register so that plans can be decoded.
pub(crate) fn arithmetic_functions() -> Vec<Arc<ScalarUDF>> {
    checked_arithmetic::checked_functions()
}
