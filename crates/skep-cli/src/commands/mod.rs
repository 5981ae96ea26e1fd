//! What the binary can be asked to do: one file a command.

use std::io::{self, Write};
use std::process::ExitCode;

use tokio::runtime::{Builder, Runtime};

use self::stop::StopRequests;
use crate::args::{Args, Role};
use crate::report::report_message;
use crate::style::Palette;

pub(crate) mod cluster;
pub(crate) mod coordinator;
pub(crate) mod sql;
pub(crate) mod user;
pub(crate) mod worker;

// What the roles have in common: being told to end, and telling where they are.
mod children;
mod stop;
mod tls;

/// Plans are deep trees, walked by recursion.
const WORKER_STACK_BYTES: usize = 64 << 20;

/// Does what the command line asks for.
pub(crate) fn run(mut args: Args) -> ExitCode {
    let palette = args.color.palette(&io::stderr());
    match args.role.take() {
        None => sql::run(args),
        Some(Role::Coordinator(role)) => coordinator::run(&role, palette),
        Some(Role::Worker(role)) => worker::run(&role, palette),
        Some(Role::Cluster(role)) => cluster::run(&role, palette),
        Some(Role::User(role)) => user::run(&role, palette),
    }
}

/// Makes the threads on which everything runs.
fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .enable_all()
        .thread_name("skep")
        .thread_stack_size(WORKER_STACK_BYTES)
        .build()
}

/// Writes one line to standard output, now: others wait for it.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Reports why a role does not start, or ends.
fn fail(message: &str, hint: Option<&str>, palette: Palette) -> ExitCode {
    // Without standard error there is only the exit status to tell.
    let _ = io::stderr().write_all(report_message(message, hint, palette).as_bytes());
    ExitCode::FAILURE
}

/// Reports a server's error.
fn fail_with(error: &skep_server::Error, palette: Palette) -> ExitCode {
    fail(&error.to_string(), error.hint(), palette)
}

/// Reports what is wrong with how a role was called; what its configuration says wrong is a wrong call
/// too.
fn misconfigured(error: &skep_server::Error, palette: Palette) -> ExitCode {
    let status = fail_with(error, palette);
    match error {
        skep_server::Error::InvalidConfig { .. } => ExitCode::from(2),
        _ => status,
    }
}

/// Runs a role until it ends, on threads of its own, which nobody waits for then.
fn run_role<F: Future<Output = ExitCode>>(
    exit_with_stdin: bool,
    palette: Palette,
    serve: impl FnOnce(StopRequests) -> F,
) -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start threads: {error}"), None, palette),
    };
    let outcome = runtime.block_on(async {
        match StopRequests::listen(exit_with_stdin) {
            Ok(stop) => serve(stop).await,
            Err(error) => fail(&format!("cannot listen for signals: {error}"), None, palette),
        }
    });
    runtime.shutdown_background();
    outcome
}
