//! What a process has once.

use std::sync::Arc;

use datafusion::execution::runtime_env::RuntimeEnv;

use crate::config::EngineConfig;
use crate::error::Result;
use crate::session::Session;

/// The engine of a process: memory, disk, object stores and the persistent catalog.
#[derive(Debug, Clone)]
pub struct Engine {
    runtime: Arc<RuntimeEnv>,
}

impl Engine {
    /// Opens the engine.
    ///
    /// # Errors
    /// If the data directory cannot be used.
    #[expect(clippy::unused_async, reason = "opening the catalog reads files")]
    pub async fn open(_config: EngineConfig) -> Result<Self> {
        Ok(Self { runtime: Arc::new(RuntimeEnv::default()) })
    }

    /// Starts a session.
    pub fn session(&self) -> Session {
        Session::new(Arc::clone(&self.runtime))
    }
}
