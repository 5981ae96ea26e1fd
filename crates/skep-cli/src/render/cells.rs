//! Values of a batch as text.
//!
//! Strings, which are most of what is printed, are borrowed; everything else goes through Arrow's
//! formatter, which writes decimals and 64-bit integers exactly.

use std::fmt;
use std::io;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, LargeStringArray, RecordBatch, StringArray, StringViewArray,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::{ArrayFormatter, DurationFormat, FormatOptions};

/// For programs: ISO 8601 with `T`.
pub(super) const MACHINE: FormatOptions<'static> = FormatOptions::new().with_null("NULL");

/// For people: ISO 8601 with a space in place of the `T`, as SQL writes it.
pub(super) const HUMAN: FormatOptions<'static> = FormatOptions::new()
    .with_null("NULL")
    .with_duration_format(DurationFormat::Pretty)
    .with_datetime_format(Some("%Y-%m-%d %H:%M:%S%.f"))
    .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"))
    .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f%:z"));

/// One column of a batch, ready to be read row by row.
pub(super) struct Cells<'a> {
    nulls: Option<NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Utf8(&'a StringArray),
    LargeUtf8(&'a LargeStringArray),
    Utf8View(&'a StringViewArray),
    Other(ArrayFormatter<'a>),
}

/// One value.
pub(super) enum Cell<'a> {
    /// There is none.
    Null,
    /// Text as it was stored: it can hold anything.
    Text(&'a str),
    /// Something that has to be formatted.
    Other(Formatted<'a>),
}

/// A value that knows how to write itself.
pub(super) struct Formatted<'a> {
    formatter: &'a ArrayFormatter<'a>,
    row: usize,
}

impl fmt::Display for Formatted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.formatter.value(self.row).write(f).map_err(|_arrow| fmt::Error)
    }
}

impl<'a> Cells<'a> {
    /// Prepares every column of a batch.
    ///
    /// # Errors
    /// If a column has a type that cannot be written.
    pub(super) fn of_batch(
        batch: &'a RecordBatch,
        options: &FormatOptions<'a>,
    ) -> io::Result<Vec<Self>> {
        batch.columns().iter().map(|column| Self::of_column(column, options)).collect()
    }

    fn of_column(column: &'a ArrayRef, options: &FormatOptions<'a>) -> io::Result<Self> {
        let values = match column.data_type() {
            DataType::Utf8 => Values::Utf8(column.as_string()),
            DataType::LargeUtf8 => Values::LargeUtf8(column.as_string()),
            DataType::Utf8View => Values::Utf8View(column.as_string_view()),
            _ => Values::Other(ArrayFormatter::try_new(column, options).map_err(unwritable)?),
        };
        Ok(Self { nulls: column.logical_nulls(), values })
    }

    /// Returns the value of a row.
    pub(super) fn cell(&'a self, row: usize) -> Cell<'a> {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return Cell::Null;
        }
        match &self.values {
            Values::Utf8(array) => Cell::Text(array.value(row)),
            Values::LargeUtf8(array) => Cell::Text(array.value(row)),
            Values::Utf8View(array) => Cell::Text(array.value(row)),
            Values::Other(formatter) => Cell::Other(Formatted { formatter, row }),
        }
    }

    /// Returns the value of a row as people read it: on one line, without characters that would
    /// move the cursor, and with NULL unlike any text.
    pub(super) fn visible(&self, row: usize) -> Visible {
        match self.cell(row) {
            Cell::Null => Visible { text: "NULL".to_owned(), is_null: true },
            Cell::Text("NULL") => Visible { text: "'NULL'".to_owned(), is_null: false },
            Cell::Text(text) => Visible { text: escape_controls(text), is_null: false },
            Cell::Other(value) => {
                Visible { text: escape_controls(&value.to_string()), is_null: false }
            }
        }
    }
}

/// A value as people read it.
#[derive(Debug, Clone)]
pub(super) struct Visible {
    /// One line of text.
    pub(super) text: String,
    /// Whether it stands for NULL.
    pub(super) is_null: bool,
}

/// Replaces what would break a line, move the cursor or turn the writing direction by an escape.
pub(super) fn escape_controls(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c if moves_the_cursor(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    escaped
}

fn moves_the_cursor(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Wraps what Arrow says when it cannot write a type.
pub(super) fn unwritable(error: ArrowError) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, error)
}
