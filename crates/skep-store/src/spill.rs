//! Spill files: one per writer, in a directory that belongs to one life of the process.
//!
//! Files are opened for each access and closed again, so that ten thousand writers do not hold ten
//! thousand descriptors; an access moves about a mebibyte, which costs more than opening.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tracing::{info, warn};

use crate::error::{Error, Result};
use crate::frame::FrameCounts;

const PREFIX: &str = "incarnation-";
const LOCK_SUFFIX: &str = ".lock";

/// This store's own directory; removed when the last who needs it is gone.
///
/// **Invariant:** the directory exists only while its lock file, beside it, is locked by a living
/// process. A directory whose lock can be had is a dead one's.
#[derive(Debug)]
pub(super) struct SpillDirectory {
    path: PathBuf,
    lock_path: PathBuf,
    /// Held locked as long as it is open.
    _lock: File,
}

impl SpillDirectory {
    /// Removes what dead processes left in `base` and makes a directory of its own there.
    ///
    /// # Errors
    /// [`Error::Io`] if `base` cannot be written to.
    pub(super) fn create(base: &Path) -> Result<Arc<Self>> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { action, path, source }
        };
        fs::create_dir_all(base).map_err(failed("create", base))?;
        remove_leftovers(base);
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!(
            "{PREFIX}{}-{}-{}",
            process::id(),
            started.as_nanos(),
            SERIAL.fetch_add(1, Ordering::Relaxed)
        );
        let lock_path = base.join(format!("{name}{LOCK_SUFFIX}"));
        let lock = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&lock_path)
            .map_err(failed("create", &lock_path))?;
        lock.lock().map_err(failed("lock", &lock_path))?;
        let path = base.join(name);
        fs::create_dir(&path).map_err(failed("create", &path))?;
        Ok(Arc::new(Self { path, lock_path, _lock: lock }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SpillDirectory {
    fn drop(&mut self) {
        remove(&self.path, fs::remove_dir_all(&self.path));
        remove(&self.lock_path, fs::remove_file(&self.lock_path));
    }
}

/// Looks at the outcome of a removal: failing to clean up is told, and fails nothing.
fn remove(path: &Path, outcome: io::Result<()>) {
    match outcome {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => warn!(path = %path.display(), %error, "cannot remove"),
    }
}

fn remove_leftovers(base: &Path) {
    let entries = match fs::read_dir(base) {
        Ok(entries) => entries,
        Err(error) => {
            warn!(path = %base.display(), %error, "cannot look for leftovers");
            return;
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if !is_ours || !path.is_dir() {
            continue;
        }
        let mut lock_path = path.clone().into_os_string();
        lock_path.push(LOCK_SUFFIX);
        let lock_path = PathBuf::from(lock_path);
        let lock = match File::open(&lock_path) {
            Ok(lock) => Some(lock),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                warn!(path = %lock_path.display(), %error, "cannot look at a lock");
                continue;
            }
        };
        match lock.as_ref().map(File::try_lock) {
            None | Some(Ok(())) => {}
            Some(Err(TryLockError::WouldBlock)) => continue,
            Some(Err(TryLockError::Error(error))) => {
                warn!(path = %lock_path.display(), %error, "cannot look at a lock");
                continue;
            }
        }
        info!(path = %path.display(), "removing what a dead process left");
        remove(&path, fs::remove_dir_all(&path));
        remove(&lock_path, fs::remove_file(&lock_path));
    }
}

/// The bound on all files of a store.
#[derive(Debug)]
pub(super) struct DiskBudget {
    limit: u64,
    used: AtomicU64,
}

impl DiskBudget {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, needed: u64) -> Result<()> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(needed).filter(|sum| *sum <= self.limit)
            })
            .map(|_| ())
            .map_err(|used| Error::DiskLimit { needed, used, limit: self.limit })
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Where a frame lies, and what it must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: usize,
    pub(super) counts: FrameCounts,
    /// What its batches cost in memory before they went to disk.
    pub(super) memory_bytes: usize,
}

/// The file of one writer: frames of its outputs in the order in which they were spilled.
///
/// Made with its first frame, removed with the last of its partitions. What a single released
/// partition had in it is not used again before that.
#[derive(Debug)]
pub(super) struct SpillFile {
    path: PathBuf,
    budget: Arc<DiskBudget>,
    /// How long it is; locked while somebody writes.
    length: Mutex<u64>,
    _directory: Arc<SpillDirectory>,
}

impl SpillFile {
    pub(super) fn new(directory: &Arc<SpillDirectory>, budget: &Arc<DiskBudget>, id: u64) -> Self {
        Self {
            path: directory.path().join(format!("{id}.spill")),
            budget: Arc::clone(budget),
            length: Mutex::new(0),
            _directory: Arc::clone(directory),
        }
    }

    /// Writes a frame to the end of the file and returns where it begins. Blocks.
    ///
    /// # Errors
    /// [`Error::DiskLimit`], [`Error::DiskFull`] or [`Error::Io`]; the file is then as it was.
    pub(super) fn append(&self, frame: &[u8]) -> Result<u64> {
        let mut length = self.length.lock();
        let added = frame.len() as u64;
        self.budget.take(added)?;
        let offset = *length;
        let written = (|| {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(false).open(&self.path)?;
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(frame)
        })();
        match written {
            Ok(()) => {
                *length += added;
                Ok(offset)
            }
            Err(source) => {
                self.budget.give_back(added);
                // Half a frame may be left behind the end; it takes room that nobody accounts.
                let cut = OpenOptions::new().write(true).open(&self.path);
                if let Err(error) = cut.and_then(|file| file.set_len(offset)) {
                    warn!(path = %self.path.display(), %error, "cannot cut off half a frame");
                }
                let path = self.path.clone();
                match source.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                        Err(Error::DiskFull { path, source })
                    }
                    _ => Err(Error::Io { action: "write", path, source }),
                }
            }
        }
    }

    /// Reads the bytes of a frame. Blocks.
    ///
    /// # Errors
    /// What the system said; a file that is shorter than it was is `UnexpectedEof`.
    pub(super) fn read(&self, extent: &Extent) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(extent.offset))?;
        let mut frame = vec![0; extent.length];
        file.read_exact(&mut frame)?;
        Ok(frame)
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        let length = *self.length.lock();
        remove(&self.path, fs::remove_file(&self.path));
        self.budget.give_back(length);
    }
}
