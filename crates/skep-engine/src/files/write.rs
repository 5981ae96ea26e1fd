//! Files out of queries: `COPY TO`, `CREATE TABLE AS`, `INSERT INTO`.

use std::path::{Path as LocalPath, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Result as DfResult;
use datafusion::common::parsers::{CompressionTypeVariant, CsvQuoteStyle};
use datafusion::config::{CsvOptions, JsonOptions};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::datasource::physical_plan::{FileGroup, FileOutputMode, FileSinkConfig};
use datafusion::datasource::sink::DataSinkExec;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use url::Url;

use super::format::{Format, NamedContent, compression_extension};
use super::listing::{io_kind, store_error, store_of};
use super::location::{Location, absolute_location};
use super::options::{Options, Rules, from_datafusion};
use super::partition::directory_value;
use super::provider::can_partition;
use super::staging::Staging;
use super::table::FileTable;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::query::QueryExecutor;

/// What may be in the place that is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteMode {
    /// Nothing, or an empty directory.
    Create,
    /// Files, which stay.
    Append,
    /// Anything, which goes.
    Overwrite,
}

/// Where and how a query's rows are written.
#[derive(Debug, Clone)]
pub(crate) struct FileTarget {
    /// A file or directory, as a path or URL.
    pub(crate) location: String,
    pub(crate) format: Format,
    /// Options under their canonical names.
    pub(crate) options: Options,
    /// Columns that become directories.
    pub(crate) partition_by: Vec<String>,
    pub(crate) mode: WriteMode,
    /// Whether one file is written or a directory of files; `None` goes by the name.
    pub(crate) single_file: Option<bool>,
    /// The columns that the rows must have, by place; they are cast to these types. `None` takes
    /// what comes.
    pub(crate) schema: Option<SchemaRef>,
}

/// Says where `COPY ... TO 'location' [STORED AS format] [PARTITIONED BY ...] [OPTIONS ...]`
/// writes: never over something that is there.
///
/// # Errors
/// [`Error::Plan`] if no format is given and the name tells none; errors of the options.
pub(crate) fn copy_target(
    location: &str,
    format: Option<&str>,
    mut options: Vec<(String, String)>,
    partition_by: Vec<String>,
) -> Result<FileTarget> {
    let mut take = |name: &str| {
        let at = options.iter().position(|(key, _)| {
            let key = key.to_ascii_lowercase();
            key.strip_prefix("format.").unwrap_or(&key) == name
        });
        at.map(|at| options.remove(at).1)
    };
    let named = take("format");
    let single_file = take("single_file_output")
        .map(|value| match value.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(Error::InvalidOption {
                option: "single_file_output".to_owned(),
                message: format!("\"{value}\" is neither true nor false"),
                hint: None,
            }),
        })
        .transpose()?;
    let format: Format = match (format, &named, NamedContent::of(location).format) {
        (Some(name), _, _) => name.parse()?,
        (None, Some(name), _) => name.parse()?,
        (None, None, Some(format)) => format,
        (None, None, None) => {
            return Err(Error::Plan {
                message: format!("the name \"{location}\" does not tell the format to write"),
                position: None,
                hint: Some("add STORED AS csv, json, parquet or arrow".to_owned()),
            });
        }
    };
    Ok(FileTarget {
        location: absolute_location(location)?,
        format,
        options: from_datafusion(format, options.iter().map(|(key, value)| (key, value)))?,
        partition_by,
        mode: WriteMode::Create,
        single_file,
        schema: None,
    })
}

