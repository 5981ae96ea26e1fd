//! Limits whose rows are too many for a heap.

use super::{context, rows, run};

#[tokio::test]
async fn a_large_limit_sorts_and_does_not_keep_a_heap() {
    let context = context();
    run(&context, "SET skep.max_top_k_rows = 10").await.expect("a setting");
    let query = |limit: usize| {
        format!("SELECT value FROM range(0, 1000) ORDER BY value DESC LIMIT 2 OFFSET {}", limit - 2)
    };
    let small = rows(&context, &format!("EXPLAIN {}", query(10))).await.concat();
    assert!(small.contains("TopK(fetch=10)"), "{small}");
    let large = rows(&context, &format!("EXPLAIN {}", query(11))).await.concat();
    assert!(large.contains("SortExec") && !large.contains("TopK"), "{large}");
    assert_eq!(rows(&context, &query(11)).await, ["990", "989"]);
}
