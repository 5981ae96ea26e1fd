//! The file of users: one line each, `name:role:hash`.
//!
//! People may read it, and edit it with `skep user`. A hash is Argon2id's, in its usual form. A
//! change counts from the next request on; a new password ends the tokens of the old one.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use ring::rand::{SecureRandom, SystemRandom};
use skep_engine::Role;

use crate::error::{Error, Result};

/// The name of the file in a data directory.
const FILE_NAME: &str = "users";

/// Most bytes of the file that are read.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Bounds of what a user types.
const MAX_NAME_BYTES: usize = 64;
const MAX_PASSWORD_BYTES: usize = 1024;

/// What a login costs: about 20 ms of one core, and 19 MiB.
///
/// Source: the OWASP Password Storage Cheat Sheet, Argon2id.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Names that mean something else.
const RESERVED: [&str; 2] = ["anonymous", "token"];

/// A user.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// What they may do.
    pub role: Role,
    hash: String,
}

impl fmt::Debug for User {
    /// Leaves the hash out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("role", &self.role).finish_non_exhaustive()
    }
}

impl User {
    /// Makes one.
    ///
    /// # Errors
    /// What is wrong with the password.
    pub fn new(role: Role, password: &str) -> Result<Self, String> {
        if password.is_empty() {
            return Err("a password needs at least one character".to_owned());
        }
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(format!("a password has at most {MAX_PASSWORD_BYTES} bytes"));
        }
        let mut salt = [0; 16];
        let no_salt = |_unspecified| "the system gives no random numbers".to_owned();
        SystemRandom::new().fill(&mut salt).map_err(no_salt)?;
        let salt = SaltString::encode_b64(&salt).map_err(|error| error.to_string())?;
        let hash = argon2()?.hash_password(password.as_bytes(), &salt);
        let hash = hash.map_err(|error| error.to_string())?.to_string();
        Ok(Self { role, hash })
    }

    /// Tells whether this is the password. Takes as long as it costs.
    pub fn has_password(&self, password: &str) -> bool {
        let is_sane = password.len() <= MAX_PASSWORD_BYTES;
        let Ok(hash) = PasswordHash::new(&self.hash) else { return false };
        is_sane && Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
    }

    /// Returns what changes with the password, and is to be shown to nobody.
    pub(crate) fn hash(&self) -> &str {
        &self.hash
    }
}

fn argon2() -> Result<Argon2<'static>, String> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| error.to_string())?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// All users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users(BTreeMap<String, User>);

impl Users {
    /// Returns a user.
    pub fn get(&self, name: &str) -> Option<&User> {
        self.0.get(name)
    }

    /// Returns all, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &User)> {
        self.0.iter().map(|(name, user)| (name.as_str(), user))
    }

    /// Adds a user.
    ///
    /// # Errors
    /// What is wrong with the name, or that it is taken.
    pub fn add(&mut self, name: &str, user: User) -> Result<(), String> {
        check_name(name)?;
        if self.0.contains_key(name) {
            return Err(format!("user \"{name}\" already exists"));
        }
        self.0.insert(name.to_owned(), user);
        Ok(())
    }

    /// Removes a user.
    ///
    /// # Errors
    /// That there is none.
    pub fn remove(&mut self, name: &str) -> Result<User, String> {
        self.0.remove(name).ok_or_else(|| format!("user \"{name}\" not found"))
    }

    /// Gives a user another password.
    ///
    /// # Errors
    /// That there is none, or what is wrong with the password.
    pub fn set_password(&mut self, name: &str, password: &str) -> Result<(), String> {
        let user = self.0.get_mut(name).ok_or_else(|| format!("user \"{name}\" not found"))?;
        *user = User::new(user.role, password)?;
        Ok(())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut users = Self::default();
        for (idx, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = |message: String| format!("line {}: {message}", idx + 1);
            let mut parts = line.splitn(3, ':');
            let (Some(name), Some(role), Some(hash)) = (parts.next(), parts.next(), parts.next())
            else {
                return Err(place("expected name:role:hash".to_owned()));
            };
            let role = role.parse().map_err(place)?;
            if PasswordHash::new(hash).is_err() {
                // Not quoted: it may be a password.
                return Err(place(format!("the hash of \"{name}\" is none of Argon2")));
            }
            users.add(name, User { role, hash: hash.to_owned() }).map_err(place)?;
        }
        Ok(users)
    }

    fn text(&self) -> String {
        let mut text = String::from("# Users of skep, one a line. Change them with: skep user\n");
        for (name, User { role, hash }) in &self.0 {
            text.push_str(&format!("{name}:{role}:{hash}\n"));
        }
        text
    }
}

/// Names stand in files, tokens and logs.
fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_-.@+".contains(letter);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(is_plain) {
        return Err(format!(
            "a name has 1 to {MAX_NAME_BYTES} letters, digits or _ - . @ +, not \"{name}\""
        ));
    }
    match RESERVED.contains(&name) {
        true => Err(format!("\"{name}\" is nobody's name")),
        false => Ok(()),
    }
}

/// What tells one state of the file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// Where the users are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserFile {
    path: PathBuf,
}

