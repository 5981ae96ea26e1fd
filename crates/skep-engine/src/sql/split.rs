//! Cuts a script into its statements, on `;`, without parsing them.
//!
//! The parser cannot do this job: one statement that it does not understand would hide where the
//! next one starts, and text that arrives line by line must be runnable as soon as a statement is
//! complete. So this reads character by character, knows just enough of the lexical rules (quotes,
//! comments, dollar quotes; the same as sqlparser's generic dialect) to tell a `;` that ends a
//! statement from one that does not, and remembers where each statement started.
//!
//! **Invariant:** the state after a text does not depend on how the text was cut into pushes, and
//! each character is looked at once.

use std::collections::VecDeque;

use crate::error::Position;

/// Splits a script, fed in pieces, into statements.
///
/// Quotes (`''`, `""`, ` `` `, `E'\''`, `Q'[...]'`), `--` comments, nested `/* */` comments and
/// `$tag$` dollar quotes hide the `;` inside them.
///
/// ```
/// use skep_engine::ScriptSplitter;
///
/// let mut splitter = ScriptSplitter::new();
/// splitter.push("SELECT ';'; -- one; two\nSELECT 2");
/// assert_eq!(splitter.next_statement().map(|s| s.text).as_deref(), Some("SELECT ';'"));
/// assert_eq!(splitter.next_statement(), None);
/// assert_eq!(splitter.finish().map(|s| s.text).as_deref(), Some("SELECT 2"));
/// ```
#[derive(Debug, Clone)]
pub struct ScriptSplitter {
    complete: VecDeque<ScriptStatement>,
    /// The text of the statement being read; before its first significant character, the comment
    /// being read, so that an unclosed one can be reported.
    pending: String,
    /// Where `pending` starts.
    start: Position,
    /// Whether `pending` holds something that is neither blank nor comment.
    started: bool,
    /// How much of `pending` is left when blanks and comments at its end are cut off.
    significant_bytes: usize,
    /// Where the next character is.
    position: Position,
    state: State,
}

/// One statement of a script, and where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptStatement {
    /// The statement without its `;`, and without the blanks and comments around it.
    pub text: String,
    /// Where in the whole input the first character of `text` is.
    pub start: Position,
}

impl ScriptStatement {
    /// Returns where in the whole input a place of the statement's text is.
    pub fn locate(&self, in_statement: Position) -> Position {
        let line = self.start.line + in_statement.line.saturating_sub(1);
        let column = if in_statement.line <= 1 {
            self.start.column + in_statement.column.saturating_sub(1)
        } else {
            in_statement.column
        };
        Position { line, column }
    }
}

/// What the characters so far mean for the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Between or in words; what the last character makes of a quote or dollar after it.
    Code(Word),
    /// After a `-` that may start a comment.
    Dash,
    /// After a `/` that may start a comment.
    Slash,
    /// In `-- ...` up to the end of the line.
    LineComment,
    /// In `/* ... */`, so many levels deep.
    BlockComment { depth: usize, previous: Option<char> },
    /// In quotes that end at the same character. A doubled one closes and opens again, which comes
    /// to the same.
    Quoted(char),
    /// In `E'...'`, where a backslash protects the next character.
    Escaped { protect: bool },
    /// After `Q'`, before the character that says how the literal ends.
    DelimiterOpening,
    /// In `Q'[...]'`: ends at `close` followed by a quote.
    Delimited { close: char, closing: bool },
    /// In the opening `$tag$` of a dollar quote, or in a placeholder such as `$1`.
    DollarTag(String),
    /// In a dollar quote; so many characters of its closing `$tag$` were just seen.
    DollarQuoted { closing: Vec<char>, matched: usize },
}

/// The word that the last character of code belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    None,
    /// A number, which ends where a letter starts something else.
    Number,
    /// A number and an `E`, which is its exponent only if digits follow.
    Exponent,
    /// Exactly `E`: a quote after it starts a literal with backslash escapes.
    Escape,
    /// Exactly `N`: may become `NQ`.
    National,
    /// Exactly `Q` or `NQ`: a quote after it starts a literal with its own delimiter.
    Delimiter,
    Other,
}

