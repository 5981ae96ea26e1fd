//! What a session sets is so in its tasks on workers: in this process, and in others.

use std::path::Path;

use skep_client::Client;
use skep_testkit::cluster::{ClusterShape, InProcess, MultiProcess};
use tempfile::TempDir;

use crate::cluster::rows;

/// Files that several tasks read.
fn write_files(directory: &Path) {
    std::fs::create_dir(directory).unwrap();
    for part in 0..4 {
        let lines = (0..1000).map(|row| format!("{},x\n", part * 1000 + row));
        let text = format!("k,t\n{}", lines.collect::<String>());
        std::fs::write(directory.join(format!("part-{part}.csv")), text).unwrap();
    }
}

fn shape(scratch: &TempDir) -> ClusterShape {
    let [data_dir, spill_dir] = ["data", "spill"].map(|name| scratch.path().join(name));
    for path in [&data_dir, &spill_dir] {
        std::fs::create_dir(path).unwrap();
    }
    ClusterShape {
        worker_count: 2,
        slot_count: 2,
        memory_limit: 512 << 20,
        partition_memory_limit: None,
        target_partitions: Some(4),
        data_dir,
        spill_dir,
        spreads_small: true,
        extra_config: String::new(),
        extra_arguments: Vec::new(),
    }
}

async fn told(client: &Client, statement: &str) -> Vec<Vec<String>> {
    rows(client, statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"))
}

/// Runs a query, and sees that tasks of it ran on workers and none on the coordinator but what puts
/// the result together.
async fn on_workers(client: &Client, query: &str, mark: &str) -> Vec<Vec<String>> {
    let answer = told(client, &format!("{query} /* {mark} */")).await;
    let places = format!(
        "SELECT count(*) FILTER (WHERE t.worker <> 'coordinator'), count(DISTINCT t.stage) \
         FROM system.tasks t JOIN system.queries q ON t.query = q.query \
         WHERE q.sql LIKE '%{mark}%' AND q.sql NOT LIKE '%system.%' AND t.state = 'sealed'"
    );
    let counts = told(client, &places).await;
    let count: usize = counts[0][0].parse().unwrap();
    assert!(count >= 4, "{query} ran on workers as {counts:?}");
    answer
}

/// Returns the sum of a figure of the operators of a query's stages on workers.
fn figure(analysis: &[Vec<String>], operator: &str, name: &str) -> u64 {
    let lines = analysis.iter().flat_map(|row| row[1].lines());
    let lines: Vec<_> = lines.filter(|line| line.contains(operator)).collect();
    let figures = lines.iter().filter_map(|line| {
        let rest = line.split(&format!("{name}=")).nth(1)?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse::<u64>().ok()
    });
    assert!(!lines.is_empty(), "no {operator} in {analysis:#?}");
    figures.sum()
}

async fn settings_reach_tasks(url: &str, files: &Path) {
    let client = Client::connect(url).await.unwrap();
    let table = format!(
        "CREATE EXTERNAL TABLE t (k BIGINT, t VARCHAR) STORED AS CSV LOCATION '{}/' \
         OPTIONS ('format.has_header' 'true')",
        files.display()
    );
    told(&client, &table).await;

    // The time zone: when a day begins.
    let begin = "SELECT DISTINCT CAST(date_part('epoch', to_timestamp(k * 86400)) AS BIGINT) % 86400 AS s \
                 FROM t WHERE k > 0";
    let at_utc = on_workers(&client, begin, "zone utc").await;
    told(&client, "SET datafusion.execution.time_zone = '+05:00'").await;
    let east = on_workers(&client, begin, "zone east").await;
    assert_eq!((at_utc, east), (vec![vec!["0".to_owned()]], vec![vec!["68400".to_owned()]]));

    // The size of batches: what a filter gives comes in as many as it takes.
    let filtered = "SELECT k % 7, count(*) FROM t WHERE k % 2 = 0 GROUP BY 1";
    let analyze = format!("EXPLAIN ANALYZE {filtered}");
    let large = on_workers(&client, &analyze, "batches large").await;
    told(&client, "SET datafusion.execution.batch_size = 10").await;
    let small = on_workers(&client, &analyze, "batches small").await;
    let batches = |analysis: &[Vec<String>]| figure(analysis, "FilterExec", "output_batches");
    let (large, small) = (batches(&large), batches(&small));
    assert!(large <= 16, "2,000 rows of 4 files in {large} batches");
    assert!(small >= 200, "2,000 rows in batches of 10 are {small}");
    told(&client, "RESET datafusion.execution.batch_size").await;

    // When a first grouping gives up: rows are passed on without it.
    let grouped = "EXPLAIN ANALYZE SELECT k, count(*) FROM t GROUP BY k";
    let skipped = |analysis: &[Vec<String>]| {
        figure(analysis, "AggregateExec: mode=Partial", "skipped_aggregation_rows")
    };
    let none = skipped(&on_workers(&client, grouped, "groups kept").await);
    let prefix = "datafusion.execution.skip_partial_aggregation_probe";
    told(&client, &format!("SET {prefix}_rows_threshold = 1")).await;
    told(&client, &format!("SET {prefix}_ratio_threshold = 0.0")).await;
    told(&client, "SET datafusion.execution.batch_size = 100").await;
    let some = skipped(&on_workers(&client, grouped, "groups skipped").await);
    assert_eq!(none, 0);
    assert!(some > 0, "no rows were passed on");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_reach_tasks_of_workers_in_this_process() {
    let scratch = tempfile::tempdir().unwrap();
    let files = scratch.path().join("t");
    write_files(&files);
    let cluster = InProcess::start(&shape(&scratch)).await.unwrap();
    settings_reach_tasks(&cluster.url(), &files).await;
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_reach_tasks_of_workers_in_other_processes() {
    let scratch = tempfile::tempdir().unwrap();
    let files = scratch.path().join("t");
    write_files(&files);
    let cluster =
        MultiProcess::start(Path::new(env!("CARGO_BIN_EXE_skep")), &shape(&scratch)).unwrap();
    settings_reach_tasks(&cluster.url, &files).await;
}
