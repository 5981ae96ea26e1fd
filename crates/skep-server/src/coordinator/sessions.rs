//! The sessions of clients, by the names that the gate gives them.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ring::digest;
use skep_engine::{Engine, Principal, Session};
use skep_proto::ErrorCode;
use tonic::Status;
use tracing::{info, warn};

use super::kept_sessions::{Keeper, KeptSessions, Note};
use super::place::Place;
use super::queries::reported;
use crate::auth::gate::Caller;
use crate::config::SessionsConfig;
use crate::connection::ConnectionLife;
use crate::secret::unguessable;
use crate::status::refuse;

/// How many connections a session is known to be used on; one that has more at a time is not taken
/// for left, whatever becomes of them.
const KNOWN_CONNECTIONS: usize = 64;

/// The header, and the option of a session, by which a client says that it takes views.
pub(super) const STRING_VIEW: &str = "string_view";

/// All sessions.
///
/// **Invariant:** a session that somebody holds is in use and is not closed for idleness.
///
/// **Invariant:** a session that was logged into and has ended is not opened again.
#[derive(Debug)]
pub(super) struct Sessions {
    config: SessionsConfig,
    engine: Engine,
    kept: KeptSessions,
    /// What ids of connections' sessions are made with: connections are counted anew by each process.
    nonce: String,
    open: Mutex<HashMap<String, Entry>>,
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
    /// Where it is kept, if it is.
    keeper: Option<Arc<Keeper>>,
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
        Self { token, id, session, takes_views, has_place, keeper: None }
    }

    /// Notes what it is like now, where it is kept: to be called after what may have changed it, and
    /// before that is told.
    ///
    /// # Errors
    /// `INTERNAL` if the disk does not take it: it is changed, but is not to be opened again so.
    pub(super) async fn keep(self: &Arc<Self>) -> Result<(), Status> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        if keeper.says(&self.note()) {
            return Ok(());
        }
        let (keeper, session) = (Arc::clone(keeper), Arc::clone(self));
        written(move || keeper.update(|| session.note())).await
    }

    fn note(&self) -> Note {
        Note {
            user: self.session.principal().user.to_string(),
            carried: self.session.carried(),
            takes_views: self.takes_views(),
            has_place: *self.has_place.lock(),
        }
    }

    /// Makes it what another one was.
    async fn restore(&self, note: &Note) -> Result<(), Status> {
        let carried = self.session.carry_over(&note.carried).await;
        carried.map_err(|error| {
            let why = reported(&error, 0);
            let message = format!("the session has ended with its coordinator: {}", why.message());
            refuse(ErrorCode::Unauthenticated, message, "connect again, and begin anew")
        })?;
        self.set_takes_views(note.takes_views);
        *self.has_place.lock() = note.has_place;
        Ok(())
    }

    /// Takes in where its client wants names to be looked up, the first time that it says so. Returns
    /// whether this was that.
    ///
    /// # Errors
    /// As [`Place::apply`]; then it has not been said yet.
    pub(super) fn begin_in(&self, place: &Place) -> Result<bool, Status> {
        if place.is_empty() {
            return Ok(false);
        }
        let mut has_place = self.has_place.lock();
        if *has_place {
            return Ok(false);
        }
        place.apply(self)?;
        *has_place = true;
        Ok(true)
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
    pub(super) fn new(config: SessionsConfig, engine: Engine, kept: KeptSessions) -> Self {
        Self { config, engine, kept, nonce: unguessable(), open: Mutex::default() }
    }

    /// Returns a session that is nobody's, to look at the engine.
    pub(super) fn bare_session(&self) -> Session {
        self.engine.session()
    }

    /// Opens the session that a caller begins.
    ///
    /// # Errors
    /// `UNAVAILABLE` if there are too many; `INTERNAL` if it cannot be kept.
    pub(super) async fn open(
        &self,
        caller: &Caller,
        now: Instant,
    ) -> Result<Arc<OpenSession>, Status> {
        // Making a session takes a while; nobody else should wait for it.
        let session = self.make(caller);
        let opened = self.enter(caller, Arc::new(session), now)?;
        if let Some(keeper) = &opened.keeper {
            let (keeper, note) = (Arc::clone(keeper), opened.note());
            if let Err(refused) = written(move || keeper.begin(note)).await {
                self.close(&opened.token);
                return Err(refused);
            }
        }
        Ok(opened)
    }

    /// Opens a session from before the coordinator's start, as it was.
    async fn reopen(&self, caller: &Caller, now: Instant) -> Result<Arc<OpenSession>, Status> {
        let session = self.make(caller);
        let Some(keeper) = session.keeper.clone() else { return Err(ended()) };
        let read = tokio::task::spawn_blocking(move || keeper.read()).await;
        let note = match read.map_err(io::Error::other).flatten() {
            Ok(Some(note)) if *note.user == *caller.principal.user => note,
            Ok(_) => return Err(ended()),
            Err(error) => {
                warn!(%error, "a session from before the start cannot be read");
                return Err(ended());
            }
        };
        session.restore(&note).await?;
        info!(user = %caller.principal.user, "a session from before the start goes on");
        self.enter(caller, Arc::new(session), now)
    }

    fn make(&self, caller: &Caller) -> OpenSession {
        let session = self.engine.session_of(caller.principal.clone());
        let opened = OpenSession::new(caller.session.clone(), self.id_of(caller), session);
        // One of a connection ends with the process, as that does.
        let is_kept = caller.life.is_none();
        let keeper = if is_kept { self.kept.keeper(&caller.session) } else { None };
        OpenSession { keeper, ..opened }
    }

    /// Takes a session in, unless another request of its caller was faster.
    fn enter(
        &self,
        caller: &Caller,
        session: Arc<OpenSession>,
        now: Instant,
    ) -> Result<Arc<OpenSession>, Status> {
        end(self.expire(now));
        let mut open = self.open.lock();
        if let Some(entry) =
            open.get_mut(&caller.session).filter(|it| it.principal == caller.principal)
        {
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
        drop(open.insert(caller.session.clone(), entry));
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

    /// Returns the session of somebody who came through the gate.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if it is not open, and not to be opened; as [`open`](Self::open) otherwise.
    pub(super) async fn of(
        &self,
        caller: &Caller,
        now: Instant,
    ) -> Result<Arc<OpenSession>, Status> {
        if let Some(entry) = self.open.lock().get_mut(&caller.session) {
            if entry.principal != caller.principal {
                return Err(ended());
            }
            entry.last_used = now;
            entry.connections.note(caller.connection.as_ref());
            return Ok(Arc::clone(&entry.session));
        }
        match (caller.opens, &caller.life) {
            (true, Some(_)) => self.open(caller, now).await,
            (true, None) => self.reopen(caller, now).await,
            (false, _) => Err(ended()),
        }
    }

    /// Closes a session; its temporary tables go when nothing uses it any more.
    pub(super) fn close(&self, token: &str) {
        let closed = self.open.lock().remove(token);
        end(closed);
    }

    /// Closes all sessions, but for what is kept of them: their clients may come back.
    pub(super) fn close_all(&self) {
        let closed = std::mem::take(&mut *self.open.lock());
        drop(closed);
    }

    /// Closes the sessions that were idle for too long.
    pub(super) fn sweep(&self, now: Instant) {
        end(self.expire(now));
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

/// Ends sessions that were taken out.
fn end(entries: impl IntoIterator<Item = Entry>) {
    for entry in entries {
        if let Some(keeper) = &entry.session.keeper {
            keeper.end();
        }
    }
}

/// Writes what is kept of a session. Not given up with the request: what has begun is done.
async fn written(write: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), Status> {
    let written = tokio::task::spawn_blocking(write).await;
    written.map_err(io::Error::other).flatten().map_err(|error| {
        warn!(%error, "a session cannot be kept");
        let message = format!("what the session was told cannot be kept: {error}");
        refuse(ErrorCode::Internal, message, "look at the disk of the coordinator's data directory")
    })
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
    use std::path::Path;

    use skep_engine::{EngineConfig, Role};
    use tonic::Code;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);
    const LEFT: Duration = Duration::from_secs(20);

    async fn engine() -> Engine {
        let config = EngineConfig { memory_limit: Some(64 << 20), ..EngineConfig::default() };
        Engine::open(config).await.unwrap()
    }

    async fn sessions(max_count: usize) -> Sessions {
        sessions_in(max_count, engine().await, None)
    }

    fn sessions_in(max_count: usize, engine: Engine, data_dir: Option<&Path>) -> Sessions {
        let config = SessionsConfig { max_count, idle_timeout: IDLE, left_timeout: LEFT };
        let kept = KeptSessions::open(data_dir, Duration::from_secs(600)).unwrap();
        Sessions::new(config, engine, kept)
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

    #[tokio::test]
    async fn a_session_is_found_by_its_name_alone() {
        let sessions = sessions(2).await;
        let now = Instant::now();
        let known = caller("a");
        drop(sessions.open(&known, now).await.unwrap());
        assert_eq!(sessions.of(&known, now).await.unwrap().token, "a");
        let other = Caller { principal: Principal::new("eve", Role::Admin), ..caller("a") };
        for caller in [caller("guess"), other] {
            let error = sessions.of(&caller, now).await.unwrap_err();
            assert_eq!(error.code(), Code::Unauthenticated);
        }
        sessions.close("a");
        assert_eq!(sessions.of(&known, now).await.unwrap_err().code(), Code::Unauthenticated);
    }

    #[tokio::test]
    async fn a_session_from_before_goes_on_as_it_was_until_it_is_closed() {
        let (data, engine) = (tempfile::tempdir().unwrap(), engine().await);
        let begin = || sessions_in(2, engine.clone(), Some(data.path()));
        let (first, now) = (begin(), Instant::now());
        let before = Caller { opens: true, ..caller("before") };
        let opened = first.open(&before, now).await.unwrap();
        opened.session.execute("CREATE SCHEMA sales").await.unwrap();
        for statement in ["USE sales", "SET datafusion.execution.batch_size = 77"] {
            opened.session.execute(statement).await.unwrap();
        }
        opened.set_takes_views(true);
        opened.keep().await.unwrap();
        first.close_all();
        let second = begin();
        let again = second.of(&before, now).await.unwrap();
        assert_eq!((again.id, again.takes_views()), (opened.id, true));
        assert_eq!(again.session.carried(), opened.session.carried());
        assert_eq!(again.session.current_schema(), "sales");
        assert!(Arc::ptr_eq(&again, &second.of(&before, now).await.unwrap()));
        let eve = Caller { principal: Principal::new("eve", Role::Admin), ..before.clone() };
        for caller in [&eve, &Caller { opens: true, ..caller("guess") }] {
            let refused = begin().of(caller, now).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated);
        }
        second.close("before");
        for sessions in [second, begin()] {
            let refused = sessions.of(&before, now).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated);
        }
    }

    #[tokio::test]
    async fn a_session_that_was_left_is_not_opened_again() {
        let (data, engine) = (tempfile::tempdir().unwrap(), engine().await);
        let begin = || sessions_in(2, engine.clone(), Some(data.path()));
        let (first, now) = (begin(), Instant::now());
        let before = Caller { opens: true, ..caller("before") };
        drop(first.open(&before, now).await.unwrap());
        first.sweep(now + IDLE);
        let refused = begin().of(&before, now).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }

    #[tokio::test]
    async fn a_session_with_tables_of_its_own_ends_with_its_coordinator() {
        let (data, engine) = (tempfile::tempdir().unwrap(), engine().await);
        let begin = || sessions_in(2, engine.clone(), Some(data.path()));
        let (first, now) = (begin(), Instant::now());
        let before = Caller { opens: true, ..caller("before") };
        let opened = first.open(&before, now).await.unwrap();
        opened.session.execute("CREATE TEMPORARY TABLE t AS SELECT 1 AS x").await.unwrap();
        opened.keep().await.unwrap();
        first.close_all();
        let refused = begin().of(&before, now).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().contains("it had temporary tables"), "{refused}");
    }

    #[tokio::test]
    async fn a_session_of_a_connection_ends_with_it() {
        let sessions = sessions(2).await;
        let now = Instant::now();
        // Of a connection that is gone.
        let connected = Caller { opens: true, life: Some(Weak::new()), ..caller("connection") };
        let held = sessions.of(&connected, now).await.unwrap();
        sessions.sweep(now);
        assert!(Arc::ptr_eq(&held, &sessions.of(&connected, now).await.unwrap()));
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
            Caller { connection, ..caller("login") }
        };
        let login = Caller { connection: Some(Arc::downgrade(&first)), ..caller("login") };
        drop(sessions.open(&login, start).await.unwrap());
        drop(sessions.of(&on(&second), start).await.unwrap());
        drop(first);
        sessions.sweep(start + LEFT);
        // One is still there.
        drop(sessions.of(&on(&second), start + LEFT).await.unwrap());
        drop(second);
        let gone = start + LEFT + LEFT;
        sessions.sweep(gone);
        sessions.sweep(gone + LEFT / 2);
        // It comes back in time, and the count begins anew.
        let third = ConnectionLife::alone(3);
        let held = sessions.of(&on(&third), gone + LEFT / 2).await.unwrap();
        drop(third);
        let gone = gone + LEFT / 2;
        sessions.sweep(gone);
        sessions.sweep(gone + LEFT);
        let known = caller("login");
        // Whatever runs in it goes on.
        assert!(sessions.of(&known, gone + LEFT).await.is_ok());
        drop(held);
        sessions.sweep(gone + LEFT);
        assert!(sessions.of(&known, gone + LEFT).await.is_err());
    }

    #[tokio::test]
    async fn there_are_only_so_many() {
        let sessions = sessions(1).await;
        let now = Instant::now();
        drop(sessions.open(&caller("a"), now).await.unwrap());
        assert_eq!(sessions.open(&caller("b"), now).await.unwrap_err().code(), Code::Unavailable);
        sessions.close("a");
        assert!(sessions.open(&caller("b"), now).await.is_ok());
        // An idle one makes room.
        assert!(sessions.open(&caller("c"), now + IDLE).await.is_ok());
    }

    #[tokio::test]
    async fn idle_sessions_are_closed_and_used_ones_are_not() {
        let sessions = sessions(2).await;
        let start = Instant::now();
        let (idle, used) = (caller("idle"), caller("used"));
        drop(sessions.open(&caller("idle"), start).await.unwrap());
        drop(sessions.open(&caller("used"), start).await.unwrap());
        let held = sessions.of(&used, start).await.unwrap();
        sessions.sweep(start + IDLE);
        assert!(sessions.of(&idle, start + IDLE).await.is_err());
        assert!(sessions.of(&used, start + IDLE).await.is_ok());
        drop(held);
        sessions.sweep(start + IDLE + IDLE / 2);
        assert!(sessions.of(&used, start + IDLE).await.is_ok());
        sessions.sweep(start + IDLE + IDLE + IDLE);
        assert!(sessions.of(&used, start + IDLE).await.is_err());
    }
}
