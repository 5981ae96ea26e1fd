//! A coordinator and its workers as processes of their own, started by `skep cluster`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::ClusterShape;

/// How long the processes may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `skep cluster`. Dropping it ends all of its processes.
#[derive(Debug)]
pub struct MultiProcess {
    child: Child,
    lines: Mutex<Receiver<String>>,
    /// The workers, in the order in which they were announced.
    pub workers: Vec<WorkerProcess>,
    /// Where clients connect: `grpc://HOST:PORT`.
    pub url: String,
    /// Where health is asked for: `http://HOST:PORT`.
    pub http: String,
}

/// One worker of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerProcess {
    /// Its id, as `system.workers` has it.
    pub id: String,
    /// Its process.
    pub pid: u32,
    /// Where it serves its partitions.
    pub address: String,
}

/// A signal that tests send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ends a process without a word.
    Kill,
    /// Stops a process where it stands.
    Stop,
    /// Lets it go on.
    Continue,
    /// Asks it to end.
    Terminate,
}

impl MultiProcess {
    /// Starts the cluster and waits until all workers have registered.
    ///
    /// # Errors
    /// If it does not get ready in a minute; the text has what it said meanwhile.
    pub fn start(binary: &Path, shape: &ClusterShape) -> Result<Self> {
        let config = shape.write_config()?;
        let mut command = Command::new(binary);
        command
            .arg("cluster")
            .args(["--workers", &shape.worker_count.to_string()])
            .args(["--slots", &shape.slot_count.to_string()])
            .args(["--memory", &shape.memory_limit.to_string()])
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(&shape.data_dir)
            .arg("--spill-dir")
            .arg(&shape.spill_dir)
            .arg("--config")
            .arg(&config)
            .args(&shape.extra_arguments);
        if let Some(limit) = shape.partition_memory_limit {
            command.env("SKEP_PARTITION_MEMORY", limit.to_string());
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut cluster = Self {
            child,
            lines: Mutex::new(lines),
            workers: Vec::new(),
            url: String::new(),
            http: String::new(),
        };
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        loop {
            let line = self.next_line(PATIENCE)?;
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["worker", id, "pid", pid, address] => self.workers.push(WorkerProcess {
                    id: id.to_owned(),
                    pid: pid.parse().with_context(|| line.clone())?,
                    address: address.to_owned(),
                }),
                ["ready", url, http] => {
                    (self.url, self.http) = (url.to_owned(), http.to_owned());
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    /// Returns the next line that the cluster prints.
    ///
    /// # Errors
    /// If none comes in this time, or the cluster has ended.
    pub fn next_line(&self, patience: Duration) -> Result<String> {
        match self.lines().recv_timeout(patience) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("skep cluster says nothing for {patience:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("skep cluster has ended"),
        }
    }

    fn lines(&self) -> MutexGuard<'_, Receiver<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the process that started the others.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the cluster to end, and waits until it has.
    ///
    /// # Errors
    /// If it does not end in a minute.
    pub fn shut_down(mut self) -> Result<()> {
        signal(self.child.id(), Signal::Terminate)?;
        if !self.wait_for_end() {
            bail!("skep cluster does not end");
        }
        Ok(())
    }

    fn wait_for_end(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        // Its output ends when the last of its processes has.
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines().recv_timeout(left) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.child.wait().is_ok()
    }
}

impl Drop for MultiProcess {
    fn drop(&mut self) {
        // A stopped worker would not hear that it should end.
        for worker in &self.workers {
            let _ = signal(worker.pid, Signal::Continue);
        }
        if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        let is_asked = signal(self.child.id(), Signal::Terminate).is_ok();
        if !is_asked || !self.wait_for_end() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Sends a signal to a process that this test started.
///
/// # Errors
/// If the process is gone.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let name = match signal {
        Signal::Kill => "-KILL",
        Signal::Stop => "-STOP",
        Signal::Continue => "-CONT",
        Signal::Terminate => "-TERM",
    };
    let output = Command::new("kill").args([name, &pid.to_string()]).output()?;
    if !output.status.success() {
        bail!("kill {name} {pid}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

impl ClusterShape {
    /// Writes the coordinator's configuration file.
    fn write_config(&self) -> Result<PathBuf> {
        let path = self.spill_dir.join("coordinator.toml");
        std::fs::write(&path, self.config_text())?;
        Ok(path)
    }
}
