//! DataFusion's errors as ours: kind, place, cause and hint found again, never a flattened string.

use std::sync::Arc;

use datafusion::arrow::error::ArrowError;
use datafusion::common::{Column, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::parquet::errors::ParquetError;
use datafusion::sql::sqlparser::parser::ParserError;
use object_store::Error as StoreError;
use tokio::task::JoinError;

use crate::error::{Error, Position, closest};
use crate::planner_message::{plan_error, unsupported_error};

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(external) => match external.downcast::<Self>() {
                Ok(ours) => *ours,
                Err(external) => convert(&DataFusionError::External(external)),
            },
            other => match convert(&other) {
                Self::Internal { message, .. } => Self::Internal { message, source: Some(other) },
                converted => converted,
            },
        }
    }
}

impl Error {
    /// Returns what an error of DataFusion means, without taking it.
    pub fn of(error: &DataFusionError) -> Self {
        convert(error)
    }
}

impl From<skep_store::Error> for Error {
    fn from(error: skep_store::Error) -> Self {
        convert_partition(&error)
    }
}

/// What the partition store says of cached tables; of exchanges the executor speaks for itself.
fn convert_partition(error: &skep_store::Error) -> Error {
    match error {
        skep_store::Error::MemoryExhausted { .. }
        | skep_store::Error::DiskLimit { .. }
        | skep_store::Error::DiskFull { .. } => {
            Error::ResourcesExhausted { message: error.to_string(), hint: None }
        }
        skep_store::Error::Io { action, path, source } => Error::Io {
            action,
            path: path.clone(),
            source: std::io::Error::new(source.kind(), source.to_string()),
        },
        other => internal(&other.to_string()),
    }
}

/// Converts by reference, since a shared error cannot be taken apart.
fn convert(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::External(external) => convert_external(external.as_ref()),
        DataFusionError::ArrowError(arrow, _) => convert_arrow(arrow),
        DataFusionError::ParquetError(parquet) => convert_parquet(parquet),
        DataFusionError::ObjectStore(store) => convert_store(store),
        DataFusionError::IoError(io) => convert_io(io),
        DataFusionError::SQL(parser, _) => convert_parser(parser),
        DataFusionError::NotImplemented(message) => unsupported_error(&tidy(message)),
        // Whoever sent a Substrait plan made it.
        DataFusionError::Plan(message)
        | DataFusionError::Configuration(message)
        | DataFusionError::Substrait(message) => plan_error(&tidy(message)),
        DataFusionError::SchemaError(schema, _) => convert_schema(schema),
        DataFusionError::Execution(message) => Error::Data { message: tidy(message), hint: None },
        DataFusionError::ExecutionJoin(join) => convert_join(join),
        DataFusionError::ResourcesExhausted(message) => out_of_resources(message),
        DataFusionError::Context(_, inner) => convert(inner),
        DataFusionError::Diagnostic(diagnostic, inner) => {
            let place = diagnostic
                .span
                .map(|span| Position { line: span.start.line, column: span.start.column });
            convert(inner).at(place)
        }
        DataFusionError::Collection(errors) => {
            errors.first().map_or_else(|| internal("an empty list of errors"), convert)
        }
        DataFusionError::Shared(shared) => convert(shared),
        DataFusionError::Internal(message) | DataFusionError::Ffi(message) => internal(message),
    }
}

