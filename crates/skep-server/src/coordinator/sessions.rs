//! The sessions of clients, and how a request says which one it is of.
//!
//! In this order: by the token of a handshake (`authorization: Bearer ...`), by a cookie, by the
//! connection that it comes over. The last is for clients that begin without a handshake and keep no
//! cookies, as ADBC's driver does without a user: their first request opens a session, which ends
//! with the connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use skep_engine::{Engine, Session};
use skep_proto::ErrorCode;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::config::SessionsConfig;
use crate::listen::{Life, Peers};
use crate::secret::unguessable;
use crate::status::refuse;

/// How a token is said, before the token itself.
pub(super) const BEARER: &str = "Bearer ";

/// The name of the cookie that names a session.
const COOKIE: &str = "skep_session";

/// The header, and the option of a session, by which a client says that it takes views.
pub(super) const STRING_VIEW: &str = "string_view";

/// All sessions.
///
/// **Invariant:** a session that somebody holds is in use and is not closed for idleness.
#[derive(Debug)]
pub(super) struct Sessions {
    config: SessionsConfig,
    engine: Engine,
    peers: Peers,
    next_id: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    by_token: HashMap<String, Entry>,
    /// The tokens of sessions that hang on a connection.
    by_peer: HashMap<SocketAddr, String>,
}

/// A session and its names. Whoever holds it, uses it.
pub(super) struct OpenSession {
    /// What its client names it by, and nobody else may know.
    pub(super) token: String,
    /// What handles name it by.
    pub(super) id: u64,
    /// What statements run in.
    pub(super) session: Session,
    /// Whether its client takes views.
    takes_views: AtomicBool,
}

#[derive(Debug)]
struct Entry {
    session: Arc<OpenSession>,
    last_used: Instant,
    /// The connection with which it ends.
    peer: Option<(SocketAddr, Life)>,
}

/// The session of a request.
#[derive(Debug)]
pub(super) struct Entered {
    /// The session.
    pub(super) session: Arc<OpenSession>,
    /// The cookie that the answer sets, if the session is new.
    pub(super) cookie: Option<String>,
}

impl std::fmt::Debug for OpenSession {
    /// Leaves the token out: whoever reads it could use it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenSession").field("id", &self.id).finish_non_exhaustive()
    }
}

impl OpenSession {
    /// Makes one.
    pub(super) fn new(token: String, id: u64, session: Session) -> Self {
        Self { token, id, session, takes_views: AtomicBool::new(false) }
    }

    /// Returns whether its client takes views.
    pub(super) fn takes_views(&self) -> bool {
        self.takes_views.load(Ordering::Relaxed)
    }

    /// Says whether its client takes views.
    pub(super) fn set_takes_views(&self, takes: bool) {
        self.takes_views.store(takes, Ordering::Relaxed);
    }
}

impl Sessions {
    /// Makes an empty set, for requests that come from these peers.
    pub(super) fn new(config: SessionsConfig, engine: Engine, peers: Peers) -> Self {
        Self { config, engine, peers, next_id: AtomicU64::new(1), open: Mutex::default() }
    }

    /// Returns a session that is nobody's, to look at the engine.
    pub(super) fn bare_session(&self) -> Session {
        self.engine.session()
    }

    /// Opens a session and returns its token.
    ///
    /// # Errors
    /// `UNAVAILABLE` if there are too many.
    pub(super) fn open(&self, now: Instant) -> Result<String, Status> {
        Ok(self.open_for(None, now)?.token.clone())
    }

    /// Returns the session of a request, and opens one if it names none.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if it names one that is not open; `UNAVAILABLE` if there are too many.
    pub(super) fn enter<T>(&self, request: &Request<T>, now: Instant) -> Result<Entered, Status> {
        self.enter_from(request.metadata(), request.remote_addr(), now)
    }

