//! What is left of a statement that nobody wants any more, or that is late: nothing, within a second.
//!
//! Workers say each 50 ms what they are busy with, so that what they have done is seen soon. The
//! machine that runs the tests may be busy with others; so of a few tries only the best has to keep
//! the bound, and each has to end.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use datafusion::common::runtime::SpawnedTask;
use skep_client::Client;
use skep_testkit::cluster::{Signal, signal};
use skep_testkit::object_server::ObjectServer;

use crate::cluster::{Cluster, PATIENCE, rows};
use crate::process::skep;
use crate::recovery::{preamble, tables};
use crate::role::Coordinator;

/// How soon nothing may be left.
const BOUND: Duration = Duration::from_secs(1);
const TRIES: usize = 3;

const CONFIG: &str = "[scheduler]\nheartbeat_interval = '50ms'\n";

/// Its tasks stand still where they read the file that is held; what they read before is kept, and
/// is more than a writer keeps in memory.
const STILL: &str = "SELECT d.name, count(*), max(f.pad) FROM \
                     (SELECT k, repeat(CAST(v AS VARCHAR), 200) AS pad FROM facts) f \
                     JOIN dims d ON f.k = d.k GROUP BY d.name";
const HELD: &str = "bucket/dims/part-1.csv";

/// Its rows flow to the client while its tasks make them, until one stands still.
const FLOWING: &str = "SELECT k, repeat(CAST(v AS VARCHAR), 200) AS pad FROM facts \
                       WHERE k >= (SELECT min(k) FROM dims)";
const HELD_FLOWING: &str = "bucket/facts/part-7.csv";

/// Its tasks compute for minutes.
const BUSY: &str = "SELECT a.k, max(sha512(CAST(a.v * b.v AS VARCHAR))) FROM facts a \
                    CROSS JOIN facts b GROUP BY a.k";

/// What becomes of the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its client drops it.
    Dropped,
    /// The process of its client is killed.
    Killed,
    /// It takes longer than it may.
    Late,
}

/// A client that is about to run a statement: a task of this process, or a process.
enum Asker {
    Task(Client),
    Process(Child),
}

/// A running statement of one or the other.
enum Running {
    Task(SpawnedTask<Result<Vec<Vec<String>>, skep_client::Error>>),
    Process(Child),
}

impl Asker {
    /// Opens a session and makes its tables: that reads files, so none may be held yet.
    async fn open(cluster: &Cluster, server: &ObjectServer, how: End) -> Self {
        let mut statements = preamble(server);
        if how == End::Late {
            statements.push("SET skep.statement_timeout = '4s'".to_owned());
        }
        if how == End::Killed {
            let args = [cluster.processes.url.as_str(), "--format", "csv"];
            let mut child = skep(&args).stdin(Stdio::piped()).spawn().unwrap();
            let script = format!("{};\nSELECT 'ready' AS x;\n", statements.join(";\n"));
            child.stdin.as_mut().unwrap().write_all(script.as_bytes()).unwrap();
            let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
            assert!(lines.any(|line| line.unwrap() == "ready"));
            return Self::Process(child);
        }
        let client = Client::connect(&cluster.processes.url).await.unwrap();
        for statement in &statements {
            rows(&client, statement).await.unwrap();
        }
        Self::Task(client)
    }

    fn start(self, query: String) -> Running {
        match self {
            Self::Task(client) => {
                Running::Task(SpawnedTask::spawn(async move { rows(&client, &query).await }))
            }
            Self::Process(mut child) => {
                let stdin = child.stdin.as_mut().unwrap();
                stdin.write_all(format!("{query};\n").as_bytes()).unwrap();
                Running::Process(child)
            }
        }
    }
}

/// Ends the statement; returns since when nothing of it may be left.
async fn end(client: Running) -> Instant {
    match client {
        Running::Process(mut child) => {
            signal(child.id(), Signal::Kill).unwrap();
            let since = Instant::now();
            child.wait().unwrap();
            since
        }
        Running::Task(task) => {
            let since = Instant::now();
            drop(task);
            since
        }
    }
}

/// Waits until the statement has failed because it is late.
async fn become_late(client: Running) -> Instant {
    let Running::Task(task) = client else { panic!("only tasks are told") };
    let error = tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap().unwrap_err();
    let since = Instant::now();
    assert_eq!(error.code().as_str(), "deadline_exceeded", "{error}");
    assert_eq!(
        error.message(),
        "the statement took longer than skep.statement_timeout, which is 4s"
    );
    since
}

