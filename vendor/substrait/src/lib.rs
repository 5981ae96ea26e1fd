//! The messages of Substrait: what `datafusion-substrait` uses of the package of this name.

/// The messages.
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/substrait.rs"));

    /// How a plan names functions and types.
    pub mod extensions {
        include!(concat!(env!("OUT_DIR"), "/substrait.extensions.rs"));
    }
}

/// Which version of Substrait the messages are of.
pub mod version {
    use crate::proto::Version;

    pub const SUBSTRAIT_MAJOR_VERSION: u32 = 0;
    pub const SUBSTRAIT_MINOR_VERSION: u32 = 85;
    pub const SUBSTRAIT_PATCH_VERSION: u32 = 0;

    /// Returns it as a plan says it.
    pub fn version() -> Version {
        Version {
            major_number: SUBSTRAIT_MAJOR_VERSION,
            minor_number: SUBSTRAIT_MINOR_VERSION,
            patch_number: SUBSTRAIT_PATCH_VERSION,
            ..Version::default()
        }
    }

    /// Returns it as a plan of this producer says it.
    pub fn version_with_producer(producer: impl Into<String>) -> Version {
        Version { producer: producer.into(), ..version() }
    }
}
