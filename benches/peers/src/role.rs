//! Processes of this binary in another role, and what keeps them to their parent.
//!
//! A process says `ready PORT` on standard output once it can be reached.
//!
//! **Invariant:** it ends when its standard input does, and so never outlives the one who started it.

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use tokio::runtime::{Builder, Runtime};

use crate::{ballista, distributed};

/// How long a process may take to get ready.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Deep plans recurse deeply.
const STACK_SIZE: usize = 64 << 20;

/// What a process does that another has started.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// A worker of datafusion-distributed.
    #[command(hide = true)]
    DistributedWorker {
        #[arg(long)]
        memory: usize,
        #[arg(long)]
        threads: Option<usize>,
    },
    /// Ballista's scheduler.
    #[command(hide = true)]
    BallistaScheduler {
        /// How many executors make it ready.
        #[arg(long)]
        executors: usize,
        #[arg(long)]
        threads: Option<usize>,
    },
    /// An executor of Ballista's.
    #[command(hide = true)]
    BallistaExecutor {
        #[arg(long)]
        scheduler: u16,
        #[arg(long)]
        slots: usize,
        #[arg(long)]
        memory: usize,
        #[arg(long)]
        work_dir: PathBuf,
        #[arg(long)]
        threads: Option<usize>,
    },
}

impl Role {
    /// Plays the role until the parent is gone.
    pub(crate) fn run(self) -> Result<()> {
        thread::spawn(|| {
            // Nothing is ever written there: its end is the parent's.
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            std::process::exit(0);
        });
        match self {
            Self::DistributedWorker { memory, threads } => {
                runtime(threads)?.block_on(distributed::serve(memory))
            }
            Self::BallistaScheduler { executors, threads } => {
                runtime(threads)?.block_on(ballista::serve_scheduler(executors))
            }
            Self::BallistaExecutor { scheduler, slots, memory, work_dir, threads } => {
                runtime(threads)?
                    .block_on(ballista::serve_executor(scheduler, slots, memory, work_dir))
            }
        }
    }
}

/// Makes the threads of a process: so many, or one for each core.
pub(crate) fn runtime(threads: Option<usize>) -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    Ok(builder.thread_stack_size(STACK_SIZE).enable_all().build()?)
}

/// Says that this process can be reached.
pub(crate) fn say_ready(port: u16) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "ready {port}")?;
    Ok(out.flush()?)
}

/// A process of this binary in another role. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct RoleProcess {
    child: Child,
    /// Where it listens.
    pub(crate) port: u16,
}

impl RoleProcess {
    /// Starts the process and waits until it is ready.
    pub(crate) fn start(role: &str, threads: Option<usize>, options: &[String]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(role).args(options);
        if let Some(threads) = threads {
            command.args(["--threads", &threads.to_string()]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start the {role}"))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut process = Self { child, port: 0 };
        let (sender, lines) = channel();
        thread::spawn(move || {
            // Reads to the end, or what the process says later would end it.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let Ok(line) = lines.recv_timeout(PATIENCE) else {
            bail!("the {role} does not get ready");
        };
        let port = line.strip_prefix("ready ").and_then(|port| port.parse().ok());
        process.port = port.with_context(|| format!("the {role} says {line:?}"))?;
        Ok(process)
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
