//! The options of a table over files: two dialects in, one canonical map, one typed set of rules.
//!
//! Spark and DataFusion call the same things differently. Both are translated, when a table is
//! declared, to canonical names that are kept with the table; [`Rules`] is what they mean. An
//! option has its effect or is refused: none is accepted and ignored.

use std::collections::BTreeMap;

use datafusion::common::config::{ConfigFileType, TableOptions};
use datafusion::common::parsers::CompressionTypeVariant;

use super::format::{Format, compression_of_extension};
use super::text::chrono_pattern;
use crate::error::{Error, Result};

/// Options under their canonical names, as kept with a table.
pub(crate) type Options = BTreeMap<String, String>;

/// How many rows are looked at, at most, to infer a schema.
pub(crate) const DEFAULT_INFER_ROWS: usize = 50_000;

/// What the options of a table mean.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rules {
    pub(crate) format: Format,
    /// How every file is compressed; `None` goes by each file's extension.
    pub(crate) compression: Option<CompressionTypeVariant>,
    /// For writing: the level, if not the compression's own default.
    pub(crate) compression_level: Option<u32>,
    /// Whether to take files from all subdirectories, without making partitions of them.
    pub(crate) recursive: bool,
    /// What the names of files must match.
    pub(crate) name_pattern: Option<String>,
    /// How many rows to look at to infer a schema.
    pub(crate) infer_rows: usize,
    pub(crate) csv: CsvRules,
    /// For JSON: whether a file is one array; `None` goes by each file's first character.
    pub(crate) json_array: Option<bool>,
    /// For Parquet: whether the schema is that of all files together, or of the first.
    pub(crate) merge_schema: bool,
    /// For Parquet: settings of DataFusion's reader and writer, `format.` and all.
    pub(crate) passthrough: Vec<(String, String)>,
}

/// How a CSV file is read and written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CsvRules {
    pub(crate) header: bool,
    /// Whether the header must have the names of the declared columns.
    pub(crate) check_header: bool,
    /// `None` is a comma, or a tab in a `.tsv` file.
    pub(crate) delimiter: Option<u8>,
    pub(crate) quote: u8,
    pub(crate) escape: Option<u8>,
    pub(crate) double_quote: bool,
    pub(crate) quote_style: String,
    pub(crate) comment: Option<u8>,
    pub(crate) terminator: Option<u8>,
    pub(crate) null_value: Option<String>,
    pub(crate) null_regex: Option<String>,
    pub(crate) infer_schema: bool,
    /// Whether quoted values may hold line breaks; files are not split then.
    pub(crate) multiline: bool,
    /// Whether rows with too few fields are filled up with NULL.
    pub(crate) short_rows: bool,
    pub(crate) trim_leading: bool,
    pub(crate) trim_trailing: bool,
    pub(crate) date_format: Option<String>,
    pub(crate) timestamp_format: Option<String>,
    pub(crate) time_format: Option<String>,
    /// What columns without a name are called: this and their number.
    pub(crate) unnamed_prefix: String,
    /// The number of the first column without a name.
    pub(crate) unnamed_start: usize,
}

