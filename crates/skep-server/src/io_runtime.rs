//! Threads for the network alone.
//!
//! Queries keep threads busy for as long as a batch takes; a heartbeat or a keepalive that waits
//! behind them looks like a process that is gone.

use std::fmt;

use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};

use crate::error::{Error, Result};

/// How many threads. Encoding and compressing batches is done on them.
const THREAD_COUNT: usize = 2;

/// A runtime that may be dropped anywhere: it ends without waiting for what runs on it.
pub(crate) struct IoRuntime {
    /// Empty only while it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl IoRuntime {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`Error::Internal`] if the system gives none.
    pub(crate) fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREAD_COUNT)
            .thread_name("skep-io")
            .enable_all()
            .build()
            .map_err(|error| Error::Internal {
                message: format!("cannot start threads: {error}"),
            })?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle })
    }

    /// Returns what others spawn on it by.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Makes it the present runtime until the guard is dropped.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.handle.enter()
    }
}

impl Drop for IoRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for IoRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoRuntime").finish_non_exhaustive()
    }
}
