//! Functions of our own.
use std::sync::Arc;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
pub(crate) fn scalar_functions() -> Vec<Arc<ScalarUDF>> { vec![] }
pub(crate) fn aggregate_functions() -> Vec<Arc<AggregateUDF>> { vec![] }
