//! `similar_to(text, pattern [, escape])`: SQL's regular expressions.
//!
//! The pattern must match the whole text. `%` is any text, `_` any character; `|`, `*`, `+`, `?`,
//! `{m}`, `{m,}`, `{m,n}`, `()` and `[]` are as usual, everything else is itself. The escape
//! character is a backslash if none is given; an empty one switches escaping off. Null if any
//! argument is. Source: SQL:2016 part 2, 8.6, and PostgreSQL's manual, 9.7.2.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, StringArrayType};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, exec_err, internal_err, plan_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use parking_lot::Mutex;
use regex::{Regex, RegexBuilder};

use crate::error::Error;

/// How many patterns are kept compiled.
const CACHED_PATTERNS: usize = 16;

/// How many bytes a compiled pattern may take.
const COMPILED_BYTES: usize = 1 << 20;

/// The function.
#[derive(Debug)]
pub(super) struct SimilarTo {
    signature: Signature,
    compiled: Mutex<PatternCache>,
}

impl Default for SimilarTo {
    fn default() -> Self {
        Self {
            signature: Signature::user_defined(Volatility::Immutable),
            compiled: Mutex::default(),
        }
    }
}

// What is compiled already does not make it another function.
impl PartialEq for SimilarTo {
    fn eq(&self, other: &Self) -> bool {
        self.signature == other.signature
    }
}

impl Eq for SimilarTo {}

impl Hash for SimilarTo {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.signature.hash(state);
    }
}

impl ScalarUDFImpl for SimilarTo {
    fn name(&self) -> &'static str {
        "similar_to"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        if !(2..=3).contains(&arg_types.len()) {
            return plan_err!("similar_to takes a text, a pattern and maybe an escape character");
        }
        arg_types.iter().map(text_type).collect()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant: Vec<_> = args.args[1..].iter().map(constant).collect::<Result<_>>()?;
        if constant.contains(&Some(None)) {
            return Ok(ColumnarValue::Scalar(ScalarValue::Boolean(None)));
        }
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let constant: Option<Vec<String>> =
            constant.into_iter().map(|argument| argument.flatten()).collect();
        let matched = match constant {
            Some(constant) => {
                let regex = self.regex(&constant[0], constant.get(1).map(String::as_str))?;
                let rows = if is_scalar { 1 } else { args.number_rows };
                one_pattern(&args.args[0].to_array(rows)?, &regex)?
            }
            None => {
                let arrays = ColumnarValue::values_to_arrays(&args.args)?;
                self.pattern_per_row(&arrays)?
            }
        };
        if is_scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&matched, 0)?));
        }
        Ok(ColumnarValue::Array(Arc::new(matched)))
    }
}

impl SimilarTo {
    fn regex(&self, pattern: &str, escape: Option<&str>) -> Result<Regex> {
        if let Some(regex) = self.compiled.lock().find(pattern, escape) {
            return Ok(regex);
        }
        let regex = compile(pattern, escape)?;
        self.compiled.lock().keep(pattern, escape, &regex);
        Ok(regex)
    }

    fn pattern_per_row(&self, arrays: &[ArrayRef]) -> Result<BooleanArray> {
        let texts = strings(&arrays[0])?;
        let patterns = strings(&arrays[1])?;
        let escapes = arrays.get(2).map(strings).transpose()?;
        // Equal patterns often come in runs; the last one spares the lock.
        let mut last: Option<(&str, Option<&str>, Regex)> = None;
        let mut matched = Vec::with_capacity(texts.len());
        for (row, (text, pattern)) in texts.iter().zip(&patterns).enumerate() {
            let escape = escapes.as_ref().map(|escapes| escapes[row]);
            let (Some(text), Some(pattern)) = (text, pattern) else {
                matched.push(None);
                continue;
            };
            if escape == Some(None) {
                matched.push(None);
                continue;
            }
            let escape = escape.flatten();
            let is_last = matches!(&last, Some((p, e, _)) if p == pattern && *e == escape);
            if !is_last {
                last = Some((pattern, escape, self.regex(pattern, escape)?));
            }
            matched.push(last.as_ref().map(|(_, _, regex)| regex.is_match(text)));
        }
        Ok(BooleanArray::from(matched))
    }
}

