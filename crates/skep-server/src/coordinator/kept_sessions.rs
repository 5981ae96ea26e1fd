//! What of sessions lies with the data, so that a coordinator that is started again opens them as they
//! were.
//!
//! A session that was logged into has a file from its beginning to its end: where it looks names up,
//! what was set, and whether it has what lies in no file, as temporary tables. So of a token from
//! before the start it is known whether its session goes on as it was, or has ended and its client is
//! told.
//!
//! **Invariant:** before a client learns that its session was changed, the change is on disk.
//!
//! **Invariant:** no secret is in a file, and the name of none is that of its session, by which it
//! could be used.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ring::digest;
use serde::{Deserialize, Serialize};
use skep_engine::CarriedSession;
use tracing::warn;

/// The directory of the files in the data directory.
const DIRECTORY: &str = "sessions";

/// What is kept of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// Whose it is.
    pub(super) user: String,
    /// What its statements have said.
    pub(super) carried: CarriedSession,
    /// Whether its client takes views.
    pub(super) takes_views: bool,
    /// Whether headers have said where it looks names up.
    pub(super) has_place: bool,
}

/// Where sessions are kept.
#[derive(Debug, Clone)]
pub(super) struct KeptSessions {
    /// Nowhere, where there is no data directory: then no token outlives the process either.
    directory: Option<PathBuf>,
}

/// The file of one session.
#[derive(Debug)]
pub(super) struct Keeper {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    written: Option<Note>,
    has_ended: bool,
}

impl KeptSessions {
    /// Keeps sessions in a data directory, and removes those whose tokens have ended.
    ///
    /// # Errors
    /// If the directory cannot be made or looked through.
    pub(super) fn open(data_dir: Option<&Path>, token_lifetime: Duration) -> io::Result<Self> {
        let Some(data_dir) = data_dir else { return Ok(Self { directory: None }) };
        let directory = data_dir.join(DIRECTORY);
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            if age > token_lifetime {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { directory: Some(directory) })
    }

    /// Returns the file of a session; nothing if none is kept.
    pub(super) fn keeper(&self, session: &str) -> Option<Arc<Keeper>> {
        let digest = digest::digest(&digest::SHA256, session.as_bytes());
        let name: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let path = self.directory.as_ref()?.join(name);
        Some(Arc::new(Keeper { path, state: Mutex::default() }))
    }
}

impl Keeper {
    /// Begins the file. It need not survive the machine: a session without one has ended.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn begin(&self, note: Note) -> io::Result<()> {
        let mut state = self.state.lock();
        write(&self.path, &note)?;
        state.written = Some(note);
        Ok(())
    }

    /// Reads what the coordinator before this one has kept; nothing if the session has ended.
    ///
    /// # Errors
    /// If the file cannot be read, or holds something else.
    pub(super) fn read(&self) -> io::Result<Option<Note>> {
        let mut state = self.state.lock();
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let note: Note = serde_json::from_slice(&text)?;
        state.written = Some(note.clone());
        Ok(Some(note))
    }

    /// Tells whether the file says this.
    pub(super) fn says(&self, note: &Note) -> bool {
        self.state.lock().written.as_ref() == Some(note)
    }

    /// Writes what the session is like now, unless it has ended. Takes as long as the disk.
    ///
    /// # Errors
    /// If it cannot be written; then the file is as it was.
    pub(super) fn update(&self, now: impl FnOnce() -> Note) -> io::Result<()> {
        // Asked for with the lock: whoever comes later has seen more.
        let mut state = self.state.lock();
        let note = now();
        if state.has_ended || state.written.as_ref() == Some(&note) {
            return Ok(());
        }
        let staging = self.path.with_extension("new");
        write(&staging, &note)?;
        fs::File::open(&staging)?.sync_all()?;
        fs::rename(&staging, &self.path)?;
        state.written = Some(note);
        Ok(())
    }

    /// Removes the file: the session has ended.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.has_ended = true;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(%error, "the file of a session that has ended stays");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

fn write(path: &Path, note: &Note) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec(note)?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use super::*;

    fn note(schema: &str) -> Note {
        let carried = CarriedSession { schema: schema.to_owned(), ..CarriedSession::default() };
        Note { user: "ann".to_owned(), carried, takes_views: true, has_place: false }
    }

    fn files(directory: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(directory.join(DIRECTORY)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn a_session_is_kept_from_its_beginning_to_its_end() {
        let data = tempfile::tempdir().unwrap();
        let open = || KeptSessions::open(Some(data.path()), Duration::from_secs(60)).unwrap();
        let keeper = open().keeper("secret").unwrap();
        keeper.begin(note("public")).unwrap();
        keeper.update(|| note("sales")).unwrap();
        assert!(keeper.says(&note("sales")) && !keeper.says(&note("public")));
        assert_eq!(files(data.path()).len(), 1);
        assert!(!files(data.path())[0].to_string_lossy().contains("secret"));
        // The next process.
        let again = open().keeper("secret").unwrap();
        assert_eq!(again.read().unwrap(), Some(note("sales")));
        assert_eq!(open().keeper("guess").unwrap().read().unwrap(), None);
        again.end();
        assert_eq!(again.read().unwrap(), None);
        // Somebody was still at it.
        again.update(|| note("other")).unwrap();
        assert_eq!(files(data.path()), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_no_token_leads_to_any_more_goes() {
        let data = tempfile::tempdir().unwrap();
        let lifetime = Duration::from_secs(60);
        let kept = KeptSessions::open(Some(data.path()), lifetime).unwrap();
        for name in ["old", "new"] {
            kept.keeper(name).unwrap().begin(note("public")).unwrap();
        }
        let old = File::open(&kept.keeper("old").unwrap().path).unwrap();
        old.set_modified(SystemTime::now() - lifetime * 2).unwrap();
        let kept = KeptSessions::open(Some(data.path()), lifetime).unwrap();
        assert_eq!(kept.keeper("old").unwrap().read().unwrap(), None);
        assert!(kept.keeper("new").unwrap().read().unwrap().is_some());
        // A file that is none is no session.
        fs::write(&kept.keeper("new").unwrap().path, "{}").unwrap();
        assert!(kept.keeper("new").unwrap().read().is_err());
        assert!(KeptSessions::open(None, lifetime).unwrap().keeper("any").is_none());
    }
}
