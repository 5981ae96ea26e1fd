//! Leaves out the files whose partition values a query does not ask for.

use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::catalog::Session;
use datafusion::common::DFSchema;
use datafusion::common::Result as DfResult;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::scalar::ScalarValue;

use super::check::FileShape;
use super::listing::FoundFile;
use super::partition::{PartitionColumns, values};
use super::scan::PartFile;

/// Returns whether the partition columns alone decide a filter, so that it holds for all rows of a
/// file or for none.
pub(crate) fn is_partition_filter(filter: &Expr, columns: &PartitionColumns) -> bool {
    if columns.is_empty() {
        return false;
    }
    let mut decided = true;
    let walked = filter.apply(|expr| {
        decided &= match expr {
            Expr::Column(column) => columns.iter().any(|(name, _)| *name == column.name),
            Expr::ScalarFunction(call) => call.func.signature().volatility == Volatility::Immutable,
            Expr::Literal(..)
            | Expr::Alias(_)
            | Expr::BinaryExpr(_)
            | Expr::Not(_)
            | Expr::Negative(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNotFalse(_)
            | Expr::IsNotUnknown(_)
            | Expr::Between(_)
            | Expr::Like(_)
            | Expr::Case(_)
            | Expr::Cast(_)
            | Expr::TryCast(_)
            | Expr::InList(_) => true,
            _ => false,
        };
        Ok(if decided { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    walked.is_ok() && decided
}

/// Gives each file its partition values, and keeps those for which all filters are true.
pub(crate) fn prune(
    state: &dyn Session,
    files: Vec<(FoundFile, Option<FileShape>)>,
    columns: &PartitionColumns,
    filters: &[&Expr],
) -> DfResult<Vec<PartFile>> {
    let files: Vec<PartFile> = files
        .into_iter()
        .filter_map(|(found, shape)| shape.map(|shape| (found, shape)))
        .map(|(found, shape)| {
            let values = values(&found, columns)?;
            Ok(PartFile { found, shape, values })
        })
        .collect::<DfResult<_>>()?;
    let Some(filter) = conjunction(filters.iter().map(|filter| (*filter).clone())) else {
        return Ok(files);
    };
    if files.is_empty() {
        return Ok(files);
    }
    let fields: Vec<Field> =
        columns.iter().map(|(name, data_type)| Field::new(name, data_type.clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let arrays = (0..columns.len())
        .map(|i| ScalarValue::iter_to_array(files.iter().map(|file| file.values[i].clone())))
        .collect::<DfResult<Vec<_>>>()?;
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays)?;
    let filter = unqualified(filter)?;
    let expr = state.create_physical_expr(filter, &DFSchema::try_from(schema)?)?;
    let answer = expr.evaluate(&batch)?.into_array(files.len())?;
    let keep: Vec<bool> = answer.as_boolean().iter().map(|answer| answer == Some(true)).collect();
    Ok(files.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(file, _)| file).collect())
}

/// Takes the table's name off the columns of a filter.
fn unqualified(filter: Expr) -> DfResult<Expr> {
    use datafusion::common::tree_node::Transformed;
    let rewritten = filter.transform(|expr| {
        Ok(match expr {
            Expr::Column(column) if column.relation.is_some() => Transformed::yes(Expr::Column(
                datafusion::common::Column::new_unqualified(column.name),
            )),
            other => Transformed::no(other),
        })
    })?;
    Ok(rewritten.data)
}