impl UserFile {
    /// Names a file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Names the file of a data directory.
    pub fn of_data_dir(directory: &Path) -> Self {
        Self::new(directory.join(FILE_NAME))
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether it is there.
    pub fn exists(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok()
    }

    /// Reads the users.
    ///
    /// # Errors
    /// [`Error::Users`] if it cannot be read, or has a line that is none.
    pub fn read(&self) -> Result<Users> {
        let text = self.read_text().map_err(|error| self.error(format!("cannot read: {error}")))?;
        Users::parse(&text).map_err(|message| self.error(message))
    }

    fn read_text(&self) -> io::Result<String> {
        let bytes = fs::metadata(&self.path)?.len();
        match bytes > MAX_FILE_BYTES {
            true => Err(io::Error::other(format!("larger than {MAX_FILE_BYTES} bytes"))),
            false => fs::read_to_string(&self.path),
        }
    }

    /// Returns whether others than its owner may read or write it.
    pub(crate) fn is_open_to_others(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0)
    }

    /// Returns the file's state.
    pub(crate) fn stamp(&self) -> io::Result<Stamp> {
        let metadata = fs::metadata(&self.path)?;
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Ok(Stamp { inode: metadata.ino(), bytes: metadata.len(), changed })
    }

    /// Changes the users: nobody sees half of a change, and of two at a time none is lost. A file
    /// that is not there is made, readable by its owner alone.
    ///
    /// # Errors
    /// [`Error::Users`] if it cannot be read or written, or whatever `change` has against it.
    pub fn edit<T>(&self, change: impl FnOnce(&mut Users) -> Result<T, String>) -> Result<T> {
        let failed = |what: &str, error: io::Error| self.error(format!("cannot {what}: {error}"));
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory).map_err(|error| failed("make its directory", error))?;
        }
        let lock = private(&self.beside("lock"), OpenOptions::new().create(true).write(true));
        let lock = lock.map_err(|error| failed("lock", error))?;
        lock.lock().map_err(|error| failed("lock", error))?;
        let mut users = if self.exists() { self.read()? } else { Users::default() };
        let outcome = change(&mut users).map_err(|message| self.error(message))?;
        let written = self.write(&users.text());
        written.map_err(|error| failed("write", error))?;
        Ok(outcome)
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let staging = self.beside(&format!("{}.new", std::process::id()));
        let written = private(&staging, OpenOptions::new().create_new(true).write(true))
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&staging, &self.path));
        if written.is_err() {
            // What is left of it is of no use.
            let _ = fs::remove_file(&staging);
        }
        written
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".");
        name.push(ending);
        self.path.with_file_name(name)
    }

    fn error(&self, message: String) -> Error {
        let hint = (!self.exists()).then(|| "add a user with: skep user add NAME".to_owned());
        Error::Users { path: self.path.clone(), message, hint }
    }
}

/// Opens a file that its owner alone may read.
pub(super) fn private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file() -> (UserFile, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        (UserFile::of_data_dir(&directory.path().join("data")), directory)
    }

    #[test]
    fn a_password_is_known_again_and_not_shown() {
        let user = User::new(Role::Writer, "geheim").unwrap();
        assert!(user.has_password("geheim"));
        for wrong in ["", "Geheim", "geheim ", &"x".repeat(MAX_PASSWORD_BYTES + 1)] {
            assert!(!user.has_password(wrong));
        }
        assert!(user.hash().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_ne!(user.hash(), User::new(Role::Writer, "geheim").unwrap().hash());
        assert!(!format!("{user:?}").contains("argon2"));
        assert!(User::new(Role::Reader, "").is_err());
    }

    #[test]
    fn the_file_keeps_users_and_is_private() {
        let (file, directory) = file();
        assert!(file.read().unwrap_err().hint().unwrap().contains("skep user add"));
        let add = |name: &'static str, role| {
            file.edit(move |users| users.add(name, User::new(role, "pw")?))
        };
        add("ann", Role::Admin).unwrap();
        add("bob", Role::Reader).unwrap();
        assert!(add("bob", Role::Admin).unwrap_err().to_string().contains("already exists"));
        assert!(add("b:b", Role::Admin).unwrap_err().to_string().contains("letters"));
        assert!(add("anonymous", Role::Admin).is_err());
        let mode = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let users = file.read().unwrap();
        let roles: Vec<_> = users.iter().map(|(name, user)| (name, user.role)).collect();
        assert_eq!(roles, [("ann", Role::Admin), ("bob", Role::Reader)]);
        let before = file.stamp().unwrap();
        file.edit(|users| users.set_password("bob", "other")).unwrap();
        assert_ne!(file.stamp().unwrap(), before);
        assert!(file.read().unwrap().get("bob").unwrap().has_password("other"));
        file.edit(|users| users.remove("bob").map(drop)).unwrap();
        assert!(file.edit(|users| users.remove("bob").map(drop)).is_err());
        assert!(file.read().unwrap().get("bob").is_none());
        // Nothing is left beside it but the lock.
        let names = fs::read_dir(directory.path().join("data")).unwrap();
        assert_eq!(names.count(), 2);
    }

    #[test]
    fn changes_at_a_time_are_all_kept() {
        let (file, _directory) = file();
        let user = User::new(Role::Reader, "pw").unwrap();
        std::thread::scope(|scope| {
            for idx in 0..8 {
                let (file, user) = (&file, user.clone());
                scope.spawn(move || {
                    file.edit(|users| users.add(&format!("user{idx}"), user)).unwrap();
                });
            }
        });
        assert_eq!(file.read().unwrap().iter().count(), 8);
    }

    #[test]
    fn a_line_that_is_none_is_named_without_its_secret() {
        for (line, part) in [
            ("ann", "name:role:hash"),
            ("ann:root:x", "no role"),
            ("ann:admin:hunter2", "none of Argon2"),
        ] {
            let error = Users::parse(&format!("# comment\n\n{line}\n")).unwrap_err();
            assert!(error.starts_with("line 3: ") && error.contains(part), "{error}");
            assert!(!error.contains("hunter2"));
        }
    }
}
