//! Tables with lines around the cells.
//!
//! The widths of the columns must be known before the first line is written. On a terminal the
//! shown rows are few, so all of them are waited for, and what does not fit the screen is cut.
//! Elsewhere nothing may be lost and a result may be larger than memory: the widths come from a
//! first window of rows, and a later cell that is wider pushes the rest of its line to the right.

use std::io::{self, Write};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::cells::{Visible, escape_controls};
use super::column_type::{is_number, type_name};
use super::window::{Row, Window, visible_rows};
use super::{Page, Renderer, Shown};
use crate::style::Palette;

/// Rows from which the widths are taken if there is no terminal.
const SAMPLE_ROWS: usize = 1_000;

/// Bytes of text after which the sample is large enough, however few its rows.
const SAMPLE_BYTES: usize = 1 << 20;

/// Wider cells do not widen their column: one long text would fill the file with blanks.
const MAX_SAMPLED_WIDTH: usize = 500;

/// Columns of text are not made narrower than this to fit the screen; others are left out before.
const MIN_TEXT_WIDTH: usize = 12;

/// The characters between the cells.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lines {
    Unicode,
    Ascii,
}

/// Writes a table.
pub(super) struct GridRenderer {
    page: Page,
    lines: Lines,
    columns: Vec<Column>,
    state: State,
}

#[derive(Debug)]
struct Column {
    name: String,
    type_name: String,
    is_number: bool,
}

enum State {
    /// On a terminal: the rows are collected to the end.
    Window(Window),
    /// Elsewhere: the first rows are collected.
    Sample { rows: Vec<Row>, bytes: usize },
    /// The top is written, and so is every row as it comes.
    Streaming(Layout),
}

/// Which columns are shown, and how wide.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    columns: Vec<Place>,
    hidden: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The column of this index, so wide; whether wider cells are cut.
    Column { idx: usize, width: usize, cut: bool },
    /// A sign that columns are left out here.
    Gap,
}

impl GridRenderer {
    /// Makes a renderer that has written nothing.
    pub(super) fn new(schema: SchemaRef, page: Page, lines: Lines) -> Self {
        let columns = schema.fields().iter().map(|field| Column {
            name: escape_controls(field.name()),
            type_name: escape_controls(&type_name(field.data_type())),
            is_number: is_number(field.data_type()),
        });
        let state = match page.columns {
            Some(_) => State::Window(Window::default()),
            None => State::Sample { rows: Vec::new(), bytes: 0 },
        };
        Self { page, lines, columns: columns.collect(), state }
    }

