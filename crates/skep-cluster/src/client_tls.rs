//! How the other processes of the cluster are known, and told who speaks.

use std::fmt;
use std::sync::Arc;

use tonic::transport::ClientTlsConfig;

/// What connections are made with; asked anew for each, because certificates are renewed while a
/// process runs. Clones share it.
#[derive(Clone)]
pub struct ClientTls {
    current: Arc<dyn Fn() -> (u64, ClientTlsConfig) + Send + Sync>,
}

impl ClientTls {
    /// Takes a function that returns what holds now, with a number that changes when it does.
    pub fn new(current: impl Fn() -> (u64, ClientTlsConfig) + Send + Sync + 'static) -> Self {
        Self { current: Arc::new(current) }
    }

    /// Returns what holds now, and its number.
    pub(crate) fn current(&self) -> (u64, ClientTlsConfig) {
        (self.current)()
    }
}

impl fmt::Debug for ClientTls {
    /// Shows nothing of keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}