impl Word {
    fn then(self, c: char) -> Self {
        let in_word = c.is_alphanumeric() || matches!(c, '_' | '@' | '#' | '$');
        match (self, c) {
            (Self::None | Self::Number | Self::Exponent, '0'..='9') | (Self::Number, '.') => {
                Self::Number
            }
            (Self::Number, 'e' | 'E') => Self::Exponent,
            (Self::None, 'e' | 'E') => Self::Escape,
            (Self::None | Self::Number, 'n' | 'N') => Self::National,
            (Self::None | Self::Number | Self::National, 'q' | 'Q') => Self::Delimiter,
            _ if in_word => Self::Other,
            _ => Self::None,
        }
    }
}

impl Default for ScriptSplitter {
    fn default() -> Self {
        let start = Position { line: 1, column: 1 };
        Self {
            complete: VecDeque::new(),
            pending: String::new(),
            start,
            started: false,
            significant_bytes: 0,
            position: start,
            state: State::Code(Word::None),
        }
    }
}

impl ScriptSplitter {
    /// Makes a splitter that has read nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads more of the script: a file, a line, any piece of either.
    pub fn push(&mut self, text: &str) {
        for c in text.chars() {
            self.read(c);
            if c == '\n' {
                self.position = Position { line: self.position.line + 1, column: 1 };
            } else {
                self.position.column += 1;
            }
        }
    }

    /// Returns the next complete statement, one that a `;` ended; empty ones are skipped.
    pub fn next_statement(&mut self) -> Option<ScriptStatement> {
        self.complete.pop_front()
    }

    /// Returns what the last `;` left, unless it is only blanks and comments.
    ///
    /// Complete statements that were not taken are lost. A comment that is not closed counts as a
    /// statement: whoever parses it can say what is wrong.
    pub fn finish(mut self) -> Option<ScriptStatement> {
        if matches!(self.state, State::Dash | State::Slash) {
            self.significant();
        }
        if matches!(self.state, State::BlockComment { .. }) {
            self.significant_bytes = self.pending.len();
            self.started = true;
        }
        self.take()
    }

    /// Returns whether what is left is blank or only closed comments.
    pub fn is_idle(&self) -> bool {
        !self.started && matches!(self.state, State::Code(_) | State::LineComment)
    }

    fn read(&mut self, c: char) {
        let state = std::mem::replace(&mut self.state, State::Code(Word::None));
        self.state = match state {
            State::Code(word) => self.read_code(word, c),
            State::Dash if c == '-' => {
                self.pending.push(c);
                State::LineComment
            }
            State::Slash if c == '*' => {
                self.pending.push(c);
                State::BlockComment { depth: 1, previous: None }
            }
            // The operator `//`, whose end starts no comment.
            State::Slash if c == '/' => {
                self.significant();
                self.keep(c);
                State::Code(Word::None)
            }
            State::Dash | State::Slash => {
                self.significant();
                self.read_code(Word::None, c)
            }
            State::LineComment => {
                self.pending.push(c);
                if c == '\n' { State::Code(Word::None) } else { State::LineComment }
            }
            State::BlockComment { depth, previous } => self.read_block_comment(depth, previous, c),
            State::Quoted(quote) => {
                self.keep(c);
                if c == quote { State::Code(Word::None) } else { State::Quoted(quote) }
            }
            State::Escaped { protect } => {
                self.keep(c);
                match c {
                    _ if protect => State::Escaped { protect: false },
                    '\'' => State::Code(Word::None),
                    _ => State::Escaped { protect: c == '\\' },
                }
            }
            State::DelimiterOpening => {
                self.keep(c);
                State::Delimited { close: closing_delimiter(c), closing: false }
            }
            State::Delimited { closing: true, .. } if c == '\'' => {
                self.keep(c);
                State::Code(Word::None)
            }
            State::Delimited { close, .. } => {
                self.keep(c);
                State::Delimited { close, closing: c == close }
            }
            State::DollarTag(tag) => self.read_dollar_tag(tag, c),
            State::DollarQuoted { closing, matched } => {
                self.keep(c);
                read_dollar_quoted(closing, matched, c)
            }
        };
    }

