//! Runs SQL: from the command line, from files, from standard input, or at the prompt.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use skep_client::ConnectOptions;
use skep_engine::{EngineConfig, Error};
use tokio::runtime::Runtime;

use super::runtime;
use crate::args::{Args, ScriptArg, exit_with_usage_error, memory_limit};
use crate::connection::{Connection, EmbeddedConnection, Refusal, RemoteConnection, check_url};
use crate::execution::Executor;
use crate::interrupt::{EXIT_INTERRUPTED, Interrupts};
use crate::password::ask_password;
use crate::prompt;
use crate::report::{report_error, report_message};
use crate::script::Script;
use crate::shell::{Flow, Output, Shell};
use crate::style::Palette;

/// The exit status of a process whose reader went away, as if the signal had ended it.
const EXIT_OUTPUT_CLOSED: u8 = 141;

/// Runs what the command line asks for.
pub(crate) fn run(mut args: Args) -> ExitCode {
    let palette = args.color.palette(&io::stderr());
    if let Some(Err(Refusal { message, hint })) = args.url.as_deref().map(check_url) {
        write_error(&report_message(&message, Some(&hint), palette));
        return ExitCode::from(2);
    }
    if let Some(option) = args.url.as_ref().and_then(|_| args.option_of_this_process()) {
        exit_with_usage_error(&format!("{option} is for statements in this process, not at a URL"));
    }
    if args.url.is_none() && args.tls_ca_of(None).is_some() {
        exit_with_usage_error("--tls-ca is for statements at a URL, not in this process");
    }
    let scripts = match open_scripts(&mut args) {
        Ok(scripts) => scripts,
        Err(message) => return fail(&message, palette),
    };
    let typed = scripts.is_empty() && io::stdin().is_terminal();
    // The line editor draws on standard error and asks the terminal through standard output, so
    // that it would spoil a file that one of them goes to.
    let interactive = typed && io::stdout().is_terminal() && io::stderr().is_terminal();
    if typed && !interactive && !args.quiet {
        write_error("reading statements from the terminal, up to Ctrl-D\n");
    }
    let output = Output::new(&args, interactive);
    let executor = match open_executor(&args) {
        Ok(executor) => executor,
        Err(error) => {
            write_error(&report_error(&error, None, palette));
            return ExitCode::FAILURE;
        }
    };
    let mut shell = Shell::new(executor, output, args.continue_on_error);
    let flow = match interactive {
        true => prompt::run(&mut shell),
        false if scripts.is_empty() => shell.run_script(Script::stdin()),
        false => run_scripts(&mut shell, scripts),
    };
    shell.shut_down();
    match flow {
        Flow::Done | Flow::Quit => ExitCode::SUCCESS,
        Flow::Failed => ExitCode::FAILURE,
        Flow::Interrupted => ExitCode::from(EXIT_INTERRUPTED),
        Flow::OutputClosed => ExitCode::from(EXIT_OUTPUT_CLOSED),
    }
}

fn run_scripts(shell: &mut Shell, scripts: Vec<Script>) -> Flow {
    let mut outcome = Flow::Done;
    for script in scripts {
        match shell.run_script(script) {
            Flow::Done => {}
            Flow::Failed if shell.continues_on_error() => outcome = Flow::Failed,
            Flow::Quit => break,
            stop @ (Flow::Failed | Flow::Interrupted | Flow::OutputClosed) => return stop,
        }
    }
    outcome
}

/// Opens every file before the first statement runs: a name that is mistyped should not be found
/// out half-way.
fn open_scripts(args: &mut Args) -> Result<Vec<Script>, String> {
    let scripts = args.take_scripts();
    let texts = scripts.iter().filter(|script| matches!(script, ScriptArg::Text(_))).count();
    let mut nth = 0;
    scripts
        .into_iter()
        .map(|script| match script {
            ScriptArg::Text(text) => {
                nth += 1;
                let name = if texts > 1 { format!("-c #{nth}") } else { "-c".to_owned() };
                Ok(Script::text(name, text))
            }
            ScriptArg::File(path) => Script::file(&path)
                .map_err(|error| format!("cannot read {}: {error}", path.display())),
        })
        .collect()
}

fn engine_config(args: &Args) -> EngineConfig {
    EngineConfig {
        data_dir: args.data_dir.clone(),
        memory_limit: args.memory.map(memory_limit),
        protected_cache: args.protected_cache.map_or(0, memory_limit),
        spill_dir: args.spill_dir.clone(),
        target_partitions: args.partitions,
        ..EngineConfig::default()
    }
}

fn open_executor(args: &Args) -> Result<Executor, Error> {
    let failed = |what: &str, source: io::Error| Error::Internal {
        message: format!("cannot {what}: {source}"),
        source: None,
    };
    let runtime = runtime().map_err(|error| failed("start threads", error))?;
    let interrupts = listen(&runtime).map_err(|error| failed("listen for Ctrl-C", error))?;
    let connection: Arc<dyn Connection> = match &args.url {
        Some(url) => {
            let options = connect_options(args, url)?;
            Arc::new(runtime.block_on(RemoteConnection::open(url, &options))?)
        }
        None => Arc::new(runtime.block_on(EmbeddedConnection::open(engine_config(args)))?),
    };
    Ok(Executor::new(runtime, connection, interrupts))
}

/// Reads what is needed to connect and not in the URL.
fn connect_options(args: &Args, url: &str) -> Result<ConnectOptions, Error> {
    let read = |path: &Path| {
        let path = path.to_owned();
        std::fs::read(&path).map_err(|source| Error::Io { action: "read", path, source })
    };
    let tls_ca = args.tls_ca_of(Some(url)).map(read).transpose()?;
    Ok(ConnectOptions { tls_ca, password: password(url)? })
}

/// Returns the password of a URL that names a user alone: from the environment, or the terminal.
fn password(url: &str) -> Result<Option<String>, Error> {
    let Some(user) = user_without_password(url) else { return Ok(None) };
    if let Ok(password) = std::env::var("SKEP_PASSWORD") {
        return Ok(Some(password));
    }
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    let asked = ask_password(&format!("password of {user}: "));
    let failed = |source| Error::Internal {
        message: format!("cannot ask for the password: {source}"),
        source: None,
    };
    asked.map(Some).map_err(|error: io::Error| failed(error))
}

fn user_without_password(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    let (user, _) = authority.rsplit_once('@')?;
    (!user.is_empty() && !user.contains(':')).then_some(user)
}

fn listen(runtime: &Runtime) -> io::Result<Interrupts> {
    let _within = runtime.enter();
    Interrupts::listen()
}

fn fail(message: &str, palette: Palette) -> ExitCode {
    write_error(&report_message(message, None, palette));
    ExitCode::FAILURE
}

fn write_error(report: &str) {
    // Without standard error there is only the exit status to tell.
    let _ = io::stderr().write_all(report.as_bytes());
}
