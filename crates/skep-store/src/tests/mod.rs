//! Tests of the store as a whole, on real files.

mod cached;
mod damage;
mod growing;
mod kinds;
mod leases;
mod measure;
mod memory;
mod model;
mod order;
mod query;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
use futures::TryStreamExt;
use tempfile::TempDir;

use super::*;
use crate::error::Result;
use crate::ids::{Attempt, Epoch, QueryId, StageId};

/// A store in a directory of its own, on a pool of its own.
struct Fixture {
    store: PartitionStore,
    pool: Arc<dyn MemoryPool>,
    directory: TempDir,
}

impl Fixture {
    fn new(pool_bytes: usize, change: impl FnOnce(&mut StoreConfig)) -> Self {
        let directory = TempDir::new().unwrap();
        let mut config = StoreConfig::new(directory.path());
        config.yield_step_bytes = 1;
        config.write_buffer_bytes = 0;
        change(&mut config);
        let pool: Arc<dyn MemoryPool> =
            Arc::new(StorePool::new(Arc::new(GreedyMemoryPool::new(pool_bytes))));
        let store = PartitionStore::open(config, Arc::clone(&pool)).unwrap();
        Self { store, pool, directory }
    }

    fn roomy() -> Self {
        Self::new(1 << 30, |_| {})
    }

    fn writer(&self, key: WriterKey, level: StorageLevel) -> PartitionWriter {
        self.writer_of(key, level, schema(), 3)
    }

    fn writer_of(
        &self,
        key: WriterKey,
        level: StorageLevel,
        schema: SchemaRef,
        outputs: usize,
    ) -> PartitionWriter {
        let output_count = match key {
            WriterKey::Exchange { .. } => outputs,
            WriterKey::Cached { .. } => 1,
        };
        self.store.writer(WriterSpec { key, schema, output_count, level }).unwrap()
    }

    fn spill_files(&self) -> Vec<PathBuf> {
        files_below(self.directory.path())
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "spill"))
            .collect()
    }

    async fn read(&self, key: &PartitionKey) -> Result<Vec<RecordBatch>> {
        self.store.read(key, 0)?.try_collect().await
    }

    /// Asserts that nothing is left of anything.
    fn assert_empty(&self) {
        assert_eq!(self.pool.reserved(), 0);
        assert_eq!(self.spill_files(), Vec::<PathBuf>::new());
        let stats = self.store.stats();
        assert_eq!((stats.memory_bytes, stats.disk_bytes), (0, 0));
        assert_eq!((stats.sealed_partitions, stats.open_writers), (0, 0));
        assert!(stats.queries.is_empty() && stats.tables.is_empty());
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push(path),
        }
    }
    files
}

fn task(query: u64, producer: usize) -> WriterKey {
    WriterKey::Exchange { query: QueryId(query), stage: StageId(0), producer, attempt: Attempt(0) }
}

fn cached(table: &str, partition: usize) -> WriterKey {
    WriterKey::Cached { table: table.into(), epoch: Epoch(1), partition }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("number", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
    ]))
}

/// `rows` rows that begin with number `first`.
fn batch(first: i64, rows: usize) -> RecordBatch {
    let numbers: Vec<i64> = (first..first + rows as i64).collect();
    let texts: Vec<Option<String>> =
        numbers.iter().map(|n| (n % 7 != 0).then(|| format!("text {n}"))).collect();
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(numbers)), Arc::new(StringArray::from(texts))];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    batches
        .iter()
        .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec())
        .collect()
}
