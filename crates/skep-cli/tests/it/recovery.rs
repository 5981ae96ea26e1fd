//! Workers that die, stop and come back while a query runs.
//!
//! The tables lie on a server that can hold a file back: whoever reads it waits. So each test stops
//! its query where it wants it, does the damage, sees that it was noticed, and lets the query go on.
//! Every answer is compared with the embedded engine's.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Instant;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use futures::StreamExt;
use skep_client::{Client, Statement};
use skep_engine::{Engine, EngineConfig, Session};
use skep_testkit::cluster::{Signal, signal};
use skep_testkit::object_server::ObjectServer;
use skep_testkit::proxy::Proxy;
use skep_testkit::render;

use crate::cluster::{Cluster, PATIENCE, TaskRow, rows};
use crate::role::Role;

type Rows = Vec<Vec<String>>;

const GROUPED: &str = "SELECT k, count(*), sum(v) FROM facts GROUP BY k";
const JOINED: &str = "SELECT d.name, count(*), sum(f.v) FROM facts f JOIN dims d ON f.k = d.k \
                      GROUP BY d.name";
/// Each task of `facts` reads all of `dims` before its own file.
const CROSSED: &str = "SELECT count(*), sum(f.v + d.k) FROM dims d CROSS JOIN facts f";
const LAST: &str = "SELECT k, v, w FROM facts WHERE k >= (SELECT min(k) FROM dims)";
const ROLLED: &str = "SELECT count(*), count(DISTINCT r) \
                      FROM (SELECT (SELECT sum(random()) FROM dims) AS r FROM facts)";

/// The tables: `facts` of eight files, `dims` of four.
pub(crate) fn tables() -> ObjectServer {
    let server = ObjectServer::start([]).unwrap();
    for part in 0..8 {
        let rows = (0..2000).map(|row| {
            let id = part * 2000 + row;
            format!("{},{},{}\n", id % 97, id, id % 13)
        });
        let text = format!("k,v,w\n{}", rows.collect::<String>());
        server.put(&format!("bucket/facts/part-{part}.csv"), text.into_bytes());
    }
    for part in 0..4 {
        let rows = (0..25).map(|row| format!("{},name {}\n", part * 25 + row, part * 25 + row));
        let text = format!("k,name\n{}", rows.collect::<String>());
        server.put(&format!("bucket/dims/part-{part}.csv"), text.into_bytes());
    }
    server
}

/// What a session says before its query.
pub(crate) fn preamble(server: &ObjectServer) -> Vec<String> {
    let mut statements: Vec<String> =
        server.s3_settings().split(';').map(|setting| setting.trim().to_owned()).collect();
    // So that both sides of a join are spread, and each is a stage of its own.
    for setting in ["threshold", "threshold_rows"] {
        let name = format!("datafusion.optimizer.hash_join_single_partition_{setting}");
        statements.push(format!("SET {name} = 0"));
    }
    for name in ["facts", "dims"] {
        statements.push(format!(
            "CREATE TEMPORARY VIEW {name} USING csv \
             OPTIONS (path 's3://bucket/{name}/', header 'true', inferSchema 'true')"
        ));
    }
    statements
}

/// Answers in one process.
pub(crate) async fn embedded_answer(statements: &[String], query: &str) -> Rows {
    let config = EngineConfig { target_partitions: Some(2), ..EngineConfig::default() };
    let session: Session = Engine::open(config).await.unwrap().session();
    for statement in statements {
        session.execute(statement).await.unwrap().collect().await.unwrap();
    }
    let stream = session.execute(query).await.unwrap();
    let schema = stream.schema();
    render::rows(&schema, &stream.collect().await.unwrap()).unwrap()
}

/// A query that stands still at a held file.
pub(crate) struct Held<'a> {
    cluster: &'a Cluster,
    server: &'a ObjectServer,
    answer: SpawnedTask<Result<Rows, skep_client::Error>>,
    file: String,
    pub(crate) id: String,
    expected: Rows,
}

impl<'a> Held<'a> {
    /// Starts a query and waits until somebody waits for the file.
    async fn start(
        cluster: &'a Cluster,
        server: &'a ObjectServer,
        query: &str,
        file: &str,
    ) -> Self {
        let statements = preamble(server);
        let client = Client::connect(&cluster.processes.url).await.unwrap();
        for statement in &statements {
            rows(&client, statement).await.unwrap();
        }
        Self::start_in(client, cluster, server, query, file).await
    }

