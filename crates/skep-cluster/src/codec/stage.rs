//! A stage as bytes, and back.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::{internal_datafusion_err, internal_err, not_impl_err};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::Partitioning;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, displayable};
use datafusion_proto::physical_plan::PhysicalPlanDecodeContext;
use prost::Message;
use skep_engine::TaskSettings;

use super::decoder::{Decoder, narrow, read};
use super::encoder::{Encoder, NamesOnly, wide};
use super::exchange::{decode_partitioning, encode_partitioning};
use super::wire::{OutputKind, Program};
use super::{cached, scan};
use crate::exchange::plan::Output;
use crate::stage_planner::Stage;
use crate::worker::EncodedStage;

/// A stage for one attempt of one task.
#[derive(Debug)]
pub struct DecodedStage {
    /// What its tasks run.
    pub plan: Arc<dyn ExecutionPlan>,
    /// What becomes of the rows. Its expressions share the values of scalar subqueries with the
    /// plan.
    pub output: Output,
    /// How many tasks it has.
    pub task_count: usize,
    /// Of a stage that makes a cached table, how messages call it.
    pub lineage_of: Option<String>,
}

/// Writes a stage, with the settings of the session that `context` belongs to.
///
/// The bytes hold the session's secrets. They were read again and compared: any process of this
/// build makes the same plan of them.
///
/// # Errors
/// If a part of the stage cannot travel; the text says which.
pub fn encode_stage(stage: &Stage, context: &TaskContext) -> Result<EncodedStage> {
    encode_stage_with(stage, &encode_settings(context)?, context)
}

/// Writes the settings of the session that `context` belongs to, with its secrets: once for all
/// stages of a query.
///
/// # Errors
/// If they cannot be written, which would be a defect.
pub fn encode_settings(context: &TaskContext) -> Result<Bytes> {
    Ok(TaskSettings::of(context).to_bytes()?.into())
}

/// Writes a stage as [`encode_stage`] does, with what [`encode_settings`] made of `context`.
///
/// # Errors
/// As of [`encode_stage`].
pub fn encode_stage_with(
    stage: &Stage,
    settings: &Bytes,
    context: &TaskContext,
) -> Result<EncodedStage> {
    let lineage_of = stage.lineage_of.as_deref();
    let program = write_of(&stage.plan, &stage.output, stage.task_count, lineage_of)?;
    let decoded = decode_stage(&program, context)?;
    if let Some(difference) = difference(stage, &decoded) {
        return not_impl_err!("stage {} does not travel: {difference}", stage.id);
    }
    Ok(EncodedStage { program, settings: settings.clone() })
}

/// Reads a stage for one attempt, in a context of [`TaskSettings::task_context`].
///
/// # Errors
/// If the bytes were not written by [`encode_stage`] of the same build, or name an object store
/// that cannot be reached from here.
pub fn decode_stage(program: &[u8], context: &TaskContext) -> Result<DecodedStage> {
    let program: Program = read(program)?;
    let (decoder, codec) = (Decoder::default(), NamesOnly);
    let ctx = PhysicalPlanDecodeContext::new(context, &codec);
    let plan = program.plan.as_ref().ok_or_else(|| internal_datafusion_err!("no plan"))?;
    let plan = decoder.plan(plan, &ctx)?;
    let output = match program.output() {
        OutputKind::Split => {
            let wire = program.partitioning.as_ref();
            match decode_partitioning(wire, plan.schema().as_ref(), &decoder, &ctx)? {
                Partitioning::Hash(exprs, partitions) => Output::Hash { exprs, partitions },
                Partitioning::RoundRobinBatch(partitions) => Output::RoundRobin { partitions },
                Partitioning::Range(range) => Output::Range(range),
                other => return internal_err!("an output by {other}"),
            }
        }
        OutputKind::Gather => Output::Gather,
        OutputKind::Merge => Output::Merge,
        OutputKind::Broadcast => Output::Broadcast,
        OutputKind::Forward => Output::Forward,
        OutputKind::Result => Output::Result { in_order: false },
        OutputKind::ResultInOrder => Output::Result { in_order: true },
        OutputKind::Cached => {
            let wire = program.cached.as_ref();
            let wire = wire.ok_or_else(|| internal_datafusion_err!("no cached table"))?;
            Output::Cached(Arc::new(cached::decode_target(wire)?))
        }
    };
    let task_count = narrow(program.task_count)?;
    Ok(DecodedStage { plan, output, task_count, lineage_of: program.lineage_of })
}

