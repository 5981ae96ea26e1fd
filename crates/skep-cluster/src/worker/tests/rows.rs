//! A leaf whose rows come out of a closure.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use futures::stream::BoxStream;

type Make =
    dyn Fn(usize, Arc<TaskContext>) -> BoxStream<'static, Result<RecordBatch>> + Send + Sync;

pub(super) struct RowsExec {
    make: Arc<Make>,
    properties: Arc<PlanProperties>,
}

impl RowsExec {
    pub(super) fn streams(
        schema: SchemaRef,
        partitions: usize,
        make: impl Fn(usize, Arc<TaskContext>) -> BoxStream<'static, Result<RecordBatch>>
        + Send
        + Sync
        + 'static,
    ) -> Arc<dyn ExecutionPlan> {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Arc::new(Self { make: Arc::new(make), properties: Arc::new(properties) })
    }

    /// One partition with these batches.
    pub(super) fn batches(batches: Vec<RecordBatch>) -> Arc<dyn ExecutionPlan> {
        let schema = batches[0].schema();
        Self::streams(schema, 1, move |_partition, _context| {
            Box::pin(futures::stream::iter(batches.clone().into_iter().map(Ok)))
        })
    }

    /// One partition that gives the same batch for ever, and is always ready.
    pub(super) fn endless(batch: RecordBatch) -> Arc<dyn ExecutionPlan> {
        Self::streams(batch.schema(), 1, move |_partition, _context| {
            let batch = batch.clone();
            Box::pin(futures::stream::repeat_with(move || Ok(batch.clone())))
        })
    }

    /// One partition that gives one batch and then nothing, without an end.
    pub(super) fn stuck(batch: RecordBatch) -> Arc<dyn ExecutionPlan> {
        use futures::StreamExt;
        Self::streams(batch.schema(), 1, move |_partition, _context| {
            let batch = batch.clone();
            let begun = futures::stream::iter((0..3).map(move |_| Ok(batch.clone())));
            begun.chain(futures::stream::pending()).boxed()
        })
    }
}

impl fmt::Debug for RowsExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RowsExec")
    }
}

impl DisplayAs for RowsExec {
    fn fmt_as(&self, _kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RowsExec")
    }
}

impl ExecutionPlan for RowsExec {
    fn name(&self) -> &'static str {
        "RowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let rows = (self.make)(partition, context);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

pub(super) fn number_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("number", DataType::Int64, false)]))
}

/// `rows` rows that begin with number `first`.
pub(super) fn numbered(first: i64, rows: usize) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + rows as i64));
    RecordBatch::try_new(number_schema(), vec![column]).unwrap()
}

pub(super) fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    batches
        .iter()
        .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec())
        .collect()
}
