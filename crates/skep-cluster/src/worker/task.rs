//! One attempt of a task, from its program to its sealed output.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::internal_datafusion_err;
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::metrics::Time;
use futures::TryStreamExt;
use skep_engine::{CachedInputs, PartitionSummary, as_cached, cache_partition, check_sources};

use super::arrivals::Arrivals;
use super::command::TaskOutcome;
use super::copies::Copies;
use super::failure;
use super::inputs::{AttemptInputs, Peers};
use super::metrics;
use super::output::{OutputWriter, Waiting};
use super::program::{Inputs, PreparedTask, StageDecoder, StageEntry};
use super::runner::RunnerConfig;
use crate::cache::kept::KeptPartitions;
use crate::exchange::fetch::Fetcher;
use crate::exchange::plan::{Output, TaskInputs};
use crate::scheduler::{CachedKey, CachedReport, Site, Source, TaskAttempt, TaskOutput};
use crate::store::{PartitionCounts, PartitionStore, StorageLevel, WriterKey, WriterSpec};

/// What attempts need of their site.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) config: RunnerConfig,
    pub(super) store: PartitionStore,
    pub(super) runtime: Arc<RuntimeEnv>,
    pub(super) fetcher: Arc<dyn Fetcher>,
    pub(super) decoder: Arc<dyn StageDecoder>,
    /// What this site keeps of cached tables.
    pub(super) kept: Arc<KeptPartitions>,
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
        let kept = Arc::clone(&services.kept);
        let shared = (copies, arrivals, kept);
        let inputs = Arc::new(AttemptInputs::new(site, store, peers, sources, fetcher, shared));
        let source = Inputs {
            exchange: TaskInputs(Arc::clone(&inputs) as _),
            cached: CachedInputs(Arc::clone(&inputs) as _),
        };
        let decoder = services.decoder.as_ref();
        let prepare = || stage.prepare(attempt, source.clone(), decoder, &services.runtime);
        let mut task = match prepare().await {
            Ok(task) => task,
            Err(outcome) => return outcome,
        };
        inputs.share_among(task.task_count);
        if let Output::Result { in_order: true } = task.output {
            // What has left of the result may have to be made again as it was.
            inputs.read_in_order(&task.plan);
        }
        let mut made = making(&services, attempt, &task).await;
        if let Ok(None) = made {
            // There is no room for it here: it is made for this query alone, by a plan that has
            // never run.
            task = match prepare().await {
                Ok(task) => task,
                Err(outcome) => return outcome,
            };
            made = drive(&services, attempt, &task).await.map(Some);
        }
        let made = made.and_then(|output| {
            output.ok_or_else(|| internal_datafusion_err!("a task without an output"))
        });
        match made {
            Ok(mut output) => {
                let operators = metrics::collect(&task.plan, task.scope);
                output.input_bytes = inputs.bytes();
                output.remote_bytes = inputs.remote_bytes();
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

/// Makes the output of a task; `None` if it was to be kept for later queries and there is no room.
async fn making(
    services: &Services,
    attempt: TaskAttempt,
    task: &PreparedTask,
) -> Result<Option<TaskOutput>, DataFusionError> {
    let Output::Cached(target) = &task.output else {
        check_sources_of(task).await?;
        return drive(services, attempt, task).await.map(Some);
    };
    let key = target.key(attempt.task.partition);
    if let Some((counts, summary)) = services.kept.find(&key) {
        return kept_output(&services.kept, &key, &counts, &summary).map(Some);
    }
    check_sources_of(task).await?;
    if !services.kept.is_welcome(&key, target.shape.is_narrow) {
        return Ok(None);
    }
    let CachedKey { table, epoch, partition } = key.clone();
    let spec = WriterSpec {
        key: WriterKey::Cached { table, epoch, partition },
        schema: Arc::clone(&target.shape.schema),
        output_count: 1,
        level: target.level,
    };
    let rows = task.plan.execute(task.partition, Arc::clone(&task.context))?;
    let pool = task.context.memory_pool();
    match cache_partition(&services.store, spec, pool, make_cooperative(rows)).await {
        Ok(Some(summary)) => services.kept.add(key.clone(), Arc::new(summary)),
        Ok(None) => {
            services.kept.refuse(key);
            return Ok(None);
        }
        // Another query was faster.
        Err(error) if is_known_already(&error) => {}
        Err(error) => return Err(error),
    }
    match services.kept.find(&key) {
        Some((counts, summary)) => kept_output(&services.kept, &key, &counts, &summary).map(Some),
        // Dropped for want of room as soon as it was there.
        None => Ok(None),
    }
}

/// What a task that makes a cached table reads must be as it was when the table was cached: its own
/// files, for others are the business of other tasks.
async fn check_sources_of(task: &PreparedTask) -> Result<(), DataFusionError> {
    let Some(table) = &task.lineage_of else { return Ok(()) };
    Ok(check_sources(&task.plan, task.partition, &task.context, table).await?)
}

fn is_known_already(error: &DataFusionError) -> bool {
    matches!(crate::Error::find(error), Some(crate::Error::AlreadySealed { .. }))
}

fn kept_output(
    kept: &KeptPartitions,
    key: &CachedKey,
    counts: &PartitionCounts,
    summary: &PartitionSummary,
) -> Result<TaskOutput, DataFusionError> {
    Ok(TaskOutput {
        rows: counts.rows,
        bytes: vec![counts.bytes],
        cached: Some(Box::new(kept.report(key, counts, summary.to_bytes()?.into()))),
        ..TaskOutput::default()
    })
}

/// Runs the plan to its end and seals what it gave, for this query.
async fn drive(
    services: &Services,
    attempt: TaskAttempt,
    task: &PreparedTask,
) -> Result<TaskOutput, DataFusionError> {
    let target = match &task.output {
        Output::Cached(target) => Some(target),
        _ => None,
    };
    let schema = target.map_or_else(|| task.plan.schema(), |it| Arc::clone(&it.shape.schema));
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
    let mut output =
        OutputWriter::new(writer, Arc::clone(&schema), output_count, partitioner, waiting, pool);
    if is_result {
        output.let_flow();
    }
    let stream = task.plan.execute(task.partition, Arc::clone(&task.context))?;
    // A plan that is always ready would never let a cancel through.
    let mut stream = make_cooperative(stream);
    while let Some(batch) = stream.try_next().await? {
        let batch = if target.is_some() { as_cached(batch, &schema)? } else { batch };
        output.write(batch).await?;
    }
    drop(stream);
    let (counts, spilled_bytes) = output.seal().await?;
    let cached = target.map(|target| {
        let CachedKey { table, epoch, partition } = target.key(partition);
        CachedReport {
            table,
            epoch,
            partition,
            is_kept: false,
            summary: Bytes::new(),
            memory_bytes: 0,
            disk_bytes: 0,
            rows: 0,
        }
    });
    Ok(TaskOutput {
        rows: counts.iter().map(|counts| counts.rows).sum(),
        bytes: counts.iter().map(|counts| counts.bytes).collect(),
        spilled_bytes,
        cached: cached.map(Box::new),
        ..TaskOutput::default()
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
