//! Handles and tickets: what a client hands back to be recognised by.
//!
//! One holds all that it stands for, with a signature and a time at which it ends. So nothing is kept
//! for a handle that a client forgets, and none can be made up or changed. The key is that of tokens:
//! where a coordinator that is started again takes the token of a session, it takes its handles too.
//!
//! **Invariant:** whoever reads one learns nothing but what its client said: it does not hold the
//! session's token.

use std::fmt;
use std::time::{Duration, SystemTime};

use prost::Message;
use prost_types::Timestamp;
use ring::hmac;
use skep_proto::ErrorCode;
use tonic::Status;

use crate::auth::SigningKey;
use crate::status::refuse;

/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 32;

/// What a handle is for; one is not taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Purpose {
    /// Nothing.
    Unspecified = 0,
    /// A result to be fetched.
    Result = 1,
    /// A prepared statement.
    Prepared = 2,
    /// A statement whose progress is asked for.
    Poll = 3,
}

/// What a handle says.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Claim {
    /// What it is for.
    #[prost(enumeration = "Purpose", tag = "1")]
    pub(super) purpose: i32,
    /// The session in which it was given.
    #[prost(uint64, tag = "2")]
    pub(super) session: u64,
    /// The statement that ran, if one did.
    #[prost(uint64, tag = "3")]
    pub(super) query: u64,
    /// Its text; empty for a plan.
    #[prost(string, tag = "4")]
    pub(super) sql: String,
    /// The values of its parameters, as an Arrow IPC stream; empty for none.
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) parameters: bytes::Bytes,
    /// Whether types stay as the engine has them.
    #[prost(bool, tag = "6")]
    pub(super) is_exact: bool,
    /// The columns that were announced, as Flight encodes them.
    #[prost(bytes = "bytes", tag = "7")]
    pub(super) schema: bytes::Bytes,
    /// When it ends. Units: milliseconds since 1970.
    #[prost(uint64, tag = "8")]
    pub(super) expires: u64,
    /// A Substrait plan in the place of a text; empty for a text.
    #[prost(bytes = "bytes", tag = "9")]
    pub(super) plan: bytes::Bytes,
    /// Where its bare names are looked up, whatever the session's schema is by then. There is one
    /// catalog.
    #[prost(string, tag = "10")]
    pub(super) in_schema: String,
}

impl Claim {
    /// Returns when it ends.
    pub(super) fn expires_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.expires)
    }

    /// Returns when it ends, as Flight says it.
    pub(super) fn expiration_time(&self) -> Timestamp {
        let nanos = (self.expires % 1000) as i32 * 1_000_000;
        Timestamp { seconds: (self.expires / 1000) as i64, nanos }
    }

    /// Says when it ends.
    pub(super) fn expiring_at(mut self, time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.expires = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self
    }
}

/// Signs handles, and knows them again.
pub(super) struct Tickets {
    key: hmac::Key,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl Tickets {
    /// Signs with a key that is made of this one.
    pub(super) fn new(key: &SigningKey) -> Self {
        Self { key: key.derive("handles and tickets") }
    }

    /// Signs a claim.
    pub(super) fn seal(&self, claim: &Claim) -> bytes::Bytes {
        let body = claim.encode_to_vec();
        let signature = hmac::sign(&self.key, &body);
        [signature.as_ref(), &body].concat().into()
    }

    /// Reads a handle that was given for this purpose in this session.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what is no such handle of this key; `PERMISSION_DENIED` if it is
    /// another session's; `NOT_FOUND` once it has ended.
    pub(super) fn open(
        &self,
        purpose: Purpose,
        session: u64,
        handle: &[u8],
        now: SystemTime,
    ) -> Result<Claim, Status> {
        let claim = self.read(handle).filter(|claim| claim.purpose() == purpose);
        let Some(claim) = claim else {
            return Err(refuse(
                ErrorCode::InvalidArgument,
                match purpose {
                    Purpose::Prepared => "this is no handle of a prepared statement",
                    _ => "this is no ticket of a result",
                },
                "handles and tickets are handed back unchanged, to the coordinator that gave them; one that was started again knows them if it has a --data-dir",
            ));
        };
        if claim.session != session {
            return Err(refuse(
                ErrorCode::PermissionDenied,
                "it was given to another session",
                "say the same token or cookie, or use the same connection, as when it was given",
            ));
        }
        if claim.expires_at() <= now {
            return Err(refuse(
                ErrorCode::NotFound,
                "it has expired",
                "run the statement again, or prepare it again",
            ));
        }
        Ok(claim)
    }

    /// Tells whether a text is a handle for this purpose, whosever it is.
    pub(super) fn is(&self, purpose: Purpose, handle: &[u8]) -> bool {
        self.read(handle).is_some_and(|claim| claim.purpose() == purpose)
    }

    fn read(&self, handle: &[u8]) -> Option<Claim> {
        let (signature, body) = handle.split_at_checked(SIGNATURE_BYTES)?;
        hmac::verify(&self.key, body, signature).ok()?;
        Claim::decode(body).ok()
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn fresh() -> Tickets {
        Tickets::new(&SigningKey::fresh().unwrap())
    }

    fn claim(purpose: Purpose) -> Claim {
        Claim {
            purpose: purpose.into(),
            session: 3,
            query: 7,
            sql: "SELECT 1".to_owned(),
            ..Claim::default()
        }
    }

    #[test]
    fn a_handle_is_known_again_by_whom_it_was_given_to_until_it_ends() {
        let tickets = fresh();
        let now = SystemTime::now();
        let end = now + Duration::from_secs(1);
        let claim = claim(Purpose::Result).expiring_at(end);
        let handle = tickets.seal(&claim);
        let opened = tickets.open(Purpose::Result, 3, &handle, now).unwrap();
        assert_eq!(opened, claim);
        let code = |purpose, session, now| {
            tickets.open(purpose, session, &handle, now).unwrap_err().code()
        };
        assert_eq!(code(Purpose::Prepared, 3, now), Code::InvalidArgument);
        assert_eq!(code(Purpose::Result, 4, now), Code::PermissionDenied);
        assert_eq!(code(Purpose::Result, 3, end), Code::NotFound);
    }

    #[test]
    fn a_changed_handle_is_no_handle() {
        let tickets = fresh();
        let now = SystemTime::now();
        let claim = claim(Purpose::Prepared).expiring_at(now + Duration::from_secs(1));
        let handle = tickets.seal(&claim).to_vec();
        for idx in 0..handle.len() {
            let mut changed = handle.clone();
            changed[idx] ^= 1;
            let refused = tickets.open(Purpose::Prepared, 3, &changed, now).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
        }
        for length in [0, 1, SIGNATURE_BYTES, handle.len() - 1] {
            assert!(tickets.open(Purpose::Prepared, 3, &handle[..length], now).is_err());
        }
        let foreign = fresh().seal(&claim);
        assert!(tickets.open(Purpose::Prepared, 3, &foreign, now).is_err());
        // The same key makes the same.
        let key = SigningKey::fresh().unwrap();
        let sealed = Tickets::new(&key).seal(&claim);
        assert_eq!(Tickets::new(&key).open(Purpose::Prepared, 3, &sealed, now).unwrap(), claim);
    }
}
