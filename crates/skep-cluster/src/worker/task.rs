//! One attempt of a task, from its program to its sealed output.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::metrics::Time;
use futures::TryStreamExt;

use super::arrivals::Arrivals;
use super::command::TaskOutcome;
use super::copies::Copies;
use super::failure;
use super::inputs::{AttemptInputs, Peers};
use super::metrics;
use super::output::{OutputWriter, Waiting};
use super::program::{PreparedTask, StageDecoder, StageEntry};
use super::runner::RunnerConfig;
use crate::exchange::fetch::Fetcher;
use crate::exchange::plan::{Output, TaskInputs};
use crate::scheduler::{Site, Source, TaskAttempt, TaskOutput};
use crate::store::{PartitionStore, StorageLevel, WriterKey, WriterSpec};

/// What attempts need of their site.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) config: RunnerConfig,
    pub(super) store: PartitionStore,
    pub(super) runtime: Arc<RuntimeEnv>,
    pub(super) fetcher: Arc<dyn Fetcher>,
    pub(super) decoder: Arc<dyn StageDecoder>,
}

/// One attempt to be run.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) services: Arc<Services>,
    pub(super) attempt: TaskAttempt,
    pub(super) site: Site,
    pub(super) sources: Vec<Source>,
    pub(super) peers: Arc<Peers>,
    pub(super) stage: Arc<StageEntry>,
    /// What the query's tasks here share.
    pub(super) copies: Arc<Copies>,
    pub(super) arrivals: Arc<Arrivals>,
}

impl Task {
    /// Runs the attempt. Dropped before its end, it leaves nothing.
    pub(super) async fn run(self) -> TaskOutcome {
        let Self { services, attempt, site, sources, peers, stage, copies, arrivals } = self;
        let (store, fetcher) = (services.store.clone(), Arc::clone(&services.fetcher));
        let inputs =
            Arc::new(AttemptInputs::new(site, store, peers, sources, fetcher, (copies, arrivals)));
        let source = TaskInputs(Arc::clone(&inputs) as _);
        let decoder = services.decoder.as_ref();
        let prepared = stage.prepare(attempt, source, decoder, &services.runtime).await;
        let task = match prepared {
            Ok(task) => task,
            Err(outcome) => return outcome,
        };
        inputs.share_among(task.task_count);
        if let Output::Result { in_order: true } = task.output {
            // What has left of the result may have to be made again as it was.
            inputs.read_in_order(&task.plan);
        }
        match drive(&services, attempt, &task).await {
            Ok(mut output) => {
                let operators = metrics::collect(&task.plan, task.scope);
                output.input_bytes = inputs.bytes();
                output.spilled_bytes += metrics::spilled_bytes(&operators);
                TaskOutcome::Finished { output, operators }
            }
            Err(error) => match failure::outside_the_query(&error) {
                Some(outcome) => outcome,
                None => {
                    let error = decoder.explain(&task.plan, &task.context, error).await;
                    TaskOutcome::Failed(failure::of_query(&error))
                }
            },
        }
    }
}

/// Runs the plan to its end and seals what it gave.
async fn drive(
    services: &Services,
    attempt: TaskAttempt,
    task: &PreparedTask,
) -> Result<TaskOutput, DataFusionError> {
    let schema = task.plan.schema();
    let output_count = task.output.partition_count();
    let mut writer = services.store.writer(WriterSpec {
        key: writer_key(attempt),
        schema: Arc::clone(&schema),
        output_count,
        level: StorageLevel::MemoryAndDisk,
    })?;
    let is_result = matches!(task.output, Output::Result { .. });
    if is_result && let Some(bytes) = services.config.result_memory_bytes {
        writer.hold_at_most(bytes);
    }
    // Made now, evaluated when batches come: keys may hold values that only the running plan finds.
    let partition = attempt.task.partition;
    let partitioner = task.output.partitioner(partition, task.task_count, Time::new())?;
    let session_rows = task.context.session_config().batch_size();
    let waiting = Waiting {
        batch_size: services.config.batch_rows.unwrap_or(session_rows),
        max_bytes: services.config.max_waiting_bytes,
    };
    let pool = task.context.memory_pool();
    let mut output = OutputWriter::new(writer, schema, output_count, partitioner, waiting, pool);
    if is_result {
        output.let_flow();
    }
    let stream = task.plan.execute(task.partition, Arc::clone(&task.context))?;
    // A plan that is always ready would never let a cancel through.
    let mut stream = make_cooperative(stream);
    while let Some(batch) = stream.try_next().await? {
        output.write(batch).await?;
    }
    drop(stream);
    let (counts, spilled_bytes) = output.seal().await?;
    Ok(TaskOutput {
        rows: counts.iter().map(|counts| counts.rows).sum(),
        bytes: counts.iter().map(|counts| counts.bytes).collect(),
        input_bytes: 0,
        spilled_bytes,
    })
}

fn writer_key(attempt: TaskAttempt) -> WriterKey {
    WriterKey::Exchange {
        query: attempt.task.query,
        stage: attempt.task.stage,
        producer: attempt.task.partition,
        attempt: attempt.attempt,
    }
}
