//! The bound on recursive queries.

use super::{context, error, rows, run};

#[tokio::test]
async fn an_endless_recursion_ends_in_an_error() {
    let context = context();
    run(&context, "SET skep.max_recursion_depth = 50").await.expect("a setting");
    for sql in [
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n FROM r) SELECT count(*) FROM r",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION SELECT n + 1 FROM r) SELECT count(*) FROM r",
    ] {
        let error = error(&context, sql).await;
        assert!(error.contains("recursive query \"r\" is not done after 50 steps"), "{error}");
    }
}

#[tokio::test]
async fn the_setting_is_listed_and_checked() {
    let context = context();
    let sql = "SELECT value FROM information_schema.df_settings \
               WHERE name = 'skep.max_recursion_depth'";
    assert_eq!(rows(&context, sql).await, ["100000"]);
    let error = error(&context, "SET skep.max_recursion_depth = 'far'").await;
    assert!(error.contains("is a number of steps"), "{error}");
}

#[tokio::test]
async fn the_default_bound_holds() {
    let sql = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n FROM r) SELECT count(*) FROM r";
    let error = error(&context(), sql).await;
    assert!(error.contains("not done after 100000 steps"), "{error}");
}

#[tokio::test]
async fn recursions_that_end_are_not_disturbed() {
    let context = context();
    let sql = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 1000) \
               SELECT count(*), sum(n) FROM r";
    assert_eq!(rows(&context, sql).await, ["1000 500500"]);
    let sql = "WITH RECURSIVE r(n) AS (SELECT 1 UNION SELECT (n + 1) % 7 FROM r) \
               SELECT count(*) FROM r";
    assert_eq!(rows(&context, sql).await, ["7"]);
    // A step that gives no row is a step too: five rows take five.
    run(&context, "SET skep.max_recursion_depth = 5").await.expect("a setting");
    let sql = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) \
               SELECT count(*) FROM r";
    assert_eq!(rows(&context, sql).await, ["5"]);
}

#[tokio::test]
async fn a_limit_stops_an_endless_recursion() {
    let sql = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) \
               SELECT n FROM r LIMIT 10";
    assert_eq!(rows(&context(), sql).await.len(), 10);
}

#[tokio::test]
async fn a_plan_that_runs_twice_counts_anew() {
    let context = context();
    run(&context, "SET skep.max_recursion_depth = 60").await.expect("a setting");
    let sql = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 50) \
               SELECT n FROM r";
    let plan =
        context.sql(sql).await.expect("a plan").create_physical_plan().await.expect("a plan");
    for _ in 0..2 {
        let rows =
            datafusion::physical_plan::collect(std::sync::Arc::clone(&plan), context.task_ctx());
        let rows = rows.await.expect("rows").iter().map(|batch| batch.num_rows()).sum::<usize>();
        assert_eq!(rows, 50);
    }
}
