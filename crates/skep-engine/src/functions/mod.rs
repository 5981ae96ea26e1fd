//! Functions of our own.
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use std::sync::Arc;
pub(crate) fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    vec![]
}
pub(crate) fn aggregate_functions() -> Vec<Arc<AggregateUDF>> {
    vec![]
}
