//! Connections to other processes, one for each address, shared by all tasks of this one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use super::config::FetchConfig;
use crate::client_tls::ClientTls;

/// A frame of HTTP/2 may be so large: few frames for a batch, and signs of life still get between.
const FRAME_BYTES: u32 = 256 << 10;
/// How long the system waits for the other end's system.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// A connection that broke is made again when it is used next.
#[derive(Debug, Default)]
pub(super) struct Channels {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<String, (Channel, u64)>,
    /// Counts uses, to know the connection that was not used for longest.
    uses: u64,
    /// Of the certificates with which the connections are made.
    tls_number: u64,
}

impl Channels {
    /// Returns the connection to HOST:PORT; it is made when it is used. Needs a tokio runtime
    /// around it, on which the connection then lives.
    ///
    /// # Errors
    /// If that is no address.
    pub(super) fn get(
        &self,
        address: &str,
        config: &FetchConfig,
    ) -> Result<Channel, tonic::transport::Error> {
        let tls = config.tls.as_ref().map(ClientTls::current);
        let number = tls.as_ref().map_or(0, |(number, _)| *number);
        let mut state = self.state.lock();
        if state.tls_number != number {
            // They would come back with what they were made with. Streams that are under way stay.
            state.open.clear();
            state.tls_number = number;
        }
        state.uses += 1;
        let uses = state.uses;
        if let Entry::Occupied(mut entry) = state.open.entry(address.to_owned()) {
            entry.get_mut().1 = uses;
            return Ok(entry.get().0.clone());
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .connect_timeout(config.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(TCP_KEEPALIVE))
            .http2_keep_alive_interval(config.keep_alive_interval)
            .keep_alive_timeout(config.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(config.stream_window_bytes)
            .initial_connection_window_size(config.connection_window_bytes)
            .max_frame_size(FRAME_BYTES);
        if let Some((_, tls)) = tls {
            endpoint = endpoint.tls_config(tls)?;
        }
        let channel = endpoint.connect_lazy();
        state.open.insert(address.to_owned(), (channel.clone(), uses));
        if state.open.len() > config.max_connections {
            // Streams that are under way keep theirs.
            let oldest = state.open.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(address, _)| address.clone()) {
                state.open.remove(&oldest);
            }
        }
        Ok(channel)
    }
}
