//! Which rows of a long result to show on a terminal: the first and the last.
//!
//! Only rows that may be shown become text; what is kept of the rest is the few batches that the
//! last rows can be in.

use std::collections::VecDeque;
use std::io;

use datafusion::arrow::array::RecordBatch;

use super::cells::{Cells, HUMAN, Visible};

/// Up to so many rows are all shown.
const SHOWN_ROWS: usize = 40;

/// Of more rows, so many are shown from each end.
const SHOWN_AT_END: usize = SHOWN_ROWS / 2;

/// A row as people read it.
pub(super) type Row = Vec<Visible>;

/// The two ends of a result.
#[derive(Debug, Default)]
pub(super) struct Window {
    head: Vec<Row>,
    tail: VecDeque<RecordBatch>,
    tail_rows: usize,
    row_count: usize,
}

/// What to show of a result.
#[derive(Debug)]
pub(super) struct Ends {
    /// The first rows, or all.
    pub(super) head: Vec<Row>,
    /// How many rows are left out after them.
    pub(super) hidden: usize,
    /// The last rows; none if nothing is left out.
    pub(super) tail: Vec<Row>,
}

impl Window {
    /// Takes a batch.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> io::Result<()> {
        let wanted = SHOWN_ROWS.saturating_sub(self.head.len()).min(batch.num_rows());
        if wanted > 0 {
            self.head.extend(visible_rows(&batch.slice(0, wanted))?);
        }
        self.row_count += batch.num_rows();
        self.tail_rows += batch.num_rows();
        self.tail.push_back(batch.clone());
        while let Some(first) = self.tail.front()
            && self.tail_rows - first.num_rows() >= SHOWN_AT_END
        {
            self.tail_rows -= first.num_rows();
            self.tail.pop_front();
        }
        Ok(())
    }

    /// Returns what to show.
    pub(super) fn finish(mut self) -> io::Result<Ends> {
        if self.row_count <= SHOWN_ROWS {
            return Ok(Ends { head: self.head, hidden: 0, tail: Vec::new() });
        }
        self.head.truncate(SHOWN_AT_END);
        let mut skip = self.tail_rows - SHOWN_AT_END;
        let mut tail = Vec::with_capacity(SHOWN_AT_END);
        for batch in &self.tail {
            let skipped = skip.min(batch.num_rows());
            skip -= skipped;
            tail.extend(visible_rows(&batch.slice(skipped, batch.num_rows() - skipped))?);
        }
        Ok(Ends { head: self.head, hidden: self.row_count - 2 * SHOWN_AT_END, tail })
    }
}

/// Returns the rows of a batch as people read them.
pub(super) fn visible_rows(batch: &RecordBatch) -> io::Result<Vec<Row>> {
    let columns = Cells::of_batch(batch, &HUMAN)?;
    Ok((0..batch.num_rows())
        .map(|row| columns.iter().map(|cells| cells.visible(row)).collect())
        .collect())
}
