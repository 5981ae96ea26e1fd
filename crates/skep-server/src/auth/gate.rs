//! In front of all services: finds out who asks, before a message is read.
//!
//! Clients are asked for a user and a password, or a token; processes of the cluster for a
//! certificate, if the cluster has an authority of its own for them (their token is asked for by
//! the services themselves); whoever asks for health is asked nothing. What stands behind finds who
//! asks, and in which session, in the request's extensions as a [`Caller`].
//!
//! **Invariant:** no message of a client is decoded before it is known who sends it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, SET_COOKIE};
use axum::http::{Extensions, HeaderMap, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use skep_engine::Principal;
use skep_proto::ErrorCode;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::server::TlsConnectInfo;

use super::login::{Identity, Login, Said};
use crate::connection::{ConnectionLife, Peer};
use crate::secret::unguessable;
use crate::status::refuse;

const FLIGHT: &str = "/arrow.flight.protocol.FlightService/";
const CONTROL: &str = "/skep.cluster.";

/// The call that begins a session. What begins in one is known behind the gate: most calls may just
/// as well end something, or ask for what is there.
const HANDSHAKE: &str = "Handshake";

/// The name of the cookie that says a session's token, for clients that keep cookies.
const SESSION_COOKIE: &str = "skep_session";

/// Most bytes of what is said in an `authorization`.
const MAX_AUTHORIZATION_BYTES: usize = 8 << 10;

/// Who asks, and in which session.
#[derive(Clone)]
pub(crate) struct Caller {
    /// Who.
    pub(crate) principal: Principal,
    /// The session's name, which clients never say: theirs is a token that names it.
    pub(crate) session: String,
    /// Whether the session is to be opened if there is none of that name.
    pub(crate) opens: bool,
    /// The connection with which the session ends, if it belongs to one.
    pub(crate) life: Option<Weak<ConnectionLife>>,
    /// The connection on which the request came.
    pub(crate) connection: Option<Weak<ConnectionLife>>,
    /// The answer to a handshake.
    pub(crate) token: Option<String>,
}

impl std::fmt::Debug for Caller {
    /// Leaves session and token out: whoever reads them could use them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").field("principal", &self.principal).finish_non_exhaustive()
    }
}

impl Caller {
    /// Returns who asks in a request that came through the gate.
    ///
    /// # Errors
    /// `INTERNAL` if it has not, which would be a defect.
    pub(crate) fn of(extensions: &Extensions) -> Result<&Self, Status> {
        extensions.get().ok_or_else(|| Status::internal("nobody was asked who asks"))
    }
}

/// The gate of a process.
#[derive(Debug)]
pub(crate) struct Gate {
    /// What asks clients; nothing where no client is served.
    login: Option<Login>,
    /// Whether processes of the cluster must show a certificate.
    wants_certificate: bool,
    is_draining: AtomicBool,
}

impl Gate {
    /// Makes the gate of a coordinator.
    pub(crate) fn new(login: Login, wants_certificate: bool) -> Arc<Self> {
        let is_draining = AtomicBool::new(false);
        Arc::new(Self { login: Some(login), wants_certificate, is_draining })
    }

    /// Makes the gate of a process that serves the cluster alone.
    pub(crate) fn of_worker(wants_certificate: bool) -> Arc<Self> {
        Arc::new(Self { login: None, wants_certificate, is_draining: AtomicBool::new(false) })
    }

    /// Lets no session begin any more.
    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Puts itself in front of services.
    pub(crate) fn guard(self: &Arc<Self>, routes: Routes) -> Routes {
        let router = routes.into_axum_router();
        Routes::from(router.layer(from_fn_with_state(Arc::clone(self), pass)))
    }

    async fn admit(&self, request: &mut Request) -> Result<Option<Caller>, Status> {
        let ends = Ends::of(request.extensions());
        if let Some(peer) = &ends.peer {
            // Where tonic looks for addresses.
            request.extensions_mut().insert(peer.tcp.clone());
        }
        let path = request.uri().path();
        let method = path.strip_prefix(FLIGHT);
        if method == Some("DoExchange") || path.starts_with(CONTROL) {
            return self.admit_process(&ends).map(|()| None);
        }
        let (Some(method), Some(login)) = (method, &self.login) else { return Ok(None) };
        let is_handshake = method == HANDSHAKE;
        if self.is_draining.load(Ordering::Relaxed) && is_handshake {
            return Err(refuse(
                ErrorCode::Unavailable,
                "the coordinator is ending",
                "try again when it is back",
            ));
        }
        let said = said(request.headers())?;
        let with_password = matches!(said, Said::Basic { .. });
        let identity = login.identify(said, ends.address()).await?;
        Ok(Some(caller(login, identity, is_handshake, with_password, &ends)))
    }

    fn admit_process(&self, ends: &Ends) -> Result<(), Status> {
        match self.wants_certificate && !ends.has_certificate {
            true => Err(Status::unauthenticated(
                "a process of the cluster must show a certificate of the cluster's authority",
            )),
            false => Ok(()),
        }
    }
}

/// The two ends of a connection.
struct Ends {
    peer: Option<Peer>,
    has_certificate: bool,
}

impl Ends {
    fn of(extensions: &Extensions) -> Self {
        if let Some(tls) = extensions.get::<TlsConnectInfo<Peer>>() {
            // One that does not hold was refused with the connection.
            let has_certificate = tls.peer_certs().is_some_and(|certs| !certs.is_empty());
            return Self { peer: Some(tls.get_ref().clone()), has_certificate };
        }
        Self { peer: extensions.get().cloned(), has_certificate: false }
    }

