//! Where the checkout is, and where what it generates goes.

use std::path::{Path, PathBuf};

/// Returns the root of the checkout that this crate was compiled in.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    // crates/skep-testkit, twice up.
    manifest.ancestors().nth(2).unwrap_or(manifest).to_path_buf()
}

/// What Cargo writes into every target directory; `CACHEDIR.TAG` only into those that it made.
const CARGO_MARK: &str = ".rustc_info.json";

/// Returns Cargo's target directory: the one the running binary was built into.
///
/// Cargo keeps a `.rustc_info.json` in it, so it is found wherever `CARGO_TARGET_DIR` or a
/// configuration file has put it. A binary that was moved elsewhere falls back to `target` in the
/// checkout.
pub fn target_dir() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|binary| {
            binary.ancestors().find(|dir| dir.join(CARGO_MARK).exists()).map(Path::to_path_buf)
        })
        .unwrap_or_else(|| root().join("target"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_holds_the_workspace_manifest() {
        assert!(root().join("Cargo.toml").is_file());
        assert!(root().join("sql-tests").is_dir());
    }

    #[test]
    fn target_dir_is_marked_by_cargo() {
        assert!(target_dir().join(CARGO_MARK).is_file());
    }
}
