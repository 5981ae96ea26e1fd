//! What columns files have, when nobody has said so.

use std::io::Cursor;
use std::sync::Arc;

use datafusion::arrow::csv;
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::catalog::Session;
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::{StreamExt, TryStreamExt};

use super::check::{FileShape, Framing, guarded};
use super::delimited::Dialect;
use super::format::Format;
use super::listing::{FoundFile, store_of};
use super::open::format_of;
use super::options::Rules;
use super::read::{bad_file, beginning};
use crate::error::{Error, Result};

/// Bytes of CSV, decompressed, that are looked at to infer a schema, over all files together.
const SAMPLE_BYTES: usize = 16 << 20;
/// Bytes of CSV that are looked at for a header alone.
const HEADER_BYTES: usize = 256 << 10;
/// Files whose schemas are read at the same time.
const CONCURRENCY: usize = 16;

/// Infers the columns of files, partition columns apart.
///
/// # Errors
/// [`Error::File`] naming the file that cannot be read or does not fit the others.
pub(crate) async fn infer(
    state: &dyn Session,
    rules: &Rules,
    files: &[(FoundFile, FileShape)],
) -> Result<SchemaRef> {
    let schema = match rules.format {
        Format::Csv => infer_csv(state, rules, files).await?,
        _ => infer_typed(state, rules, files).await?,
    };
    if schema.fields().is_empty()
        && let Some((file, _)) = files.first()
    {
        return Err(bad_file(file.path(), rules.format, "it has no columns", None));
    }
    Ok(Arc::new(schema))
}

async fn infer_typed(
    state: &dyn Session,
    rules: &Rules,
    files: &[(FoundFile, FileShape)],
) -> Result<Schema> {
    let files = match rules.format == Format::Parquet && !rules.merge_schema {
        true => &files[..files.len().min(1)],
        false => files,
    };
    let schemas: Vec<SchemaRef> = futures::stream::iter(files.to_vec())
        .map(|(file, shape)| async move { infer_one(state, rules, &file, shape).await })
        .buffered(CONCURRENCY)
        .try_collect()
        .await?;
    let mut merged: Option<Schema> = None;
    for ((file, _), schema) in files.iter().zip(schemas) {
        merged = Some(match merged {
            None => schema.as_ref().clone(),
            Some(merged) => merge(&merged, &schema, false).map_err(|message| {
                let hint = "declare the columns and their types when creating the table";
                bad_file(file.path(), rules.format, message, Some(hint.to_owned()))
            })?,
        });
    }
    let merged = merged.unwrap_or_else(Schema::empty);
    // A column that was NULL in every row has no type of its own.
    Ok(match rules.format {
        Format::Json => Schema::new(merged.fields().iter().map(null_to_text).collect::<Vec<_>>()),
        _ => merged,
    })
}

async fn infer_one(
    state: &dyn Session,
    rules: &Rules,
    file: &FoundFile,
    shape: FileShape,
) -> Result<SchemaRef> {
    let store = store_of(state.runtime_env(), &file.store)?;
    let format = format_of(state, rules, shape, Dialect::of(&rules.csv, file.name()))?;
    let path = file.path();
    let metas = [file.meta.clone()];
    let work = async {
        format.infer_schema(state, &store, &metas).await.map_err(|error| {
            let hint = (rules.format == Format::Json && shape.framing == Framing::Usual)
                .then(|| "each line must be one JSON object".to_owned());
            bad_file(&path, rules.format, decoder_message(&error), hint)
        })
    };
    guarded(&path, rules.format, work).await
}

/// Returns what a decoder said, without the wrappings around it.
pub(crate) fn decoder_message(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::ArrowError(error, _) => arrow_message(error),
        DataFusionError::ParquetError(error) => error.to_string(),
        other => other.message().into_owned(),
    }
}

