//! The sessions of clients, by the names that the gate gives them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ring::digest;
use skep_engine::{Engine, Principal, Session};
use skep_proto::ErrorCode;
use tonic::{Extensions, Status};
use tracing::info;

use super::place::Place;
use crate::auth::gate::Caller;
use crate::config::SessionsConfig;
use crate::connection::ConnectionLife;
use crate::secret::unguessable;
use crate::status::refuse;

/// How many closed sessions are remembered: one that was given before the coordinator started is
/// opened again, but not if it was closed since.
const REMEMBERED_CLOSED: usize = 4096;

/// How many connections a session is known to be used on; one that has more at a time is not taken
/// for left, whatever becomes of them.
const KNOWN_CONNECTIONS: usize = 64;

/// The header, and the option of a session, by which a client says that it takes views.
pub(super) const STRING_VIEW: &str = "string_view";

/// All sessions.
///
/// **Invariant:** a session that somebody holds is in use and is not closed for idleness.
#[derive(Debug)]
pub(super) struct Sessions {
    config: SessionsConfig,
    engine: Engine,
    /// What ids of connections' sessions are made with: connections are counted anew by each process.
    nonce: String,
    open: Mutex<HashMap<String, Entry>>,
    /// Oldest first.
    closed: Mutex<VecDeque<String>>,
}

/// A session and its name. Whoever holds it, uses it.
pub(super) struct OpenSession {
    /// Its name.
    pub(super) token: String,
    /// What handles name it by: nobody can use it by that.
    pub(super) id: u64,
    /// What statements run in.
    pub(super) session: Session,
    /// Whether its client takes views.
    takes_views: AtomicBool,
    /// Whether headers have said where it looks names up.
    has_place: Mutex<bool>,
}

#[derive(Debug)]
struct Entry {
    session: Arc<OpenSession>,
    /// Whose it is.
    principal: Principal,
    /// The connection that it ends with, if any.
    life: Option<Weak<ConnectionLife>>,
    connections: Connections,
    last_used: Instant,
}

/// The connections on which a session was used.
#[derive(Debug, Default)]
struct Connections {
    known: Vec<Weak<ConnectionLife>>,
    /// Whether there were more at a time than are kept.
    are_too_many: bool,
    /// When it was first seen that all of them are gone.
    gone_since: Option<Instant>,
}

impl Connections {
    /// Notes that the session is used on a connection.
    fn note(&mut self, connection: Option<&Weak<ConnectionLife>>) {
        let Some(connection) = connection else { return };
        self.gone_since = None;
        if self.are_too_many || self.known.iter().any(|known| known.ptr_eq(connection)) {
            return;
        }
        if self.known.len() >= KNOWN_CONNECTIONS {
            self.known.retain(|known| known.strong_count() > 0);
            self.are_too_many = self.known.len() >= KNOWN_CONNECTIONS;
        }
        self.known.push(Weak::clone(connection));
    }

