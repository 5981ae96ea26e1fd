//! What a user may set for the session: `SET skep.<name> = <value>`.

use datafusion::common::config::ConfigExtension;
use datafusion::common::extensions_options;

/// The default of [`SkepSettings::max_recursion_depth`].
pub(crate) const DEFAULT_MAX_RECURSION_DEPTH: usize = 100_000;

extensions_options! {
    /// The settings under the prefix `skep`.
    pub(crate) struct SkepSettings {
        /// How many steps a recursive query may take before it is taken for endless
        pub max_recursion_depth: usize, default = DEFAULT_MAX_RECURSION_DEPTH
    }
}

impl ConfigExtension for SkepSettings {
    const PREFIX: &'static str = "skep";
}
