//! How an error looks: what is wrong, where, the line with a mark under the place, what to do.

use std::fmt::Write as _;

use skep_engine::{Error, Position, ScriptStatement};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::style::Palette;

/// How much of a long line is shown around the place.
const EXCERPT_COLUMNS: usize = 100;

/// The statement that failed, and the script that it is in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    /// The script's name.
    pub(crate) script: &'a str,
    /// The statement.
    pub(crate) statement: &'a ScriptStatement,
}

/// Writes an engine's error out; ends with a newline.
pub(crate) fn report_error(error: &Error, origin: Option<Origin<'_>>, palette: Palette) -> String {
    let mut report = report_message(&error.to_string(), None, palette);
    if let Some(origin) = origin {
        report.push_str(&report_place(origin, error.position(), palette));
    }
    if let Some(hint) = error.hint() {
        report.push_str(&report_hint(hint, palette));
    }
    report
}

/// Writes out an error that has no statement; ends with a newline.
pub(crate) fn report_message(message: &str, hint: Option<&str>, palette: Palette) -> String {
    let mut report = format!("{}: {}\n", palette.error("error"), message.trim_end());
    if let Some(hint) = hint {
        report.push_str(&report_hint(hint, palette));
    }
    report
}

fn report_hint(hint: &str, palette: Palette) -> String {
    format!("{}: {}\n", palette.hint("hint"), hint.trim_end())
}

fn report_place(origin: Origin<'_>, position: Option<Position>, palette: Palette) -> String {
    let Origin { script, statement } = origin;
    let start = Position { line: 1, column: 1 };
    let Position { line, column } = statement.locate(position.unwrap_or(start));
    let gutter = line.to_string().len();
    let arrow = palette.frame("-->");
    let mut place = format!("{:gutter$}{arrow} {script}:{line}:{column}\n", "");
    let Some((text, mark)) = position.and_then(|position| excerpt(&statement.text, position))
    else {
        return place;
    };
    let bar = palette.frame("|");
    let (number, caret) = (palette.frame(&line.to_string()), palette.error("^"));
    // Writing to a string cannot fail.
    let _ = writeln!(place, "{:gutter$} {bar}", "");
    let _ = writeln!(place, "{number} {bar} {text}");
    let _ = writeln!(place, "{:gutter$} {bar} {:mark$}{caret}", "", "");
    place
}

/// Returns the line of the place, fit for a terminal, and the column to mark; nothing if the place
/// is not in the text.
fn excerpt(text: &str, position: Position) -> Option<(String, usize)> {
    let line = text.lines().nth(usize::try_from(position.line.checked_sub(1)?).ok()?)?;
    let place = usize::try_from(position.column.checked_sub(1)?).ok()?;
    let shown: Vec<String> = line.chars().map(visible).collect();
    let place = place.min(shown.len());
    let first = first_shown(&shown, place);
    let mut excerpt = if first > 0 { "… ".to_owned() } else { String::new() };
    let mut mark = excerpt.width();
    let mut cut = false;
    for (idx, c) in shown.iter().enumerate().skip(first) {
        if excerpt.width() + c.width() > EXCERPT_COLUMNS {
            cut = true;
            break;
        }
        if idx < place {
            mark += c.width();
        }
        excerpt.push_str(c);
    }
    if cut {
        excerpt.push_str(" …");
    }
    Some((excerpt, mark))
}

/// Returns the first character to show so that the place is in sight.
fn first_shown(shown: &[String], place: usize) -> usize {
    let mut columns = shown.iter().take(place).map(|c| c.width()).sum::<usize>();
    let mut first = 0;
    if columns >= EXCERPT_COLUMNS {
        while columns > EXCERPT_COLUMNS / 2 {
            columns -= shown[first].width();
            first += 1;
        }
    }
    first
}

fn visible(c: char) -> String {
    match c {
        '\t' => "    ".to_owned(),
        c if c.width().is_none() => "�".to_owned(),
        c => c.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syntax_error(line: u64, column: u64) -> Error {
        Error::Syntax {
            message: "expected a table, found SELECT".to_owned(),
            position: Some(Position { line, column }),
            hint: Some("write a table".to_owned()),
        }
    }

    fn report(text: &str, line: u64, column: u64) -> String {
        let start = Position { line: 9, column: 5 };
        let statement = ScriptStatement { text: text.to_owned(), start };
        let origin = Origin { script: "a.sql", statement: &statement };
        report_error(&syntax_error(line, column), Some(origin), Palette::PLAIN)
    }

    #[test]
    fn the_place_is_marked_under_its_line() {
        assert_eq!(
            report("SELECT 1\nFROM SELECT", 2, 6),
            "error: syntax error: expected a table, found SELECT\n\
             \x20 --> a.sql:10:6\n\
             \x20  |\n\
             10 | FROM SELECT\n\
             \x20  |      ^\n\
             hint: write a table\n"
        );
    }

    #[test]
    fn the_first_line_counts_from_where_the_statement_starts() {
        assert!(report("FROM SELECT", 1, 6).contains("--> a.sql:9:10\n"));
    }

    #[test]
    fn wide_characters_and_tabs_keep_the_mark_in_its_place() {
        let report = report("\t'蜂' x", 1, 6);
        assert!(report.contains("9 |     '蜂' x\n  |          ^\n"), "{report}");
    }

    #[test]
    fn a_long_line_is_shown_around_the_place() {
        let line = format!("SELECT {}x{}", "a, ".repeat(200), ", b".repeat(200));
        let report = report(&line, 1, 608);
        let lines: Vec<_> = report.lines().collect();
        assert!(lines[3].width() < 120, "{report}");
        let mark = lines[4].find('^').unwrap();
        let under: Vec<_> = lines[3].chars().collect();
        assert_eq!(under[mark], 'x', "{report}");
    }

    #[test]
    fn a_place_outside_the_text_has_no_excerpt() {
        assert!(!report("SELECT", 7, 1).contains('|'));
        assert!(!report("SELECT", 0, 0).contains('|'));
        assert!(report("SELECT", 1, 99).contains("  |       ^\n"));
    }
}
