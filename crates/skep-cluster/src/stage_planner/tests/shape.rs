//! What stages look like: claims of exchanges, places, what is cut and what is not.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, displayable};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::traps::{Joins, tables};
use super::{LocalRun, Order, assert_same, reasons};
use crate::exchange::plan::{Exchange, ExchangeReadExec, Output};
use crate::ids::StageId;
use crate::stage_planner::{
    Pattern, Place, StageOptions, StagePlan, StagePlanner, TaskPlan, explain,
};

async fn stages(run: &LocalRun, query: &str) -> (StagePlan, String) {
    let plan = run.stages(query).await;
    let text = explain(&plan);
    (plan, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_claims_the_order_that_it_keeps() {
    let (run, _directory) = tables(4, Joins::Collected).await;
    let (_, plan) = run.whole("SELECT k, v FROM big ORDER BY v").await;
    let sorted = Arc::clone(plan.children()[0]);
    assert_eq!(sorted.output_partitioning().partition_count(), 4);
    let order = sorted.output_ordering().unwrap().clone();
    let hash = || {
        let column = datafusion::physical_expr::expressions::col("k", &sorted.schema()).unwrap();
        Output::Hash { exprs: vec![column], partitions: 5 }
    };
    let read = |output: Output, exchange| {
        ExchangeReadExec::over(StageId(0), &sorted, &output, exchange).unwrap()
    };
    let ordering = |node: ExchangeReadExec| {
        let node: Arc<dyn ExecutionPlan> = Arc::new(node);
        (node.output_ordering().cloned(), node.output_partitioning().partition_count())
    };
    assert_eq!(ordering(read(Output::Gather, Exchange::Gather)), (None, 1));
    assert_eq!(ordering(read(Output::Broadcast, Exchange::Broadcast)), (None, 1));
    assert_eq!(ordering(read(hash(), Exchange::Shuffle)), (None, 5));
    assert_eq!(ordering(read(Output::RoundRobin { partitions: 2 }, Exchange::Shuffle)), (None, 2));
    assert_eq!(ordering(read(Output::Merge, Exchange::Merge)), (Some(order.clone()), 4));
    assert_eq!(ordering(read(Output::Forward, Exchange::Forward)), (Some(order.clone()), 4));
    let merged = read(hash(), Exchange::ShuffleMerge(order.clone()));
    assert_eq!(merged.parts(2).len(), 4);
    assert_eq!(ordering(merged), (Some(order), 5));
    assert!(ExchangeReadExec::over(StageId(0), &sorted, &hash(), Exchange::Gather).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_order_is_merged_by_the_reader() {
    for target_partitions in [3, 16] {
        let (mut run, directory) = tables(target_partitions, Joins::Collected).await;
        let path = directory.path().display();
        for part in 0..3 {
            let rows = format!("SELECT k, v FROM big WHERE v % 3 = {part} ORDER BY k, v");
            run.command(&format!("COPY ({rows}) TO '{path}/sorted_{part}.parquet'")).await;
        }
        run.command(&format!(
            "CREATE EXTERNAL TABLE sorted (k BIGINT, v BIGINT) STORED AS PARQUET \
             WITH ORDER (k, v) LOCATION '{path}/sorted_*.parquet'"
        ))
        .await;
        run.command("SET datafusion.optimizer.prefer_existing_sort = true").await;
        let query = "SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v) FROM sorted";
        let (_, text) = stages(&run, query).await;
        assert!(
            text.contains("shuffle merged by [k@0 ASC NULLS LAST, v@1 ASC NULLS LAST]"),
            "{text}"
        );
        assert_same(&mut run, query, Order::Any).await;
        assert_same(&mut run, "SELECT k, sum(v) FROM sorted GROUP BY k ORDER BY k", Order::Kept)
            .await;
        assert_same(&mut run, "SELECT k, v FROM sorted ORDER BY k, v LIMIT 20", Order::Kept).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_that_give_out_build_rows_are_partitioned_or_alone() {
    let (run, _directory) = tables(3, Joins::Collected).await;
    let (_, text) = stages(&run, "SELECT * FROM one FULL JOIN big ON one.k = big.k").await;
    assert!(text.contains("mode=Partitioned, join_type=Full"), "{text}");
    let (_, text) = stages(&run, "SELECT * FROM one JOIN big ON one.k = big.k").await;
    assert!(text.contains("mode=CollectLeft, join_type=Inner"), "{text}");
    assert!(text.contains("broadcast, producer_tasks=1"), "{text}");
    let query = "SELECT a FROM l WHERE k NOT IN (SELECT k FROM r)";
    let (plan, text) = stages(&run, query).await;
    let join = plan.stages.iter().find(|stage| {
        displayable(stage.plan.as_ref()).indent(false).to_string().contains("null_aware")
    });
    assert_eq!(join.map(|stage| stage.task_count), Some(1), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_stops_the_tasks_below_the_gather() {
    let (run, _directory) = tables(3, Joins::Collected).await;
    let query = "SELECT k, v FROM big WHERE v % 2 = 0 LIMIT 11";
    let (plan, text) = stages(&run, query).await;
    assert!(matches!(plan.stages[0].output, Output::Gather), "{text}");
    assert_eq!(plan.stages[0].plan.fetch(), Some(11), "{text}");
    assert!(text.contains("GlobalLimitExec: skip=0, fetch=11"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_union_gives_each_task_its_own_input() {
    let (run, _directory) = tables(3, Joins::Collected).await;
    let query = "SELECT k, count(*) FROM big GROUP BY k UNION ALL SELECT k, max(a) FROM l GROUP BY k \
                 UNION ALL SELECT max(k + 1), 0 FROM r";
    let (plan, text) = stages(&run, query).await;
    let last = plan.stages.last().unwrap();
    let inputs: Vec<_> =
        last.inputs.iter().map(|input| (input.tasks.clone(), input.pattern.clone())).collect();
    let each = || Pattern::OneToOne;
    assert_eq!(inputs, [(0..3, each()), (3..6, each()), (6..7, each())], "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_robin_over_a_scan_is_a_wider_scan_or_none() {
    let (run, directory) = tables(16, Joins::Collected).await;
    let path = directory.path().display();
    let query = "SELECT k, count(*) FROM big WHERE v > 10 GROUP BY k";
    let (_, whole) = run.whole(query).await;
    let whole = displayable(whole.as_ref()).indent(false).to_string();
    assert!(whole.contains("RoundRobinBatch(16)"), "{whole}");
    let (plan, text) = stages(&run, query).await;
    assert!(!text.contains("round robin"), "{text}");
    assert_eq!(plan.stages[0].task_count, 4, "{text}");
    // Worth splitting, by the byte: as wide as the cluster.
    let bytewise = StageOptions { target_partitions: 16, min_scan_bytes_per_task: 1, slots: None };
    let (_, plan) = run.whole(query).await;
    let plan = StagePlanner::new(bytewise.clone()).plan(&plan).unwrap();
    assert!(plan.stages[0].task_count > 4, "{}", explain(&plan));
    // Worth it, but compressed text cannot be split.
    run.command(&format!(
        "COPY big TO '{path}/big.csv.gz' STORED AS CSV OPTIONS ('format.compression' 'gzip')"
    ))
    .await;
    let query = format!("SELECT k, count(*) FROM '{path}/big.csv.gz' GROUP BY k");
    let (_, plan) = run.whole(&query).await;
    let plan = StagePlanner::new(bytewise).plan(&plan).unwrap();
    assert!(matches!(plan.stages[0].output, Output::RoundRobin { .. }), "{}", explain(&plan));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_travel_stays_on_the_coordinator() {
    let (run, _directory) = tables(3, Joins::Collected).await;
    let (plan, text) = stages(&run, "SELECT table_name FROM information_schema.tables").await;
    assert_eq!(plan.stages.len(), 1, "{text}");
    assert_eq!(reasons(&plan), ["reads a table of the coordinator's own"]);
    let query = "SELECT k FROM big UNION ALL SELECT * FROM (VALUES (1), (2))";
    let (plan, text) = stages(&run, query).await;
    assert_eq!(reasons(&plan), ["reads rows held in the coordinator's memory"], "{text}");
    assert_eq!(plan.stages.last().unwrap().place, Place::Workers, "{text}");
    assert!(matches!(plan.stages[0].output, Output::Forward), "{text}");
    let query = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) \
                 SELECT * FROM big JOIN n ON big.k = n.i";
    let (plan, text) = stages(&run, query).await;
    assert_eq!(reasons(&plan), ["runs a recursive query"], "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_and_measurements_run_in_one_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    let config = SessionConfig::new().with_target_partitions(3);
    let context = SessionContext::new_with_config(config);
    for part in 0..3 {
        let copy = format!("COPY (SELECT {part} AS k) TO '{path}/t/{part}.parquet'");
        context.sql(&copy).await.unwrap().collect().await.unwrap();
    }
    let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{path}/t/'");
    context.sql(&create).await.unwrap().collect().await.unwrap();
    let plan = async |statement: &str| {
        let plan = context.sql(statement).await.unwrap().create_physical_plan().await.unwrap();
        StagePlanner::new(StageOptions::for_width(3)).plan(&plan).unwrap()
    };
    let write = plan(&format!("COPY (SELECT k + 1 AS k FROM t) TO '{path}/out.parquet'")).await;
    let text = explain(&write);
    assert_eq!(reasons(&write), ["writes, which one process does"], "{text}");
    assert_eq!(write.stages[0].place, Place::Workers, "{text}");
    assert_eq!(write.stages.last().unwrap().task_count, 1, "{text}");
    let measured = plan("EXPLAIN ANALYZE SELECT count(*) FROM t").await;
    assert_eq!(measured.stages.len(), 1, "{}", explain(&measured));
    assert_eq!(reasons(&measured), ["measures a plan in one process"]);
    let explained = plan("EXPLAIN SELECT count(*) FROM t").await;
    assert_eq!(reasons(&explained), ["explains a plan"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_gets_the_filter_of_its_own_broadcast_back() {
    let (run, _directory) = tables(4, Joins::Collected).await;
    let query = "SELECT k, g, count(*) FROM one JOIN big USING (k) GROUP BY k, g";
    let (plan, text) = stages(&run, query).await;
    let stage = plan.stages.iter().find(|stage| stage.task_count == 4).unwrap();
    let options = run.whole(query).await.0.config_options().as_ref().clone();
    let filters = |plan: &Arc<dyn ExecutionPlan>| {
        let mut found = 0;
        plan.apply(|node| {
            found += node.dynamic_expressions_produced().len();
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        found
    };
    assert_eq!(filters(&stage.plan), 0, "{text}");
    let TaskPlan { plan, partition } = TaskPlan::new(&stage.plan, 2, &options).unwrap();
    assert_eq!((filters(&plan), partition), (1, 0));
    let narrow = displayable(plan.as_ref()).indent(false).to_string();
    assert!(narrow.contains("OnePartitionExec: partition=2"), "{narrow}");
    assert_eq!(plan.output_partitioning().partition_count(), 1, "{narrow}");
}