impl Rules {
    /// Reads canonical options.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a value that an option cannot have.
    pub(crate) fn parse(format: Format, options: &Options) -> Result<Self> {
        let get = |name: &str| options.get(name).map(String::as_str);
        let spark_names = get("unnamed") == Some("spark");
        let csv = CsvRules {
            header: bool_of("header", get("header"), true)?,
            check_header: bool_of("check_header", get("check_header"), false)?,
            delimiter: byte_of("delimiter", get("delimiter"))?,
            quote: match get("quote") {
                // No quoting at all: a byte that text never has.
                Some("") => 0,
                other => byte_of("quote", other)?.unwrap_or(b'"'),
            },
            escape: byte_of("escape", get("escape"))?,
            double_quote: bool_of("double_quote", get("double_quote"), true)?,
            quote_style: get("quote_style").unwrap_or("necessary").to_owned(),
            comment: byte_of("comment", get("comment"))?,
            terminator: match get("terminator") {
                Some("\n" | "\r\n" | "\\n" | "\\r\\n") => None,
                other => byte_of("terminator", other)?,
            },
            null_value: get("null_value").map(str::to_owned),
            null_regex: get("null_regex").map(str::to_owned),
            infer_schema: bool_of("infer_schema", get("infer_schema"), true)?,
            multiline: bool_of("multiline", get("multiline"), true)?,
            short_rows: bool_of("short_rows", get("short_rows"), false)?,
            trim_leading: bool_of("trim_leading", get("trim_leading"), false)?,
            trim_trailing: bool_of("trim_trailing", get("trim_trailing"), false)?,
            date_format: get("date_format").map(str::to_owned),
            timestamp_format: get("timestamp_format").map(str::to_owned),
            time_format: get("time_format").map(str::to_owned),
            unnamed_prefix: if spark_names { "_c" } else { "column_" }.to_owned(),
            unnamed_start: if spark_names { 0 } else { 1 },
        };
        let json_array = match get("array") {
            None => None,
            some => Some(bool_of("array", some, false)?),
        };
        let parquet_codec = format == Format::Parquet || format == Format::Avro;
        let compression = match get("compression") {
            Some(text) if !parquet_codec => Some(compression_of(text)?),
            _ => None,
        };
        let mut passthrough: Vec<_> = options
            .iter()
            .filter(|(name, _)| name.starts_with("format."))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if let (Format::Parquet, Some(codec)) = (format, get("compression")) {
            passthrough.push(("format.compression".to_owned(), parquet_codec_of(codec)));
        }
        Ok(Self {
            format,
            compression,
            compression_level: number_of("compression_level", get("compression_level"))?,
            recursive: bool_of("recursive", get("recursive"), false)?,
            name_pattern: get("name_pattern").map(str::to_owned),
            infer_rows: number_of("infer_rows", get("infer_rows"))?.unwrap_or(DEFAULT_INFER_ROWS),
            csv,
            json_array,
            merge_schema: bool_of("merge_schema", get("merge_schema"), true)?,
            passthrough,
        })
    }

    /// Refuses options that have a meaning for writing, but none that reading could give them.
    ///
    /// # Errors
    /// [`Error::Unsupported`] or [`Error::InvalidOption`] naming the option.
    pub(crate) fn check_readable(&self, has_declared_columns: bool) -> Result<()> {
        let csv = &self.csv;
        if self.format != Format::Csv {
            return Ok(());
        }
        if csv.time_format.is_some() {
            return Err(Error::unsupported("reading csv with a time_format", ""));
        }
        if !csv.double_quote {
            let hint = "a doubled quote inside quotes always means one";
            return Err(Error::unsupported("reading csv with double_quote = false", hint));
        }
        let has_formats = csv.date_format.is_some() || csv.timestamp_format.is_some();
        if has_formats && !has_declared_columns {
            let option = if csv.date_format.is_some() { "date_format" } else { "timestamp_format" };
            return Err(invalid(
                option,
                "it applies to columns that are declared DATE or TIMESTAMP",
                "declare the columns of the table",
            ));
        }
        if csv.check_header && !has_declared_columns {
            return Err(invalid(
                "enforceSchema",
                "there are no declared columns to compare headers with",
                "declare the columns of the table",
            ));
        }
        Ok(())
    }

    /// Sets DataFusion's Parquet options from ours.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for one that Parquet does not know.
    pub(crate) fn parquet_options(&self, mut options: TableOptions) -> Result<TableOptions> {
        options.set_config_format(ConfigFileType::PARQUET);
        for (name, value) in &self.passthrough {
            options.set(name, value).map_err(|error| Error::InvalidOption {
                option: name.trim_start_matches("format.").to_owned(),
                message: error.strip_backtrace(),
                hint: None,
            })?;
        }
        Ok(options)
    }
}

