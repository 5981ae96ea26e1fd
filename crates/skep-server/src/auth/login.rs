//! Credentials in, a principal out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use datafusion::common::runtime::SpawnedTask;
use parking_lot::Mutex;
use skep_engine::{Principal, Role};
use skep_proto::ErrorCode;
use tokio::sync::Semaphore;
use tonic::Status;
use tracing::{info, warn};

use super::key::SigningKey;
use super::throttle::Throttle;
use super::token::Claims;
use super::users::{Stamp, User, UserFile, Users};
use crate::error::{Error, Result};
use crate::status::refuse;

/// How many passwords are looked at together: each takes a core and 19 MiB.
const HASHED_AT_ONCE: usize = 2;

/// How many may wait for that.
const MAX_WAITING: usize = 256;

/// How often the file of users is looked at, at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Passwords that were right need not be looked at with each request: for so long, and so many.
const PROVEN_FOR: Duration = Duration::from_secs(5 * 60);
const MAX_PROVEN: usize = 1024;

/// What stands in the place of a user's name beside a token as password.
const TOKEN_USER: &str = "token";

/// What a request says about who asks.
pub(super) enum Said {
    /// Nothing.
    Nothing,
    /// A user and a password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Bearer(String),
    /// Something in another way.
    Other,
}

/// Who asks.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) principal: Principal,
    /// What the token says, if it was a token.
    pub(super) claims: Option<Claims>,
}

/// Knows the users, or that there are none.
#[derive(Debug)]
pub(crate) struct Login {
    source: Option<Source>,
    key: SigningKey,
    token_lifetime: Duration,
    started: SystemTime,
    throttle: Throttle,
    hashing: Arc<Semaphore>,
    waiting_count: AtomicUsize,
    /// By what only this process can make of user and password.
    proven: Mutex<HashMap<String, Proven>>,
}

#[derive(Debug)]
struct Source {
    file: UserFile,
    known: Mutex<Known>,
    /// Stands in for users that are not there, so that it takes as long.
    decoy: User,
}

#[derive(Debug)]
struct Known {
    users: Arc<Users>,
    stamp: Option<Stamp>,
    looked: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Proven {
    since: Instant,
}

impl Login {
    /// Reads the users, if there are any.
    ///
    /// # Errors
    /// [`Error::Users`] if they cannot be read, or there is nobody among them.
    pub(crate) fn open(
        file: Option<UserFile>,
        key: SigningKey,
        token_lifetime: Duration,
    ) -> Result<Self> {
        let source = file.map(Source::open).transpose()?;
        Ok(Self {
            source,
            key,
            token_lifetime,
            started: SystemTime::now(),
            throttle: Throttle::default(),
            hashing: Arc::new(Semaphore::new(HASHED_AT_ONCE)),
            waiting_count: AtomicUsize::new(0),
            proven: Mutex::default(),
        })
    }

    /// Finds out who asks.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if it is nobody; `RESOURCE_EXHAUSTED` after several wrong passwords.
    pub(super) async fn identify(
        &self,
        said: Said,
        from: Option<IpAddr>,
    ) -> Result<Identity, Status> {
        let Some(source) = &self.source else { return self.anonymous(said) };
        let users = source.users();
        match said {
            Said::Nothing => Err(refuse(
                ErrorCode::Unauthenticated,
                "the coordinator wants to know who asks",
                "connect with a user and a password, as in grpc://USER@HOST:PORT, or with a token",
            )),
            Said::Other => Err(refuse(
                ErrorCode::Unauthenticated,
                "the authorization is neither Basic nor Bearer",
                "say a user and a password, or a token",
            )),
            Said::Bearer(token) => self.by_token(&users, &token),
            Said::Basic { user, password } if Claims::looks_like(&password) => {
                let identity = self.by_token(&users, &password)?;
                match user.is_empty() || user == TOKEN_USER || *user == *identity.principal.user {
                    true => Ok(identity),
                    false => Err(wrong_token()),
                }
            }
            Said::Basic { user, password } => {
                let role = self.by_password(source, &users, &user, password, from).await?;
                Ok(Identity { principal: Principal::new(&user, role), claims: None })
            }
        }
    }

