//! Functions that count, with signed results.
//!
//! DataFusion's `row_number`, `array_length` and their like return BIGINT UNSIGNED. With a BIGINT
//! that makes a decimal, so `row_number() OVER () / 2` would be 0.5, and unary minus is refused.
//! Here they return BIGINT, as `count` does; no machine holds more rows or items than fit.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::compute::{SortOptions, cast};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions_nested::cardinality::cardinality_udf;
use datafusion::functions_nested::dimension::array_ndims_udf;
use datafusion::functions_nested::length::array_length_udf;
use datafusion::functions_nested::position::array_position_udf;
use datafusion::functions_window::ntile::ntile_udwf;
use datafusion::functions_window::rank::{dense_rank_udwf, rank_udwf};
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::function::{
    ExpressionArgs, PartitionEvaluatorArgs, WindowUDFFieldArgs,
};
use datafusion::logical_expr::window_state::WindowAggState;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, LimitEffect, PartitionEvaluator, ReversedUDWF,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, WindowUDF, WindowUDFImpl,
};
use datafusion::physical_plan::PhysicalExpr;

/// Returns the scalar functions.
pub(super) fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let inner = [array_length_udf(), cardinality_udf(), array_ndims_udf(), array_position_udf()];
    inner.map(|inner| Arc::new(ScalarUDF::from(SignedScalar { inner }))).into()
}

/// Returns the window functions.
pub(super) fn window_functions() -> Vec<Arc<WindowUDF>> {
    [row_number_udwf(), rank_udwf(), dense_rank_udwf(), ntile_udwf()].map(signed_window).into()
}

/// Returns `row_number` as sessions know it.
///
/// Plans travel with functions by name: what a rule adds to a plan must be what the name stands for.
pub(crate) fn row_number() -> Arc<WindowUDF> {
    signed_window(row_number_udwf())
}

fn signed_window(inner: Arc<WindowUDF>) -> Arc<WindowUDF> {
    Arc::new(WindowUDF::from(SignedWindow { inner }))
}

/// A scalar function whose result is made a BIGINT.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SignedScalar {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for SignedScalar {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let field = args.return_field.as_ref().clone().with_data_type(DataType::UInt64);
        args.return_field = Arc::new(field);
        self.inner.invoke_with_args(args)?.cast_to(&DataType::Int64, None)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// A window function whose results are made BIGINT.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SignedWindow {
    inner: Arc<WindowUDF>,
}

impl WindowUDFImpl for SignedWindow {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn expressions(&self, expr_args: ExpressionArgs<'_>) -> Vec<Arc<dyn PhysicalExpr>> {
        self.inner.inner().expressions(expr_args)
    }

    fn partition_evaluator(
        &self,
        partition_evaluator_args: PartitionEvaluatorArgs<'_>,
    ) -> Result<Box<dyn PartitionEvaluator>> {
        let inner = self.inner.inner().partition_evaluator(partition_evaluator_args)?;
        Ok(Box::new(SignedEvaluator { inner }))
    }

    fn field(&self, field_args: WindowUDFFieldArgs<'_>) -> Result<FieldRef> {
        let field = self.inner.inner().field(field_args)?;
        Ok(Arc::new(field.as_ref().clone().with_data_type(DataType::Int64)))
    }

    fn sort_options(&self) -> Option<SortOptions> {
        self.inner.inner().sort_options()
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(arg_types)
    }

    fn reverse_expr(&self) -> ReversedUDWF {
        match self.inner.inner().reverse_expr() {
            ReversedUDWF::Reversed(inner) => ReversedUDWF::Reversed(signed_window(inner)),
            // The inner one would be itself, and this one is as symmetric.
            other => other,
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.inner().documentation()
    }

    fn limit_effect(&self, args: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        self.inner.inner().limit_effect(args)
    }
}

/// The evaluation of such a function over one partition.
#[derive(Debug)]
struct SignedEvaluator {
    inner: Box<dyn PartitionEvaluator>,
}

impl PartitionEvaluator for SignedEvaluator {
    fn memoize(&mut self, state: &mut WindowAggState) -> Result<()> {
        self.inner.memoize(state)
    }

    fn get_range(&self, idx: usize, n_rows: usize) -> Result<Range<usize>> {
        self.inner.get_range(idx, n_rows)
    }

    fn is_causal(&self) -> bool {
        self.inner.is_causal()
    }

    fn evaluate_all(&mut self, values: &[ArrayRef], num_rows: usize) -> Result<ArrayRef> {
        signed(&self.inner.evaluate_all(values, num_rows)?)
    }

    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        self.inner.evaluate(values, range)?.cast_to(&DataType::Int64)
    }

    fn evaluate_all_with_rank(
        &self,
        num_rows: usize,
        ranks_in_partition: &[Range<usize>],
    ) -> Result<ArrayRef> {
        signed(&self.inner.evaluate_all_with_rank(num_rows, ranks_in_partition)?)
    }

    fn supports_bounded_execution(&self) -> bool {
        self.inner.supports_bounded_execution()
    }

    fn uses_window_frame(&self) -> bool {
        self.inner.uses_window_frame()
    }

    fn include_rank(&self) -> bool {
        self.inner.include_rank()
    }
}

fn signed(counts: &ArrayRef) -> Result<ArrayRef> {
    Ok(cast(counts, &DataType::Int64)?)
}
