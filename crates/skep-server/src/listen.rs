//! Taking an address.

use std::net::SocketAddr;

use tokio::net::{TcpListener, lookup_host};
use tracing::{debug, warn};

use crate::error::{Error, Result};

/// How far a server is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It serves.
    Serving,
    /// It takes nothing new, and finishes what runs.
    Draining,
    /// All its connections are cut.
    Cut,
}

/// Listens on HOST:PORT.
///
/// # Errors
/// [`Error::InvalidAddress`]; [`Error::OpenToAll`] for an address that other machines can reach,
/// unless `is_open`; [`Error::Listen`] if the system does not let us.
pub(crate) async fn bind(address: &str, is_open: bool) -> Result<TcpListener> {
    let invalid = |message: String| Error::InvalidAddress { address: address.to_owned(), message };
    if address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        return Err(invalid("it has no port".to_owned()));
    }
    let places: Vec<SocketAddr> =
        lookup_host(address).await.map_err(|error| invalid(error.to_string()))?.collect();
    if !is_open && places.iter().any(|place| !place.ip().is_loopback()) {
        return Err(Error::OpenToAll { address: address.to_owned() });
    }
    let failed = |source| Error::Listen { address: address.to_owned(), source };
    TcpListener::bind(&places[..]).await.map_err(failed)
}

/// Lets the process have as many connections and files as the system grants it: the default is often
/// fewer than a server has clients.
pub(crate) fn raise_file_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => debug!(limit, "files that may be open"),
        Err(error) => warn!(%error, "the limit of open files stays as it is"),
    }
}

/// Returns HOST:PORT at which others reach this process: what it was told, with the port that it
/// listens on in place of 0, or where it listens.
///
/// # Errors
/// [`Error::InvalidAddress`] if what it was told has no host or no port.
pub(crate) fn advertised(address: Option<&str>, local: SocketAddr) -> Result<String> {
    let Some(address) = address else { return Ok(local.to_string()) };
    match address.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some((host, Ok(0))) if !host.is_empty() => Ok(format!("{host}:{}", local.port())),
        Some((host, Ok(_))) if !host.is_empty() => Ok(address.to_owned()),
        _ => Err(Error::InvalidAddress {
            address: address.to_owned(),
            message: "it has no host or no port".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advertised_is_where_it_listens_unless_told() {
        let local = "127.0.0.1:7".parse().unwrap();
        for (told, expected) in [
            (None, "127.0.0.1:7"),
            (Some("bees.example:9"), "bees.example:9"),
            (Some("bees.example:0"), "bees.example:7"),
        ] {
            assert_eq!(advertised(told, local).unwrap(), expected);
        }
        for wrong in ["bees", ":7", "bees:", "bees:many"] {
            assert!(matches!(advertised(Some(wrong), local), Err(Error::InvalidAddress { .. })));
        }
    }

    #[tokio::test]
    async fn an_open_address_wants_to_be_asked_for() {
        for address in ["0.0.0.0:0", "[::]:0"] {
            let error = bind(address, false).await.unwrap_err();
            assert!(matches!(error, Error::OpenToAll { .. }), "{error}");
            assert!(error.hint().unwrap().contains("--insecure"));
        }
        assert!(bind("127.0.0.1:0", false).await.is_ok());
        assert!(bind("0.0.0.0:0", true).await.is_ok());
    }

    #[tokio::test]
    async fn addresses_that_are_none_are_refused() {
        for address in ["", "localhost", "127.0.0.1:", "127.0.0.1:99999", "grpc://127.0.0.1"] {
            let error = bind(address, false).await.unwrap_err();
            assert!(matches!(error, Error::InvalidAddress { .. }), "{address}: {error}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_said_to_be() {
        let first = bind("127.0.0.1:0", false).await.unwrap();
        let address = first.local_addr().unwrap().to_string();
        let error = bind(&address, false).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
        assert!(error.hint().unwrap().contains("another process"));
    }
}