fn text_type(data_type: &DataType) -> Result<DataType> {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Ok(data_type.clone()),
        DataType::Null => Ok(DataType::Utf8),
        DataType::Dictionary(_, values) => text_type(values),
        other => plan_err!("SIMILAR TO takes text, not {other}"),
    }
}

/// Returns the value of a constant argument (which may be null), or nothing for a column.
fn constant(argument: &ColumnarValue) -> Result<Option<Option<String>>> {
    match argument {
        ColumnarValue::Array(_) => Ok(None),
        ColumnarValue::Scalar(value) if value.is_null() => Ok(Some(None)),
        ColumnarValue::Scalar(value) => match value.try_as_str() {
            Some(text) => Ok(Some(text.map(str::to_owned))),
            None => internal_err!("similar_to got a {} as text", value.data_type()),
        },
    }
}

fn one_pattern(texts: &ArrayRef, regex: &Regex) -> Result<BooleanArray> {
    fn matches<'a>(texts: impl StringArrayType<'a>, regex: &Regex) -> BooleanArray {
        texts.iter().map(|text| text.map(|text| regex.is_match(text))).collect()
    }
    match texts.data_type() {
        DataType::Utf8 => Ok(matches(texts.as_string::<i32>(), regex)),
        DataType::LargeUtf8 => Ok(matches(texts.as_string::<i64>(), regex)),
        DataType::Utf8View => Ok(matches(texts.as_string_view(), regex)),
        DataType::Null => Ok(BooleanArray::new_null(texts.len())),
        other => internal_err!("similar_to got a {other} as text"),
    }
}

fn strings(array: &ArrayRef) -> Result<Vec<Option<&str>>> {
    match array.data_type() {
        DataType::Utf8 => Ok(array.as_string::<i32>().iter().collect()),
        DataType::LargeUtf8 => Ok(array.as_string::<i64>().iter().collect()),
        DataType::Utf8View => Ok(array.as_string_view().iter().collect()),
        DataType::Null => Ok(vec![None; array.len()]),
        other => internal_err!("similar_to got a {other} as text"),
    }
}

/// The patterns used last, most recent first.
#[derive(Default)]
struct PatternCache {
    patterns: VecDeque<(String, Option<String>, Regex)>,
}

impl fmt::Debug for PatternCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PatternCache({})", self.patterns.len())
    }
}

impl PatternCache {
    fn find(&self, pattern: &str, escape: Option<&str>) -> Option<Regex> {
        let mut patterns = self.patterns.iter();
        let found = patterns.find(|(p, e, _)| p == pattern && e.as_deref() == escape);
        found.map(|(_, _, regex)| regex.clone())
    }

    fn keep(&mut self, pattern: &str, escape: Option<&str>, regex: &Regex) {
        self.patterns.truncate(CACHED_PATTERNS - 1);
        let entry = (pattern.to_owned(), escape.map(str::to_owned), regex.clone());
        self.patterns.push_front(entry);
    }
}

fn compile(pattern: &str, escape: Option<&str>) -> Result<Regex> {
    let escape = match escape {
        None => Some('\\'),
        Some(text) => {
            let mut characters = text.chars();
            match (characters.next(), characters.next()) {
                (escape, None) => escape,
                (_, Some(_)) => {
                    return exec_err!(
                        "the escape of SIMILAR TO must be one character, not '{text}'"
                    );
                }
            }
        }
    };
    let invalid = |message: String| -> DataFusionError {
        Error::Data {
            message: format!("invalid pattern '{pattern}' of SIMILAR TO: {message}"),
            hint: None,
        }
        .into()
    };
    let translated = Translation::of(pattern, escape).map_err(invalid)?;
    RegexBuilder::new(&translated).size_limit(COMPILED_BYTES).build().map_err(|error| {
        invalid(match error {
            regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
            // The last line says what is wrong; those before show a text that nobody wrote.
            other => other.to_string().lines().last().unwrap_or_default().trim().to_owned(),
        })
    })
}

/// The translation of a pattern into the syntax of the `regex` crate.
struct Translation<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    escape: Option<char>,
    regex: String,
    open_groups: usize,
    /// Whether what was just written can be repeated.
    is_repeatable: bool,
}

