//! Certificates and keys, read once at the start.
//!
//! A process with a certificate speaks TLS with everybody, and expects it of the other processes of
//! its cluster. With an authority for the cluster (`client_ca`), processes show each other their
//! certificates; a client need not have one.

use std::error::Error as _;
use std::fs;
use std::path::Path;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig};

use crate::config::TlsConfig;
use crate::error::{Error, Result};

/// What a process needs for TLS, both ways.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    /// For those who connect to it.
    pub(crate) server: ServerTlsConfig,
    /// For those that it connects to.
    pub(crate) client: ClientTlsConfig,
}

/// Whether a process may connect that shows no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strangers {
    /// It may: clients have none.
    Allowed,
    /// It may not.
    Refused,
}

impl TlsConfig {
    /// Reads the files; nothing if none is named.
    ///
    /// # Errors
    /// [`Error::Tls`] if one cannot be read, or another is missing.
    pub(crate) fn load(&self, strangers: Strangers) -> Result<Option<Tls>> {
        let (cert, key) = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) if *self == Self::default() => return Ok(None),
            (None, None) => {
                return Err(missing("a certificate and its key", "--tls-cert and --tls-key"));
            }
            (Some(_), None) => return Err(missing("the key of the certificate", "--tls-key")),
            (None, Some(_)) => return Err(missing("the certificate of the key", "--tls-cert")),
        };
        let identity = Identity::from_pem(certificates(cert)?, private_key(key)?);
        let mut server = ServerTlsConfig::new().identity(identity.clone());
        let mut client = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(authority(ca)?),
            None => ClientTlsConfig::new().with_enabled_roots(),
        };
        if let Some(ca) = &self.client_ca {
            server = server
                .client_ca_root(authority(ca)?)
                .client_auth_optional(strangers == Strangers::Allowed);
            client = client.identity(identity);
        }
        if let Some(name) = &self.server_name {
            client = client.domain_name(name);
        }
        // What does not fit together should be said now, and not by each connection.
        let probe = Endpoint::from_static("https://localhost");
        drop(probe.tls_config(client.clone()).map_err(unusable)?);
        Ok(Some(Tls { server, client }))
    }
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

/// Makes the error of certificates and keys that do not fit together.
pub(crate) fn unusable(error: tonic::transport::Error) -> Error {
    let cause = error.source().map(ToString::to_string).unwrap_or_else(|| error.to_string());
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
