//! Cached tables on a cluster of processes: where their partitions are, and what the loss of a worker
//! costs.
//!
//! The tables lie on a server that can hold a file back: who reads a held file waits, so a query that
//! answers has read none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use datafusion::common::runtime::{JoinSet, SpawnedTask};
use skep_client::Client;
use skep_testkit::cluster::{Signal, signal};
use skep_testkit::object_server::ObjectServer;

use crate::cluster::{Cluster, PATIENCE, rows};
use crate::recovery::{Held, embedded_answer, preamble, tables};
use crate::role::{Role, word};

const GROUPED: &str = "SELECT k, count(*), sum(v) FROM facts GROUP BY k";
const JOINED: &str = "SELECT count(*), sum(f.v) FROM facts f JOIN dims d ON f.k = d.k";
const NAMED: &str = "SELECT d.name, count(*), sum(f.v) FROM facts f JOIN dims d ON f.k = d.k \
                     GROUP BY d.name";

/// Returns a session that has the tables and has said these statements.
async fn session(cluster: &Cluster, server: &ObjectServer, statements: &[&str]) -> Client {
    let client = Client::connect(&cluster.processes.url).await.unwrap();
    for statement in preamble(server) {
        rows(&client, &statement).await.unwrap();
    }
    for statement in statements {
        rows(&client, statement).await.unwrap();
    }
    client
}

fn hold_facts(server: &ObjectServer) {
    for part in 0..8 {
        server.hold(&format!("bucket/facts/part-{part}.csv"));
    }
}

fn release_facts(server: &ObjectServer) {
    for part in 0..8 {
        server.release(&format!("bucket/facts/part-{part}.csv"));
    }
}

/// Asserts that a session answers as the embedded engine does; returns the id of the query.
async fn answers(cluster: &Cluster, client: &Client, server: &ObjectServer, query: &str) -> String {
    // The engine that is compared with reads the files.
    let mut expected = embedded_answer(&preamble(server), query).await;
    check(cluster, client, query, &mut expected).await
}

async fn check(
    cluster: &Cluster,
    client: &Client,
    query: &str,
    expected: &mut Vec<Vec<String>>,
) -> String {
    let count = cluster.ask("SELECT count(*) FROM system.queries").await;
    let mark = format!("checked number {} here", count[0][0]);
    let query = format!("{query} /* {mark} */");
    let answering = tokio::time::timeout(PATIENCE, rows(client, &query));
    let mut answer = answering.await.unwrap().unwrap();
    answer.sort_unstable();
    expected.sort_unstable();
    assert!(answer == *expected, "{answer:#?}\n{expected:#?}");
    cluster.query_id(&mark).await
}

/// Returns one figure of a cached table.
async fn figure(client: &Client, table: &str, column: &str) -> String {
    let query = format!("SELECT {column} FROM system.cached_tables WHERE table_name = '{table}'");
    rows(client, &query).await.unwrap().remove(0).remove(0)
}

async fn wait_until_lost(cluster: &Cluster, worker: &str) {
    let lost = format!("SELECT state FROM system.workers WHERE id = '{worker}'");
    cluster.wait_for(&lost, |rows| rows.iter().all(|row| row[0] == "lost")).await;
}

/// Waits until somebody wants the bytes of a held file.
async fn wait_for_reader(server: &ObjectServer, file: &str) {
    let (server, file) = (server.clone(), file.to_owned());
    let waiting = tokio::task::spawn_blocking(move || server.wait_for_requests(&file, 1, PATIENCE));
    assert!(waiting.await.unwrap());
}

/// Runs a statement, which must not wait for anything that is held.
async fn at_once(client: &Client, statement: &str) -> Vec<Vec<String>> {
    tokio::time::timeout(PATIENCE, rows(client, statement)).await.unwrap().unwrap()
}

/// Waits until the workers keep nothing.
async fn wait_until_empty(cluster: &Cluster) {
    let stored = "SELECT count(*) FROM system.workers WHERE stored_bytes > 0";
    cluster.wait_for(stored, |rows| rows == [["0"]]).await;
}