    /// Does the same in a session that has the tables.
    pub(crate) async fn start_in(
        client: Client,
        cluster: &'a Cluster,
        server: &'a ObjectServer,
        query: &str,
        file: &str,
    ) -> Self {
        let mark = format!("held at {file}");
        let query = format!("{query} /* {mark} */");
        let expected = embedded_answer(&preamble(server), &query).await;
        let file = format!("bucket/{file}");
        server.hold(&file);
        let answer = SpawnedTask::spawn(async move { rows(&client, &query).await });
        let id = cluster.query_id(&mark).await;
        let held = Self { cluster, server, answer, file, id, expected };
        held.wait_for_readers(1).await;
        held
    }

    /// Waits until the file has been asked for so many times.
    pub(crate) async fn wait_for_readers(&self, count: usize) {
        let (server, file) = (self.server.clone(), self.file.clone());
        let waiting =
            tokio::task::spawn_blocking(move || server.wait_for_requests(&file, count, PATIENCE));
        let attempts = self.cluster.attempts(&self.id).await;
        assert!(waiting.await.unwrap(), "not asked for {count} times: {attempts:#?}");
    }

    /// Returns the attempts that run just now.
    async fn running(&self) -> Vec<TaskRow> {
        let mut attempts = self.cluster.attempts(&self.id).await;
        attempts.retain(|attempt| attempt.state == "running");
        attempts
    }

    /// Waits until only one attempt runs: the one that waits for the file.
    pub(crate) async fn only_running(&self) -> TaskRow {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut running = self.running().await;
            if running.len() == 1 {
                return running.remove(0);
            }
            assert!(Instant::now() < deadline, "{running:#?}");
        }
    }

    /// Waits until a worker has said how it is, from beginning to end after now.
    async fn wait_for_heartbeat(&self, worker: &str) {
        let query = format!("SELECT last_heartbeat FROM system.workers WHERE id = '{worker}'");
        let mut last = self.cluster.ask(&query).await;
        // What is heard next may have been on its way.
        for _ in 0..2 {
            last = self.cluster.wait_for(&query, |rows| *rows != last).await;
        }
    }

    pub(crate) fn kill(&self, worker: &str) {
        signal(self.cluster.worker(worker).pid, Signal::Kill).unwrap();
    }

    /// Lets the query go on, compares its answer, and returns all its attempts.
    pub(crate) async fn finish(mut self) -> Vec<TaskRow> {
        self.server.release(&self.file);
        let answer = tokio::time::timeout(PATIENCE, self.answer).await.unwrap().unwrap();
        let mut answer = answer.unwrap();
        answer.sort_unstable();
        self.expected.sort_unstable();
        assert_eq!(answer.len(), self.expected.len());
        assert!(answer == self.expected, "{answer:#?}\n{:#?}", self.expected);
        self.cluster.attempts(&self.id).await
    }
}