/// Translates Spark's options; `path` is the caller's and is left out.
///
/// # Errors
/// [`Error::InvalidOption`] for one that is not known, [`Error::Unsupported`] for one that is
/// known and cannot be obeyed.
pub(crate) fn from_spark(format: Format, options: &[(String, String)]) -> Result<Options> {
    let mut canonical = Options::new();
    if format == Format::Csv {
        // Spark's defaults where they differ from ours.
        canonical.insert("header".to_owned(), "false".to_owned());
        canonical.insert("infer_schema".to_owned(), "false".to_owned());
        canonical.insert("unnamed".to_owned(), "spark".to_owned());
    }
    for (name, value) in options {
        let key = name.to_ascii_lowercase();
        match key.as_str() {
            "path" | "paths" => continue,
            "recursivefilelookup" => put(&mut canonical, "recursive", value),
            "pathglobfilter" => put(&mut canonical, "name_pattern", value),
            "compression" | "codec" if format.is_text() || format == Format::Parquet => {
                put(&mut canonical, "compression", value);
            }
            "inferrows" if format.is_text() => put(&mut canonical, "infer_rows", value),
            _ if refused(name, &key, value)? => {}
            _ => {
                let known = match format {
                    Format::Csv => spark_csv(&mut canonical, name, &key, value)?,
                    Format::Json => spark_json(&mut canonical, name, &key, value)?,
                    Format::Parquet if key == "mergeschema" => {
                        put(&mut canonical, "merge_schema", value);
                        true
                    }
                    _ => false,
                };
                if !known {
                    return Err(unknown(format, name, spark_names(format)));
                }
            }
        }
    }
    Rules::parse(format, &canonical)?;
    Ok(canonical)
}

fn spark_csv(canonical: &mut Options, name: &str, key: &str, value: &str) -> Result<bool> {
    let target = match key {
        "header" => "header",
        "sep" | "delimiter" => "delimiter",
        "quote" => "quote",
        "escape" => "escape",
        "comment" => "comment",
        "nullvalue" => "null_value",
        "inferschema" => "infer_schema",
        "multiline" => "multiline",
        "ignoreleadingwhitespace" => "trim_leading",
        "ignoretrailingwhitespace" => "trim_trailing",
        "linesep" => "terminator",
        "dateformat" | "timestampformat" | "timestampntzformat" => {
            let target = if key == "dateformat" { "date_format" } else { "timestamp_format" };
            put(canonical, target, &chrono_pattern(name, value)?);
            return Ok(true);
        }
        "quoteall" => {
            let style = if bool_of(name, Some(value), false)? { "always" } else { "necessary" };
            put(canonical, "quote_style", style);
            return Ok(true);
        }
        "enforceschema" => {
            let enforced = bool_of(name, Some(value), true)?;
            put(canonical, "check_header", if enforced { "false" } else { "true" });
            return Ok(true);
        }
        "samplingratio" => {
            if value.trim().parse::<f64>() != Ok(1.0) {
                return Err(invalid(name, "must be 1", "limit the rows to look at with inferRows"));
            }
            put(canonical, "infer_rows", &usize::MAX.to_string());
            return Ok(true);
        }
        "mode" => {
            match value.to_ascii_uppercase().as_str() {
                "FAILFAST" => {}
                "PERMISSIVE" => put(canonical, "short_rows", "true"),
                "DROPMALFORMED" => {
                    return Err(Error::unsupported(
                        "the csv mode DROPMALFORMED",
                        "use FAILFAST, or PERMISSIVE to fill up rows that are too short",
                    ));
                }
                _ => return Err(invalid(name, "must be FAILFAST or PERMISSIVE", "")),
            }
            return Ok(true);
        }
        _ => return Ok(false),
    };
    put(canonical, target, value);
    Ok(true)
}