/// Says where `INSERT INTO` a table writes, and the columns that it takes.
///
/// # Errors
/// [`Error::Unsupported`] if the table is over one file, several paths, a glob or http.
pub(crate) fn insert_target(table: &FileTable, mode: WriteMode) -> Result<FileTarget> {
    let refused = |what: &str, location: &str| {
        Err(Error::unsupported(
            format!("writing to a table over {what} ({location})"),
            "a table over a directory takes new rows as new files",
        ))
    };
    let [text] = table.locations.as_slice() else {
        return refused("several paths", &table.locations.join(", "));
    };
    let location = Location::parse(text)?;
    if location.pattern.is_some() {
        return refused("a glob", &location.text);
    }
    if location.is_http() {
        return refused("an http server", &location.text);
    }
    let named_as_file = !location.is_directory && NamedContent::of(&location.text).format.is_some();
    let is_file = match &location.local {
        Some(path) => std::fs::metadata(path).map_or(named_as_file, |found| !found.is_dir()),
        None => named_as_file,
    };
    if is_file {
        return refused("a single file", &location.text);
    }
    if table.rules()?.json_array == Some(true) {
        return refused("JSON arrays", &location.text);
    }
    let schema = table.schema.as_ref().map(|schema| {
        let mut fields: Vec<Field> =
            schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        for (name, data_type) in &table.partition_columns {
            fields.push(Field::new(name, data_type.clone(), true));
        }
        Arc::new(Schema::new(fields))
    });
    Ok(FileTarget {
        location: text.clone(),
        format: table.format,
        options: table.options.clone(),
        partition_by: table.partition_columns.iter().map(|(name, _)| name.clone()).collect(),
        mode,
        single_file: Some(false),
        schema,
    })
}

/// Writes a query's rows; returns how many. `changed` is called when something may have changed: even
/// if nobody waits any longer, or it could not be done as a whole.
///
/// # Errors
/// The query's own; [`Error::AlreadyExists`] and [`Error::Io`] about the target; nothing that is
/// half-written stays on a local disk.
pub(crate) async fn write(
    state: &SessionState,
    executor: &dyn QueryExecutor,
    input: LogicalPlan,
    target: &FileTarget,
    changed: impl FnOnce() + Send + 'static,
) -> Result<u64> {
    let rules = Rules::parse(target.format, &target.options)?;
    let location = Location::parse(&target.location)?;
    if target.format == Format::Avro {
        return Err(Error::unsupported("writing avro files", "use parquet, arrow, csv or json"));
    }
    if location.pattern.is_some() || location.is_http() {
        return Err(Error::unsupported(
            format!("writing to {}", location.text),
            "name a file, a directory or a cloud store's URL",
        ));
    }
    if rules.json_array == Some(true) {
        return Err(Error::unsupported("writing a JSON array", "rows are written line by line"));
    }
    let is_file = is_single_file(target, &location);
    let staging = match &location.local {
        Some(path) => Some(Staging::new(path, target.mode, is_file)?),
        None => {
            check_remote(state, &location, target.mode, is_file).await?;
            None
        }
    };
    let input = match &target.schema {
        Some(schema) => fit(input, schema)?,
        None => input,
    };
    let plan = state.create_physical_plan(&input).await?;
    let schema = plan.schema();
    check_columns(&schema, target)?;
    let context = state.task_ctx();
    let rows = executor.execute(plan, Arc::clone(&context)).await?;
    let output = Output { rules: &rules, target, location: &location, is_file };
    // What is staged is not seen before it is committed.
    let mut change = Change { has_begun: staging.is_none(), call: Some(changed) };
    let directory = staging.as_ref().map(Staging::directory);
    let written = output.write_rows(state, rows, &context, directory).await;
    let count = written.map_err(|error| write_error(&location, error))?;
    if let Some(deadline) = context.session_config().get_extension::<Deadline>() {
        deadline.settle()?;
    }
    match staging {
        Some(staging) => {
            let file = is_file.then(|| file_name(&location));
            let mode = target.mode;
            // Renames and syncs wait for the disk.
            let commit = move || {
                change.has_begun = true;
                let outcome = staging.commit(mode, file.as_deref());
                drop(change);
                outcome
            };
            tokio::task::spawn_blocking(commit)
                .await
                .map_err(|error| Error::Internal { message: error.to_string(), source: None })??;
        }
        None => tracing::debug!(location = %location.text, "written to a remote store"),
    }
    Ok(count)
}