impl<'a> Translation<'a> {
    fn of(pattern: &'a str, escape: Option<char>) -> Result<String, String> {
        let mut translation = Self {
            rest: pattern.chars().peekable(),
            escape,
            regex: r"\A(?s:".to_owned(),
            open_groups: 0,
            is_repeatable: false,
        };
        while let Some(character) = translation.rest.next() {
            translation.character(character)?;
        }
        if translation.open_groups > 0 {
            return Err("a ( is not closed".to_owned());
        }
        translation.regex.push_str(r")\z");
        Ok(translation.regex)
    }

    fn character(&mut self, character: char) -> Result<(), String> {
        if Some(character) == self.escape {
            let Some(literal) = self.rest.next() else {
                return Err("nothing follows the escape character".to_owned());
            };
            self.literal(literal);
            return Ok(());
        }
        match character {
            '%' => self.repeatable("(?:.*)"),
            '_' => self.repeatable("."),
            '|' => {
                self.regex.push('|');
                self.is_repeatable = false;
            }
            '(' => {
                self.regex.push_str("(?:");
                self.open_groups += 1;
                self.is_repeatable = false;
            }
            ')' => {
                self.open_groups = self
                    .open_groups
                    .checked_sub(1)
                    .ok_or_else(|| "a ) closes nothing".to_owned())?;
                self.repeatable(")");
            }
            '*' | '+' | '?' => {
                self.quantifier()?;
                self.regex.push(character);
            }
            '{' => {
                self.quantifier()?;
                self.bounds()?;
            }
            '[' => self.bracket()?,
            other => self.literal(other),
        }
        Ok(())
    }

    fn repeatable(&mut self, text: &str) {
        self.regex.push_str(text);
        self.is_repeatable = true;
    }

    fn literal(&mut self, character: char) {
        self.regex.push_str(&regex::escape(character.encode_utf8(&mut [0; 4])));
        self.is_repeatable = true;
    }

    fn quantifier(&mut self) -> Result<(), String> {
        if !self.is_repeatable {
            return Err("nothing stands before a quantifier".to_owned());
        }
        // A second one would make the first lazy, which SQL does not know.
        self.is_repeatable = false;
        Ok(())
    }

