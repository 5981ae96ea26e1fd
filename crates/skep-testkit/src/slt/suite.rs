//! The scripts of `sql-tests` as the trials of one test binary.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::{Builder, Runtime};

use super::connection::spilled_bytes;
use super::header::Header;
use super::mode::Mode;
use super::script::{Run, run_script};
use super::shape::Shape;
use crate::workspace;

/// Trials at once unless `--test-threads` says otherwise; each has an engine with its own memory.
const MAX_PARALLEL: usize = 4;
/// Deep plans recurse deeply, and more so without optimisation.
const STACK_SIZE: usize = 64 << 20;

/// Runs the scripts of `sql-tests` as a test binary with Cargo's usual arguments.
///
/// `SLOW=1` adds the `.slt_slow` files and all shapes of clusters; `SLT_COMPLETE=1` rewrites the
/// expected answers of the selected scripts instead of checking them.
///
/// `binary` is the `skep` that clusters of processes are started from.
pub fn main(binary: &Path) -> ExitCode {
    let mut arguments = Arguments::from_args();
    let core_count = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(core_count.min(MAX_PARALLEL));
    match trials(&workspace::root().join("sql-tests"), binary) {
        Ok(trials) => {
            let scripts = libtest_mimic::run(&arguments, trials);
            // What the scripts of a shape have to have done together, once they are done.
            let shapes = libtest_mimic::run(&arguments, spilling_trials());
            if scripts.has_failed() { scripts.exit_code() } else { shapes.exit_code() }
        }
        Err(error) => {
            let failure = Trial::test("sql-tests", move || Err(Failed::from(format!("{error:#}"))));
            libtest_mimic::run(&arguments, vec![failure]).exit_code()
        }
    }
}

/// Returns the shapes of this run.
fn shapes() -> Vec<Shape> {
    if is_on("SLOW") { Shape::all() } else { Shape::ORDINARY.to_vec() }
}

/// Makes the trials that the shapes that were to spill have spilled.
fn spilling_trials() -> Vec<Trial> {
    let trial = |shape: Shape| {
        let name = format!("{}::exchanges have spilled", Mode::Shaped(shape));
        Trial::test(name, move || match spilled_bytes(shape) {
            0 => Err(Failed::from("nothing was written to disk")),
            _ => Ok(()),
        })
    };
    shapes().into_iter().filter(|shape| shape.spills).map(trial).collect()
}

fn is_on(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "1")
}

fn trials(root: &Path, binary: &Path) -> Result<Vec<Trial>> {
    // Scripts name files of the repository by relative paths.
    std::env::set_current_dir(workspace::root())?;
    let run = if is_on("SLT_COMPLETE") { Run::Complete } else { Run::Check };
    let runtime = Builder::new_multi_thread().thread_stack_size(STACK_SIZE).enable_all().build()?;
    let runtime = Arc::new(runtime);
    let mut trials = Vec::new();
    for path in find_scripts(root)? {
        let is_slow = path.extension().is_some_and(|extension| extension == "slt_slow");
        if is_slow && !is_on("SLOW") {
            continue;
        }
        let name = path.strip_prefix(root)?.display().to_string();
        let text = std::fs::read_to_string(&path)?;
        // A bad header is a failing trial, so that it is seen and the others run.
        let modes = Header::parse(&text).map_or(vec![Mode::Embedded], |header| header.modes);
        let mut modes: Vec<_> = Mode::ALL.into_iter().filter(|mode| modes.contains(mode)).collect();
        // Slow scripts are many times a whole shape, and their answers do not depend on it more.
        if modes.contains(&Mode::InProcess) && !is_slow {
            modes.extend(shapes().into_iter().map(Mode::Shaped));
        }
        for mode in modes {
            let (path, binary) = (path.clone(), binary.to_owned());
            let runtime = Arc::clone(&runtime);
            let trial = move || run_trial(&runtime, path, mode, run, binary);
            trials.push(Trial::test(format!("{mode}::{name}"), trial));
        }
    }
    Ok(trials)
}

fn run_trial(
    runtime: &Arc<Runtime>,
    path: PathBuf,
    mode: Mode,
    run: Run,
    binary: PathBuf,
) -> Result<(), Failed> {
    let runtime = Arc::clone(runtime);
    let body = move || runtime.block_on(run_script(&path, mode, run, Some(&binary)));
    let thread = std::thread::Builder::new().stack_size(STACK_SIZE).spawn(body)?;
    match thread.join() {
        Ok(result) => result.map_err(|error| Failed::from(format!("{error:#}"))),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Returns every script below `root`, slow ones included, sorted by path.
///
/// # Errors
/// If a directory cannot be read.
pub fn find_scripts(root: &Path) -> Result<Vec<PathBuf>> {
    let mut scripts = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let entries = std::fs::read_dir(&directory)
            .with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if path.is_dir() {
                directories.push(path);
            } else if matches!(extension, Some("slt" | "slt_slow")) {
                scripts.push(path);
            }
        }
    }
    scripts.sort();
    Ok(scripts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the README's first command runs is what the tests check.
    #[test]
    fn the_script_of_the_tour_runs_the_tour() {
        let root = workspace::root();
        let tour = std::fs::read_to_string(root.join("datasets/tour.sql")).unwrap();
        let script = std::fs::read_to_string(root.join("sql-tests/files/tour.slt")).unwrap();
        let lines: Vec<_> = tour.lines().filter(|line| !line.starts_with("--")).collect();
        let text = lines.join("\n");
        let statements = text.split(';').map(str::trim).filter(|statement| !statement.is_empty());
        for statement in statements {
            assert!(script.contains(&format!("\n{statement}\n")), "{statement}");
        }
    }
}
