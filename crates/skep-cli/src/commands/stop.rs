//! How a role is told to end: SIGTERM, Ctrl-C, or the end of its standard input.
//!
//! The last is for the processes that `skep cluster` starts. A parent that is killed can tell them
//! nothing more, but the pipe that it held is closed for it.

use std::io::{self, Read};
use std::process;
use std::thread;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// The exit status of a process that was told to end twice.
const EXIT_FORCED: i32 = 130;

/// Waits for being told to end.
#[derive(Debug)]
pub(super) struct StopRequests {
    interrupts: Signal,
    terminations: Signal,
    /// Gives `None` when standard input has ended; nothing before.
    stdin: Option<mpsc::Receiver<()>>,
}

impl StopRequests {
    /// Starts to listen; from here on signals no longer end the process by themselves. Must be called
    /// within a runtime.
    ///
    /// # Errors
    /// If the system lets no handler be installed.
    pub(super) fn listen(exit_with_stdin: bool) -> io::Result<Self> {
        Ok(Self {
            interrupts: signal(SignalKind::interrupt())?,
            terminations: signal(SignalKind::terminate())?,
            stdin: exit_with_stdin.then(watch_stdin),
        })
    }

    /// Waits for the next request.
    pub(super) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupts.recv() => {}
            _ = self.terminations.recv() => {}
            () = stdin_ended(&mut self.stdin) => {}
        }
    }

    /// Runs the end, and cuts it short if told again.
    pub(super) async fn or_forced(mut self, end: impl Future<Output = ()>) {
        tokio::select! {
            () = end => {}
            () = self.wait() => process::exit(EXIT_FORCED),
        }
    }
}

async fn stdin_ended(stdin: &mut Option<mpsc::Receiver<()>>) {
    match stdin {
        Some(ended) => {
            ended.recv().await;
            // Once is enough.
            *stdin = None;
        }
        None => std::future::pending().await,
    }
}

/// Reads standard input to its end on a thread of its own: a read cannot be given up, and must not
/// keep the runtime from ending.
fn watch_stdin() -> mpsc::Receiver<()> {
    let (sender, ended) = mpsc::channel(1);
    thread::spawn(move || {
        let _until_its_end = sender;
        let mut buffer = [0; 256];
        while matches!(io::stdin().read(&mut buffer), Ok(1..)) {}
    });
    ended
}
