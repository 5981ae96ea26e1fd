//! What a site can be told, whoever tells it.

use std::fmt;

use super::command::Command;
use crate::scheduler::{Heartbeat, Holdings, Site};

/// Something that runs tasks. Its reports come through the channel that it was made with, each with
/// the life in which the attempt was launched.
pub trait TaskSite: fmt::Debug + Send + Sync + 'static {
    /// Begins to do what it is told; never waits.
    fn perform(&self, command: Command);

    /// Returns what it holds. An attempt whose report was sent is not among the running ones any
    /// more: the report may be lost with its stream, and nobody would wait for another in vain.
    fn holdings(&self) -> Holdings;

    /// Returns what it is busy with, and which attempts have all that they read.
    fn heartbeat(&self) -> Heartbeat;

    /// Ends its life, if it had one: stops and forgets everything. Begins another.
    fn begin_life(&self, site: Site);
}
