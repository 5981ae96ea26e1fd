//! Results as text, one format a file.
//!
//! A renderer gets batches as they come and writes at once what it can: all formats but `box` and
//! `table` hold no more than a batch, and those two hold a bounded window, from which they take the
//! widths of their columns.

use std::io::{self, Write};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use crate::style::Palette;

mod cells;
mod column_type;
mod delimited;
mod grid;
mod json;
mod line;
mod markdown;
mod plan;
mod window;

use delimited::DelimitedRenderer;
use grid::GridRenderer;
use json::JsonRenderer;
use line::LineRenderer;
use markdown::MarkdownRenderer;
use plan::PlanRenderer;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table in line-drawing characters, with the columns' types
    Box,
    /// A table in plain ASCII
    Table,
    /// Comma-separated values with a header (RFC 4180); NULL is empty, an empty string is ""
    Csv,
    /// Tab-separated values with a header; NULL is \N, and tabs, newlines and \ are escaped
    Tsv,
    /// One JSON array of objects per result; NaN and infinities are null, binary is hex
    Json,
    /// One JSON object per row
    Ndjson,
    /// A Markdown table
    Markdown,
    /// One "column = value" per line, rows apart by an empty line
    Line,
    /// Nothing: run the statements, drop the rows
    Null,
}

impl Format {
    /// Returns the format that `name` means, whatever its case.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        clap::ValueEnum::from_str(name, true).ok()
    }

    /// Returns the names of all formats.
    pub(crate) fn names() -> Vec<String> {
        let formats = <Self as clap::ValueEnum>::value_variants();
        formats.iter().map(|format| format.name()).collect()
    }

    /// Returns the name that is typed.
    pub(crate) fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self)
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Makes a renderer for one result.
    pub(crate) fn renderer(self, schema: SchemaRef, page: Page) -> Box<dyn Renderer> {
        match self {
            Self::Box | Self::Table if PlanRenderer::takes(&schema) => {
                Box::new(PlanRenderer::new())
            }
            Self::Box => Box::new(GridRenderer::new(schema, page, grid::Lines::Unicode)),
            Self::Table => Box::new(GridRenderer::new(schema, page, grid::Lines::Ascii)),
            Self::Csv => Box::new(DelimitedRenderer::new(schema, delimited::Dialect::Csv)),
            Self::Tsv => Box::new(DelimitedRenderer::new(schema, delimited::Dialect::Tsv)),
            Self::Json => Box::new(JsonRenderer::new(&schema, json::Layout::Array)),
            Self::Ndjson => Box::new(JsonRenderer::new(&schema, json::Layout::Lines)),
            Self::Markdown => Box::new(MarkdownRenderer::new(schema)),
            Self::Line => Box::new(LineRenderer::new(&schema)),
            Self::Null => Box::new(NullRenderer),
        }
    }
}

/// What a result is written on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    /// The width of the terminal; `None` if it is none, and then nothing may be left out.
    pub(crate) columns: Option<usize>,
    /// The colours that it can show.
    pub(crate) palette: Palette,
}

/// What of a result could be seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Rows that were left out, of all.
    pub(crate) hidden_rows: usize,
    /// Columns that were left out, of all.
    pub(crate) hidden_columns: usize,
    /// Whether it was written as text, whose rows and columns nobody counts.
    pub(crate) is_text: bool,
}

/// Writes one result.
pub(crate) trait Renderer {
    /// Takes a batch; writes what can be written now.
    fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> io::Result<()>;

    /// Writes the rest.
    fn finish(self: Box<Self>, out: &mut dyn Write) -> io::Result<Shown>;
}

struct NullRenderer;

impl Renderer for NullRenderer {
    fn batch(&mut self, _batch: &RecordBatch, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>, _out: &mut dyn Write) -> io::Result<Shown> {
        Ok(Shown::default())
    }
}

/// Collects the renderer's rows before they go out together; past this many bytes they do.
const FLUSH_BYTES: usize = 64 * 1024;
