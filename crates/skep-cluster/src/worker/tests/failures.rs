//! What an error is taken for: the query's, the worker's, an input's.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::error::ArrowError;
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::memory_pool::MemoryConsumer;
use futures::FutureExt;
use skep_proto::ErrorCode;

use super::rows::{RowsExec, number_schema, numbered};
use super::*;
use crate::exchange::plan::{Exchange, ExchangeReadExec};
use crate::scheduler::TaskFailure;

/// A stage of one task that gives three batches and then fails.
fn failing(
    error: impl Fn() -> DataFusionError + Send + Sync + Clone + 'static,
) -> DataFusionResult<DecodedStage> {
    let plan = RowsExec::streams(number_schema(), 1, move |_partition, _context| {
        let error = error();
        let rows = (0..3).map(|i| Ok(numbered(i * 100, 100)));
        futures::stream::iter(rows).chain(futures::stream::once(async { Err(error) })).boxed()
    });
    Ok(decoded(plan, Output::Gather))
}

/// Runs a stage that fails, and looks whether it left anything.
async fn failure_of(
    mut site: Fixture,
    make: impl Fn(&TaskContext) -> DataFusionResult<DecodedStage> + Send + Sync + 'static,
) -> TaskFailure {
    site.plan(1, 0, make);
    let outcome = site.run(attempt(1, 0, 0, 0), vec![]).await;
    let TaskOutcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    site.await_empty().await;
    assert_eq!(site.runner.holdings().running, []);
    failure
}

fn query(code: ErrorCode, message: &str, hint: Option<&str>) -> TaskFailure {
    TaskFailure::Query { code, message: message.to_owned(), hint: hint.map(ToOwned::to_owned) }
}

#[tokio::test]
async fn an_error_of_the_data_is_the_querys_with_its_hint() {
    let failure = failure_of(Fixture::new(), |_context| {
        failing(|| DataFusionError::from(ArrowError::DivideByZero).context("in a projection"))
    });
    let hint = Some("NULLIF(divisor, 0) gives NULL instead");
    assert_eq!(failure.await, query(ErrorCode::InvalidArgument, "division by zero", hint));
}

#[tokio::test]
async fn a_panic_anywhere_is_a_panic_with_its_message() {
    let expected = TaskFailure::Panic { message: "it broke".to_owned() };
    let in_stream = failure_of(Fixture::new(), |_context| {
        let plan = RowsExec::streams(number_schema(), 1, |_partition, _context| {
            futures::stream::iter(0..9)
                .map(|i| if i < 5 { Ok(numbered(i, 1)) } else { panic!("it broke") })
                .boxed()
        });
        Ok(decoded(plan, Output::Gather))
    });
    assert_eq!(in_stream.await, expected);
    let while_decoding = failure_of(Fixture::new(), |_context| panic!("it {}", "broke"));
    assert_eq!(while_decoding.await, expected);
    let inside = failure_of(Fixture::new(), |_context| {
        let plan = RowsExec::streams(number_schema(), 1, |_partition, _context| {
            let inner = async {
                let task = SpawnedTask::spawn(async { panic!("it broke") });
                match task.join().await {
                    Ok(()) => Ok(numbered(0, 1)),
                    Err(join) => Err(DataFusionError::ExecutionJoin(Box::new(join))),
                }
            };
            futures::stream::once(inner).boxed()
        });
        Ok(decoded(plan, Output::Gather))
    });
    let TaskFailure::Panic { message } = inside.await else { panic!() };
    assert!(message.contains("it broke"), "{message}");
}

#[tokio::test]
async fn running_out_of_memory_is_neither_the_querys_nor_the_workers() {
    let site = Fixture::with(1 << 20, |_config| {}, |_config| {});
    let failure = failure_of(site, |_context| {
        let plan = RowsExec::streams(number_schema(), 1, |_partition, context| {
            let memory = MemoryConsumer::new("glutton").register(context.memory_pool());
            let rows = async move { memory.try_grow(2 << 20).map(|()| numbered(0, 1)) };
            futures::stream::once(rows).boxed()
        });
        Ok(decoded(plan, Output::Gather))
    });
    let TaskFailure::OutOfMemory { message, .. } = failure.await else { panic!() };
    assert!(message.contains("glutton"), "{message}");
}

#[tokio::test]
async fn a_full_disk_is_the_workers() {
    let small = |config: &mut StoreConfig| {
        config.disk_limit_bytes = 1000;
        config.write_buffer_bytes = 0;
    };
    let site = Fixture::with(100_000, small, |_config| {});
    let failure = failure_of(site, |_context| {
        let all = (0..100).map(|i| numbered(i * 1000, 1000)).collect();
        Ok(decoded(RowsExec::batches(all), Output::Gather))
    });
    let TaskFailure::WorkerFault { message } = failure.await else { panic!() };
    assert!(message.contains("disk limit"), "{message}");
    let failure = failure_of(Fixture::new(), |_context| {
        failing(|| DataFusionError::IoError(std::io::ErrorKind::StorageFull.into()))
    });
    assert!(matches!(failure.await, TaskFailure::WorkerFault { .. }));
}

