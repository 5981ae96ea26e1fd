//! What all tasks of a stage read of another site: fetched once, if several of them run here.

use super::rows::{RowsExec, number_schema, numbered};
use super::*;
use crate::exchange::plan::{ExchangePart, TaskInputs};
use crate::scheduler::TaskFailure;

const PRODUCER: StageId = StageId(0);

/// A plan of which each partition is the whole output of the producer's only task.
fn reader(partitions: usize) -> Arc<dyn ExecutionPlan> {
    RowsExec::streams(number_schema(), partitions, |_partition, context| {
        let inputs = context.session_config().get_extension::<TaskInputs>().unwrap();
        let part = ExchangePart { producer: PRODUCER, tasks: 0..1, output: 0, is_for_all: true };
        inputs.0.open(part, number_schema(), &context).unwrap().boxed()
    })
}

/// The first site, where `partitions` tasks are to read what the second one has made.
async fn sites(partitions: usize) -> (Fixture, Fixture, Source) {
    let (here, mut there) = (Fixture::new(), Fixture::new());
    there.site = worker(2, 1);
    there.runner.begin_life(there.site);
    let rows = vec![numbered(0, 500), numbered(500, 500)];
    there.plan(1, PRODUCER.0, move |_context| {
        Ok(decoded(RowsExec::batches(rows.clone()), Output::Broadcast))
    });
    let made = attempt(1, PRODUCER.0, 0, 0);
    there.finish(made, vec![]).await;
    let peers = vec![(worker(1, 1), "first:1".to_owned()), (there.site, "second:1".to_owned())];
    here.runner.perform(Command::Peers(peers));
    here.plan(1, 1, move |_context| Ok(decoded(reader(partitions), Output::Gather)));
    let from = source(made, there.site);
    (here, there, from)
}

async fn launch_all(
    here: &mut Fixture,
    partitions: usize,
    number: u32,
    from: Source,
) -> Vec<TaskReport> {
    for partition in 0..partitions {
        here.launch(attempt(1, 1, partition, number), vec![from]);
    }
    let mut reports = Vec::new();
    for _ in 0..partitions {
        reports.push(here.word().await.1);
    }
    reports
}

async fn all_have_all_rows(here: &Fixture, reports: &[TaskReport]) {
    for TaskReport { attempt, outcome } in reports {
        let TaskOutcome::Finished { output, .. } = outcome else {
            panic!("{attempt}: {outcome:?}")
        };
        assert_eq!(output.rows, 1000);
        let batches = here.read(*attempt, 0).await;
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, 1000);
        assert_eq!(batches[0].slice(0, 1), numbered(0, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_tasks_than_workers_fetch_it_once() {
    let (mut here, there, from) = sites(5).await;
    here.neighbours.stores.lock().insert("second:1".to_owned(), there.store.clone());
    let reports = launch_all(&mut here, 5, 0, from).await;
    all_have_all_rows(&here, &reports).await;
    assert_eq!(here.neighbours.opens.load(Ordering::Relaxed), 1);
    here.runner.perform(Command::DropQuery(QueryId(1)));
    here.await_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_for_each_worker_reads_it_without_a_copy() {
    let (mut here, there, from) = sites(2).await;
    here.neighbours.stores.lock().insert("second:1".to_owned(), there.store.clone());
    let reports = launch_all(&mut here, 2, 0, from).await;
    all_have_all_rows(&here, &reports).await;
    assert_eq!(here.neighbours.opens.load(Ordering::Relaxed), 2);
    assert_eq!(here.store.stats().sealed_partitions, 2, "their outputs alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_fetch_it_leaves_it_to_the_next() {
    let (mut here, there, from) = sites(5).await;
    for report in launch_all(&mut here, 5, 0, from).await {
        let TaskOutcome::Failed(TaskFailure::Fetch { producer, site, fault, .. }) = &report.outcome
        else {
            panic!("{report:?}")
        };
        let expected = (&from.producer, &there.site, &FetchFault::Refused);
        assert_eq!((producer, site, fault), expected);
    }
    here.neighbours.stores.lock().insert("second:1".to_owned(), there.store.clone());
    let reports = launch_all(&mut here, 5, 1, from).await;
    all_have_all_rows(&here, &reports).await;
    assert_eq!(here.neighbours.opens.load(Ordering::Relaxed), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_life_keeps_no_copy() {
    let (mut here, there, from) = sites(5).await;
    here.neighbours.stores.lock().insert("second:1".to_owned(), there.store.clone());
    let reports = launch_all(&mut here, 5, 0, from).await;
    all_have_all_rows(&here, &reports).await;
    assert_eq!(here.store.stats().sealed_partitions, 6, "five outputs and a copy");
    here.runner.begin_life(worker(1, 2));
    here.await_empty().await;
}
