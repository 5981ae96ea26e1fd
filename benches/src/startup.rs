//! How long the prompt takes from the start of its process to its end.

use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::baseline::skep_binary;

#[derive(Debug, Args)]
pub(crate) struct StartupArguments {
    /// Processes to start, one after the other.
    #[arg(long, default_value_t = 50)]
    runs: usize,
}

pub(crate) fn run(arguments: &StartupArguments) -> Result<(String, Value)> {
    anyhow::ensure!(arguments.runs > 0, "--runs must be at least 1");
    let binary = skep_binary()?;
    let data_dir = tempfile::tempdir()?;
    let start = || -> Result<Duration> {
        let begin = Instant::now();
        let status = Command::new(&binary)
            .args(["-c", "SELECT 1", "--data-dir"])
            .arg(data_dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        anyhow::ensure!(status.success(), "skep ended with {status}");
        Ok(begin.elapsed())
    };
    // The first start reads the binary from disk and is not counted.
    start()?;
    let mut times = (0..arguments.runs).map(|_| start()).collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    let at = |share: f64| {
        let idx = ((times.len() - 1) as f64 * share).round() as usize;
        times[idx].as_secs_f64() * 1e3
    };
    let (median, p95) = (at(0.5), at(0.95));
    writeln!(io::stdout(), "{} runs: median {median:.1} ms, p95 {p95:.1} ms", times.len())?;
    let figures = json!({ "runs": times.len(), "median_ms": median, "p95_ms": p95 });
    Ok(("startup".to_owned(), figures))
}
