//! TPC-H in skep's embedded engine and in plain DataFusion, query by query, turn by turn.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use serde_json::{Value, json};
pub(crate) use skep_bench::figures::round;
use skep_bench::figures::{geometric_mean, milliseconds};
use skep_engine::{Engine, EngineConfig, Session};
use skep_testkit::render;
use skep_testkit::tpch::{DataSet, Format, QUERY_COUNT, TABLES, query};
use tokio::runtime::Runtime;

#[derive(Debug, Args)]
pub(crate) struct TpchArguments {
    /// The scale factor.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Runs of each query in each engine; the best counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Partitions in both engines; the number of cores if not given.
    #[arg(long)]
    partitions: Option<usize>,
    /// Megabytes of memory for the queries of each engine.
    #[arg(long, default_value_t = 8192)]
    memory_mb: usize,
    /// Only these queries, as in 1,6,21.
    #[arg(long, value_delimiter = ',')]
    queries: Vec<usize>,
}

/// The two engines, with the same tables and the same settings.
struct Engines {
    skep: Session,
    datafusion: SessionContext,
}

/// The best times of one query.
struct Measurement {
    number: usize,
    row_count: usize,
    skep: Duration,
    datafusion: Duration,
}

impl Measurement {
    fn ratio(&self) -> f64 {
        self.skep.as_secs_f64() / self.datafusion.as_secs_f64()
    }
}

pub(crate) fn run(arguments: &TpchArguments) -> Result<(String, Value)> {
    anyhow::ensure!(arguments.runs > 0, "--runs must be at least 1");
    let numbers = match arguments.queries.as_slice() {
        [] => (1..=QUERY_COUNT).collect(),
        queries => queries.to_vec(),
    };
    if let Some(number) = numbers.iter().find(|number| !(1..=QUERY_COUNT).contains(*number)) {
        bail!("there is no query {number}");
    }
    let data_set = DataSet { scale: arguments.scale, format: Format::Parquet };
    let directory = data_set.cached()?;
    let runtime = Runtime::new()?;
    let engines = runtime.block_on(open(arguments, &data_set, &directory))?;
    let mut out = io::stdout();
    writeln!(out, "query     rows    skep ms    datafusion ms    ratio")?;
    let mut measurements = Vec::new();
    for number in numbers {
        let text = query(number, arguments.scale);
        let measurement = runtime
            .block_on(measure(&engines, number, &text, arguments.runs))
            .with_context(|| format!("query {number}"))?;
        writeln!(
            out,
            "q{number:02}   {:>8} {:>10.1} {:>16.1} {:>8.3}",
            measurement.row_count,
            milliseconds(measurement.skep),
            milliseconds(measurement.datafusion),
            measurement.ratio(),
        )?;
        measurements.push(measurement);
    }
    let figures = summarise(arguments, &measurements)?;
    Ok((format!("tpch-sf{}", arguments.scale), figures))
}

async fn open(arguments: &TpchArguments, data_set: &DataSet, directory: &Path) -> Result<Engines> {
    let core_count = std::thread::available_parallelism()?.get();
    let partitions = arguments.partitions.unwrap_or(core_count);
    let memory_limit = arguments.memory_mb << 20;
    let engine = Engine::open(EngineConfig {
        memory_limit: Some(memory_limit),
        target_partitions: Some(partitions),
        ..EngineConfig::default()
    })
    .await?;
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory_limit)))
        .build_arc()?;
    let config = SessionConfig::new().with_target_partitions(partitions);
    let engines = Engines {
        skep: engine.session(),
        datafusion: SessionContext::new_with_config_rt(config, runtime),
    };
    for table in TABLES {
        let statement = format!(
            "CREATE EXTERNAL TABLE {} STORED AS PARQUET LOCATION '{}'",
            table.name(),
            data_set.file(directory, table).display()
        );
        engines.skep.execute(&statement).await?.collect().await?;
        engines.datafusion.sql(&statement).await?.collect().await?;
    }
    Ok(engines)
}

impl Engines {
    async fn run_skep(&self, text: &str) -> Result<(SchemaRef, Vec<RecordBatch>, Duration)> {
        let begin = Instant::now();
        let stream = self.skep.execute(text).await?;
        let schema = stream.schema();
        let batches = stream.collect().await?;
        Ok((schema, batches, begin.elapsed()))
    }

    async fn run_datafusion(&self, text: &str) -> Result<(SchemaRef, Vec<RecordBatch>, Duration)> {
        let begin = Instant::now();
        let frame = self.datafusion.sql(text).await?;
        let schema = Arc::clone(frame.schema().inner());
        let batches = frame.collect().await?;
        Ok((schema, batches, begin.elapsed()))
    }
}

/// Runs one query in both engines by turns, so that whatever disturbs disturbs both.
async fn measure(engines: &Engines, number: usize, text: &str, runs: usize) -> Result<Measurement> {
    let mut best = [Duration::MAX; 2];
    let mut row_count = 0;
    for run in 0..runs {
        let skep_is_first = run % 2 == 0;
        let (skep, datafusion) = if skep_is_first {
            let skep = engines.run_skep(text).await?;
            (skep, engines.run_datafusion(text).await?)
        } else {
            let datafusion = engines.run_datafusion(text).await?;
            (engines.run_skep(text).await?, datafusion)
        };
        best = [best[0].min(skep.2), best[1].min(datafusion.2)];
        if run == 0 {
            row_count = skep.1.iter().map(RecordBatch::num_rows).sum();
            let mut answers =
                [render::rows(&skep.0, &skep.1)?, render::rows(&datafusion.0, &datafusion.1)?];
            // Rows that tie in ORDER BY come in any order.
            answers.iter_mut().for_each(|rows| rows.sort_unstable());
            anyhow::ensure!(answers[0] == answers[1], "skep and DataFusion answer differently");
        }
    }
    Ok(Measurement { number, row_count, skep: best[0], datafusion: best[1] })
}

fn summarise(arguments: &TpchArguments, measurements: &[Measurement]) -> Result<Value> {
    let total =
        |time: fn(&Measurement) -> Duration| milliseconds(measurements.iter().map(time).sum());
    let (skep, datafusion) = (total(|m| m.skep), total(|m| m.datafusion));
    let mean = geometric_mean(measurements.iter().map(Measurement::ratio));
    writeln!(
        io::stdout(),
        "total          {skep:>10.1} {datafusion:>16.1} {:>8.3}\ngeometric mean of ratios {mean:>27.3}",
        skep / datafusion
    )?;
    let queries: Vec<_> = measurements
        .iter()
        .map(|m| {
            json!({
                "query": m.number,
                "rows": m.row_count,
                "skep_ms": round(milliseconds(m.skep)),
                "datafusion_ms": round(milliseconds(m.datafusion)),
            })
        })
        .collect();
    Ok(json!({
        "scale": arguments.scale,
        "runs": arguments.runs,
        "ratio_of_totals": round(skep / datafusion),
        "geometric_mean_of_ratios": round(mean),
        "queries": queries,
    }))
}
