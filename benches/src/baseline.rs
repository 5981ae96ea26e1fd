//! Figures that are kept, so that a claim about speed can show before and after.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use skep_testkit::workspace;

/// Writes the figures of one benchmark, with what they were measured on, into
/// `benches/baseline/NAME.json`.
///
/// # Errors
/// If the file cannot be written.
pub fn save(name: &str, figures: &Value) -> Result<()> {
    let directory = workspace::root().join("benches/baseline");
    fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{name}.json"));
    let core_count = std::thread::available_parallelism().map_or(0, usize::from);
    let machine = json!({ "cores": core_count, "processor": processor() });
    let text = serde_json::to_string_pretty(&json!({ "machine": machine, "figures": figures }))?;
    fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(io::stdout(), "saved {}", path.display())?;
    Ok(())
}

/// Returns the processor's name, where the system tells.
fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Returns the path of the `skep` binary that was built beside this one.
///
/// # Errors
/// If it was not built.
pub fn skep_binary() -> Result<PathBuf> {
    let binary = std::env::current_exe()?.with_file_name("skep");
    anyhow::ensure!(
        binary.is_file(),
        "{} is not there: build it with cargo build --release -p skep-cli",
        binary.display()
    );
    Ok(binary)
}
