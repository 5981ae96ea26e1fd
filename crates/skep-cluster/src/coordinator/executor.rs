//! The engine's executor over the cluster.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::analyze::AnalyzeExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use skep_engine::{
    Deadline, Error, LocalExecutor, QueryExecutor, QueryText, Result, code_groups, mask_secrets,
};
use tokio::sync::mpsc;
use tracing::info;

use super::Shared;
use super::analyze::Analysis;
use super::driver::{Request, Submission, TaskOperators};
use super::effort::work;
use super::graph::{place, query_graph};
use super::replicas::AWAITED;
use super::result::{Lease, ResultReader};
use crate::cache::AroundRefused;
use crate::cache::directory::Purpose;
use crate::codec;
use crate::membership::WorkerInfo;
use crate::scheduler::{QuerySettings, StagePlace};
use crate::stage_planner::{self, Place, Resume, StageOptions, StagePlan, StagePlanner};
use crate::worker::StageProgram;

/// Runs plans on the workers of a coordinator.
#[derive(Debug)]
pub struct ClusterExecutor {
    shared: Arc<Shared>,
}

/// Where a query runs.
enum Route {
    /// In this process, for this reason.
    Here(String),
    /// On the cluster.
    Cluster { stages: StagePlan, programs: Vec<StageProgram> },
}

impl ClusterExecutor {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn route(&self, plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> Result<Route> {
        let snapshot = Arc::clone(&self.shared.snapshot.borrow());
        let slots =
            |worker: &WorkerInfo| (worker.registration.life, worker.registration.slot_count);
        let options = StageOptions {
            target_partitions: context.session_config().target_partitions(),
            min_scan_bytes_per_task: self.shared.options.min_scan_bytes_per_task,
            slots: Some(snapshot.live().map(slots).collect()),
        };
        let planner = StagePlanner::new(options);
        let stages = over_codes(planner.plan(plan)?)?;
        if stages.tables.is_empty()
            && let Some(why) = self.stays_here(plan, &stages)
        {
            return Ok(Route::Here(why));
        }
        match self.programs(&stages, context)? {
            Ok(programs) => Ok(Route::Cluster { stages, programs }),
            Err(why) if stages.tables.is_empty() => Ok(Route::Here(why)),
            // Here too, but for the cached tables, which only tasks can read.
            Err(why) => {
                let stages = over_codes(planner.plan_whole(plan, why)?)?;
                match self.programs(&stages, context)? {
                    Ok(programs) => Ok(Route::Cluster { stages, programs }),
                    Err(why) => Err(internal(&why)),
                }
            }
        }
    }

    /// Says why a query is better run in this process, if it is.
    fn stays_here(&self, plan: &Arc<dyn ExecutionPlan>, stages: &StagePlan) -> Option<String> {
        let last = stages.stages.len().saturating_sub(1);
        let mut places =
            stages.stages.iter().enumerate().map(|(index, stage)| place(stage, index == last));
        let has_work = stages.stages.iter().any(|stage| stage.place == Place::Workers);
        if !has_work || !places.any(|place| place == StagePlace::Workers) {
            return Some("nothing in it is for workers".to_owned());
        }
        if stages.stages.len() == 1 && flows(plan) {
            // What workers make is kept until it is read. Rows that nothing gathers can do better:
            // they are made no faster than the client takes them.
            return Some("its rows flow as they are read".to_owned());
        }
        let bound = self.shared.options.small_query_bytes;
        let is_small = work(plan).is_some_and(|bytes| bytes <= bound);
        is_small.then(|| format!("is worth no more than {bound} bytes of files"))
    }

    /// Makes what the tasks of each stage run; or says why that cannot travel.
    fn programs(
        &self,
        stages: &StagePlan,
        context: &Arc<TaskContext>,
    ) -> Result<Result<Vec<StageProgram>, String>> {
        let last = stages.stages.len().saturating_sub(1);
        let mut programs: Vec<Option<StageProgram>> = vec![None; stages.stages.len()];
        for used in &stages.tables {
            for (idx, program) in used.table.programs(used.offset)?.into_iter().enumerate() {
                programs[used.offset + idx] = Some(program);
            }
        }
        let settings = codec::encode_settings(context)?;
        for (index, stage) in stages.stages.iter().enumerate() {
            if programs[index].is_some() {
                continue;
            }
            programs[index] = Some(match place(stage, index == last) {
                StagePlace::Coordinator => StageProgram::Live {
                    stage: Arc::new(stage.clone()),
                    context: Arc::clone(context),
                },
                StagePlace::Workers => match codec::encode_stage_with(stage, &settings, context) {
                    Ok(encoded) => StageProgram::Encoded(encoded),
                    Err(error) => {
                        return Ok(Err(format!("stage {} cannot travel: {error}", stage.id)));
                    }
                },
            });
        }
        Ok(Ok(programs.into_iter().flatten().collect()))
    }

    async fn submit(
        &self,
        stages: &StagePlan,
        programs: Vec<StageProgram>,
        context: &Arc<TaskContext>,
        keeps_operators: bool,
    ) -> Result<ResultReader> {
        let shared = &self.shared;
        let query = shared.name_query(context);
        let tables = stages.tables.iter().flat_map(|used| used.table.begin_use()).collect();
        let mut graph = query_graph(stages).map_err(DataFusionError::from)?;
        let snapshot = Arc::clone(&shared.snapshot.borrow());
        shared.cache.tell(&mut graph, &snapshot, Purpose::Read);
        let result = stages.stages.last().ok_or_else(|| internal("a query without a stage"))?;
        #[expect(
            clippy::disallowed_methods,
            reason = "as many notices as there are attempts of result tasks, and the driver never waits"
        )]
        let (notices, inbox) = mpsc::unbounded_channel();
        let deadline = context.session_config().get_extension::<Deadline>();
        let timeout = deadline.as_ref().map(|deadline| deadline.remaining());
        let submission = Submission {
            query,
            graph,
            settings: QuerySettings { timeout, weight: AWAITED },
            programs,
            text: shown_text(context),
            keeps_operators,
            notices,
        };
        let fetcher = shared.fetcher.for_task(context.memory_pool());
        let shape = (result.plan.schema(), result.task_count);
        let resume = match stage_planner::resume(&stages.stages) {
            // Where its last key has more rows than can be remembered, the output must be one that
            // is not lost once it is sealed.
            Resume::Sorted(_) if place(result, true) == StagePlace::Workers => Resume::Never,
            resume => resume,
        };
        let lease = Lease::new(Arc::clone(shared), query, deadline).using(tables);
        let reader = ResultReader::new(lease, shape, resume, inbox, fetcher);
        let sent = shared.requests.send(Request::Submit(Box::new(submission))).await;
        sent.map_err(|_ended| Error::Cancelled)?;
        Ok(reader)
    }
}