    fn bounds(&mut self) -> Result<(), String> {
        let mut text = String::new();
        loop {
            match self.rest.next() {
                Some('}') => break,
                Some(character) => text.push(character),
                None => return Err("a { is not closed".to_owned()),
            }
        }
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if is_number { text.parse::<u32>().ok() } else { None }
        };
        let is_valid = match text.split_once(',') {
            None => number(&text).is_some(),
            Some((low, "")) => number(low).is_some(),
            Some((low, high)) => match (number(low), number(high)) {
                (Some(low), Some(high)) => low <= high,
                _ => false,
            },
        };
        if !is_valid {
            return Err(format!("{{{text}}} is no repetition"));
        }
        self.regex.push('{');
        self.regex.push_str(&text);
        self.regex.push('}');
        Ok(())
    }

    fn bracket(&mut self) -> Result<(), String> {
        self.regex.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.regex.push('^');
        }
        let mut is_empty = true;
        loop {
            let Some(character) = self.rest.next() else {
                return Err("a [ is not closed".to_owned());
            };
            match character {
                // Right after the opening it is a member.
                ']' if !is_empty => break,
                '-' if self.is_range(is_empty) => self.regex.push('-'),
                '-' => self.regex.push_str(r"\-"),
                '[' if self.rest.peek() == Some(&':') => self.class()?,
                _ if Some(character) == self.escape => match self.rest.next() {
                    Some(literal) => self.member(literal),
                    None => return Err("nothing follows the escape character".to_owned()),
                },
                _ => self.member(character),
            }
            is_empty = false;
        }
        self.regex.push(']');
        self.is_repeatable = true;
        Ok(())
    }

    /// Returns whether a `-` stands between two members.
    fn is_range(&mut self, is_first: bool) -> bool {
        !is_first && self.rest.peek().is_some_and(|next| *next != ']')
    }

    fn member(&mut self, character: char) {
        if !character.is_alphanumeric() && character.is_ascii() && !character.is_ascii_control() {
            if character == ' ' {
                self.regex.push(' ');
                return;
            }
            self.regex.push('\\');
        }
        self.regex.push(character);
    }

    fn class(&mut self) -> Result<(), String> {
        self.rest.next();
        let mut name = String::new();
        loop {
            match self.rest.next() {
                Some(':') if self.rest.next_if_eq(&']').is_some() => break,
                Some(character) => name.push(character),
                None => return Err("a [: is not closed".to_owned()),
            }
        }
        let class = match name.to_ascii_lowercase().as_str() {
            "alpha" => r"\p{Alphabetic}",
            "upper" => r"\p{Uppercase}",
            "lower" => r"\p{Lowercase}",
            "digit" => "0-9",
            "alnum" => r"\p{Alphabetic}0-9",
            "space" | "whitespace" => r"\s",
            "punct" => "[:punct:]",
            "xdigit" => "[:xdigit:]",
            _ => return Err(format!("[:{name}:] is no class of characters")),
        };
        self.regex.push_str(class);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn similar(text: &str, pattern: &str) -> bool {
        compile(pattern, None).unwrap().is_match(text)
    }

    fn message(pattern: &str) -> String {
        compile(pattern, None).unwrap_err().to_string()
    }

    #[test]
    fn matches_the_whole_text() {
        assert!(similar("abc", "abc"));
        assert!(!similar("abc", "b"));
        assert!(!similar("abc", "a"));
        assert!(similar("abc", "%(b|d)%"));
        assert!(!similar("abc", "(b|c)%"));
        assert!(!similar("abc", "a|b"));
        assert!(similar("", ""));
        assert!(similar("a\nb", "a_b"));
        assert!(similar("a\nb", "%"));
        assert!(!similar("a\n", "a"));
    }

    #[test]
    fn other_signs_are_themselves() {
        assert!(similar("a.c", "a.c"));
        assert!(!similar("abc", "a.c"));
        assert!(similar("^a$", "^a$"));
        assert!(similar("a#b", "a#b"));
        assert!(similar("ä", "_"));
    }

    #[test]
    fn repeats() {
        assert!(similar("aaa", "a{3}"));
        assert!(!similar("aa", "a{3,}"));
        assert!(similar("aa", "a{1,2}"));
        assert!(similar("", "a*"));
        assert!(similar("abab", "(ab)+"));
        assert!(similar("ac", "ab?c"));
        assert!(similar("xyz", "_+"));
        assert!(similar("xyz", "%*"));
    }

    #[test]
    fn knows_brackets() {
        assert!(similar("b", "[a-c]"));
        assert!(!similar("d", "[a-c]"));
        assert!(similar("d", "[^a-c]"));
        assert!(similar("-", "[a-]"));
        assert!(similar("]", "[]a]"));
        assert!(similar("%", "[%_]"));
        assert!(!similar("x", "[%_]"));
        assert!(similar("7", "[[:digit:]]"));
        assert!(similar("é", "[[:alpha:]]"));
        assert!(similar("&", "[&&a]"));
        assert!(similar("\\", r"[\\]"));
        assert!(similar("~", "[~~]"));
    }

    #[test]
    fn escapes() {
        assert!(similar("a%", r"a\%"));
        assert!(!similar("ab", r"a\%"));
        assert!(compile("a#%", Some("#")).unwrap().is_match("a%"));
        assert!(compile(r"a\b", Some("")).unwrap().is_match(r"a\b"));
        assert!(compile("a", Some("##")).unwrap_err().to_string().contains("one character"));
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        for (pattern, wanted) in [
            ("(a", "a ( is not closed"),
            ("a)", "a ) closes nothing"),
            ("[a", "a [ is not closed"),
            ("*a", "nothing stands before a quantifier"),
            ("(*)", "nothing stands before a quantifier"),
            ("a+?", "nothing stands before a quantifier"),
            ("a{2,1}", "{2,1} is no repetition"),
            ("a{,2}", "{,2} is no repetition"),
            ("a{", "a { is not closed"),
            ("a\\", "nothing follows the escape character"),
            ("[[:nope:]]", "[:nope:] is no class"),
            ("(a{1000}){1000}", "it is too large"),
            ("[z-a]", "invalid character class range"),
        ] {
            let message = message(pattern);
            assert!(message.contains(wanted), "{pattern}: {message}");
        }
    }

    #[test]
    fn keeps_a_bounded_number_of_patterns() {
        let function = SimilarTo::default();
        for idx in 0..100 {
            function.regex(&format!("a{idx}"), None).unwrap();
        }
        assert_eq!(function.compiled.lock().patterns.len(), CACHED_PATTERNS);
    }
}
