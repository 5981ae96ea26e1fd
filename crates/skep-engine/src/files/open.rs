//! Opens tables over files: lists, checks, infers what was not declared.

use std::any::Any;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::{CsvOptions, JsonOptions};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::avro::AvroFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::execution::SessionState;
use datafusion::execution::runtime_env::RuntimeEnv;

use super::check::{FileShape, Framing};
use super::delimited::Dialect;
use super::format::{Format, NamedContent};
use super::listing::{list, nothing_found};
use super::location::{Location, absolute_location, scheme_of};
use super::options::{Options, Rules};
use super::partition::{PartitionColumns, discover};
use super::pattern::is_glob;
use super::provider::{CheckedFiles, FilesProvider};
use super::read::{bad_file, range};
use super::schema::infer;
use super::table::{FileTable, directory_type};
use crate::error::{Error, Result};

/// Opens a table over files.
///
/// # Errors
/// [`Error::File`] naming what is missing or damaged; [`Error::Plan`] if what is declared does not
/// fit.
pub(crate) async fn open(
    state: &SessionState,
    table: &FileTable,
) -> Result<Arc<dyn TableProvider>> {
    Ok(Arc::new(open_files(state, table).await?))
}

/// Opens a table over files as what it is.
///
/// # Errors
/// As [`open`].
pub(crate) async fn open_files(state: &SessionState, table: &FileTable) -> Result<FilesProvider> {
    let rules = table.rules()?;
    rules.check_readable(table.schema.is_some())?;
    let locations =
        table.locations.iter().map(|text| Location::parse(text)).collect::<Result<Vec<_>>>()?;
    let checked = CheckedFiles::default();
    let has_header = table.format == Format::Csv && rules.csv.header;
    if let (Some(schema), true) = (&table.schema, has_header && rules.csv.check_header) {
        checked.expect_header(schema);
    }
    let mut files = Vec::new();
    for location in &locations {
        let may_be_empty = table.schema.is_some() && location.pattern.is_none();
        let found = match list(state.runtime_env(), location, &rules).await {
            // A table with declared columns may wait for its first INSERT.
            Err(Error::File { missing: true, .. }) if may_be_empty && can_be_made(location) => {
                Vec::new()
            }
            other => other?,
        };
        if found.is_empty() && !may_be_empty {
            return Err(nothing_found(location, &rules));
        }
        files.extend(found);
    }
    let with_shapes = checked.check(state.runtime_env(), files, &rules).await?;
    let found: Vec<_> = with_shapes.iter().map(|(file, _)| file.clone()).collect();
    let partition_columns = partition_columns(table, &rules, &found)?;
    let shaped: Vec<_> = with_shapes
        .iter()
        .filter_map(|(file, shape)| shape.map(|shape| (file.clone(), shape)))
        .collect();
    let file_schema = match &table.schema {
        Some(schema) => without(schema, &partition_columns),
        None if shaped.is_empty() => {
            let path = found.first().map(super::listing::FoundFile::path).unwrap_or_default();
            return Err(bad_file(path, table.format, "the file is empty", None));
        }
        None => without(&infer(state, &rules, &shaped).await?, &partition_columns),
    };
    if has_header && table.schema.is_none() {
        // Values go by their place, so files that come later must have the same columns.
        checked.expect_header(&file_schema);
    }
    FilesProvider::new(table.clone(), rules, locations, file_schema, partition_columns, checked)
}

/// Keeps with a table what was found out when it was opened, so that it stays what it is.
pub(crate) fn keep_inferred(table: &mut FileTable, provider: &dyn TableProvider) {
    let Some(files) = (provider as &dyn Any).downcast_ref::<FilesProvider>() else { return };
    let was_inferred = table.schema.is_none();
    table.schema = Some(Arc::clone(files.file_schema()));
    let has_header =
        table.format == Format::Csv && table.rules().is_ok_and(|rules| rules.csv.header);
    if was_inferred && has_header {
        table.options.insert("check_header".to_owned(), "true".to_owned());
    }
    table.partition_columns.clone_from(files.partition_columns());
}

/// Returns whether INSERT INTO could make what is not there: a directory.
fn can_be_made(location: &Location) -> bool {
    !location.is_http()
        && (location.is_directory || NamedContent::of(&location.text).format.is_none())
}

fn partition_columns(
    table: &FileTable,
    rules: &Rules,
    files: &[super::listing::FoundFile],
) -> Result<PartitionColumns> {
    let declared = &table.partition_columns;
    if rules.recursive {
        return Ok(declared.clone());
    }
    let needs_types = declared.iter().any(|(_, data_type)| *data_type == DataType::Null);
    if !declared.is_empty() && !needs_types {
        return Ok(declared.clone());
    }
    let discovered = discover(files)?;
    if declared.is_empty() {
        // A column may be declared like any other and yet be a directory's: it has the declared
        // type then, as in Spark.
        let typed = |(name, found): (String, DataType)| {
            let field = table.schema.as_ref().and_then(|s| s.field_with_name(&name).ok());
            let data_type = field.map_or(found, |field| directory_type(field.data_type()));
            (name, data_type)
        };
        return Ok(discovered.into_iter().map(typed).collect());
    }
    declared
        .iter()
        .map(|(name, _)| {
            let found = discovered.iter().find(|(other, _)| other == name);
            Ok((name.clone(), found.map_or(DataType::Utf8, |(_, data_type)| data_type.clone())))
        })
        .collect()
}

