//! Certificates and keys, read at the start and again when their files change.
//!
//! A process with a certificate speaks TLS with everybody, and expects it of the other processes of
//! its cluster. With an authority for the cluster (`client_ca`), processes show each other their
//! certificates; a client need not have one.
//!
//! Whoever greets or is greeted gets what the files say now: they are looked at then, but not more
//! often than each [`LOOK_INTERVAL`]. Files that do not fit together leave what held before, with a
//! warning: a certificate and its key are two files, and are not renewed in one moment.

use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, fs, io};

use parking_lot::Mutex;
use skep_cluster::client_tls::ClientTls;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tracing::{info, warn};

use crate::config::TlsConfig;
use crate::connection::Connection;
use crate::error::{Error, Result};

/// How often the files are looked at, at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What a process needs for TLS, both ways.
#[derive(Clone)]
struct Tls {
    /// For those who connect to it.
    server: Arc<ServerConfig>,
    /// For those that it connects to.
    client: ClientTlsConfig,
}

impl fmt::Debug for Tls {
    /// Shows nothing of keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Whether a process may connect that shows no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strangers {
    /// It may: clients have none.
    Allowed,
    /// It may not.
    Refused,
}

/// Certificates and keys that are renewed while the process runs.
#[derive(Debug)]
pub(crate) struct Certificates {
    config: TlsConfig,
    strangers: Strangers,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tls: Tls,
    /// Counts what was read.
    number: u64,
    stamps: Vec<Stamp>,
    looked: Instant,
}

/// What tells one version of a file from another: when it was written, and its size; `None` if it
/// is not there.
type Stamp = Option<(SystemTime, u64)>;

impl Certificates {
    /// Reads the files; nothing if none is named.
    ///
    /// # Errors
    /// [`Error::Tls`] if one cannot be read, or another is missing.
    pub(crate) fn load(config: &TlsConfig, strangers: Strangers) -> Result<Option<Arc<Self>>> {
        // Before they are read: what is written meanwhile is seen by the next look.
        let stamps = config.stamps();
        let Some(tls) = config.load(strangers)? else { return Ok(None) };
        let state = Mutex::new(State { tls, number: 1, stamps, looked: Instant::now() });
        Ok(Some(Arc::new(Self { config: config.clone(), strangers, state })))
    }

    /// Returns what connects to other processes.
    pub(crate) fn client(self: &Arc<Self>) -> ClientTls {
        let certificates = Arc::clone(self);
        ClientTls::new(move || {
            let (number, tls) = certificates.current(Instant::now());
            (number, tls.client)
        })
    }

    /// Greets whoever has connected.
    ///
    /// # Errors
    /// Whatever is wrong with its greeting, or if that takes too long.
    pub(crate) async fn greet(
        &self,
        connection: Connection,
        patience: Duration,
    ) -> io::Result<TlsStream<Connection>> {
        let (_, tls) = self.current(Instant::now());
        let greeting = TlsAcceptor::from(tls.server).accept(connection);
        match timeout(patience, greeting).await {
            Ok(greeted) => greeted,
            Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn current(&self, now: Instant) -> (u64, Tls) {
        let mut state = self.state.lock();
        if now.saturating_duration_since(state.looked) >= LOOK_INTERVAL {
            state.looked = now;
            let stamps = self.config.stamps();
            if stamps != state.stamps {
                state.stamps = stamps;
                match self.config.load(self.strangers) {
                    Ok(Some(tls)) => {
                        state.tls = tls;
                        state.number += 1;
                        info!(number = state.number, "certificates renewed");
                    }
                    // Files that were named are named still.
                    Ok(None) => {}
                    Err(error) => warn!(%error, "certificates not renewed"),
                }
            }
        }
        (state.number, state.tls.clone())
    }
}

impl TlsConfig {
    fn stamps(&self) -> Vec<Stamp> {
        let files = [&self.cert, &self.key, &self.ca, &self.client_ca].into_iter().flatten();
        files
            .map(|path| {
                let metadata = fs::metadata(path).ok()?;
                Some((metadata.modified().ok()?, metadata.len()))
            })
            .collect()
    }

    fn load(&self, strangers: Strangers) -> Result<Option<Tls>> {
        let (cert, key) = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) if *self == Self::default() => return Ok(None),
            (None, None) => {
                return Err(missing("a certificate and its key", "--tls-cert and --tls-key"));
            }
            (Some(_), None) => return Err(missing("the key of the certificate", "--tls-key")),
            (None, Some(_)) => return Err(missing("the certificate of the key", "--tls-cert")),
        };
        let (cert, key) = (certificates(cert)?, private_key(key)?);
        let mut client = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(authority(ca)?),
            None => ClientTlsConfig::new().with_enabled_roots(),
        };
        let client_ca = self.client_ca.as_deref().map(certificates).transpose()?;
        if client_ca.is_some() {
            client = client.identity(Identity::from_pem(&cert, &key));
        }
        if let Some(name) = &self.server_name {
            client = client.domain_name(name);
        }
        let server = server_config(&cert, &key, client_ca.as_deref(), strangers)?;
        // What does not fit together should be said now, and not by each connection.
        let probe = Endpoint::from_static("https://localhost");
        drop(probe.tls_config(client.clone()).map_err(|error| {
            unusable(error.source().map_or_else(|| error.to_string(), ToString::to_string))
        })?);
        Ok(Some(Tls { server: Arc::new(server), client }))
    }
}

