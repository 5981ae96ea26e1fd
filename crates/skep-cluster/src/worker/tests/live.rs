//! Plans of this very process, run more than once; and plans made for one task.

use std::sync::Arc;

use datafusion::datasource::MemTable;
use datafusion::physical_expr::expressions::{DynamicFilterPhysicalExpr, lit};
use datafusion::physical_plan::displayable;
use datafusion::physical_plan::filter::FilterExec;
use skep_engine::{CachedInputs, CachedRows, CachedSource, RowsWanted};

use super::super::live::LivePlan;
use super::super::program::{Inputs, QueryContext, StageEntry};
use super::rows::{RowsExec, number_schema, numbered, numbers};
use super::*;
use crate::exchange::plan::TaskInputs;
use crate::scheduler::TaskFailure;
use crate::stage_planner::{Place, Stage};

fn live_stage(plan: Arc<dyn ExecutionPlan>) -> Arc<Stage> {
    let task_count = plan.output_partitioning().partition_count();
    let place = Place::Coordinator { why: "a test".to_owned() };
    let output = Output::Gather;
    Arc::new(Stage {
        id: StageId(0),
        plan,
        task_count,
        inputs: vec![],
        output,
        place,
        lineage_of: None,
    })
}

async fn session(partitions: usize) -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(partitions).with_batch_size(100);
    // As the stage planner does: it would wait for partitions of other tasks.
    config.options_mut().optimizer.enable_join_dynamic_filter_pushdown = false;
    let session = SessionContext::new_with_config(config);
    let slices = (0..4).map(|i| vec![numbered(i * 1000, 1000)]).collect();
    let table = MemTable::try_new(number_schema(), slices).unwrap();
    session.register_table("t", Arc::new(table)).unwrap();
    session
}

#[tokio::test]
async fn another_attempt_of_a_live_stage_gives_the_same_rows() {
    let session = session(4).await;
    let queries = [
        ("SELECT number + (SELECT max(number) FROM t) AS n FROM t", "ScalarSubqueryExec"),
        ("SELECT sum(number) AS n FROM t GROUP BY number % 7", "AggregateExec"),
        ("SELECT a.number AS n FROM t a JOIN t b ON a.number = b.number", "HashJoinExec"),
    ];
    for (query, operator) in queries {
        let frame = session.sql(query).await.unwrap();
        let context = Arc::new(frame.task_ctx());
        let plan = frame.create_physical_plan().await.unwrap();
        let shown = displayable(plan.as_ref()).indent(false).to_string();
        assert!(shown.contains(operator), "{shown}");
        let stage = live_stage(plan);
        let mut site = Fixture::new();
        let program = StageProgram::Live { stage: Arc::clone(&stage), context };
        site.runner.perform(Command::Plan { query: QueryId(1), stage: StageId(0), program });
        let mut answers = Vec::new();
        for number in 0..3 {
            let mut all = Vec::new();
            // A later attempt before the last first one: they share the plan.
            for task in (0..stage.task_count).rev() {
                let this = attempt(1, 0, task, number);
                site.finish(this, vec![]).await;
                all.extend(numbers(&site.read(this, 0).await));
                if number == 0 {
                    site.finish(attempt(1, 0, task, 9), vec![]).await;
                }
            }
            all.sort_unstable();
            answers.push(all);
        }
        assert!(!answers[0].is_empty());
        assert!(answers[1] == answers[0] && answers[2] == answers[0], "{query}");
    }
}

#[tokio::test]
async fn filters_that_an_earlier_run_left_are_opened_when_nobody_runs() {
    let filter = Arc::new(DynamicFilterPhysicalExpr::new(vec![], lit(true)));
    let rows = RowsExec::batches(vec![numbered(0, 10)]);
    let plan = FilterExec::try_new(Arc::clone(&filter) as _, rows).unwrap();
    let context = SessionContext::new().task_ctx();
    let live = LivePlan::new(live_stage(Arc::new(plan)), Arc::clone(&context));
    let first = live.lease(Attempt(0)).await.unwrap();
    filter.update(lit(false)).unwrap();
    let second = live.lease(Attempt(1));
    let mut second = Box::pin(second);
    // Not while the first one runs.
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    let second = second.await.unwrap();
    let rows = second.plan().execute(0, Arc::clone(&context)).unwrap();
    let rows: Vec<RecordBatch> = rows.try_collect().await.unwrap();
    assert_eq!(numbers(&rows).len(), 10);
}