    /// Tells whether all have been gone for so long.
    fn are_gone_for(&mut self, timeout: Duration, now: Instant) -> bool {
        let is_one_there = self.known.iter().any(|known| known.strong_count() > 0);
        if self.known.is_empty() || self.are_too_many || is_one_there {
            return false;
        }
        let since = *self.gone_since.get_or_insert(now);
        now.saturating_duration_since(since) >= timeout
    }
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
        let (takes_views, has_place) = (AtomicBool::new(false), Mutex::new(false));
        Self { token, id, session, takes_views, has_place }
    }

    /// Takes in where its client wants names to be looked up, the first time that it says so.
    ///
    /// # Errors
    /// As [`Place::apply`]; then it has not been said yet.
    pub(super) fn begin_in(&self, place: &Place) -> Result<(), Status> {
        if place.is_empty() {
            return Ok(());
        }
        let mut has_place = self.has_place.lock();
        if !*has_place {
            place.apply(self)?;
            *has_place = true;
        }
        Ok(())
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
    /// Makes an empty set.
    pub(super) fn new(config: SessionsConfig, engine: Engine) -> Self {
        let nonce = unguessable();
        Self { config, engine, nonce, open: Mutex::default(), closed: Mutex::default() }
    }

    /// Returns a session that is nobody's, to look at the engine.
    pub(super) fn bare_session(&self) -> Session {
        self.engine.session()
    }

    /// Opens the session that a caller names.
    ///
    /// # Errors
    /// `UNAVAILABLE` if there are too many.
    pub(super) fn open(&self, caller: &Caller, now: Instant) -> Result<Arc<OpenSession>, Status> {
        // Making a session takes a while; nobody else should wait for it.
        let token = caller.session.clone();
        let session = self.engine.session_of(caller.principal.clone());
        let id = self.id_of(caller);
        let session = Arc::new(OpenSession::new(token.clone(), id, session));
        drop(self.expire(now));
        let mut open = self.open.lock();
        if let Some(entry) = open.get_mut(&token).filter(|it| it.principal == caller.principal) {
            // Another request of the caller was faster.
            entry.last_used = now;
            entry.connections.note(caller.connection.as_ref());
            return Ok(Arc::clone(&entry.session));
        }
        if open.len() >= self.config.max_count {
            let message = format!("too many sessions: {} are open", open.len());
            let hint = "try again later, or raise max_count in [sessions]";
            return Err(refuse(ErrorCode::Unavailable, message, hint));
        }
        let mut connections = Connections::default();
        connections.note(caller.connection.as_ref());
        let entry = Entry {
            session: Arc::clone(&session),
            principal: caller.principal.clone(),
            life: caller.life.clone(),
            connections,
            last_used: now,
        };
        drop(open.insert(token, entry));
        Ok(session)
    }

    /// Returns what handles name a session by. A session that a coordinator that was started again
    /// opens anew has the id that it had, and so its client's handles.
    fn id_of(&self, caller: &Caller) -> u64 {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(caller.session.as_bytes());
        if caller.life.is_some() {
            context.update(&[0]);
            context.update(self.nonce.as_bytes());
        }
        let digest = context.finish();
        digest.as_ref().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
    }

    /// Returns the session of a request that came through the gate.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if it is not open, and not to be opened; as [`open`](Self::open) otherwise.
    pub(super) fn of(
        &self,
        extensions: &Extensions,
        now: Instant,
    ) -> Result<Arc<OpenSession>, Status> {
        let caller = Caller::of(extensions)?;
        let mut open = self.open.lock();
        match open.get_mut(&caller.session) {
            Some(entry) if entry.principal == caller.principal => {
                entry.last_used = now;
                entry.connections.note(caller.connection.as_ref());
                return Ok(Arc::clone(&entry.session));
            }
            Some(_) => return Err(ended()),
            None => drop(open),
        }
        match caller.opens && !self.closed.lock().contains(&caller.session) {
            true => {
                if caller.life.is_none() {
                    let user = &caller.principal.user;
                    info!(%user, "a session from before the start begins anew, with the defaults");
                }
                self.open(caller, now)
            }
            false => Err(ended()),
        }
    }

    /// Closes a session; its temporary tables go when nothing uses it any more.
    pub(super) fn close(&self, token: &str) {
        let mut closed = self.closed.lock();
        if closed.len() >= REMEMBERED_CLOSED {
            closed.pop_front();
        }
        closed.push_back(token.to_owned());
        drop(closed);
        let closed = self.open.lock().remove(token);
        drop(closed);
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
            let is_used = Arc::strong_count(&entry.session) > 1;
            if is_used {
                entry.last_used = now;
            }
            let is_idle =
                now.saturating_duration_since(entry.last_used) >= self.config.idle_timeout;
            let is_alone = entry.life.as_ref().is_some_and(|life| life.strong_count() == 0);
            let is_left = entry.connections.are_gone_for(self.config.left_timeout, now);
            is_idle || ((is_alone || is_left) && !is_used)
        });
        extracted.map(|(_, entry)| entry).collect()
    }
}

fn ended() -> Status {
    refuse(
        ErrorCode::Unauthenticated,
        "the session has ended",
        "it was closed or idle for too long, or its user may do something else now: connect again",
    )
}

