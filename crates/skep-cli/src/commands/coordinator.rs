//! `skep coordinator`: serves clients, plans and schedules.

use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::time::Duration;

use clap::Args;
use skep_server::config::{ConfigFile, DEFAULT_HTTP};
use skep_server::{CoordinatorConfig, CoordinatorServer, Error, TlsConfig};

use super::stop::StopRequests;
use super::tls::TlsArgs;
use super::{fail, fail_with, misconfigured, run_role, say};
use crate::args::{exit_with_usage_error, memory_limit};
use crate::size::Size;
use crate::style::Palette;

const EXAMPLES: &str = "\
Examples:
  skep coordinator --data-dir ./warehouse
  skep worker --coordinator grpc://127.0.0.1:50051
  skep grpc://127.0.0.1:50051 -c \"SELECT * FROM system.workers\"

Flags go before the file, the file before the defaults. A file has the names of the flags as keys,
and bounds in sections:
  listen = \"127.0.0.1:50051\"
  data_dir = \"/var/lib/skep\"
  [sessions]
  idle_timeout = \"1h\"
  [scheduler]
  running_query_count = 32

With users (skep user add), clients are asked who they are, and workers must say the --token.

It ends by SIGTERM or Ctrl-C: nothing new begins, and what runs may finish within --drain-timeout. A second one ends it at once.";

/// Serve clients over Flight SQL, and run their statements on the workers that attach.
///
/// Once it serves, it writes one line: coordinator pid PID grpc://HOST:PORT http://HOST:PORT
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CoordinatorArgs {
    /// Where clients and workers connect; port 0 takes a free one [default: 127.0.0.1:50051]
    #[arg(long, env = "SKEP_LISTEN", value_name = "HOST:PORT")]
    listen: Option<String>,

    /// Where workers reach it, if that is not where it listens (port 0: the one that it listens on)
    #[arg(long, env = "SKEP_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,

    /// Where health is asked for over HTTP [default: 127.0.0.1:8080]
    #[arg(long, env = "SKEP_HTTP", value_name = "HOST:PORT")]
    http: Option<String>,

    /// Keep tables here, so that they survive; workers must see it [default: keep nothing]
    #[arg(long, env = "SKEP_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Read the configuration from this file, in TOML
    #[arg(long, env = "SKEP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Memory for what runs in this process, such as 512MB, 2GiB or 50% [default: 70%]
    #[arg(long, env = "SKEP_MEMORY", value_name = "SIZE")]
    memory: Option<Size>,

    /// Put what does not fit in memory here [default: the system's temporary directory]
    #[arg(long, env = "SKEP_SPILL_DIR", value_name = "DIR")]
    spill_dir: Option<PathBuf>,

    /// Cut queries into so many parts [default: the slots of the workers]
    #[arg(long, env = "SKEP_PARTITIONS", value_name = "N", value_parser = crate::args::partitions)]
    partitions: Option<usize>,

    /// The secret that workers must say
    #[arg(long, env = "SKEP_CLUSTER_TOKEN", value_name = "SECRET", hide_env_values = true)]
    token: Option<String>,

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

    /// End when standard input does
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

impl CoordinatorArgs {
    fn config(&self) -> Result<CoordinatorConfig, Error> {
        let mut config =
            CoordinatorConfig { http: Some(DEFAULT_HTTP.to_owned()), ..Default::default() };
        if let Some(path) = &self.config {
            ConfigFile::read(path)?.apply(&mut config)?;
        }
        if let Some(listen) = &self.listen {
            config.listen.clone_from(listen);
        }
        if let Some(size) = self.memory {
            config.engine.memory_limit = Some(memory_limit(size));
        }
        config.advertise = self.advertise.clone().or(config.advertise);
        config.http = self.http.clone().or(config.http);
        config.token = self.token.clone().or(config.token);
        config.is_insecure |= self.insecure;
        config.users = self.users.clone().or(config.users);
        config.engine.allowed_roots.extend(self.allow_root.iter().cloned());
        config.drain_timeout = self.drain_timeout.map_or(config.drain_timeout, Duration::from_secs);
        self.tls.apply(&mut config.tls);
        config.engine.data_dir = self.data_dir.clone().or(config.engine.data_dir);
        config.engine.spill_dir = self.spill_dir.clone().or(config.engine.spill_dir);
        config.engine.target_partitions = self.partitions.or(config.engine.target_partitions);
        Ok(config)
    }
}

/// Returns the scheme of the addresses of a process with these certificates.
pub(super) fn scheme(tls: &TlsConfig) -> &'static str {
    if tls.cert.is_some() { "grpc+tls" } else { "grpc" }
}

/// Runs the coordinator until it is told to end.
pub(crate) fn run(args: &CoordinatorArgs, palette: Palette) -> ExitCode {
    let config = match args.config() {
        Ok(config) => config,
        Err(error) => return misconfigured(&error, palette),
    };
    if config.token.as_deref() == Some("") {
        exit_with_usage_error("a secret must have at least one character");
    }
    run_role(args.exit_with_stdin, palette, |stop| serve(config, stop, palette))
}

async fn serve(config: CoordinatorConfig, mut stop: StopRequests, palette: Palette) -> ExitCode {
    let scheme = scheme(&config.tls);
    let server = tokio::select! {
        started = CoordinatorServer::start(config) => match started {
            Ok(server) => server,
            Err(error) => return fail_with(&error, palette),
        },
        () = stop.wait() => return ExitCode::SUCCESS,
    };
    let mut line = format!("coordinator pid {} {scheme}://{}", process::id(), server.address());
    if let Some(http) = server.http_address() {
        line.push_str(&format!(" http://{http}"));
    }
    if let Err(error) = say(&line) {
        return fail(&format!("cannot write to standard output: {error}"), None, palette);
    }
    stop.wait().await;
    stop.or_forced(server.shutdown()).await;
    ExitCode::SUCCESS
}
