//! Ctrl-C, as something that can be waited for.
//!
//! A process that only set a flag would look hung when it cannot get to the flag. So the second
//! Ctrl-C, while the first is still unanswered, ends the process.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::common::runtime::SpawnedTask;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// The exit status of a process that was interrupted, as shells count it.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Tells whether the user asked to stop.
#[derive(Debug)]
pub(crate) struct Interrupts {
    flag: Arc<Flag>,
    _listener: SpawnedTask<()>,
}

#[derive(Debug, Default)]
struct Flag {
    raised: AtomicBool,
    changed: Notify,
}

impl Flag {
    /// Raises the flag; returns whether it was raised already.
    fn raise(&self) -> bool {
        let raised = self.raised.swap(true, Ordering::SeqCst);
        self.changed.notify_one();
        raised
    }
}

impl Interrupts {
    /// Starts to listen; from here on Ctrl-C no longer ends the process by itself. Must be called
    /// within a runtime.
    ///
    /// # Errors
    /// If the system lets no handler be installed.
    pub(crate) fn listen() -> io::Result<Self> {
        let mut signals = signal(SignalKind::interrupt())?;
        let flag = Arc::new(Flag::default());
        let listening = Arc::clone(&flag);
        let listener = SpawnedTask::spawn(async move {
            while signals.recv().await.is_some() {
                if listening.raise() {
                    process::exit(i32::from(EXIT_INTERRUPTED));
                }
            }
        });
        Ok(Self { flag, _listener: listener })
    }

    /// Returns whether Ctrl-C came and was not cleared.
    pub(crate) fn is_raised(&self) -> bool {
        self.flag.raised.load(Ordering::SeqCst)
    }

    /// Does what Ctrl-C does.
    #[cfg(test)]
    pub(crate) fn raise(&self) {
        self.flag.raise();
    }

    /// Forgets a Ctrl-C that came while nothing could be stopped, or that has been answered.
    pub(crate) fn clear(&self) {
        self.flag.raised.store(false, Ordering::SeqCst);
    }

    /// Waits for Ctrl-C; returns at once if it came and was not cleared.
    pub(crate) async fn wait(&self) {
        while !self.is_raised() {
            self.flag.changed.notified().await;
        }
    }
}
