//! `skep worker`: runs tasks and keeps partitions.

use std::path::PathBuf;
use std::process::{self, ExitCode};

use clap::Args;
use skep_server::config::ConfigFile;
use skep_server::{Error, WorkerConfig, WorkerServer};

use super::coordinator::scheme;
use super::stop::StopRequests;
use super::tls::TlsArgs;
use super::{fail, fail_with, misconfigured, run_role, say};
use crate::args::memory_limit;
use crate::size::Size;
use crate::style::Palette;

const EXAMPLES: &str = "\
Examples:
  skep worker --coordinator grpc://127.0.0.1:50051
  skep worker --coordinator grpc://10.0.0.1:50051 --listen 0.0.0.0:50052 \\
      --advertise 10.0.0.2:50052 --insecure
  skep worker --coordinator grpc://127.0.0.1:50051 --slots 2 --memory 4GiB --data-dir /fast/disk
  skep worker --config worker.toml

The file has the same names: coordinator, listen, advertise, insecure, token, slots, memory_bytes,
partition_memory_bytes, data_dir, spill_dir, [tls] cert, key, ca, client_ca, server_name. Flags go
before it.

It waits for a coordinator that is not there yet, and comes back to one that restarts. It ends by
SIGTERM or Ctrl-C; a second one ends it at once.";

/// Run tasks of a coordinator, and keep what they make for other workers to fetch.
///
/// Once the coordinator has let it in, it writes one line: worker ID pid PID grpc://HOST:PORT
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WorkerArgs {
    /// The coordinator to work for
    #[arg(
        long,
        env = "SKEP_COORDINATOR",
        value_name = "grpc://HOST:PORT",
        required_unless_present = "config"
    )]
    coordinator: Option<String>,

    /// Read the configuration from this file, in TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where other workers fetch from this one; port 0 takes a free one [default: 127.0.0.1:0]
    #[arg(long, env = "SKEP_LISTEN", value_name = "HOST:PORT")]
    listen: Option<String>,

    /// Where others reach it, if that is not where it listens (port 0: the one that it listens on)
    #[arg(long, env = "SKEP_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,

    /// How many tasks run at a time [default: the number of cores]
    #[arg(long, env = "SKEP_SLOTS", value_name = "N", value_parser = slots)]
    slots: Option<usize>,

    /// Memory for tasks and what they make, such as 512MB, 2GiB or 50% [default: 70%]
    #[arg(long, env = "SKEP_MEMORY", value_name = "SIZE")]
    memory: Option<Size>,

    /// Most memory for what tasks make; what is more goes to disk [default: what --memory leaves]
    #[arg(long, env = "SKEP_PARTITION_MEMORY", value_name = "SIZE")]
    partition_memory: Option<Size>,

    /// Memory of cached tables that tasks do not get, such as 512MB or 20% [default: none]
    #[arg(long, env = "SKEP_PROTECTED_CACHE", value_name = "SIZE")]
    protected_cache: Option<Size>,

    /// Put what tasks make here when memory is short [default: the system's temporary directory]
    #[arg(long, env = "SKEP_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Put what running tasks cannot hold in memory here [default: as --data-dir]
    #[arg(long, env = "SKEP_SPILL_DIR", value_name = "DIR")]
    spill_dir: Option<PathBuf>,

    /// The secret of the cluster
    #[arg(long, env = "SKEP_CLUSTER_TOKEN", value_name = "SECRET", hide_env_values = true)]
    token: Option<String>,

    /// Listen where other machines can connect, although nobody is asked who they are
    #[arg(long)]
    insecure: bool,

    #[command(flatten)]
    tls: TlsArgs,

    /// The id to ask for
    #[arg(long, hide = true, value_parser = clap::value_parser!(u64).range(1..))]
    id: Option<u64>,

    /// End when standard input does
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

/// Reads a number of slots.
pub(super) fn slots(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=4096) => Ok(count),
        _ => Err("expected a number from 1 to 4096".to_owned()),
    }
}

impl WorkerArgs {
    fn config(&self) -> Result<WorkerConfig, Error> {
        let mut config = WorkerConfig::new("");
        if let Some(path) = &self.config {
            ConfigFile::read(path)?.apply(&mut config)?;
        }
        if let Some(coordinator) = &self.coordinator {
            config.coordinator.clone_from(coordinator);
        }
        if let Some(listen) = &self.listen {
            config.listen.clone_from(listen);
        }
        config.advertise = self.advertise.clone().or(config.advertise);
        config.is_insecure |= self.insecure;
        config.slot_count = self.slots.unwrap_or(config.slot_count);
        config.memory_limit = self.memory.map(memory_limit).or(config.memory_limit);
        let partition_memory = self.partition_memory.map(memory_limit);
        config.partition_memory_limit = partition_memory.or(config.partition_memory_limit);
        config.protected_cache = self.protected_cache.map_or(config.protected_cache, memory_limit);
        config.data_dir = self.data_dir.clone().or(config.data_dir);
        let spill_dir = self.spill_dir.clone().or(config.spill_dir);
        config.spill_dir = spill_dir.or_else(|| config.data_dir.clone());
        config.wanted_id = self.id;
        config.token = self.token.clone().or(config.token);
        self.tls.apply(&mut config.tls);
        Ok(config)
    }
}

/// Runs the worker until it is told to end.
pub(crate) fn run(args: &WorkerArgs, palette: Palette) -> ExitCode {
    let config = match args.config() {
        Ok(config) => config,
        Err(error) => return misconfigured(&error, palette),
    };
    if config.coordinator.is_empty() {
        let hint = "say --coordinator, or coordinator in the configuration file";
        return fail("the coordinator to work for is missing", Some(hint), palette);
    }
    run_role(args.exit_with_stdin, palette, |stop| serve(config, stop, palette))
}

async fn serve(config: WorkerConfig, mut stop: StopRequests, palette: Palette) -> ExitCode {
    let scheme = scheme(&config.tls);
    let server = tokio::select! {
        started = WorkerServer::start(config) => match started {
            Ok(server) => server,
            Err(error) => return fail_with(&error, palette),
        },
        () = stop.wait() => return ExitCode::SUCCESS,
    };
    let id = tokio::select! {
        registered = server.ready() => match registered {
            Ok(id) => id,
            Err(error) => return fail_with(&error, palette),
        },
        () = stop.wait() => {
            stop.or_forced(server.shutdown()).await;
            return ExitCode::SUCCESS;
        }
    };
    let line = format!("worker {id} pid {} {scheme}://{}", process::id(), server.advertised());
    if let Err(error) = say(&line) {
        return fail(&format!("cannot write to standard output: {error}"), None, palette);
    }
    let outcome = tokio::select! {
        error = server.failed() => fail_with(&error, palette),
        () = stop.wait() => ExitCode::SUCCESS,
    };
    stop.or_forced(server.shutdown()).await;
    outcome
}
