//! The line editor: when Enter ends the input, and what is kept of it.

use nu_ansi_term::Style;
use reedline::{Highlighter, Reedline, StyledText, ValidationResult, Validator};
use skep_engine::ScriptSplitter;

use super::history;
use crate::dot_command::DotCommand;
use crate::report::report_message;
use crate::shell::write_message;
use crate::style::Palette;

/// Opens the editor, with the history of earlier sessions if there is one.
pub(super) fn open(palette: Palette) -> Reedline {
    let editor = Reedline::create()
        .with_validator(Box::new(Completeness))
        .with_highlighter(Box::new(Plain))
        .with_ansi_colors(palette.has_colors())
        .with_history_exclusion_prefix(Some(" ".to_owned()))
        .use_bracketed_paste(true);
    match history::open() {
        Ok(history) => editor.with_history(Box::new(history)),
        Err(message) => {
            let hint = "statements of this session will not be remembered";
            write_message(&report_message(&message, Some(hint), palette));
            editor
        }
    }
}

/// Enter ends the input when every statement in it is complete.
struct Completeness;

impl Validator for Completeness {
    fn validate(&self, input: &str) -> ValidationResult {
        if is_complete(input) { ValidationResult::Complete } else { ValidationResult::Incomplete }
    }
}

/// Shows the input in the terminal's own colour: the editor would make it white, on any background.
struct Plain;

impl Highlighter for Plain {
    fn highlight(&self, line: &str, _cursor: usize) -> StyledText {
        let mut text = StyledText::new();
        text.push((Style::new(), line.to_owned()));
        text
    }
}

fn is_complete(input: &str) -> bool {
    let mut splitter = ScriptSplitter::new();
    for line in input.split_inclusive('\n') {
        // A command is a line of its own; it is complete, and so is what came before it.
        if !(splitter.is_idle() && DotCommand::parse(line).is_some()) {
            splitter.push(line);
        }
    }
    splitter.is_idle()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enter_ends_what_is_complete() {
        for input in ["", "  ", "SELECT 1;", "SELECT\n1;", ".tables", "\\d t", "quit", "exit"] {
            assert!(is_complete(input), "{input}");
        }
        for input in ["SELECT 1; -- done", "SELECT 1; /* done */", "SELECT 1;\n.tables"] {
            assert!(is_complete(input), "{input}");
        }
    }

    #[test]
    fn enter_goes_on_with_what_is_not() {
        for input in ["SELECT", "SELECT ';", "SELECT 1; SELECT", "/* open", "SELECT\n.5", "q"] {
            assert!(!is_complete(input), "{input}");
        }
    }
}
