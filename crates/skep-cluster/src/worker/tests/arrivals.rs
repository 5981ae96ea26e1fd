//! Who has fetched all that it reads says so while it runs.

use super::rows::{RowsExec, number_schema, numbered};
use super::*;
use crate::exchange::plan::{ExchangePart, TaskInputs};

const PRODUCER: StageId = StageId(0);

/// Reads the producer's output to its end, or not at all, and never ends itself.
fn reader(reads: bool) -> Arc<dyn ExecutionPlan> {
    RowsExec::streams(number_schema(), 1, move |_partition, context| {
        let inputs = context.session_config().get_extension::<TaskInputs>().unwrap();
        let part = ExchangePart { producer: PRODUCER, tasks: 0..1, output: 0, is_for_all: false };
        let input = inputs.0.open(part, number_schema(), &context).unwrap();
        let read = if reads { input.boxed() } else { futures::stream::pending().boxed() };
        read.chain(futures::stream::pending()).boxed()
    })
}

#[tokio::test]
async fn an_attempt_that_has_its_inputs_is_named_by_heartbeats() {
    for reads in [true, false] {
        let (mut here, mut there) = (Fixture::new(), Fixture::new());
        there.site = worker(2, 1);
        there.runner.begin_life(there.site);
        there.plan(1, PRODUCER.0, |_context| {
            Ok(decoded(RowsExec::batches(vec![numbered(0, 500)]), Output::Gather))
        });
        let made = attempt(1, PRODUCER.0, 0, 0);
        there.finish(made, vec![]).await;
        here.neighbours.stores.lock().insert("second:1".to_owned(), there.store.clone());
        here.runner.perform(Command::Peers(vec![(there.site, "second:1".to_owned())]));
        here.plan(1, 1, move |_context| Ok(decoded(reader(reads), Output::Gather)));
        let running = attempt(1, 1, 0, 0);
        here.launch(running, vec![source(made, there.site)]);
        until(|| here.store.stats().open_writers == 1).await;
        match reads {
            true => until(|| here.runner.heartbeat().has_inputs == [running]).await,
            false => assert_eq!(here.runner.heartbeat().has_inputs, []),
        }
        here.runner.perform(Command::Cancel(vec![running]));
        here.word().await;
        assert_eq!(here.runner.heartbeat().has_inputs, [], "it does not run any more");
    }
}