pub(crate) fn arrow_message(error: &ArrowError) -> String {
    match error {
        ArrowError::ParseError(text)
        | ArrowError::CsvError(text)
        | ArrowError::JsonError(text)
        | ArrowError::IpcError(text)
        | ArrowError::AvroError(text)
        | ArrowError::ParquetError(text)
        | ArrowError::SchemaError(text)
        | ArrowError::InvalidArgumentError(text)
        | ArrowError::ComputeError(text)
        | ArrowError::CastError(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The sample of one CSV file: its column names and what its values look like.
struct CsvSample {
    schema: Schema,
    rows: usize,
    bytes: usize,
}

async fn infer_csv(
    state: &dyn Session,
    rules: &Rules,
    files: &[(FoundFile, FileShape)],
) -> Result<Schema> {
    let mut merged: Option<Schema> = None;
    let mut rows_left = if rules.csv.infer_schema { rules.infer_rows } else { 0 };
    let mut bytes_left = if rows_left == usize::MAX { usize::MAX } else { SAMPLE_BYTES };
    for (file, shape) in files {
        let limit = if rows_left == 0 { HEADER_BYTES } else { bytes_left.max(HEADER_BYTES) };
        let (mut text, is_all) =
            beginning(state.runtime_env(), file, shape.compression, limit).await?;
        let dialect = Dialect::of(&rules.csv, file.name());
        if !is_all {
            let whole = dialect.whole_records(&text);
            if whole == 0 {
                let message = format!("its first record is longer than {limit} bytes");
                let hint = Some("is a quote never closed?".to_owned());
                return Err(bad_file(file.path(), Format::Csv, message, hint));
            }
            text.truncate(whole);
        }
        let Some(sample) = sample_csv(rules, file, dialect, &text, rows_left)? else { continue };
        rows_left = rows_left.saturating_sub(sample.rows);
        bytes_left = bytes_left.saturating_sub(sample.bytes);
        merged = Some(match merged {
            None => sample.schema,
            Some(merged) => {
                let first = files.first().map(|(file, _)| file.path()).unwrap_or_default();
                same_columns(&names(&merged), &sample.schema, &format!("those of {first}"), file)?;
                merge(&merged, &sample.schema, true)
                    .map_err(|message| bad_file(file.path(), Format::Csv, message, None))?
            }
        });
    }
    let merged = merged.unwrap_or_else(Schema::empty);
    Ok(Schema::new(merged.fields().iter().map(null_to_text).collect::<Vec<_>>()))
}

/// Compares the header of a CSV file with the names that it should have.
///
/// # Errors
/// [`Error::File`] naming the file if its header is another.
pub(crate) async fn check_header(
    runtime: &RuntimeEnv,
    rules: &Rules,
    file: &FoundFile,
    shape: FileShape,
    expected: &[String],
) -> Result<()> {
    let (mut text, is_all) = beginning(runtime, file, shape.compression, HEADER_BYTES).await?;
    let dialect = Dialect::of(&rules.csv, file.name());
    if !is_all {
        text.truncate(dialect.whole_records(&text));
    }
    match sample_csv(rules, file, dialect, &text, 0)? {
        Some(sample) => same_columns(expected, &sample.schema, "those of the table", file),
        None => Ok(()),
    }
}

/// CSV columns are read by their place, so files whose headers differ do not fit together.
fn same_columns(expected: &[String], other: &Schema, others: &str, file: &FoundFile) -> Result<()> {
    let found = names(other);
    if found == expected {
        return Ok(());
    }
    let message = format!(
        "its columns are ({}), but {others} are ({})",
        found.join(", "),
        expected.join(", ")
    );
    Err(bad_file(file.path(), Format::Csv, message, None))
}

fn names(schema: &Schema) -> Vec<String> {
    schema.fields().iter().map(|field| field.name().clone()).collect()
}

fn sample_csv(
    rules: &Rules,
    file: &FoundFile,
    dialect: Dialect,
    text: &[u8],
    max_rows: usize,
) -> Result<Option<CsvSample>> {
    let path = file.path();
    let Some(first) = dialect.records(text).next() else { return Ok(None) };
    ragged(rules, dialect, text, first.fields, max_rows.saturating_add(1), &path)?;
    let failed = |error: ArrowError| bad_file(&path, Format::Csv, arrow_message(&error), None);
    let mut format = csv_format(rules, dialect);
    if let Some(regex) = null_regex(rules)? {
        format = format.with_null_regex(regex);
    }
    let (inferred, rows) = format.infer_schema(text, Some(max_rows)).map_err(failed)?;
    let names = column_names(rules, &inferred);
    let mut types: Vec<DataType> =
        inferred.fields().iter().map(|field| field.data_type().clone()).collect();
    if max_rows == 0 {
        types.fill(DataType::Utf8);
    } else if rules.csv.null_value.is_none() && rules.csv.null_regex.is_none() {
        readable(&format, &mut types, &names, text, max_rows).map_err(failed)?;
    }
    let fields: Vec<Field> = names
        .into_iter()
        .zip(types)
        .map(|(name, data_type)| Field::new(name, data_type, true))
        .collect();
    Ok(Some(CsvSample { schema: Schema::new(fields), rows, bytes: text.len() }))
}

/// Finds the first record that has not as many fields as it should.
pub(crate) fn ragged(
    rules: &Rules,
    dialect: Dialect,
    text: &[u8],
    expected: usize,
    max_records: usize,
    path: &str,
) -> Result<()> {
    let bad = dialect.records(text).take(max_records).find(|record| {
        record.fields > expected || (record.fields < expected && !rules.csv.short_rows)
    });
    match bad {
        None => Ok(()),
        Some(record) => Err(ragged_error(path, record.line, record.fields, expected)),
    }
}

/// Says that a record has too many or too few fields.
pub(crate) fn ragged_error(path: &str, line: u64, found: usize, expected: usize) -> Error {
    let plural = if found == 1 { "" } else { "s" };
    let message = format!("line {line} has {found} field{plural}, expected {expected}");
    let hint = if found < expected {
        "mode 'PERMISSIVE' (or truncated_rows) fills up rows that are too short with NULL"
    } else {
        "check the delimiter and the quotes"
    };
    bad_file(path, Format::Csv, message, Some(hint.to_owned()))
}

/// Returns arrow's description of a CSV dialect.
pub(crate) fn csv_format(rules: &Rules, dialect: Dialect) -> csv::reader::Format {
    let csv = &rules.csv;
    let mut format = csv::reader::Format::default()
        .with_header(csv.header)
        .with_delimiter(dialect.delimiter)
        .with_quote(csv.quote)
        .with_truncated_rows(csv.short_rows);
    if let Some(escape) = csv.escape {
        format = format.with_escape(escape);
    }
    if let Some(comment) = csv.comment {
        format = format.with_comment(comment);
    }
    if let Some(terminator) = csv.terminator {
        format = format.with_terminator(terminator);
    }
    format
}

/// What inference takes for NULL: nothing at all, and the markers of the rules.
fn null_regex(rules: &Rules) -> Result<Option<regex::Regex>> {
    let marker = rules.csv.null_value.as_deref().map(regex::escape);
    let blank = if rules.csv.trim_leading || rules.csv.trim_trailing { "\\s*" } else { "" };
    let pattern = match (marker, &rules.csv.null_regex) {
        (None, None) => return Ok(None),
        (Some(marker), None) => format!("^{blank}(?:{marker})?{blank}$"),
        (None, Some(regex)) => format!("^$|{regex}"),
        (Some(marker), Some(regex)) => format!("^{blank}(?:{marker})?{blank}$|{regex}"),
    };
    regex::Regex::new(&pattern).map(Some).map_err(|error| Error::InvalidOption {
        option: "null_regex".to_owned(),
        message: error.to_string(),
        hint: None,
    })
}

/// Gives every column a name of its own.
fn column_names(rules: &Rules, schema: &Schema) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(schema.fields().len());
    for (i, field) in schema.fields().iter().enumerate() {
        let unnamed = format!("{}{}", rules.csv.unnamed_prefix, i + rules.csv.unnamed_start);
        let name = match rules.csv.header {
            false => unnamed,
            true => {
                let name = field.name().trim_start_matches('\u{feff}').trim();
                if name.is_empty() { unnamed } else { name.to_owned() }
            }
        };
        let mut candidate = name.clone();
        let mut n = 2;
        while names.contains(&candidate) {
            candidate = format!("{name}_{n}");
            n += 1;
        }
        names.push(candidate);
    }
    names
}

/// Makes text of the columns whose values the reader refuses, though they look like their type
/// (`2024-02-31`): what was inferred must be able to read what it was inferred from.
fn readable(
    format: &csv::reader::Format,
    types: &mut [DataType],
    names: &[String],
    text: &[u8],
    max_rows: usize,
) -> Result<(), ArrowError> {
    let inferred = types.to_vec();
    for (column, data_type) in inferred.into_iter().enumerate() {
        if matches!(data_type, DataType::Utf8 | DataType::Null | DataType::Boolean) {
            continue;
        }
        let fields: Vec<Field> = names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let data_type = if i == column { data_type.clone() } else { DataType::Utf8 };
                Field::new(name, data_type, true)
            })
            .collect();
        let reader = csv::ReaderBuilder::new(Arc::new(Schema::new(fields)))
            .with_format(format.clone())
            .with_projection(vec![column])
            .with_bounds(0, max_rows.min(text.len()))
            .build(Cursor::new(text))?;
        for batch in reader {
            match batch {
                Ok(_) => {}
                Err(ArrowError::ParseError(_) | ArrowError::CastError(_)) => {
                    types[column] = DataType::Utf8;
                    break;
                }
                Err(other) => return Err(other),
            }
        }
    }
    Ok(())
}

