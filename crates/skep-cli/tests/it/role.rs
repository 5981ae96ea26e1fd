//! Processes of a cluster: started, talked to, told to end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use pty::process::{Pid, Signal, kill_process};

use crate::process::skep;

/// A wait that takes this long has failed.
const PATIENCE: Duration = Duration::from_secs(90);

/// A process in a role; killed when dropped.
pub(crate) struct Role {
    pub(crate) child: Child,
    /// Held open: some end when it is closed.
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Role {
    /// Starts a process with these arguments.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::spawn(skep(args))
    }

    /// Starts a process.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let lines = read_lines(child.stdout.take().unwrap());
        let errors = read_lines(child.stderr.take().unwrap());
        Self { child, stdin, lines, errors }
    }

    /// Starts a worker of two slots, with more in its environment, and waits until it is one.
    #[track_caller]
    pub(crate) fn worker(coordinator: &str, environment: &[(&str, &str)]) -> Self {
        let mut command = skep(&["worker", "--coordinator", coordinator, "--exit-with-stdin"]);
        command.args(["--slots", "2", "--memory", "256MiB"]).envs(environment.iter().copied());
        let worker = Self::spawn(command);
        let line = worker.line();
        assert!(line.starts_with("worker "), "{line}");
        worker
    }

    /// Returns the next line of its standard output.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("no line: {:?}", self.all_errors()),
            Err(RecvTimeoutError::Disconnected) => panic!("ended: {:?}", self.all_errors()),
        }
    }

    /// Returns the next line of its standard error.
    #[track_caller]
    pub(crate) fn error_line(&self) -> String {
        self.errors.recv_timeout(PATIENCE).unwrap()
    }

    fn all_errors(&self) -> Vec<String> {
        self.errors.try_iter().collect()
    }

    /// Returns all that it writes to its standard error until its end.
    pub(crate) fn errors_to_the_end(&mut self) -> Vec<String> {
        self.wait();
        self.errors.iter().collect()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Closes its standard input.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for its end, which closes its standard output.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(_line) => {}
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(RecvTimeoutError::Timeout) => panic!("the process does not end"),
            }
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // With its standard input everything goes that it has started.
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(source: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// Returns the word of a line that begins like this.
#[track_caller]
pub(crate) fn word<'a>(line: &'a str, prefix: &str) -> &'a str {
    line.split(' ').find(|word| word.starts_with(prefix)).unwrap_or_else(|| panic!("{line}"))
}

/// Returns the id of the process that a line names.
#[track_caller]
pub(crate) fn pid(line: &str) -> Pid {
    let mut words = line.split(' ').skip_while(|word| *word != "pid").skip(1);
    Pid::from_raw(words.next().unwrap().parse().unwrap()).unwrap()
}

/// Waits until there is no such process, or only what its parent has not asked for yet.
#[track_caller]
pub(crate) fn wait_until_gone(pid: Pid) {
    let deadline = Instant::now() + PATIENCE;
    let status = format!("/proc/{}/status", pid.as_raw_nonzero());
    while fs::read_to_string(&status).is_ok_and(|status| !status.contains("State:\tZ")) {
        assert!(Instant::now() < deadline, "process {pid:?} is still there");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// A coordinator that serves statements.
pub(crate) struct Coordinator {
    pub(crate) role: Role,
    pub(crate) url: String,
    pub(crate) http: String,
    /// What its queries run on, if anything but itself.
    _worker: Option<Role>,
}

impl Coordinator {
    /// Starts one with a worker.
    pub(crate) fn start_with_worker(args: &[&str]) -> Self {
        let coordinator = Self::start(args);
        let worker = Role::worker(&coordinator.url, &[]);
        Self { _worker: Some(worker), ..coordinator }
    }

    /// Starts one on free ports.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut all = vec![
            "coordinator",
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--exit-with-stdin",
        ];
        all.extend(args);
        let role = Role::start(&all);
        let line = role.line();
        let (url, http) = (word(&line, "grpc").to_owned(), word(&line, "http://").to_owned());
        Self { role, url, http, _worker: None }
    }
}
