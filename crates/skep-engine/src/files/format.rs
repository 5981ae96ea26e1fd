//! The file formats, and how a file says which one it is: by its name, and by its first bytes.

use std::fmt;
use std::str::FromStr;

use datafusion::common::parsers::CompressionTypeVariant;

use crate::error::{Error, Result};

/// A file format that can be read as a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Format {
    Csv,
    Json,
    Parquet,
    Arrow,
    Avro,
}

/// What a user may write for a format, for the hints of errors.
pub(crate) const FORMAT_NAMES: &str = "csv, json, parquet, arrow and avro";

impl Format {
    /// Returns the canonical lowercase name, which is also the usual file extension.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
            Self::Avro => "avro",
        }
    }

    /// Tells the format from one extension, without the dot.
    pub(crate) fn from_extension(extension: &str) -> Option<Self> {
        Some(match extension.to_ascii_lowercase().as_str() {
            "csv" | "tsv" | "tbl" | "psv" => Self::Csv,
            "json" | "ndjson" | "jsonl" => Self::Json,
            "parquet" | "pq" | "parq" => Self::Parquet,
            "arrow" | "arrows" | "feather" | "ipc" => Self::Arrow,
            "avro" => Self::Avro,
            _ => return None,
        })
    }

    /// Returns whether files of this format are plain text that may be compressed as a whole.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::Csv | Self::Json)
    }

    /// Tells the format from the first bytes of a file, if they say so beyond doubt.
    pub(crate) fn from_magic(head: &[u8]) -> Option<Self> {
        if head.starts_with(b"PAR1") || head.starts_with(b"PARE") {
            Some(Self::Parquet)
        } else if head.starts_with(b"ARROW1") || head.starts_with(&[0xff, 0xff, 0xff, 0xff]) {
            Some(Self::Arrow)
        } else if head.starts_with(b"Obj\x01") {
            Some(Self::Avro)
        } else {
            None
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let name = text.trim().to_ascii_lowercase();
        let name = name.rsplit('.').next().unwrap_or_default();
        match name {
            "csv" => Ok(Self::Csv),
            "json" | "ndjson" | "jsonl" => Ok(Self::Json),
            "parquet" => Ok(Self::Parquet),
            "arrow" | "ipc" | "feather" => Ok(Self::Arrow),
            "avro" => Ok(Self::Avro),
            _ => {
                let hint = match name {
                    "tsv" => "use csv with the option delimiter '\\t'".to_owned(),
                    _ => format!("skep reads and writes {FORMAT_NAMES}"),
                };
                Err(Error::unsupported(format!("file format \"{}\"", text.trim()), hint))
            }
        }
    }
}

/// What the name of a file says about its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NamedContent {
    /// The format, if the extension is one that we know.
    pub(crate) format: Option<Format>,
    /// How the whole file is compressed.
    pub(crate) compression: CompressionTypeVariant,
    /// Whether fields are split by tabs, as in `.tsv`.
    pub(crate) tabs: bool,
}

impl NamedContent {
    /// Reads `x.csv`, `x.csv.gz`, `x.gz`; the last part of a path is enough.
    pub(crate) fn of(file_name: &str) -> Self {
        let name = file_name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let mut extensions = name.rsplit('.').filter(|part| !part.is_empty());
        let last = extensions.next().unwrap_or_default();
        let (compression, extension) = match compression_of_extension(last) {
            Some(compression) => (compression, extensions.next().unwrap_or_default()),
            None => (CompressionTypeVariant::UNCOMPRESSED, last),
        };
        // A name without any dot has no extension, whatever it is called.
        let extension = if name.contains('.') { extension } else { "" };
        Self {
            format: Format::from_extension(extension),
            compression,
            tabs: extension.eq_ignore_ascii_case("tsv"),
        }
    }
}

/// Tells a compression from an extension without its dot.
pub(crate) fn compression_of_extension(extension: &str) -> Option<CompressionTypeVariant> {
    Some(match extension.to_ascii_lowercase().as_str() {
        "gz" | "gzip" => CompressionTypeVariant::GZIP,
        "zst" | "zstd" => CompressionTypeVariant::ZSTD,
        "bz2" | "bzip2" => CompressionTypeVariant::BZIP2,
        "xz" => CompressionTypeVariant::XZ,
        _ => return None,
    })
}

/// Returns the extension, with its dot, that a compressed file gets after its format's.
pub(crate) fn compression_extension(compression: CompressionTypeVariant) -> &'static str {
    match compression {
        CompressionTypeVariant::GZIP => ".gz",
        CompressionTypeVariant::BZIP2 => ".bz2",
        CompressionTypeVariant::XZ => ".xz",
        CompressionTypeVariant::ZSTD => ".zst",
        CompressionTypeVariant::UNCOMPRESSED => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_by_word_in_any_case() {
        assert_eq!("CSV".parse::<Format>().unwrap(), Format::Csv);
        assert_eq!("ndjson".parse::<Format>().unwrap(), Format::Json);
        assert_eq!("Parquet".parse::<Format>().unwrap(), Format::Parquet);
        let error = "orc".parse::<Format>().unwrap_err();
        assert_eq!(error.to_string(), "file format \"orc\" is not supported");
        assert!(error.hint().unwrap().contains("parquet"));
    }

    #[test]
    fn formats_and_compression_by_name() {
        let content = NamedContent::of("/a.b/x.csv.gz");
        assert_eq!(content.format, Some(Format::Csv));
        assert_eq!(content.compression, CompressionTypeVariant::GZIP);
        assert!(NamedContent::of("x.tsv").tabs);
        assert_eq!(NamedContent::of("x.NDJSON.zst").format, Some(Format::Json));
        assert_eq!(NamedContent::of("csv").format, None);
        assert_eq!(NamedContent::of("part-0001").format, None);
        assert_eq!(NamedContent::of("log.xz").compression, CompressionTypeVariant::XZ);
    }

    #[test]
    fn formats_by_magic() {
        assert_eq!(Format::from_magic(b"PAR1...."), Some(Format::Parquet));
        assert_eq!(Format::from_magic(b"ARROW1\0\0"), Some(Format::Arrow));
        assert_eq!(Format::from_magic(b"Obj\x01"), Some(Format::Avro));
        assert_eq!(Format::from_magic(b"a,b\n"), None);
    }
}
