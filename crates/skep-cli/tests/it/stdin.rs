//! Statements that come on standard input.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use crate::process::{run, run_with_input, skep};

#[test]
fn statements_come_from_standard_input() {
    let script = b"-- two of them\nSELECT ';' AS x;\nSELECT\n  2 AS y";
    assert_eq!(run_with_input(&["--format", "csv"], script).success(), "x\n;\ny\n2\n");
    assert_eq!(run_with_input(&["--format", "csv", "-f", "-"], script).success(), "x\n;\ny\n2\n");
}

#[test]
fn nothing_on_standard_input_is_nothing_to_do() {
    assert_eq!(run(&[]).success(), "");
    assert_eq!(run_with_input(&[], b"\n-- only a comment\n").success(), "");
}

#[test]
fn a_statement_runs_as_soon_as_it_is_complete() {
    let mut child = skep(&["--format", "csv"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for number in 1..=3 {
        writeln!(stdin, "SELECT {number}\n AS x;").unwrap();
        stdin.flush().unwrap();
        let mut answer = String::new();
        stdout.read_line(&mut answer).unwrap();
        stdout.read_line(&mut answer).unwrap();
        assert_eq!(answer, format!("x\n{number}\n"));
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_interrupt_ends_the_wait_for_more() {
    let mut child = skep(&["--format", "csv"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    writeln!(stdin, "SELECT 1 AS x;").unwrap();
    let mut answer = String::new();
    stdout.read_line(&mut answer).unwrap();
    pty::process::kill_process(pty::process::Pid::from_child(&child), pty::process::Signal::Int)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    stdout.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "x\n1\n");
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let outcome = run_with_input(&[], b"SELECT 1;\nSELECT '\xff';\n");
    assert_eq!(outcome.stderr, "error: cannot read stdin: line 2 is not UTF-8\n");
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_script() {
    let input = "\u{feff}SELECT 1 AS x;";
    assert_eq!(run_with_input(&["--format", "csv"], input.as_bytes()).success(), "x\n1\n");
}

#[test]
fn commands_of_the_prompt_work_in_scripts() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("inner.sql");
    fs::write(&file, "SELECT 2 AS y;\n.mode tsv\n").unwrap();
    let script = format!(
        ".mode ndjson\nSELECT 1 AS x;\n.read '{}'\nSELECT 3 AS z;\n.quit\nSELECT 4;\n",
        file.display()
    );
    let outcome = run_with_input(&[], script.as_bytes());
    assert_eq!(outcome.success(), "{\"x\":1}\n{\"y\":2}\nz\n3\n");
}

#[test]
fn a_wrong_command_fails_like_a_statement() {
    let outcome = run_with_input(&["--format", "csv"], b".moed csv\nSELECT 1;\n");
    assert_eq!(outcome.stderr, "error: unknown command \".moed\"\nhint: did you mean .mode?\n");
    assert_eq!((outcome.stdout.as_str(), outcome.code), ("", Some(1)));
}

#[test]
fn a_file_that_reads_itself_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("self.sql");
    fs::write(&file, format!(".read {}\n", file.display())).unwrap();
    let outcome = run(&["-f", file.to_str().unwrap()]);
    assert_eq!(outcome.stderr, format!("error: {} reads itself\n", file.display()));
    assert_eq!(outcome.code, Some(1));
}