    fn widths<'a>(&self, rows: impl Iterator<Item = &'a Row>, most: usize) -> Vec<usize> {
        let header = |column: &Column| column.name.width().max(column.type_name.width());
        let mut widths: Vec<_> = self.columns.iter().map(header).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width().min(most));
            }
        }
        widths
    }

    fn write_top(&self, layout: &Layout, out: &mut dyn Write) -> io::Result<()> {
        let palette = self.page.palette;
        self.write_rule(layout, Rule::Top, out)?;
        let names = |idx: usize| (self.columns[idx].name.as_str(), Paint::Name);
        self.write_line(layout, names, palette, out)?;
        let types = |idx: usize| (self.columns[idx].type_name.as_str(), Paint::Faint);
        self.write_line(layout, types, palette, out)?;
        self.write_rule(layout, Rule::Middle, out)
    }

    fn write_row(&self, layout: &Layout, row: &[Visible], out: &mut dyn Write) -> io::Result<()> {
        let cell = |idx: usize| {
            let cell = &row[idx];
            (cell.text.as_str(), if cell.is_null { Paint::Faint } else { Paint::Plain })
        };
        self.write_line(layout, cell, self.page.palette, out)
    }

    fn write_line<'a>(
        &self,
        layout: &Layout,
        cell: impl Fn(usize) -> (&'a str, Paint),
        palette: Palette,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let bar = self.lines.bar();
        let mut line = String::from(bar);
        for place in &layout.columns {
            match *place {
                Place::Gap => line.push_str(&format!(" {} {bar}", self.lines.dot())),
                Place::Column { idx, width, cut } => {
                    let (text, paint) = cell(idx);
                    let shown = if cut { shorten(text, width) } else { text.to_owned() };
                    let padding = " ".repeat(width.saturating_sub(shown.width()));
                    let shown = paint.apply(&shown, palette);
                    if self.columns[idx].is_number {
                        line.push_str(&format!(" {padding}{shown} {bar}"));
                    } else {
                        line.push_str(&format!(" {shown}{padding} {bar}"));
                    }
                }
            }
        }
        line.push('\n');
        out.write_all(line.as_bytes())
    }

    fn write_rule(&self, layout: &Layout, rule: Rule, out: &mut dyn Write) -> io::Result<()> {
        let [left, middle, right, dash] = self.lines.rule(rule);
        let mut line = String::from(left);
        for (nth, place) in layout.columns.iter().enumerate() {
            if nth > 0 {
                line.push_str(middle);
            }
            let width = match place {
                Place::Gap => 1,
                Place::Column { width, .. } => *width,
            };
            line.push_str(&dash.repeat(width + 2));
        }
        line.push_str(right);
        line.push('\n');
        out.write_all(line.as_bytes())
    }

    /// Writes the top and the rows that were collected; from here on rows go out as they come.
    fn stream(&self, rows: &[Row], out: &mut dyn Write) -> io::Result<Layout> {
        let widths = self.widths(rows.iter(), MAX_SAMPLED_WIDTH);
        let layout = Layout::whole(&widths);
        self.write_top(&layout, out)?;
        for row in rows {
            self.write_row(&layout, row, out)?;
        }
        Ok(layout)
    }

    fn write_window(&self, window: Window, out: &mut dyn Write) -> io::Result<Shown> {
        let ends = window.finish()?;
        let screen = self.page.columns.unwrap_or(usize::MAX);
        let widths = self.widths(ends.head.iter().chain(&ends.tail), screen);
        let numbers: Vec<_> = self.columns.iter().map(|column| column.is_number).collect();
        let layout = Layout::fit(&widths, &numbers, screen);
        self.write_top(&layout, out)?;
        for row in &ends.head {
            self.write_row(&layout, row, out)?;
        }
        if ends.hidden > 0 {
            let dot = self.lines.dot();
            self.write_line(&layout, |_idx| (dot, Paint::Faint), self.page.palette, out)?;
        }
        for row in &ends.tail {
            self.write_row(&layout, row, out)?;
        }
        self.write_rule(&layout, Rule::Bottom, out)?;
        Ok(Shown { hidden_rows: ends.hidden, hidden_columns: layout.hidden, ..Shown::default() })
    }
}

impl Renderer for GridRenderer {
    fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> io::Result<()> {
        if self.columns.is_empty() {
            return Ok(());
        }
        match &mut self.state {
            State::Window(window) => window.push(batch),
            State::Sample { rows, bytes } => {
                for row in visible_rows(batch)? {
                    *bytes += row.iter().map(|cell| cell.text.len()).sum::<usize>();
                    rows.push(row);
                }
                if rows.len() >= SAMPLE_ROWS || *bytes >= SAMPLE_BYTES {
                    let rows = std::mem::take(rows);
                    self.state = State::Streaming(self.stream(&rows, out)?);
                }
                Ok(())
            }
            State::Streaming(layout) => {
                let layout = std::mem::replace(layout, Layout::whole(&[]));
                for row in visible_rows(batch)? {
                    self.write_row(&layout, &row, out)?;
                }
                self.state = State::Streaming(layout);
                Ok(())
            }
        }
    }

    fn finish(mut self: Box<Self>, out: &mut dyn Write) -> io::Result<Shown> {
        if self.columns.is_empty() {
            return Ok(Shown::default());
        }
        let done = State::Sample { rows: Vec::new(), bytes: 0 };
        let layout = match std::mem::replace(&mut self.state, done) {
            State::Window(window) => return self.write_window(window, out),
            State::Sample { rows, .. } => self.stream(&rows, out)?,
            State::Streaming(layout) => layout,
        };
        self.write_rule(&layout, Rule::Bottom, out)?;
        Ok(Shown::default())
    }
}

impl Layout {
    /// Shows every column; cells that are wider than their column are not cut.
    fn whole(widths: &[usize]) -> Self {
        let columns = widths.iter().enumerate();
        let columns =
            columns.map(|(idx, &width)| Place::Column { idx, width, cut: false }).collect();
        Self { columns, hidden: 0 }
    }