#[cfg(test)]
mod tests {
    use skep_engine::{EngineConfig, Role};
    use tonic::Code;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);
    const LEFT: Duration = Duration::from_secs(20);

    async fn sessions(max_count: usize) -> Sessions {
        let config = EngineConfig { memory_limit: Some(64 << 20), ..EngineConfig::default() };
        let engine = Engine::open(config).await.unwrap();
        Sessions::new(SessionsConfig { max_count, idle_timeout: IDLE, left_timeout: LEFT }, engine)
    }

    fn caller(session: &str) -> Caller {
        Caller {
            principal: Principal::anonymous(),
            session: session.to_owned(),
            opens: false,
            life: None,
            connection: None,
            token: None,
        }
    }

    fn request(caller: &Caller) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(caller.clone());
        extensions
    }

    #[tokio::test]
    async fn a_session_is_found_by_its_name_alone() {
        let sessions = sessions(2).await;
        let now = Instant::now();
        let known = caller("a");
        drop(sessions.open(&known, now).unwrap());
        assert_eq!(sessions.of(&request(&known), now).unwrap().token, "a");
        let other = Caller { principal: Principal::new("eve", Role::Admin), ..caller("a") };
        for caller in [caller("guess"), other] {
            let error = sessions.of(&request(&caller), now).unwrap_err();
            assert_eq!(error.code(), Code::Unauthenticated);
        }
        assert_eq!(sessions.of(&Extensions::new(), now).unwrap_err().code(), Code::Internal);
        sessions.close("a");
        assert_eq!(sessions.of(&request(&known), now).unwrap_err().code(), Code::Unauthenticated);
    }

    #[tokio::test]
    async fn a_session_from_before_is_opened_again_until_it_is_closed() {
        let sessions = sessions(2).await;
        let now = Instant::now();
        let before = Caller { opens: true, ..caller("before") };
        let first = sessions.of(&request(&before), now).unwrap();
        assert!(Arc::ptr_eq(&first, &sessions.of(&request(&before), now).unwrap()));
        sessions.close("before");
        assert_eq!(sessions.of(&request(&before), now).unwrap_err().code(), Code::Unauthenticated);
    }

    #[tokio::test]
    async fn a_session_of_a_connection_ends_with_it() {
        let sessions = sessions(2).await;
        let now = Instant::now();
        // Of a connection that is gone.
        let connected = Caller { opens: true, life: Some(Weak::new()), ..caller("connection") };
        let held = sessions.of(&request(&connected), now).unwrap();
        sessions.sweep(now);
        assert!(Arc::ptr_eq(&held, &sessions.of(&request(&connected), now).unwrap()));
        let first = Arc::downgrade(&held);
        drop(held);
        sessions.sweep(now);
        assert!(first.upgrade().is_none());
    }

    #[tokio::test]
    async fn a_session_that_was_logged_into_outlives_its_connections_for_a_while() {
        let sessions = sessions(2).await;
        let start = Instant::now();
        let (first, second) = (ConnectionLife::alone(1), ConnectionLife::alone(2));
        let on = |life: &Arc<ConnectionLife>| {
            let connection = Some(Arc::downgrade(life));
            request(&Caller { connection, ..caller("login") })
        };
        let login = Caller { connection: Some(Arc::downgrade(&first)), ..caller("login") };
        drop(sessions.open(&login, start).unwrap());
        drop(sessions.of(&on(&second), start).unwrap());
        drop(first);
        sessions.sweep(start + LEFT);
        // One is still there.
        drop(sessions.of(&on(&second), start + LEFT).unwrap());
        drop(second);
        let gone = start + LEFT + LEFT;
        sessions.sweep(gone);
        sessions.sweep(gone + LEFT / 2);
        // It comes back in time, and the count begins anew.
        let third = ConnectionLife::alone(3);
        let held = sessions.of(&on(&third), gone + LEFT / 2).unwrap();
        drop(third);
        let gone = gone + LEFT / 2;
        sessions.sweep(gone);
        sessions.sweep(gone + LEFT);
        let known = request(&caller("login"));
        // Whatever runs in it goes on.
        assert!(sessions.of(&known, gone + LEFT).is_ok());
        drop(held);
        sessions.sweep(gone + LEFT);
        assert!(sessions.of(&known, gone + LEFT).is_err());
    }

    #[tokio::test]
    async fn there_are_only_so_many() {
        let sessions = sessions(1).await;
        let now = Instant::now();
        drop(sessions.open(&caller("a"), now).unwrap());
        assert_eq!(sessions.open(&caller("b"), now).unwrap_err().code(), Code::Unavailable);
        sessions.close("a");
        assert!(sessions.open(&caller("b"), now).is_ok());
        // An idle one makes room.
        assert!(sessions.open(&caller("c"), now + IDLE).is_ok());
    }

    #[tokio::test]
    async fn idle_sessions_are_closed_and_used_ones_are_not() {
        let sessions = sessions(2).await;
        let start = Instant::now();
        let (idle, used) = (request(&caller("idle")), request(&caller("used")));
        drop(sessions.open(&caller("idle"), start).unwrap());
        drop(sessions.open(&caller("used"), start).unwrap());
        let held = sessions.of(&used, start).unwrap();
        sessions.sweep(start + IDLE);
        assert!(sessions.of(&idle, start + IDLE).is_err());
        assert!(sessions.of(&used, start + IDLE).is_ok());
        drop(held);
        sessions.sweep(start + IDLE + IDLE / 2);
        assert!(sessions.of(&used, start + IDLE).is_ok());
        sessions.sweep(start + IDLE + IDLE + IDLE);
        assert!(sessions.of(&used, start + IDLE).is_err());
    }
}