/// Tells of a change, however it ends.
struct Change<F: FnOnce()> {
    has_begun: bool,
    call: Option<F>,
}

impl<F: FnOnce()> Drop for Change<F> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take().filter(|_| self.has_begun) {
            call();
        }
    }
}

fn is_single_file(target: &FileTarget, location: &Location) -> bool {
    if !target.partition_by.is_empty() || location.is_directory {
        return false;
    }
    if let Some(single_file) = target.single_file {
        return single_file;
    }
    let is_directory = location.local.as_ref().is_some_and(|path| path.is_dir());
    !is_directory && file_name(location).contains('.')
}

fn file_name(location: &Location) -> String {
    location.base.filename().unwrap_or("part").to_owned()
}

/// What one write needs to know.
struct Output<'a> {
    rules: &'a Rules,
    target: &'a FileTarget,
    location: &'a Location,
    is_file: bool,
}

impl Output<'_> {
    async fn write_rows(
        &self,
        state: &SessionState,
        rows: SendableRecordBatchStream,
        context: &Arc<TaskContext>,
        staging: Option<&LocalPath>,
    ) -> DfResult<u64> {
        let rows = with_directory_values(rows, &self.target.partition_by);
        let schema = rows.schema();
        let count = self.sink(state, rows, context, staging, self.is_file).await?;
        // A table without rows still has columns, and only a file can say which.
        let is_new = self.target.mode != WriteMode::Append;
        if count == 0 && is_new && !self.is_file && self.target.partition_by.is_empty() {
            let part = staging.map(|directory| directory.join(self.part_name()));
            let nothing = futures::stream::empty().boxed();
            let rows = Box::pin(RecordBatchStreamAdapter::new(schema, nothing));
            if let Some(part) = part {
                self.sink_to(state, rows, context, file_url(&part)?, true).await?;
            }
        }
        Ok(count)
    }

    async fn sink(
        &self,
        state: &SessionState,
        rows: SendableRecordBatchStream,
        context: &Arc<TaskContext>,
        staging: Option<&LocalPath>,
        is_file: bool,
    ) -> DfResult<u64> {
        let url = match (staging, is_file) {
            (Some(directory), true) => file_url(&directory.join(file_name(self.location)))?,
            (Some(directory), false) => directory_url(directory)?,
            (None, _) => {
                let slash = if is_file || self.location.base.is_root() { "" } else { "/" };
                let mut url = Url::parse(self.location.store.as_str())
                    .map_err(|error| datafusion::error::DataFusionError::External(error.into()))?;
                url.set_path(&format!("{}{slash}", self.location.base));
                url
            }
        };
        self.sink_to(state, rows, context, url, is_file).await
    }

    async fn sink_to(
        &self,
        state: &SessionState,
        rows: SendableRecordBatchStream,
        context: &Arc<TaskContext>,
        url: Url,
        is_file: bool,
    ) -> DfResult<u64> {
        let schema = rows.schema();
        let url = ListingTableUrl::try_new(url, None)?;
        let partitions =
            self.target.partition_by.iter().map(|name| (name.clone(), DataType::Utf8)).collect();
        let config = FileSinkConfig {
            original_url: self.location.text.clone(),
            object_store_url: url.object_store(),
            file_group: FileGroup::default(),
            table_paths: vec![url],
            output_schema: Arc::clone(&schema),
            table_partition_cols: partitions,
            insert_op: InsertOp::Append,
            keep_partition_by_columns: false,
            file_extension: self.extension(),
            file_output_mode: FileOutputMode::from(Some(is_file)),
        };
        let placeholder = Arc::new(EmptyExec::new(schema));
        let format = self.format(state)?;
        let plan = format.create_writer_physical_plan(placeholder, state, config, None).await?;
        let Some(sink) = plan.downcast_ref::<DataSinkExec>() else {
            return datafusion::common::internal_err!("a writer's plan is no sink");
        };
        sink.sink().write_all(rows, context).await
    }

    fn compression(&self) -> CompressionTypeVariant {
        match self.rules.compression {
            Some(compression) => compression,
            None if self.is_file && self.rules.format.is_text() => {
                NamedContent::of(&self.location.text).compression
            }
            None => CompressionTypeVariant::UNCOMPRESSED,
        }
    }

    fn extension(&self) -> String {
        let compression = compression_extension(self.compression());
        format!("{}{compression}", self.rules.format.name())
    }

    fn part_name(&self) -> String {
        format!("part-0.{}", self.extension())
    }

    fn format(&self, state: &SessionState) -> Result<Arc<dyn FileFormat>> {
        let compression = self.compression();
        Ok(match self.rules.format {
            Format::Csv => {
                Arc::new(CsvFormat::default().with_options(self.csv_options(compression)?))
            }
            Format::Json => Arc::new(JsonFormat::default().with_options(JsonOptions {
                compression,
                compression_level: self.rules.compression_level,
                ..JsonOptions::default()
            })),
            Format::Parquet => {
                let options = self.rules.parquet_options(state.default_table_options())?;
                Arc::new(ParquetFormat::default().with_options(options.parquet))
            }
            Format::Arrow => Arc::new(ArrowFormat),
            Format::Avro => return Err(Error::unsupported("writing avro files", "")),
        })
    }

    fn csv_options(&self, compression: CompressionTypeVariant) -> Result<CsvOptions> {
        let csv = &self.rules.csv;
        let tabs = self.is_file && NamedContent::of(&self.location.text).tabs;
        let quote_style = match csv.quote {
            0 => CsvQuoteStyle::Never,
            _ => csv.quote_style.parse().map_err(|_error| Error::InvalidOption {
                option: "quote_style".to_owned(),
                message: format!("\"{}\" is not known", csv.quote_style),
                hint: Some("use always, necessary, non_numeric or never".to_owned()),
            })?,
        };
        if csv.terminator.is_some() {
            return Err(Error::unsupported("writing csv with a line terminator", ""));
        }
        Ok(CsvOptions {
            has_header: Some(csv.header),
            delimiter: csv.delimiter.unwrap_or(if tabs { b'\t' } else { b',' }),
            quote: csv.quote,
            quote_style,
            escape: csv.escape,
            double_quote: Some(csv.double_quote),
            null_value: csv.null_value.clone(),
            date_format: csv.date_format.clone(),
            timestamp_format: csv.timestamp_format.clone(),
            datetime_format: csv.timestamp_format.clone(),
            timestamp_tz_format: csv.timestamp_format.clone(),
            time_format: csv.time_format.clone(),
            ignore_leading_whitespace: Some(csv.trim_leading),
            ignore_trailing_whitespace: Some(csv.trim_trailing),
            compression,
            compression_level: self.rules.compression_level,
            ..CsvOptions::default()
        })
    }
}

