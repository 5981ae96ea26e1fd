//! The flags for TLS, which all roles have.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use skep_server::TlsConfig;

/// Certificates and keys, in PEM.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "TLS")]
pub(super) struct TlsArgs {
    /// Speak TLS, with the certificate of this file
    #[arg(long, env = "SKEP_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The private key of the certificate
    #[arg(long, env = "SKEP_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// The authority by which other processes of the cluster are known [default: the system's]
    #[arg(long, env = "SKEP_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// Let in those processes of the cluster alone that show a certificate of this authority
    #[arg(long, env = "SKEP_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,

    /// The name in the certificates of the cluster's processes [default: their addresses]
    #[arg(long, env = "SKEP_TLS_SERVER_NAME", value_name = "NAME")]
    tls_server_name: Option<String>,
}

impl TlsArgs {
    /// Puts what was said into a configuration.
    pub(super) fn apply(&self, config: &mut TlsConfig) {
        let paths = [
            (&self.tls_cert, &mut config.cert),
            (&self.tls_key, &mut config.key),
            (&self.tls_ca, &mut config.ca),
            (&self.tls_client_ca, &mut config.client_ca),
        ];
        for (said, place) in paths {
            if let Some(path) = said {
                *place = Some(path.clone());
            }
        }
        if let Some(name) = &self.tls_server_name {
            config.server_name = Some(name.clone());
        }
    }
}

/// Returns the flags that say a configuration.
pub(super) fn flags(config: &TlsConfig) -> Vec<OsString> {
    let paths = [
        ("--tls-cert", &config.cert),
        ("--tls-key", &config.key),
        ("--tls-ca", &config.ca),
        ("--tls-client-ca", &config.client_ca),
    ];
    let mut flags = Vec::new();
    for (flag, path) in paths {
        if let Some(path) = path {
            flags.extend([flag.into(), path.into()]);
        }
    }
    if let Some(name) = &config.server_name {
        flags.extend(["--tls-server-name".into(), name.into()]);
    }
    flags
}
