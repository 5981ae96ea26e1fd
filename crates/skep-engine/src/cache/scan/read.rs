//! How a scan reads one partition, wherever its rows are.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::metrics::{BaselineMetrics, Count, MetricBuilder};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use skep_store::PartitionReader;

use super::super::build::fitted;
use super::super::content::KeptPartition;
use super::super::gather::gathered;
use super::super::hosted::{CachedInputs, CachedRows, RowsWanted, StoreFailure};
use super::super::open::{Opened, Pin, explained};
use super::super::output::RunOutput;
use super::super::prune::wanted;
use super::super::summary::PartitionSummary;
use super::{CacheScanExec, Rows};

/// The rows of one partition, batch by batch; `None` where nothing of a batch passed.
type Passing = BoxStream<'static, Result<Option<RecordBatch>>>;

/// What one run of a partition counts, and gives.
#[derive(Debug, Clone)]
struct Run {
    output: RunOutput,
    baseline: BaselineMetrics,
    skipped_batches: Count,
    passing_partitions: Count,
}

impl CacheScanExec {
    /// Reads what a partition of the plan reads.
    ///
    /// # Errors
    /// If the plan has no such partition, or gives codes that nobody reads.
    pub(super) fn rows(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let run = Run {
            output: self.output.in_run(&context)?,
            baseline: BaselineMetrics::new(&self.metrics, partition),
            skipped_batches: MetricBuilder::new(&self.metrics)
                .counter("skipped_batches", partition),
            passing_partitions: MetricBuilder::new(&self.metrics)
                .counter("passing_partitions", partition),
        };
        let schema = Arc::clone(self.output.schema());
        let batch_size = context.session_config().batch_size();
        let (scan, baseline) = (self.clone(), run.baseline.clone());
        // Each is opened when its turn comes: by then the operators above have found their filters.
        let rows = futures::stream::iter(self.partitions_of(partition)?.into_iter().map(Ok));
        let rows = rows.and_then(move |partition| {
            scan.clone().open(partition, Arc::clone(&context), run.clone())
        });
        let rows = gathered(rows.try_flatten(), Arc::clone(&schema), batch_size, baseline);
        Ok(make_cooperative(Box::pin(RecordBatchStreamAdapter::new(schema, rows))))
    }

    /// Opens a partition of the table. Whichever way its rows come, the conditions are applied to
    /// them.
    async fn open(self, partition: usize, context: Arc<TaskContext>, run: Run) -> Result<Passing> {
        let (content, pin) = match &self.rows {
            Rows::Here { content, pin } => (Arc::clone(content), Arc::clone(pin)),
            Rows::Hosted { .. } => return self.open_hosted(partition, &context, run),
        };
        let pin = pin.get_or_try_init(|| Pin::new(&content)).await?;
        match pin.open(partition).await? {
            Opened::Kept(kept) => {
                let KeptPartition { reader, summary } = *kept;
                let failure: StoreFailure = Arc::new(move |error| content.unreadable(error).into());
                Ok(self.read(reader, Some(&summary), failure, run))
            }
            Opened::Lineage(lineage) => {
                run.passing_partitions.add(1);
                let lineage = lineage.under(|plan| self.over_lineage(plan))?;
                let rows = explained(&lineage, partition)?;
                Ok(rows.map(move |batch| run.output.of_seen(batch?).map(Some)).boxed())
            }
            Opened::Passing(rows) => {
                run.passing_partitions.add(1);
                let (all, read) = (Arc::clone(&content.schema), self.read);
                let conditions = self.conditions;
                let rows = rows.map(move |batch| {
                    let batch = fitted(batch?, &all)?.project(&read)?;
                    let passing = conditions.of_projected(batch)?;
                    passing.map(|batch| run.output.of_seen(batch)).transpose()
                });
                Ok(rows.boxed())
            }
        }
    }

    fn open_hosted(self, partition: usize, context: &TaskContext, run: Run) -> Result<Passing> {
        let inputs = context.session_config().get_extension::<CachedInputs>();
        let (Some(inputs), Some(producer)) = (inputs, self.producer()) else {
            return internal_err!("a scan of \"{}\" runs outside of a task", self.shape.name);
        };
        let wanted = RowsWanted {
            shape: &self.shape,
            producer,
            partition,
            projection: &self.read,
            schema: &self.read_schema,
        };
        match inputs.0.open(wanted, context)? {
            CachedRows::Kept { reader, summary, failure } => {
                Ok(self.read(*reader, summary.as_deref(), failure, run))
            }
            CachedRows::Plain(rows) => {
                run.passing_partitions.add(1);
                let conditions = self.conditions;
                let rows = rows.map(move |batch| {
                    let passing = conditions.of_projected(batch?)?;
                    passing.map(|batch| run.output.of_seen(batch)).transpose()
                });
                Ok(rows.boxed())
            }
        }
    }

    fn read(
        self,
        reader: PartitionReader,
        summary: Option<&PartitionSummary>,
        failure: StoreFailure,
        run: Run,
    ) -> Passing {
        let reader = match summary {
            Some(summary) => {
                let wanted = self.wanted(summary);
                let skipped = wanted.iter().filter(|is_wanted| !**is_wanted).count();
                run.skipped_batches.add(skipped);
                reader.only(wanted.into())
            }
            None => reader,
        };
        let (projection, conditions) = (self.projection, self.conditions);
        let time = run.baseline.elapsed_compute().clone();
        let rows = reader.map(move |batch| {
            let batch = batch.map_err(|error| failure(error))?;
            let _timer = time.timer();
            conditions.of_encoded(&batch, &projection, &run.output)
        });
        rows.boxed()
    }

    /// Returns which batches of a partition may have rows that pass all filters.
    fn wanted(&self, summary: &PartitionSummary) -> Vec<bool> {
        let mut all = vec![true; summary.batch_count];
        let schema = &self.shape.schema;
        // What operators above found is in terms of the projected columns.
        let found = self.dynamic_filters.iter().filter_map(|filter| self.over_all(filter).ok());
        for filter in self.filter.iter().cloned().chain(found) {
            if let Some(of_filter) = wanted(&filter, schema, summary) {
                for (all, of_filter) in all.iter_mut().zip(of_filter) {
                    *all &= of_filter;
                }
            }
        }
        all
    }
}