/// Columns that directories give are not looked for in files, even where they are there too.
fn without(schema: &SchemaRef, partitions: &PartitionColumns) -> SchemaRef {
    let is_partition = |field: &Field| partitions.iter().any(|(name, _)| name == field.name());
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .filter(|field| !is_partition(field))
        .map(|field| field.as_ref().clone())
        .collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Opens what a query names directly: `'dir/*.csv'`, or Spark's ``csv.`path` ``.
///
/// Without a format, the names of the files tell it, then their first bytes. `None` if the text
/// neither looks like a path nor names a file.
///
/// # Errors
/// As [`open`]; [`Error::File`] if the format cannot be told.
pub(crate) async fn open_path(
    state: &SessionState,
    path: &str,
    format: Option<Format>,
) -> Result<Option<Arc<dyn TableProvider>>> {
    if !names_files(path, format) {
        return Ok(None);
    }
    let format = match format {
        Some(format) => format,
        None => tell_format(state.runtime_env(), path).await?,
    };
    open(state, &FileTable::undeclared(format, path)?).await.map(Some)
}

/// Returns whether [`open_path`] would look for files.
pub(crate) fn names_files(path: &str, format: Option<Format>) -> bool {
    format.is_some() || looks_like_path(path)
}

fn looks_like_path(text: &str) -> bool {
    if text.is_empty() {
        return false;
    }
    scheme_of(text).is_some()
        || text.contains('/')
        || is_glob(text, true)
        || NamedContent::of(text).format.is_some()
        || absolute_location(text).is_ok_and(|path| std::fs::metadata(path).is_ok())
}

/// Tells the format of what a location holds.
async fn tell_format(runtime: &RuntimeEnv, path: &str) -> Result<Format> {
    if let Some(format) = NamedContent::of(path).format {
        return Ok(format);
    }
    let location = Location::parse(&absolute_location(path)?)?;
    // Any format will do to list: none has an extension that all others lack.
    let rules = Rules::parse(Format::Csv, &Options::new())?;
    let mut files = list(runtime, &location, &rules).await?;
    if files.is_empty() {
        return Err(nothing_found(&location, &rules));
    }
    let mut formats: Vec<Format> =
        files.iter().filter_map(|file| NamedContent::of(file.name()).format).collect();
    formats.sort_unstable();
    formats.dedup();
    match formats.as_slice() {
        [one] => return Ok(*one),
        [] => {}
        several => {
            let names: Vec<_> = several.iter().map(|format| format.name()).collect();
            return Err(unknown_format(
                &location,
                &format!("it holds files of several formats ({})", names.join(", ")),
            ));
        }
    }
    let file = files.swap_remove(0);
    let head = range(runtime, &file, 0..64).await?;
    if let Some(format) = Format::from_magic(&head) {
        return Ok(format);
    }
    match head.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{' | b'[') => Ok(Format::Json),
        _ => Err(unknown_format(&location, "its format cannot be told")),
    }
}

fn unknown_format(location: &Location, message: &str) -> Error {
    Error::File {
        path: location.text.clone(),
        format: None,
        message: message.to_owned(),
        missing: false,
        hint: Some(format!("name the format, as in csv.`{}`", location.text)),
    }
}

/// Makes DataFusion's reader and writer of a format.
///
/// # Errors
/// [`Error::InvalidOption`] for a Parquet option that it does not know.
pub(crate) fn format_of(
    state: &dyn Session,
    rules: &Rules,
    shape: FileShape,
    dialect: Dialect,
) -> Result<Arc<dyn FileFormat>> {
    Ok(match rules.format {
        Format::Csv => Arc::new(CsvFormat::default().with_options(csv_options(
            rules,
            shape,
            dialect.delimiter,
        ))),
        Format::Json => Arc::new(JsonFormat::default().with_options(JsonOptions {
            compression: shape.compression,
            compression_level: rules.compression_level,
            schema_infer_max_rec: Some(rules.infer_rows),
            newline_delimited: shape.framing != Framing::JsonArray,
        })),
        Format::Parquet => {
            let options = rules.parquet_options(state.default_table_options())?;
            Arc::new(ParquetFormat::default().with_options(options.parquet))
        }
        Format::Arrow => Arc::new(ArrowFormat),
        Format::Avro => Arc::new(AvroFormat),
    })
}

fn csv_options(rules: &Rules, shape: FileShape, delimiter: u8) -> CsvOptions {
    let csv = &rules.csv;
    CsvOptions {
        has_header: Some(csv.header),
        delimiter,
        quote: csv.quote,
        terminator: csv.terminator,
        escape: csv.escape,
        comment: csv.comment,
        newlines_in_values: Some(csv.multiline),
        truncated_rows: Some(csv.short_rows),
        compression: shape.compression,
        ..CsvOptions::default()
    }
}
