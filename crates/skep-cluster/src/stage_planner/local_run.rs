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
use skep_engine::{
    CachedInputs, CachedRows, CachedSource, Engine, EngineConfig, RowsWanted, Session,
    TaskSettings, as_cached,
};

use super::{Place, StageOptions, StagePlan, StagePlanner, TaskPlan};
use crate::codec::stage::write;
use crate::codec::{DecodedStage, decode_stage, encode_stage};
use crate::exchange::plan::{ExchangePart, ExchangeSource, TaskInputs};
use crate::ids::StageId;

/// A task that takes longer waits for something that never comes.
const TASK_LIMIT: Duration = Duration::from_secs(60);

/// A session of an engine of its own, and how its plans are cut.
#[derive(Debug)]
pub(crate) struct LocalRun {
    pub(crate) session: Session,
    pub(crate) tasks: Tasks,
    options: StageOptions,
}

/// Which plan a task runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tasks {
    /// Its stage's.
    AsPlanned,
    /// One made for it.
    Narrowed,
    /// One made for it out of bytes, in a context made of bytes, as on a worker.
    Decoded,
}

impl LocalRun {
    pub(crate) async fn new(target_partitions: usize) -> Self {
        let config =
            EngineConfig { target_partitions: Some(target_partitions), ..Default::default() };
        let session = Engine::open(config).await.unwrap().session();
        let options =
            StageOptions { target_partitions, min_scan_bytes_per_task: 64 * 1024, slots: None };
        Self::over(session, options)
    }

    pub(crate) fn over(session: Session, options: StageOptions) -> Self {
        Self { session, tasks: Tasks::AsPlanned, options }
    }

    pub(crate) async fn command(&self, statement: &str) {
        self.session.execute(statement).await.unwrap().collect().await.unwrap();
    }

    /// Plans a query as for one process.
    pub(crate) async fn whole(&self, query: &str) -> (SessionState, Arc<dyn ExecutionPlan>) {
        let (state, plan) = self.session.sql(query).await.unwrap().into_parts();
        let plan = state.create_physical_plan(&plan).await.unwrap();
        (state, plan)
    }

    /// Plans a query and cuts it.
    pub(crate) async fn stages(&self, query: &str) -> StagePlan {
        let (_, plan) = self.whole(query).await;
        StagePlanner::new(self.options.clone()).plan(&plan).unwrap()
    }

    /// Answers a query in one process, from the plan that would be cut.
    pub(crate) async fn answer_whole(&self, query: &str) -> Result<Vec<RecordBatch>> {
        let (state, plan) = self.whole(query).await;
        datafusion::physical_plan::collect(plan, state.task_ctx()).await
    }

    /// Answers a query from the stages, joined again.
    pub(crate) async fn answer_rejoined(&self, query: &str) -> Result<Vec<RecordBatch>> {
        let plan = super::rejoin(&self.stages(query).await)?;
        let (state, _) = self.whole(query).await;
        datafusion::physical_plan::collect(plan, state.task_ctx()).await
    }

    /// Answers a query stage by stage and task by task.
    pub(crate) async fn answer_in_stages(&self, query: &str) -> Result<Vec<RecordBatch>> {
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
        let (context, decoded) = match (self.tasks, &stage.place) {
            (Tasks::Decoded, Place::Workers | Place::Anywhere) => {
                let encoded = encode_stage(stage, &TaskContext::from(&state))?;
                let settings = TaskSettings::from_bytes(&encoded.settings)?;
                let context = settings.task_context(state.runtime_env())?;
                let decoded = decode_stage(&encoded.program, &context)?;
                let again = write(&decoded.plan, &decoded.output, decoded.task_count)?;
                // What is made of a lineage is written with the name of its table.
                if stage.lineage_of.is_none() {
                    assert_eq!(again, encoded.program, "{} of {query}", stage.id);
                }
                (context, decoded)
            }
            _ => {
                let (plan, output) = (Arc::clone(&stage.plan), stage.output.clone());
                let task_count = stage.task_count;
                (
                    TaskContext::from(&state),
                    DecodedStage { plan, output, task_count, lineage_of: None },
                )
            }
        };
        let DecodedStage { plan, output, task_count, .. } = decoded;
        let config = context.session_config().clone();
        let cached = CachedInputs(Arc::clone(&source) as _);
        let config = config.with_extension(Arc::new(TaskInputs(source)));
        let config = config.with_extension(Arc::new(cached));
        let context = context.with_session_config(config);
        let mut outputs = vec![Vec::new(); output.partition_count()];
        let mut partitioner = output.partitioner(task, task_count, Time::new())?;
        let work = async {
            let options = context.session_config().options();
            let TaskPlan { plan, partition } = match self.tasks {
                Tasks::Narrowed | Tasks::Decoded => TaskPlan::new(&plan, task, options)?,
                Tasks::AsPlanned => TaskPlan { plan, partition: task },
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

impl KeptForTask {
    fn check(&self, part: &ExchangePart) -> Result<()> {
        let ExchangePart { producer, tasks, output, .. } = part;
        let is_announced = self.allowed.iter().any(|known| {
            known.producer == *producer
                && known.output == *output
                && known.tasks.start <= tasks.start
                && tasks.end <= known.tasks.end
        });
        let unknown =
            || internal_datafusion_err!("{producer} {tasks:?} {output} was not announced");
        is_announced.then_some(()).ok_or_else(unknown)
    }
}

impl CachedSource for KeptForTask {
    fn open(&self, wanted: RowsWanted<'_>, _: &TaskContext) -> Result<CachedRows> {
        let RowsWanted { shape, producer, partition, projection, schema } = wanted;
        let producer = StageId(producer);
        let tasks = partition..partition + 1;
        self.check(&ExchangePart { producer, tasks, output: 0, is_for_all: false })?;
        let batches = self.kept.batches.get(&(producer, partition, 0));
        let missing = || internal_datafusion_err!("{producer}.{partition} is not there");
        let projected =
            |batch: &RecordBatch| Ok(as_cached(batch.clone(), &shape.schema)?.project(projection)?);
        let rows: Vec<_> = batches.ok_or_else(missing)?.iter().map(projected).collect();
        let rows = RecordBatchStreamAdapter::new(Arc::clone(schema), futures::stream::iter(rows));
        Ok(CachedRows::Plain(Box::pin(rows)))
    }
}

impl ExchangeSource for KeptForTask {
    fn open(
        &self,
        part: ExchangePart,
        _: SchemaRef,
        _: &TaskContext,
    ) -> Result<SendableRecordBatchStream> {
        self.check(&part)?;
        let ExchangePart { producer, tasks, output, .. } = part;
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