    fn read_code(&mut self, word: Word, c: char) -> State {
        match c {
            ';' => {
                let statement = self.take();
                self.complete.extend(statement);
                State::Code(Word::None)
            }
            '-' | '/' => {
                self.undecided(c);
                if c == '-' { State::Dash } else { State::Slash }
            }
            c if c.is_whitespace() => {
                if self.started {
                    self.pending.push(c);
                }
                State::Code(Word::None)
            }
            c => {
                self.keep(c);
                match (c, word) {
                    ('\'', Word::Escape | Word::Exponent) => State::Escaped { protect: false },
                    ('\'', Word::Delimiter) => State::DelimiterOpening,
                    ('\'' | '"' | '`', _) => State::Quoted(c),
                    ('$', Word::None | Word::Number) => State::DollarTag(String::new()),
                    _ => State::Code(word.then(c)),
                }
            }
        }
    }

    fn read_block_comment(&mut self, depth: usize, previous: Option<char>, c: char) -> State {
        self.pending.push(c);
        match (previous, c) {
            (Some('/'), '*') => State::BlockComment { depth: depth + 1, previous: None },
            (Some('*'), '/') if depth == 1 => {
                if !self.started {
                    self.pending.clear();
                }
                State::Code(Word::None)
            }
            (Some('*'), '/') => State::BlockComment { depth: depth - 1, previous: None },
            _ => State::BlockComment { depth, previous: Some(c) },
        }
    }

    fn read_dollar_tag(&mut self, mut tag: String, c: char) -> State {
        if c == '$' {
            self.keep(c);
            let closing = format!("${tag}$").chars().collect();
            State::DollarQuoted { closing, matched: 0 }
        } else if c.is_alphanumeric() || c == '_' {
            self.keep(c);
            tag.push(c);
            State::DollarTag(tag)
        } else {
            self.read_code(Word::Other, c)
        }
    }

    /// Takes a character that belongs to the statement.
    fn keep(&mut self, c: char) {
        self.undecided(c);
        self.significant();
    }

    /// Takes a character of which the next one tells whether it belongs to the statement.
    fn undecided(&mut self, c: char) {
        if !self.started {
            self.pending.clear();
            self.start = self.position;
        }
        self.pending.push(c);
    }

    /// Says that everything taken so far belongs to the statement.
    fn significant(&mut self) {
        self.started = true;
        self.significant_bytes = self.pending.len();
    }

    fn take(&mut self) -> Option<ScriptStatement> {
        let mut text = std::mem::take(&mut self.pending);
        text.truncate(self.significant_bytes);
        self.significant_bytes = 0;
        std::mem::take(&mut self.started).then_some(ScriptStatement { text, start: self.start })
    }
}

/// Returns what ends a `Q'` literal that starts with `opening`.
fn closing_delimiter(opening: char) -> char {
    match opening {
        '[' => ']',
        '{' => '}',
        '<' => '>',
        '(' => ')',
        other => other,
    }
}

