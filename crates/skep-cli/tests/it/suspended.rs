//! A client that is suspended while its rows flow: `[grpc]` says for how long it may be.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use skep_client::Client;
use skep_testkit::cluster::{Signal, signal};

use crate::cluster::{Cluster, PATIENCE, rows};
use crate::process::skep;
use crate::recovery::{preamble, tables};

/// More than sockets and clients take in ahead; of the rest, workers keep next to nothing in memory.
const FLOWING: &str = "SELECT v, repeat(CAST(v AS VARCHAR), 1000) AS pad FROM facts \
                       WHERE k >= (SELECT min(k) FROM dims)";
const ROW_COUNT: usize = 16_000;

/// Without a bound of its own, a suspended client has 22 seconds.
const DEFAULT_BOUND: Duration = Duration::from_secs(22);

/// How long it is given here: long enough for its rows to be made.
const BOUND: Duration = Duration::from_secs(6);

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(300);

/// There is room for two sessions, one of which is the test's.
const SESSIONS: &str = "[sessions]\nmax_count = 2\nleft_timeout = '100ms'\n";

/// What the workers are busy with and keep.
const HELD: &str = "SELECT sum(running), sum(stored_bytes), sum(memory_bytes) FROM system.workers";

fn config(keepalive_timeout: Duration, silence_timeout: Duration) -> String {
    let (keepalive, silence) = (keepalive_timeout.as_secs(), silence_timeout.as_secs());
    format!(
        "{SESSIONS}[scheduler]\nheartbeat_interval = '50ms'\n[grpc]\nkeepalive_interval = '300ms'\n\
         keepalive_timeout = '{keepalive}s'\nsilence_timeout = '{silence}s'\n"
    )
}

/// Starts a cluster whose workers put what they make on disk.
async fn start(config: &str) -> Cluster {
    Cluster::start_with(2, 1, config, Some(1)).await
}

/// A process that does not outlive its test: one that is stopped would never end.
struct Mortal(Child);

impl Drop for Mortal {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that has got some of its rows, and is stopped.
struct Suspended {
    child: Mortal,
    lines: Lines<BufReader<ChildStdout>>,
    /// The query whose rows it gets.
    id: String,
    since: Instant,
}

impl Suspended {
    /// Starts one and stops it while the rest of its rows waits, partly on disk.
    async fn start(cluster: &Cluster, statements: &[String]) -> Self {
        let before = cluster.spill_files();
        let args = [cluster.processes.url.as_str(), "--format", "csv"];
        let mut process = Mortal(skep(&args).stdin(Stdio::piped()).spawn().unwrap());
        let child = &mut process.0;
        let script = format!("{};\n{FLOWING};\n", statements.join(";\n"));
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "v,pad");
        signal(child.id(), Signal::Stop).unwrap();
        let since = Instant::now();
        let id = cluster.query_id("AS pad").await;
        let suspended = Self { child: process, lines, id, since };
        while cluster.spill_files() == before {
            assert_eq!(suspended.state(cluster).await, "running", "nothing waited on disk");
        }
        suspended
    }

    async fn state(&self, cluster: &Cluster) -> String {
        let state = format!("SELECT state FROM system.queries WHERE query = '{}'", self.id);
        cluster.ask(&state).await.concat().concat()
    }

    /// Lets it go on to its end; returns its rows, its exit status, and what it says was wrong.
    fn resume(mut self) -> (Vec<String>, Option<i32>, String) {
        let child = &mut self.child.0;
        signal(child.id(), Signal::Continue).unwrap();
        let rows = self.lines.map_while(Result::ok).collect();
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (rows, child.wait().unwrap().code(), errors)
    }
}

/// Suspends a client for longer than the settings let it be.
async fn is_given_up(keepalive_timeout: Duration, silence_timeout: Duration) {
    let config = config(keepalive_timeout, silence_timeout);
    let (cluster, server) = (start(&config).await, tables());
    let before = cluster.spill_files();
    let suspended = Suspended::start(&cluster, &preamble(&server)).await;
    let query = format!("SELECT state FROM system.queries WHERE query = '{}'", suspended.id);
    cluster.wait_for(&query, |rows| rows == [["cancelled"]]).await;
    let took = suspended.since.elapsed();
    assert!(took < DEFAULT_BOUND - BOUND, "it was given up after {took:?}");
    // Its memory and files, there and on the workers, and its place.
    cluster.wait_for(HELD, |rows| rows[0] == ["0", "0", "0"]).await;
    let deadline = Instant::now() + PATIENCE;
    while cluster.spill_files() != before {
        assert!(Instant::now() < deadline, "{:?} are left", cluster.spill_files());
        tokio::task::yield_now().await;
    }
    while let Err(error) = answer(&cluster).await {
        assert!(error.is_retryable() && Instant::now() < deadline, "{error}");
    }
    // It learns of it when it goes on.
    let (rows, code, errors) = tokio::task::spawn_blocking(|| suspended.resume()).await.unwrap();
    assert!(rows.len() < ROW_COUNT, "{} rows", rows.len());
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.starts_with("error: "), "{errors}");
}

/// Asks in a session of its own.
async fn answer(cluster: &Cluster) -> Result<(), skep_client::Error> {
    let client = Client::connect(&cluster.processes.url).await?;
    rows(&client, "SELECT 1").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_suspended_for_longer_than_the_keepalive_leaves_nothing() {
    is_given_up(BOUND, LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_silent_for_longer_than_it_may_leaves_nothing() {
    is_given_up(LONG, BOUND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_suspended_for_less_than_it_may_gets_all_rows() {
    let (cluster, server) = (start(&config(LONG, LONG)).await, tables());
    let suspended = Suspended::start(&cluster, &preamble(&server)).await;
    let left = format!(
        "SELECT count(*) FROM system.tasks WHERE query = '{}' AND state <> 'sealed'",
        suspended.id
    );
    cluster.wait_for(&left, |rows| rows == [["0"]]).await;
    // It has its place as long as it may be suspended.
    assert_eq!(suspended.state(&cluster).await, "running");
    let refused = answer(&cluster).await.unwrap_err();
    assert!(refused.is_retryable() && refused.message().contains("too many sessions"), "{refused}");
    let (rows, code, errors) = tokio::task::spawn_blocking(|| suspended.resume()).await.unwrap();
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let mut numbers: Vec<usize> = Vec::with_capacity(ROW_COUNT);
    for row in &rows {
        let (number, pad) = row.split_once(',').unwrap();
        assert!(pad == number.repeat(1000), "{number}");
        numbers.push(number.parse().unwrap());
    }
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..ROW_COUNT), "{} rows", rows.len());
}
