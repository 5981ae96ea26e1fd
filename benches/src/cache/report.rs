//! What was found, beside what was asked for.

use std::io::{self, Write};

use anyhow::Result;
use serde_json::{Value, json};
use skep_bench::figures::round;

use crate::processes::Rows;

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// Told for its own sake.
    None,
}

/// The lines that were found so far, each printed as it comes.
pub(super) struct Report {
    lines: Vec<Value>,
}

impl Report {
    pub(super) fn begin() -> Result<Self> {
        writeln!(io::stdout(), "{:<58} {:>10}  {:<10} ", "what", "figure", "asked for")?;
        Ok(Self { lines: Vec::new() })
    }

    /// Adds a line; `details` are the figures behind the one that counts.
    pub(super) fn add(
        &mut self,
        what: &str,
        figure: f64,
        bound: Bound,
        details: Value,
    ) -> Result<()> {
        let (asked_for, holds) = match bound {
            Bound::AtLeast(least) => (format!(">= {least}"), Some(figure >= least)),
            Bound::AtMost(most) => (format!("<= {most}"), Some(figure <= most)),
            Bound::None => (String::new(), None),
        };
        let verdict = match holds {
            Some(true) => "holds",
            Some(false) => "MISSED",
            None => "",
        };
        let shown = if details.is_null() { String::new() } else { details.to_string() };
        writeln!(
            io::stdout(),
            "{what:<58} {:>10}  {asked_for:<10} {verdict:<6} {shown}",
            round(figure)
        )?;
        self.lines.push(json!({
            "what": what,
            "figure": round(figure),
            "asked_for": asked_for,
            "holds": holds,
            "details": details,
        }));
        Ok(())
    }

    pub(super) fn into_lines(self) -> Vec<Value> {
        self.lines
    }
}

/// Whether two numbers are the same but for a part of them; those below `least` count as that.
pub(super) fn is_near(left: f64, right: f64, tolerance: f64, least: f64) -> bool {
    (left - right).abs() <= tolerance * left.abs().max(least)
}

/// Whether two answers of numbers are the same, but for the order in which these were added.
pub(super) fn are_near(left: &Rows, right: &Rows, tolerance: f64) -> Result<bool> {
    let widths = |rows: &Rows| rows.iter().map(Vec::len).collect::<Vec<_>>();
    let mut pairs = left.iter().flatten().zip(right.iter().flatten());
    let are_near = pairs.try_fold(true, |are_near, (left, right)| {
        let (left, right): (f64, f64) = (left.parse()?, right.parse()?);
        anyhow::Ok(are_near && is_near(left, right, tolerance, 1.0))
    })?;
    Ok(are_near && widths(left) == widths(right))
}