/// Goes on matching the closing delimiter. It has `$` only at its ends, so that after a mismatch
/// at most that one character can be the start of the real one.
fn read_dollar_quoted(closing: Vec<char>, matched: usize, c: char) -> State {
    let matched = match () {
        () if closing[matched] == c => matched + 1,
        () if c == '$' => 1,
        () => 0,
    };
    if matched == closing.len() {
        State::Code(Word::None)
    } else {
        State::DollarQuoted { closing, matched }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
    use proptest::prelude::*;

    use super::*;

    fn split(script: &str) -> Vec<ScriptStatement> {
        let mut splitter = ScriptSplitter::new();
        splitter.push(script);
        drain(splitter)
    }

    fn drain(mut splitter: ScriptSplitter) -> Vec<ScriptStatement> {
        let mut statements: Vec<_> = std::iter::from_fn(|| splitter.next_statement()).collect();
        statements.extend(splitter.finish());
        statements
    }

    fn texts(script: &str) -> Vec<String> {
        split(script).into_iter().map(|statement| statement.text).collect()
    }

    #[test]
    fn semicolons_end_statements_and_empty_ones_vanish() {
        assert_eq!(
            texts("SELECT 1; SELECT 2 ;;\n ; SELECT 3"),
            ["SELECT 1", "SELECT 2", "SELECT 3"]
        );
        assert_eq!(texts(" \n -- nothing\n /* at all */ ; "), Vec::<String>::new());
    }

    #[test]
    fn quotes_hide_semicolons() {
        for statement in [
            "SELECT ';'",
            "SELECT 'it''s; fine'",
            "SELECT 1 AS \";\"",
            "SELECT 1 AS \"a\"\"; b\"",
            "SELECT 1 AS `a;b`",
            "SELECT E'it\\'s; fine'",
            "SELECT e'\\\\', ';'",
            "SELECT 'back\\' || ';'",
            "SELECT Q'[don't; stop]'",
            "SELECT nq'!don't; stop!'",
            "SELECT 1e'\\';', 2Q'[']' , 1e5';'",
            "SELECT $$a;b$$",
            "SELECT $tag$a; $$ $ta$ $tag;$tag$",
            "SELECT $a$$a$",
        ] {
            assert_eq!(texts(&format!("{statement}; SELECT 2")), [statement, "SELECT 2"]);
        }
    }

    #[test]
    fn comments_hide_semicolons_and_quotes() {
        assert_eq!(texts("SELECT 1 -- it's; \n + 2;"), ["SELECT 1 -- it's; \n + 2"]);
        assert_eq!(
            texts("SELECT /* ; /* ' */ ; */ 1; SELECT 2"),
            ["SELECT /* ; /* ' */ ; */ 1", "SELECT 2"]
        );
        assert_eq!(texts("-- first\nSELECT 1 -- last\n; -- after"), ["SELECT 1"]);
    }

    #[test]
    fn operators_are_no_comments_and_placeholders_no_quotes() {
        assert_eq!(texts("SELECT 1 - -1; SELECT 2"), ["SELECT 1 - -1", "SELECT 2"]);
        assert_eq!(texts("SELECT 7 //* 2; SELECT 2"), ["SELECT 7 //* 2", "SELECT 2"]);
        assert_eq!(texts("SELECT 4 /2; SELECT 2 -"), ["SELECT 4 /2", "SELECT 2 -"]);
        assert_eq!(texts("SELECT $1; SELECT $2"), ["SELECT $1", "SELECT $2"]);
        assert_eq!(texts("SELECT a$b; SELECT c$d"), ["SELECT a$b", "SELECT c$d"]);
    }

    #[test]
    fn what_is_not_closed_is_left_for_the_parser_to_refuse() {
        assert_eq!(texts("SELECT 'a; SELECT 2"), ["SELECT 'a; SELECT 2"]);
        assert_eq!(texts("SELECT 1; /* SELECT 2;"), ["SELECT 1", "/* SELECT 2;"]);
        assert_eq!(texts("SELECT 1 /* oh;"), ["SELECT 1 /* oh;"]);
    }

    #[test]
    fn places_are_counted_in_the_whole_script() {
        let statements = split("-- é\nSELECT 1; /* é */ SELECT\n  x;");
        assert_eq!(statements[0].start, Position { line: 2, column: 1 });
        assert_eq!(statements[1].start, Position { line: 2, column: 19 });
        let locate = |line, column| statements[1].locate(Position { line, column });
        assert_eq!(locate(1, 3), Position { line: 2, column: 21 });
        assert_eq!(locate(2, 3), Position { line: 3, column: 3 });
    }

    #[test]
    fn idle_means_that_nothing_was_begun() {
        for (text, idle) in [
            ("", true),
            ("  \n", true),
            ("SELECT 1;", true),
            ("SELECT 1; -- done", true),
            ("/* closed */", true),
            ("/* open", false),
            ("SELECT", false),
            ("-", false),
            ("SELECT 1; S", false),
        ] {
            let mut splitter = ScriptSplitter::new();
            splitter.push(text);
            assert_eq!(splitter.is_idle(), idle, "{text:?}");
        }
    }

    /// Text in which the characters that mean something are frequent.
    fn script() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("'"),
            Just("\""),
            Just("`"),
            Just(";"),
            Just("-"),
            Just("--"),
            Just("/"),
            Just("*"),
            Just("/*"),
            Just("*/"),
            Just("$"),
            Just("$a$"),
            Just("E'"),
            Just("Q'["),
            Just("]'"),
            Just("\\"),
            Just("\n"),
            Just(" "),
            Just("a"),
            Just("e"),
            Just("q"),
            Just("1"),
            Just("é"),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    /// The words and signs of a text that the parser's lexer accepts.
    fn tokens(text: &str) -> Option<Vec<Token>> {
        let mut tokens = Tokenizer::new(&GenericDialect {}, text).tokenize().ok()?;
        tokens.retain(|token| !matches!(token, Token::Whitespace(_)));
        Some(tokens)
    }

    fn byte_offset(script: &str, position: Position) -> usize {
        let before = position.line as usize - 1;
        let line_start: usize = script.split_inclusive('\n').take(before).map(str::len).sum();
        let in_line = position.column as usize - 1;
        line_start + script[line_start..].chars().take(in_line).map(char::len_utf8).sum::<usize>()
    }

    proptest! {
        #[test]
        fn any_text_is_split_without_panic(text in any::<String>()) {
            split(&text);
        }

        #[test]
        fn cutting_the_input_elsewhere_changes_nothing(
            script in script(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let chars: Vec<char> = script.chars().collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(chars.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(chars.len());
            let mut splitter = ScriptSplitter::new();
            let mut from = 0;
            for cut in cuts {
                splitter.push(&chars[from..cut].iter().collect::<String>());
                from = cut;
            }
            prop_assert_eq!(drain(splitter), split(&script));
        }

        /// The statements, put back where they say they were, and what is between them, which
        /// holds no statement, are the script.
        #[test]
        fn statements_and_the_gaps_between_them_are_the_script(script in script()) {
            let mut end = 0;
            for statement in split(&script) {
                let start = byte_offset(&script, statement.start);
                prop_assert_eq!(split(&script[end..start]), vec![]);
                end = start + statement.text.len();
                prop_assert_eq!(&script[start..end], statement.text);
            }
            prop_assert_eq!(split(&script[end..]), vec![]);
        }

        /// Where the parser's own lexer understands the script, it sees the same statements.
        #[test]
        fn the_lexer_agrees(script in script()) {
            if let Some(all) = tokens(&script) {
                let by_lexer: Vec<Vec<Token>> = all
                    .split(|token| *token == Token::SemiColon)
                    .filter(|tokens| !tokens.is_empty())
                    .map(<[Token]>::to_vec)
                    .collect();
                let by_us: Vec<Vec<Token>> = split(&script)
                    .iter()
                    .filter_map(|statement| tokens(&statement.text))
                    .collect();
                prop_assert_eq!(by_us, by_lexer);
            }
        }

        /// A statement that was cut out is one statement.
        #[test]
        fn a_statement_does_not_split_again(script in script()) {
            for statement in split(&script) {
                let again = split(&statement.text);
                prop_assert_eq!(again.len(), 1);
                prop_assert_eq!(&again[0].text, &statement.text);
            }
        }
    }
}
