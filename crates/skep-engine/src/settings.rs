//! What a user may set for the session: `SET skep.<name> = <value>`.
//!
//! Written out where DataFusion has a macro, because the macro lists settings without their prefix,
//! and `SHOW` finds them by the name that `SET` takes.

use std::any::Any;
use std::time::Duration;

use datafusion::common::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::common::config_err;
use datafusion::error::Result;

/// The default of [`SkepSettings::max_recursion_depth`].
pub(crate) const DEFAULT_MAX_RECURSION_DEPTH: usize = 100_000;
/// The default of [`SkepSettings::max_chain_length`]: what a stack of 64 MiB has room for without
/// the compiler's optimisation.
pub(crate) const DEFAULT_MAX_CHAIN_LENGTH: usize = 2_500;
/// The default of [`SkepSettings::max_top_k_rows`]: for rows of a few hundred bytes tens of
/// megabytes.
pub(crate) const DEFAULT_MAX_TOP_K_ROWS: usize = 100_000;

/// The settings under the prefix `skep`.
#[derive(Debug, Clone)]
pub(crate) struct SkepSettings {
    /// How many steps a recursive query may take before it is taken for endless.
    pub(crate) max_recursion_depth: usize,
    /// How many operators, joins and set operations may depend on one another in a statement.
    pub(crate) max_chain_length: usize,
    /// Up to how many rows `ORDER BY ... LIMIT` keeps in memory rather than sorts on disk.
    pub(crate) max_top_k_rows: usize,
    /// How long a statement may take; `None` is as long as it takes.
    pub(crate) statement_timeout: Option<Duration>,
}

impl Default for SkepSettings {
    fn default() -> Self {
        Self {
            max_recursion_depth: DEFAULT_MAX_RECURSION_DEPTH,
            max_chain_length: DEFAULT_MAX_CHAIN_LENGTH,
            max_top_k_rows: DEFAULT_MAX_TOP_K_ROWS,
            statement_timeout: None,
        }
    }
}

impl ConfigExtension for SkepSettings {
    const PREFIX: &'static str = "skep";
}

impl ExtensionOptions for SkepSettings {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let (place, unit) = match key {
            "max_recursion_depth" => (&mut self.max_recursion_depth, "steps"),
            "max_chain_length" => (&mut self.max_chain_length, "operators"),
            "max_top_k_rows" => (&mut self.max_top_k_rows, "rows"),
            "statement_timeout" => {
                return match read_limit(value) {
                    Ok(limit) => {
                        self.statement_timeout = limit;
                        Ok(())
                    }
                    Err(expected) => config_err!("skep.{key} {expected}, not \"{value}\""),
                };
            }
            _ => return config_err!("setting \"skep.{key}\" not found"),
        };
        match value.parse() {
            Ok(number) => {
                *place = number;
                Ok(())
            }
            Err(_) => config_err!("skep.{key} is a number of {unit}, not \"{value}\""),
        }
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let entry = |key: &str, value: usize, description| ConfigEntry {
            key: format!("{}.{key}", Self::PREFIX),
            value: Some(value.to_string()),
            description,
        };
        vec![
            entry(
                "max_recursion_depth",
                self.max_recursion_depth,
                "How many steps a recursive query may take before it is taken for endless",
            ),
            entry(
                "max_chain_length",
                self.max_chain_length,
                "How many operators, joins and set operations may depend on one another in a \
                 statement",
            ),
            entry(
                "max_top_k_rows",
                self.max_top_k_rows,
                "Up to how many rows ORDER BY ... LIMIT keeps in memory rather than sorts on disk",
            ),
            ConfigEntry {
                key: format!("{}.statement_timeout", Self::PREFIX),
                value: Some(self.statement_timeout.map_or_else(|| "0".to_owned(), write_duration)),
                description: "How long a statement may take, such as 500ms, 30s, 10min or 2h; 0 is as \
                              long as it takes",
            },
        ]
    }
}

/// Reads a time such as `200ms`, `5s`, `10min` or `1h`; nothing is a time too.
///
/// # Errors
/// What was expected.
pub fn read_duration(text: &str) -> std::result::Result<Duration, &'static str> {
    const EXPECTED: &str = "expected a time such as \"200ms\", \"5s\", \"10min\" or \"1h\"";
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).ok_or(EXPECTED)?;
    let amount: u64 = text[..end].parse().map_err(|_parse| EXPECTED)?;
    let unit = match text[end..].trim() {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60 * 1_000,
        "h" => 60 * 60 * 1_000,
        _ => return Err(EXPECTED),
    };
    amount.checked_mul(unit).map(Duration::from_millis).ok_or("is too long")
}

/// Writes a time as [`read_duration`] reads it, in the largest unit that it is whole in.
pub(crate) fn write_duration(time: Duration) -> String {
    let millis = time.as_millis();
    for (unit, name) in [(60 * 60 * 1_000, "h"), (60 * 1_000, "min"), (1_000, "s")] {
        if millis > 0 && millis.is_multiple_of(unit) {
            return format!("{}{name}", millis / unit);
        }
    }
    format!("{millis}ms")
}

/// Reads a limit, or that there is none.
fn read_limit(value: &str) -> std::result::Result<Option<Duration>, &'static str> {
    let value = value.trim();
    if value == "0" || value.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    match read_duration(value) {
        Ok(Duration::ZERO) => Ok(None),
        Ok(limit) => Ok(Some(limit)),
        Err(_expected) => Err("is a time such as 500ms, 30s, 10min or 2h, or 0 for no limit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_they_are_read() {
        for text in ["1ms", "1500ms", "2s", "90s", "2min", "90min", "3h"] {
            assert_eq!(write_duration(read_duration(text).unwrap()), text);
        }
        assert_eq!(write_duration(read_duration("120 s").unwrap()), "2min");
        for text in ["", "5", "s", "-1s", "1.5s", "5 parsecs", "99999999999999999999s"] {
            assert!(read_duration(text).is_err(), "{text}");
        }
        assert!(read_duration(&format!("{}h", u64::MAX)).is_err());
    }

    #[test]
    fn no_limit_has_several_names() {
        for text in ["0", "none", "NONE", "0s"] {
            assert_eq!(read_limit(text), Ok(None), "{text}");
        }
        assert_eq!(read_limit("30s"), Ok(Some(Duration::from_secs(30))));
        assert!(read_limit("30").is_err());
    }
}
