//! Tokens: what a client says in place of a password once it has said it.
//!
//! A token names a session and a user and is signed, so that nothing has to be kept of it, and a
//! coordinator that is started again takes it. It ends at a time, and with its user's password.

use std::time::{Duration, SystemTime};

use super::key::SigningKey;

/// What a token begins with: the way in which it is made.
const VERSION: &str = "skep1";
const PURPOSE: &str = "token";

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claims {
    /// The session.
    pub(super) session: String,
    /// Whose it is.
    pub(super) user: String,
    /// Changes with the user's password.
    pub(super) generation: String,
    /// When it was given.
    pub(super) issued: SystemTime,
    /// When it ends.
    pub(super) expires: SystemTime,
}

impl Claims {
    /// Writes the token. Shape: text that HTTP and SQL leave alone.
    pub(super) fn sign(&self, key: &SigningKey) -> String {
        let Self { session, user, generation, issued, expires } = self;
        let (issued, expires) = (seconds(*issued), seconds(*expires));
        let text = format!("{VERSION}.{session}.{issued:x}.{expires:x}.{generation}.{user}");
        let signature = key.sign(PURPOSE, &text);
        format!("{text}.{signature}")
    }

    /// Reads a token; nothing if this key has not signed it, or it has ended.
    pub(super) fn verify(key: &SigningKey, token: &str, now: SystemTime) -> Option<Self> {
        let (text, signature) = token.rsplit_once('.')?;
        if !key.has_signed(PURPOSE, text, signature) {
            return None;
        }
        // The user comes last and may have points.
        let mut parts = text.splitn(6, '.');
        if parts.next() != Some(VERSION) {
            return None;
        }
        let session = parts.next()?.to_owned();
        let issued = time(parts.next()?)?;
        let expires = time(parts.next()?)?;
        let generation = parts.next()?.to_owned();
        let user = parts.next()?.to_owned();
        (now < expires).then_some(Self { session, user, generation, issued, expires })
    }

    /// Returns whether a text may be a token, of whatever key.
    pub(super) fn looks_like(text: &str) -> bool {
        text.strip_prefix(VERSION).is_some_and(|rest| rest.starts_with('.'))
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn time(hexadecimal: &str) -> Option<SystemTime> {
    let seconds = u64::from_str_radix(hexadecimal, 16).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(now: SystemTime) -> Claims {
        Claims {
            session: "5e55".to_owned(),
            user: "ann.b@example.org".to_owned(),
            generation: "9e".to_owned(),
            issued: now,
            expires: now + Duration::from_secs(60),
        }
    }

    #[test]
    fn a_token_says_what_was_signed_until_it_ends() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let (key, claims) = (SigningKey::fresh().unwrap(), claims(now));
        let token = claims.sign(&key);
        assert!(Claims::looks_like(&token));
        assert_eq!(Claims::verify(&key, &token, now), Some(claims.clone()));
        assert_eq!(Claims::verify(&key, &token, claims.expires), None);
        assert_eq!(Claims::verify(&SigningKey::fresh().unwrap(), &token, now), None);
        for changed in [
            token.replace("ann", "eve"),
            token.replace(".5e55.", ".5e56."),
            token[1..].to_owned(),
            token[..token.len() - 1].to_owned(),
            String::new(),
            "skep1.a.b.c.d.e.f".to_owned(),
        ] {
            assert_eq!(Claims::verify(&key, &changed, now), None, "{changed}");
        }
    }
}
