//! Runs the binary and tells what it wrote.

use std::io::Write;
use std::process::{Command, Stdio};

/// What a process did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

/// Prepares a call that no setting of the machine can change.
pub(crate) fn skep(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skep"));
    let settings = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        name.starts_with("SKEP_") || name.contains("COLOR") || name == "RUST_BACKTRACE"
    });
    for (name, _) in settings {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the binary to its end.
pub(crate) fn run(args: &[&str]) -> Outcome {
    run_with_input(args, b"")
}

/// Runs the binary to its end, with something on its standard input.
pub(crate) fn run_with_input(args: &[&str], input: &[u8]) -> Outcome {
    let mut child = skep(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A process that stops early leaves the rest unread.
    let feeder = std::thread::spawn(move || stdin.write_all(&input).ok());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    Outcome {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        code: output.status.code(),
    }
}

impl Outcome {
    /// Expects that all went well and nothing was said beside the results, which are returned.
    #[track_caller]
    pub(crate) fn success(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
        self.stdout
    }
}
