//! What both ends of a control stream are told at their start, and their bounds.

use std::fmt;
use std::time::Duration;

use tonic::transport::Endpoint;

use super::backoff::BackoffConfig;
use crate::client_tls::ClientTls;
use crate::error::{Error, Result};
use crate::ids::WorkerId;

/// The largest message of a control stream: plans and launches can be large.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// The coordinator's end.
#[derive(Debug, Clone)]
pub struct ControlServiceConfig {
    /// How long a worker may take to say who it is.
    pub register_timeout: Duration,
    /// How often workers are to send a heartbeat; several must fit into the time after which a
    /// silent worker is lost.
    pub heartbeat_interval: Duration,
    /// How long a worker may take no message while one waits for it.
    pub stall_timeout: Duration,
    /// The largest message, either way.
    pub max_message_bytes: usize,
    /// The size at which a message of launches is full.
    pub target_launch_bytes: usize,
    /// How many waiting commands are looked at together.
    pub batched_command_count: usize,
    /// How many messages may wait for a worker to take them.
    pub queued_message_count: usize,
    /// How many connections there may be, registered or not.
    pub max_connection_count: usize,
}

impl Default for ControlServiceConfig {
    fn default() -> Self {
        Self {
            register_timeout: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(10),
            max_message_bytes: MAX_MESSAGE_BYTES,
            target_launch_bytes: 1 << 20,
            batched_command_count: 256,
            queued_message_count: 16,
            max_connection_count: 4096,
        }
    }
}

/// The worker's end.
#[derive(Clone)]
pub struct ControlConfig {
    /// Where the coordinator listens: HOST:PORT, with or without `grpc://`.
    pub coordinator: String,
    /// How the coordinator is known and told who speaks; plain TCP without.
    pub tls: Option<ClientTls>,
    /// How many tasks run here at a time.
    pub slot_count: usize,
    /// The memory limit of this process.
    pub memory_bytes: u64,
    /// HOST:PORT at which others fetch from this worker.
    pub data_address: String,
    /// This process.
    pub pid: u32,
    /// The version of this program.
    pub version: String,
    /// The cluster's secret; empty if there is none.
    pub token: String,
    /// The id that it would like to have.
    pub wanted_id: Option<WorkerId>,
    /// The waiting between tries to connect.
    pub backoff: BackoffConfig,
    /// How long a TCP connection may take to be made.
    pub connect_timeout: Duration,
    /// How long it may take from the start of a try until the coordinator's welcome.
    pub register_timeout: Duration,
    /// How long the coordinator may take no message while one waits for it.
    pub stall_timeout: Duration,
    /// How long the goodbye may take.
    pub goodbye_timeout: Duration,
    /// How often the connection is probed.
    pub keepalive_interval: Duration,
    /// How long the answer to a probe may take.
    pub keepalive_timeout: Duration,
    /// The largest message, either way.
    pub max_message_bytes: usize,
    /// The size at which a message of reports is full.
    pub target_report_bytes: usize,
    /// How many messages may wait for the coordinator to take them.
    pub queued_message_count: usize,
    /// How many reports are kept while there is no connection.
    pub kept_report_count: usize,
}

impl ControlConfig {
    /// Returns the configuration of a worker of one slot without a secret, with default bounds.
    pub fn new(coordinator: impl Into<String>, data_address: impl Into<String>) -> Self {
        Self {
            coordinator: coordinator.into(),
            tls: None,
            slot_count: 1,
            memory_bytes: 0,
            data_address: data_address.into(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            token: String::new(),
            wanted_id: None,
            backoff: BackoffConfig::default(),
            connect_timeout: Duration::from_secs(5),
            register_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(10),
            goodbye_timeout: Duration::from_secs(2),
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(5),
            max_message_bytes: MAX_MESSAGE_BYTES,
            target_report_bytes: 256 << 10,
            queued_message_count: 16,
            kept_report_count: 1 << 16,
        }
    }

    /// Returns where and how to connect.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if the address or the TLS material is no good.
    pub(super) fn endpoint(&self) -> Result<Endpoint> {
        let address = self.coordinator.as_str();
        let authority = ["grpc://", "http://", "grpc+tls://", "grpcs://", "https://"]
            .iter()
            .find_map(|scheme| address.strip_prefix(scheme))
            .unwrap_or(address);
        let has_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
        });
        if !has_port {
            return Err(invalid(format!("\"{address}\" is not HOST:PORT")));
        }
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{authority}"))
            .map_err(|error| invalid(format!("\"{address}\": {error}")))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.keepalive_interval)
            .keep_alive_timeout(self.keepalive_timeout)
            .keep_alive_while_idle(true);
        if let Some(tls) = &self.tls {
            endpoint =
                endpoint.tls_config(tls.current().1).map_err(|error| invalid(error.to_string()))?;
        }
        Ok(endpoint)
    }
}

fn invalid(message: String) -> Error {
    Error::InvalidOption { option: "coordinator", message }
}

impl fmt::Debug for ControlConfig {
    /// Leaves secrets out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlConfig")
            .field("coordinator", &self.coordinator)
            .field("tls", &self.tls.is_some())
            .field("slot_count", &self.slot_count)
            .field("memory_bytes", &self.memory_bytes)
            .field("data_address", &self.data_address)
            .field("pid", &self.pid)
            .field("version", &self.version)
            .field("wanted_id", &self.wanted_id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_with_and_without_a_scheme() {
        for address in ["grpc://a.b:70", "http://a.b:70", "a.b:70"] {
            let endpoint = ControlConfig::new(address, "x:1").endpoint().unwrap();
            assert_eq!(endpoint.uri().to_string(), "http://a.b:70/");
        }
        let bracketed = ControlConfig::new("grpc://[::1]:70", "x:1").endpoint().unwrap();
        assert_eq!(bracketed.uri().to_string(), "http://[::1]:70/");
    }

    #[test]
    fn an_address_without_a_port_is_an_invalid_option() {
        for address in ["", "a.b", "a.b:", ":70", "a.b:99999", "a b:70", "ftp://a.b:70"] {
            let error = ControlConfig::new(address, "x:1").endpoint().unwrap_err();
            assert!(matches!(error, Error::InvalidOption { .. }), "{address}: {error}");
        }
    }

    #[test]
    fn the_secret_is_not_shown() {
        let config = ControlConfig { token: "hush".to_owned(), ..ControlConfig::new("a:1", "x:1") };
        assert!(!format!("{config:?}").contains("hush"));
    }
}
