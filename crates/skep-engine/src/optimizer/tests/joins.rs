//! Filters and keys of joins: guarded where DataFusion errs, and DataFusion's everywhere else.

use datafusion::execution::SessionStateBuilder;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::displayable;
use datafusion::prelude::SessionContext;

use super::{context, rows, run, sorted};

/// Files of two columns each: only scans of files take filters.
async fn with_files(context: &SessionContext, directory: &std::path::Path) {
    for (name, columns) in [("t", ["id", "a"]), ("u", ["id", "b"]), ("v", ["c", "d"])] {
        let path = directory.join(format!("{name}.parquet")).display().to_string();
        let [first, second] = columns;
        for sql in [
            format!(
                "COPY (SELECT value AS {first}, 100 - value AS {second} \
                 FROM generate_series(1, 100) AS g(value)) TO '{path}'"
            ),
            format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{path}'"),
            "SET datafusion.execution.parquet.pushdown_filters = true".to_owned(),
        ] {
            run(context, &sql).await.expect("a table of a file");
        }
    }
}

async fn physical(context: &SessionContext, sql: &str) -> String {
    let plan = context.sql(sql).await.expect("a query").create_physical_plan().await;
    displayable(plan.expect("a plan").as_ref()).indent(true).to_string()
}

#[tokio::test]
async fn plans_without_repeated_names_are_datafusions() {
    let directory = tempfile::tempdir().expect("a directory");
    let ours = context();
    with_files(&ours, directory.path()).await;
    let rules = PhysicalOptimizer::new().rules;
    let state = SessionStateBuilder::new_from_existing(ours.state());
    let theirs = state.with_physical_optimizer_rules(rules).build();
    let theirs = SessionContext::new_with_state(theirs);
    for sql in [
        "SELECT a, d FROM t JOIN v ON id = c WHERE a < 50 AND d > 10 ORDER BY d LIMIT 3",
        "SELECT a, count(*) FROM t LEFT JOIN v ON id = c GROUP BY a HAVING a > 3",
        "SELECT id FROM t WHERE a IN (SELECT d FROM v WHERE c > 5)",
    ] {
        assert_eq!(physical(&ours, sql).await, physical(&theirs, sql).await, "{sql}");
    }
}

#[tokio::test]
async fn repeated_names_keep_filters_that_are_learnt() {
    let directory = tempfile::tempdir().expect("a directory");
    let context = context();
    with_files(&context, directory.path()).await;
    let sql = "SELECT t.id, u.id FROM t JOIN u ON t.a = u.b ORDER BY u.id DESC LIMIT 2";
    let plan = physical(&context, sql).await;
    // The build side's scan and the other one's, each for itself.
    assert!(plan.matches("DynamicFilter").count() >= 2, "{plan}");
    assert!(!plan.contains("PositionalExec"), "{plan}");
    assert_eq!(rows(&context, sql).await, ["100 100", "99 99"]);
}

#[tokio::test]
async fn both_kinds_of_equality_are_keys_of_one_join() {
    let context = context();
    let sql = "SELECT x.i, y.i FROM (VALUES (1, 1), (2, NULL), (NULL, NULL)) AS x(i, n) \
               JOIN (VALUES (1, 1), (2, NULL), (NULL, NULL)) AS y(i, n) \
               ON x.n IS NOT DISTINCT FROM y.n WHERE x.i = y.i";
    assert_eq!(sorted(&context, sql).await, ["1 1", "2 2"]);
    let plan = physical(&context, sql).await;
    assert!(plan.contains("(n@1, n@1), (i@0, i@0)"), "{plan}");
}
