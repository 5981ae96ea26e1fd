//! Globs over paths: `*`, `?`, `[a-z]`, `{a,b}` inside a segment and `**` across segments.
//!
//! Our own and not the `glob` crate's, since that one has no braces and knows only the local disk;
//! these match the paths of any object store.

/// A glob over the segments of a path below some base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathPattern {
    alternatives: Vec<Vec<String>>,
}

impl PathPattern {
    /// Reads a glob; every text is one.
    pub(crate) fn parse(text: &str) -> Self {
        let alternatives = expand_braces(text)
            .into_iter()
            .map(|text| text.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect())
            .collect();
        Self { alternatives }
    }

    /// Returns whether the segments of a path match.
    pub(crate) fn matches(&self, segments: &[&str]) -> bool {
        self.alternatives.iter().any(|pattern| match_segments(pattern, segments))
    }
}

/// Returns whether a path segment means more than itself.
pub(crate) fn is_glob(text: &str, question_mark: bool) -> bool {
    text.chars().any(|c| matches!(c, '*' | '[' | '{') || (question_mark && c == '?'))
}

/// Returns whether a single name matches a glob without slashes.
pub(crate) fn name_matches(pattern: &str, name: &str) -> bool {
    expand_braces(pattern).iter().any(|pattern| match_name(pattern, name))
}

fn match_segments(pattern: &[String], segments: &[&str]) -> bool {
    match pattern.split_first() {
        None => segments.is_empty(),
        Some((first, rest)) if first == "**" => {
            // `**` alone at the end means every file below, so at least one segment.
            if rest.is_empty() {
                return !segments.is_empty();
            }
            (0..=segments.len()).any(|skip| match_segments(rest, &segments[skip..]))
        }
        Some((first, rest)) => segments.split_first().is_some_and(|(segment, segments)| {
            match_name(first, segment) && match_segments(rest, segments)
        }),
    }
}

/// Matches one name by the usual two-pointer walk: linear but for backtracking to the last star.
fn match_name(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => match match_class(&pattern[p..], name[n]) {
                Some((true, length)) => Some(length),
                Some((false, _)) => None,
                None => (name[n] == '[').then_some(1),
            },
            Some(c) => (*c == name[n]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                n += 1;
            }
            (None, Some((star_p, star_n))) => {
                p = star_p + 1;
                n = star_n + 1;
                star = Some((star_p, star_n + 1));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Matches `[abc]`, `[a-z]`, `[!x]`; returns the answer and the pattern's length, `None` if the
/// bracket is never closed and so is a plain character.
fn match_class(pattern: &[char], c: char) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let start = if negated { 2 } else { 1 };
    let close = start + 1 + pattern.get(start + 1..)?.iter().position(|c| *c == ']')?;
    let body = &pattern[start..close];
    let mut found = false;
    let mut i = 0;
    while i < body.len() {
        if body.get(i + 1) == Some(&'-') && i + 2 < body.len() {
            found |= body[i] <= c && c <= body[i + 2];
            i += 3;
        } else {
            found |= body[i] == c;
            i += 1;
        }
    }
    Some((found != negated, close + 1))
}

/// Bounds what braces may expand to, so that a short text cannot ask for millions of patterns.
const MAX_ALTERNATIVES: usize = 1024;

fn expand_braces(text: &str) -> Vec<String> {
    let mut done = Vec::new();
    let mut pending = vec![text.to_owned()];
    while let Some(text) = pending.pop() {
        if done.len() + pending.len() >= MAX_ALTERNATIVES {
            done.push(text);
            continue;
        }
        match innermost_braces(&text) {
            Some((open, close)) => {
                for part in text[open + 1..close].split(',').rev() {
                    pending.push(format!("{}{part}{}", &text[..open], &text[close + 1..]));
                }
            }
            None => done.push(text),
        }
    }
    done
}

fn innermost_braces(text: &str) -> Option<(usize, usize)> {
    let close = text.find('}')?;
    let open = text[..close].rfind('{')?;
    Some((open, close))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        PathPattern::parse(pattern).matches(&path.split('/').collect::<Vec<_>>())
    }

    #[test]
    fn stars_stay_inside_a_segment() {
        assert!(matches("*.csv", "a.csv"));
        assert!(!matches("*.csv", "d/a.csv"));
        assert!(matches("*/a?.csv", "d/a1.csv"));
        assert!(matches("*a*b*", "xxaxxbxx"));
        assert!(!matches("*a*b*", "xxbxxaxx"));
    }

    #[test]
    fn double_stars_cross_segments() {
        assert!(matches("**/x.parquet", "x.parquet"));
        assert!(matches("**/x.parquet", "a/b/x.parquet"));
        assert!(matches("a/**", "a/b/c"));
        assert!(!matches("a/**", "b/c"));
    }

    #[test]
    fn classes_and_braces() {
        assert!(matches("[a-c]1.csv", "b1.csv"));
        assert!(!matches("[!a-c]1.csv", "b1.csv"));
        assert!(matches("{x,y}.{csv,tsv}", "y.tsv"));
        assert!(!matches("{x,y}.csv", "z.csv"));
        assert!(matches("[x.csv", "[x.csv"));
    }
}
