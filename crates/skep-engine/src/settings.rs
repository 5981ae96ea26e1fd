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

/// The settings under the prefix `skep`.
#[derive(Debug, Clone)]
pub(crate) struct SkepSettings {
    /// How many steps a recursive query may take before it is taken for endless.
    pub(crate) max_recursion_depth: usize,
}

impl Default for SkepSettings {
    fn default() -> Self {
        Self { max_recursion_depth: DEFAULT_MAX_RECURSION_DEPTH }
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
        match (key, value.parse()) {
            ("max_recursion_depth", Ok(depth)) => {
                self.max_recursion_depth = depth;
                Ok(())
            }
            ("max_recursion_depth", Err(_)) => {
                config_err!("skep.max_recursion_depth is a number of steps, not \"{value}\"")
            }
            _ => config_err!("setting \"skep.{key}\" not found"),
        }
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        vec![ConfigEntry {
            key: "skep.max_recursion_depth".to_owned(),
            value: Some(self.max_recursion_depth.to_string()),
            description: "How many steps a recursive query may take before it is taken for endless",
        }]
    }
}
