//! Runs `sql-tests`: `cargo slt embedded::select` runs the scripts under `select`.
//!
//! The harness is in `skep_testkit::slt`; it is started from here because Cargo tells only this
//! package's tests where the `skep` binary is, which the mode of many processes needs.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    skep_testkit::slt::main(Path::new(env!("CARGO_BIN_EXE_skep")))
}
