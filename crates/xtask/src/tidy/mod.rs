//! The rules of the house that no compiler checks: `cargo xtask tidy`, and a test.
//!
//! Each check takes the tree and returns findings, each a sentence that names the file.

mod commands;
mod crates;
mod files;
mod tree;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use skep_testkit::workspace;

use self::tree::Tree;

/// Runs every check on the tree and returns what they found.
fn findings() -> Result<Vec<String>> {
    let tree = Tree::read(&workspace::root())?;
    let mut findings = Vec::new();
    findings.extend(files::check(&tree));
    findings.extend(commands::check(&tree));
    findings.extend(crates::check(&tree)?);
    findings.sort();
    Ok(findings)
}

/// Prints the findings; any is a failure.
pub(crate) fn run() -> Result<ExitCode> {
    let findings = findings()?;
    let mut out = io::stdout().lock();
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tree_is_tidy() {
        let findings = super::findings().unwrap();
        assert!(findings.is_empty(), "\n{}", findings.join("\n"));
    }
}
