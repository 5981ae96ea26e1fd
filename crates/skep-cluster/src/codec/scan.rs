//! Leaves: scans of files and series, with what DataFusion's messages leave out.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::{internal_datafusion_err, internal_err, not_impl_err};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::{
    ArrowSource, CsvSource, FileGroup, FileScanConfig, FileSource, JsonSource, ParquetSource,
};
use datafusion::error::Result;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::memory::LazyMemoryExec;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};
use datafusion_proto::physical_plan::PhysicalPlanDecodeContext;
use datafusion_proto::protobuf;
use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;
use skep_engine::JsonArrayFile;

use super::decoder::Decoder;
use super::encoder::Encoder;
use super::parquet_order;
use super::wire::{Scan, Series};

/// What an Arrow source calls itself when it reads streams.
const ARROW_STREAM: &str = "arrow_stream";

/// Says what else there is to a scan of files; `None` for anything else.
///
/// # Errors
/// If a part of it cannot travel.
pub(super) fn encode_files(plan: &dyn ExecutionPlan, encoder: &Encoder) -> Result<Option<Scan>> {
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
    let order = parquet(config).and_then(parquet_order::wanted_order);
    Ok(Some(Scan {
        compression: config.file_compression_type.get_variant().to_string(),
        preserve_order: config.preserve_order,
        is_json_array,
        is_arrow_stream: source.file_type() == ARROW_STREAM,
        csv_terminator: csv.and_then(CsvSource::terminator).map(u32::from),
        wanted_order: order.map(|order| encoder.order(&order)).transpose()?,
    }))
}

/// Completes a scan that DataFusion has read.
///
/// # Errors
/// If it is none.
pub(super) fn decode_files(
    wire: &Scan,
    plan: &Arc<dyn ExecutionPlan>,
    decoder: &Decoder,
    ctx: &PhysicalPlanDecodeContext<'_>,
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
    if let Some(order) = &wire.wanted_order {
        let Some(parquet) = parquet(&config) else {
            return internal_err!("an order of row groups of something other than Parquet");
        };
        let order = decoder.order(order, parquet.table_schema().file_schema(), ctx)?;
        if let Some(ordered) = parquet_order::with_wanted_order(parquet, &order)? {
            config.file_source = ordered;
        }
    }
    Ok(Arc::new(exec.clone().with_data_source(Arc::new(config))))
}

/// Says what a scan of files lost on its way, if anything.
///
/// Not by what plans show of scans: DataFusion then works out how to prune, which takes longer than
/// all else here, and shows a few of the files.
pub(super) fn difference(before: &dyn ExecutionPlan, after: &dyn ExecutionPlan) -> Option<String> {
    let (Some((_, before)), Some((_, after))) = (file_scan(before), file_scan(after)) else {
        return Some(format!("{} is not {}", after.name(), before.name()));
    };
    let mut groups = before.file_groups.iter().zip(&after.file_groups);
    if before.file_groups.len() != after.file_groups.len() || !groups.all(is_same_group) {
        return Some("a scan has other files".to_owned());
    }
    let schemas = |config: &FileScanConfig| {
        let schema = config.file_source.table_schema();
        (Arc::clone(schema.file_schema()), Arc::clone(schema.table_schema()))
    };
    if schemas(before) != schemas(after) {
        return Some("a scan is of another table".to_owned());
    }
    let parquet = (parquet(before), parquet(after));
    if parquet.0.map(ParquetSource::table_parquet_options)
        != parquet.1.map(ParquetSource::table_parquet_options)
    {
        return Some("a scan has other options of Parquet".to_owned());
    }
    let (before, after) = (shown(before), shown(after));
    (before != after).then(|| format!("{after} is not {before}"))
}

/// Tells whether an operator is a scan of files.
pub(super) fn is_files(plan: &dyn ExecutionPlan) -> bool {
    file_scan(plan).is_some()
}

fn parquet(config: &FileScanConfig) -> Option<&ParquetSource> {
    config.file_source.downcast_ref::<ParquetSource>()
}

fn is_same_group((before, after): (&FileGroup, &FileGroup)) -> bool {
    before.len() == after.len()
        && before.iter().zip(after.iter()).all(|(before, after)| {
            before.object_meta.location == after.object_meta.location
                && before.object_meta.size == after.object_meta.size
                && before.object_meta.last_modified == after.object_meta.last_modified
                && before.range == after.range
                && before.partition_values == after.partition_values
        })
}

/// Shows what a scan does with given files of a given table.
fn shown(config: &FileScanConfig) -> String {
    let source = config.file_source();
    let mut text = format!(
        "{} of {} by {}, limit {:?}, kept {}, batches {:?}, {:?}",
        source.file_type(),
        config.object_store_url,
        config.file_compression_type.get_variant(),
        config.limit,
        config.preserve_order,
        config.batch_size,
        config.constraints,
    );
    for key in source.projection().into_iter().flat_map(ProjectionExprs::iter) {
        text += &format!(", {} as {}", key.expr, key.alias);
    }
    for order in &config.output_ordering {
        text += &format!(", ordered by {order}");
    }
    if let Some(partitioning) = &config.output_partitioning {
        text += &format!(", split by {partitioning}");
    }
    if let Some(filter) = source.filter() {
        text += &format!(", where {filter}");
    }
    match parquet(config) {
        Some(parquet) => match parquet_order::wanted_order(parquet) {
            Some(order) => text + &format!(", best by {order}"),
            None => text,
        },
        None => text + &Extra(source.as_ref()).to_string(),
    }
}

/// What a source shows of itself.
struct Extra<'a>(&'a dyn FileSource);

impl fmt::Display for Extra<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_extra(DisplayFormatType::Default, f)
    }
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
        let data_type = match &series.args {
            Some(Args::TimestampArgs(args)) => {
                DataType::Timestamp(TimeUnit::Nanosecond, args.tz.as_deref().map(Arc::from))
            }
            // Of times without a zone too; dates are cast above the series.
            Some(Args::DateArgs(_)) => DataType::Timestamp(TimeUnit::Nanosecond, None),
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