#[tokio::test]
async fn figures_of_a_shared_plan_are_counted_once() {
    let session = session(4).await;
    let frame = session.sql("SELECT number + 1 AS n FROM t WHERE number % 2 = 0").await.unwrap();
    let context = Arc::new(frame.task_ctx());
    let stage = live_stage(frame.create_physical_plan().await.unwrap());
    assert_eq!(stage.task_count, 4);
    let mut site = Fixture::new();
    let program = StageProgram::Live { stage, context };
    site.runner.perform(Command::Plan { query: QueryId(1), stage: StageId(0), program });
    let mut totals: HashMap<String, u64> = HashMap::new();
    for task in 0..4 {
        let outcome = site.run(attempt(1, 0, task, 0), vec![]).await;
        let TaskOutcome::Finished { operators, .. } = outcome else { panic!("{outcome:?}") };
        for operator in operators {
            let rows = operator.metrics.iter().find(|metric| metric.name == "output_rows");
            *totals.entry(operator.operator).or_default() += rows.map_or(0, |rows| rows.value);
        }
    }
    assert_eq!((totals["ProjectionExec"], totals["FilterExec"]), (2000, 2000), "{totals:?}");
}

#[tokio::test]
async fn a_decoded_plan_is_narrowed_to_its_task() {
    let session = session(4).await;
    let query = "SELECT a.number FROM t a JOIN t b ON a.number = b.number";
    let plan = session.sql(query).await.unwrap().create_physical_plan().await.unwrap();
    let shown = displayable(plan.as_ref()).indent(false).to_string();
    assert!(shown.contains("mode=CollectLeft"), "{shown}");
    let site = Fixture::new();
    let decodable = Arc::clone(&plan);
    let program =
        site.programs.add(move |_context| Ok(decoded(Arc::clone(&decodable), Output::Gather)));
    let entry = StageEntry::new(program, &Arc::<QueryContext>::default());
    let inputs = || Inputs {
        exchange: TaskInputs(Arc::new(NoInputs)),
        cached: CachedInputs(Arc::new(NoInputs)),
    };
    let decoder = site.programs.as_ref();
    let task = entry.prepare(attempt(1, 0, 2, 0), inputs(), decoder, &site.runtime).await.unwrap();
    let shown = displayable(task.plan.as_ref()).indent(false).to_string();
    assert!(shown.contains("OnePartitionExec: partition=2"), "{shown}");
    assert_eq!((task.partition, task.task_count), (0, 4));
    // The attempt's own inputs, on the query's settings.
    let config = task.context.session_config();
    assert!(config.get_extension::<TaskInputs>().is_some());
    assert_eq!(config.batch_size(), 100);
    let beyond = entry.prepare(attempt(1, 0, 4, 0), inputs(), decoder, &site.runtime).await;
    assert!(matches!(beyond, Err(TaskOutcome::Failed(TaskFailure::WorkerFault { .. }))));
}

#[derive(Debug)]
struct NoInputs;

impl crate::exchange::plan::ExchangeSource for NoInputs {
    fn open(
        &self,
        part: crate::exchange::plan::ExchangePart,
        _schema: SchemaRef,
        _context: &TaskContext,
    ) -> DataFusionResult<datafusion::execution::SendableRecordBatchStream> {
        Err(DataFusionError::Internal(format!("{part:?}")))
    }
}

impl CachedSource for NoInputs {
    fn open(&self, wanted: RowsWanted<'_>, _context: &TaskContext) -> DataFusionResult<CachedRows> {
        Err(DataFusionError::Internal(format!("{wanted:?}")))
    }
}
