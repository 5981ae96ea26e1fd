//! Answers of stages against answers of one process, and what the stages look like.

mod cached;
mod remakes;
mod shape;
mod tpch;
pub(crate) mod traps;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::array_value_to_string;

use std::collections::HashMap;

pub(crate) use super::local_run::LocalRun;
use super::local_run::Tasks;
use super::{StagePlan, stage::Place};
use crate::exchange::plan::{ExchangePart, Output};

/// Returns each row as text.
pub(crate) fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let row = |batch: &RecordBatch, idx| {
        let cells =
            batch.columns().iter().map(|column| array_value_to_string(column, idx).unwrap());
        cells.collect::<Vec<_>>().join("|")
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |idx| row(batch, idx))).collect()
}

/// How much of the order of an answer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Kept,
    Any,
}

/// Asserts that stages, run apart and joined again, answer as one process does.
pub(crate) async fn assert_same(run: &mut LocalRun, query: &str, order: Order) {
    let ordered = |batches: Vec<RecordBatch>| {
        let mut rows = rows(&batches);
        if order == Order::Any {
            rows.sort();
        }
        rows
    };
    let whole = ordered(run.answer_whole(query).await.unwrap());
    let text = super::explain(&run.stages(query).await);
    for tasks in [Tasks::AsPlanned, Tasks::Narrowed, Tasks::Decoded] {
        run.tasks = tasks;
        let stages = run.answer_in_stages(query).await;
        let stages = stages.unwrap_or_else(|error| panic!("{tasks:?}: {query}\n{error}\n{text}"));
        assert_eq!(ordered(stages), whole, "{tasks:?}: {query}\n{text}");
    }
    assert_all_is_read(&run.stages(query).await, &text);
    let rejoined = ordered(run.answer_rejoined(query).await.unwrap());
    assert_eq!(rejoined, whole, "joined again: {query}\n{text}");
}

/// Asserts that every output of every task is read once, or by somebody if it is broadcast.
fn assert_all_is_read(plan: &StagePlan, text: &str) {
    let mut reads = HashMap::new();
    for stage in &plan.stages {
        for ExchangePart { producer, tasks, output, .. } in
            (0..stage.task_count).flat_map(|task| stage.reads(task))
        {
            assert!(producer < stage.id, "{text}");
            for task in tasks {
                *reads.entry((producer, task, output)).or_insert(0_usize) += 1;
            }
        }
    }
    for stage in &plan.stages {
        for (task, output) in (0..stage.task_count)
            .flat_map(|task| (0..stage.output.partition_count()).map(move |output| (task, output)))
        {
            let count = reads.remove(&(stage.id, task, output)).unwrap_or(0);
            let is_right = match stage.output {
                Output::Broadcast => count >= 1,
                Output::Result { .. } => count == 0,
                _ => count == 1,
            };
            assert!(is_right, "{}.{task}.{output} is read {count} times\n{text}", stage.id);
        }
    }
    assert!(reads.is_empty(), "{text}");
}

/// Returns what keeps stages on the coordinator.
fn reasons(plan: &StagePlan) -> Vec<&str> {
    let places = plan.stages.iter().map(|stage| &stage.place);
    places
        .filter_map(|place| match place {
            Place::Coordinator { why } => Some(why.as_str()),
            Place::Workers | Place::Anywhere => None,
        })
        .collect()
}
