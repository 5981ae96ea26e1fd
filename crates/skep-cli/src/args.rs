//! What can be said on the command line.

use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{cluster, coordinator, user, worker};
use crate::render::Format;
use crate::size::Size;
use crate::style::ColorChoice;

const EXAMPLES: &str = "\
Examples:
  skep                                          open the prompt
  skep -c \"SELECT * FROM 'trips.parquet' LIMIT 5\"
  skep -c \"SELECT city, count(*) FROM 'data/*.csv' GROUP BY city\" --format csv > cities.csv
  skep -f load.sql -f report.sql --data-dir ./warehouse
  generate-sql | skep --format ndjson | jq .
  skep --memory 2GiB --spill-dir /fast/disk -f big.sql
  skep cluster --workers 4                      start a cluster of processes on this machine
  skep grpc://127.0.0.1:50051                   open the prompt there
  skep grpc+tls://ann@bees.example:50051        the same by TLS, as ann

The password of a URL's user is asked for at the terminal, or taken from SKEP_PASSWORD.

Exit status: 0 all statements ran, 1 one failed, 2 the command line is wrong,
130 interrupted, 141 whoever read the output went away.";

/// A SQL and DataFrame query engine, in this process or in a cluster.
///
/// Without -c or -f, skep opens a prompt at a terminal, and otherwise runs the statements that come
/// on its standard input. Results go to standard output, everything else to standard error.
#[derive(Debug, Parser)]
#[command(
    name = "skep",
    version,
    after_help = EXAMPLES,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    subcommand_value_name = "ROLE",
    subcommand_help_heading = "Roles"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,

    /// Where to run the statements, as grpc://HOST:PORT or grpc+tls://USER@HOST:PORT [default: in
    /// this process]
    pub(crate) url: Option<String>,

    /// The certificate of the coordinator's authority, in PEM [default: the system's authorities]
    #[arg(long, env = "SKEP_TLS_CA", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,

    /// Run these statements (may be repeated and mixed with -f; run in the order given)
    #[arg(short = 'c', long = "command", value_name = "SQL")]
    command: Vec<String>,

    /// Run the statements of this file; - is standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Vec<PathBuf>,

    /// How to write results
    #[arg(long, value_enum, env = "SKEP_FORMAT", default_value = "box", value_name = "FORMAT")]
    pub(crate) format: Format,

    /// Keep tables here, so that they survive [default: keep nothing]
    #[arg(long, env = "SKEP_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Memory for queries, such as 512MB, 2GiB or 50% [default: 70%]
    #[arg(long, env = "SKEP_MEMORY", value_name = "SIZE")]
    pub(crate) memory: Option<Size>,

    /// Memory of cached tables that queries do not get, such as 512MB or 20% [default: none]
    #[arg(long, env = "SKEP_PROTECTED_CACHE", value_name = "SIZE")]
    pub(crate) protected_cache: Option<Size>,

    /// Put what does not fit in memory here [default: the system's temporary directory]
    #[arg(long, env = "SKEP_SPILL_DIR", value_name = "DIR")]
    pub(crate) spill_dir: Option<PathBuf>,

    /// Cut queries into so many parts that run at once [default: the number of cores]
    #[arg(long, env = "SKEP_PARTITIONS", value_name = "N", value_parser = partitions)]
    pub(crate) partitions: Option<usize>,

    /// Go on after a statement that failed; the exit status still says so
    #[arg(long)]
    pub(crate) continue_on_error: bool,

    /// When to use colours
    #[arg(long, value_enum, env = "SKEP_COLOR", default_value = "auto", value_name = "WHEN")]
    pub(crate) color: ColorChoice,

    /// Write results and errors only: no row counts, no times
    #[arg(short, long)]
    pub(crate) quiet: bool,

    #[arg(skip)]
    scripts: Vec<ScriptArg>,

    #[arg(skip)]
    local_option: Option<&'static str>,

    #[arg(skip)]
    says_tls_ca: bool,
}

/// The options that are about the engine in this process.
const LOCAL_OPTIONS: [(&str, &str); 5] = [
    ("data_dir", "--data-dir"),
    ("memory", "--memory"),
    ("protected_cache", "--protected-cache"),
    ("spill_dir", "--spill-dir"),
    ("partitions", "--partitions"),
];

