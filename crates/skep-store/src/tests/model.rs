//! Random lives of a store against a model that is a map of lists of numbers.

use std::collections::BTreeMap;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use proptest::prelude::*;

use super::*;
use crate::error::Error;

#[derive(Debug, Clone)]
enum Step {
    Open { writer: usize, level: u8 },
    Write { writer: usize, output: usize, rows: usize },
    Seal { writer: usize },
    Abandon { writer: usize },
    Read { key: usize, start: u64 },
    Release { key: usize },
    EndQuery { query: u64 },
    Squeeze { bytes: usize },
    Relax,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let writer = 0..WRITERS;
    let step = prop_oneof![
        3 => (writer.clone(), 0..3_u8).prop_map(|(writer, level)| Step::Open { writer, level }),
        12 => (writer.clone(), 0..3_usize, 0..120_usize)
            .prop_map(|(writer, output, rows)| Step::Write { writer, output, rows }),
        4 => writer.clone().prop_map(|writer| Step::Seal { writer }),
        1 => writer.prop_map(|writer| Step::Abandon { writer }),
        6 => (any::<usize>(), 0..5_u64).prop_map(|(key, start)| Step::Read { key, start }),
        2 => any::<usize>().prop_map(|key| Step::Release { key }),
        1 => (0..200_u64).prop_map(|query| Step::EndQuery { query }),
        2 => (1000..20_000_usize).prop_map(|bytes| Step::Squeeze { bytes }),
        1 => Just(Step::Relax),
    ];
    proptest::collection::vec(step, 1..120)
}

const WRITERS: usize = 5;
const POOL: usize = 30_000;

type Batches = Vec<Vec<i64>>;

/// What should be, beside what is.
struct Model {
    fixture: Fixture,
    squeezer: MemoryReservation,
    open: BTreeMap<usize, (PartitionWriter, Vec<Batches>)>,
    sealed: BTreeMap<PartitionKey, (Batches, StorageLevel)>,
    next: i64,
    lives: u64,
}

impl Model {
    fn new() -> Self {
        let fixture = Fixture::new(POOL, |config| {
            config.spill_chunk_bytes = 3000;
            config.write_buffer_bytes = 2000;
        });
        let squeezer = MemoryConsumer::new("squeezer").register(&fixture.pool);
        Self {
            fixture,
            squeezer,
            open: BTreeMap::new(),
            sealed: BTreeMap::new(),
            next: 0,
            lives: 0,
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Open { writer, level } => {
                // Each life has a query or table of its own, so that no name comes twice.
                self.lives += 1;
                let key = match level {
                    2 => cached("t", self.lives as usize),
                    _ => task(self.lives, writer),
                };
                let level =
                    [StorageLevel::MemoryAndDisk, StorageLevel::DiskOnly, StorageLevel::MemoryOnly]
                        [usize::from(level)];
                let open = self.fixture.writer(key, level);
                self.open.insert(writer, (open, vec![Vec::new(); 3]));
            }
            Step::Write { writer, output, rows } => self.write(writer, output, rows).await,
            Step::Seal { writer } => {
                let Some((open, outputs)) = self.open.remove(&writer) else { return };
                let (key, level) = (open.key().clone(), level_of(open.key()));
                for (output, counts) in open.seal().await.unwrap().iter().enumerate() {
                    let rows: usize = outputs[output].iter().map(Vec::len).sum();
                    assert_eq!(counts.rows, rows as u64);
                    self.sealed.insert(key.output(output), (outputs[output].clone(), level));
                }
            }
            Step::Abandon { writer } => drop(self.open.remove(&writer)),
            Step::Read { key, start } => {
                if let Some(key) = self.pick(key) {
                    self.check(&key, start).await;
                }
            }
            Step::Release { key } => {
                if let Some(key) = self.pick(key) {
                    self.fixture.store.release([&key], Readers::Finish);
                    self.sealed.remove(&key);
                }
            }
            Step::EndQuery { query } => {
                let query = QueryId(query % (self.lives + 1));
                self.fixture.store.end_query(query, Readers::Abort);
                let is_of = |key: &PartitionKey| matches!(key, PartitionKey::Exchange { query: of, .. } if *of == query);
                self.sealed.retain(|key, _| !is_of(key));
                self.open.retain(|_, (open, _)| !is_of(&open.key().output(0)));
            }
            Step::Squeeze { bytes } => {
                if self.squeezer.try_grow(bytes).is_ok() {
                    assert!(self.fixture.pool.reserved() <= POOL);
                }
            }
            Step::Relax => drop(self.squeezer.free()),
        }
    }

    async fn write(&mut self, writer: usize, output: usize, rows: usize) {
        let Some((open, outputs)) = self.open.get_mut(&writer) else { return };
        let output = output % outputs_of(open.key());
        match open.append(output, batch(self.next, rows)).await {
            Ok(()) => {
                outputs[output].push((self.next..self.next + rows as i64).collect());
                self.next += rows as i64;
            }
            Err(Error::MemoryExhausted { .. }) => {
                assert_eq!(level_of(open.key()), StorageLevel::MemoryOnly);
                self.open.remove(&writer);
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn pick(&self, index: usize) -> Option<PartitionKey> {
        let count = self.sealed.len().max(1);
        self.sealed.keys().nth(index % count).cloned()
    }

    async fn check(&mut self, key: &PartitionKey, start: u64) {
        let (batches, level) = &self.sealed[key];
        let start = start.min(batches.len() as u64);
        let read: Result<Vec<RecordBatch>> = match self.fixture.store.read(key, start) {
            Ok(reader) => reader.try_collect().await,
            Err(error) => Err(error),
        };
        match read {
            Ok(read) => {
                let read: Batches =
                    read.iter().map(|batch| numbers(std::slice::from_ref(batch))).collect();
                assert_eq!(read, batches[start as usize..]);
            }
            Err(Error::PartitionNotFound { .. }) if *level == StorageLevel::MemoryOnly => {
                self.sealed.remove(key);
            }
            Err(error) => panic!("{key}: {error}"),
        }
    }

    async fn end(mut self) {
        for key in self.sealed.keys().cloned().collect::<Vec<_>>() {
            self.check(&key, 0).await;
        }
        self.open.clear();
        self.squeezer.free();
        self.fixture.store.release(self.sealed.keys(), Readers::Finish);
        self.fixture.assert_empty();
    }
}

/// Cached tables are memory-only here, exchange output is not.
fn level_of(key: &WriterKey) -> StorageLevel {
    match key {
        WriterKey::Cached { .. } => StorageLevel::MemoryOnly,
        WriterKey::Exchange { .. } => StorageLevel::MemoryAndDisk,
    }
}

fn outputs_of(key: &WriterKey) -> usize {
    match key {
        WriterKey::Cached { .. } => 1,
        WriterKey::Exchange { .. } => 3,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_does_what_the_model_does(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new();
            for step in steps {
                model.step(step).await;
            }
            model.end().await;
        });
    }
}
