//! The key that tokens are signed with.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use super::users::private;
use crate::error::{Error, Result};

/// Its file in the data directory: whoever reads it can be anybody.
const FILE_NAME: &str = "token.key";

const KEY_BYTES: usize = 32;

/// A key, kept with the data so that a coordinator that is started again takes the tokens that the
/// one before gave.
#[derive(Clone)]
pub(crate) struct SigningKey(hmac::Key);

impl SigningKey {
    /// Makes a key that is forgotten with the process.
    ///
    /// # Errors
    /// [`Error::Internal`] if the system gives no random numbers.
    pub(crate) fn fresh() -> Result<Self> {
        Ok(Self::of(&random()?))
    }

    /// Reads the key of a data directory, or makes it.
    ///
    /// # Errors
    /// [`Error::Key`] if it cannot be read or written, or is none.
    pub(crate) fn of_data_dir(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE_NAME);
        let failed = |source| Error::Key { path: path.clone(), source };
        let staging = directory.join(format!("{FILE_NAME}.{}.new", std::process::id()));
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(directory).map_err(failed)?;
                let bytes = random()?;
                let written = private(&staging, OpenOptions::new().create_new(true).write(true))
                    .and_then(|mut file| {
                        file.write_all(&bytes)?;
                        file.sync_all()
                    })
                    // Another process may have been faster: its key stays.
                    .and_then(|()| fs::hard_link(&staging, &path));
                let _ = fs::remove_file(&staging);
                match written {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(failed(error));
                    }
                    Ok(()) | Err(_) => {}
                }
            }
            Ok(_) | Err(_) => {}
        }
        let bytes = fs::read(&path).map_err(failed)?;
        match bytes.len() {
            KEY_BYTES => Ok(Self::of(&bytes)),
            _ => Err(failed(io::Error::other("it is no key"))),
        }
    }

    fn of(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Signs a text, for this purpose alone. Shape: 64 hexadecimal digits.
    pub(crate) fn sign(&self, purpose: &str, text: &str) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(purpose.as_bytes());
        context.update(&[0]);
        context.update(text.as_bytes());
        context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Makes a key of its own for a purpose, from which this one cannot be found.
    pub(crate) fn derive(&self, purpose: &str) -> hmac::Key {
        // As of a signature for a purpose that no signature has.
        let mut context = hmac::Context::with_key(&self.0);
        context.update(b"derive");
        context.update(&[0, 0]);
        context.update(purpose.as_bytes());
        hmac::Key::new(hmac::HMAC_SHA256, context.sign().as_ref())
    }

    /// Tells whether it signed this text; takes as long whatever differs.
    pub(crate) fn has_signed(&self, purpose: &str, text: &str, signature: &str) -> bool {
        let expected = self.sign(purpose, text);
        let (given, expected) = (signature.as_bytes(), expected.as_bytes());
        let differing =
            given.iter().zip(expected).fold(0, |bits, (a, b)| std::hint::black_box(bits | (a ^ b)));
        given.len() == expected.len() && differing == 0
    }
}

fn random() -> Result<[u8; KEY_BYTES]> {
    let mut bytes = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_unspecified| Error::Internal {
        message: "the system gives no random numbers".to_owned(),
    })?;
    Ok(bytes)
}

impl fmt::Debug for SigningKey {
    /// Leaves the key out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_kept_with_the_data() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let first = SigningKey::of_data_dir(&data).unwrap();
        let again = SigningKey::of_data_dir(&data).unwrap();
        assert!(again.has_signed("a", "text", &first.sign("a", "text")));
        assert!(!again.has_signed("b", "text", &first.sign("a", "text")));
        assert!(!again.has_signed("a", "test", &first.sign("a", "text")));
        assert!(!again.has_signed("a", "text", ""));
        assert!(!SigningKey::fresh().unwrap().has_signed("a", "text", &first.sign("a", "text")));
        let file = data.join(FILE_NAME);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, "short").unwrap();
        assert!(matches!(SigningKey::of_data_dir(&data), Err(Error::Key { .. })));
    }
}