/// Turns partition columns into the text of their directories.
fn with_directory_values(
    rows: SendableRecordBatchStream,
    names: &[String],
) -> SendableRecordBatchStream {
    if names.is_empty() {
        return rows;
    }
    let schema = rows.schema();
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| match names.contains(field.name()) {
            true => Field::new(field.name(), DataType::Utf8, false),
            false => field.as_ref().clone(),
        })
        .collect();
    let out = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    let names = names.to_vec();
    let target = Arc::clone(&out);
    let batches = rows.map(move |batch| {
        let batch = batch?;
        let columns = batch
            .schema()
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(field, column)| match names.contains(field.name()) {
                true => directory_names(column),
                false => Ok(Arc::clone(column)),
            })
            .collect::<DfResult<Vec<ArrayRef>>>()?;
        Ok(RecordBatch::try_new(Arc::clone(&target), columns)?)
    });
    Box::pin(RecordBatchStreamAdapter::new(out, batches))
}

fn directory_names(column: &ArrayRef) -> DfResult<ArrayRef> {
    let text = cast(column, &DataType::Utf8)?;
    let names: StringArray =
        text.as_string::<i32>().iter().map(|value| Some(directory_value(value))).collect();
    Ok(Arc::new(names))
}

fn directory_url(path: &LocalPath) -> Result<Url> {
    Url::from_directory_path(path).map_err(|()| unwritable(path))
}

