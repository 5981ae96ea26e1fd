//! Data that is too large to commit, made on this machine.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Subcommand;
use skep_testkit::tpch::{DataSet, Format};

/// What to make.
#[derive(Debug, Subcommand)]
pub(crate) enum DataSetArguments {
    /// The eight TPC-H tables; run with --release for scales of 1 and more.
    Tpch {
        /// The scale factor; 1 is about a gigabyte of CSV.
        #[arg(long, default_value_t = 0.01)]
        scale: f64,
        /// What to write: parquet or csv.
        #[arg(long, default_value = "parquet")]
        format: Format,
        /// Where to; under the target directory, where tests and benchmarks look, if not given.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

pub(crate) fn run(arguments: DataSetArguments) -> Result<ExitCode> {
    let DataSetArguments::Tpch { scale, format, out } = arguments;
    if !(scale > 0.0 && scale.is_finite()) {
        bail!("--scale must be a number above 0, and is {scale}");
    }
    let data_set = DataSet { scale, format };
    let begin = Instant::now();
    let directory = match out {
        Some(directory) => data_set.generate(&directory).map(|()| directory)?,
        None => data_set.cached()?,
    };
    writeln!(
        io::stdout(),
        "TPC-H scale {scale} as {format}: {} ({:.1} s)",
        directory.display(),
        begin.elapsed().as_secs_f64(),
    )?;
    Ok(ExitCode::SUCCESS)
}
