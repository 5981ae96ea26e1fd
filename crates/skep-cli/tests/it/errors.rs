//! Errors: what is wrong, where it is, what to do.

use std::fs;

use crate::process::{run, run_with_input};

#[test]
fn an_error_in_the_middle_of_a_script_has_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broken.sql");
    fs::write(&file, "-- fine\nSELECT 1;\n\nSELECT 2,\n  3 + ) FROM t;\nSELECT 3;\n").unwrap();
    let outcome = run(&["--format", "csv", "-f", file.to_str().unwrap()]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stdout.ends_with("\n1\n"), "{}", outcome.stdout);
    let place = format!("--> {}:5:7\n", file.display());
    assert!(outcome.stderr.contains(&place), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("5 |   3 + ) FROM t\n  |       ^\n"), "{}", outcome.stderr);
}

#[test]
fn an_error_on_standard_input_counts_lines_of_the_whole_input() {
    let outcome = run_with_input(&["--format", "csv"], b".mode csv\nSELECT 1;\n  SELECT 1 +;\n");
    assert!(outcome.stderr.contains("--> stdin:3:"), "{}", outcome.stderr);
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn each_command_has_its_name() {
    let outcome = run(&["-c", "SELECT 1 +"]);
    assert!(outcome.stderr.contains("--> -c:1:"), "{}", outcome.stderr);
    let outcome = run(&["--format", "null", "-c", "SELECT 1", "-c", "SELECT 1 +"]);
    assert!(outcome.stderr.contains("--> -c #2:1:"), "{}", outcome.stderr);
}

#[test]
fn an_error_without_a_place_names_the_statement() {
    let outcome = run(&["--format", "null", "-c", "SELECT 1;\n SELECT 1 / 0"]);
    assert!(outcome.stderr.contains("--> -c:2:2\n"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains('^'), "{}", outcome.stderr);
}

#[test]
fn quotes_and_comments_that_stay_open_are_errors() {
    for script in ["SELECT 'oh", "SELECT 1; /* oh", "SELECT $x$ oh"] {
        let outcome = run(&["--format", "null", "-c", script]);
        assert_eq!(outcome.code, Some(1), "{script}");
        assert!(outcome.stderr.starts_with("error: "), "{script}: {}", outcome.stderr);
    }
}

#[test]
fn a_failure_among_the_rows_is_a_failure() {
    let script = "SELECT 10 / (value - 40000) AS x FROM generate_series(1, 50000)";
    for format in ["csv", "json", "box"] {
        let outcome = run(&["--format", format, "-c", script]);
        assert_eq!(outcome.code, Some(1), "{format}");
        assert!(outcome.stderr.to_lowercase().contains("zero"), "{format}: {}", outcome.stderr);
    }
}
