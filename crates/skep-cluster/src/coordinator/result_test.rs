//! The reader of results against tasks that the test plays, on the coordinator's own store.

use std::sync::atomic::AtomicU64;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use futures::future::poll_immediate;
use tempfile::TempDir;
use tokio::sync::watch;

use super::super::local_queries::LocalQueries;
use super::super::owners::Owners;
use super::super::replicas::Replicated;
use super::super::{Clock, CoordinatorOptions};
use super::*;
use crate::exchange::fetch::{Arrival, Fetcher};
use crate::ids::{StageId, TaskId};
use crate::membership::ClusterSnapshot;
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::store::{PartitionStore, PartitionWriter, StoreConfig};

/// Fetches nothing: all is here.
#[derive(Debug)]
struct Nobody;

impl Fetcher for Nobody {
    fn for_task(&self, _pool: &Arc<dyn MemoryPool>) -> Arc<dyn TaskFetcher> {
        Arc::new(Nobody)
    }
}

impl TaskFetcher for Nobody {
    fn open(&self, output: RemoteOutput, _schema: SchemaRef) -> FetchStream {
        panic!("{output:?} is elsewhere")
    }

    fn open_ahead(&self, output: RemoteOutput, schema: SchemaRef, _: Arrival) -> FetchStream {
        self.open(output, schema)
    }
}

/// A reader, and everybody whom it speaks with.
struct Play {
    stream: SendableRecordBatchStream,
    notices: mpsc::UnboundedSender<Notice>,
    requests: mpsc::Receiver<Request>,
    store: PartitionStore,
    _snapshot: watch::Sender<Arc<ClusterSnapshot>>,
    _directory: TempDir,
}

type Row = (i64, i64);

fn schema() -> SchemaRef {
    let field = |name| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![field("key"), field("value")]))
}

fn batch(rows: &[Row]) -> RecordBatch {
    let column = |values: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
    let (keys, values) = rows.iter().copied().unzip();
    RecordBatch::try_new(schema(), vec![column(keys), column(values)]).unwrap()
}

fn rows(batch: &RecordBatch) -> Vec<Row> {
    let column = |idx: usize| batch.column(idx).as_primitive::<Int64Type>().values().to_vec();
    column(0).into_iter().zip(column(1)).collect()
}

fn by_key() -> Resume {
    let sort = PhysicalSortExpr::new_default(Arc::new(Column::new("key", 0)));
    Resume::Sorted(LexOrdering::new([sort]).unwrap())
}

fn result(attempt: u32) -> TaskAttempt {
    let task = TaskId { query: QueryId(1), stage: StageId(0), partition: 0 };
    TaskAttempt { task, attempt: Attempt(attempt) }
}

impl Play {
    fn new(resume: Resume) -> Self {
        let directory = TempDir::new().unwrap();
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let store = PartitionStore::open(StoreConfig::new(directory.path()), Arc::clone(&pool));
        let store = store.unwrap();
        let (sender, requests) = mpsc::channel(1024);
        let scheduler = Scheduler::new(SchedulerConfig::default(), Duration::ZERO);
        let (snapshot, receiver) = watch::channel(Arc::new(scheduler.snapshot()));
        let clock = Clock::start();
        let shared = Arc::new(Shared {
            options: CoordinatorOptions::default(),
            requests: sender,
            snapshot: receiver,
            store: store.clone(),
            fetcher: Arc::new(Nobody),
            clock,
            local: Arc::new(LocalQueries::new(clock, 1)),
            owners: Arc::new(Owners::new(1)),
            cache: Arc::new(crate::cache::CacheDirectory::new(Arc::clone(&pool))),
            replicated: Replicated::default(),
            next_query: AtomicU64::new(1),
        });
        #[expect(clippy::disallowed_methods, reason = "as in the executor")]
        let (notices, inbox) = mpsc::unbounded_channel();
        let lease = Lease::new(shared, QueryId(1), None);
        let reader = ResultReader::new(lease, (schema(), 1), resume, inbox, Nobody.for_task(&pool));
        let stream = reader.into_stream();
        Self { stream, notices, requests, store, _snapshot: snapshot, _directory: directory }
    }

    fn notify(&self, notice: Notice) {
        self.notices.send(notice).unwrap();
    }

    /// A task begins to make the result.
    fn begin(&self, attempt: u32) -> PartitionWriter {
        self.notify(Notice::Begun { result: result(attempt), address: None });
        self.writer(attempt)
    }

    fn writer(&self, attempt: u32) -> PartitionWriter {
        let TaskAttempt { task, attempt: number } = result(attempt);
        let key = WriterKey::Exchange {
            query: task.query,
            stage: task.stage,
            producer: task.partition,
            attempt: number,
        };
        let level = StorageLevel::MemoryAndDisk;
        let spec = WriterSpec { key, schema: schema(), output_count: 1, level };
        self.store.writer(spec).unwrap()
    }

    async fn write(writer: &mut PartitionWriter, rows: &[Row]) {
        writer.append(0, batch(rows)).await.unwrap();
    }

    async fn seal(&self, attempt: u32, writer: PartitionWriter) {
        let counts = writer.seal().await.unwrap();
        let result = result(attempt);
        self.notify(Notice::Ready { result, address: None, rows: counts[0].rows });
    }

    /// A task is lost with what it wrote.
    fn lose(&self, attempt: u32, writer: PartitionWriter) {
        drop(writer);
        self.notify(Notice::Withdrawn { result: result(attempt) });
    }