#[tokio::test]
async fn a_plan_that_did_not_arrive_whole_is_the_workers_and_a_defect_is_not() {
    let failure = failure_of(Fixture::new(), |_context| {
        Err(DataFusionError::Plan("no such table".to_owned()))
    });
    assert!(matches!(failure.await, TaskFailure::WorkerFault { .. }));
    let failure = failure_of(Fixture::new(), |_context| {
        Err(DataFusionError::Internal("cannot be".to_owned()))
    });
    let failure = failure.await;
    assert!(matches!(failure, TaskFailure::Query { code: ErrorCode::Internal, .. }), "{failure:?}");
    let mut site = Fixture::new();
    let encoded = EncodedStage { program: Bytes::new(), settings: Bytes::from_static(b"?") };
    let program = StageProgram::Encoded(encoded);
    site.runner.perform(Command::Plan { query: QueryId(1), stage: StageId(0), program });
    let outcome = site.run(attempt(1, 0, 0, 0), vec![]).await;
    assert!(matches!(outcome, TaskOutcome::Failed(TaskFailure::WorkerFault { .. })), "{outcome:?}");
    // A stage, and a query, that nobody has told of; a task that the stage has not got.
    site.plan(1, 1, |_context| {
        Ok(decoded(RowsExec::batches(vec![numbered(0, 1)]), Output::Gather))
    });
    for unknown in [attempt(1, 7, 0, 0), attempt(7, 0, 0, 0), attempt(1, 1, 1, 0)] {
        let outcome = site.run(unknown, vec![]).await;
        let expected = matches!(outcome, TaskOutcome::Failed(TaskFailure::WorkerFault { .. }));
        assert!(expected, "{outcome:?}");
    }
    assert_eq!(site.runner.holdings().queries, [QueryId(1)]);
}

/// A stage that gathers the outputs of two tasks of stage 0.
fn gathering(_context: &TaskContext) -> DataFusionResult<DecodedStage> {
    let producers = RowsExec::streams(number_schema(), 2, |_partition, _context| {
        futures::stream::empty::<DataFusionResult<RecordBatch>>().boxed()
    });
    let read = ExchangeReadExec::over(StageId(0), &producers, &Output::Gather, Exchange::Gather)?;
    Ok(decoded(Arc::new(read), Output::Result { in_order: false }))
}

#[tokio::test]
async fn an_input_that_cannot_be_read_names_its_producer_and_site() {
    let mut site = Fixture::new();
    site.plan(1, 0, |_context| {
        Ok(decoded(RowsExec::batches(vec![numbered(0, 9)]), Output::Gather))
    });
    site.plan(1, 1, gathering);
    site.finish(attempt(1, 0, 0, 0), vec![]).await;
    let here = source(attempt(1, 0, 0, 0), site.site);
    let missing = source(attempt(1, 0, 1, 0), site.site);
    let neighbour = worker(2, 1);
    let there = source(attempt(1, 0, 1, 3), neighbour);
    let peers = vec![(neighbour, "there:1".to_owned()), (worker(3, 1), "nowhere:1".to_owned())];
    site.runner.perform(Command::Peers(peers));
    site.neighbours.stores.lock().insert("there:1".to_owned(), Fixture::new().store);
    let unreachable = source(attempt(1, 0, 1, 3), worker(3, 1));
    let unheard_of = source(attempt(1, 0, 1, 3), worker(4, 1));
    let cases = [
        (missing, FetchFault::Missing),
        (there, FetchFault::Missing),
        (unreachable, FetchFault::Refused),
        (unheard_of, FetchFault::Refused),
    ];
    for (number, (lost, expected)) in (0..).zip(cases) {
        let outcome = site.run(attempt(1, 1, 0, number), vec![here, lost]).await;
        let TaskOutcome::Failed(TaskFailure::Fetch { producer, site, fault, message, .. }) =
            outcome
        else {
            panic!("{outcome:?}")
        };
        assert_eq!((producer, site, fault), (lost.producer, lost.site, expected), "{message}");
    }
    // A producer that no source names has no rows.
    assert_eq!(site.finish(attempt(1, 1, 0, 9), vec![here]).await.rows, 9);
    assert_eq!(site.finish(attempt(1, 1, 0, 10), vec![]).await.rows, 0);
}

#[tokio::test]
async fn a_lost_input_is_found_below_every_layer_of_datafusion() {
    let lost = || {
        let (producer, site) = (attempt(1, 0, 3, 2), worker(9, 1));
        let error = Error::internal("gone");
        DataFusionError::from(InputError::new(producer, site, FetchFault::Refused, error))
    };
    let layers: [fn(DataFusionError) -> DataFusionError; 4] = [
        |error| error.context("while joining"),
        |error| DataFusionError::Shared(Arc::new(error)),
        |error| DataFusionError::from(ArrowError::ExternalError(Box::new(error))),
        |error| DataFusionError::External(Box::new(error)),
    ];
    let outside = failure::outside_the_query;
    for outer in layers {
        for inner in layers {
            let outcome = outside(&outer(inner(lost())));
            let expected = matches!(
                &outcome,
                Some(TaskOutcome::Failed(TaskFailure::Fetch { fault: FetchFault::Refused, producer, .. }))
                    if *producer == attempt(1, 0, 3, 2)
            );
            assert!(expected, "{outcome:?}");
        }
    }
    assert_eq!(outside(&DataFusionError::Execution("bad cast".to_owned())), None);
}

#[tokio::test]
async fn more_attempts_than_slots_are_the_workers_fault() {
    let mut site = Fixture::with(1 << 30, |_config| {}, |config| config.max_running_attempts = 1);
    site.plan(1, 0, |_context| Ok(decoded(RowsExec::stuck(numbered(0, 1)), Output::Gather)));
    site.launch(attempt(1, 0, 0, 0), vec![]);
    let outcome = site.run(attempt(1, 0, 0, 1), vec![]).await;
    assert!(matches!(outcome, TaskOutcome::Failed(TaskFailure::WorkerFault { .. })), "{outcome:?}");
    assert_eq!(site.runner.holdings().running, [attempt(1, 0, 0, 0)]);
    assert!(site.reports.recv().now_or_never().is_none());
}
