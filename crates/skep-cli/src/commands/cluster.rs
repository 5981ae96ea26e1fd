//! `skep cluster`: a coordinator and workers as processes on this machine.

use std::ffi::OsString;
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use datafusion::common::runtime::JoinSet;
use skep_server::config::ConfigFile;
use skep_server::{CoordinatorConfig, Error, TlsConfig, fresh_cluster_token};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::children::{ChildProcess, END_PATIENCE, TOKEN_VARIABLE};
use super::stop::StopRequests;
use super::tls::{TlsArgs, flags};
use super::worker::slots;
use super::{fail, misconfigured, runtime, say};
use crate::args::memory_limit;
use crate::shell::write_message;
use crate::size::Size;
use crate::style::Palette;

const EXAMPLES: &str = "\
Examples:
  skep cluster --workers 4
  skep cluster --workers 2 --slots 1 --memory 1GiB --listen 127.0.0.1:0 --http 127.0.0.1:0
  skep cluster --workers 4 --data-dir ./warehouse --replace

It writes a line for each worker, and one when all are there:
  worker 1 pid 4242 grpc://127.0.0.1:40001
  ready grpc://127.0.0.1:50051 http://127.0.0.1:8080
Then, in another terminal:
  skep grpc://127.0.0.1:50051

It ends by SIGTERM or Ctrl-C, and all its processes with it.";

/// How long to wait before a worker that has ended is started again; doubled each time that it ends
/// early, up to a bound.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A worker that ran for so long is not failing at its start.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// How many times in a row a worker may fail to get ready before it is given up.
const MAX_FAILED_STARTS: u32 = 10;

/// How long a worker lets others finish.
const WORKER_DRAIN: Duration = Duration::from_secs(5);

/// Messages of workers that wait to be written.
const WAITING_NEWS: usize = 64;

/// Start a coordinator and workers on this machine, each a process of its own.
///
/// For trying things out, for tests, and for a single large machine.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ClusterArgs {
    /// How many workers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,

    /// How many tasks each worker runs at a time [default: the cores divided among the workers]
    #[arg(long, value_name = "N", value_parser = slots)]
    slots: Option<usize>,

    /// Memory of each worker, such as 512MB or 2GiB [default: 70% divided among the workers]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,

    /// Where clients connect; port 0 takes a free one [default: 127.0.0.1:50051]
    #[arg(long, env = "SKEP_LISTEN", value_name = "HOST:PORT")]
    listen: Option<String>,

    /// Where health is asked for over HTTP [default: 127.0.0.1:8080]
    #[arg(long, env = "SKEP_HTTP", value_name = "HOST:PORT")]
    http: Option<String>,

    /// Keep tables here, so that they survive [default: keep nothing]
    #[arg(long, env = "SKEP_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Put what does not fit in memory here [default: the system's temporary directory]
    #[arg(long, env = "SKEP_SPILL_DIR", value_name = "DIR")]
    spill_dir: Option<PathBuf>,

    /// Read the coordinator's configuration from this file, in TOML
    #[arg(long, env = "SKEP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Ask clients who they are: the file of users [default: users in the data directory, if it is
    /// there]
    #[arg(long, env = "SKEP_USERS", value_name = "FILE")]
    users: Option<PathBuf>,

    /// Let users name files below this directory or URL who are no admins (may be repeated)
    #[arg(long = "allow-root", value_name = "DIR")]
    allow_root: Vec<String>,

    /// Listen where other machines can connect, although nobody is asked who they are
    #[arg(long)]
    insecure: bool,

    /// How long to let running statements finish at the end, in seconds [default: 5]
    #[arg(long, env = "SKEP_DRAIN_TIMEOUT", value_name = "SECONDS")]
    drain_timeout: Option<u64>,

    #[command(flatten)]
    tls: TlsArgs,

    /// Start a worker again that has ended
    #[arg(long)]
    replace: bool,

    /// End when standard input does
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

/// What all processes of the cluster must agree upon.
#[derive(Clone)]
struct Shared {
    tls: TlsConfig,
    token: Option<String>,
    drain_timeout: Duration,
}

/// What becomes of a worker.
#[derive(Debug)]
enum News {
    /// It is there; its line.
    Ready(String),
    /// It is not there any more, or not yet.
    Trouble(String),
    /// It will not come back.
    Over { was_ready: bool },
}

