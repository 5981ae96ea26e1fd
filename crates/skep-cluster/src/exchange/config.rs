//! The bounds of fetching.

use std::time::Duration;

use crate::client_tls::ClientTls;
use crate::error::{Error, Result};

/// Whether batches are compressed on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExchangeCompression {
    /// By LZ4, unless the reader is on this machine: memory is faster than any compressor.
    #[default]
    Auto,
    /// By LZ4.
    Lz4,
    /// Not at all.
    None,
}

/// Bounds of what a process serves.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Whether batches are compressed.
    pub compression: ExchangeCompression,
    /// Most bytes of one message; a row that needs more cannot be sent. The readers' own bound must
    /// not be lower.
    pub max_message_bytes: usize,
    /// Most outputs that one stream carries at a time.
    pub max_slots_per_stream: usize,
    /// How many outputs of one stream are read from the store at a time.
    pub reads_per_stream: usize,
    /// Most streams of this process.
    pub max_streams: usize,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            compression: ExchangeCompression::default(),
            max_message_bytes: MAX_MESSAGE_BYTES,
            max_slots_per_stream: 65_536,
            reads_per_stream: 32,
            max_streams: 8192,
        }
    }
}

/// Bounds of what a process fetches.
#[derive(Debug, Clone)]
pub struct FetchConfig {
    /// The cluster's shared secret, if it has one.
    pub token: Option<String>,
    /// How the other processes are known and told who speaks; plain TCP without.
    pub tls: Option<ClientTls>,
    /// Most bytes of one message.
    pub max_message_bytes: usize,
    /// Bytes that are on their way to one task or wait there. Beyond it one batch at a time comes
    /// from each process, for outputs that somebody waits for.
    pub task_budget_bytes: usize,
    /// What a batch is taken to need until the first ones have come.
    pub expected_batch_bytes: usize,
    /// How long to try to connect.
    pub connect_timeout: Duration,
    /// How long a connection may be silent before it is asked for a sign of life.
    pub keep_alive_interval: Duration,
    /// How long that sign may take.
    pub keep_alive_timeout: Duration,
    /// How long a process that gives signs of life may leave a request without any answer.
    pub stall_timeout: Duration,
    /// HTTP/2's window of each stream, in bytes.
    pub stream_window_bytes: u32,
    /// HTTP/2's window of a connection, in bytes: at most so much is received and not looked at.
    pub connection_window_bytes: u32,
    /// Most connections that are kept open.
    pub max_connections: usize,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            token: None,
            tls: None,
            max_message_bytes: MAX_MESSAGE_BYTES,
            task_budget_bytes: 32 << 20,
            expected_batch_bytes: 1 << 20,
            connect_timeout: Duration::from_secs(4),
            keep_alive_interval: Duration::from_secs(2),
            keep_alive_timeout: Duration::from_secs(4),
            stall_timeout: Duration::from_secs(30),
            stream_window_bytes: 8 << 20,
            connection_window_bytes: 32 << 20,
            max_connections: 1024,
        }
    }
}

/// The store cuts batches to 2 MiB; this is for single rows that are larger.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

impl ServeConfig {
    pub(super) fn check(&self) -> Result<()> {
        positive("max_message_bytes", self.max_message_bytes)?;
        positive("max_slots_per_stream", self.max_slots_per_stream)?;
        positive("reads_per_stream", self.reads_per_stream)?;
        positive("max_streams", self.max_streams)
    }
}

impl FetchConfig {
    /// Makes a configuration for a process with `memory_limit` bytes that runs `slot_count` tasks at
    /// a time: they may hold an eighth of the memory ahead of what they read, for a task that has all
    /// that it reads outlives those who made it.
    pub fn for_memory(memory_limit: usize, slot_count: usize) -> Self {
        let default = Self::default();
        let share = memory_limit / 8 / slot_count.max(1);
        Self { task_budget_bytes: default.task_budget_bytes.max(share), ..default }
    }

    pub(super) fn check(&self) -> Result<()> {
        positive("max_message_bytes", self.max_message_bytes)?;
        positive("expected_batch_bytes", self.expected_batch_bytes)?;
        positive("max_connections", self.max_connections)
    }
}

fn positive(option: &'static str, value: usize) -> Result<()> {
    match value {
        0 => Err(Error::InvalidOption { option, message: "must be at least 1".to_owned() }),
        _ => Ok(()),
    }
}