    fn address(&self) -> Option<IpAddr> {
        let remote = self.peer.as_ref()?.tcp.remote_addr()?;
        Some(remote.ip().to_canonical())
    }
}

fn caller(
    login: &Login,
    identity: Identity,
    is_handshake: bool,
    with_password: bool,
    ends: &Ends,
) -> Caller {
    let connection = ends.peer.as_ref().map(|peer| Weak::clone(&peer.life));
    if is_handshake {
        let session = unguessable();
        let token = Some(login.token(&identity, &session));
        let principal = identity.principal;
        return Caller { principal, session, opens: true, life: None, connection, token };
    }
    let principal = identity.principal;
    if let Some(claims) = identity.claims.filter(|_| !with_password) {
        let opens = login.is_from_before(&claims);
        let session = claims.session;
        return Caller { principal, session, opens, life: None, connection, token: None };
    }
    // Nothing but the connection tells one client of a user from another.
    let life = connection.clone();
    let number = life.as_ref().and_then(Weak::upgrade).map_or(0, |life| life.number);
    let session = login.session_name(&format!("{number}\0{}", principal.user));
    Caller { principal, session, opens: true, life, connection, token: None }
}

async fn pass(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let caller = match gate.admit(&mut request).await {
        Ok(caller) => caller,
        Err(status) => return status.into_http(),
    };
    let Some(caller) = caller else { return next.run(request).await };
    // It is not needed any more, and nothing behind should see it.
    request.headers_mut().remove(AUTHORIZATION);
    let token = caller.token.clone();
    request.extensions_mut().insert(caller.principal.clone());
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    let has_failed =
        response.headers().get("grpc-status").is_some_and(|status| status.as_bytes() != b"0");
    if let Some(token) = token.filter(|_| !has_failed) {
        let cookie = format!("{SESSION_COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict");
        if let Ok(mut cookie) = HeaderValue::try_from(cookie) {
            cookie.set_sensitive(true);
            response.headers_mut().insert(SET_COOKIE, cookie);
        }
        // Drivers look for it here.
        match HeaderValue::try_from(format!("Bearer {token}")) {
            Ok(mut value) => {
                value.set_sensitive(true);
                response.headers_mut().insert(AUTHORIZATION, value);
            }
            Err(_invalid) => return Status::internal("a token is no header").into_http(),
        }
    }
    response
}

/// Returns the token that a cookie of ours says.
fn cookie(headers: &HeaderMap) -> Option<String> {
    headers.get_all(COOKIE).iter().find_map(|value| {
        value.to_str().ok()?.split(';').find_map(|part| {
            let (name, value) = part.split_once('=')?;
            let is_ours = name.trim() == SESSION_COOKIE && value.len() <= MAX_AUTHORIZATION_BYTES;
            is_ours.then(|| value.trim().trim_matches('"').to_owned())
        })
    })
}

/// Reads what a request says about who asks.
fn said(headers: &HeaderMap) -> Result<Said, Status> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        // What a cookie says was given as a token.
        return Ok(cookie(headers).map_or(Said::Nothing, Said::Bearer));
    };
    let Ok(text) = value.to_str() else { return Ok(Said::Other) };
    if text.len() > MAX_AUTHORIZATION_BYTES {
        return Err(refuse(
            ErrorCode::Unauthenticated,
            format!("the authorization is longer than {MAX_AUTHORIZATION_BYTES} bytes"),
            "say a user and a password, or a token",
        ));
    }
    // The scheme's capitals do not matter (RFC 9110, section 11.1).
    let Some((scheme, rest)) = text.split_once(' ') else { return Ok(Said::Other) };
    Ok(match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Said::Bearer(rest.trim().to_owned()),
        "basic" => match decode_basic(rest.trim()) {
            Some((user, password)) => Said::Basic { user, password },
            None => Said::Other,
        },
        _ => Said::Other,
    })
}

fn decode_basic(text: &str) -> Option<(String, String)> {
    let decoded = String::from_utf8(decode_base64(text)?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Reads Base64, with or without its padding.
///
/// Source: RFC 4648, section 4.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    if digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for chunk in digits.chunks(4) {
        let mut bits = 0_u32;
        for digit in chunk {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - chunk.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn base64_is_as_in_the_standard() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zg", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(decode_base64(text).unwrap(), bytes.as_bytes(), "{text}");
        }
        for wrong in ["Z", "Zg!=", "Zm9vY", "Zm 9v"] {
            assert_eq!(decode_base64(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_said_is_read() {
        assert!(matches!(said(&HeaderMap::new()), Ok(Said::Nothing)));
        for scheme in ["Basic", "basic", "BASIC"] {
            let Ok(Said::Basic { user, password }) = said(&headers(&format!("{scheme} YTpiOmM=")))
            else {
                panic!("{scheme}");
            };
            assert_eq!((user.as_str(), password.as_str()), ("a", "b:c"));
        }
        let bearer = said(&headers("Bearer x.y"));
        assert!(matches!(bearer, Ok(Said::Bearer(token)) if token == "x.y"));
        for other in ["", "x", "Digest y", "Basic ?", "Basic YQ=="] {
            assert!(matches!(said(&headers(other)), Ok(Said::Other)), "{other}");
        }
        assert!(said(&headers(&format!("Bearer {}", "x".repeat(9000)))).is_err());
    }
}