impl ClusterArgs {
    fn coordinator(&self, shared: &Shared) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["coordinator".into()];
        // What is not said here may be said in the file.
        for (flag, address) in [("--listen", &self.listen), ("--http", &self.http)] {
            if let Some(address) = address {
                args.extend([flag.into(), address.into()]);
            }
        }
        for (flag, path) in [
            ("--data-dir", &self.data_dir),
            ("--spill-dir", &self.spill_dir),
            ("--config", &self.config),
            ("--users", &self.users),
        ] {
            if let Some(path) = path {
                args.extend([flag.into(), path.into()]);
            }
        }
        if self.insecure {
            args.push("--insecure".into());
        }
        for root in &self.allow_root {
            args.extend(["--allow-root".into(), root.into()]);
        }
        if let Some(seconds) = self.drain_timeout {
            args.extend(["--drain-timeout".into(), seconds.to_string().into()]);
        }
        args.extend(flags(&shared.tls));
        args.extend(["--memory".into(), self.memory_bytes().to_string().into()]);
        args
    }

    fn worker(&self, id: u16, coordinator: &str, shared: &Shared) -> Vec<OsString> {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let slots = self.slots.unwrap_or_else(|| (cores / usize::from(self.workers)).max(1));
        let mut args: Vec<OsString> = vec![
            "worker".into(),
            "--coordinator".into(),
            coordinator.into(),
            "--listen".into(),
            "127.0.0.1:0".into(),
            "--id".into(),
            id.to_string().into(),
            "--slots".into(),
            slots.to_string().into(),
            "--memory".into(),
            self.memory_bytes().to_string().into(),
        ];
        args.extend(flags(&shared.tls));
        // What workers keep is no table: it goes where there is room for what does not fit.
        for (flag, path) in [("--data-dir", &self.spill_dir), ("--spill-dir", &self.spill_dir)] {
            if let Some(path) = path {
                args.extend([flag.into(), path.into()]);
            }
        }
        args
    }

    /// Finds out what all processes must agree upon, from the flags and the file.
    fn shared(&self) -> Result<Shared, Error> {
        let mut config = CoordinatorConfig::default();
        if let Some(path) = &self.config {
            ConfigFile::read(path)?.apply(&mut config)?;
        }
        self.tls.apply(&mut config.tls);
        config.users = self.users.clone().or(config.users);
        config.engine.data_dir = self.data_dir.clone().or(config.engine.data_dir);
        let said = std::env::var(TOKEN_VARIABLE).ok().or(config.token.take());
        // With users, anybody's process must not be taken for a worker.
        let wants_token = config.asks_users() && config.tls.client_ca.is_none();
        let token = match said {
            None if wants_token => Some(fresh_cluster_token()),
            said => said,
        };
        let drain_timeout = self.drain_timeout.map_or(config.drain_timeout, Duration::from_secs);
        Ok(Shared { tls: config.tls, token, drain_timeout })
    }

    /// Returns the memory of each process.
    fn memory_bytes(&self) -> usize {
        match self.memory {
            Some(size) => memory_limit(size),
            None => skep_engine::default_memory_limit() / usize::from(self.workers),
        }
    }
}

/// Runs the cluster until it is told to end.
pub(crate) fn run(args: &ClusterArgs, palette: Palette) -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start threads: {error}"), None, palette),
    };
    let shared = match args.shared() {
        Ok(shared) => shared,
        Err(error) => return misconfigured(&error, palette),
    };
    let outcome = runtime.block_on(async {
        let mut stop = StopRequests::listen(args.exit_with_stdin)
            .map_err(|error| Some(format!("cannot listen for signals: {error}")))?;
        let mut coordinator =
            ChildProcess::start(&args.coordinator(&shared), shared.token.as_deref())
                .map_err(|error| Some(format!("cannot start the coordinator: {error}")))?;
        let outcome = serve(args, &shared, &mut stop, &mut coordinator, palette).await;
        stop.or_forced(coordinator.stop(shared.drain_timeout)).await;
        outcome
    });
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // It said itself what was wrong.
        Err(None) => ExitCode::FAILURE,
        Err(Some(message)) => fail(&message, None, palette),
    }
}

