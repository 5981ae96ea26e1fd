//! `?` as a parameter: numbered from left to right, as `$1`, `$2`, ... are by hand.
//!
//! DataFusion's planner knows numbered parameters alone. The text is changed before it is parsed, and
//! places in errors are moved back to where they are in the text that the user wrote.

use std::borrow::Cow;

use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::dialect::SkepDialect;
use crate::error::{Error, Position};

/// A statement whose parameters all have numbers.
#[derive(Debug)]
pub(crate) struct Numbered<'a> {
    /// Its text.
    pub(crate) text: Cow<'a, str>,
    /// Where a `?` stood, by line and column, and how many characters were added there.
    added: Vec<(Position, u64)>,
}

impl<'a> Numbered<'a> {
    /// Numbers the parameters of a statement. A text that is no SQL is left to the parser.
    pub(crate) fn of(text: &'a str) -> Self {
        let unchanged = Self { text: Cow::Borrowed(text), added: Vec::new() };
        if !text.contains('?') {
            return unchanged;
        }
        let Ok(tokens) = Tokenizer::new(&SkepDialect, text).tokenize_with_location() else {
            return unchanged;
        };
        let places = tokens
            .into_iter()
            .filter(|token| is_question_mark(&token.token))
            .map(|token| Position { line: token.span.start.line, column: token.span.start.column });
        let mut places = places.peekable();
        let mut numbered = String::with_capacity(text.len() + 16);
        let mut added = Vec::new();
        let mut here = Position { line: 1, column: 1 };
        for character in text.chars() {
            if places.next_if_eq(&here).is_some() {
                let name = format!("${}", added.len() + 1);
                added.push((here, name.len() as u64 - 1));
                numbered.push_str(&name);
            } else {
                numbered.push(character);
            }
            here = match character {
                '\n' => Position { line: here.line + 1, column: 1 },
                _ => Position { line: here.line, column: here.column + 1 },
            };
        }
        Self { text: Cow::Owned(numbered), added }
    }

    /// Moves an error's place back to the text that the user wrote.
    pub(crate) fn restore(&self, error: Error) -> Error {
        let Some(place) = error.position() else { return error };
        let (mut shift, mut moved) = (0, 0);
        for (at, count) in self.added.iter().filter(|(at, _)| at.line == place.line) {
            let start = at.column + shift;
            if place.column > start {
                moved += (*count).min(place.column - start);
            }
            shift += count;
        }
        let column = place.column - moved;
        error.moved_to(Position { line: place.line, column })
    }
}

fn is_question_mark(token: &Token) -> bool {
    match token {
        Token::Question => true,
        Token::Placeholder(name) => name == "?",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_at(line: u64, column: u64) -> Error {
        Error::Syntax {
            message: "no".to_owned(),
            position: Some(Position { line, column }),
            hint: None,
        }
    }

    #[test]
    fn question_marks_are_numbered_from_left_to_right() {
        for (text, numbered) in [
            ("SELECT 1", "SELECT 1"),
            ("SELECT ?, ?\nWHERE a = ?", "SELECT $1, $2\nWHERE a = $3"),
            ("SELECT '?', \"?\", ? -- ?", "SELECT '?', \"?\", $1 -- ?"),
            ("VALUES (?,?)", "VALUES ($1,$2)"),
            ("SELECT 'ü?', ?", "SELECT 'ü?', $1"),
            ("SELECT $1", "SELECT $1"),
        ] {
            assert_eq!(Numbered::of(text).text, numbered);
        }
    }

    #[test]
    fn places_are_those_of_the_text_as_written() {
        let text = "SELECT ?, ?, nope\nFROM nowhere";
        let numbered = Numbered::of(text);
        let column = numbered.text.find("nope").unwrap() as u64 + 1;
        let position = numbered.restore(error_at(1, column)).position().unwrap();
        assert_eq!(position.column, text.find("nope").unwrap() as u64 + 1);
        assert_eq!(numbered.restore(error_at(2, 6)).position().unwrap().column, 6);
        // A parameter's own place.
        assert_eq!(numbered.restore(error_at(1, 8)).position().unwrap().column, 8);
        assert_eq!(numbered.restore(error_at(1, 12)).position().unwrap().column, 11);
    }
}
