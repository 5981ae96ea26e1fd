//! Cached tables as a whole: their form, under pressure, and while others change them.

mod changes;
mod encoding;
mod expecting;
mod form;
mod pressure;

use std::io::Write;
use std::path::{Path, PathBuf};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::array_value_to_string;
use tempfile::TempDir;
use tpchgen::csv::LineItemCsv;
use tpchgen::generators::LineItemGenerator;

use crate::{Engine, EngineConfig, Error, Session};

/// An engine on a directory of its own.
struct Fixture {
    session: Session,
    engine: Engine,
    directory: TempDir,
}

impl Fixture {
    async fn new(change: impl FnOnce(&mut EngineConfig)) -> Self {
        let directory = TempDir::new().unwrap();
        let mut config = EngineConfig {
            memory_limit: Some(1 << 30),
            spill_dir: Some(directory.path().join("spill")),
            target_partitions: Some(2),
            ..EngineConfig::default()
        };
        change(&mut config);
        let engine = Engine::open(config).await.unwrap();
        Self { session: engine.session(), engine, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a statement and returns each row as text.
    async fn run(&self, statement: &str) -> Vec<String> {
        run(&self.session, statement).await
    }

    /// Returns the bytes of memory that anybody has.
    fn reserved(&self) -> usize {
        self.session.inner.engine.runtime.memory_pool.reserved()
    }

    /// Makes an external table `f` over a directory of files, of one row each.
    async fn folder(&self, columns: &str, count: usize) {
        for number in 0..count {
            let file = self.path(&format!("f/{number}.csv"));
            self.run(&format!("COPY (SELECT {columns}) TO '{}'", file.display())).await;
        }
        self.run(&format!(
            "CREATE EXTERNAL TABLE f STORED AS CSV LOCATION '{}/' \
             OPTIONS ('format.has_header' 'true')",
            self.path("f").display()
        ))
        .await;
    }

    async fn fail(&self, statement: &str) -> Error {
        let failed = match self.session.execute(statement).await {
            Ok(stream) => stream.collect().await.map(drop),
            Err(error) => Err(error),
        };
        failed.expect_err(statement)
    }

    /// Returns a number of the one cached table.
    async fn figure(&self, column: &str) -> u64 {
        let rows = self.run(&format!("SELECT {column} FROM system.cached_tables")).await;
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows[0].parse().unwrap()
    }

    /// Makes an external table `lineitem` of TPC-H at a scale; returns the bytes of its text.
    async fn lineitem(&self, scale: f64) -> u64 {
        let path = self.path("lineitem.csv");
        let bytes = write_lineitem(&path, scale);
        // In as many partitions as there may be, however small the file.
        self.run("SET datafusion.optimizer.repartition_file_min_size = 1").await;
        self.run(&format!(
            "CREATE EXTERNAL TABLE lineitem STORED AS CSV LOCATION '{}' \
             OPTIONS ('format.has_header' 'true', 'format.newlines_in_values' 'false')",
            path.display()
        ))
        .await;
        bytes
    }
}

async fn run(session: &Session, statement: &str) -> Vec<String> {
    let outcome = session.execute(statement).await;
    let stream = outcome.unwrap_or_else(|error| panic!("{statement}: {error}"));
    let batches = stream.collect().await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    let row = |batch: &RecordBatch, idx| {
        let cells =
            batch.columns().iter().map(|column| array_value_to_string(column, idx).unwrap());
        cells.collect::<Vec<_>>().join("|")
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |idx| row(batch, idx))).collect()
}

/// Writes the table as CSV with a header.
fn write_lineitem(path: &Path, scale: f64) -> u64 {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    writeln!(file, "{}", LineItemCsv::header()).unwrap();
    for line in LineItemGenerator::new(scale, 1, 1).iter() {
        writeln!(file, "{}", LineItemCsv::new(line)).unwrap();
    }
    file.flush().unwrap();
    std::fs::metadata(path).unwrap().len()
}

/// What many queries over `lineitem` ask, in a few rows.
const SUMMARY: &str = "SELECT l_returnflag, l_shipmode, count(*), sum(l_orderkey), \
    sum(l_linenumber), min(l_shipdate), max(l_comment), count(DISTINCT l_suppkey) \
    FROM lineitem GROUP BY l_returnflag, l_shipmode ORDER BY 1, 2";

/// Takes partitions of the one cached table out of the store, as want of room would.
fn drop_partitions(fixture: &Fixture, partitions: &[usize]) {
    let tables = fixture.session.inner.engine.cache.all();
    let content = tables[0].content();
    let epoch = content.current().epoch;
    let keys: Vec<_> = partitions
        .iter()
        .map(|partition| skep_store::PartitionKey::Cached {
            table: std::sync::Arc::clone(&content.key),
            epoch,
            partition: *partition,
        })
        .collect();
    content.store.release(&keys, skep_store::Readers::Finish);
}