fn spark_json(canonical: &mut Options, name: &str, key: &str, value: &str) -> Result<bool> {
    match key {
        // Spark's multi-line files are arrays; what a file is shows in its first character.
        "multiline" => {
            bool_of(name, Some(value), false)?;
        }
        "linesep" if matches!(value, "\n" | "\\n" | "\r\n" | "\\r\\n") => {}
        "samplingratio" if value.trim().parse::<f64>() == Ok(1.0) => {
            put(canonical, "infer_rows", &usize::MAX.to_string());
        }
        "mode" if value.eq_ignore_ascii_case("FAILFAST") => {}
        "linesep" | "samplingratio" | "mode" => {
            return Err(Error::unsupported(format!("the json option {name} = '{value}'"), ""));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Options of Spark that can only have their default here; `true` if this is one and has it.
fn refused(name: &str, key: &str, value: &str) -> Result<bool> {
    let is_default = match key {
        "encoding" | "charset" => {
            matches!(value.to_ascii_lowercase().as_str(), "utf-8" | "utf8" | "us-ascii")
        }
        "emptyvalue" | "columnnameofcorruptrecord" => value.is_empty(),
        "locale" => value.eq_ignore_ascii_case("en-us"),
        "escapequotes" | "preferdate" | "prefersdate" => value.eq_ignore_ascii_case("true"),
        "ignorecorruptfiles"
        | "ignoremissingfiles"
        | "primitivesasstring"
        | "prefersdecimal"
        | "allowcomments"
        | "allowunquotedfieldnames"
        | "allownumericleadingzeros"
        | "allowbackslashescapinganycharacter"
        | "allowunquotedcontrolchars"
        | "dropfieldifallnull" => value.eq_ignore_ascii_case("false"),
        "allowsinglequotes" | "ignorenullfields" => value.eq_ignore_ascii_case("true"),
        "nanvalue" => value == "NaN",
        "positiveinf" => value == "Inf",
        "negativeinf" => value == "-Inf",
        "maxrecordsperfile" => value.trim() == "0",
        "maxcolumns"
        | "maxcharspercolumn"
        | "chartoescapequoteescaping"
        | "unescapedquotehandling"
        | "modifiedbefore"
        | "modifiedafter"
        | "timezone"
        | "datetimerebasemode"
        | "int96rebasemode" => false,
        _ => return Ok(false),
    };
    if is_default {
        return Ok(true);
    }
    let hint = match key {
        "encoding" | "charset" => "files must be UTF-8; convert them first",
        _ => "leave it out",
    };
    Err(Error::unsupported(format!("the option {name} = '{value}'"), hint))
}

fn spark_names(format: Format) -> &'static [&'static str] {
    match format {
        Format::Csv => &[
            "path",
            "header",
            "sep",
            "delimiter",
            "quote",
            "escape",
            "comment",
            "nullValue",
            "inferSchema",
            "inferRows",
            "multiLine",
            "mode",
            "ignoreLeadingWhiteSpace",
            "ignoreTrailingWhiteSpace",
            "lineSep",
            "dateFormat",
            "timestampFormat",
            "quoteAll",
            "enforceSchema",
            "samplingRatio",
            "encoding",
            "compression",
            "recursiveFileLookup",
            "pathGlobFilter",
        ],
        Format::Json => &[
            "path",
            "multiLine",
            "inferRows",
            "samplingRatio",
            "encoding",
            "compression",
            "recursiveFileLookup",
            "pathGlobFilter",
        ],
        Format::Parquet => {
            &["path", "mergeSchema", "compression", "recursiveFileLookup", "pathGlobFilter"]
        }
        Format::Arrow | Format::Avro => &["path", "recursiveFileLookup", "pathGlobFilter"],
    }
}

/// Translates the options of `CREATE EXTERNAL TABLE` and `COPY TO`, with or without `format.`.
///
/// # Errors
/// [`Error::InvalidOption`] for one that the format does not know.
pub(crate) fn from_datafusion<'a>(
    format: Format,
    options: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<Options> {
    let mut canonical = Options::new();
    for (name, value) in options {
        let lower = name.to_ascii_lowercase();
        let key = lower.strip_prefix("format.").unwrap_or(&lower);
        let target = match (format, key) {
            (_, "recursive" | "recursive_file_lookup") => "recursive",
            (_, "name_pattern" | "path_glob_filter") => "name_pattern",
            (Format::Csv | Format::Json, "compression") => "compression",
            (Format::Csv | Format::Json, "compression_level") => "compression_level",
            (Format::Csv | Format::Json, "schema_infer_max_rec" | "infer_rows") => "infer_rows",
            (Format::Csv, _) => match datafusion_csv(key) {
                Some(target) => target,
                None => return Err(unknown(format, name, DATAFUSION_CSV)),
            },
            (Format::Json, "newline_delimited") => {
                let lines = bool_of(name, Some(value), true)?;
                put(&mut canonical, "array", if lines { "false" } else { "true" });
                continue;
            }
            (Format::Parquet, "merge_schema") => "merge_schema",
            (Format::Parquet, _) => {
                // Metadata keys keep their case; the rest of Parquet's names are lowercase.
                let full = match name.strip_prefix("format.") {
                    Some(_) => name.clone(),
                    None => format!("format.{name}"),
                };
                put(&mut canonical, &full, value);
                continue;
            }
            _ => return Err(unknown(format, name, datafusion_names(format))),
        };
        put(&mut canonical, target, value);
    }
    Rules::parse(format, &canonical)?.parquet_options(TableOptions::new())?;
    Ok(canonical)
}

const DATAFUSION_CSV: &[&str] = &[
    "has_header",
    "delimiter",
    "quote",
    "escape",
    "double_quote",
    "quote_style",
    "comment",
    "terminator",
    "null_value",
    "null_regex",
    "newlines_in_values",
    "truncated_rows",
    "schema_infer_max_rec",
    "date_format",
    "timestamp_format",
    "time_format",
    "compression",
    "compression_level",
    "ignore_leading_whitespace",
    "ignore_trailing_whitespace",
    "recursive",
    "name_pattern",
];

fn datafusion_csv(key: &str) -> Option<&'static str> {
    Some(match key {
        "has_header" | "header" => "header",
        "delimiter" => "delimiter",
        "quote" => "quote",
        "escape" => "escape",
        "double_quote" => "double_quote",
        "quote_style" => "quote_style",
        "comment" => "comment",
        "terminator" => "terminator",
        "null_value" => "null_value",
        "null_regex" => "null_regex",
        "newlines_in_values" => "multiline",
        "truncated_rows" => "short_rows",
        "infer_schema" => "infer_schema",
        "date_format" => "date_format",
        "timestamp_format" | "datetime_format" => "timestamp_format",
        "time_format" => "time_format",
        "ignore_leading_whitespace" => "trim_leading",
        "ignore_trailing_whitespace" => "trim_trailing",
        _ => return None,
    })
}

fn datafusion_names(format: Format) -> &'static [&'static str] {
    match format {
        Format::Csv => DATAFUSION_CSV,
        Format::Json => {
            &["newline_delimited", "schema_infer_max_rec", "compression", "compression_level"]
        }
        Format::Parquet | Format::Arrow | Format::Avro => &["recursive", "name_pattern"],
    }
}

