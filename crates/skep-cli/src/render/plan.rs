//! Query plans as what they are: indented text, which no table holds well.

use std::io::{self, Write};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Schema};

use super::cells::{Cell, Cells, HUMAN};
use super::{Renderer, Shown};

/// Writes each plan under its name.
pub(super) struct PlanRenderer {
    plan_count: usize,
}

impl PlanRenderer {
    /// Makes a renderer that has written nothing.
    pub(super) fn new() -> Self {
        Self { plan_count: 0 }
    }

    /// Returns whether a result is what EXPLAIN answers.
    pub(super) fn takes(schema: &Schema) -> bool {
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let text = |data_type: &DataType| {
            matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
        };
        names.eq(["plan_type", "plan"])
            && schema.fields().iter().all(|field| text(field.data_type()))
    }
}

impl Renderer for PlanRenderer {
    fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> io::Result<()> {
        let columns = Cells::of_batch(batch, &HUMAN)?;
        for row in 0..batch.num_rows() {
            if self.plan_count > 0 {
                out.write_all(b"\n")?;
            }
            self.plan_count += 1;
            writeln!(out, "{}:", columns[0].visible(row).text)?;
            if let Cell::Text(plan) = columns[1].cell(row) {
                for line in plan.trim_end().lines() {
                    writeln!(out, "  {}", super::cells::escape_controls(line))?;
                }
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>, _out: &mut dyn Write) -> io::Result<Shown> {
        Ok(Shown { is_text: true, ..Shown::default() })
    }
}
