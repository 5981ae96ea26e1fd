//! What the tasks of a stage run, made ready for one attempt.
//!
//! **Invariant:** a plan instance serves one attempt of a task. What travelled is decoded anew for
//! each; what is of this process is reset for each attempt after the first ([`live`](super::live)).

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;
use skep_engine::CachedInputs;

use super::command::{EncodedStage, StageProgram, TaskOutcome};
use super::failure;
use super::live::{LiveLease, LivePlan};
use super::metrics::Scope;
use crate::codec::DecodedStage;
use crate::exchange::plan::{Output, TaskInputs};
use crate::scheduler::{TaskAttempt, TaskFailure};
use crate::stage_planner::TaskPlan;

/// Makes runnable plans out of bytes, and sense of what goes wrong in them.
#[async_trait]
pub trait StageDecoder: fmt::Debug + Send + Sync + 'static {
    /// Makes the context of a query out of the session's settings.
    ///
    /// # Errors
    /// If the bytes are not settings, or a setting has no meaning here.
    fn task_context(
        &self,
        settings: &[u8],
        runtime: &Arc<RuntimeEnv>,
    ) -> skep_engine::Result<Arc<TaskContext>>;

    /// Makes a new instance of a stage.
    ///
    /// # Errors
    /// If the bytes are not a stage, or name what is not here.
    fn decode(&self, program: &[u8], context: &TaskContext) -> DataFusionResult<DecodedStage>;

    /// Makes an error of the engine out of what a running plan failed with.
    async fn explain(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        context: &Arc<TaskContext>,
        error: DataFusionError,
    ) -> skep_engine::Error;
}

/// Where one attempt finds what it reads.
#[derive(Debug, Clone)]
pub(super) struct Inputs {
    pub(super) exchange: TaskInputs,
    pub(super) cached: CachedInputs,
}

/// What a site keeps of a stage whose plan arrived.
#[derive(Debug)]
pub(super) struct StageEntry {
    program: KeptProgram,
    context: Arc<QueryContext>,
}

#[derive(Debug)]
enum KeptProgram {
    Encoded(EncodedStage),
    Live(LivePlan),
}

/// The context of a query, made when its first attempt runs.
#[derive(Debug, Default)]
pub(super) struct QueryContext(Mutex<Option<(Bytes, Arc<TaskContext>)>>);

/// What one attempt runs: `plan.execute(partition, context)`.
#[derive(Debug)]
pub(super) struct PreparedTask {
    pub(super) plan: Arc<dyn ExecutionPlan>,
    pub(super) partition: usize,
    pub(super) task_count: usize,
    pub(super) output: Output,
    pub(super) context: Arc<TaskContext>,
    /// Of a stage that makes a cached table, how messages call it.
    pub(super) lineage_of: Option<String>,
    /// Which of the plan's figures are this task's.
    pub(super) scope: Scope,
    /// Keeps others from resetting what a live plan shares while it runs.
    _lease: Option<LiveLease>,
}

impl StageEntry {
    pub(super) fn new(program: StageProgram, context: &Arc<QueryContext>) -> Self {
        let program = match program {
            StageProgram::Encoded(encoded) => KeptProgram::Encoded(encoded),
            StageProgram::Live { stage, context } => {
                KeptProgram::Live(LivePlan::new(stage, context))
            }
        };
        Self { program, context: Arc::clone(context) }
    }

    /// Makes what one attempt runs.
    ///
    /// # Errors
    /// What becomes of the attempt instead.
    pub(super) async fn prepare(
        &self,
        attempt: TaskAttempt,
        inputs: Inputs,
        decoder: &dyn StageDecoder,
        runtime: &Arc<RuntimeEnv>,
    ) -> Result<PreparedTask, TaskOutcome> {
        match &self.program {
            KeptProgram::Encoded(encoded) => {
                self.decode(encoded, attempt, inputs, decoder, runtime)
            }
            KeptProgram::Live(live) => {
                let lease = live.lease(attempt.attempt).await;
                let lease = lease.map_err(|error| failure::of_planning(error.into()))?;
                let stage = live.stage();
                check_partition(attempt, stage.task_count)?;
                let partition = attempt.task.partition;
                Ok(PreparedTask {
                    plan: Arc::clone(lease.plan()),
                    partition,
                    task_count: stage.task_count,
                    output: stage.output.clone(),
                    context: context_of(live.context(), attempt, inputs),
                    lineage_of: stage.lineage_of.as_deref().map(str::to_owned),
                    scope: Scope::Shared { partition, task_count: stage.task_count },
                    _lease: Some(lease),
                })
            }
        }
    }

    fn decode(
        &self,
        encoded: &EncodedStage,
        attempt: TaskAttempt,
        inputs: Inputs,
        decoder: &dyn StageDecoder,
        runtime: &Arc<RuntimeEnv>,
    ) -> Result<PreparedTask, TaskOutcome> {
        let base = self.context.get(&encoded.settings, decoder, runtime);
        let base = base.map_err(failure::of_planning)?;
        let stage = decoder.decode(&encoded.program, &base);
        let stage = stage.map_err(|error| failure::of_planning(error.into()))?;
        check_partition(attempt, stage.task_count)?;
        let options = base.session_config().options();
        let task = TaskPlan::new(&stage.plan, attempt.task.partition, options);
        let TaskPlan { plan, partition } =
            task.map_err(|error| failure::of_planning(error.into()))?;
        Ok(PreparedTask {
            plan,
            partition,
            task_count: stage.task_count,
            output: stage.output,
            context: context_of(&base, attempt, inputs),
            lineage_of: stage.lineage_of,
            scope: Scope::Own,
            _lease: None,
        })
    }
}

fn check_partition(attempt: TaskAttempt, task_count: usize) -> Result<(), TaskOutcome> {
    if attempt.task.partition < task_count {
        return Ok(());
    }
    let message = format!("{attempt} of a stage with {task_count} tasks");
    Err(TaskOutcome::Failed(TaskFailure::WorkerFault { message }))
}

impl QueryContext {
    fn get(
        &self,
        settings: &Bytes,
        decoder: &dyn StageDecoder,
        runtime: &Arc<RuntimeEnv>,
    ) -> skep_engine::Result<Arc<TaskContext>> {
        let mut known = self.0.lock();
        if let Some((of, context)) = &*known
            && of == settings
        {
            return Ok(Arc::clone(context));
        }
        let context = decoder.task_context(settings, runtime)?;
        *known = Some((settings.clone(), Arc::clone(&context)));
        Ok(context)
    }
}

/// Makes the context of one attempt: that of the query, with the attempt's own inputs.
fn context_of(base: &TaskContext, attempt: TaskAttempt, inputs: Inputs) -> Arc<TaskContext> {
    let Inputs { exchange, cached } = inputs;
    let config = base.session_config().clone();
    let config = config.with_extension(Arc::new(exchange)).with_extension(Arc::new(cached));
    Arc::new(TaskContext::new(
        Some(attempt.to_string()),
        base.session_id(),
        config,
        base.scalar_functions().clone(),
        base.higher_order_functions().clone(),
        base.aggregate_functions().clone(),
        base.window_functions().clone(),
        base.runtime_env(),
    ))
}