fn convert_external(external: &(dyn std::error::Error + Send + Sync + 'static)) -> Error {
    if let Some(ours) = external.downcast_ref::<Error>() {
        return ours.duplicate();
    }
    if let Some(inner) = external.downcast_ref::<DataFusionError>() {
        return convert(inner);
    }
    // As an exchange within the process tells all its readers.
    if let Some(join) = external.downcast_ref::<Arc<JoinError>>() {
        return convert_join(join);
    }
    if let Some(arrow) = external.downcast_ref::<ArrowError>() {
        return convert_arrow(arrow);
    }
    if let Some(parquet) = external.downcast_ref::<ParquetError>() {
        return convert_parquet(parquet);
    }
    if let Some(store) = external.downcast_ref::<StoreError>() {
        return convert_store(store);
    }
    Error::Data { message: external.to_string(), hint: None }
}

/// A task of the library below ended by itself: it has panicked, which reads as a panic here does.
fn convert_join(join: &JoinError) -> Error {
    if join.is_cancelled() {
        return Error::Cancelled;
    }
    let text = join.to_string();
    let message = text.split_once("panicked with message ").map(|(_, message)| message);
    internal(&format!("a panic: {}", message.map_or(text.as_str(), |text| text.trim_matches('"'))))
}

fn convert_arrow(arrow: &ArrowError) -> Error {
    match arrow {
        ArrowError::ExternalError(external) => convert_external(external.as_ref()),
        ArrowError::DivideByZero => Error::Data {
            message: "division by zero".to_owned(),
            hint: Some("NULLIF(divisor, 0) gives NULL instead".to_owned()),
        },
        ArrowError::ArithmeticOverflow(message) => Error::Data {
            message: format!("arithmetic overflow: {}", tidy(message)),
            hint: Some("cast to a wider type first".to_owned()),
        },
        ArrowError::CastError(message) => Error::Data {
            message: tidy(message),
            hint: Some("TRY_CAST gives NULL instead of an error".to_owned()),
        },
        ArrowError::MemoryError(message) => out_of_resources(message),
        ArrowError::IoError(message, _) => Error::Unavailable {
            location: "the local disk".to_owned(),
            message: tidy(message),
            hint: None,
        },
        ArrowError::NotYetImplemented(message) => {
            Error::Unsupported { what: format!("this statement ({})", tidy(message)), hint: None }
        }
        ArrowError::ParseError(message)
        | ArrowError::SchemaError(message)
        | ArrowError::ComputeError(message)
        | ArrowError::CsvError(message)
        | ArrowError::JsonError(message)
        | ArrowError::AvroError(message)
        | ArrowError::IpcError(message)
        | ArrowError::InvalidArgumentError(message)
        | ArrowError::ParquetError(message) => Error::Data { message: tidy(message), hint: None },
        other => Error::Data { message: tidy(&other.to_string()), hint: None },
    }
}

fn convert_parquet(parquet: &ParquetError) -> Error {
    match parquet {
        ParquetError::External(external) => convert_external(external.as_ref()),
        other => Error::Data { message: tidy(&other.to_string()), hint: None },
    }
}

fn convert_store(store: &StoreError) -> Error {
    match store {
        StoreError::NotFound { path, .. } => Error::File {
            path: path.clone(),
            format: None,
            message: "no such file".to_owned(),
            missing: true,
            hint: None,
        },
        StoreError::AlreadyExists { path, .. } => {
            Error::AlreadyExists { kind: "file", name: path.clone() }
        }
        StoreError::PermissionDenied { path, .. } | StoreError::Unauthenticated { path, .. } => {
            Error::PermissionDenied { message: format!("no permission for {path}"), hint: None }
        }
        StoreError::NotImplemented { .. } | StoreError::NotSupported { .. } => {
            Error::Unsupported { what: format!("this by the object store ({store})"), hint: None }
        }
        other => Error::Unavailable {
            location: "the object store".to_owned(),
            message: other.to_string(),
            hint: None,
        },
    }
}

/// The parser tells the place in words at the end of its message.
pub(crate) fn convert_parser(parser: &ParserError) -> Error {
    match parser {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
            let (message, position) = split_place(message);
            let hint = position.and_then(|_| hint_for_syntax(&message));
            Error::Syntax { message, position, hint }
        }
        ParserError::RecursionLimitExceeded => Error::Syntax {
            message: "the statement is nested too deeply".to_owned(),
            position: None,
            hint: Some("SET datafusion.sql_parser.recursion_limit raises the bound".to_owned()),
        },
    }
}

fn split_place(message: &str) -> (String, Option<Position>) {
    let Some((text, place)) = message.rsplit_once(" at Line: ") else {
        return (tidy(message), None);
    };
    let Some((line, column)) = place.split_once(", Column: ") else {
        return (tidy(message), None);
    };
    let digits = |text: &str| {
        text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>().ok()
    };
    match (digits(line), digits(column)) {
        // The parser says line 0 where it knows no place.
        (Some(line), Some(column)) if line > 0 => {
            (tidy(text), Some(Position { line, column: column.max(1) }))
        }
        _ => (tidy(text), None),
    }
}

const STATEMENT_KEYWORDS: [&str; 21] = [
    "SELECT",
    "WITH",
    "VALUES",
    "CREATE",
    "DROP",
    "INSERT",
    "COPY",
    "EXPLAIN",
    "SHOW",
    "DESCRIBE",
    "SET",
    "RESET",
    "USE",
    "PREPARE",
    "EXECUTE",
    "DEALLOCATE",
    "TABLE",
    "FROM",
    "WHERE",
    "GROUP",
    "ORDER",
];

fn hint_for_syntax(message: &str) -> Option<String> {
    let (_, found) = message.rsplit_once("found: ")?;
    let found = found.split_whitespace().next()?;
    if STATEMENT_KEYWORDS.iter().any(|keyword| keyword.eq_ignore_ascii_case(found)) {
        return None;
    }
    closest(found, STATEMENT_KEYWORDS).map(|keyword| format!("did you mean {keyword}?"))
}

