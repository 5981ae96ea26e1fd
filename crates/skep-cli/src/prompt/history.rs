//! The statements of earlier sessions.
//!
//! They can hold names and values that are nobody else's business: only the user may read the file.

use std::env;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use reedline::FileBackedHistory;

/// Statements that are kept.
const CAPACITY: usize = 10_000;

/// Opens the history, which is made if there is none.
///
/// # Errors
/// If there is no place for it, or it cannot be used.
pub(super) fn open() -> Result<FileBackedHistory, String> {
    let path = path(env::var_os("XDG_STATE_HOME"), env::home_dir())
        .ok_or("cannot keep a history: neither XDG_STATE_HOME nor HOME is set")?;
    let failed = |error: &dyn std::fmt::Display| {
        format!("cannot keep a history in {}: {error}", path.display())
    };
    prepare(&path).map_err(|error| failed(&error))?;
    FileBackedHistory::with_file(CAPACITY, path.clone()).map_err(|error| failed(&error))
}

/// Returns where the history is, by the rules of the XDG base directories.
fn path(state_home: Option<std::ffi::OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    let state = state_home.map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(home?.join(".local/state")))?;
    Some(state.join("skep/history.txt"))
}

fn prepare(path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    if fs::exists(path)? {
        return Ok(());
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(|_file| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_is_found_as_xdg_says() {
        let home = Some(PathBuf::from("/home/bee"));
        let at_home = Some(PathBuf::from("/home/bee/.local/state/skep/history.txt"));
        assert_eq!(path(None, home.clone()), at_home);
        assert_eq!(path(Some("relative".into()), home.clone()), at_home);
        assert_eq!(path(Some("/s".into()), home), Some(PathBuf::from("/s/skep/history.txt")));
        assert_eq!(path(None, None), None);
    }
}
