//! Everything that a change has to pass, in the order in which failures are cheapest.

use std::io::{self, Write};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};
use skep_testkit::workspace;

/// A step: arguments of Cargo, and what is set in its environment.
type Step = (&'static [&'static str], Option<(&'static str, &'static str)>);

const STEPS: [Step; 5] = [
    (&["fmt", "--all", "--check"], None),
    // A workspace of its own, which nothing here builds.
    (&["fmt", "--manifest-path", "benches/peers/Cargo.toml", "--check"], None),
    (&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], None),
    (&["doc", "--workspace", "--no-deps"], Some(("RUSTDOCFLAGS", "-D warnings"))),
    // tidy is one of the tests.
    (&["test", "--workspace"], None),
];

/// Runs the steps and stops at the first that fails.
pub(crate) fn run() -> Result<ExitCode> {
    let mut out = io::stdout();
    for (arguments, variable) in STEPS {
        let step = format!("cargo {}", arguments.join(" "));
        writeln!(out, "== {step}")?;
        let begin = Instant::now();
        let status = Command::new(env!("CARGO"))
            .args(arguments)
            .envs(variable)
            .current_dir(workspace::root())
            .status()
            .with_context(|| format!("cannot run {step}"))?;
        writeln!(out, "== {:.0} s", begin.elapsed().as_secs_f64())?;
        if !status.success() {
            writeln!(out, "failed: {step}")?;
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
