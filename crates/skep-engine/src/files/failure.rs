//! Says which file made a query fail, and where in it.
//!
//! A decoder deep in a plan knows neither the file nor, once a file is read in pieces, the line. So
//! after a failure that may come from a file, the files of the plan are read again one by one,
//! until one fails alone. Filters and expressions that were pushed into a scan are left out then:
//! what they cannot compute is no fault of a file.

use std::any::Any;
use std::collections::{BTreeSet, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::error::ArrowError;
use datafusion::common::config::CsvOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    ArrowSource, AvroSource, CsvSource, FileGroup, FileScanConfig, FileScanConfigBuilder,
    FileSource, JsonSource, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::ExecutionPlan;
use futures::{FutureExt, TryStreamExt};

use super::check::{Framing, check, panicked};
use super::delimited::Dialect;
use super::format::Format;
use super::listing::{FoundFile, io_kind, store_error};
use super::location::display;
use super::options::{Options, Rules};
use super::read::{bad_file, decompressed};
use super::schema::{decoder_message, ragged_error};
use crate::error::{Error, Result};

/// More files than this are not read again.
const MAX_PROBES: usize = 1000;

/// Turns what a running plan failed with into the engine's error, blaming a file where one is to
/// blame.
///
/// Does nothing but convert the error unless it may come from a file: then the plan's files are
/// read again, one by one, until one fails alone.
pub async fn explain_failure(
    plan: &Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
    error: DataFusionError,
) -> Error {
    if !may_come_from_file(&error) {
        return error.into();
    }
    let is_cast = is_cast(&error);
    let mut probed = HashSet::new();
    let mut bytes = 0;
    for config in file_scans(plan) {
        for file in config.file_groups.iter().flat_map(FileGroup::iter) {
            let is_new = probed.insert((
                config.object_store_url.as_str().to_owned(),
                file.object_meta.location.clone(),
            ));
            if !is_new {
                continue;
            }
            bytes += file.object_meta.size;
            if probed.len() > MAX_PROBES || (is_cast && bytes > MAX_CAST_PROBE) {
                return error.into();
            }
            if let Err(found) = probe(&config, file, context).await {
                return found;
            }
        }
    }
    error.into()
}

/// Most casts that fail are the statement's own, so no more than this is read again for one.
const MAX_CAST_PROBE: u64 = 1024 * 1024 * 1024;

fn is_cast(error: &DataFusionError) -> bool {
    matches!(error.find_root(), DataFusionError::ArrowError(error, _)
        if matches!(error.as_ref(), ArrowError::CastError(_)))
}

fn may_come_from_file(error: &DataFusionError) -> bool {
    if io_kind(error).is_some() {
        return true;
    }
    match error.find_root() {
        DataFusionError::ArrowError(error, _) => !matches!(
            error.as_ref(),
            ArrowError::ComputeError(_)
                | ArrowError::DivideByZero
                | ArrowError::ArithmeticOverflow(_)
                | ArrowError::MemoryError(_)
                | ArrowError::NotYetImplemented(_)
        ),
        DataFusionError::ParquetError(_)
        | DataFusionError::ObjectStore(_)
        | DataFusionError::IoError(_)
        | DataFusionError::ExecutionJoin(_)
        | DataFusionError::Internal(_) => true,
        DataFusionError::Execution(message) => message.contains("panic"),
        DataFusionError::External(error) => error.downcast_ref::<Error>().is_none(),
        _ => false,
    }
}

fn file_scans(plan: &Arc<dyn ExecutionPlan>) -> Vec<FileScanConfig> {
    let mut scans = Vec::new();
    let walked = plan.apply(|node| {
        if let Some(config) = node
            .downcast_ref::<DataSourceExec>()
            .and_then(|scan| scan.data_source().downcast_ref::<FileScanConfig>())
        {
            scans.push(config.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    // The visitor itself never fails.
    if walked.is_err() {
        scans.clear();
    }
    scans
}

/// Reads one file of a scan alone, all of it.
async fn probe(
    config: &FileScanConfig,
    file: &PartitionedFile,
    context: &Arc<TaskContext>,
) -> Result<()> {
    let path = display(&config.object_store_url, &file.object_meta.location);
    let file_type = config.file_source().file_type();
    // A source of another kind is not ours to explain.
    let Ok(format) = file_type.trim_end_matches("_stream").parse::<Format>() else {
        return Ok(());
    };
    let mut whole = file.clone();
    whole.range = None;
    let Some(source) = plain_source(config, file, context).await? else { return Ok(()) };
    let columns = read_columns(config);
    let single = FileScanConfigBuilder::from(config.clone())
        .with_source(source)
        .with_file_groups(vec![FileGroup::new(vec![whole])])
        .with_output_ordering(Vec::new())
        .with_limit(None)
        .with_projection_indices(Some(columns))?
        .build();
    let scan = DataSourceExec::from_data_source(single);
    let work = async {
        let mut rows = scan.execute(0, Arc::clone(context))?;
        while rows.try_next().await?.is_some() {}
        Ok::<(), DataFusionError>(())
    };
    let result: Result<Result<(), DataFusionError>, Box<dyn Any + Send>> =
        AssertUnwindSafe(work).catch_unwind().await;
    let error = match result {
        Ok(Ok(())) => return Ok(()),
        Err(panic) => return Err(panicked(&path, format, panic.as_ref())),
        Ok(Err(error)) => error,
    };
    if let DataFusionError::ObjectStore(source) = error.find_root() {
        let kind = io_kind(source.as_ref());
        return Err(match kind {
            Some(kind) => super::listing::io_error(&path, kind.into()),
            None => store_error(
                &path,
                object_store::Error::Generic {
                    store: "object store",
                    source: source.to_string().into(),
                },
            ),
        });
    }
    if matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) {
        return Ok(());
    }
    if let (Format::Csv, Some(source)) = (format, config.file_source().downcast_ref::<CsvSource>())
    {
        return Err(csv_error(config, source, file, context, &error).await);
    }
    Err(bad_file(path, format, decoder_message(&error), None))
}

/// Makes a source that reads all columns as they are.
async fn plain_source(
    config: &FileScanConfig,
    file: &PartitionedFile,
    context: &Arc<TaskContext>,
) -> Result<Option<Arc<dyn FileSource>>> {
    let source = config.file_source();
    let schema = source.table_schema().clone();
    if let Some(parquet) = source.downcast_ref::<ParquetSource>() {
        let mut options = parquet.table_parquet_options().clone();
        options.global.pushdown_filters = false;
        let plain = ParquetSource::new(schema).with_table_parquet_options(options);
        return Ok(Some(Arc::new(plain)));
    }
    if let Some(csv) = source.downcast_ref::<CsvSource>() {
        let options = CsvOptions {
            has_header: Some(csv.has_header()),
            delimiter: csv.delimiter(),
            quote: csv.quote(),
            newlines_in_values: Some(csv.newlines_in_values()),
            ..CsvOptions::default()
        };
        let plain = CsvSource::new(schema)
            .with_csv_options(options)
            .with_escape(csv.escape())
            .with_comment(csv.comment())
            .with_terminator(csv.terminator())
            .with_truncate_rows(csv.truncate_rows());
        return Ok(Some(Arc::new(plain)));
    }
    if source.is::<JsonSource>() {
        // Whether it is an array, only the file itself still says.
        let mut rules = Rules::parse(Format::Json, &Options::new())?;
        rules.compression = Some(*config.file_compression_type.get_variant());
        let found = found_file(config, file);
        let shape = check(&context.runtime_env(), &found, &rules).await?;
        let is_array = shape.is_some_and(|shape| shape.framing == Framing::JsonArray);
        let plain = JsonSource::new(schema).with_newline_delimited(!is_array);
        return Ok(Some(Arc::new(plain)));
    }
    if source.is::<AvroSource>() {
        return Ok(Some(Arc::new(AvroSource::new(schema))));
    }
    if !source.is::<ArrowSource>() {
        return Ok(None);
    }
    let plain = match source.file_type() {
        "arrow_stream" => ArrowSource::new_stream_file_source(schema),
        _ => ArrowSource::new_file_source(schema),
    };
    Ok(Some(Arc::new(plain)))
}

fn found_file(config: &FileScanConfig, file: &PartitionedFile) -> FoundFile {
    FoundFile {
        store: config.object_store_url.clone(),
        meta: file.object_meta.clone(),
        directories: Vec::new(),
    }
}

/// Returns the places of the columns that a scan reads, for its filters too.
fn read_columns(config: &FileScanConfig) -> Vec<usize> {
    let source = config.file_source();
    let width = source.table_schema().table_schema().fields().len();
    let mut columns: BTreeSet<usize> = match source.projection() {
        Some(projection) => projection.column_indices().into_iter().collect(),
        None => (0..width).collect(),
    };
    if let Some(filter) = source.filter() {
        columns.extend(collect_columns(&filter).iter().map(Column::index));
    }
    columns.into_iter().filter(|index| *index < width).collect()
}

/// Says what is wrong with a CSV file, and in which line.
async fn csv_error(
    config: &FileScanConfig,
    source: &CsvSource,
    file: &PartitionedFile,
    context: &Arc<TaskContext>,
    error: &DataFusionError,
) -> Error {
    let path = display(&config.object_store_url, &file.object_meta.location);
    let message = decoder_message(error);
    let mut rules = match Rules::parse(Format::Csv, &Options::new()) {
        Ok(rules) => rules,
        Err(error) => return error,
    };
    rules.csv.header = source.has_header();
    rules.csv.delimiter = Some(source.delimiter());
    rules.csv.quote = source.quote();
    rules.csv.escape = source.escape();
    rules.csv.comment = source.comment();
    rules.csv.terminator = source.terminator();
    rules.compression = Some(*config.file_compression_type.get_variant());
    let found = found_file(config, file);
    let dialect = Dialect::of(&rules.csv, found.name());
    let schema = config.file_schema();
    let expected = schema.fields().len();

    if message.starts_with("incorrect number of fields") {
        let short_rows = source.truncate_rows();
        let place = find_record(context, &found, &rules, dialect, |_, fields| {
            fields > expected || (fields < expected && !short_rows)
        });
        if let Ok(Some((line, fields))) = place.await {
            return ragged_error(&path, line, fields, expected);
        }
    }
    if let Some(value) = BadValue::parse(&message) {
        // Arrow counts from zero, the header included.
        let number = value.record + 1;
        let place = find_record(context, &found, &rules, dialect, |n, _| n == number).await;
        let line = match place {
            Ok(Some((line, _))) => line,
            _ => number,
        };
        return value.into_error(&path, line, schema);
    }
    bad_file(path, Format::Csv, message, None)
}

/// Finds the line and the number of fields of the first record that `is_it`, told by its number
/// and its fields.
async fn find_record(
    context: &Arc<TaskContext>,
    file: &FoundFile,
    rules: &Rules,
    dialect: Dialect,
    is_it: impl Fn(u64, usize) -> bool + Send,
) -> Result<Option<(u64, usize)>> {
    let compression = rules
        .compression
        .unwrap_or(datafusion::common::parsers::CompressionTypeVariant::UNCOMPRESSED);
    let runtime = context.runtime_env();
    let mut stream = decompressed(&runtime, file, compression).await?;
    let mut text: Vec<u8> = Vec::new();
    let (mut number, mut line) = (0, 0);
    loop {
        let chunk = stream.try_next().await?;
        let is_end = chunk.is_none();
        text.extend_from_slice(&chunk.unwrap_or_default());
        let (mut consumed, mut lines) = (0, 0);
        for record in dialect.records(&text) {
            if !record.is_whole && !is_end {
                break;
            }
            number += 1;
            if is_it(number, record.fields) {
                return Ok(Some((line + record.line, record.fields)));
            }
            consumed = record.end;
            lines = record.next_line - 1;
        }
        if is_end {
            return Ok(None);
        }
        text.drain(..consumed);
        line += lines;
    }
}

/// What arrow says of a value that it cannot read.
#[derive(Debug, PartialEq, Eq)]
struct BadValue {
    value: String,
    type_name: String,
    column: usize,
    record: u64,
}

impl BadValue {
    /// Takes arrow's sentence apart: `Error while parsing value 'x' as type 'Int64' for column 1
    /// at line 3. Row data: ...`.
    fn parse(message: &str) -> Option<Self> {
        let rest = message.strip_prefix("Error while parsing value '")?;
        let (head, tail) = rest.split_once("' for column ")?;
        let (value, type_name) = head.rsplit_once("' as type '")?;
        let (column, tail) = tail.split_once(" at line ")?;
        let digits: String = tail.chars().take_while(char::is_ascii_digit).collect();
        Some(Self {
            value: value.to_owned(),
            type_name: type_name.to_owned(),
            column: column.trim().parse().ok()?,
            record: digits.parse().ok()?,
        })
    }

    fn into_error(self, path: &str, line: u64, schema: &Schema) -> Error {
        let field = schema.fields().get(self.column);
        let column = field.map_or_else(|| self.column.to_string(), |field| field.name().clone());
        let type_name = field.map_or(self.type_name, |field| field.data_type().to_string());
        bad_file(
            path,
            Format::Csv,
            format!("line {line}, column \"{column}\": '{}' is no {type_name}", self.value),
            Some(
                "declare the column as text, set nullValue if this stands for NULL, or raise \
                 inferRows (schema_infer_max_rec) if the type was inferred"
                    .to_owned(),
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_sentence_is_understood() {
        let message = "Error while parsing value 'a 'b' as type 'Int64' for column 1 at line 3. \
                       Row data: '[x,y]'";
        let value = BadValue::parse(message).unwrap();
        assert_eq!((value.value.as_str(), value.column, value.record), ("a 'b", 1, 3));
        assert_eq!(BadValue::parse("something else"), None);
    }
}