fn file_url(path: &LocalPath) -> Result<Url> {
    Url::from_file_path(path).map_err(|()| unwritable(path))
}

fn unwritable(path: &LocalPath) -> Error {
    Error::Io {
        action: "write",
        path: PathBuf::from(path),
        source: std::io::ErrorKind::InvalidInput.into(),
    }
}

fn check_columns(schema: &Schema, target: &FileTarget) -> Result<()> {
    for name in &target.partition_by {
        let field = schema.field_with_name(name).map_err(|_error| Error::NotFound {
            kind: "partition column",
            name: name.clone(),
            position: None,
            hint: Some("name a column of the query's result".to_owned()),
        })?;
        if !can_partition(field.data_type()) {
            return Err(Error::unsupported(
                format!("partitioning by column \"{name}\" of type {}", field.data_type()),
                "",
            ));
        }
    }
    if schema.fields().len() <= target.partition_by.len() {
        return Err(Error::plan("no columns are left to write into the files"));
    }
    let mut names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) if target.format != Format::Csv || !target.partition_by.is_empty() => {
            Err(Error::Plan {
                message: format!("two columns to write are called \"{}\"", pair[0]),
                position: None,
                hint: Some("give one of them another name with AS".to_owned()),
            })
        }
        _ => Ok(()),
    }
}

/// Gives rows the columns of a table, by place.
fn fit(input: LogicalPlan, schema: &SchemaRef) -> Result<LogicalPlan> {
    let found = input.schema().fields().len();
    let expected = schema.fields().len();
    if found != expected {
        return Err(Error::plan(format!(
            "the table has {expected} columns, but the rows to insert have {found}"
        )));
    }
    let mut exprs = Vec::with_capacity(expected);
    for (column, (have, want)) in input
        .schema()
        .columns()
        .into_iter()
        .zip(input.schema().fields().iter().zip(schema.fields()))
    {
        if !datafusion::arrow::compute::can_cast_types(have.data_type(), want.data_type()) {
            return Err(Error::plan(format!(
                "column \"{}\" is {}, and a {} cannot be inserted into it",
                want.name(),
                want.data_type(),
                have.data_type()
            )));
        }
        let value = datafusion::logical_expr::cast(Expr::Column(column), want.data_type().clone());
        exprs.push(value.alias(want.name()));
    }
    Ok(LogicalPlanBuilder::from(input).project(exprs)?.build()?)
}

async fn check_remote(
    state: &SessionState,
    location: &Location,
    mode: WriteMode,
    is_file: bool,
) -> Result<()> {
    if mode == WriteMode::Overwrite && !is_file {
        return Err(Error::unsupported(
            format!("overwriting the directory {}", location.text),
            "remove its files first, or write elsewhere",
        ));
    }
    if mode != WriteMode::Create {
        return Ok(());
    }
    let store = store_of(state.runtime_env(), &location.store)?;
    let exists = match is_file {
        true => match store.head(&location.base).await {
            Ok(_) => true,
            Err(object_store::Error::NotFound { .. }) => false,
            Err(error) => return Err(store_error(&location.text, error)),
        },
        false => {
            let prefix = (!location.base.is_root()).then_some(&location.base);
            let first = store.list(prefix).try_next().await;
            first.map_err(|error| store_error(&location.text, error))?.is_some()
        }
    };
    if exists {
        let kind = if is_file { "file" } else { "directory" };
        return Err(Error::AlreadyExists { kind, name: location.text.clone() });
    }
    Ok(())
}

/// A full disk and the like are about the target; anything else is about the query.
fn write_error(location: &Location, error: datafusion::error::DataFusionError) -> Error {
    match io_kind(&error) {
        Some(kind) => {
            Error::Io { action: "write", path: (&location.text).into(), source: kind.into() }
        }
        None => error.into(),
    }
}
