//! The peak memory of one process that runs the 22 queries under a limit.
//!
//! The script has a marker before each query, so that the output tells which queries answered. The
//! peak is the system's own high-water mark of resident memory (`VmHWM`), read while the process
//! runs: it only rises, so the last reading misses at most what the last moment added.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use skep_testkit::tpch::{DataSet, Format, QUERY_COUNT, TABLES, query};

use crate::baseline::skep_binary;

#[derive(Debug, Args)]
pub(crate) struct MemoryArguments {
    /// The scale factor.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// The limit in megabytes.
    #[arg(long, default_value_t = 512)]
    limit_mb: u64,
}

/// How often the high-water mark is read.
const INTERVAL: Duration = Duration::from_millis(10);

pub(crate) fn run(arguments: &MemoryArguments) -> Result<(String, Value)> {
    let directory = tempfile::tempdir()?;
    let script = directory.path().join("tpch.sql");
    fs::write(&script, script_text(arguments.scale)?)?;
    let mut child = Command::new(skep_binary()?)
        .args(["--continue-on-error", "--format", "csv", "--memory"])
        .arg(format!("{}MB", arguments.limit_mb))
        .arg("--data-dir")
        .arg(directory.path().join("data"))
        .arg("-f")
        .arg(&script)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("no stdout")?;
    let mut stderr = child.stderr.take().context("no stderr")?;
    let answered = thread::spawn(move || answered_queries(BufReader::new(stdout)));
    let messages = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let peak_kb = peak_of(&mut child)?;
    let answered = joined(answered)??;
    let messages = joined(messages)??;

    let mut out = io::stdout();
    for number in 1..=QUERY_COUNT {
        let outcome = if answered.contains(&number) { "answered" } else { "no answer" };
        writeln!(out, "q{number:02}  {outcome}")?;
    }
    if !messages.trim().is_empty() {
        writeln!(out, "\nskep said:\n{}", messages.trim_end())?;
    }
    let peak_mb = peak_kb as f64 / 1024.0;
    let ratio = peak_mb / arguments.limit_mb as f64;
    writeln!(
        out,
        "\n{} of {QUERY_COUNT} answered; peak {peak_mb:.0} MB of {} MB: {ratio:.2}",
        answered.len(),
        arguments.limit_mb
    )?;
    let figures = json!({
        "scale": arguments.scale,
        "limit_mb": arguments.limit_mb,
        "peak_mb": peak_mb.round(),
        "answered": answered,
    });
    Ok((format!("memory-{}mb", arguments.limit_mb), figures))
}

const MARKER: &str = "skep-bench-query-";
const MARKER_HEADER: &str = "skep_bench_marker";

fn script_text(scale: f64) -> Result<String> {
    let data_set = DataSet { scale, format: Format::Parquet };
    let directory = data_set.cached()?;
    let mut script = String::new();
    for table in TABLES {
        let path = data_set.file(&directory, table);
        script += &format!(
            "CREATE EXTERNAL TABLE {} STORED AS PARQUET LOCATION '{}';\n",
            table.name(),
            path.display()
        );
    }
    for number in 1..=QUERY_COUNT {
        script +=
            &format!("SELECT '{MARKER}{number}' AS {MARKER_HEADER};\n{};\n", query(number, scale));
    }
    Ok(script)
}

/// Returns the queries that wrote anything after their markers, a header at least.
fn answered_queries(output: impl BufRead) -> io::Result<Vec<usize>> {
    let mut answered = Vec::new();
    let mut current: Option<usize> = None;
    for line in output.lines() {
        let line = line?;
        match line.strip_prefix(MARKER) {
            Some(number) => current = number.parse().ok(),
            // The header of the next marker is no answer.
            None if line == MARKER_HEADER => current = None,
            None => answered.extend(current.take()),
        }
    }
    Ok(answered)
}

fn peak_of(child: &mut Child) -> Result<u64> {
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kb = 0;
    loop {
        peak_kb = peak_kb.max(high_water_kb(&status).unwrap_or(0));
        if child.try_wait()?.is_some() {
            break;
        }
        thread::sleep(INTERVAL);
    }
    if peak_kb == 0 {
        bail!("this system does not tell a process's peak memory in {status}");
    }
    Ok(peak_kb)
}

fn high_water_kb(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn joined<T>(handle: thread::JoinHandle<T>) -> Result<T> {
    match handle.join() {
        Ok(value) => Ok(value),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_without_output_is_no_answer() {
        let output = "skep_bench_marker\nskep-bench-query-1\nsum\n5\n\
                      skep_bench_marker\nskep-bench-query-2\n\
                      skep_bench_marker\nskep-bench-query-3\na,b\n";
        assert_eq!(answered_queries(output.as_bytes()).unwrap(), [1, 3]);
    }
}
