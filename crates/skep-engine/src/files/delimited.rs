//! Walks the records of CSV text without making values: where each begins, how many fields it has.
//!
//! Follows the rules of the reader below (`csv-core`), so that both see the same records; what this
//! adds is the line in the file, which the reader does not know once a file is read in pieces.

use super::format::NamedContent;
use super::options::CsvRules;

/// The characters with a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Dialect {
    pub(crate) delimiter: u8,
    quote: u8,
    escape: Option<u8>,
    comment: Option<u8>,
    terminator: Option<u8>,
}

/// One record, the header among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// The line of the file that it begins in, from 1.
    pub(crate) line: u64,
    /// How many fields it has.
    pub(crate) fields: usize,
    /// Where the next record begins, in bytes.
    pub(crate) end: usize,
    /// The line that the next record's search begins in.
    pub(crate) next_line: u64,
    /// Whether its end was seen; the last one of a piece may go on.
    pub(crate) is_whole: bool,
}

impl Dialect {
    /// Returns the dialect of a file, which its name may decide.
    pub(crate) fn of(rules: &CsvRules, file_name: &str) -> Self {
        let tabs = NamedContent::of(file_name).tabs;
        Self {
            delimiter: rules.delimiter.unwrap_or(if tabs { b'\t' } else { b',' }),
            quote: rules.quote,
            escape: rules.escape,
            comment: rules.comment,
            terminator: rules.terminator,
        }
    }

    /// Walks the records of a text that begins at the start of one.
    pub(crate) fn records(self, text: &[u8]) -> Records<'_> {
        Records { dialect: self, text, at: 0, line: 1 }
    }

    /// Returns how much of a piece of text is whole records.
    pub(crate) fn whole_records(self, text: &[u8]) -> usize {
        self.records(text).take_while(|record| record.is_whole).last().map_or(0, |r| r.end)
    }

    fn ends_line(self, byte: u8) -> bool {
        match self.terminator {
            Some(terminator) => byte == terminator,
            None => byte == b'\n' || byte == b'\r',
        }
    }
}

/// The records of a text; see [`Dialect::records`].
#[derive(Debug)]
pub(crate) struct Records<'a> {
    dialect: Dialect,
    text: &'a [u8],
    at: usize,
    line: u64,
}

impl Records<'_> {
    /// Moves past one byte, counting lines.
    fn step(&mut self) {
        let byte = self.text[self.at];
        self.at += 1;
        let newline = match self.dialect.terminator {
            Some(terminator) => byte == terminator,
            // A carriage return alone ends a line; before a line feed it does not.
            None => byte == b'\n' || (byte == b'\r' && self.text.get(self.at) != Some(&b'\n')),
        };
        if newline {
            self.line += 1;
        }
    }

    fn record(&self, line: u64, fields: usize, is_whole: bool) -> Record {
        Record { line, fields, end: self.at, next_line: self.line, is_whole }
    }

    /// Skips empty lines and comments between records.
    fn skip_between(&mut self) {
        while let Some(byte) = self.text.get(self.at) {
            if self.dialect.ends_line(*byte) {
                self.step();
            } else if Some(*byte) == self.dialect.comment {
                while self.text.get(self.at).is_some_and(|byte| !self.dialect.ends_line(*byte)) {
                    self.step();
                }
            } else {
                break;
            }
        }
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        self.skip_between();
        let dialect = self.dialect;
        let line = self.line;
        let mut fields = 1;
        let mut at_field_start = true;
        let mut quoted = false;
        self.text.get(self.at)?;
        while let Some(byte) = self.text.get(self.at).copied() {
            if quoted {
                if Some(byte) == dialect.escape && self.at + 1 < self.text.len() {
                    self.step();
                } else if byte == dialect.quote {
                    if self.text.get(self.at + 1) == Some(&dialect.quote) {
                        self.step();
                    } else {
                        quoted = false;
                    }
                }
            } else if byte == dialect.delimiter {
                fields += 1;
                self.step();
                at_field_start = true;
                continue;
            } else if dialect.ends_line(byte) {
                self.step();
                if byte == b'\r' && self.text.get(self.at) == Some(&b'\n') {
                    self.step();
                }
                return Some(self.record(line, fields, true));
            } else if at_field_start && byte == dialect.quote {
                quoted = true;
            }
            at_field_start = false;
            self.step();
        }
        Some(self.record(line, fields, false))
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::Format;
    use super::super::options::{Options, Rules};
    use super::*;

    fn records(text: &str) -> Vec<(u64, usize)> {
        let rules = Rules::parse(Format::Csv, &Options::new()).unwrap();
        let dialect = Dialect::of(&rules.csv, "x.csv");
        dialect.records(text.as_bytes()).map(|record| (record.line, record.fields)).collect()
    }

    #[test]
    fn lines_are_those_of_the_file() {
        assert_eq!(records("a,b\n1,2\n"), [(1, 2), (2, 2)]);
        assert_eq!(records("a,b\r\n\r\n1,2,3"), [(1, 2), (3, 3)]);
        assert_eq!(records("\"x\ny\",b\n1,\"a,\"\"b\"\n3,4\n"), [(1, 2), (3, 2), (4, 2)]);
        assert_eq!(records("a\rb\r"), [(1, 1), (2, 1)]);
    }

    #[test]
    fn pieces_are_cut_between_records() {
        let rules = Rules::parse(Format::Csv, &Options::new()).unwrap();
        let dialect = Dialect::of(&rules.csv, "x.csv");
        assert_eq!(dialect.whole_records(b"a,b\n1,2\n3,"), 8);
        assert_eq!(dialect.whole_records(b"a,b\n\"1\n2"), 4);
    }
}