fn server_config(
    cert: &[u8],
    key: &[u8],
    client_ca: Option<&[u8]>,
    strangers: Strangers,
) -> Result<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::<CryptoProvider>::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(chain(authority)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match strangers {
                Strangers::Allowed => verifier.allow_unauthenticated(),
                Strangers::Refused => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(unusable)?)
        }
    };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(unusable)?;
    let mut config = builder.with_single_cert(chain(cert)?, key).map_err(unusable)?;
    // gRPC is HTTP/2.
    config.alpn_protocols.push(b"h2".to_vec());
    Ok(config)
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(unusable)
}

fn certificates(path: &Path) -> Result<Vec<u8>> {
    read(path, "-----BEGIN CERTIFICATE-----", "certificate")
}

fn authority(path: &Path) -> Result<Certificate> {
    certificates(path).map(Certificate::from_pem)
}

fn private_key(path: &Path) -> Result<Vec<u8>> {
    read(path, "PRIVATE KEY-----", "private key")
}

/// Reads a PEM file; its text is in no error.
fn read(path: &Path, mark: &str, what: &str) -> Result<Vec<u8>> {
    let text = fs::read_to_string(path).map_err(|error| Error::Tls {
        message: format!("cannot read the {what} {}: {error}", path.display()),
        hint: None,
    })?;
    match text.contains(mark) {
        true => Ok(text.into_bytes()),
        false => Err(Error::Tls {
            message: format!("there is no {what} in {}", path.display()),
            hint: Some("the files are in PEM".to_owned()),
        }),
    }
}

fn missing(what: &str, flags: &str) -> Error {
    Error::Tls { message: format!("{what} is missing"), hint: Some(format!("add {flags}")) }
}

fn unusable(cause: impl fmt::Display) -> Error {
    Error::Tls {
        message: format!("the certificate and its key cannot be used: {cause}"),
        hint: Some("do they belong together?".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file.pem");
        fs::write(&file, "secret text").unwrap();
        assert!(TlsConfig::default().load(Strangers::Allowed).unwrap().is_none());
        let some = || Some(file.clone());
        for (config, message, hint) in [
            (TlsConfig { cert: some(), ..Default::default() }, "the key of", "--tls-key"),
            (TlsConfig { key: some(), ..Default::default() }, "the certificate of", "--tls-cert"),
            (TlsConfig { ca: some(), ..Default::default() }, "a certificate and", "--tls-cert"),
            (
                TlsConfig { cert: some(), key: some(), ..Default::default() },
                "there is no certificate in",
                "PEM",
            ),
        ] {
            let error = config.load(Strangers::Allowed).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            assert!(error.hint().unwrap().contains(hint), "{error}");
            assert!(!error.to_string().contains("secret text"));
        }
    }
}
