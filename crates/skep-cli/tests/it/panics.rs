//! A task that panics on a worker: an error of its query, and of nothing else.

use datafusion::common::runtime::SpawnedTask;
use skep_client::Client;
use skep_engine::{Engine, EngineConfig};

use crate::cluster::{Cluster, PATIENCE, rows};
use crate::recovery::{preamble, tables};

/// A defect of DataFusion: it asks for room for as many centroids as it is told, in each group. Once
/// it does not any more, this says so, and another panic is to be found.
const PANICKING: &str = "SELECT name, approx_percentile_cont(k + 0.5, 0.5, 9223372036854775807) FROM dims GROUP BY name";

const RIGHT: &str = "SELECT count(*), sum(v) FROM facts WHERE k % 2 = 0";
const HELD: &str = "bucket/facts/part-3.csv";

async fn session(cluster: &Cluster, statements: &[String]) -> Client {
    let client = Client::connect(&cluster.processes.url).await.unwrap();
    for statement in statements {
        rows(&client, statement).await.unwrap();
    }
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_a_task_fails_its_query_and_nothing_else() {
    let (cluster, server) = (Cluster::start(2, 2, "").await, tables());
    let statements = preamble(&server);
    // In two partitions it is a task of DataFusion's own that panics.
    let config = EngineConfig { target_partitions: Some(2), ..EngineConfig::default() };
    let engine = Engine::open(config).await.unwrap().session();
    for statement in &statements {
        engine.execute(statement).await.unwrap().collect().await.unwrap();
    }
    let embedded = engine.execute(PANICKING).await.unwrap().collect().await.unwrap_err();
    let lives = "SELECT id, incarnation, pid, state FROM system.workers ORDER BY id";
    let before = cluster.ask(lives).await;
    assert_eq!(before.len(), 2);

    // Another query is under way on the same workers.
    let (bystander, asker) =
        (session(&cluster, &statements).await, session(&cluster, &statements).await);
    server.hold(HELD);
    let other = SpawnedTask::spawn(async move { rows(&bystander, RIGHT).await });
    let waiting = {
        let server = server.clone();
        tokio::task::spawn_blocking(move || server.wait_for_requests(HELD, 1, PATIENCE))
    };
    assert!(waiting.await.unwrap(), "the other query does not run");

    let error = rows(&asker, PANICKING).await.unwrap_err();
    assert_eq!(error.message(), embedded.to_string());
    assert_eq!(error.message(), "internal error: a panic: capacity overflow");
    assert_eq!(error.code().as_str(), "internal");
    assert!(!error.is_retryable());

    let id = cluster.query_id("approx_percentile_cont").await;
    let failed = format!(
        "SELECT DISTINCT state, error FROM system.tasks \
         WHERE query = '{id}' AND state = 'failed' AND worker <> 'coordinator'"
    );
    let failed = cluster.ask(&failed).await;
    assert!(failed.len() == 1 && failed[0][1].contains("capacity overflow"), "{failed:?}");
    let attempts = cluster.attempts(&id).await;
    assert!(
        attempts.iter().all(|row| row.attempt == 0),
        "a panic is not tried again: {attempts:?}"
    );
    let state = format!("SELECT state, error_code FROM system.queries WHERE query = '{id}'");
    assert_eq!(cluster.ask(&state).await, [["failed", "internal"]]);

    server.release(HELD);
    // The workers live on, as they were, and have nothing left of it.
    let answer = tokio::time::timeout(PATIENCE, other).await.unwrap().unwrap().unwrap();
    assert_eq!(answer, rows(&asker, RIGHT).await.unwrap());
    assert_eq!(cluster.ask(lives).await, before);
    let left = "SELECT sum(running), sum(stored_bytes), sum(memory_bytes) FROM system.workers";
    cluster.wait_for(left, |rows| rows[0] == ["0", "0", "0"]).await;
}
