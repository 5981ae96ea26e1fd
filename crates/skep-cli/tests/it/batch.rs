//! Scripts: order, exit status, signals, the command line.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{ChildStderr, ChildStdout};

use pty::process::{Pid, Signal, kill_process};

use crate::process::{run, skep};

#[test]
fn scripts_run_in_the_order_given() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("two.sql");
    fs::write(&file, "SELECT 2 AS two;\nSELECT 3 AS three").unwrap();
    let file = file.to_str().unwrap();
    let args = ["--format", "csv", "-c", "SELECT 1 AS one", "-f", file, "-c", "SELECT 4 AS four;"];
    assert_eq!(run(&args).success(), "one\n1\ntwo\n2\nthree\n3\nfour\n4\n");
}

#[test]
fn scripts_share_a_session() {
    let args = [
        "--format",
        "csv",
        "-c",
        "CREATE TABLE t AS SELECT 1 AS x",
        "-c",
        "SELECT x + 1 AS y FROM t",
    ];
    assert_eq!(run(&args).success(), "y\n2\n");
}

#[test]
fn the_first_failure_ends_the_run() {
    let outcome = run(&[
        "--format",
        "csv",
        "-c",
        "SELECT 1 AS one; SELECT nothing; SELECT 2",
        "-c",
        "SELECT 3",
    ]);
    assert_eq!(outcome.stdout, "one\n1\n");
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("nothing"), "{}", outcome.stderr);
}

#[test]
fn continue_on_error_runs_the_rest_and_still_fails() {
    let outcome = run(&[
        "--continue-on-error",
        "--format",
        "csv",
        "-c",
        "SELECT nope; SELECT 2 AS two",
        "-c",
        "SELECT 3 AS three",
    ]);
    assert_eq!(outcome.stdout, "two\n2\nthree\n3\n");
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn a_missing_file_is_found_before_anything_runs() {
    let outcome = run(&["-c", "SELECT 1", "-f", "/nowhere/missing.sql"]);
    assert_eq!(outcome.stdout, "");
    assert!(outcome.stderr.starts_with("error: cannot read /nowhere/missing.sql: "));
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn a_directory_is_no_script() {
    let outcome = run(&["-f", "/"]);
    assert_eq!(outcome.stderr, "error: cannot read /: is a directory\n");
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn usage_errors_exit_with_2_and_name_the_mistake() {
    for (args, message) in [
        (&["--memory", "much"][..], "as in 512MB, 2GiB or 50%"),
        (&["--memory", "5 parsecs"], "unknown unit \"parsecs\""),
        (&["--format", "xml"], "ndjson"),
        (&["--partitions", "0"], "from 1 to 65536"),
        (&["--no-such-flag"], "--no-such-flag"),
        (&["localhost:50051"], "skep grpc://localhost:50051"),
        (&["tour.sql"], "skep -f tour.sql"),
    ] {
        let outcome = run(args);
        assert_eq!(outcome.code, Some(2), "{args:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(message), "{args:?}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
}

#[test]
fn the_environment_stands_in_for_flags() {
    let run = |format: &str, args: &[&str]| {
        let output = skep(args).env("SKEP_FORMAT", format).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    };
    assert_eq!(run("csv", &["-c", "SELECT 1 AS x"]), ("x\n1\n".to_owned(), Some(0)));
    let flag = ["--format", "ndjson", "-c", "SELECT 1 AS x"];
    assert_eq!(run("csv", &flag), ("{\"x\":1}\n".to_owned(), Some(0)));
    assert_eq!(run("xml", &["-c", "SELECT 1"]).1, Some(2));
}

#[test]
fn help_and_version_go_to_standard_output() {
    let help = run(&["--help"]).success();
    for part in ["Examples:", "--continue-on-error", "Exit status:", "ndjson"] {
        assert!(help.contains(part), "{part}");
    }
    assert_eq!(run(&["--version"]).success(), format!("skep {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn nothing_is_left_out_when_there_is_no_terminal() {
    let wide = (0..30).map(|n| format!("value AS a_long_name_{n}")).collect::<Vec<_>>().join(", ");
    let script = format!("SELECT {wide} FROM generate_series(1, 3000)");
    let table = run(&["-c", &script]).success();
    let rows = table.lines().filter(|line| line.starts_with("│"));
    // A line for the names and one for the types.
    assert_eq!(rows.count(), 3002);
    assert!(table.contains("a_long_name_29"));
    assert!(!table.contains('…') && !table.contains('·'));
}

#[test]
fn a_cell_wider_than_the_first_rows_is_written_whole() {
    let script = "SELECT CASE WHEN value = 5000 THEN repeat('x', 100) ELSE 'y' END AS c \
                  FROM generate_series(1, 5000) ORDER BY value";
    let table = run(&["-c", script]).success();
    assert!(table.contains(&"x".repeat(100)));
    assert_eq!(table.lines().count(), 5005);
}

#[test]
fn a_reader_that_leaves_ends_the_run_quietly() {
    let script = "SELECT * FROM generate_series(1, 10000000); SELECT 1/0";
    for format in ["csv", "box", "json", "line"] {
        let mut child = skep(&["--format", format, "-c", script]).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{format}");
        assert_eq!(output.status.code(), Some(141), "{format}");
    }
}

#[test]
fn an_interrupt_cancels_the_statement_and_ends_the_run() {
    let script = "SELECT 1 AS x; \
                  SELECT count(*) FROM generate_series(1, 1000000000000); SELECT 2 AS y";
    let mut child =
        skep(&["--continue-on-error", "--format", "csv", "-c", script]).spawn().unwrap();
    let mut stdout: BufReader<ChildStdout> = BufReader::new(child.stdout.take().unwrap());
    let mut started = String::new();
    stdout.read_line(&mut started).unwrap();
    stdout.read_line(&mut started).unwrap();
    assert_eq!(started, "x\n1\n");
    kill_process(Pid::from_child(&child), Signal::Int).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    let mut stderr: ChildStderr = child.stderr.take().unwrap();
    let mut message = String::new();
    stderr.read_to_string(&mut message).unwrap();
    assert!(message.starts_with("cancelled after "), "{message}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn commands_say_nothing_without_a_terminal() {
    assert_eq!(run(&["-c", "CREATE TABLE t AS SELECT 1 AS x; DROP TABLE t"]).success(), "");
}

#[test]
fn colors_are_for_terminals_unless_asked_for() {
    let stderr = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = skep(args);
        let output = command.envs(env.iter().copied()).output().unwrap();
        String::from_utf8(output.stderr).unwrap().contains("\x1b[")
    };
    let fails = ["-c", "SELECT nope"];
    let always = ["--color", "always", "-c", "SELECT nope"];
    let never = ["--color", "never", "-c", "SELECT nope"];
    assert!(!stderr(&fails, &[]));
    assert!(stderr(&fails, &[("CLICOLOR_FORCE", "1")]));
    assert!(!stderr(&fails, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
    assert!(stderr(&always, &[("NO_COLOR", "1")]));
    assert!(!stderr(&never, &[("CLICOLOR_FORCE", "1")]));
}

#[test]
fn the_log_is_off_unless_asked_for() {
    let output = skep(&["-c", "SELECT 1"]).env("SKEP_LOG", "debug").output().unwrap();
    assert!(output.status.success());
    assert!(!output.stderr.is_empty());
    let output = skep(&["-c", "SELECT 1"]).env("SKEP_LOG", "=bad=").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
