//! TPC-H on a cluster of processes and in the embedded engine, query by query, turn by turn.
//!
//! Both have the same cores, files and number of partitions. The cluster's workers share the cores
//! with its coordinator and with this process, as they would on one machine.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use serde_json::{Value, json};
use skep_bench::baseline::skep_binary;
use skep_bench::figures::{geometric_mean, milliseconds, round};
use skep_client::Client;
use skep_engine::{Engine, EngineConfig, Session};
use skep_testkit::cluster::{ClusterShape, MultiProcess};
use skep_testkit::render;
use skep_testkit::tpch::{DataSet, Format, QUERY_COUNT, TABLES, query};
use tokio::runtime::Builder;

#[derive(Debug, Args)]
pub(crate) struct ClusterArguments {
    /// The scale factor.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Runs of each query on each side; the best counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Worker processes.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Tasks that each worker runs at a time.
    #[arg(long, default_value_t = 1)]
    slots: usize,
    /// Megabytes of memory for the embedded engine, and for all workers together.
    #[arg(long, default_value_t = 8192)]
    memory_mb: usize,
    /// Only these queries, as in 1,6,21.
    #[arg(long, value_delimiter = ',')]
    queries: Vec<usize>,
}

/// Deep plans recurse deeply.
const STACK_SIZE: usize = 64 << 20;

/// The best times of one query.
struct Measurement {
    number: usize,
    cluster: Duration,
    embedded: Duration,
}

impl Measurement {
    fn ratio(&self) -> f64 {
        self.cluster.as_secs_f64() / self.embedded.as_secs_f64()
    }
}

struct Sides {
    cluster: Client,
    embedded: Session,
}

type Answer = (SchemaRef, Vec<RecordBatch>, Duration);

impl Sides {
    async fn open(arguments: &ClusterArguments, url: &str) -> Result<Self> {
        let engine = Engine::open(EngineConfig {
            memory_limit: Some(arguments.memory_mb << 20),
            target_partitions: Some(arguments.workers * arguments.slots),
            ..EngineConfig::default()
        })
        .await?;
        let sides = Self { cluster: Client::connect(url).await?, embedded: engine.session() };
        let data_set = DataSet { scale: arguments.scale, format: Format::Parquet };
        let directory = data_set.cached()?;
        for table in TABLES {
            let statement = format!(
                "CREATE EXTERNAL TABLE {} STORED AS PARQUET LOCATION '{}'",
                table.name(),
                data_set.file(&directory, table).display()
            );
            sides.on_cluster(&statement).await?;
            sides.embedded(&statement).await?;
        }
        Ok(sides)
    }

    async fn on_cluster(&self, text: &str) -> Result<Answer> {
        let begin = Instant::now();
        let statement = self.cluster.execute(text).await?;
        let schema = statement.schema();
        let batches = statement.collect().await?;
        Ok((schema, batches, begin.elapsed()))
    }

    async fn embedded(&self, text: &str) -> Result<Answer> {
        let begin = Instant::now();
        let stream = self.embedded.execute(text).await?;
        let schema = stream.schema();
        let batches = stream.collect().await?;
        Ok((schema, batches, begin.elapsed()))
    }

    /// Runs one query on both sides by turns, so that whatever disturbs disturbs both.
    async fn measure(&self, number: usize, text: &str, runs: usize) -> Result<Measurement> {
        let mut best = [Duration::MAX; 2];
        for run in 0..runs {
            let (cluster, embedded) = if run % 2 == 0 {
                let cluster = self.on_cluster(text).await?;
                (cluster, self.embedded(text).await?)
            } else {
                let embedded = self.embedded(text).await?;
                (self.on_cluster(text).await?, embedded)
            };
            best = [best[0].min(cluster.2), best[1].min(embedded.2)];
            if run == 0 {
                let mut answers = [
                    render::rows(&cluster.0, &cluster.1)?,
                    render::rows(&embedded.0, &embedded.1)?,
                ];
                // Rows that tie in ORDER BY come in any order.
                answers.iter_mut().for_each(|rows| rows.sort_unstable());
                anyhow::ensure!(answers[0] == answers[1], "the two answer differently");
            }
        }
        Ok(Measurement { number, cluster: best[0], embedded: best[1] })
    }
}

pub(crate) fn run(arguments: &ClusterArguments) -> Result<(String, Value)> {
    anyhow::ensure!(arguments.runs > 0, "--runs must be at least 1");
    let numbers = match arguments.queries.as_slice() {
        [] => (1..=QUERY_COUNT).collect(),
        queries => queries.to_vec(),
    };
    let directory = tempfile::tempdir()?;
    let [data_dir, spill_dir] = ["data", "spill"].map(|name| directory.path().join(name));
    for path in [&data_dir, &spill_dir] {
        std::fs::create_dir(path)?;
    }
    let processes = MultiProcess::start(
        &skep_binary()?,
        &ClusterShape {
            worker_count: arguments.workers,
            slot_count: arguments.slots,
            memory_limit: (arguments.memory_mb << 20) / arguments.workers,
            partition_memory_limit: None,
            target_partitions: None,
            data_dir,
            spill_dir,
            spreads_small: false,
            extra_config: String::new(),
            extra_arguments: Vec::new(),
        },
    )?;
    let runtime = Builder::new_multi_thread().thread_stack_size(STACK_SIZE).enable_all().build()?;
    let sides = runtime.block_on(Sides::open(arguments, &processes.url))?;
    let mut out = io::stdout();
    writeln!(out, "query   cluster ms    embedded ms    ratio")?;
    let mut measurements = Vec::new();
    for number in numbers {
        let text = query(number, arguments.scale);
        let measurement = runtime
            .block_on(sides.measure(number, &text, arguments.runs))
            .with_context(|| format!("query {number}"))?;
        writeln!(
            out,
            "q{number:02}   {:>12.1} {:>14.1} {:>8.3}",
            milliseconds(measurement.cluster),
            milliseconds(measurement.embedded),
            measurement.ratio(),
        )?;
        measurements.push(measurement);
    }
    let figures = summarise(arguments, &measurements)?;
    Ok((format!("cluster-tpch-sf{}", arguments.scale), figures))
}

fn summarise(arguments: &ClusterArguments, measurements: &[Measurement]) -> Result<Value> {
    let total =
        |time: fn(&Measurement) -> Duration| milliseconds(measurements.iter().map(time).sum());
    let (cluster, embedded) = (total(|m| m.cluster), total(|m| m.embedded));
    let mean = geometric_mean(measurements.iter().map(Measurement::ratio));
    writeln!(
        io::stdout(),
        "total {cluster:>12.1} {embedded:>14.1} {:>8.3}\ngeometric mean of ratios {mean:>17.3}",
        cluster / embedded
    )?;
    let queries = measurements.iter().map(|m| {
        json!({
            "query": m.number,
            "cluster_ms": round(milliseconds(m.cluster)),
            "embedded_ms": round(milliseconds(m.embedded)),
        })
    });
    Ok(json!({
        "scale": arguments.scale,
        "runs": arguments.runs,
        "workers": arguments.workers,
        "slots": arguments.slots,
        "ratio_of_totals": round(cluster / embedded),
        "geometric_mean_of_ratios": round(mean),
        "queries": queries.collect::<Vec<_>>(),
    }))
}