/// What this process is, if not a prompt.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Role {
    Coordinator(coordinator::CoordinatorArgs),
    Worker(worker::WorkerArgs),
    Cluster(cluster::ClusterArgs),
    User(user::UserArgs),
}

/// One `-c` or `-f`.
#[derive(Debug, Clone)]
pub(crate) enum ScriptArg {
    /// The text itself.
    Text(String),
    /// A file to read.
    File(PathBuf),
}

impl Args {
    /// Reads the command line of this process; ends the process if it is wrong or asks for help.
    pub(crate) fn from_command_line() -> Self {
        let matches = Self::command().get_matches();
        match Self::from_arg_matches(&matches) {
            Ok(args) => args.with_scripts_in_order(&matches),
            Err(error) => error.exit(),
        }
    }

    /// Takes the `-c` and `-f` as they were given, in their order.
    pub(crate) fn take_scripts(&mut self) -> Vec<ScriptArg> {
        std::mem::take(&mut self.scripts)
    }

    /// Returns an option given on the command line that has no meaning at a URL, if there is one.
    pub(crate) fn option_of_this_process(&self) -> Option<&'static str> {
        self.local_option
    }

    /// Returns the authority of the coordinator; one that the environment says is for other URLs too.
    pub(crate) fn tls_ca_of(&self, url: Option<&str>) -> Option<&Path> {
        let is_tls = url.is_some_and(|url| !url.starts_with("grpc://"));
        self.tls_ca.as_deref().filter(|_| is_tls || self.says_tls_ca)
    }

    fn with_scripts_in_order(mut self, matches: &ArgMatches) -> Self {
        let places = |id| matches.indices_of(id).into_iter().flatten();
        let texts = std::mem::take(&mut self.command).into_iter().map(ScriptArg::Text);
        let files = std::mem::take(&mut self.file).into_iter().map(ScriptArg::File);
        let mut scripts: Vec<_> =
            places("command").zip(texts).chain(places("file").zip(files)).collect();
        scripts.sort_by_key(|(place, _)| *place);
        self.scripts = scripts.into_iter().map(|(_, script)| script).collect();
        // What the environment says is for all uses of the program.
        let said = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        self.says_tls_ca = said("tls_ca");
        self.local_option =
            LOCAL_OPTIONS.iter().find(|(id, _)| said(id)).map(|(_, option)| *option);
        self
    }
}

/// Reads a number of partitions.
pub(crate) fn partitions(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=65_536) => Ok(count),
        _ => Err("expected a number from 1 to 65536".to_owned()),
    }
}

/// Returns a size in bytes; ends the process if the machine does not tell.
pub(crate) fn memory_limit(size: Size) -> usize {
    match size.bytes().map(usize::try_from) {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_too_large)) => usize::MAX,
        Err(message) => exit_with_usage_error(&format!("--memory: {message}")),
    }
}

/// Ends the process with a message about how it was called.
pub(crate) fn exit_with_usage_error(message: &str) -> ! {
    Args::command().error(clap::error::ErrorKind::ValueValidation, message).exit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_role_is_no_url() {
        let args = Args::try_parse_from(["skep", "cluster", "--workers", "2"]).unwrap();
        assert!(matches!(args.role, Some(Role::Cluster(_))));
        let args = Args::try_parse_from(["skep", "grpc://h:1", "-c", "SELECT 1"]).unwrap();
        assert_eq!((args.role.is_none(), args.url.as_deref()), (true, Some("grpc://h:1")));
        // Behind a statement it is taken for a URL, which it is not.
        let args = Args::try_parse_from(["skep", "-c", "SELECT 1", "cluster"]).unwrap();
        let refusal = crate::connection::check_url(args.url.as_deref().unwrap()).unwrap_err();
        assert!(refusal.hint.contains("skep cluster --help"), "{refusal:?}");
    }

    #[test]
    fn scripts_keep_their_order() {
        let line = ["skep", "-f", "a.sql", "-c", "SELECT 1", "-f", "-", "-c", "SELECT 2"];
        let matches = Args::command().get_matches_from(line);
        let args = Args::from_arg_matches(&matches).unwrap().with_scripts_in_order(&matches);
        let scripts: Vec<_> = args
            .scripts
            .iter()
            .map(|script| match script {
                ScriptArg::Text(text) => text.clone(),
                ScriptArg::File(path) => path.display().to_string(),
            })
            .collect();
        assert_eq!(scripts, ["a.sql", "SELECT 1", "-", "SELECT 2"]);
    }
}