fn put(options: &mut Options, name: &str, value: &str) {
    options.insert(name.to_owned(), value.to_owned());
}

fn unknown(format: Format, name: &str, known: &[&str]) -> Error {
    let bare = name.to_ascii_lowercase();
    let bare = bare.strip_prefix("format.").unwrap_or(&bare);
    let near = known
        .iter()
        .map(|candidate| {
            (strsim::damerau_levenshtein(bare, &candidate.to_ascii_lowercase()), candidate)
        })
        .min()
        .filter(|(distance, _)| *distance <= 3);
    let list = known.join(", ");
    let hint = match near {
        Some((_, candidate)) => format!("did you mean \"{candidate}\"? known options: {list}"),
        None => format!("known options: {list}"),
    };
    Error::InvalidOption {
        option: name.to_owned(),
        message: format!("not known for {format} files"),
        hint: Some(hint),
    }
}

fn invalid(name: &str, message: &str, hint: &str) -> Error {
    Error::InvalidOption {
        option: name.to_owned(),
        message: message.to_owned(),
        hint: (!hint.is_empty()).then(|| hint.to_owned()),
    }
}

fn bool_of(name: &str, value: Option<&str>, default: bool) -> Result<bool> {
    match value.map(str::to_ascii_lowercase).as_deref() {
        None => Ok(default),
        Some("true" | "1" | "yes" | "on" | "t") => Ok(true),
        Some("false" | "0" | "no" | "off" | "f") => Ok(false),
        Some(other) => Err(invalid(name, &format!("\"{other}\" is neither true nor false"), "")),
    }
}

fn number_of<T: std::str::FromStr>(name: &str, value: Option<&str>) -> Result<Option<T>> {
    value
        .map(|text| {
            text.trim()
                .parse()
                .map_err(|_error| invalid(name, &format!("\"{text}\" is no number"), ""))
        })
        .transpose()
}

/// Reads one character, which has to be one byte; `\t` and the like are written out.
fn byte_of(name: &str, value: Option<&str>) -> Result<Option<u8>> {
    let Some(text) = value else { return Ok(None) };
    let byte = match text {
        "" => return Ok(None),
        "\\t" | "tab" => b'\t',
        "\\n" => b'\n',
        "\\r" => b'\r',
        "\\0" => 0,
        "\\\\" => b'\\',
        one if one.len() == 1 => one.as_bytes()[0],
        _ => {
            let message = format!("\"{text}\" is not one ASCII character");
            return Err(invalid(name, &message, "write a tab as \\t"));
        }
    };
    Ok(Some(byte))
}

fn compression_of(text: &str) -> Result<CompressionTypeVariant> {
    match text.to_ascii_lowercase().as_str() {
        "" | "none" | "uncompressed" => Ok(CompressionTypeVariant::UNCOMPRESSED),
        other => compression_of_extension(other).ok_or_else(|| {
            invalid(
                "compression",
                &format!("\"{text}\" is not known"),
                "use none, gzip, zstd, bzip2 or xz",
            )
        }),
    }
}

