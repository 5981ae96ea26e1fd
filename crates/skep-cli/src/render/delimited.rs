//! CSV and TSV: text between delimiters.
//!
//! Both tell NULL from the empty string. CSV writes NULL as nothing and the empty string as `""`;
//! TSV writes NULL as `\N` and escapes with backslashes, as PostgreSQL and MySQL read it. Lists,
//! structs and maps are written as JSON.

use std::io::{self, Write};

use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion::arrow::json::writer::NullableEncoder;

use super::cells::{Cell, Cells, MACHINE};
use super::json::JsonOptions;
use super::{FLUSH_BYTES, Renderer, Shown};

/// The rules of one of the formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Csv,
    Tsv,
}

/// Writes delimited rows under a header.
pub(super) struct DelimitedRenderer {
    dialect: Dialect,
    schema: SchemaRef,
    json: JsonOptions,
    has_header: bool,
    buffer: Vec<u8>,
}

/// A column in the way that it is written.
enum Column<'a> {
    /// Values without a delimiter, quote or newline in them: numbers, dates.
    Plain(Cells<'a>),
    /// Values that can hold anything.
    Text(Cells<'a>),
    /// Values with values in them.
    Nested(NullableEncoder<'a>),
}

impl DelimitedRenderer {
    /// Makes a renderer that has written nothing.
    pub(super) fn new(schema: SchemaRef, dialect: Dialect) -> Self {
        let json = JsonOptions::default();
        Self { dialect, schema, json, has_header: false, buffer: Vec::new() }
    }

    fn write_header(&mut self) {
        if std::mem::replace(&mut self.has_header, true) || self.schema.fields().is_empty() {
            return;
        }
        for (idx, field) in self.schema.fields().iter().enumerate() {
            if idx > 0 {
                self.buffer.push(self.dialect.delimiter());
            }
            self.dialect.write_text(field.name().as_bytes(), &mut self.buffer);
        }
        self.buffer.extend_from_slice(self.dialect.line_end());
    }
}

impl Renderer for DelimitedRenderer {
    fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> io::Result<()> {
        self.write_header();
        let dialect = self.dialect;
        let fields = self.schema.fields();
        let mut columns = Cells::of_batch(batch, &MACHINE)?
            .into_iter()
            .zip(batch.columns().iter().zip(fields))
            .map(|(cells, (array, field))| Column::new(cells, array, field, &self.json))
            .collect::<io::Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            for (idx, column) in columns.iter_mut().enumerate() {
                if idx > 0 {
                    self.buffer.push(dialect.delimiter());
                }
                column.write(row, dialect, &mut self.buffer)?;
            }
            self.buffer.extend_from_slice(dialect.line_end());
            if self.buffer.len() >= FLUSH_BYTES {
                out.write_all(&self.buffer)?;
                self.buffer.clear();
            }
        }
        out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self: Box<Self>, out: &mut dyn Write) -> io::Result<Shown> {
        self.write_header();
        out.write_all(&self.buffer)?;
        Ok(Shown::default())
    }
}

impl<'a> Column<'a> {
    fn new(
        cells: Cells<'a>,
        array: &'a dyn Array,
        field: &'a FieldRef,
        json: &'a JsonOptions,
    ) -> io::Result<Self> {
        let data_type = array.data_type();
        Ok(if data_type.is_nested() && !matches!(data_type, DataType::RunEndEncoded(..)) {
            Self::Nested(json.encoder(field, array)?)
        } else if data_type.is_primitive() || *data_type == DataType::Boolean {
            Self::Plain(cells)
        } else {
            Self::Text(cells)
        })
    }

    fn write(&mut self, row: usize, dialect: Dialect, buffer: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Nested(encoder) if encoder.is_null(row) => dialect.write_null(buffer),
            Self::Nested(encoder) => {
                let mut text = Vec::new();
                encoder.encode(row, &mut text);
                dialect.write_text(&text, buffer);
            }
            Self::Plain(cells) | Self::Text(cells) if matches!(cells.cell(row), Cell::Null) => {
                dialect.write_null(buffer);
            }
            Self::Plain(cells) => match cells.cell(row) {
                Cell::Other(value) => write!(buffer, "{value}")?,
                Cell::Text(text) => dialect.write_text(text.as_bytes(), buffer),
                Cell::Null => {}
            },
            Self::Text(cells) => match cells.cell(row) {
                Cell::Other(value) => dialect.write_text(value.to_string().as_bytes(), buffer),
                Cell::Text(text) => dialect.write_text(text.as_bytes(), buffer),
                Cell::Null => {}
            },
        }
        Ok(())
    }
}

impl Dialect {
    fn delimiter(self) -> u8 {
        match self {
            Self::Csv => b',',
            Self::Tsv => b'\t',
        }
    }

    /// RFC 4180 asks for CR LF, which every Unix tool behind a pipe would take for data.
    fn line_end(self) -> &'static [u8] {
        b"\n"
    }

    fn write_null(self, buffer: &mut Vec<u8>) {
        match self {
            Self::Csv => {}
            Self::Tsv => buffer.extend_from_slice(b"\\N"),
        }
    }

    fn write_text(self, text: &[u8], buffer: &mut Vec<u8>) {
        match self {
            Self::Csv => write_quoted(text, buffer),
            Self::Tsv => write_escaped(text, buffer),
        }
    }
}

fn write_quoted(text: &[u8], buffer: &mut Vec<u8>) {
    let special = |byte: &u8| matches!(byte, b',' | b'"' | b'\n' | b'\r');
    if !text.is_empty() && !text.iter().any(special) {
        buffer.extend_from_slice(text);
        return;
    }
    buffer.push(b'"');
    for &byte in text {
        if byte == b'"' {
            buffer.push(b'"');
        }
        buffer.push(byte);
    }
    buffer.push(b'"');
}

fn write_escaped(text: &[u8], buffer: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b'\t' => buffer.extend_from_slice(b"\\t"),
            b'\n' => buffer.extend_from_slice(b"\\n"),
            b'\r' => buffer.extend_from_slice(b"\\r"),
            b'\\' => buffer.extend_from_slice(b"\\\\"),
            byte => buffer.push(byte),
        }
    }
}