/// Runs the workers beside a coordinator, until told to end or until it does.
async fn serve(
    args: &ClusterArgs,
    shared: &Shared,
    stop: &mut StopRequests,
    coordinator: &mut ChildProcess,
    palette: Palette,
) -> Result<(), Option<String>> {
    let line = tokio::select! {
        line = coordinator.ready_line() => line.map_err(|_said| None)?,
        () = stop.wait() => return Ok(()),
    };
    let unexpected = || Some(format!("the coordinator said: {line}"));
    let begins = line.find("grpc+tls://").or_else(|| line.find("grpc://"));
    let addresses = begins.map(|at| line[at..].to_owned()).ok_or_else(unexpected)?;
    let grpc = addresses.split(' ').next().ok_or_else(unexpected)?;

    let (ending, ended) = watch::channel(false);
    let (sender, mut news) = mpsc::channel(WAITING_NEWS);
    let mut workers = JoinSet::new();
    for id in 1..=args.workers {
        let supervisor = Supervisor {
            id,
            args: args.worker(id, grpc, shared),
            shared: shared.clone(),
            replaces: args.replace,
            news: sender.clone(),
            ending: ended.clone(),
        };
        workers.spawn(supervisor.run());
    }
    drop(sender);
    let outcome = tokio::select! {
        outcome = report(args.workers, &addresses, &mut news, palette) => outcome,
        how = coordinator.ended() => Err(Some(format!("the coordinator {how}"))),
        () = stop.wait() => Ok(()),
    };
    if outcome.is_ok() {
        // First whoever needs the workers to finish what runs.
        coordinator.tell_to_end();
        tokio::select! {
            _ = timeout(shared.drain_timeout.saturating_add(END_PATIENCE), coordinator.ended()) => {}
            // Told twice.
            () = stop.wait() => coordinator.kill().await,
        }
    }
    ending.send_replace(true);
    // Nobody reads them any more, and nobody should wait for that.
    drop(news);
    let all_ended = async { while workers.join_next().await.is_some() {} };
    tokio::select! {
        () = all_ended => {}
        // Told twice: dropped, they are killed.
        () = stop.wait() => {}
    }
    outcome
}

/// Writes what becomes of the workers; returns when there is no use in going on.
async fn report(
    worker_count: u16,
    addresses: &str,
    news: &mut mpsc::Receiver<News>,
    palette: Palette,
) -> Result<(), Option<String>> {
    let failed = |error: io::Error| Some(format!("cannot write to standard output: {error}"));
    let mut awaited = worker_count;
    while let Some(news) = news.recv().await {
        match news {
            News::Ready(line) => {
                say(&line).map_err(failed)?;
                if awaited > 0 {
                    awaited -= 1;
                    if awaited == 0 {
                        say(&format!("ready {addresses}")).map_err(failed)?;
                    }
                }
            }
            News::Trouble(message) => {
                write_message(&format!("{}\n", palette.error(&message)));
            }
            // At the start it is all or nothing; later the others go on.
            News::Over { was_ready: false } => return Err(None),
            News::Over { was_ready: true } => {}
        }
    }
    // Without a worker the coordinator tells whoever asks; it ends when it is told to.
    std::future::pending().await
}

/// Looks after one worker.
struct Supervisor {
    id: u16,
    args: Vec<OsString>,
    shared: Shared,
    replaces: bool,
    news: mpsc::Sender<News>,
    ending: watch::Receiver<bool>,
}

impl Supervisor {
    async fn run(mut self) {
        let mut was_ready = false;
        let mut failed_starts = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            match self.run_once().await {
                None => return,
                Some(Run { got_ready, how }) => {
                    self.tell(News::Trouble(format!("worker {} {how}", self.id))).await;
                    was_ready |= got_ready;
                    failed_starts = if got_ready { 0 } else { failed_starts + 1 };
                }
            }
            if !self.replaces || !was_ready || failed_starts >= MAX_FAILED_STARTS {
                self.tell(News::Over { was_ready }).await;
                return;
            }
            if began.elapsed() >= HEALTHY_AFTER {
                pause = FIRST_PAUSE;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = is_ending(&mut self.ending) => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Starts the worker and waits for its end; returns nothing if it was this that ended it.
    async fn run_once(&mut self) -> Option<Run> {
        let mut child = match ChildProcess::start(&self.args, self.shared.token.as_deref()) {
            Ok(child) => child,
            Err(error) => {
                return Some(Run { got_ready: false, how: format!("cannot be started: {error}") });
            }
        };
        let pid = child.pid();
        let line = tokio::select! {
            line = child.ready_line() => line,
            () = is_ending(&mut self.ending) => {
                child.stop(WORKER_DRAIN).await;
                return None;
            }
        };
        let how = match line {
            Ok(line) => {
                self.tell(News::Ready(line)).await;
                tokio::select! {
                    how = child.ended() => how,
                    () = is_ending(&mut self.ending) => {
                        child.stop(WORKER_DRAIN).await;
                        return None;
                    }
                }
            }
            Err(how) => return Some(Run { got_ready: false, how }),
        };
        let how = pid.map_or_else(|| how.clone(), |pid| format!("pid {pid} {how}"));
        Some(Run { got_ready: true, how })
    }

    async fn tell(&self, news: News) {
        // When nobody listens any more, the end is near.
        let _ = self.news.send(news).await;
    }
}

/// How a worker fared.
struct Run {
    got_ready: bool,
    how: String,
}

async fn is_ending(ending: &mut watch::Receiver<bool>) {
    // An error says that whoever could say it is gone.
    let _ = ending.wait_for(|ending| *ending).await;
}
