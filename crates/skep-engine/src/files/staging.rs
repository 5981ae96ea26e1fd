//! Output that is not there until it is complete.
//!
//! Everything is written into a hidden directory beside the target, on the same file system, and
//! renamed when it is complete. What is dropped before that is removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::write::WriteMode;
use crate::error::{Error, Result};

/// A hidden directory beside a target on the local disk.
#[derive(Debug)]
pub(crate) struct Staging {
    target: PathBuf,
    directory: PathBuf,
    /// Dropped after the directory, which is in the last of them.
    made: MadeDirectories,
    is_committed: bool,
}

impl Staging {
    /// Makes the directory.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if something is there that `mode` may not touch, [`Error::Io`]
    /// naming the directory in which nothing can be made.
    pub(crate) fn new(target: &Path, mode: WriteMode, is_file: bool) -> Result<Self> {
        let target = target.to_path_buf();
        check_target(&target, mode, is_file)?;
        let parent = target.parent().unwrap_or(Path::new("/"));
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let made = MadeDirectories::up_to(parent)?;
        let directory = tempfile::Builder::new()
            .prefix(&format!(".{name}.skep-"))
            .rand_bytes(12)
            .tempdir_in(parent)
            .map_err(|error| Error::Io {
                action: "write into",
                path: parent.to_path_buf(),
                source: bare(error),
            })?
            .keep();
        Ok(Self { target, directory, made, is_committed: false })
    }

    /// Returns the directory to write into.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Puts what was written in its place.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if the target has come into being meanwhile, [`Error::Io`] if it
    /// cannot be made; nothing is left behind then.
    pub(crate) fn commit(mut self, mode: WriteMode, file: Option<&str>) -> Result<()> {
        sync_all(&self.directory)?;
        check_target(&self.target, mode, file.is_some())?;
        match (file, mode) {
            (Some(file), _) => {
                rename(&self.directory.join(file), &self.target)?;
                remove(&self.directory);
            }
            (None, WriteMode::Append) if self.target.exists() => {
                let mut moved = Vec::new();
                if let Err(error) = move_into(&self.directory, &self.target, &mut moved) {
                    // Readers may have seen some of the files; the statement failed all the same.
                    for path in moved {
                        remove(&path);
                    }
                    return Err(error);
                }
                remove(&self.directory);
            }
            (None, WriteMode::Overwrite) if self.target.exists() => self.replace_directory()?,
            (None, _) => {
                open_to_others(&self.directory);
                rename(&self.directory, &self.target)?;
            }
        }
        self.is_committed = true;
        self.made.0.clear();
        Ok(())
    }

    fn replace_directory(&self) -> Result<()> {
        let mut old = self.directory.clone().into_os_string();
        old.push("-old");
        let old = PathBuf::from(old);
        rename(&self.target, &old)?;
        open_to_others(&self.directory);
        if let Err(error) = rename(&self.directory, &self.target) {
            rename(&old, &self.target)?;
            return Err(error);
        }
        remove(&old);
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.is_committed {
            remove(&self.directory);
        }
    }
}

/// Directories that were missing on the way to a target, the deepest first; removed when dropped.
#[derive(Debug)]
struct MadeDirectories(Vec<PathBuf>);

impl MadeDirectories {
    fn up_to(directory: &Path) -> Result<Self> {
        let missing = directory.ancestors().take_while(|ancestor| !ancestor.exists());
        let made = Self(missing.map(Path::to_path_buf).collect());
        if !made.0.is_empty() {
            fs::create_dir_all(directory).map_err(|error| io_error("create", directory, error))?;
        }
        Ok(made)
    }
}

impl Drop for MadeDirectories {
    fn drop(&mut self) {
        for directory in &self.0 {
            // One that others have written into meanwhile stays.
            if fs::remove_dir(directory).is_err() {
                break;
            }
        }
    }
}

/// A temporary directory is for its owner alone; a table is for whom its neighbours are for.
fn open_to_others(directory: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if let Some(Ok(parent)) = directory.parent().map(fs::metadata) {
            let mode = parent.permissions().mode() & 0o777;
            if let Err(error) = fs::set_permissions(directory, fs::Permissions::from_mode(mode)) {
                tracing::debug!(%error, directory = %directory.display(), "mode not changed");
            }
        }
    }
}

fn check_target(target: &Path, mode: WriteMode, is_file: bool) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(target) else { return Ok(()) };
    let is_directory = metadata.is_dir() || fs::metadata(target).is_ok_and(|m| m.is_dir());
    if is_file && is_directory {
        return Err(Error::Io {
            action: "write",
            path: target.to_path_buf(),
            source: io::ErrorKind::IsADirectory.into(),
        });
    }
    if !is_file && !is_directory {
        return Err(Error::Io {
            action: "write into",
            path: target.to_path_buf(),
            source: io::ErrorKind::NotADirectory.into(),
        });
    }
    let is_empty =
        is_directory && fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    if mode == WriteMode::Create && !is_empty {
        let kind = if is_directory { "directory" } else { "file" };
        return Err(Error::AlreadyExists { kind, name: target.display().to_string() });
    }
    Ok(())
}

/// Moves the files below one directory to the same places below another.
fn move_into(from: &Path, to: &Path, moved: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(from).map_err(|error| io_error("read", from, error))? {
        let entry = entry.map_err(|error| io_error("read", from, error))?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            if !target.exists() {
                fs::create_dir(&target).map_err(|error| io_error("create", &target, error))?;
            }
            move_into(&entry.path(), &target, moved)?;
        } else {
            rename(&entry.path(), &target)?;
            moved.push(target);
        }
    }
    Ok(())
}

/// Sees to it that what is renamed is on the disk, or a crash could leave empty files.
fn sync_all(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(|error| io_error("read", directory, error))? {
        let path = entry.map_err(|error| io_error("read", directory, error))?.path();
        if path.is_dir() {
            sync_all(&path)?;
        } else {
            fs::File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(|error| io_error("write", &path, error))?;
        }
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| io_error("write", to, error))
}

fn remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "unfinished output not removed");
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { action, path: path.to_path_buf(), source }
}

/// `tempfile` puts the path into the error's text, which would then name it twice.
fn bare(error: io::Error) -> io::Error {
    let root = error.get_ref().and_then(super::listing::root_os_error);
    root.map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}
