//! What the system tables say of work that was done.

use skep_client::Client;

use crate::cluster::{Cluster, rows};
use crate::recovery::{preamble, tables};

/// Each task of the second stage reads from all of the first.
const GROUPED: &str = "SELECT v, count(*), max(w) FROM facts GROUP BY v /* figures */";

#[tokio::test(flavor = "multi_thread")]
async fn tasks_read_as_many_bytes_as_others_wrote_wherever_those_lie() {
    let (cluster, server) = (Cluster::start(3, 1, "").await, tables());
    let client = Client::connect(&cluster.processes.url).await.unwrap();
    for statement in &preamble(&server) {
        rows(&client, statement).await.unwrap();
    }
    assert_eq!(rows(&client, GROUPED).await.unwrap().len(), 16_000);
    let id = cluster.query_id("figures").await;
    let stages = cluster
        .ask(&format!(
            "SELECT count(DISTINCT worker), sum(input_bytes), sum(output_bytes) FROM system.tasks \
             WHERE query = '{id}' AND worker <> 'coordinator' GROUP BY stage ORDER BY stage"
        ))
        .await;
    let number = |stage: usize, column: usize| stages[stage][column].parse::<u64>().unwrap();
    assert_eq!(stages.len(), 2, "{stages:?}");
    // So most of what is read comes from another process.
    assert!((0..2).all(|stage| number(stage, 0) > 1), "{stages:?}");
    let (written, read) = (number(0, 2), number(1, 1));
    // Whether there is a bitmap for NULLs that are not there may change on the way.
    assert!((written * 9 / 10..=written * 11 / 10).contains(&read), "{stages:?}");
}