/// Spark writes `gzip` and `zstd` where Parquet's writer here wants a level.
fn parquet_codec_of(text: &str) -> String {
    match text.to_ascii_lowercase().as_str() {
        "none" => "uncompressed".to_owned(),
        "gzip" => "gzip(6)".to_owned(),
        "zstd" => "zstd(3)".to_owned(),
        "brotli" => "brotli(4)".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spark(format: Format, options: &[(&str, &str)]) -> Result<Rules> {
        let options: Vec<_> =
            options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Rules::parse(format, &from_spark(format, &options)?)
    }

    #[test]
    fn spark_csv_defaults_are_sparks() {
        let rules = spark(Format::Csv, &[]).unwrap();
        assert!(!rules.csv.header && !rules.csv.infer_schema);
        assert_eq!((rules.csv.unnamed_prefix.as_str(), rules.csv.unnamed_start), ("_c", 0));
        let rules = Rules::parse(Format::Csv, &Options::new()).unwrap();
        assert!(rules.csv.header && rules.csv.infer_schema);
    }

    #[test]
    fn spark_csv_options_in_any_case() {
        let rules = spark(
            Format::Csv,
            &[
                ("HEADER", "True"),
                ("sep", "\\t"),
                ("nullvalue", "NA"),
                ("mode", "permissive"),
                ("dateFormat", "dd/MM/yyyy"),
                ("multiLine", "false"),
                ("quote", ""),
            ],
        )
        .unwrap();
        assert!(rules.csv.header && rules.csv.short_rows && !rules.csv.multiline);
        assert_eq!(rules.csv.delimiter, Some(b'\t'));
        assert_eq!(rules.csv.null_value.as_deref(), Some("NA"));
        assert_eq!(rules.csv.date_format.as_deref(), Some("%d/%m/%Y"));
        assert_eq!(rules.csv.quote, 0);
    }

    #[test]
    fn nothing_is_ignored_in_silence() {
        let error = spark(Format::Csv, &[("heder", "true")]).unwrap_err();
        assert!(error.hint().unwrap().starts_with("did you mean \"header\"?"), "{error:?}");
        assert!(spark(Format::Csv, &[("encoding", "latin1")]).is_err());
        assert!(spark(Format::Csv, &[("encoding", "UTF-8")]).is_ok());
        assert!(spark(Format::Csv, &[("mode", "DROPMALFORMED")]).is_err());
        assert!(spark(Format::Csv, &[("header", "maybe")]).is_err());
        assert!(spark(Format::Csv, &[("sep", "||")]).is_err());
        assert!(spark(Format::Csv, &[("maxRecordsPerFile", "10")]).is_err());
        assert!(spark(Format::Csv, &[("columnNameOfCorruptRecord", "bad")]).is_err());
        assert!(spark(Format::Csv, &[("compression", "rar")]).is_err());
        assert!(spark(Format::Parquet, &[("header", "true")]).is_err());
        assert!(spark(Format::Json, &[("mode", "PERMISSIVE")]).is_err());
    }

    #[test]
    fn datafusion_keys_with_and_without_prefix() {
        let pairs = [
            ("format.has_header".to_owned(), "false".to_owned()),
            ("delimiter".to_owned(), "|".to_owned()),
        ];
        let options = from_datafusion(Format::Csv, pairs.iter().map(|(k, v)| (k, v))).unwrap();
        let rules = Rules::parse(Format::Csv, &options).unwrap();
        assert!(!rules.csv.header);
        assert_eq!(rules.csv.delimiter, Some(b'|'));

        let bad = ("format.has_heder".to_owned(), "false".to_owned());
        let error = from_datafusion(Format::Csv, [(&bad.0, &bad.1)]).unwrap_err();
        assert!(error.hint().unwrap().contains("has_header"));
        let bad = ("format.no_such_thing".to_owned(), "1".to_owned());
        assert!(from_datafusion(Format::Parquet, [(&bad.0, &bad.1)]).is_err());
        let good = ("format.max_row_group_size".to_owned(), "1000".to_owned());
        assert!(from_datafusion(Format::Parquet, [(&good.0, &good.1)]).is_ok());
    }
}
