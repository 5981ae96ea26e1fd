//! `skep`: a SQL and DataFrame query engine.
//!
//! This crate is what a person meets: the command line, the prompt, results as text, errors with
//! the place they come from. Statements run behind [`connection::Connection`], in this process or at
//! a coordinator. The same binary is the coordinator, the worker, and what starts both.
//!
//! **Invariant:** results go to standard output and nothing else does; a statement never runs on
//! the thread that reads keys and writes rows.

use std::env;
use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

mod args;
mod commands;
mod connection;
mod dot_command;
mod execution;
mod interrupt;
mod password;
mod prompt;
mod render;
mod report;
mod script;
mod shell;
mod size;
mod style;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hush_panics();
    let args = args::Args::from_command_line();
    start_log();
    let palette = args.color.palette(&io::stderr());
    panic::catch_unwind(|| commands::run(args)).unwrap_or_else(|payload| {
        let message = execution::panic_message(payload.as_ref());
        let message = format!("internal error: {message}");
        let report = report::report_message(&message, None, palette);
        // There is nowhere left to say that this failed.
        let _ = io::stderr().write_all(report.as_bytes());
        ExitCode::FAILURE
    })
}

/// Leaves the report of a panic to whoever catches it, as an error like any other.
fn hush_panics() {
    if env::var_os("RUST_BACKTRACE").is_none() {
        panic::set_hook(Box::new(|_info| {}));
    }
}

/// Writes what the libraries log to standard error, if SKEP_LOG asks for it.
fn start_log() {
    let Ok(directives) = env::var("SKEP_LOG") else { return };
    match EnvFilter::try_new(&directives) {
        Ok(filter) => {
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
        }
        Err(error) => args::exit_with_usage_error(&format!("invalid SKEP_LOG: {error}")),
    }
}