impl ClusterExecutor {
    /// Runs a query in this process.
    async fn run_here(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let deadline = context.session_config().get_extension::<Deadline>();
        let query = self.shared.name_query(&context);
        let begun = self.shared.local.begin(query, shown_text(&context), deadline).of(&plan);
        match LocalExecutor.execute(plan, context).await {
            Ok(rows) => Ok(begun.follow(rows)),
            Err(error) => {
                begun.fail(&error);
                Err(error)
            }
        }
    }

    /// Runs a query for the figures of its operators alone.
    async fn analyze(
        &self,
        schema: SchemaRef,
        stages: &StagePlan,
        programs: Vec<StageProgram>,
        context: &Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let reader = self.submit(stages, programs, context, true).await?;
        let mut analysis = Analysis::new(stages);
        for TaskOperators { stage, partition, operators } in reader.drain().await? {
            analysis.record(stage, partition, &operators);
        }
        let (parts, plans): (Vec<_>, Vec<_>) = analysis.sections().into_iter().unzip();
        let columns: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from(parts)), Arc::new(StringArray::from(plans))];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns);
        let rows = futures::stream::iter([batch.map_err(DataFusionError::from)]);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

/// Returns the statement that a query came from, as others may see it.
pub(super) fn shown_text(context: &TaskContext) -> Option<Arc<str>> {
    let text = context.session_config().get_extension::<QueryText>()?;
    Some(mask_secrets(&text.0).into())
}

fn internal(message: &str) -> Error {
    Error::Internal { message: message.to_owned(), source: None }
}

/// Has groups over cached tables done over codes. Here rather than in the engine: before, it was not
/// known which partitions lie where, and which are read from files.
fn over_codes(mut stages: StagePlan) -> Result<StagePlan> {
    for stage in stages.stages.iter_mut().filter(|stage| stage.lineage_of.is_none()) {
        stage.plan = code_groups(Arc::clone(&stage.plan)).map_err(Error::from)?;
    }
    Ok(stages)
}

/// Tells whether a plan gives its first rows before it has read its last: nothing in it gathers,
/// sorts or builds.
fn flows(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let passes = plan.children().is_empty()
        || plan.is::<FilterExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<CooperativeExec>()
        || plan.is::<UnionExec>()
        || plan.is::<CoalescePartitionsExec>()
        || plan.is::<LocalLimitExec>()
        || plan.is::<GlobalLimitExec>();
    passes && plan.children().into_iter().all(flows)
}

#[async_trait]
impl QueryExecutor for ClusterExecutor {
    async fn execute(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if let Some(analyze) = plan.downcast_ref::<AnalyzeExec>() {
            let input = AroundRefused::of(analyze.input())?;
            input.begin(&context).await?;
            let route = self.route(&input.plan, &context)?;
            if let Route::Cluster { stages, programs } = route {
                return self.analyze(plan.schema(), &stages, programs, &context).await;
            }
            return self.run_here(plan, context).await;
        }
        let around = AroundRefused::of(&plan)?;
        around.begin(&context).await?;
        let plan = around.plan;
        match self.route(&plan, &context)? {
            Route::Here(why) => {
                info!(why, "a query runs on the coordinator");
                self.run_here(plan, context).await
            }
            Route::Cluster { stages, programs } => {
                let reader = self.submit(&stages, programs, &context, false).await?;
                Ok(reader.into_stream())
            }
        }
    }

    async fn explain(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<(String, String)>> {
        let text =
            |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(false).to_string();
        let plan = &AroundRefused::of(plan)?.plan;
        Ok(match self.route(plan, context)? {
            Route::Here(why) => vec![(format!("on the coordinator: {why}"), text(plan))],
            Route::Cluster { stages, .. } => {
                // What makes cached tables is no part of the query, as long as they are kept.
                let stages = stages.stages.iter().filter(|stage| stage.lineage_of.is_none());
                stages.map(|stage| (stage_planner::headline(stage), text(&stage.plan))).collect()
            }
        })
    }

    fn target_partitions(&self) -> Option<usize> {
        let slots = self.shared.snapshot.borrow().slot_count();
        Some(slots.max(1))
    }
}