    async fn next(&mut self) -> Vec<Row> {
        rows(&self.stream.next().await.unwrap().unwrap())
    }

    /// Reads what is left, in the role of a scheduler that ends the query when all was fetched.
    async fn rest(&mut self) -> Vec<Row> {
        let mut all = Vec::new();
        loop {
            let next = tokio::select! {
                biased;
                next = self.stream.next() => next,
                request = self.requests.recv() => {
                    if let Some(Request::Event(Event::ResultFetched { .. })) = request {
                        self.notices.send(Notice::Finished { operators: Vec::new() }).unwrap();
                    }
                    continue;
                }
            };
            match next {
                Some(batch) => all.extend(rows(&batch.unwrap())),
                None => return all,
            }
        }
    }
}

#[tokio::test]
async fn rows_flow_before_the_last_one_is_made() {
    for resume in [Resume::Exact, by_key()] {
        let mut play = Play::new(resume);
        let mut writer = play.begin(0);
        for key in 0..3 {
            Play::write(&mut writer, &[(key, 1)]).await;
            assert_eq!(play.next().await, [(key, 1)]);
        }
        assert!(poll_immediate(play.stream.next()).await.is_none());
        play.seal(0, writer).await;
        assert_eq!(play.rest().await, []);
    }
}

#[tokio::test]
async fn an_output_that_cannot_be_gone_on_with_does_not_flow() {
    let mut play = Play::new(Resume::Never);
    let mut writer = play.begin(0);
    Play::write(&mut writer, &[(1, 1)]).await;
    assert!(poll_immediate(play.stream.next()).await.is_none());
    play.seal(0, writer).await;
    assert_eq!(play.rest().await, [(1, 1)]);
}

#[tokio::test]
async fn a_reader_that_comes_before_the_first_row_finds_it() {
    let mut play = Play::new(Resume::Exact);
    play.notify(Notice::Begun { result: result(0), address: None });
    assert!(poll_immediate(play.stream.next()).await.is_none());
    let mut writer = play.writer(0);
    Play::write(&mut writer, &[(1, 1)]).await;
    assert_eq!(play.next().await, [(1, 1)]);
    play.seal(0, writer).await;
    assert_eq!(play.rest().await, []);
}

#[tokio::test]
async fn a_result_that_is_lost_half_way_is_gone_on_with() {
    let again = [
        (Resume::Exact, [(1, 1), (2, 1), (2, 2), (2, 3), (3, 1)]),
        // Of the ties another came first this time.
        (by_key(), [(1, 1), (2, 3), (2, 2), (2, 1), (3, 1)]),
    ];
    for (resume, again) in again {
        let mut play = Play::new(resume);
        let mut writer = play.begin(0);
        Play::write(&mut writer, &[(1, 1), (2, 1), (2, 2)]).await;
        let mut all = play.next().await;
        play.lose(0, writer);
        let mut writer = play.begin(1);
        for row in again {
            Play::write(&mut writer, &[row]).await;
        }
        play.seal(1, writer).await;
        all.extend(play.rest().await);
        assert!(all.is_sorted_by_key(|(key, _)| *key), "{all:?}");
        all.sort_unstable();
        assert_eq!(all, [(1, 1), (2, 1), (2, 2), (2, 3), (3, 1)]);
    }
}

#[tokio::test]
async fn more_ties_than_are_remembered_wait_until_they_cannot_be_lost() {
    let mut play = Play::new(by_key());
    let mut writer = play.begin(0);
    let many: Vec<Row> = (0..MAX_TIES_BYTES as i64 / 16).map(|value| (1, value)).collect();
    Play::write(&mut writer, &[(0, 0)]).await;
    assert_eq!(play.next().await, [(0, 0)]);
    writer.append(0, batch(&many)).await.unwrap();
    let mut early = 0;
    while let Some(next) = poll_immediate(play.stream.next()).await {
        early += next.unwrap().unwrap().num_rows();
    }
    assert!(early < many.len() / 2, "{early} rows went");
    play.seal(0, writer).await;
    assert_eq!(play.rest().await.len() + early, many.len());
}

#[tokio::test]
async fn what_was_passed_on_is_not_kept() {
    let mut play = Play::new(Resume::Exact);
    let mut writer = play.begin(0);
    let rows: Vec<Row> = (0..40_000).map(|key| (key, 1)).collect();
    let bytes = batch(&rows).get_array_memory_size();
    for _ in 0..40 {
        Play::write(&mut writer, &rows).await;
        assert_eq!(play.next().await.len(), rows.len());
    }
    // The chunk that is written last, and one more that it may have begun with.
    let held = play.store.stats().memory_bytes;
    assert!(held <= 4 * bytes, "{held} bytes of batches of {bytes}");
    play.seal(0, writer).await;
    assert_eq!(play.rest().await, []);
}

#[tokio::test]
async fn an_output_that_is_made_again_after_its_end_is_not_read() {
    for resume in [Resume::Exact, Resume::Never] {
        let mut play = Play::new(resume);
        let mut writer = play.begin(0);
        Play::write(&mut writer, &[(1, 1)]).await;
        play.seal(0, writer).await;
        assert_eq!(play.next().await, [(1, 1)]);
        assert!(poll_immediate(play.stream.next()).await.is_none());
        // The scheduler had not heard yet that all was read.
        let writer = play.begin(1);
        assert!(poll_immediate(play.stream.next()).await.is_none());
        play.lose(1, writer);
        assert_eq!(play.rest().await, []);
    }
}