    /// Where nobody is asked, whatever is said is as good; a token says which session.
    fn anonymous(&self, said: Said) -> Result<Identity, Status> {
        let claims = match said {
            Said::Bearer(token) if Claims::looks_like(&token) => Some(self.claims(&token)?),
            Said::Nothing | Said::Basic { .. } | Said::Bearer(_) | Said::Other => None,
        };
        Ok(Identity { principal: Principal::anonymous(), claims })
    }

    fn by_token(&self, users: &Users, token: &str) -> Result<Identity, Status> {
        let claims = self.claims(token)?;
        let user = users.get(&claims.user).ok_or_else(wrong_token)?;
        if self.generation(user) != claims.generation {
            return Err(wrong_token());
        }
        let principal = Principal::new(&claims.user, user.role);
        Ok(Identity { principal, claims: Some(claims) })
    }

    fn claims(&self, token: &str) -> Result<Claims, Status> {
        Claims::verify(&self.key, token, SystemTime::now()).ok_or_else(wrong_token)
    }

    async fn by_password(
        &self,
        source: &Source,
        users: &Users,
        name: &str,
        password: String,
        from: Option<IpAddr>,
    ) -> Result<Role, Status> {
        let known = users.get(name);
        let user = known.unwrap_or(&source.decoy);
        let fingerprint =
            self.key.sign("password", &format!("{name}\0{}\0{password}", user.hash()));
        if known.is_some() && self.is_proven(&fingerprint) {
            return Ok(user.role);
        }
        let _waiting = self.wait_in_line()?;
        let permit = Arc::clone(&self.hashing).acquire_owned().await;
        let _permit = permit.map_err(|_closed| Status::internal("logins have ended"))?;
        // Looked at with a permit: of many tries at a time, most find the wait of the first.
        let wait = self.throttle.wait(name, from, Instant::now());
        if !wait.is_zero() {
            return Err(refuse(
                ErrorCode::ResourceExhausted,
                "too many logins have failed",
                &format!("try again in {} s", wait.as_secs() + 1),
            ));
        }
        let tried = user.clone();
        let checking = SpawnedTask::spawn_blocking(move || tried.has_password(&password));
        let is_right = checking.await.map_err(|error| Status::internal(error.to_string()))?;
        if is_right && known.is_some() {
            self.throttle.succeeded(name, from);
            self.prove(fingerprint);
            info!(user = name, ?from, "logged in");
            return Ok(user.role);
        }
        self.throttle.failed(name, from, Instant::now());
        // Not the name: it may be a password in the wrong place.
        warn!(?from, "a login has failed");
        Err(refuse(
            ErrorCode::Unauthenticated,
            "wrong user or password",
            "whoever runs the coordinator can set another: skep user passwd NAME",
        ))
    }

