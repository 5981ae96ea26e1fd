//! Functions of our own.

mod similar_to;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

/// Returns the scalar functions that every session has besides DataFusion's.
pub(crate) fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    vec![Arc::new(ScalarUDF::from(similar_to::SimilarTo::default()))]
}

/// Returns the aggregates that every session has besides, or instead of, DataFusion's.
pub(crate) fn aggregate_functions() -> Vec<Arc<AggregateUDF>> {
    vec![]
}
