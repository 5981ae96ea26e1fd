//! Leaves: scans of files and series, with what DataFusion's messages leave out.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::{internal_datafusion_err, internal_err, not_impl_err};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::{
    ArrowSource, CsvSource, FileGroup, FileScanConfig, FileSource, JsonSource,
};
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::memory::LazyMemoryExec;
use datafusion_proto::physical_plan::PhysicalPlanDecodeContext;
use datafusion_proto::protobuf;
use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;
use skep_engine::JsonArrayFile;

use super::decoder::Decoder;
use super::encoder::Encoder;
use super::wire::{Scan, Series};

/// What an Arrow source calls itself when it reads streams.
const ARROW_STREAM: &str = "arrow_stream";

/// Says what else there is to a scan of files; `None` for anything else.
///
/// # Errors
/// If a part of it cannot travel.
pub(super) fn encode_files(plan: &dyn ExecutionPlan) -> Result<Option<Scan>> {
    let Some((_, config)) = file_scan(plan) else { return Ok(None) };
    if config.expr_adapter_factory.is_some() {
        return not_impl_err!("a scan with an adapter of expressions does not travel");
    }
    if config.limit.is_some_and(|limit| u32::try_from(limit).is_err()) {
        return not_impl_err!("a scan with a limit of so many rows does not travel");
    }
    let source = config.file_source();
    let files = || config.file_groups.iter().flat_map(FileGroup::iter);
    let is_json_array = files().any(|file| file.extension::<JsonArrayFile>().is_some());
    if is_json_array && !files().all(|file| file.extension::<JsonArrayFile>().is_some()) {
        return internal_err!("a scan of JSON arrays and of JSON lines");
    }
    let csv = source.downcast_ref::<CsvSource>();
    Ok(Some(Scan {
        compression: config.file_compression_type.get_variant().to_string(),
        preserve_order: config.preserve_order,
        is_json_array,
        is_arrow_stream: source.file_type() == ARROW_STREAM,
        csv_terminator: csv.and_then(CsvSource::terminator).map(u32::from),
    }))
}

/// Completes a scan that DataFusion has read.
///
/// # Errors
/// If it is none.
pub(super) fn decode_files(
    wire: &Scan,
    plan: &Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some((exec, config)) = file_scan(plan.as_ref()) else {
        return internal_err!("{} is no scan of files", plan.name());
    };
    let mut config = config.clone();
    config.file_compression_type = wire.compression.parse::<FileCompressionType>()?;
    config.preserve_order = wire.preserve_order;
    if let Some(csv) = config.file_source.downcast_ref::<CsvSource>() {
        let terminator = wire.csv_terminator.map(u8::try_from).transpose();
        let terminator =
            terminator.map_err(|_error| internal_datafusion_err!("a line end of many bytes"))?;
        config.file_source = Arc::new(csv.with_terminator(terminator));
    }
    if wire.is_json_array {
        let Some(json) = config.file_source.downcast_ref::<JsonSource>() else {
            return internal_err!("a scan of arrays of something other than JSON");
        };
        config.file_source = Arc::new(json.clone().with_newline_delimited(false));
        for group in &mut config.file_groups {
            let files = group.iter().map(|file| file.clone().with_extension(JsonArrayFile));
            *group = FileGroup::new(files.collect());
        }
    }
    if wire.is_arrow_stream {
        let stream = ArrowSource::new_stream_file_source(config.file_source.table_schema().clone());
        let projected = match config.file_source.projection() {
            Some(projection) => stream.try_pushdown_projection(projection)?,
            None => None,
        };
        config.file_source = projected.unwrap_or_else(|| Arc::new(stream));
    }
    Ok(Arc::new(exec.clone().with_data_source(Arc::new(config))))
}

fn file_scan(plan: &dyn ExecutionPlan) -> Option<(&DataSourceExec, &FileScanConfig)> {
    let exec = plan.downcast_ref::<DataSourceExec>()?;
    Some((exec, exec.data_source().downcast_ref::<FileScanConfig>()?))
}

/// Says what else there is to a series; `None` for anything else.
///
/// # Errors
/// If its order cannot travel.
pub(super) fn encode_series(plan: &dyn ExecutionPlan, encoder: &Encoder) -> Result<Option<Series>> {
    let Some(series) = plan.downcast_ref::<LazyMemoryExec>() else { return Ok(None) };
    let orders = series.properties().eq_properties.oeq_class().iter();
    let orders = orders.map(|order| encoder.order(order)).collect::<Result<_>>()?;
    Ok(Some(Series { is_without_columns: series.schema().fields().is_empty(), orders }))
}

/// Gives a series its column again, without which its generator makes nothing.
///
/// # Errors
/// If the node is no series.
pub(super) fn widen_series(node: &mut protobuf::PhysicalPlanNode) -> Result<()> {
    let Some(PhysicalPlanType::GenerateSeries(series)) = &mut node.physical_plan_type else {
        return not_impl_err!("a generator of rows of a kind that does not travel");
    };
    if series.schema.as_ref().is_some_and(|schema| schema.columns.is_empty()) {
        use protobuf::generate_series_node::Args;
        let data_type = match series.args {
            Some(Args::TimestampArgs(_) | Args::DateArgs(_)) => {
                return not_impl_err!(
                    "a series of times of which no column is wanted does not travel"
                );
            }
            _ => DataType::Int64,
        };
        let schema = Schema::new(vec![Field::new("value", data_type, false)]);
        series.schema = Some((&schema).try_into()?);
    }
    Ok(())
}

/// Completes a series that DataFusion has read.
///
/// # Errors
/// If it is none.
pub(super) fn decode_series(
    wire: &Series,
    plan: &Arc<dyn ExecutionPlan>,
    decoder: &Decoder,
    ctx: &PhysicalPlanDecodeContext<'_>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(series) = plan.downcast_ref::<LazyMemoryExec>() else {
        return internal_err!("{} is no series", plan.name());
    };
    let mut series = LazyMemoryExec::try_new(series.schema(), series.generators().clone())?;
    if wire.is_without_columns {
        series = series.with_projection(Some(Vec::new()));
    }
    let schema = series.schema();
    for order in &wire.orders {
        series.add_ordering(decoder.order(order, &schema, ctx)?);
    }
    Ok(Arc::new(series))
}