    fn enter_from(
        &self,
        headers: &MetadataMap,
        peer: Option<SocketAddr>,
        now: Instant,
    ) -> Result<Entered, Status> {
        if bearer(headers).is_some() {
            return Ok(Entered { session: self.of(headers, now)?, cookie: None });
        }
        let entered = |session| Entered { session, cookie: None };
        if let Some(session) = cookie(headers).and_then(|token| self.find(&token, now)) {
            return Ok(entered(session));
        }
        let life = peer.and_then(|peer| Some((peer, self.peers.life(peer)?)));
        let Some((peer, life)) = life else {
            let hint = "begin with a handshake, and say its token with each request: authorization: Bearer ...";
            return Err(refuse(ErrorCode::Unauthenticated, "the request names no session", hint));
        };
        let known = {
            let open = self.open.lock();
            let token = open.by_peer.get(&peer);
            let entry = token.and_then(|token| open.by_token.get(token));
            // Another connection from the same place is another client.
            let is_same =
                |entry: &&Entry| entry.peer.as_ref().is_some_and(|(_, known)| known.ptr_eq(&life));
            entry.filter(is_same).map(|entry| entry.session.token.clone())
        };
        if let Some(session) = known.and_then(|token| self.find(&token, now)) {
            return Ok(entered(session));
        }
        let session = self.open_for(Some((peer, life)), now)?;
        let cookie = format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict", session.token);
        Ok(Entered { session, cookie: Some(cookie) })
    }

    fn open_for(
        &self,
        peer: Option<(SocketAddr, Life)>,
        now: Instant,
    ) -> Result<Arc<OpenSession>, Status> {
        // Making a session takes a while; nobody else should wait for it.
        let token = unguessable();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(OpenSession::new(token.clone(), id, self.engine.session()));
        drop(self.expire(now));
        let mut open = self.open.lock();
        let count = open.by_token.len();
        if count >= self.config.max_count {
            drop(open);
            let message = format!("too many sessions: {count} are open");
            let hint = "try again later, or raise max_count in [sessions]";
            return Err(refuse(ErrorCode::Unavailable, message, hint));
        }
        if let Some((place, _)) = &peer {
            open.by_peer.insert(*place, token.clone());
        }
        let entry = Entry { session: Arc::clone(&session), last_used: now, peer };
        open.by_token.insert(token, entry);
        Ok(session)
    }

    /// Returns the session that a request names by its token.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if it names none, or one that is not open.
    pub(super) fn of(
        &self,
        headers: &MetadataMap,
        now: Instant,
    ) -> Result<Arc<OpenSession>, Status> {
        let Some(token) = bearer(headers) else {
            let hint = "begin with a handshake, and say its token with each request: authorization: Bearer ...";
            return Err(refuse(ErrorCode::Unauthenticated, "the request names no session", hint));
        };
        self.find(token, now).ok_or_else(|| {
            refuse(
                ErrorCode::Unauthenticated,
                "the session has ended",
                "it was closed, idle for too long, or of a coordinator that has restarted: connect again",
            )
        })
    }

    fn find(&self, token: &str, now: Instant) -> Option<Arc<OpenSession>> {
        let mut open = self.open.lock();
        let entry = open.by_token.get_mut(token)?;
        entry.last_used = now;
        Some(Arc::clone(&entry.session))
    }

    /// Closes a session; its temporary tables go when nothing uses it any more.
    pub(super) fn close(&self, token: &str) {
        let closed = self.open.lock().remove(token);
        drop(closed);
    }

    /// Returns whether a statement of any session runs, or its rows flow.
    pub(super) fn are_in_use(&self) -> bool {
        self.open.lock().by_token.values().any(|entry| Arc::strong_count(&entry.session) > 1)
    }

    /// Closes all sessions.
    pub(super) fn close_all(&self) {
        let closed = std::mem::take(&mut *self.open.lock());
        drop(closed);
    }

    /// Closes the sessions that were idle for too long, or whose connection is gone.
    pub(super) fn sweep(&self, now: Instant) {
        drop(self.expire(now));
    }

