//! One `column = value` a line: for rows too wide for a table.

use std::io::{self, Write};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;
use unicode_width::UnicodeWidthStr;

use super::cells::{Cells, HUMAN, escape_controls};
use super::{Renderer, Shown};

/// Writes rows as lines.
pub(super) struct LineRenderer {
    /// The names, aligned at their ends.
    names: Vec<String>,
    row_count: usize,
}

impl LineRenderer {
    /// Makes a renderer that has written nothing.
    pub(super) fn new(schema: &Schema) -> Self {
        let names: Vec<_> =
            schema.fields().iter().map(|field| escape_controls(field.name())).collect();
        let width = names.iter().map(|name| name.width()).max().unwrap_or(0);
        let names = names
            .iter()
            .map(|name| format!("{}{name}", " ".repeat(width - name.width())))
            .collect();
        Self { names, row_count: 0 }
    }
}

impl Renderer for LineRenderer {
    fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> io::Result<()> {
        let columns = Cells::of_batch(batch, &HUMAN)?;
        for row in 0..batch.num_rows() {
            if self.row_count > 0 {
                out.write_all(b"\n")?;
            }
            self.row_count += 1;
            for (name, cells) in self.names.iter().zip(&columns) {
                writeln!(out, "{name} = {}", cells.visible(row).text)?;
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>, _out: &mut dyn Write) -> io::Result<Shown> {
        Ok(Shown::default())
    }
}
