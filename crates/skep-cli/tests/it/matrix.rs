//! TPC-H on clusters of many shapes: each answer is the embedded engine's, in its order.

use std::path::Path;

use skep_client::Client;
use skep_engine::{Engine, EngineConfig};
use skep_testkit::cluster::{ClusterShape, InProcess};
use skep_testkit::render;
use skep_testkit::tpch::{DataSet, QUERY_COUNT, TABLES, query};
use tokio::runtime::{Builder, Runtime};

use crate::cluster::rows;

type Rows = Vec<Vec<String>>;

/// Large enough for several row groups to be worth cutting, small enough for every run.
const DATA: DataSet = DataSet { scale: 0.1, ..DataSet::SMALL };

/// A shape of the matrix.
#[derive(Debug, Clone, Copy)]
struct Leg {
    workers: usize,
    slots: usize,
    partitions: usize,
    /// Bytes of partitions that a worker keeps in memory, if exchanges are to spill.
    partition_memory_limit: Option<usize>,
}

const LEGS: [Leg; 6] = [
    Leg { workers: 1, slots: 1, partitions: 1, partition_memory_limit: None },
    Leg { workers: 2, slots: 1, partitions: 3, partition_memory_limit: None },
    Leg { workers: 5, slots: 1, partitions: 16, partition_memory_limit: None },
    Leg { workers: 2, slots: 4, partitions: 16, partition_memory_limit: None },
    Leg { workers: 1, slots: 4, partitions: 3, partition_memory_limit: None },
    Leg { workers: 2, slots: 4, partitions: 3, partition_memory_limit: Some(256 * 1024) },
];

/// Deep plans recurse deeply, and more so without optimisation.
fn runtime() -> Runtime {
    Builder::new_multi_thread().thread_stack_size(64 << 20).enable_all().build().unwrap()
}

fn statements(directory: &Path) -> Vec<String> {
    let create = |table: skep_testkit::tpch::Table| {
        let file = DATA.file(directory, table);
        format!(
            "CREATE TEMPORARY VIEW {} USING parquet OPTIONS (path '{}')",
            table.name(),
            file.display()
        )
    };
    TABLES.into_iter().map(create).collect()
}

async fn embedded_answers(directory: &Path) -> Vec<Rows> {
    let config = EngineConfig { target_partitions: Some(2), ..EngineConfig::default() };
    let session = Engine::open(config).await.unwrap().session();
    for statement in statements(directory) {
        session.execute(&statement).await.unwrap().collect().await.unwrap();
    }
    let mut answers = Vec::new();
    for number in 1..=QUERY_COUNT {
        let stream = session.execute(&query(number, DATA.scale)).await.unwrap();
        let schema = stream.schema();
        answers.push(render::rows(&schema, &stream.collect().await.unwrap()).unwrap());
    }
    answers
}

/// Runs the queries on one shape; returns what differs.
async fn run_leg(leg: Leg, directory: &Path, expected: &[Rows]) -> Vec<String> {
    let scratch = tempfile::tempdir().unwrap();
    let [data_dir, spill_dir] = ["data", "spill"].map(|name| scratch.path().join(name));
    for path in [&data_dir, &spill_dir] {
        std::fs::create_dir(path).unwrap();
    }
    let cluster = InProcess::start(&ClusterShape {
        worker_count: leg.workers,
        slot_count: leg.slots,
        memory_limit: 1 << 30,
        partition_memory_limit: leg.partition_memory_limit,
        target_partitions: Some(leg.partitions),
        data_dir,
        spill_dir,
        spreads_small: true,
        extra_config: String::new(),
        extra_arguments: Vec::new(),
    })
    .await
    .unwrap();
    let client = Client::connect(&cluster.url()).await.unwrap();
    // What this leg says it is, it is.
    let width = rows(&client, "SHOW datafusion.execution.target_partitions").await.unwrap();
    assert_eq!(width[0].last(), Some(&leg.partitions.to_string()), "{leg:?}");
    let live = "SELECT count(*), sum(slots) FROM system.workers WHERE state = 'live'";
    let (workers, slots) = (leg.workers.to_string(), (leg.workers * leg.slots).to_string());
    assert_eq!(rows(&client, live).await.unwrap(), [[workers, slots]], "{leg:?}");
    for statement in statements(directory) {
        rows(&client, &statement).await.unwrap();
    }
    let mut differences = Vec::new();
    for (number, expected) in (1..).zip(expected) {
        match rows(&client, &query(number, DATA.scale)).await {
            Ok(answer) if answer == *expected => {}
            Ok(answer) => differences.push(format!("q{number} of {leg:?}: {answer:?}")),
            Err(error) => differences.push(format!("q{number} of {leg:?}: {error}")),
        }
    }
    let ran = "SELECT count(DISTINCT worker), count(DISTINCT query) FROM system.tasks \
               WHERE worker <> 'coordinator'";
    let ran = rows(&client, ran).await.unwrap();
    let counts: Vec<usize> = ran[0].iter().map(|count| count.parse().unwrap()).collect();
    let is_wide = leg.partitions >= leg.workers;
    assert!(counts[0] == leg.workers || !is_wide, "{leg:?} ran on {} workers", counts[0]);
    assert!(counts[1] >= QUERY_COUNT, "{leg:?} spread {} queries", counts[1]);
    let spills = leg.partition_memory_limit.is_some();
    assert_eq!(cluster.spilled_bytes() > 0, spills, "{leg:?} spilled {}", cluster.spilled_bytes());
    drop(client);
    cluster.shut_down().await;
    differences
}

#[test]
fn tpch_is_answered_alike_by_clusters_of_every_shape() {
    let directory = DATA.cached().unwrap();
    let differences = runtime().block_on(async {
        let expected = embedded_answers(&directory).await;
        let mut differences = Vec::new();
        for leg in LEGS {
            differences.extend(Box::pin(run_leg(leg, &directory, &expected)).await);
        }
        differences
    });
    assert!(differences.is_empty(), "{differences:#?}");
}
