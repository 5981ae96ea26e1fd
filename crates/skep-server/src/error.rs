//! Why a server does not start.

use std::io;
use std::path::PathBuf;

/// Shorthand for the servers' results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that keeps a server from starting, or ends it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address names no place to listen at.
    #[error("invalid address \"{address}\": {message}")]
    InvalidAddress {
        /// As given.
        address: String,
        /// What is wrong.
        message: String,
    },

    /// Other machines could reach the address, and nothing would ask who they are.
    #[error("{address} can be reached by other machines, and nothing asks who they are")]
    OpenToAll {
        /// As given.
        address: String,
    },

    /// The system does not let us listen there.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As given.
        address: String,
        /// What the system said.
        source: io::Error,
    },

    /// The file with the configuration cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The file with the configuration says something that has no meaning.
    #[error("{}: {message}", path.display())]
    InvalidConfig {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
        /// What was probably meant.
        hint: Option<String>,
    },

    /// The engine does not start.
    #[error(transparent)]
    Engine(#[from] skep_engine::Error),

    /// The partition store or another part of the executor does not start.
    #[error(transparent)]
    Cluster(#[from] skep_cluster::Error),

    /// The coordinator did not let this worker in.
    #[error("the coordinator at {coordinator} refused this worker: {message}")]
    Refused {
        /// Its address.
        coordinator: String,
        /// Its reason.
        message: String,
    },

    /// Clients are asked who they are, and processes of the cluster are not.
    #[error("clients are asked who they are, but anybody can attach as a worker")]
    OpenCluster,

    /// The users cannot be read or changed.
    #[error("{}: {message}", path.display())]
    Users {
        /// The file.
        path: PathBuf,
        /// What is wrong, without passwords and hashes.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },

    /// The key that tokens are signed with cannot be read or made.
    #[error("cannot use the key {}: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// What sessions are kept in cannot be used.
    #[error("cannot use the sessions in the data directory: {0}")]
    Sessions(#[source] io::Error),

    /// What TLS needs is not there, or does not fit together.
    #[error("TLS: {message}")]
    Tls {
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },

    /// A defect.
    #[error("internal error: {message}")]
    Internal {
        /// What broke.
        message: String,
    },
}

impl Error {
    /// Returns advice on what to do, if there is any.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::InvalidAddress { .. } => {
                Some("an address is HOST:PORT, as in 127.0.0.1:50051; port 0 takes a free one")
            }
            Self::OpenToAll { .. } => Some(
                "listen on 127.0.0.1, add users (skep user add) and a --token for the workers, \
                 or add --insecure if everybody on the network may use it",
            ),
            Self::OpenCluster => Some(
                "give all processes of the cluster a --token (SKEP_CLUSTER_TOKEN), \
                 or certificates and --tls-client-ca",
            ),
            Self::Users { hint, .. } | Self::Tls { hint, .. } => hint.as_deref(),
            Self::Listen { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => {
                    Some("another process listens there; stop it, or take another port (0: any)")
                }
                io::ErrorKind::AddrNotAvailable => Some("this machine has no such address"),
                io::ErrorKind::PermissionDenied => Some("ports below 1024 are for root"),
                _ => None,
            },
            Self::InvalidConfig { hint, .. } => hint.as_deref(),
            Self::Engine(error) => error.hint(),
            Self::ReadConfig { .. }
            | Self::Key { .. }
            | Self::Sessions(_)
            | Self::Cluster(_)
            | Self::Refused { .. }
            | Self::Internal { .. } => None,
        }
    }
}