/// Writes what [`decode_stage`] reads.
///
/// # Errors
/// If a part cannot travel.
#[cfg(test)]
pub(crate) fn write(
    plan: &Arc<dyn ExecutionPlan>,
    output: &Output,
    task_count: usize,
) -> Result<Bytes> {
    write_of(plan, output, task_count, None)
}

fn write_of(
    plan: &Arc<dyn ExecutionPlan>,
    output: &Output,
    task_count: usize,
    lineage_of: Option<&str>,
) -> Result<Bytes> {
    let encoder = Encoder::default();
    let plan = encoder.plan(plan)?;
    let partitioning = output.partitioning();
    let partitioning = partitioning.map(|it| encode_partitioning(&it, &encoder)).transpose()?;
    encoder.finish()?;
    let cached = match output {
        Output::Cached(target) => Some(cached::encode_target(target)?),
        _ => None,
    };
    let output = match output {
        Output::Hash { .. } | Output::RoundRobin { .. } | Output::Range(_) => OutputKind::Split,
        Output::Gather => OutputKind::Gather,
        Output::Merge => OutputKind::Merge,
        Output::Broadcast => OutputKind::Broadcast,
        Output::Forward => OutputKind::Forward,
        Output::Result { in_order: false } => OutputKind::Result,
        Output::Result { in_order: true } => OutputKind::ResultInOrder,
        Output::Cached(_) => OutputKind::Cached,
    };
    let task_count = wide(task_count);
    let program = Program {
        plan: Some(plan),
        output: output.into(),
        partitioning,
        task_count,
        lineage_of: lineage_of.map(str::to_owned),
        cached,
    };
    Ok(program.encode_to_vec().into())
}

/// Says what a stage lost on its way, if anything.
pub(super) fn difference(stage: &Stage, decoded: &DecodedStage) -> Option<String> {
    let partitions = decoded.plan.output_partitioning().partition_count();
    if partitions != stage.task_count || decoded.task_count != stage.task_count {
        return Some(format!("it has {partitions} tasks, not {}", stage.task_count));
    }
    if decoded.plan.schema() != stage.plan.schema() {
        return Some(format!("{} is not {}", decoded.plan.schema(), stage.plan.schema()));
    }
    let is_in_order = |output: &Output| matches!(output, Output::Result { in_order: true });
    if decoded.output.to_string() != stage.output.to_string()
        || is_in_order(&decoded.output) != is_in_order(&stage.output)
    {
        return Some(format!("{:?} is not {:?}", decoded.output, stage.output));
    }
    let mut pairs = vec![(&stage.plan, &decoded.plan)];
    while let Some((before, after)) = pairs.pop() {
        if let Some(difference) = difference_of_nodes(before.as_ref(), after.as_ref()) {
            return Some(difference);
        }
        pairs.extend(before.children().into_iter().zip(after.children()));
    }
    None
}

fn difference_of_nodes(before: &dyn ExecutionPlan, after: &dyn ExecutionPlan) -> Option<String> {
    let children = (before.children().len(), after.children().len());
    if before.name() != after.name() || children.0 != children.1 {
        return Some(format!("{} is not {}", after.name(), before.name()));
    }
    if before.schema() != after.schema() {
        return Some(format!("{} is not {}", after.schema(), before.schema()));
    }
    if scan::is_files(before) {
        return scan::difference(before, after);
    }
    let shown = |plan| displayable(plan).one_line().to_string();
    let (before, after) = (shown(before), shown(after));
    (before != after).then(|| format!("{} is not {}", after.trim(), before.trim()))
}