    fn wait_in_line(&self) -> Result<InLine<'_>, Status> {
        let waiting = InLine(&self.waiting_count);
        match self.waiting_count.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            true => Err(refuse(
                ErrorCode::Unavailable,
                "too many logins at a time",
                "try again in a moment",
            )),
            false => Ok(waiting),
        }
    }

    fn is_proven(&self, fingerprint: &str) -> bool {
        let proven = self.proven.lock();
        proven.get(fingerprint).is_some_and(|proven| proven.since.elapsed() < PROVEN_FOR)
    }

    fn prove(&self, fingerprint: String) {
        let mut proven = self.proven.lock();
        if proven.len() >= MAX_PROVEN {
            proven.retain(|_, proven| proven.since.elapsed() < PROVEN_FOR);
        }
        if proven.len() >= MAX_PROVEN {
            proven.clear();
        }
        proven.insert(fingerprint, Proven { since: Instant::now() });
    }

    /// Changes with a user's password.
    fn generation(&self, user: &User) -> String {
        let mut generation = self.key.sign("generation", user.hash());
        generation.truncate(16);
        generation
    }

    /// Gives a token for a session of this user. One that was asked for with another token ends with
    /// that.
    pub(super) fn token(&self, identity: &Identity, session: &str) -> String {
        let user = &identity.principal.user;
        let users = self.source.as_ref().map(Source::users);
        let generation = users
            .and_then(|users| users.get(user).map(|user| self.generation(user)))
            .unwrap_or_else(|| "0".to_owned());
        let issued = SystemTime::now();
        let claims = Claims {
            session: session.to_owned(),
            user: user.to_string(),
            generation,
            issued,
            expires: match &identity.claims {
                Some(claims) => claims.expires,
                None => issued + self.token_lifetime,
            },
        };
        claims.sign(&self.key)
    }

    /// Returns a name for the session of whoever began without a handshake.
    pub(super) fn session_name(&self, of: &str) -> String {
        self.key.sign("session", of)
    }

    /// Returns whether a token was given before this coordinator started: it knows nothing of the
    /// session, and has not closed it.
    pub(super) fn is_from_before(&self, claims: &Claims) -> bool {
        claims.issued <= self.started
    }
}

impl Source {
    fn open(file: UserFile) -> Result<Self> {
        let users = file.read()?;
        if users.iter().next().is_none() {
            return Err(Error::Users {
                path: file.path().to_owned(),
                message: "there is no user in it".to_owned(),
                hint: Some("add one with: skep user add NAME".to_owned()),
            });
        }
        if file.is_open_to_others() {
            warn!(path = %file.path().display(), "others may read or write the file of users");
        }
        let stamp = file.stamp().ok();
        let known = Known { users: Arc::new(users), stamp, looked: Instant::now() };
        let decoy = User::new(Role::Reader, "decoy");
        let decoy = decoy.map_err(|message| Error::Internal { message })?;
        Ok(Self { file, known: Mutex::new(known), decoy })
    }

    /// Returns the users of now. A file that has become unreadable changes nothing: those who were
    /// known stay so, and nobody else comes in.
    fn users(&self) -> Arc<Users> {
        let mut known = self.known.lock();
        if known.looked.elapsed() < LOOK_INTERVAL {
            return Arc::clone(&known.users);
        }
        known.looked = Instant::now();
        let stamp = self.file.stamp().ok();
        if stamp != known.stamp {
            match self.file.read() {
                Ok(users) => {
                    info!(path = %self.file.path().display(), "read the users again");
                    known.users = Arc::new(users);
                }
                Err(error) => warn!(%error, "the users stay as they were"),
            }
            known.stamp = stamp;
        }
        Arc::clone(&known.users)
    }
}

