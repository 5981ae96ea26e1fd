//! A process that `skep cluster` started and looks after.
//!
//! It says one line when it is ready, and ends when its standard input does: closing that is how it
//! is told to, and how it notices that its parent is gone.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use std::os::unix::process::ExitStatusExt;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long a process may take until it is ready.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// How long a process may take to end after it was told to and has let others finish.
pub(super) const END_PATIENCE: Duration = Duration::from_secs(3);

/// Where roles look for the cluster's secret.
pub(super) const TOKEN_VARIABLE: &str = "SKEP_CLUSTER_TOKEN";

/// What one process must not take over from the environment of all.
const NOT_INHERITED: [&str; 5] =
    ["SKEP_LISTEN", "SKEP_HTTP", "SKEP_ADVERTISE", "SKEP_DATA_DIR", "SKEP_USERS"];

/// A process. Dropping it kills it.
#[derive(Debug)]
pub(super) struct ChildProcess {
    process: Child,
    /// Closed to say that this is the end.
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl ChildProcess {
    /// Starts this very program in another role. The cluster's secret is said in the environment,
    /// where others do not see it.
    ///
    /// # Errors
    /// If the system cannot start it.
    pub(super) fn start(args: &[OsString], token: Option<&str>) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        if let Some(token) = token {
            command.env(TOKEN_VARIABLE, token);
        }
        let mut process = command
            .args(args)
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A group of its own: Ctrl-C is for the parent, which ends the children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let missing = || io::Error::other("a child has no pipe");
        let stdin = process.stdin.take().ok_or_else(missing)?;
        let stdout = process.stdout.take().ok_or_else(missing)?;
        let lines = BufReader::new(stdout).lines();
        Ok(Self { process, stdin: Some(stdin), lines })
    }

    /// Waits for the line that says that it is ready.
    ///
    /// # Errors
    /// If it ends before, or takes too long.
    pub(super) async fn ready_line(&mut self) -> Result<String, String> {
        match timeout(READY_PATIENCE, self.lines.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None)) => Err(self.ended().await),
            Ok(Err(error)) => Err(format!("cannot be read from: {error}")),
            Err(_elapsed) => Err(format!("is not ready after {} s", READY_PATIENCE.as_secs())),
        }
    }

    /// Returns its id in the system.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Waits until it has ended; says how.
    pub(super) async fn ended(&mut self) -> String {
        match self.process.wait().await {
            Ok(status) => format!("ended ({})", how(status)),
            Err(error) => format!("cannot be waited for: {error}"),
        }
    }

    /// Tells it to end.
    pub(super) fn tell_to_end(&mut self) {
        drop(self.stdin.take());
    }

    /// Ends it without a word.
    pub(super) async fn kill(&mut self) {
        // It may have ended just now.
        let _ = self.process.kill().await;
    }

    /// Tells it to end, and kills it if it takes much longer than it may let others finish.
    pub(super) async fn stop(mut self, drain_timeout: Duration) {
        self.tell_to_end();
        let patience = drain_timeout.saturating_add(END_PATIENCE);
        if timeout(patience, self.process.wait()).await.is_err() {
            self.kill().await;
        }
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}
