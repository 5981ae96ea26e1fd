//! Running a coordinator: its health, its end, and what strangers may do to its port.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use pty::process::Signal;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::flight::channel;
use crate::process::{run, skep};
use crate::role::{Coordinator, Role, pid, wait_until_gone, word};

const PATIENCE: Duration = Duration::from_secs(60);

/// Asks a probe; returns the status and the body.
fn probe(coordinator: &Coordinator, path: &str) -> Option<String> {
    let address = coordinator.http.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A client whose rows flow for ever, and are flowing.
fn endless(url: &str) -> Child {
    let query = "SELECT value FROM generate_series(1, 1000000000000)";
    let mut child =
        skep(&[url, "--format", "csv", "-c", query]).stdin(Stdio::null()).spawn().unwrap();
    let mut first = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"value\n");
    child
}

#[test]
fn an_end_lets_statements_finish_for_a_while_and_begins_none() {
    let mut coordinator = Coordinator::start(&["--drain-timeout", "4"]);
    assert!(probe(&coordinator, "/readyz").unwrap().starts_with("HTTP/1.1 200 "));
    let mut client = endless(&coordinator.url);
    let began = Instant::now();
    coordinator.role.signal(Signal::Term);
    while probe(&coordinator, "/readyz").unwrap().starts_with("HTTP/1.1 200 ") {
        assert!(began.elapsed() < PATIENCE);
    }
    assert!(probe(&coordinator, "/readyz").unwrap().starts_with("HTTP/1.1 503 "));
    assert!(probe(&coordinator, "/healthz").unwrap().starts_with("HTTP/1.1 200 "));
    let refused = run(&[&coordinator.url, "-c", "SELECT 1"]);
    assert!(refused.stderr.contains("error: the coordinator is ending"), "{}", refused.stderr);
    assert_eq!(coordinator.role.wait().code(), Some(0));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(30), "{took:?}");
    // What was cut says so, and is no short answer.
    drop(client.stdout.take());
    assert_ne!(client.wait().unwrap().code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut coordinator = Coordinator::start(&["--drain-timeout", "3600"]);
    let mut client = endless(&coordinator.url);
    coordinator.role.signal(Signal::Term);
    let began = Instant::now();
    while probe(&coordinator, "/readyz").unwrap().starts_with("HTTP/1.1 200 ") {
        assert!(began.elapsed() < PATIENCE);
    }
    coordinator.role.signal(Signal::Term);
    assert_eq!(coordinator.role.wait().code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(10));
    client.kill().unwrap();
    client.wait().unwrap();
}

/// Waits for the health of a worker, a stream that does not end; it is one more thing that is open
/// there.
async fn watched(url: &str) -> tonic::Streaming<HealthCheckResponse> {
    let mut client = HealthClient::new(channel(url).await);
    let request = HealthCheckRequest { service: String::new() };
    let mut health = client.watch(request).await.unwrap().into_inner();
    health.message().await.unwrap().unwrap();
    health
}

