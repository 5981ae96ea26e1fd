//! Which batches of a cached partition a filter can find something in.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Column;
use datafusion::common::pruning::PruningStatistics;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::scalar::ScalarValue;

use super::summary::PartitionSummary;

/// Returns which batches may have rows that pass a filter over the columns of `schema`; `None` if
/// the filter tells nothing.
pub(super) fn wanted(
    filter: &Arc<dyn PhysicalExpr>,
    schema: &SchemaRef,
    summary: &PartitionSummary,
) -> Option<Vec<bool>> {
    // A filter that cannot be put into terms of bounds skips nothing; it is no error.
    let predicate = PruningPredicateBuilder::new()
        .with_file_schema(Arc::clone(schema))
        .try_build(Arc::clone(filter))
        .ok()?;
    if predicate.always_true() {
        return None;
    }
    predicate.prune(&Bounds { schema, summary }).ok()
}

struct Bounds<'a> {
    schema: &'a SchemaRef,
    summary: &'a PartitionSummary,
}

impl Bounds<'_> {
    fn column(&self, column: &Column) -> Option<&super::summary::ColumnSummary> {
        self.summary.columns.get(self.schema.index_of(&column.name).ok()?)
    }
}

impl PruningStatistics for Bounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.column(column)?.least.clone()
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.column(column)?.greatest.clone()
    }

    fn num_containers(&self) -> usize {
        self.summary.batch_count
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        Some(Arc::clone(&self.column(column)?.nulls))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::clone(&self.summary.rows))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
