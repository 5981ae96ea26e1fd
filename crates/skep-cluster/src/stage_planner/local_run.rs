//! Runs stages task by task in this process, as if each task were in a process of its own.
//!
//! Every task gets a plan that was planned anew from the text of the query, so that nothing is
//! shared through an `Arc` that would not be shared between processes, and runs one partition of
//! it. Outputs are kept as batches. A reader of several producers gets theirs in turn, the last
//! producer first, so that an order which the exchange does not promise does not come about.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;
use skep_engine::{Engine, EngineConfig, Session};

use super::{StageOptions, StagePlan, StagePlanner, TaskPlan};
use crate::exchange::plan::{ExchangePart, ExchangeSource, TaskInputs};
use crate::ids::StageId;

/// A task that takes longer waits for something that never comes.
const TASK_LIMIT: Duration = Duration::from_secs(60);

/// A session of an engine of its own, and how its plans are cut.
#[derive(Debug)]
pub(super) struct LocalRun {
    pub(super) session: Session,
    pub(super) tasks: Tasks,
    options: StageOptions,
}

/// Which plan a task runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tasks {
    /// Its stage's.
    AsPlanned,
    /// One made for it.
    Narrowed,
}

impl LocalRun {
    pub(super) async fn new(target_partitions: usize) -> Self {
        let config =
            EngineConfig { target_partitions: Some(target_partitions), ..Default::default() };
        let session = Engine::open(config).await.unwrap().session();
        let options = StageOptions { target_partitions, min_scan_bytes_per_task: 64 * 1024 };
        Self { session, tasks: Tasks::AsPlanned, options }
    }

    pub(super) async fn command(&self, statement: &str) {
        self.session.execute(statement).await.unwrap().collect().await.unwrap();
    }

    /// Plans a query as for one process.
    pub(super) async fn whole(&self, query: &str) -> (SessionState, Arc<dyn ExecutionPlan>) {
        let (state, plan) = self.session.sql(query).await.unwrap().into_parts();
        let plan = state.create_physical_plan(&plan).await.unwrap();
        (state, plan)
    }

    /// Plans a query and cuts it.
    pub(super) async fn stages(&self, query: &str) -> StagePlan {
        let (_, plan) = self.whole(query).await;
        StagePlanner::new(self.options.clone()).plan(&plan).unwrap()
    }

    /// Answers a query in one process, from the plan that would be cut.
    pub(super) async fn answer_whole(&self, query: &str) -> Result<Vec<RecordBatch>> {
        let (state, plan) = self.whole(query).await;
        datafusion::physical_plan::collect(plan, state.task_ctx()).await
    }

    /// Answers a query from the stages, joined again.
    pub(super) async fn answer_rejoined(&self, query: &str) -> Result<Vec<RecordBatch>> {
        let plan = super::rejoin(&self.stages(query).await)?;
        let (state, _) = self.whole(query).await;
        datafusion::physical_plan::collect(plan, state.task_ctx()).await
    }

    /// Answers a query stage by stage and task by task.
    pub(super) async fn answer_in_stages(&self, query: &str) -> Result<Vec<RecordBatch>> {
        let outline = self.stages(query).await;
        let mut kept = Kept::default();
        for stage in &outline.stages {
            kept.schemas.insert(stage.id, stage.plan.schema());
            for task in 0..stage.task_count {
                let outputs = self.task(query, stage.id, task, &kept).await?;
                for (output, batches) in outputs.into_iter().enumerate() {
                    kept.batches.insert((stage.id, task, output), batches);
                }
            }
        }
        let last = outline.stages.last().unwrap();
        let tasks = 0..last.task_count;
        Ok(tasks.flat_map(|task| kept.batches[&(last.id, task, 0)].clone()).collect())
    }

    async fn task(
        &self,
        query: &str,
        stage: StageId,
        task: usize,
        kept: &Kept,
    ) -> Result<Vec<Vec<RecordBatch>>> {
        let (state, plan) = self.whole(query).await;
        let fresh = StagePlanner::new(self.options.clone()).plan(&plan)?;
        let stage = fresh.stage(stage).unwrap();
        let source = Arc::new(KeptForTask { kept: kept.clone(), allowed: stage.reads(task) });
        let config = state.config().clone().with_extension(Arc::new(TaskInputs(source)));
        let context = TaskContext::from(&state).with_session_config(config);
        let mut outputs = vec![Vec::new(); stage.output.partition_count()];
        let mut partitioner = stage.output.partitioner(task, stage.task_count, Time::new())?;
        let work = async {
            let options = context.session_config().options();
            let TaskPlan { plan, partition } = match self.tasks {
                Tasks::Narrowed => TaskPlan::new(&stage.plan, task, options)?,
                Tasks::AsPlanned => TaskPlan { plan: Arc::clone(&stage.plan), partition: task },
            };
            let mut stream = plan.execute(partition, Arc::new(context))?;
            while let Some(batch) = stream.try_next().await? {
                match &mut partitioner {
                    Some(partitioner) => partitioner.partition(batch, |output, batch| {
                        outputs[output].push(batch);
                        Ok(())
                    })?,
                    None => outputs[0].push(batch),
                }
            }
            Ok(outputs)
        };
        let late = |_| internal_datafusion_err!("{}.{task} of {query} waits for ever", stage.id);
        tokio::time::timeout(TASK_LIMIT, work).await.map_err(late)?
    }
}

/// What all tasks so far have written.
#[derive(Debug, Default, Clone)]
struct Kept {
    schemas: HashMap<StageId, SchemaRef>,
    batches: HashMap<(StageId, usize, usize), Vec<RecordBatch>>,
}

/// The same, of which a task sees what its stage says that it reads.
#[derive(Debug)]
struct KeptForTask {
    kept: Kept,
    allowed: Vec<ExchangePart>,
}

impl ExchangeSource for KeptForTask {
    fn open(
        &self,
        part: ExchangePart,
        _: SchemaRef,
        _: &TaskContext,
    ) -> Result<SendableRecordBatchStream> {
        let ExchangePart { producer, tasks, output } = part;
        let is_announced = self.allowed.iter().any(|known| {
            known.producer == producer
                && known.output == output
                && known.tasks.start <= tasks.start
                && tasks.end <= known.tasks.end
        });
        let unknown =
            || internal_datafusion_err!("{producer} {tasks:?} {output} was not announced");
        let announced = is_announced.then_some(()).ok_or_else(unknown);
        announced?;
        let mut queues = Vec::new();
        for task in tasks.clone().rev() {
            let batches = self.kept.batches.get(&(producer, task, output));
            let missing = || internal_datafusion_err!("{producer}.{task}.{output} is not there");
            queues.push(batches.ok_or_else(missing)?.clone().into_iter());
        }
        let mut batches = Vec::new();
        loop {
            let before = batches.len();
            batches.extend(queues.iter_mut().filter_map(Iterator::next));
            if batches.len() == before {
                break;
            }
        }
        let schema = Arc::clone(&self.kept.schemas[&producer]);
        let rows = futures::stream::iter(batches.into_iter().map(Ok));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}
