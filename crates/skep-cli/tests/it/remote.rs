//! Statements at a coordinator: as in this process.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use pty::process::{Pid, Signal, kill_process};

use crate::process::{run, skep};
use crate::role::Coordinator;

/// A client that is given statements one by one.
struct Session {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Session {
    fn open(url: &str) -> Self {
        let mut child = skep(&[url, "--format", "csv", "--continue-on-error"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    /// Runs a query with one column and one row.
    fn ask(&mut self, query: &str) -> String {
        writeln!(self.stdin, "{query};").unwrap();
        let mut lines = [String::new(), String::new()];
        for line in &mut lines {
            self.stdout.read_line(line).unwrap();
        }
        lines[1].trim_end().to_owned()
    }

    fn tell(&mut self, statement: &str) {
        writeln!(self.stdin, "{statement};").unwrap();
    }

    fn close(self) -> String {
        drop(self.stdin);
        let output = self.child.wait_with_output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn rows_come_as_from_this_process() {
    let coordinator = Coordinator::start_with_worker(&[]);
    for (statement, format) in [
        ("SELECT 1 AS x, 'zwei' AS y, NULL AS z, DATE '2026-01-02' AS d", "csv"),
        ("SELECT 1 AS a, 2 AS a", "csv"),
        ("SELECT value FROM generate_series(1, 30000) ORDER BY value", "csv"),
        ("SELECT arrow_cast('x', 'Dictionary(Int32, Utf8)') AS d, [1, NULL] AS l", "ndjson"),
        ("SELECT * FROM (VALUES (1)) t(x) WHERE x > 1", "box"),
        ("SHOW TABLES", "csv"),
    ] {
        let there = run(&[&coordinator.url, "--format", format, "-c", statement]).success();
        let here = run(&["--format", format, "-c", statement]).success();
        assert_eq!(there, here, "{statement}");
    }
}

#[test]
fn an_error_has_its_place_and_hint() {
    let coordinator = Coordinator::start_with_worker(&[]);
    for statement in [
        "SELECT 1;\nSELECT 2,\n  3 + ) FROM t",
        "SELECT * FROM nope",
        "CREATE TABLE orders AS SELECT 1 AS x; SELECT * FROM ordes",
        "SELECT lenght('x')",
        "SELECT 1 / 0",
        "SET skep.nope = 1",
        "SELECT 10 / (value - 40000) AS x FROM generate_series(1, 50000)",
    ] {
        let there = run(&[&coordinator.url, "--format", "null", "-c", statement]);
        let here = run(&["--format", "null", "-c", statement]);
        assert_eq!(there.stderr, here.stderr, "{statement}");
        assert_eq!(there.code, Some(1), "{statement}");
    }
}

#[test]
fn tables_are_the_coordinators() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    let coordinator = Coordinator::start_with_worker(&["--data-dir", data]);
    let script = "CREATE TABLE t (x BIGINT); INSERT INTO t VALUES (1), (2)";
    assert_eq!(run(&[&coordinator.url, "-c", script]).success(), "");
    let query = "SELECT sum(x) AS s FROM t";
    assert_eq!(run(&[&coordinator.url, "--format", "csv", "-c", query]).success(), "s\n3\n");
    assert_eq!(run(&["--data-dir", data, "--format", "csv", "-c", query]).success(), "s\n3\n");
}

#[test]
fn settings_and_temporary_tables_are_the_connections() {
    let coordinator = Coordinator::start_with_worker(&[]);
    let (mut first, mut second) =
        (Session::open(&coordinator.url), Session::open(&coordinator.url));
    first.tell("SET datafusion.execution.batch_size = 123");
    first.tell("CREATE TEMPORARY VIEW t AS SELECT 'first' AS x");
    second.tell("CREATE TEMPORARY VIEW t AS SELECT 'second' AS x");
    let setting = "SELECT value FROM information_schema.df_settings WHERE name = 'datafusion.execution.batch_size'";
    assert_eq!(first.ask(setting), "123");
    assert_ne!(second.ask(setting), "123");
    assert_eq!(first.ask("SELECT x FROM t"), "first");
    assert_eq!(second.ask("SELECT x FROM t"), "second");
    first.close();
    let outcome = run(&[&coordinator.url, "-c", "SELECT * FROM t"]);
    assert!(outcome.stderr.contains("table \"t\" not found"), "{}", outcome.stderr);
    assert_eq!(second.ask("SELECT x FROM t"), "second");
    assert_eq!(second.close(), "");
}

#[test]
fn sessions_have_a_bound_and_are_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("skep.toml");
    fs::write(&config, "[sessions]\nmax_count = 1\n").unwrap();
    let coordinator = Coordinator::start_with_worker(&["--config", config.to_str().unwrap()]);
    let mut held = Session::open(&coordinator.url);
    assert_eq!(held.ask("SELECT 1 AS x"), "1");
    let refused = run(&[&coordinator.url, "-c", "SELECT 1"]);
    assert!(refused.stderr.contains("too many sessions"), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: try again later"), "{}", refused.stderr);
    held.close();
    // Each gives its session back at its end.
    for _ in 0..3 {
        run(&[&coordinator.url, "--format", "null", "-c", "SELECT 1"]).success();
    }
}

#[test]
fn an_interrupt_cancels_what_runs_there() {
    let coordinator = Coordinator::start_with_worker(&[]);
    let endless = "SELECT value FROM generate_series(1, 1000000000000)";
    let mut child = skep(&[&coordinator.url, "--format", "csv", "-c", endless]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "value\n");
    kill_process(Pid::from_child(&child), Signal::Int).unwrap();
    // Unread rows may stand in the pipe; the process must end all the same.
    let reader = std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()).unwrap());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    reader.join().unwrap();
    run(&[&coordinator.url, "--format", "null", "-c", "SELECT 1"]).success();
}

#[test]
fn nobody_there_is_a_clear_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let outcome = run(&[&format!("grpc://me:secret@{address}"), "-c", "SELECT 1"]);
    assert_eq!(outcome.code, Some(1));
    let message = format!("error: cannot connect to grpc://{address}: connection refused\nhint: ");
    assert!(outcome.stderr.starts_with(&message), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("skep cluster"), "{}", outcome.stderr);
}

#[test]
fn a_url_of_another_kind_is_a_clear_error() {
    for (url, message) in
        [("postgres://h:1", "unknown scheme \"postgres\""), ("grpc://h:1/db", "behind the port")]
    {
        let outcome = run(&[url, "-c", "SELECT 1"]);
        assert_eq!(outcome.code, Some(1), "{url}");
        assert!(outcome.stderr.contains(message), "{url}: {}", outcome.stderr);
    }
    let coordinator = Coordinator::start_with_worker(&[]);
    let http = coordinator.http.replace("http://", "grpc://");
    let outcome = run(&[&http, "-c", "SELECT 1"]);
    assert!(outcome.stderr.contains(&http), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("hint: "), "{}", outcome.stderr);
}

#[test]
fn a_coordinator_that_dies_is_a_clear_error() {
    let mut coordinator = Coordinator::start_with_worker(&[]);
    let mut session = Session::open(&coordinator.url);
    assert_eq!(session.ask("SELECT 1 AS x"), "1");
    coordinator.role.signal(Signal::Kill);
    coordinator.role.wait();
    session.tell("SELECT 2 AS x");
    let errors = session.close();
    assert!(errors.contains(&coordinator.url), "{errors}");
    assert!(errors.contains("connection"), "{errors}");
}

#[test]
fn options_of_this_process_mean_nothing_there() {
    let outcome = run(&["grpc://127.0.0.1:1", "--memory", "1GiB", "-c", "SELECT 1"]);
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome.stderr.contains("--memory is for statements in this process"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn what_runs_on_the_coordinator_alone_is_listed_without_secrets() {
    let coordinator = Coordinator::start_with_worker(&[]);
    let null = [coordinator.url.as_str(), "--format", "null", "-c"];
    let query = "SELECT value, 'https://me:hush@h/' AS u FROM generate_series(1, 3)";
    run(&[&null[..], &[query]].concat()).success();
    let failing =
        "SELECT 10 / (k - 2) AS failing FROM (VALUES (1), (2), (3)) AS generate_series(k)";
    assert_eq!(run(&[&null[..], &[failing]].concat()).code, Some(1));
    let listed = "SELECT state, rows, stages, error_code, sql FROM system.queries \
                  WHERE sql LIKE '%generate_series%' AND sql NOT LIKE '%system.%' ORDER BY query";
    let rows = run(&[&coordinator.url, "--format", "csv", "-c", listed]).success();
    let lines: Vec<_> = rows.lines().collect();
    assert_eq!(lines.len(), 3, "{rows}");
    assert!(lines[1].starts_with("finished,3,0,,"), "{rows}");
    assert!(lines[1].contains("'https://***@h/' AS u"), "{rows}");
    assert!(lines[2].starts_with("failed,0,0,invalid_argument,"), "{rows}");
}

#[test]
fn probes_are_answered() {
    let coordinator = Coordinator::start_with_worker(&[]);
    let address = coordinator.http.strip_prefix("http://").unwrap();
    for (path, part) in [("/healthz", "ok"), ("/readyz", "\"ready\":true")] {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains(part), "{answer}");
    }
}