#[tokio::test]
async fn a_second_signal_ends_a_worker_and_a_cluster_at_once() {
    let coordinator = Coordinator::start(&[]);
    let worker = ["worker", "--coordinator", &coordinator.url, "--slots", "1"];
    let mut worker = Role::start(&[&worker[..], &["--memory", "64MiB"]].concat());
    let _open = watched(word(&worker.line(), "grpc://")).await;
    // Two of a kind at a time may count as one.
    worker.signal(Signal::Term);
    worker.signal(Signal::Int);
    assert_eq!(worker.wait().code(), Some(130));

    let cluster = ["cluster", "--workers", "1", "--slots", "1", "--memory", "64MiB"];
    let cluster = [&cluster[..], &["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]].concat();
    let mut cluster = Role::start(&[&cluster[..], &["--drain-timeout", "3600"]].concat());
    let process = pid(&cluster.line());
    let ready = cluster.line();
    let mut client = endless(word(&ready, "grpc://"));
    let began = Instant::now();
    cluster.signal(Signal::Term);
    cluster.signal(Signal::Int);
    cluster.wait();
    wait_until_gone(process);
    assert!(began.elapsed() < Duration::from_secs(30));
    client.kill().unwrap();
    client.wait().unwrap();
}

#[test]
fn an_idle_coordinator_ends_at_once() {
    let mut coordinator = Coordinator::start(&["--drain-timeout", "3600"]);
    run(&[&coordinator.url, "--format", "null", "-c", "SELECT 1"]).success();
    coordinator.role.signal(Signal::Term);
    let began = Instant::now();
    assert_eq!(coordinator.role.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_cluster_that_ends_lets_its_workers_finish_a_query() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("skep.toml");
    fs::write(&config, "[planner]\nsmall_query_bytes = 1\nmin_scan_bytes_per_task = 1024\n")
        .unwrap();
    let mut cluster = Role::start(&[
        "cluster",
        "--workers",
        "1",
        "--slots",
        "2",
        "--memory",
        "512MiB",
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--config",
        config.to_str().unwrap(),
        "--drain-timeout",
        "60",
        "--exit-with-stdin",
    ]);
    assert!(cluster.line().starts_with("worker "));
    let ready = cluster.line();
    let url = word(&ready, "grpc://");
    let create = "CREATE TABLE t AS SELECT value AS k FROM generate_series(1, 400000)";
    run(&[url, "--format", "null", "-c", create]).success();
    let query = "SELECT count(*) AS n FROM t a JOIN t b ON a.k % 500 = b.k % 500";
    let client = skep(&[url, "--format", "csv", "-c", query]).spawn().unwrap();
    let running =
        "SELECT count(*) AS n FROM system.tasks WHERE state = 'running' AND worker = 'w1'";
    let began = Instant::now();
    while run(&[url, "--format", "csv", "-c", running]).success() == "n\n0\n" {
        assert!(began.elapsed() < PATIENCE);
    }
    cluster.signal(Signal::Term);
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "n\n320000000\n", "{said}");
    assert_eq!(cluster.wait().code(), Some(0));
}

/// Reads to the end of a connection that the other side cuts.
#[track_caller]
fn until_cut(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // To its end: a time-out of a read would be an error of another kind.
    if let Err(error) = stream.read_to_end(&mut Vec::new()) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
}

/// Returns the resident bytes of the coordinator.
fn resident_bytes(coordinator: &Coordinator) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", coordinator.role.child.id()));
    let status = status.unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn ask(coordinator: &Coordinator) {
    let answer = run(&[&coordinator.url, "--format", "csv", "-c", "SELECT 1 AS x"]).success();
    assert_eq!(answer, "x\n1\n");
}

#[test]
fn a_thousand_that_say_nothing_keep_nobody_out() {
    let coordinator = Coordinator::start(&[]);
    ask(&coordinator);
    let address = coordinator.url.strip_prefix("grpc://").unwrap();
    let before = resident_bytes(&coordinator);
    let mut silent = Vec::new();
    for idx in 0..1000 {
        let mut stream = TcpStream::connect(address).unwrap();
        if idx % 2 == 0 {
            // Half a greeting.
            stream.write_all(b"PRI * HT").unwrap();
        }
        silent.push(stream);
        if idx % 250 == 0 {
            ask(&coordinator);
        }
    }
    ask(&coordinator);
    let grown = resident_bytes(&coordinator).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
    // The oldest was cut to make room.
    until_cut(&mut silent[0]);
    drop(silent);
    ask(&coordinator);
}

#[test]
fn who_says_nothing_for_long_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("skep.toml");
    fs::write(&config, "[grpc]\nsilence_timeout = '200ms'\n").unwrap();
    let coordinator = Coordinator::start(&["--config", config.to_str().unwrap()]);
    let address = coordinator.url.strip_prefix("grpc://").unwrap();
    for greeting in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(greeting).unwrap();
        until_cut(&mut stream);
    }
    ask(&coordinator);
}

#[test]
fn garbage_on_the_port_harms_nobody() {
    let coordinator = Coordinator::start(&[]);
    ask(&coordinator);
    let address = coordinator.url.strip_prefix("grpc://").unwrap().to_owned();
    let mut running = endless(&coordinator.url);
    let before = resident_bytes(&coordinator);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut frames = preface.to_vec();
    // A frame of a type that there is not, longer than any may be.
    frames.extend([0xff, 0xff, 0xff, 0xee, 0, 0, 0, 0, 1]);
    let garbage = [
        vec![0; 100_000],
        vec![0xff; 100_000],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(50),
        preface.repeat(3),
        frames,
    ];
    let throwing: Vec<_> = garbage
        .into_iter()
        .map(|bytes| {
            let address = address.clone();
            thread::spawn(move || {
                for _ in 0..20 {
                    let mut stream = TcpStream::connect(&address).unwrap();
                    // It may be cut in the middle.
                    let _ = stream.write_all(&bytes);
                    until_cut(&mut stream);
                }
            })
        })
        .collect();
    ask(&coordinator);
    for thread in throwing {
        thread.join().unwrap();
    }
    ask(&coordinator);
    // Rows that flowed all the while flow on: more than can be under way.
    let mut rows = running.stdout.take().unwrap().take(16 << 20);
    assert_eq!(std::io::copy(&mut rows, &mut std::io::sink()).unwrap(), 16 << 20);
    running.kill().unwrap();
    running.wait().unwrap();
    let grown = resident_bytes(&coordinator).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
}