/// Asserts that some task ran again, and none without need: an attempt that another followed was on
/// one of these workers, or was stopped by the loss of what it read. Nothing that was sealed
/// elsewhere was made again.
fn only_those_on_ran_again(attempts: &[TaskRow], lost: &[&str]) {
    let mut ran_again = 0;
    for pair in attempts.windows(2) {
        let [first, second] = pair else { continue };
        if (&first.stage, first.partition) != (&second.stage, second.partition) {
            continue;
        }
        let was_there = lost.contains(&first.worker.as_str());
        let was_stopped = first.state == "failed" || first.state == "cancelled";
        assert!(was_there || was_stopped, "{first:?} was followed by another: {attempts:#?}");
        ran_again += usize::from(was_there);
    }
    assert!(ran_again > 0, "nothing ran again: {attempts:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_first_stage_costs_its_own_work() {
    let (cluster, server) = (Cluster::start(4, 1, "").await, tables());
    let held = Held::start(&cluster, &server, GROUPED, "facts/part-5.csv").await;
    let victim = held.only_running().await;
    held.kill(&victim.worker);
    held.wait_for_readers(2).await;
    let again = held.only_running().await;
    assert_eq!((again.partition, again.attempt), (victim.partition, 1));
    assert_ne!(again.worker, victim.worker);
    only_those_on_ran_again(&held.finish().await, &[&victim.worker]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_between_stages_costs_what_is_still_needed_of_it() {
    let (cluster, server) = (Cluster::start(4, 1, "").await, tables());
    let held = Held::start(&cluster, &server, JOINED, "dims/part-1.csv").await;
    let reader = held.only_running().await;
    let attempts = held.cluster.attempts(&held.id).await;
    let sealed = attempts.iter().find(|row| row.state == "sealed" && row.worker != reader.worker);
    let victim = sealed.unwrap_or_else(|| panic!("{attempts:#?}")).clone();
    held.kill(&victim.worker);
    // Its outputs are made again before anybody asks for them.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let attempts = held.cluster.attempts(&held.id).await;
        let is_remade = |row: &TaskRow| {
            (&row.stage, row.partition) == (&victim.stage, victim.partition)
                && row.attempt == 1
                && row.state == "sealed"
        };
        if attempts.iter().any(is_remade) {
            break;
        }
        assert!(Instant::now() < deadline, "{attempts:#?}");
    }
    only_those_on_ran_again(&held.finish().await, &[&victim.worker]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_has_all_it_reads_outlives_the_worker_that_made_it() {
    let (cluster, server) = (Cluster::start(4, 1, "").await, tables());
    let held = Held::start(&cluster, &server, CROSSED, "facts/part-6.csv").await;
    let reader = held.only_running().await;
    let attempts = held.cluster.attempts(&held.id).await;
    let is_input = |row: &&TaskRow| {
        row.state == "sealed" && row.stage != reader.stage && row.worker != reader.worker
    };
    let victim = attempts.iter().find(is_input).unwrap_or_else(|| panic!("{attempts:#?}")).clone();
    held.wait_for_heartbeat(&reader.worker).await;
    held.kill(&victim.worker);
    // What others need of it is made again while the reader still runs.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let attempts = held.cluster.attempts(&held.id).await;
        if attempts.iter().any(|row| row.attempt == 1 && row.state == "sealed") {
            break;
        }
        assert!(Instant::now() < deadline, "{attempts:#?}");
    }
    let attempts = held.finish().await;
    let mine: Vec<_> = attempts
        .iter()
        .filter(|row| (&row.stage, row.partition) == (&reader.stage, reader.partition))
        .map(|row| (row.attempt, row.state.as_str()))
        .collect();
    assert_eq!(mine, [(0, "sealed")], "{attempts:#?}");
    only_those_on_ran_again(&attempts, &[&victim.worker]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_last_stage_costs_its_own_work() {
    let (cluster, server) = (Cluster::start(4, 1, "").await, tables());
    let held = Held::start(&cluster, &server, LAST, "facts/part-6.csv").await;
    let victim = held.only_running().await;
    held.kill(&victim.worker);
    held.wait_for_readers(2).await;
    let attempts = held.finish().await;
    assert_eq!(attempts.last().map(|last| &last.stage), Some(&victim.stage));
    only_those_on_ran_again(&attempts, &[&victim.worker]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_while_rows_are_fetched_loses_and_doubles_none() {
    let (cluster, server) = (Cluster::start(4, 1, "").await, tables());
    let mut statements = preamble(&server);
    // Operators put small batches together up to this size.
    statements.push("SET datafusion.execution.batch_size = 500".to_owned());
    let query = format!("{LAST} /* fetched */");
    let query = query.as_str();
    let mut expected = embedded_answer(&statements, query).await;
    let client = Client::connect(&cluster.processes.url).await.unwrap();
    for statement in &statements {
        rows(&client, statement).await.unwrap();
    }
    server.hold("bucket/facts/part-7.csv");
    let mut statement = client.execute(query).await.unwrap();
    let schema = statement.schema();
    let mut batches = Vec::new();
    // Three tasks give all their 12,000 rows; the one that waits for the held file gives some too.
    read_beyond(&mut statement, &mut batches, 12_000).await;
    let id = cluster.query_id("fetched").await;
    assert!(server.wait_for_requests("bucket/facts/part-7.csv", 1, PATIENCE));
    let running =
        format!("SELECT worker FROM system.tasks WHERE query = '{id}' AND state = 'running'");
    let victim = cluster.wait_for(&running, |rows| rows.len() == 1).await.remove(0).remove(0);
    signal(cluster.worker(&victim).pid, Signal::Kill).unwrap();
    assert!(server.wait_for_requests("bucket/facts/part-7.csv", 2, PATIENCE));
    server.release("bucket/facts/part-7.csv");
    while let Some(batch) = statement.next().await {
        batches.push(batch.unwrap());
    }
    let mut answer = render::rows(&schema, &batches).unwrap();
    answer.sort_unstable();
    expected.sort_unstable();
    assert!(answer == expected, "{} rows, not {}", answer.len(), expected.len());
    only_those_on_ran_again(&cluster.attempts(&id).await, &[&victim]);
}

/// Reads rows until there are more than so many.
async fn read_beyond(statement: &mut Statement, batches: &mut Vec<RecordBatch>, row_count: usize) {
    let mut count = 0;
    while count <= row_count {
        let next = tokio::time::timeout(PATIENCE, statement.next()).await;
        let batch = next.unwrap_or_else(|_| panic!("{count} rows came")).unwrap().unwrap();
        count += batch.num_rows();
        batches.push(batch);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_while_sorted_rows_flow_loses_and_doubles_none() {
    let mut cluster = Cluster::start(2, 1, "").await;
    let server = tables();
    let (_worker, victim, proxy) = worker_behind_a_proxy(&mut cluster);
    let mut statements = preamble(&server);
    statements.push("SET datafusion.execution.batch_size = 100".to_owned());
    // Many rows have the same key, and all of them together are more than a task fetches ahead.
    let query = "SELECT k, v, repeat(CAST(v AS VARCHAR), 1000) FROM facts ORDER BY k /* sorted */";
    let mut expected = embedded_answer(&statements, query).await;
    let client = Client::connect(&cluster.processes.url).await.unwrap();
    for statement in &statements {
        rows(&client, statement).await.unwrap();
    }
    proxy.hold_after(4 << 20);
    let mut statement = client.execute(query).await.unwrap();
    let schema = statement.schema();
    let mut batches = Vec::new();
    read_beyond(&mut statement, &mut batches, 500).await;
    let id = cluster.query_id("sorted").await;
    // The last stage, which runs here, stands still for want of that worker's rows.
    let before = cluster.attempts(&id).await;
    let last = before.last().unwrap_or_else(|| panic!("{before:#?}"));
    assert_eq!((last.state.as_str(), last.worker.as_str()), ("running", "coordinator"));
    signal(cluster.worker(&victim).pid, Signal::Kill).unwrap();
    while let Some(batch) = statement.next().await {
        batches.push(batch.unwrap());
    }
    let mut answer = render::rows(&schema, &batches).unwrap();
    let key = |row: &Vec<String>| row[0].parse::<i64>().unwrap();
    assert!(answer.is_sorted_by_key(key));
    answer.sort_unstable();
    expected.sort_unstable();
    assert!(answer == expected, "{} rows, not {}", answer.len(), expected.len());
    let after = cluster.attempts(&id).await;
    let is_last = |row: &&TaskRow| row.stage == last.stage;
    let states: Vec<_> = after.iter().filter(is_last).map(|row| row.state.as_str()).collect();
    assert_eq!(states, ["cancelled", "sealed"], "{after:#?}");
}

/// Starts a worker that others reach through a proxy, and returns its name. Its own control stream
/// goes another way.
fn worker_behind_a_proxy(cluster: &mut Cluster) -> (Role, String, Proxy) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::start(port.to_string()).unwrap();
    let worker = Role::start(&[
        "worker",
        "--coordinator",
        &cluster.processes.url,
        "--listen",
        &port.to_string(),
        "--advertise",
        proxy.address(),
        "--slots",
        "1",
        "--memory",
        "512MiB",
        "--exit-with-stdin",
    ]);
    let line = worker.line();
    let id = format!("w{}", line.split(' ').nth(1).unwrap().trim_start_matches('w'));
    cluster.add_worker(&line);
    (worker, id, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_with_its_dice_takes_along_what_was_made_of_them() {
    let (cluster, server) = (Cluster::start(4, 1, "").await, tables());
    // Every row of `facts` gets the one random value that tasks of `dims` have added up.
    let held = Held::start(&cluster, &server, ROLLED, "facts/part-6.csv").await;
    let reader = held.only_running().await;
    let attempts = held.cluster.attempts(&held.id).await;
    let is_alone = |row: &TaskRow| attempts.iter().filter(|it| it.stage == row.stage).count() == 1;
    let value = attempts.iter().find(|row| row.state == "sealed" && is_alone(row));
    let value = value.unwrap_or_else(|| panic!("{attempts:#?}"));
    // With the sum dies one of its terms, so that the next sum is another.
    let is_term = |row: &TaskRow| row.worker == value.worker && row.stage < value.stage;
    assert!(attempts.iter().any(is_term), "{attempts:#?}");
    let is_sealed = |row: &TaskRow| row.stage == reader.stage && row.state == "sealed";
    let has_read = |row: &&TaskRow| is_sealed(row) && row.worker != value.worker;
    let read: Vec<&TaskRow> = attempts.iter().filter(has_read).collect();
    assert!(!read.is_empty(), "{attempts:#?}");
    held.kill(&value.worker);
    held.wait_for_readers(2).await;
    let last = held.finish().await;
    for before in read {
        let is_again = |row: &TaskRow| {
            (&row.stage, row.partition) == (&before.stage, before.partition) && row.attempt > 0
        };
        assert!(last.iter().any(is_again), "{before:?} was not made again: {last:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_is_given_up_and_comes_back_as_another() {
    let (cluster, server) = (Cluster::start(4, 1, "").await, tables());
    let held = Held::start(&cluster, &server, GROUPED, "facts/part-5.csv").await;
    let victim = held.only_running().await;
    let process = held.cluster.worker(&victim.worker).clone();
    signal(process.pid, Signal::Stop).unwrap();
    held.wait_for_readers(2).await;
    let attempts = held.finish().await;
    only_those_on_ran_again(&attempts, &[&victim.worker]);
    signal(process.pid, Signal::Continue).unwrap();
    let lives =
        format!("SELECT state, incarnation FROM system.workers WHERE pid = {}", process.pid);
    cluster.wait_for(&lives, |rows| rows.iter().any(|row| row[0] == "live")).await;
    let answer = rows(&cluster.client, "SELECT count(*) FROM system.workers WHERE state = 'live'");
    assert_eq!(answer.await.unwrap(), [["4"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_during_the_recovery_of_another_is_recovered_too() {
    let (cluster, server) = (Cluster::start(4, 1, "").await, tables());
    let held = Held::start(&cluster, &server, JOINED, "facts/part-3.csv").await;
    let first = held.only_running().await.worker;
    held.kill(&first);
    held.wait_for_readers(2).await;
    let second = held.only_running().await.worker;
    assert_ne!(first, second);
    held.kill(&second);
    held.wait_for_readers(3).await;
    only_those_on_ran_again(&held.finish().await, &[&first, &second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_killed_in_a_row_are_recovered() {
    let (cluster, server) = (Cluster::start(4, 1, "").await, tables());
    let held = Held::start(&cluster, &server, JOINED, "facts/part-3.csv").await;
    let reader = held.only_running().await.worker;
    let attempts = held.cluster.attempts(&held.id).await;
    let others: BTreeSet<&str> =
        attempts.iter().map(|row| row.worker.as_str()).filter(|name| *name != reader).collect();
    let other = others.first().copied().unwrap_or_else(|| panic!("{attempts:#?}")).to_owned();
    held.kill(&reader);
    held.kill(&other);
    held.wait_for_readers(2).await;
    only_those_on_ran_again(&held.finish().await, &[&reader, &other]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_others_cannot_reach_is_given_up() {
    let mut cluster = Cluster::start(3, 1, "").await;
    let server = tables();
    let (_worker, id, proxy) = worker_behind_a_proxy(&mut cluster);
    let held = Held::start(&cluster, &server, JOINED, "dims/part-1.csv").await;
    held.only_running().await;
    let attempts = held.cluster.attempts(&held.id).await;
    let is_sealed_there = |row: &TaskRow| row.state == "sealed" && row.worker == id;
    assert!(attempts.iter().any(is_sealed_there), "{attempts:#?}");
    let life = format!("SELECT incarnation FROM system.workers WHERE id = '{id}'");
    let before = cluster.ask(&life).await;
    proxy.cut();
    only_those_on_ran_again(&held.finish().await, &[&id]);
    assert!(proxy.refused() > 0);
    // It was given up, and is back as another life: its control stream was never cut.
    cluster.wait_for(&life, |rows| rows.len() == 1 && rows != before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_worker_a_query_fails_after_the_bound() {
    let config = "[scheduler]\nno_worker_timeout = '2s'\n";
    let (cluster, server) = (Cluster::start(2, 1, config).await, tables());
    let held = Held::start(&cluster, &server, GROUPED, "facts/part-5.csv").await;
    for worker in &cluster.processes.workers {
        signal(worker.pid, Signal::Kill).unwrap();
    }
    let error = tokio::time::timeout(PATIENCE, held.answer).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.message(), "no live worker for 2s");
    assert!(error.is_retryable());
    assert!(error.hint().unwrap().contains("skep worker"), "{error:?}");
}