    /// Makes the table fit the screen: first by cutting text, then by leaving columns out of the
    /// middle. Numbers are not cut, since part of a number is another number.
    fn fit(widths: &[usize], numbers: &[bool], screen: usize) -> Self {
        let capped = |cap: usize| -> Vec<usize> {
            let columns = widths.iter().zip(numbers);
            columns.map(|(&w, &number)| if number { w } else { w.min(cap) }).collect()
        };
        let total = |widths: &[usize]| widths.iter().map(|width| width + 3).sum::<usize>() + 1;
        let widest = widths.iter().copied().max().unwrap_or(0).min(screen);
        let fitting = (MIN_TEXT_WIDTH..=widest.max(MIN_TEXT_WIDTH))
            .rev()
            .map(capped)
            .find(|widths| total(widths) <= screen);
        let place = |widths: &[usize], idx| Place::Column { idx, width: widths[idx], cut: true };
        if let Some(widths) = fitting {
            let columns = (0..widths.len()).map(|idx| place(&widths, idx)).collect();
            return Self { columns, hidden: 0 };
        }
        let widths = capped(MIN_TEXT_WIDTH);
        // The outer lines and the gap's own cell.
        let mut room = screen.saturating_sub(5);
        let (mut left, mut right) = (0, widths.len());
        while left < right {
            let from_left = left <= widths.len() - right;
            let idx = if from_left { left } else { right - 1 };
            if widths[idx] + 3 > room && left > 0 {
                break;
            }
            room = room.saturating_sub(widths[idx] + 3);
            if from_left { left += 1 } else { right -= 1 }
        }
        let mut columns: Vec<_> = (0..left).map(|idx| place(&widths, idx)).collect();
        if left < right {
            columns.push(Place::Gap);
        }
        columns.extend((right..widths.len()).map(|idx| place(&widths, idx)));
        Self { columns, hidden: right - left }
    }
}

/// Cuts a text to a width, with a sign that it was cut.
fn shorten(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut shortened = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        shortened.push(c);
    }
    shortened.push('…');
    shortened
}

#[derive(Debug, Clone, Copy)]
enum Paint {
    Plain,
    Name,
    Faint,
}

impl Paint {
    fn apply(self, text: &str, palette: Palette) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Name => palette.name(text),
            Self::Faint => palette.faint(text),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Rule {
    Top,
    Middle,
    Bottom,
}

impl Lines {
    fn bar(self) -> &'static str {
        match self {
            Self::Unicode => "│",
            Self::Ascii => "|",
        }
    }

    fn dot(self) -> &'static str {
        match self {
            Self::Unicode => "·",
            Self::Ascii => ".",
        }
    }

    /// Returns the left end, the crossing, the right end and the line itself.
    fn rule(self, rule: Rule) -> [&'static str; 4] {
        match (self, rule) {
            (Self::Unicode, Rule::Top) => ["┌", "┬", "┐", "─"],
            (Self::Unicode, Rule::Middle) => ["├", "┼", "┤", "─"],
            (Self::Unicode, Rule::Bottom) => ["└", "┴", "┘", "─"],
            (Self::Ascii, _) => ["+", "+", "+", "-"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(layout: &Layout) -> Vec<Option<(usize, usize)>> {
        let place = |place: &Place| match *place {
            Place::Column { idx, width, .. } => Some((idx, width)),
            Place::Gap => None,
        };
        layout.columns.iter().map(place).collect()
    }

    #[test]
    fn a_table_that_fits_is_left_alone() {
        let layout = Layout::fit(&[5, 10], &[true, false], 80);
        assert_eq!(shown(&layout), [Some((0, 5)), Some((1, 10))]);
    }

    #[test]
    fn text_is_cut_before_columns_are_left_out_and_numbers_never() {
        let layout = Layout::fit(&[20, 100, 14], &[true, false, false], 60);
        assert_eq!(shown(&layout), [Some((0, 20)), Some((1, 16)), Some((2, 14))]);
        assert_eq!(layout.hidden, 0);
    }

    #[test]
    fn columns_are_left_out_of_the_middle() {
        let layout = Layout::fit(&[10; 9], &[true; 9], 60);
        let expected = [Some((0, 10)), Some((1, 10)), None, Some((7, 10)), Some((8, 10))];
        assert_eq!(shown(&layout), expected);
        assert_eq!(layout.hidden, 5);
    }

    #[test]
    fn one_column_is_always_shown() {
        let layout = Layout::fit(&[100, 100], &[true, true], 20);
        assert_eq!(shown(&layout), [Some((0, 100)), None]);
    }

    #[test]
    fn text_is_cut_by_width() {
        assert_eq!(shorten("honeybee", 8), "honeybee");
        assert_eq!(shorten("honeybees", 8), "honeybe…");
        assert_eq!(shorten("蜂蜂蜂", 4), "蜂…");
    }
}
