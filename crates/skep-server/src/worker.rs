//! The worker as a process.

use crate::config::WorkerConfig;
use crate::error::{Error, Result};

/// A worker that runs.
#[derive(Debug)]
pub struct WorkerServer {
    advertised: String,
}

impl WorkerServer {
    /// Starts it.
    ///
    /// # Errors
    /// Not yet.
    pub async fn start(_config: WorkerConfig) -> Result<Self> {
        Err(Error::Internal { message: "not yet".to_owned() })
    }
    /// Address.
    pub fn advertised(&self) -> &str {
        &self.advertised
    }
    /// Ready.
    ///
    /// # Errors
    /// Not yet.
    pub async fn ready(&self) -> Result<u64> {
        Ok(0)
    }
    /// Failed.
    pub async fn failed(&self) -> Error {
        std::future::pending().await
    }
    /// Shutdown.
    pub async fn shutdown(self) {}
}
