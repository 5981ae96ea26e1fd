//! The sessions of clients, each behind a token that nobody can guess.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use skep_engine::{Engine, Session};
use skep_proto::ErrorCode;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::config::SessionsConfig;
use crate::secret::unguessable;
use crate::status::refuse;

/// How a token is said, before the token itself.
pub(super) const BEARER: &str = "Bearer ";

/// All sessions.
///
/// **Invariant:** a session that somebody holds is in use and is not closed for idleness.
#[derive(Debug)]
pub(super) struct Sessions {
    config: SessionsConfig,
    engine: Engine,
    open: Mutex<HashMap<String, Entry>>,
}

/// A session and its name. Whoever holds it, uses it.
pub(super) struct OpenSession {
    /// Its token.
    pub(super) token: String,
    /// What statements run in.
    pub(super) session: Session,
}

#[derive(Debug)]
struct Entry {
    session: Arc<OpenSession>,
    last_used: Instant,
}

impl std::fmt::Debug for OpenSession {
    /// Leaves the token out: whoever reads it could use it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenSession").finish_non_exhaustive()
    }
}

impl Sessions {
    /// Makes an empty set.
    pub(super) fn new(config: SessionsConfig, engine: Engine) -> Self {
        Self { config, engine, open: Mutex::default() }
    }

    /// Opens a session and returns its token.
    ///
    /// # Errors
    /// `UNAVAILABLE` if there are too many.
    pub(super) fn open(&self, now: Instant) -> Result<String, Status> {
        // Making a session takes a while; nobody else should wait for it.
        let token = unguessable();
        let session = OpenSession { token: token.clone(), session: self.engine.session() };
        let entry = Entry { session: Arc::new(session), last_used: now };
        drop(self.expire(now));
        let mut open = self.open.lock();
        if open.len() >= self.config.max_count {
            let message = format!("too many sessions: {} are open", open.len());
            let hint = "try again later, or raise max_count in [sessions]";
            return Err(refuse(ErrorCode::Unavailable, message, hint));
        }
        open.insert(token.clone(), entry);
        Ok(token)
    }

    /// Returns the session that a request names.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if it names none, or one that is not open.
    pub(super) fn of(
        &self,
        headers: &MetadataMap,
        now: Instant,
    ) -> Result<Arc<OpenSession>, Status> {
        let token = token(headers)?;
        let mut open = self.open.lock();
        let Some(entry) = open.get_mut(token) else {
            return Err(refuse(
                ErrorCode::Unauthenticated,
                "the session has ended",
                "it was closed, idle for too long, or of a coordinator that has restarted: connect again",
            ));
        };
        entry.last_used = now;
        Ok(Arc::clone(&entry.session))
    }

    /// Closes a session; its temporary tables go when nothing uses it any more.
    pub(super) fn close(&self, token: &str) {
        let closed = self.open.lock().remove(token);
        drop(closed);
    }

    /// Returns whether a statement of any session runs, or its rows flow.
    pub(super) fn are_in_use(&self) -> bool {
        self.open.lock().values().any(|entry| Arc::strong_count(&entry.session) > 1)
    }

    /// Closes all sessions.
    pub(super) fn close_all(&self) {
        let closed = std::mem::take(&mut *self.open.lock());
        drop(closed);
    }

    /// Closes the sessions that were idle for too long.
    pub(super) fn sweep(&self, now: Instant) {
        drop(self.expire(now));
    }

    /// Takes out what was idle for too long; to be dropped without the lock, as files go with it.
    fn expire(&self, now: Instant) -> Vec<Entry> {
        let mut open = self.open.lock();
        let extracted = open.extract_if(|_, entry| {
            if Arc::strong_count(&entry.session) > 1 {
                entry.last_used = now;
            }
            now.saturating_duration_since(entry.last_used) >= self.config.idle_timeout
        });
        extracted.map(|(_, entry)| entry).collect()
    }
}

/// Returns the token that a request says.
fn token(headers: &MetadataMap) -> Result<&str, Status> {
    let said = headers.get("authorization").and_then(|value| value.to_str().ok());
    said.and_then(|said| said.strip_prefix(BEARER)).ok_or_else(|| {
        let hint = "begin with a handshake, and say its token with each request: authorization: Bearer ...";
        refuse(ErrorCode::Unauthenticated, "the request names no session", hint)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use skep_engine::EngineConfig;
    use tonic::Code;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    async fn sessions(max_count: usize) -> Sessions {
        let config = EngineConfig { memory_limit: Some(64 << 20), ..EngineConfig::default() };
        let engine = Engine::open(config).await.unwrap();
        Sessions::new(SessionsConfig { max_count, idle_timeout: IDLE }, engine)
    }

    fn headers(token: &str) -> MetadataMap {
        let mut headers = MetadataMap::new();
        headers.insert("authorization", format!("{BEARER}{token}").parse().unwrap());
        headers
    }

    #[tokio::test]
    async fn a_session_is_found_by_its_token_alone() {
        let sessions = sessions(2).await;
        let now = Instant::now();
        let token = sessions.open(now).unwrap();
        assert_eq!(sessions.of(&headers(&token), now).unwrap().token, token);
        for headers in [headers("guess"), MetadataMap::new()] {
            assert_eq!(sessions.of(&headers, now).unwrap_err().code(), Code::Unauthenticated);
        }
        sessions.close(&token);
        assert_eq!(sessions.of(&headers(&token), now).unwrap_err().code(), Code::Unauthenticated);
    }

    #[tokio::test]
    async fn there_are_only_so_many() {
        let sessions = sessions(1).await;
        let now = Instant::now();
        let first = sessions.open(now).unwrap();
        assert_eq!(sessions.open(now).unwrap_err().code(), Code::Unavailable);
        sessions.close(&first);
        assert!(sessions.open(now).is_ok());
        // An idle one makes room.
        assert!(sessions.open(now + IDLE).is_ok());
    }

    #[tokio::test]
    async fn idle_sessions_are_closed_and_used_ones_are_not() {
        let sessions = sessions(2).await;
        let start = Instant::now();
        let idle = sessions.open(start).unwrap();
        let used = sessions.open(start).unwrap();
        assert!(!sessions.are_in_use());
        let held = sessions.of(&headers(&used), start).unwrap();
        assert!(sessions.are_in_use());
        sessions.sweep(start + IDLE);
        assert!(sessions.of(&headers(&idle), start + IDLE).is_err());
        assert!(sessions.of(&headers(&used), start + IDLE).is_ok());
        drop(held);
        sessions.sweep(start + IDLE + IDLE / 2);
        assert!(sessions.of(&headers(&used), start + IDLE).is_ok());
        sessions.sweep(start + IDLE + IDLE + IDLE);
        assert!(sessions.of(&headers(&used), start + IDLE).is_err());
    }
}