/// One that waits for its password to be looked at.
struct InLine<'a>(&'a AtomicUsize);

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn wrong_token() -> Status {
    refuse(
        ErrorCode::Unauthenticated,
        "the token is not valid, or has ended",
        "connect again with user and password",
    )
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tonic::Code;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(60);

    fn basic(user: &str, password: &str) -> Said {
        Said::Basic { user: user.to_owned(), password: password.to_owned() }
    }

    fn users() -> (UserFile, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let file = UserFile::of_data_dir(directory.path());
        file.edit(|users| users.add("ann", User::new(Role::Writer, "right")?)).unwrap();
        (file, directory)
    }

    #[tokio::test]
    async fn a_password_gives_tokens_which_do_in_its_place() {
        let (file, _directory) = users();
        let key = SigningKey::fresh().unwrap();
        let login = Login::open(Some(file.clone()), key.clone(), LIFETIME).unwrap();
        for _ in 0..2 {
            let identity = login.identify(basic("ann", "right"), None).await.unwrap();
            assert_eq!(identity.principal, Principal::new("ann", Role::Writer));
        }
        let identity = login.identify(basic("ann", "right"), None).await.unwrap();
        let token = login.token(&identity, "5e55");
        // Another process with the same key takes it too.
        let other = Login::open(Some(file.clone()), key, LIFETIME).unwrap();
        for said in [
            Said::Bearer(token.clone()),
            basic("ann", &token),
            basic("", &token),
            basic(TOKEN_USER, &token),
        ] {
            let identity = other.identify(said, None).await.unwrap();
            assert_eq!(*identity.principal.user, *"ann");
            assert_eq!(identity.claims.unwrap().session, "5e55");
        }
        for said in [
            Said::Nothing,
            Said::Other,
            basic("ann", "wrong"),
            basic("bob", "right"),
            basic("bob", &token),
            Said::Bearer("right".to_owned()),
            Said::Bearer(format!("{token}0")),
        ] {
            let refused = login.identify(said, None).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated);
            assert!(!refused.message().contains("right"));
        }
    }

    #[tokio::test]
    async fn a_token_ends_with_its_password() {
        let (file, _directory) = users();
        let login =
            Login::open(Some(file.clone()), SigningKey::fresh().unwrap(), LIFETIME).unwrap();
        let identity = login.identify(basic("ann", "right"), None).await.unwrap();
        let token = login.token(&identity, "5e55");
        file.edit(|users| users.set_password("ann", "new")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while login.identify(Said::Bearer(token.clone()), None).await.is_ok() {
            assert!(Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        assert!(login.identify(basic("ann", "right"), None).await.is_err());
        assert!(login.identify(basic("ann", "new"), None).await.is_ok());
        // A file that is gone lets nobody else in, and nobody out.
        std::fs::remove_file(file.path()).unwrap();
        assert!(login.identify(basic("ann", "new"), None).await.is_ok());
        assert!(login.identify(Said::Nothing, None).await.is_err());
    }

    #[tokio::test]
    async fn guessing_gets_slow_also_at_a_time() {
        let (file, _directory) = users();
        let login = Login::open(Some(file), SigningKey::fresh().unwrap(), LIFETIME).unwrap();
        let guesses =
            (0..12).map(|idx| login.identify(basic("ann", &format!("guess{idx}")), None).boxed());
        let outcomes = futures::future::join_all(guesses).await;
        let codes = outcomes.into_iter().map(|outcome| outcome.unwrap_err().code());
        let refused = codes.filter(|code| *code == Code::ResourceExhausted).count();
        assert!(refused >= 12 - 4 - HASHED_AT_ONCE, "{refused}");
        // The right one waits too, but not from elsewhere.
        let right = login.identify(basic("ann", "right"), None).await.unwrap_err();
        assert_eq!(right.code(), Code::ResourceExhausted);
        let elsewhere = Some(IpAddr::from([127, 0, 0, 9]));
        assert!(login.identify(basic("ann", "right"), elsewhere).await.is_ok());
    }

    #[tokio::test]
    async fn without_users_everybody_is_anonymous() {
        let login = Login::open(None, SigningKey::fresh().unwrap(), LIFETIME).unwrap();
        let bearer = Said::Bearer("any".to_owned());
        for said in [Said::Nothing, Said::Other, basic("ann", "any"), bearer] {
            let identity = login.identify(said, None).await.unwrap();
            assert_eq!(identity.principal, Principal::anonymous());
        }
        let identity = login.identify(Said::Nothing, None).await.unwrap();
        let token = login.token(&identity, "5e55");
        let again = login.identify(Said::Bearer(token), None).await.unwrap();
        assert_eq!(again.claims.unwrap().session, "5e55");
        let guess = Said::Bearer("skep1.5e55.0.f.0.anonymous.0".to_owned());
        assert!(login.identify(guess, None).await.is_err());
    }
}
