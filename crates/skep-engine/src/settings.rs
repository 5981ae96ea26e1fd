//! What a user may set for the session: `SET skep.<name> = <value>`.
//!
//! Written out where DataFusion has a macro, because the macro lists settings without their prefix,
//! and `SHOW` finds them by the name that `SET` takes.

use std::any::Any;

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
}

impl Default for SkepSettings {
    fn default() -> Self {
        Self {
            max_recursion_depth: DEFAULT_MAX_RECURSION_DEPTH,
            max_chain_length: DEFAULT_MAX_CHAIN_LENGTH,
            max_top_k_rows: DEFAULT_MAX_TOP_K_ROWS,
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
        ]
    }
}