/// Runs and ends a statement; returns how long it took until nothing was left.
async fn one_try(cluster: &Cluster, server: &ObjectServer, query: &str, how: End) -> Duration {
    let asker = Asker::open(cluster, server, how).await;
    let before = cluster.spill_files();
    let held = match query {
        STILL => Some(HELD),
        FLOWING => Some(HELD_FLOWING),
        _ => None,
    };
    let keeps = held.is_some();
    if let Some(file) = held {
        server.hold(file);
    }
    let mark = format!("{how:?} {:?}", Instant::now());
    let client = asker.start(query.replacen("SELECT", &format!("SELECT /* {mark} */"), 1));
    let id = cluster.query_id(&mark).await;
    // It runs on workers, and holds what it can hold.
    let holds = "SELECT sum(running), sum(stored_bytes) FROM system.workers";
    let number = |cell: &String| cell.parse::<u64>().unwrap();
    let holds = cluster
        .wait_for(holds, |rows| number(&rows[0][0]) > 0 && (!keeps || number(&rows[0][1]) > 0));
    holds.await;
    if keeps {
        let deadline = Instant::now() + PATIENCE;
        while cluster.spill_files() == before {
            assert!(Instant::now() < deadline, "nothing was spilled");
            tokio::task::yield_now().await;
        }
    }
    let since = match how {
        End::Late => become_late(client).await,
        End::Dropped | End::Killed => end(client).await,
    };
    let left = "SELECT sum(running), sum(stored_bytes), sum(memory_bytes) FROM system.workers";
    cluster.wait_for(left, |rows| rows[0] == ["0", "0", "0"]).await;
    let deadline = Instant::now() + PATIENCE;
    while cluster.spill_files() != before {
        assert!(Instant::now() < deadline, "{:?} are left", cluster.spill_files());
        tokio::task::yield_now().await;
    }
    let took = since.elapsed();
    if let Some(file) = held {
        server.release(file);
    }
    let state = format!("SELECT state, error_code FROM system.queries WHERE query = '{id}'");
    let wanted = match how {
        End::Late => ["failed", "deadline_exceeded"],
        End::Dropped | End::Killed => ["cancelled", "cancelled"],
    };
    assert_eq!(cluster.ask(&state).await, [wanted], "{how:?}");
    took
}

async fn nothing_is_left_in_time(query: &str, how: End) {
    let cluster = Cluster::start_with(3, 1, CONFIG, Some(1)).await;
    let server = tables();
    let mut took = Vec::new();
    for _ in 0..TRIES {
        took.push(one_try(&cluster, &server, query, how).await);
        if took.last() < Some(&BOUND) {
            return;
        }
    }
    panic!("{how:?}: nothing was left after {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_dropped_leaves_nothing() {
    nothing_is_left_in_time(STILL, End::Dropped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_whose_client_is_killed_leaves_nothing() {
    nothing_is_left_in_time(STILL, End::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_late_leaves_nothing() {
    nothing_is_left_in_time(STILL, End::Late).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_whose_rows_flow_leaves_nothing_when_it_is_dropped() {
    nothing_is_left_in_time(FLOWING, End::Dropped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_whose_rows_flow_leaves_nothing_when_it_is_late() {
    nothing_is_left_in_time(FLOWING, End::Late).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_compute_stop_when_they_are_not_wanted() {
    nothing_is_left_in_time(BUSY, End::Dropped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_compute_stop_when_they_are_late() {
    nothing_is_left_in_time(BUSY, End::Late).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_may_come_from_the_configuration_and_is_every_session_s() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("skep.toml");
    std::fs::write(&config, "statement_timeout = '3s'\n").unwrap();
    let coordinator = Coordinator::start(&["--config", config.to_str().unwrap()]);
    let client = Client::connect(&coordinator.url).await.unwrap();
    let limit = "SHOW skep.statement_timeout";
    let shown = rows(&client, limit).await.unwrap();
    assert_eq!(shown, [["skep.statement_timeout", "3s"]]);
    let endless = "SELECT count(*) FROM generate_series(1, 1000000000000)";
    let error = rows(&client, endless).await.unwrap_err();
    assert_eq!(error.code().as_str(), "deadline_exceeded", "{error}");
    assert!(error.hint().unwrap().contains("SET skep.statement_timeout"), "{error:?}");
    assert!(!error.is_retryable());
    let told = "SELECT state, error_code FROM system.queries WHERE sql LIKE '%generate_series%'";
    assert_eq!(rows(&client, told).await.unwrap(), [["failed", "deadline_exceeded"]]);
    rows(&client, "SET skep.statement_timeout = '1ms'").await.unwrap();
    assert!(rows(&client, told).await.is_err(), "no statement is done in 1 ms");
    // What leads out of it has no limit.
    rows(&client, "RESET skep.statement_timeout").await.unwrap();
    assert_eq!(rows(&client, limit).await.unwrap(), shown);
}
