//! A Markdown table, for issues and documents.

use std::io::{self, Write};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use super::cells::{Cells, HUMAN, escape_controls};
use super::column_type::is_number;
use super::{Renderer, Shown};

/// Writes rows as lines of a Markdown table; widths are left to whoever shows it.
pub(super) struct MarkdownRenderer {
    schema: SchemaRef,
    has_header: bool,
}

impl MarkdownRenderer {
    /// Makes a renderer that has written nothing.
    pub(super) fn new(schema: SchemaRef) -> Self {
        Self { schema, has_header: false }
    }

    fn write_header(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if std::mem::replace(&mut self.has_header, true) || self.schema.fields().is_empty() {
            return Ok(());
        }
        for field in self.schema.fields() {
            write!(out, "| {} ", escape(&escape_controls(field.name())))?;
        }
        out.write_all(b"|\n")?;
        for field in self.schema.fields() {
            out.write_all(if is_number(field.data_type()) { b"|---:" } else { b"|:---" })?;
        }
        out.write_all(b"|\n")
    }
}

impl Renderer for MarkdownRenderer {
    fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> io::Result<()> {
        self.write_header(out)?;
        let columns = Cells::of_batch(batch, &HUMAN)?;
        for row in 0..batch.num_rows() {
            for cells in &columns {
                write!(out, "| {} ", escape(&cells.visible(row).text))?;
            }
            out.write_all(b"|\n")?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, out: &mut dyn Write) -> io::Result<Shown> {
        self.write_header(out)?;
        Ok(Shown::default())
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|")
}