fn convert_schema(schema: &SchemaError) -> Error {
    match schema {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let hint = column_hint(field, valid_fields);
            Error::NotFound { kind: "column", name: display(field), position: None, hint }
        }
        SchemaError::AmbiguousReference { field } => Error::Plan {
            message: format!("column \"{}\" is ambiguous", display(field)),
            position: None,
            hint: Some("put the table's name or alias before it".to_owned()),
        },
        SchemaError::DuplicateQualifiedField { qualifier, name } => Error::Plan {
            message: format!("column \"{qualifier}.{name}\" appears more than once"),
            position: None,
            hint: Some("give each an alias of its own".to_owned()),
        },
        SchemaError::DuplicateUnqualifiedField { name } => Error::Plan {
            message: format!("column \"{name}\" appears more than once"),
            position: None,
            hint: Some("give each an alias of its own".to_owned()),
        },
    }
}

fn display(column: &Column) -> String {
    match &column.relation {
        Some(relation) => format!("{}.{}", relation.table(), column.name),
        None => column.name.clone(),
    }
}

fn column_hint(field: &Column, valid: &[Column]) -> Option<String> {
    let names: Vec<&str> = valid.iter().map(|column| column.name.as_str()).collect();
    if let Some(same) = names.iter().find(|name| name.eq_ignore_ascii_case(&field.name)) {
        if *same == field.name {
            let known = valid.iter().find(|column| column.name == field.name)?;
            return Some(format!("did you mean \"{}\"?", display(known)));
        }
        return Some(format!("did you mean \"{same}\", with its capitals in double quotes?"));
    }
    if let Some(known) = closest(&field.name, names.iter().copied()) {
        return Some(format!("did you mean \"{known}\"?"));
    }
    match names.len() {
        0 => None,
        1..=12 => Some(format!("there are: {}", names.join(", "))),
        more => Some(format!("there are {more} columns, among them: {}", names[..12].join(", "))),
    }
}

/// What DataFusion's disk manager says when the limit for spilled data is reached.
const SPILL_LIMIT_REACHED: &str = "disk space during the spilling process";

fn out_of_resources(message: &str) -> Error {
    let message = tidy(message);
    if message.contains(SPILL_LIMIT_REACHED) {
        return out_of_spill_space(&message);
    }
    // A list of all consumers comes first, over several lines.
    let message = message.rsplit_once("\nError: ").map_or(message.as_str(), |(_, reason)| reason);
    Error::ResourcesExhausted {
        message: format!("out of memory: {message}"),
        hint: Some(
            "raise the memory limit (--memory), or SET datafusion.execution.target_partitions lower"
                .to_owned(),
        ),
    }
}

fn out_of_spill_space(message: &str) -> Error {
    // Its advice names a setting that belongs to the process and not to the session.
    let (message, _advice) = message.split_once(". Please").unwrap_or((message, ""));
    Error::ResourcesExhausted {
        message: format!("out of disk for spilled data: {message}"),
        hint: Some("free disk space, or raise the spill limit".to_owned()),
    }
}

fn convert_io(io: &std::io::Error) -> Error {
    let message = io.to_string();
    if message.contains(SPILL_LIMIT_REACHED) {
        return out_of_spill_space(&message);
    }
    Error::Unavailable { location: "the local disk".to_owned(), message, hint: None }
}

fn internal(message: &str) -> Error {
    Error::Internal { message: tidy(message), source: None }
}

/// Takes out what DataFusion says to its own developers.
fn tidy(message: &str) -> String {
    let mut text = message.trim();
    for noise in ["This issue was likely caused by a bug", "This was likely caused by a bug"] {
        if let Some((before, _)) = text.split_once(noise) {
            text = before.trim_end();
        }
    }
    for prefix in [
        "Error during planning: ",
        "Execution error: ",
        "Arrow error: ",
        "Cast error: ",
        "Parser error: ",
        "Schema error: ",
        "External error: ",
        "Internal error: ",
        "sql parser error: ",
        "Invalid argument error: ",
        "Parquet error: ",
        "Compute error: ",
        "Csv error: ",
        "Json error: ",
    ] {
        if let Some(rest) = text.strip_prefix(prefix) {
            return tidy(rest);
        }
    }
    text.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::{DataFusionError, Error};

    #[test]
    fn the_hint_names_what_ran_out() {
        let hint = |error: DataFusionError| match Error::from(error) {
            Error::ResourcesExhausted { message, hint } => (message, hint.unwrap_or_default()),
            other => panic!("{other}"),
        };
        let pool = "Additional allocation failed for TopK[0] with top memory consumers as:\n  \
                    TopK[0]#1(can spill: false)\nError: Failed to allocate additional 8.0 MB";
        let (message, advice) = hint(DataFusionError::ResourcesExhausted(pool.to_owned()));
        assert_eq!(message, "out of memory: Failed to allocate additional 8.0 MB");
        assert!(advice.contains("--memory"), "{advice}");
        let disk = "The used disk space during the spilling process has exceeded the allowable \
                    limit of 1.0 MB. Please try increasing the config: `x`.";
        let (message, advice) = hint(DataFusionError::IoError(std::io::Error::other(disk)));
        assert!(message.starts_with("out of disk") && message.ends_with("1.0 MB"), "{message}");
        assert!(advice.contains("spill limit"), "{advice}");
    }
}