/// Asserts that all that a query read of cached tables was where it ran, and how often it did.
async fn all_is_local(cluster: &Cluster, query: &str, count: usize) {
    let tasks = format!(
        "SELECT worker, locality, remote_bytes FROM system.tasks \
         WHERE query = '{query}' AND locality IS NOT NULL"
    );
    let tasks = cluster.ask(&tasks).await;
    assert_eq!(tasks.len(), count, "{tasks:?}");
    assert!(tasks.iter().all(|row| row[1] == "local" && row[2] == "0"), "{tasks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_table_is_spread_over_the_workers_and_read_where_it_lies() {
    let (cluster, server) = (Cluster::start(4, 1, "").await, tables());
    let client = session(&cluster, &server, &["CACHE TABLE facts"]).await;
    let shown = "partitions || ' ' || cached_partitions || ' ' || row_count || ' ' || worker";
    assert_eq!(figure(&client, "facts", shown).await, "4 4 16000 w1, w2, w3, w4");
    assert_eq!(figure(&client, "facts", "memory_bytes > 0 AND disk_bytes = 0").await, "true");
    let stored = "SELECT count(*) FROM system.workers WHERE stored_bytes > 0";
    cluster.wait_for(stored, |rows| rows == [["4"]]).await;
    let mut expected = embedded_answer(&preamble(&server), GROUPED).await;
    hold_facts(&server);
    for _again in 0..3 {
        let id = check(&cluster, &client, GROUPED, &mut expected).await;
        all_is_local(&cluster, &id, 4).await;
    }
    assert_eq!(figure(&client, "facts", "hits || ' ' || misses || ' ' || rebuilt").await, "12 0 0");
    rows(&client, "UNCACHE TABLE facts").await.unwrap();
    wait_until_empty(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_reads_all_that_its_worker_keeps_in_one_task() {
    let by_group = "SELECT k, count(*), max(w) FROM facts GROUP BY k";
    let both = "SELECT count(*), sum(w) FROM (SELECT w FROM facts WHERE k < 50 \
                UNION ALL SELECT w FROM facts)";
    for (workers, slots) in [(4, 1), (2, 2)] {
        let (cluster, server) = (Cluster::start(workers, slots, "").await, tables());
        let cached = ["CACHE TABLE facts CLUSTER BY (v) INTO 20 PARTITIONS"];
        let client = session(&cluster, &server, &cached).await;
        let count = "cached_partitions || ' ' || partitions";
        assert_eq!(figure(&client, "facts", count).await, "20 20");
        let plan = rows(&client, &format!("EXPLAIN DISTRIBUTED {by_group}")).await.unwrap();
        assert!(format!("{plan:?}").contains("partitions=20 in 4 tasks"), "{plan:?}");
        let mut expected = embedded_answer(&preamble(&server), by_group).await;
        let mut expected_union = embedded_answer(&preamble(&server), both).await;
        hold_facts(&server);
        for _again in 0..3 {
            let id = check(&cluster, &client, by_group, &mut expected).await;
            all_is_local(&cluster, &id, 4).await;
        }
        // Each side of a union is read where it lies, too.
        let id = check(&cluster, &client, both, &mut expected_union).await;
        all_is_local(&cluster, &id, 8).await;
        // Where the numbers of partitions mean something each is a task.
        let plan = rows(&client, "EXPLAIN DISTRIBUTED SELECT v, count(*) FROM facts GROUP BY v");
        let plan = format!("{:?}", plan.await.unwrap());
        assert!(plan.contains("partitions=20, ") && !plan.contains("shuffle"), "{plan}");
        release_facts(&server);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_wants_nothing_of_is_not_made_again() {
    let (cluster, server) = (Cluster::start(4, 1, "").await, tables());
    let client = session(&cluster, &server, &["CACHE TABLE facts"]).await;
    // Of the first file alone.
    let query = "SELECT k, count(*), sum(v) FROM facts WHERE v < 1500 GROUP BY k";
    let mut expected = embedded_answer(&preamble(&server), query).await;
    let id = check(&cluster, &client, query, &mut expected).await;
    all_is_local(&cluster, &id, 1).await;
    let readers =
        format!("SELECT worker FROM system.tasks WHERE query = '{id}' AND locality IS NOT NULL");
    let keeper = cluster.ask(&readers).await.remove(0).remove(0);
    let other = ["w1", "w2"].into_iter().find(|worker| *worker != keeper).unwrap();
    signal(cluster.worker(other).pid, Signal::Kill).unwrap();
    wait_until_lost(&cluster, other).await;
    hold_facts(&server);
    let id = check(&cluster, &client, query, &mut expected).await;
    all_is_local(&cluster, &id, 1).await;
    let shown = "cached_partitions || ' ' || rebuilt";
    assert_eq!(figure(&client, "facts", shown).await, "3 0");
    release_facts(&server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_comes_gets_a_share_of_what_is_cached_from_then_on() {
    let (mut cluster, server) = (Cluster::start(2, 1, "").await, tables());
    let client = session(&cluster, &server, &["CACHE TABLE facts"]).await;
    assert_eq!(figure(&client, "facts", "partitions || ' ' || worker").await, "2 w1, w2");
    let url = cluster.processes.url.clone();
    let newcomer =
        Role::start(&["worker", "--coordinator", &url, "--slots", "1", "--exit-with-stdin"]);
    cluster.add_worker(&newcomer.line());
    let live = "SELECT count(*) FROM system.workers WHERE state = 'live'";
    cluster.wait_for(live, |rows| rows == [["3"]]).await;
    rows(&client, "CACHE TABLE dims").await.unwrap();
    rows(&client, "REFRESH TABLE facts").await.unwrap();
    let shown = "cached_partitions || ' ' || worker";
    assert_eq!(figure(&client, "facts", shown).await, "3 w1, w2, w3");
    // Two partitions, for its four files are not cut.
    assert_eq!(figure(&client, "dims", "worker LIKE '%w3%'").await, "true");
    let mut expected = embedded_answer(&preamble(&server), GROUPED).await;
    hold_facts(&server);
    let id = check(&cluster, &client, GROUPED, &mut expected).await;
    all_is_local(&cluster, &id, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_clustered_alike_join_with_no_bytes_exchanged() {
    let (cluster, server) = (Cluster::start(4, 1, "").await, tables());
    let cached = ["CACHE TABLE facts CLUSTER BY (k)", "CACHE TABLE dims CLUSTER BY (k)"];
    let client = session(&cluster, &server, &cached).await;
    let plan = rows(&client, &format!("EXPLAIN DISTRIBUTED {JOINED}")).await.unwrap();
    let plan = format!("{plan:?}");
    assert!(plan.contains("CacheScanExec") && !plan.contains("shuffle"), "{plan}");
    assert!(!plan.contains("RepartitionExec"), "{plan}");
    let id = answers(&cluster, &client, &server, JOINED).await;
    all_is_local(&cluster, &id, 4).await;
    // What comes from elsewhere is a row from each, to be added up.
    let exchanged = format!(
        "SELECT count(*), sum(rows) FROM system.tasks WHERE query = '{id}' AND locality IS NULL \
         AND state = 'sealed' AND worker <> 'coordinator'"
    );
    assert_eq!(cluster.ask(&exchanged).await, [["1", "1"]]);
    let id = answers(&cluster, &client, &server, GROUPED).await;
    all_is_local(&cluster, &id, 4).await;
    // Each group is made in one task: nothing else ran, and nothing went from worker to worker.
    let all = format!(
        "SELECT count(*), count(DISTINCT stage), sum(rows), sum(remote_bytes) FROM system.tasks \
         WHERE query = '{id}' AND state = 'sealed' AND attempt IS NOT NULL \
         AND worker <> 'coordinator'"
    );
    let all = cluster.ask(&all).await;
    assert_eq!(all[0][..3], ["4", "1", "97"], "{all:?}");
    assert!(["0", "NULL"].contains(&all[0][3].as_str()), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_a_table_is_loaded_is_seen() {
    let (cluster, server) = (Cluster::start(2, 2, "").await, tables());
    let make = "CREATE TABLE extra AS SELECT 1 AS k, 2 AS v";
    let (client, other) =
        (session(&cluster, &server, &[make]).await, session(&cluster, &server, &[]).await);
    let cache = "CACHE TABLE whole AS \
                 SELECT k, v FROM facts UNION ALL SELECT k, v FROM extra";
    let file = "bucket/facts/part-0.csv";
    for (round, statement) in [cache, "REFRESH TABLE whole"].into_iter().enumerate() {
        server.hold(file);
        let loading = {
            let client = client.clone();
            SpawnedTask::spawn(async move { rows(&client, statement).await })
        };
        wait_for_reader(&server, file).await;
        at_once(&other, "INSERT INTO extra VALUES (1, 2)").await;
        server.release(file);
        tokio::time::timeout(PATIENCE, loading).await.unwrap().unwrap().unwrap();
        let seen = at_once(&client, "SELECT count(*) FROM whole").await;
        assert_eq!(seen, [[(16_002 + round).to_string()]], "{statement}");
    }
    rows(&client, "UNCACHE TABLE whole").await.unwrap();
    // What is taken out while it is loaded does not come.
    server.hold(file);
    let loading = {
        let client = client.clone();
        let cache = cache.replace("TABLE whole", "TABLE again");
        SpawnedTask::spawn(async move { rows(&client, &cache).await })
    };
    wait_for_reader(&server, file).await;
    at_once(&other, "DROP TABLE extra").await;
    server.release(file);
    // It may miss the file that is gone.
    drop(tokio::time::timeout(PATIENCE, loading).await.unwrap());
    let none = at_once(&client, "SELECT count(*) FROM system.cached_tables").await;
    assert_eq!(none, [["0"]]);
    wait_until_empty(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_keeps_the_partitions_that_it_was_planned_with() {
    for statement in ["UNCACHE TABLE facts", "REFRESH TABLE facts", "CLEAR CACHE"] {
        let (cluster, server) = (Cluster::start(4, 1, "").await, tables());
        let client = session(&cluster, &server, &["CACHE TABLE facts"]).await;
        let held =
            Held::start_in(client.clone(), &cluster, &server, NAMED, "dims/part-1.csv").await;
        // They cannot be made again as they were.
        for part in 0..8 {
            let text = b"k,v,w\n1,2,3\n".to_vec();
            server.put(&format!("bucket/facts/part-{part}.csv"), text);
        }
        at_once(&client, statement).await;
        held.finish().await;
        let count = at_once(&client, "SELECT count(*) FROM facts").await;
        assert_eq!(count, [["8"]], "{statement}");
        at_once(&client, "CLEAR CACHE").await;
        wait_until_empty(&cluster).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_misses_rows_that_were_put_in_before() {
    let cluster = Cluster::start(2, 2, "").await;
    let client = Client::connect(&cluster.processes.url).await.unwrap();
    rows(&client, "CREATE TABLE t AS SELECT 0 AS a, 0 AS g").await.unwrap();
    rows(&client, "CREATE VIEW v AS SELECT g, count(*) AS n FROM t GROUP BY g").await.unwrap();
    let (begun, ended) = (Arc::new(AtomicUsize::new(1)), Arc::new(AtomicUsize::new(1)));
    let mut sessions = JoinSet::new();
    for number in 0..3_usize {
        let url = cluster.processes.url.clone();
        let (begun, ended) = (Arc::clone(&begun), Arc::clone(&ended));
        sessions.spawn(async move {
            let client = Client::connect(&url).await.unwrap();
            for round in 0..10_usize {
                let statement = match (number * 3 + round) % 10 {
                    0 => "CACHE TABLE v",
                    1 => "CACHE TABLE t",
                    2 => "CACHE TABLE t CLUSTER BY (a) INTO 2 PARTITIONS",
                    5 => "REFRESH TABLE t",
                    7 => "UNCACHE TABLE IF EXISTS t",
                    8 => "CLEAR CACHE",
                    _ => "INSERT INTO t VALUES (1, 0)",
                };
                let is_insert = usize::from(statement.starts_with("INSERT"));
                begun.fetch_add(is_insert, Ordering::SeqCst);
                at_once(&client, statement).await;
                ended.fetch_add(is_insert, Ordering::SeqCst);
                for query in ["SELECT count(*) FROM t", "SELECT sum(n) FROM v"] {
                    let least = ended.load(Ordering::SeqCst);
                    let seen: usize = at_once(&client, query).await[0][0].parse().unwrap();
                    let most = begun.load(Ordering::SeqCst);
                    assert!((least..=most).contains(&seen), "{least} <= {seen} <= {most}: {query}");
                }
            }
        });
    }
    while let Some(outcome) = sessions.join_next().await {
        outcome.unwrap();
    }
    at_once(&client, "CLEAR CACHE").await;
    wait_until_empty(&cluster).await;
}

/// Queries over a table, of each kind that reads it otherwise.
const SHAPES: [&str; 8] = [
    "SELECT count(*) FROM t",
    "SELECT count(*), min(s) FROM t WHERE a % 3 = 0 AND b > 500000",
    "SELECT s, a FROM t WHERE a BETWEEN 100 AND 30110 AND s > 'f8' ORDER BY s",
    "SELECT a FROM t ORDER BY b DESC LIMIT 5",
    "SELECT count(*), sum(l.b), max(r.s) FROM t AS l JOIN t AS r ON l.a = r.b",
    "SELECT count(*) FROM t AS l LEFT JOIN t AS r ON l.b = r.a WHERE r.a IS NULL",
    "SELECT a FROM t WHERE a < 10 UNION ALL SELECT b FROM t WHERE b < 100 ORDER BY a",
    "SELECT a % 7, count(*), max(s) FROM t WHERE a > 40000 GROUP BY a % 7 ORDER BY 1",
];

#[tokio::test(flavor = "multi_thread")]
async fn workers_with_little_room_keep_what_they_can_and_answer_right() {
    let cluster = Cluster::start_with(2, 2, "", Some(512 << 10)).await;
    let client = Client::connect(&cluster.processes.url).await.unwrap();
    let make = "CREATE TABLE t AS SELECT value AS a, (value * 7919) % 1000003 AS b, \
                md5(CAST(value AS VARCHAR)) AS s FROM generate_series(1, 60000) AS v(value)";
    rows(&client, make).await.unwrap();
    rows(&client, "SET datafusion.optimizer.repartition_file_min_size = 1").await.unwrap();
    let query = "SELECT count(*), sum(a), sum(b), max(s), count(DISTINCT s) FROM t";
    let expected = rows(&client, query).await.unwrap();
    let mut of_files = Vec::new();
    for query in SHAPES {
        of_files.push(rows(&client, query).await.unwrap());
    }
    // Each small enough that some find room, whoever comes first.
    rows(&client, "SET datafusion.execution.target_partitions = 16").await.unwrap();
    // In memory alone some is refused, and passes through; offered again later, it is refused again.
    rows(&client, "CACHE TABLE t OPTIONS ('storageLevel' 'MEMORY_ONLY')").await.unwrap();
    for _again in 0..10 {
        assert_eq!(at_once(&client, query).await, expected);
    }
    let is_short = "cached_partitions < partitions AND misses > 0 AND disk_bytes = 0";
    assert_eq!(figure(&client, "t", is_short).await, "true");
    // What is refused is read from its files, and the rest from where it is kept.
    let plan = rows(&client, &format!("EXPLAIN DISTRIBUTED {query}")).await.unwrap();
    let plan = plan.concat().join("\n");
    for part in ["UnionExec", "CacheScanExec: table=t", "DataSourceExec"] {
        assert!(plan.contains(part), "{plan}");
    }
    let short = "EXPLAIN DISTRIBUTED SELECT count(s) FROM t WHERE a < 100 AND b % 3 = 1";
    let plan = rows(&client, short).await.unwrap().concat().join("\n");
    assert!(plan.contains("projection=[a, b, s]"), "{plan}");
    for (query, expected) in SHAPES.iter().zip(of_files) {
        assert_eq!(at_once(&client, query).await, expected, "{query}");
    }
    rows(&client, "CLEAR CACHE").await.unwrap();
    // On disk there is room for all of it.
    rows(&client, "CACHE TABLE t").await.unwrap();
    for _again in 0..3 {
        assert_eq!(at_once(&client, query).await, expected);
    }
    let is_whole = "cached_partitions = partitions AND misses = 0 AND rebuilt = 0";
    assert_eq!(figure(&client, "t", is_whole).await, "true");
    let on_disk = "SELECT disk_bytes > 0 FROM system.cached_tables WHERE table_name = 't'";
    cluster.wait_for(on_disk, |rows| rows == [["true"]]).await;
    assert!(!cluster.spill_files().is_empty());
    rows(&client, "CLEAR CACHE").await.unwrap();
    wait_until_empty(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_read_in_place_of_refused_rows_must_be_as_they_were() {
    let cluster = Cluster::start_with(2, 1, "", Some(128 << 10)).await;
    let client = Client::connect(&cluster.processes.url).await.unwrap();
    let files = tempfile::tempdir().unwrap();
    let path = |part: usize| files.path().join(format!("part-{part}.csv"));
    let text = |part: usize| {
        let rows = (0..4000).map(|row| format!("{row},{:x}\n", (row * 7919 + part) * 104_729));
        format!("a,s\n{}", rows.collect::<String>())
    };
    for part in 0..6 {
        std::fs::write(path(part), text(part)).unwrap();
    }
    let make = format!(
        "CREATE EXTERNAL TABLE t (a INT, s VARCHAR) STORED AS CSV LOCATION '{}/' \
         OPTIONS ('format.has_header' 'true')",
        files.path().display()
    );
    rows(&client, &make).await.unwrap();
    let query = "SELECT count(*), sum(a), max(s) FROM t";
    let expected = rows(&client, query).await.unwrap();
    rows(&client, "CACHE TABLE t OPTIONS ('storageLevel' 'MEMORY_ONLY')").await.unwrap();
    for _again in 0..3 {
        assert_eq!(at_once(&client, query).await, expected);
    }
    assert_eq!(figure(&client, "t", "cached_partitions < partitions").await, "true");
    for part in 0..6 {
        std::fs::write(path(part), text(part + 1) + "1,one\n").unwrap();
    }
    let failed = rows(&client, query).await.unwrap_err().to_string();
    assert!(failed.contains("it has changed since table \"t\" was cached"), "{failed}");
    rows(&client, "REFRESH TABLE t").await.unwrap();
    let count = at_once(&client, "SELECT count(*) FROM t").await;
    assert_eq!(count, [["24006"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_query_after_a_loss_makes_again_what_that_worker_kept_and_no_more() {
    for clustering in ["", " CLUSTER BY (k)"] {
        let (cluster, server) = (Cluster::start(4, 1, "").await, tables());
        let statement = format!("CACHE TABLE facts{clustering}");
        let client = session(&cluster, &server, &[statement.as_str()]).await;
        answers(&cluster, &client, &server, GROUPED).await;
        signal(cluster.worker("w2").pid, Signal::Kill).unwrap();
        wait_until_lost(&cluster, "w2").await;
        assert_eq!(figure(&client, "facts", "cached_partitions").await, "3");
        let id = answers(&cluster, &client, &server, GROUPED).await;
        let shown = "cached_partitions || ' ' || rebuilt || ' ' || worker";
        assert_eq!(figure(&client, "facts", shown).await, "4 1 w1, w3, w4");
        // What was made: of a narrow table one partition from its own files.
        let attempts = cluster.attempts(&id).await;
        let mut stages = BTreeMap::<&str, usize>::new();
        for attempt in &attempts {
            *stages.entry(&attempt.stage).or_default() += 1;
        }
        let made = stages.values().next();
        match clustering.is_empty() {
            true => assert_eq!(made, Some(&1), "{attempts:#?}"),
            false => assert_eq!(stages.get("s1"), Some(&1), "{attempts:#?}"),
        }
        // And the one after that finds all of it.
        let mut expected = embedded_answer(&preamble(&server), GROUPED).await;
        hold_facts(&server);
        check(&cluster, &client, GROUPED, &mut expected).await;
        release_facts(&server);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_runs_when_a_keeper_dies_answers_right() {
    for clustering in ["", " CLUSTER BY (k)"] {
        let (cluster, server) = (Cluster::start(4, 1, "").await, tables());
        let statement = format!("CACHE TABLE facts{clustering}");
        let client = session(&cluster, &server, &[statement.as_str()]).await;
        let held =
            Held::start_in(client.clone(), &cluster, &server, NAMED, "dims/part-1.csv").await;
        let reader = held.only_running().await;
        let victim = cluster
            .processes
            .workers
            .iter()
            .find(|worker| cluster.worker(&reader.worker).pid != worker.pid);
        let victim = format!("w{}", victim.unwrap().id.trim_start_matches('w'));
        held.kill(&victim);
        wait_until_lost(&cluster, &victim).await;
        held.finish().await;
        // Nobody has asked for it since: the query itself had made again what was lost.
        let rebuilt = figure(&client, "facts", "rebuilt >= 1 AND cached_partitions = 4").await;
        assert_eq!(rebuilt, "true", "{clustering}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changed_is_named_when_a_partition_is_made_again() {
    let (cluster, server) = (Cluster::start(2, 1, "").await, tables());
    let client = session(&cluster, &server, &["CACHE TABLE facts"]).await;
    let mut expected = embedded_answer(&preamble(&server), GROUPED).await;
    for part in 0..8 {
        server.put(&format!("bucket/facts/part-{part}.csv"), b"k,v,w\n1,2,3\n".to_vec());
    }
    // As it was cached.
    check(&cluster, &client, GROUPED, &mut expected).await;
    signal(cluster.worker("w1").pid, Signal::Kill).unwrap();
    wait_until_lost(&cluster, "w1").await;
    let error = rows(&client, GROUPED).await.unwrap_err();
    assert!(error.message().contains("has changed since table \"facts\" was cached"), "{error:?}");
    assert!(error.hint().unwrap().contains("REFRESH TABLE facts"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_lie_on_different_workers_and_one_is_enough() {
    let (cluster, server) = (Cluster::start(3, 1, "").await, tables());
    let statement = "CACHE TABLE facts OPTIONS ('storageLevel' 'MEMORY_ONLY_2')";
    let client = session(&cluster, &server, &[statement]).await;
    let mut expected = embedded_answer(&preamble(&server), GROUPED).await;
    hold_facts(&server);
    signal(cluster.worker("w3").pid, Signal::Kill).unwrap();
    wait_until_lost(&cluster, "w3").await;
    assert_eq!(figure(&client, "facts", "cached_partitions").await, "3");
    check(&cluster, &client, GROUPED, &mut expected).await;
    assert_eq!(figure(&client, "facts", "rebuilt").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_lost_is_made_again_of_the_one_that_is_left() {
    let (cluster, server) = (Cluster::start(3, 1, "").await, tables());
    let statement = "CACHE TABLE facts OPTIONS ('storageLevel' 'MEMORY_ONLY_2')";
    let client = session(&cluster, &server, &[statement]).await;
    let shown = "copies || ' ' || cached_partitions || ' ' || worker";
    assert_eq!(figure(&client, "facts", shown).await, "2 3 w1, w2, w3");
    let mut expected = embedded_answer(&preamble(&server), GROUPED).await;
    // Nothing is read from files for it.
    hold_facts(&server);
    signal(cluster.worker("w3").pid, Signal::Kill).unwrap();
    let copies = "SELECT copies, worker FROM system.cached_tables WHERE table_name = 'facts'";
    wait_for(&client, copies, &["2", "w1, w2"]).await;
    // So each of the two has all of it.
    signal(cluster.worker("w2").pid, Signal::Kill).unwrap();
    wait_until_lost(&cluster, "w2").await;
    check(&cluster, &client, GROUPED, &mut expected).await;
    assert_eq!(figure(&client, "facts", shown).await, "1 3 w1");
    // Whoever comes is one for it.
    let _newcomer = Role::worker(&cluster.processes.url, &[]);
    let copies = "SELECT copies FROM system.cached_tables WHERE table_name = 'facts'";
    wait_for(&client, copies, &["2"]).await;
    signal(cluster.worker("w1").pid, Signal::Kill).unwrap();
    wait_until_lost(&cluster, "w1").await;
    check(&cluster, &client, GROUPED, &mut expected).await;
    assert_eq!(figure(&client, "facts", "rebuilt").await, "0");
    rows(&client, "UNCACHE TABLE facts").await.unwrap();
    let stored = "SELECT sum(stored_bytes) FROM system.workers WHERE state = 'live'";
    cluster.wait_for(stored, |rows| rows == [["0"]]).await;
}

/// Starts a coordinator with a data directory, at an address.
fn coordinator(data_dir: &str, listen: &str) -> (Role, String) {
    let config = format!("{data_dir}/coordinator.toml");
    std::fs::write(&config, "[planner]\nsmall_query_bytes = 1\nmin_scan_bytes_per_task = 1024\n")
        .unwrap();
    let role = Role::start(&[
        "coordinator",
        "--listen",
        listen,
        "--http",
        "127.0.0.1:0",
        "--data-dir",
        data_dir,
        "--config",
        &config,
        "--exit-with-stdin",
    ]);
    let url = word(&role.line(), "grpc").to_owned();
    (role, url)
}

/// Asks until the answer is as wanted.
async fn wait_for(client: &Client, query: &str, wanted: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = rows(client, query).await.unwrap();
        if answer.len() == 1 && answer[0] == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{query} still answers {answer:?}, not {wanted:?}");
    }
}

/// Answers after both workers have said how they are, from beginning to end after now.
async fn settled(client: &Client, query: &str) -> String {
    let beats = "SELECT last_heartbeat FROM system.workers WHERE state = 'live' ORDER BY id";
    for _ in 0..2 {
        let before = rows(client, beats).await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = rows(client, beats).await.unwrap();
            if now.iter().zip(&before).all(|(now, before)| now != before) {
                break;
            }
            assert!(Instant::now() < deadline, "{now:?}");
        }
    }
    rows(client, query).await.unwrap().remove(0).remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_started_again_finds_what_its_workers_keep() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().to_str().unwrap();
    let (mut first, url) = coordinator(data_dir, "127.0.0.1:0");
    let worker = || {
        let memory = ["--slots", "1", "--memory", "256MiB", "--exit-with-stdin"];
        let worker = Role::start(&[&["worker", "--coordinator", &url][..], &memory].concat());
        assert!(worker.line().starts_with("worker "));
        worker
    };
    let _workers = [worker(), worker()];
    let client = Client::connect(&url).await.unwrap();
    let make = "CREATE TABLE t AS SELECT value AS a, value % 7 AS g \
                FROM generate_series(1, 100000) AS v(value)";
    for statement in [make, "CACHE TABLE t CLUSTER BY (g) INTO 4 PARTITIONS"] {
        rows(&client, statement).await.unwrap();
    }
    let stored = "SELECT sum(stored_bytes) FROM system.workers WHERE state = 'live'";
    let spread = "SELECT count(*) FROM system.workers WHERE stored_bytes > 0";
    wait_for(&client, spread, &["2"]).await;
    let kept = settled(&client, stored).await;
    // This one is the session's own, and nobody's after it.
    rows(&client, "CACHE TABLE u CLUSTER BY (g) AS SELECT g, a + 1 AS b FROM t").await.unwrap();
    let expected = rows(&client, "SELECT g, sum(a) FROM t GROUP BY g ORDER BY g").await.unwrap();
    first.signal(pty::process::Signal::Kill);
    first.wait();
    let address = url.split("//").nth(1).unwrap();
    let (_second, again) = coordinator(data_dir, address);
    assert_eq!(again, url);
    let client = Client::connect(&url).await.unwrap();
    let found = "SELECT table_name, cached_partitions, rebuilt FROM system.cached_tables";
    wait_for(&client, found, &["t", "4", "0"]).await;
    let query = "SELECT g, sum(a) FROM t GROUP BY g ORDER BY g";
    assert_eq!(rows(&client, query).await.unwrap(), expected);
    let figures = "SELECT hits, misses, rebuilt, row_count FROM system.cached_tables";
    assert_eq!(rows(&client, figures).await.unwrap(), [["4", "0", "0", "100000"]]);
    wait_for(&client, stored, &[&kept]).await;
}
