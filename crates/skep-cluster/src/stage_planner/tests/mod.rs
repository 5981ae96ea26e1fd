//! Answers of stages against answers of one process, and what the stages look like.

mod shape;
mod tpch;
mod traps;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::array_value_to_string;

use super::local_run::LocalRun;

/// Returns each row as text.
fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let row = |batch: &RecordBatch, idx| {
        let cells =
            batch.columns().iter().map(|column| array_value_to_string(column, idx).unwrap());
        cells.collect::<Vec<_>>().join("|")
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |idx| row(batch, idx))).collect()
}

/// How much of the order of an answer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Kept,
    Any,
}

/// Asserts that stages, run apart and joined again, answer as one process does.
async fn assert_same(run: &LocalRun, query: &str, order: Order) {
    let ordered = |batches: Vec<RecordBatch>| {
        let mut rows = rows(&batches);
        if order == Order::Any {
            rows.sort();
        }
        rows
    };
    let whole = ordered(run.answer_whole(query).await.unwrap());
    let stages = run.answer_in_stages(query).await;
    let text = super::explain(&run.stages(query).await);
    let stages = stages.unwrap_or_else(|error| panic!("{query}\n{error}\n{text}"));
    assert_eq!(ordered(stages), whole, "{query}\n{text}");
    let rejoined = ordered(run.answer_rejoined(query).await.unwrap());
    assert_eq!(rejoined, whole, "joined again: {query}\n{text}");
}