fn null_to_text(field: &Arc<Field>) -> Field {
    match field.data_type() {
        DataType::Null => Field::new(field.name(), DataType::Utf8, true),
        _ => field.as_ref().clone(),
    }
}

/// Unites the columns of two files; one that a file lacks may be NULL.
fn merge(a: &Schema, b: &Schema, is_text: bool) -> Result<Schema, String> {
    Ok(Schema::new(merge_fields(a.fields(), b.fields(), is_text)?))
}

fn merge_fields(a: &Fields, b: &Fields, is_text: bool) -> Result<Vec<Field>, String> {
    let mut out = Vec::with_capacity(a.len());
    for field in a {
        out.push(match b.find(field.name()) {
            None => field.as_ref().clone().with_nullable(true),
            Some((_, other)) => merge_field(field, other, is_text)?,
        });
    }
    for field in b {
        if a.find(field.name()).is_none() {
            out.push(field.as_ref().clone().with_nullable(true));
        }
    }
    Ok(out)
}

fn merge_field(a: &Field, b: &Field, is_text: bool) -> Result<Field, String> {
    use DataType::{Float64, Int64, List, Null, Struct, Utf8};
    let data_type = match (a.data_type(), b.data_type()) {
        (x, y) if x == y => x.clone(),
        (Null, other) | (other, Null) => other.clone(),
        (Int64, Float64) | (Float64, Int64) => Float64,
        (Struct(x), Struct(y)) => Struct(merge_fields(x, y, is_text)?.into()),
        (List(x), List(y)) => List(Arc::new(merge_field(x, y, is_text)?)),
        _ if is_text => Utf8,
        (x, y) => {
            return Err(format!(
                "its column \"{}\" is {y}, but in another file of the table it is {x}",
                a.name()
            ));
        }
    };
    Ok(a.clone().with_data_type(data_type).with_nullable(a.is_nullable() || b.is_nullable()))
}
