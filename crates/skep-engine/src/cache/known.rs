//! What is known of a cached table's rows before they are read.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;

use super::hosted::CachedShape;
use super::prune::wanted;
use super::summary::PartitionSummary;

/// What is known of the rows that a scan reads, once all partitions were made.
#[derive(Debug)]
pub(super) struct Known {
    /// Of each partition.
    statistics: Vec<Arc<Statistics>>,
    /// Of all.
    pub(super) total: Arc<Statistics>,
    /// Of all partitions.
    pub(super) batch_count: usize,
    /// Of each partition, the batches that the filter does not skip.
    pub(super) wanted_counts: Vec<usize>,
    /// Of all partitions.
    row_count: usize,
    /// Of each projected column, the values of the dictionaries of all batches, if it is kept so in
    /// all.
    dictionary_values: Vec<Option<u64>>,
}

/// How many rows there are at least for each value of a dictionary that is small against them.
const ROWS_OF_FEW: u64 = 16;

impl Known {
    /// Makes it of the summaries of all partitions.
    pub(super) fn of(
        shape: &CachedShape,
        projection: &[usize],
        filter: Option<&Arc<dyn PhysicalExpr>>,
        summaries: &[Arc<PartitionSummary>],
    ) -> Result<Self> {
        let total = Statistics::try_merge_iter(
            summaries.iter().map(|summary| &summary.statistics),
            &shape.schema,
        )?;
        let shown = |statistics: Statistics| {
            let projected = statistics.project(Some(&projection));
            // With a filter, these are of the rows before it.
            Arc::new(if filter.is_some() { projected.to_inexact() } else { projected })
        };
        let wanted_of = |summary: &Arc<PartitionSummary>| {
            let wanted = filter.and_then(|filter| wanted(filter, &shape.schema, summary));
            wanted.map_or(summary.batch_count, |all| all.iter().filter(|wanted| **wanted).count())
        };
        let values_of = |column: &usize| {
            let known = summaries.iter().map(|summary| summary.columns.get(*column));
            known.map(|column| column?.dictionary_values).sum()
        };
        Ok(Self {
            row_count: summaries.iter().map(|summary| summary.row_count).sum(),
            dictionary_values: projection.iter().map(values_of).collect(),
            statistics: summaries.iter().map(|summary| shown(summary.statistics.clone())).collect(),
            total: shown(total),
            batch_count: summaries.iter().map(|summary| summary.batch_count).sum(),
            wanted_counts: summaries.iter().map(wanted_of).collect(),
        })
    }

    /// Whether a projected column is kept as dictionaries that are small against its rows, and has
    /// no more values than so many bits can number beside NULL.
    pub(super) fn has_few(&self, column: usize, bits: usize) -> bool {
        let Some(values) = self.dictionary_values.get(column).copied().flatten() else {
            return false;
        };
        let most = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        values <= most && values.saturating_mul(ROWS_OF_FEW) <= self.row_count as u64
    }

    /// Returns what is known of some partitions together; `schema` is that of the projection.
    pub(super) fn of_partitions(
        &self,
        partitions: &[usize],
        schema: &Schema,
    ) -> Result<Arc<Statistics>> {
        let unknown = || Statistics::new_unknown(schema);
        let known = partitions.iter().map(|partition| self.statistics.get(*partition));
        let Some(known) = known.collect::<Option<Vec<_>>>() else { return Ok(Arc::new(unknown())) };
        Ok(match known[..] {
            [] => {
                let none = unknown().with_num_rows(Precision::Exact(0));
                Arc::new(none.with_total_byte_size(Precision::Exact(0)))
            }
            [one] => Arc::clone(one),
            _ => Arc::new(Statistics::try_merge_iter(known.into_iter().map(Arc::as_ref), schema)?),
        })
    }
}
