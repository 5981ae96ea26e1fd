//! Functions of our own.

mod similar_to;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

/// Returns the scalar functions that every session has besides DataFusion's.
pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    vec![Arc::new(ScalarUDF::from(similar_to::SimilarTo::default()))]
}
