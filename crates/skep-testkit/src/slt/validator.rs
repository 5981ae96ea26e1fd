//! Whether an answer is the expected one.

use sqllogictest::Normalizer;

/// The marker in an expected answer for text that differs from run to run.
const IGNORE_MARKER: &str = "<slt:ignore>";

/// Compares an answer with the lines of a script.
///
/// A value must be met exactly, blanks within it included; between two columns any number of
/// blanks may stand, so that a script can be laid out as a table. Blanks at the end of a line do
/// not count, as editors remove them. `<slt:ignore>` within a line stands for any text.
pub(crate) fn matches(_: Normalizer, actual: &[Vec<String>], expected: &[String]) -> bool {
    actual.len() == expected.len()
        && actual.iter().zip(expected).all(|(row, line)| row_matches(row, line))
}

fn row_matches(row: &[String], line: &str) -> bool {
    if line.contains(IGNORE_MARKER) {
        return pattern_matches(&row.join(" "), line);
    }
    let mut rest = line;
    for (idx, value) in row.iter().enumerate() {
        let is_last = idx + 1 == row.len();
        if is_last {
            return rest == value || rest.trim_end() == value.trim_end();
        }
        let Some(after) = rest.strip_prefix(value.as_str()) else { return false };
        let next = after.trim_start_matches([' ', '\t']);
        if next.len() == after.len() {
            return false;
        }
        // A value that itself begins with blanks keeps those that are its own.
        let own_blank_count = row[idx + 1].len() - row[idx + 1].trim_start_matches(' ').len();
        let blank_count = after.len() - next.len();
        if own_blank_count >= blank_count {
            return false;
        }
        rest = &after[blank_count - own_blank_count..];
    }
    rest.trim_end().is_empty()
}

/// Whether `text` has the fragments of `pattern` in order, from its beginning to its end.
fn pattern_matches(text: &str, pattern: &str) -> bool {
    let mut fragments = pattern.split(IGNORE_MARKER);
    let Some(mut rest) = fragments.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let fragments: Vec<_> = fragments.collect();
    let Some((last, middle)) = fragments.split_last() else { return rest.is_empty() };
    for fragment in middle {
        let Some((_, after)) = rest.split_once(fragment) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(row: &[&str], line: &str) -> bool {
        let row: Vec<_> = row.iter().map(|value| (*value).to_owned()).collect();
        matches(|value| value.clone(), &[row], &[line.to_owned()])
    }

    #[test]
    fn columns_may_be_laid_out_as_a_table() {
        assert!(check(&["1", "foo", "2.5"], "1 foo 2.5"));
        assert!(check(&["1", "foo", "2.5"], "1    foo\t2.5  "));
        assert!(!check(&["1", "foo"], "1foo"));
        assert!(!check(&["1", "foo"], "1 foo bar"));
        assert!(!check(&["1", "foo"], "1"));
    }

    #[test]
    fn blanks_within_a_value_count() {
        assert!(check(&["a  b", "c"], "a  b c"));
        assert!(!check(&["a  b", "c"], "a b c"));
        assert!(!check(&["a b"], "a  b"));
        assert!(check(&["x", "  y"], "x   y"));
        assert!(!check(&["x", "  y"], "x y"));
        assert!(!check(&[" x"], "x"));
    }

    #[test]
    fn ignored_text_may_be_anything() {
        assert!(check(&["took 12 ms"], "took <slt:ignore> ms"));
        assert!(check(&["a", "b", "c"], "a <slt:ignore>"));
        assert!(!check(&["took 12 s"], "took <slt:ignore> ms"));
        assert!(!check(&["it took 12 ms"], "took <slt:ignore> ms"));
    }

    #[test]
    fn the_number_of_rows_counts() {
        let row = vec!["1".to_owned()];
        assert!(!matches(|value| value.clone(), &[row.clone(), row], &["1".to_owned()]));
        assert!(!matches(|value| value.clone(), &[], &["1".to_owned()]));
    }
}
