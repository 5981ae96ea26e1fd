//! Constants with the scale of what they are added to.

use datafusion::prelude::SessionContext;

use super::{context, rows};

const TABLE: &str = "CREATE TABLE t AS SELECT CAST(0.05 AS DECIMAL(15, 2)) AS d, \
                     CAST(7 AS DECIMAL(38, 0)) AS w, 2 AS i";

#[tokio::test]
async fn a_constant_has_the_scale_of_what_it_is_added_to() {
    let context = context();
    rows(&context, TABLE).await;
    for (sql, has) in [
        ("SELECT 1 - d AS x FROM t", "Decimal128(1.00,22,2) - t.d"),
        ("SELECT d + 1 AS x FROM t", "t.d + Decimal128(1.00,22,2)"),
        ("SELECT i FROM t WHERE 1 + d > 0.5", "Decimal128(1.00,22,2) + t.d"),
        // More decimal places than the column has cannot go, and products have the scales of both.
        ("SELECT d + CAST(0.125 AS DECIMAL(4, 3)) AS x FROM t", "t.d + Decimal128(0.125,4,3)"),
        ("SELECT d * 3 AS x FROM t", "t.d * Decimal128(3,20,0)"),
    ] {
        let plan = rows(&context, &format!("EXPLAIN {sql}")).await.join("\n");
        assert!(plan.contains(has), "{sql}: {plan}");
    }
}

#[tokio::test]
async fn the_scale_of_a_constant_changes_no_value_and_no_type() {
    let (ours, plain) = (context(), SessionContext::new());
    let query = "SELECT arrow_typeof(1 - d), arrow_typeof(d + 1), 1 - d, d + 1, d - 1, 1 + w, d + i, \
                 1.5 + w, d - NULL, sum(10 * (1 - d)) OVER () FROM t";
    let mut answers = Vec::new();
    for context in [&ours, &plain] {
        rows(context, TABLE).await;
        answers.push(rows(context, query).await);
    }
    assert_eq!(answers[0], answers[1]);
}