    /// Takes out what was idle for too long; to be dropped without the lock, as files go with it.
    fn expire(&self, now: Instant) -> Vec<Entry> {
        let mut open = self.open.lock();
        let mut ended = Vec::new();
        for (token, entry) in &mut open.by_token {
            if Arc::strong_count(&entry.session) > 1 {
                entry.last_used = now;
                continue;
            }
            let is_gone = entry.peer.as_ref().is_some_and(|(_, life)| life.is_over());
            let idle = now.saturating_duration_since(entry.last_used);
            if is_gone || idle >= self.config.idle_timeout {
                ended.push(token.clone());
            }
        }
        ended.iter().filter_map(|token| open.remove(token)).collect()
    }
}

impl Open {
    fn remove(&mut self, token: &str) -> Option<Entry> {
        let entry = self.by_token.remove(token)?;
        if let Some((peer, _)) = &entry.peer
            && self.by_peer.get(peer).is_some_and(|known| known == token)
        {
            self.by_peer.remove(peer);
        }
        Some(entry)
    }
}

/// Returns the token that a request says.
fn bearer(headers: &MetadataMap) -> Option<&str> {
    let said = headers.get("authorization")?.to_str().ok()?;
    said.strip_prefix(BEARER)
}

/// Returns the token that a request's cookie says.
fn cookie(headers: &MetadataMap) -> Option<String> {
    headers.get_all("cookie").iter().find_map(|value| {
        value.to_str().ok()?.split(';').find_map(|part| {
            let (name, value) = part.split_once('=')?;
            (name.trim() == COOKIE).then(|| value.trim().trim_matches('"').to_owned())
        })
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
        Sessions::new(SessionsConfig { max_count, idle_timeout: IDLE }, engine, Peers::default())
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

    fn peer(port: u16) -> Option<SocketAddr> {
        Some(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    #[tokio::test]
    async fn a_client_without_a_token_has_a_session_for_each_connection() {
        let sessions = sessions(8).await;
        let now = Instant::now();
        let none = MetadataMap::new();
        let first = sessions.peers.arrived(peer(1).unwrap());
        let _second = sessions.peers.arrived(peer(2).unwrap());
        let opened = sessions.enter_from(&none, peer(1), now).unwrap();
        let again = sessions.enter_from(&none, peer(1), now).unwrap();
        assert_eq!(opened.session.id, again.session.id);
        assert!(opened.cookie.is_some() && again.cookie.is_none());
        let other = sessions.enter_from(&none, peer(2), now).unwrap();
        assert_ne!(other.session.id, opened.session.id);
        // A place that nobody is connected from.
        let refused = sessions.enter_from(&none, peer(3), now).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        // Somebody else has the same place later.
        drop(first);
        let _next = sessions.peers.arrived(peer(1).unwrap());
        let next = sessions.enter_from(&none, peer(1), now).unwrap();
        assert_ne!(next.session.id, opened.session.id);
        let (old, new) = (opened.session.token.clone(), next.session.token.clone());
        drop((opened, again, next));
        sessions.sweep(now);
        assert!(sessions.find(&old, now).is_none());
        assert!(sessions.find(&new, now).is_some());
    }

    #[tokio::test]
    async fn a_cookie_names_a_session_over_any_connection() {
        let sessions = sessions(8).await;
        let now = Instant::now();
        let _first = sessions.peers.arrived(peer(1).unwrap());
        let _second = sessions.peers.arrived(peer(2).unwrap());
        let opened = sessions.enter_from(&MetadataMap::new(), peer(1), now).unwrap();
        let said = opened.cookie.clone().unwrap();
        let mut headers = MetadataMap::new();
        let said = format!("other=1; {}", said.split(';').next().unwrap());
        headers.insert("cookie", said.parse().unwrap());
        let entered = sessions.enter_from(&headers, peer(2), now).unwrap();
        assert_eq!(entered.session.id, opened.session.id);
        headers.insert("cookie", format!("{COOKIE}=guess").parse().unwrap());
        let fresh = sessions.enter_from(&headers, peer(2), now).unwrap();
        assert_ne!(fresh.session.id, opened.session.id);
        assert!(fresh.cookie.is_some());
    }
}
