//! Chores of the workspace: `cargo xtask ci`, `cargo xtask tidy`, `cargo xtask datasets`.
//!
//! Aliases in `.cargo/config.toml` cover what Cargo does by itself; what needs code is here, so
//! that no make, just or shell is needed.

mod ci;
mod datasets;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Chores of the skep workspace")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Runs everything that a change has to pass.
    Ci,
    /// Checks the rules of the house that no compiler checks.
    Tidy,
    /// Makes data that is too large to commit; fetches nothing.
    #[command(subcommand)]
    Datasets(datasets::DataSetArguments),
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().chore {
        Chore::Ci => ci::run(),
        Chore::Tidy => tidy::run(),
        Chore::Datasets(arguments) => datasets::run(arguments),
    }
}
