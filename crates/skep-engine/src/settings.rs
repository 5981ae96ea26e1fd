//! The settings of skep itself: `SET skep.max_recursion_depth = 100`.
use datafusion::common::config::ConfigExtension;
use datafusion::common::extensions_options;

extensions_options! {
    /// Settings of a session that are skep's own.
    pub(crate) struct SkepSettings {
        /// How many rounds a recursive query may take before it is stopped.
        pub max_recursion_depth: usize, default = 100_000
    }
}

impl ConfigExtension for SkepSettings {
    const PREFIX: &'static str = "skep";
}
