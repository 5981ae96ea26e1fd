//! The leaf that reads an exchange, with all that it claims about its rows: operators above derive
//! from it whether their input is sorted and how it is split.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{internal_datafusion_err, internal_err};
use datafusion::error::Result;
use datafusion::physical_expr::equivalence::{AcrossPartitions, ConstExpr, EquivalenceClass};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning};
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, EvaluationType, SchedulingType,
};
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};
use datafusion::scalar::ScalarValue;
use datafusion_proto::physical_plan::PhysicalPlanDecodeContext;
use datafusion_proto::physical_plan::from_proto::parse_protobuf_partitioning;
use datafusion_proto::physical_plan::to_proto::serialize_partitioning;
use datafusion_proto::protobuf;

use super::decoder::{Decoder, narrow};
use super::encoder::{Encoder, NamesOnly, wide};
use super::wire::{Bound, Constant, Emission, EqualExprs, ExchangeKind, ExchangeRead};
use crate::exchange::plan::{Exchange, ExchangeReadExec};
use crate::ids::StageId;

pub(super) fn encode(read: &ExchangeReadExec, encoder: &Encoder) -> Result<ExchangeRead> {
    let properties = read.properties();
    let equivalence = &properties.eq_properties;
    let (exchange, merge_order) = match read.exchange() {
        Exchange::Shuffle => (ExchangeKind::Shuffle, None),
        Exchange::ShuffleMerge(order) => (ExchangeKind::ShuffleMerge, Some(encoder.order(order)?)),
        Exchange::Gather => (ExchangeKind::Gather, None),
        Exchange::Merge => (ExchangeKind::Merge, None),
        Exchange::Broadcast => (ExchangeKind::Broadcast, None),
        Exchange::Forward => (ExchangeKind::Forward, None),
    };
    let orders = equivalence.oeq_class().iter().map(|order| encoder.order(order));
    let equals = equivalence.eq_group().iter();
    let constants = equivalence.constants();
    let equals = equals.filter_map(|class| encode_class(class, &constants, encoder).transpose());
    Ok(ExchangeRead {
        producer: read.producer().0,
        producer_tasks: wide(read.producer_tasks()),
        exchange: exchange.into(),
        merge_order,
        schema: Some(read.schema().as_ref().try_into()?),
        partitioning: Some(encode_partitioning(&properties.partitioning, encoder)?),
        orders: orders.collect::<Result<_>>()?,
        equals: equals.collect::<Result<_>>()?,
        emission: match properties.emission_type {
            EmissionType::Incremental => Emission::Incremental,
            EmissionType::Final => Emission::Final,
            EmissionType::Both => Emission::Both,
        }
        .into(),
        bound: match properties.boundedness {
            Boundedness::Bounded => Bound::Bounded,
            Boundedness::Unbounded { requires_infinite_memory: false } => Bound::Unbounded,
            Boundedness::Unbounded { requires_infinite_memory: true } => Bound::UnboundedInMemory,
        }
        .into(),
        is_eager: properties.evaluation_type == EvaluationType::Eager,
        is_cooperative: properties.scheduling_type == SchedulingType::Cooperative,
    })
}

pub(super) fn decode(
    wire: &ExchangeRead,
    decoder: &Decoder,
    ctx: &PhysicalPlanDecodeContext<'_>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = wire.schema.as_ref();
    let schema = schema.ok_or_else(|| internal_datafusion_err!("an exchange without columns"))?;
    let schema: SchemaRef = Arc::new(Schema::try_from(schema)?);
    let partitioning = decode_partitioning(wire.partitioning.as_ref(), &schema, decoder, ctx)?;
    let exchange = match (wire.exchange(), &wire.merge_order) {
        (ExchangeKind::Shuffle, _) => Exchange::Shuffle,
        (ExchangeKind::ShuffleMerge, Some(order)) => {
            Exchange::ShuffleMerge(decoder.order(order, &schema, ctx)?)
        }
        (ExchangeKind::ShuffleMerge, None) => return internal_err!("a merge by nothing"),
        (ExchangeKind::Gather, _) => Exchange::Gather,
        (ExchangeKind::Merge, _) => Exchange::Merge,
        (ExchangeKind::Broadcast, _) => Exchange::Broadcast,
        (ExchangeKind::Forward, _) => Exchange::Forward,
    };
    let mut equivalence = EquivalenceProperties::new(Arc::clone(&schema));
    for equals in &wire.equals {
        decode_class(equals, &mut equivalence, decoder, ctx)?;
    }
    for order in &wire.orders {
        equivalence.add_ordering(decoder.order(order, &schema, ctx)?);
    }
    let emission = match wire.emission() {
        Emission::Incremental => EmissionType::Incremental,
        Emission::Final => EmissionType::Final,
        Emission::Both => EmissionType::Both,
    };
    let bound = match wire.bound() {
        Bound::Bounded => Boundedness::Bounded,
        Bound::Unbounded => Boundedness::Unbounded { requires_infinite_memory: false },
        Bound::UnboundedInMemory => Boundedness::Unbounded { requires_infinite_memory: true },
    };
    let evaluation = if wire.is_eager { EvaluationType::Eager } else { EvaluationType::Lazy };
    let scheduling = match wire.is_cooperative {
        true => SchedulingType::Cooperative,
        false => SchedulingType::NonCooperative,
    };
    let properties = PlanProperties::new(equivalence, partitioning, emission, bound)
        .with_evaluation_type(evaluation)
        .with_scheduling_type(scheduling);
    let producer_tasks = narrow(wire.producer_tasks)?;
    let producer = StageId(wire.producer);
    Ok(Arc::new(ExchangeReadExec::new(producer, producer_tasks, exchange, Arc::new(properties))))
}

/// Writes how rows are split.
///
/// # Errors
/// If a key cannot travel.
pub(super) fn encode_partitioning(
    partitioning: &Partitioning,
    encoder: &Encoder,
) -> Result<protobuf::Partitioning> {
    serialize_partitioning(partitioning, &NamesOnly, encoder)
}

/// Reads how rows are split.
///
/// # Errors
/// If it is not there, or not of this build.
pub(super) fn decode_partitioning(
    wire: Option<&protobuf::Partitioning>,
    schema: &Schema,
    decoder: &Decoder,
    ctx: &PhysicalPlanDecodeContext<'_>,
) -> Result<Partitioning> {
    parse_protobuf_partitioning(wire, ctx, schema, decoder)?
        .ok_or_else(|| internal_datafusion_err!("partitions of no kind"))
}

/// Writes what is equal, without the scalar subqueries that the producers compared with and nobody
/// computes here; `None` if that leaves nothing to be said.
///
/// # Errors
/// If an expression cannot travel.
fn encode_class(
    class: &EquivalenceClass,
    constants: &[ConstExpr],
    encoder: &Encoder,
) -> Result<Option<EqualExprs>> {
    let constant = class.canonical_expr().and_then(|first| {
        constants.iter().find(|constant| constant.expr.eq(first)).map(|it| &it.across_partitions)
    });
    let (constant, value) = match constant {
        None => (Constant::No, None),
        Some(AcrossPartitions::Heterogeneous) => (Constant::PerPartition, None),
        Some(AcrossPartitions::Uniform(None)) => (Constant::Everywhere, None),
        Some(AcrossPartitions::Uniform(Some(value))) => {
            (Constant::Everywhere, Some(value.try_into()?))
        }
    };
    let mut exprs = Vec::new();
    for expr in class.iter() {
        if encoder.computes(expr)? {
            exprs.push(encoder.expr(expr)?);
        }
    }
    let says_nothing = exprs.is_empty() || (exprs.len() == 1 && constant == Constant::No);
    Ok((!says_nothing).then(|| EqualExprs { exprs, constant: constant.into(), value }))
}

fn decode_class(
    wire: &EqualExprs,
    equivalence: &mut EquivalenceProperties,
    decoder: &Decoder,
    ctx: &PhysicalPlanDecodeContext<'_>,
) -> Result<()> {
    let schema = Arc::clone(equivalence.schema());
    let exprs = wire.exprs.iter().map(|expr| decoder.expr(expr, &schema, ctx));
    let exprs = exprs.collect::<Result<Vec<_>>>()?;
    let Some((first, others)) = exprs.split_first() else { return Ok(()) };
    for other in others {
        equivalence.add_equal_conditions(Arc::clone(first), Arc::clone(other))?;
    }
    let across = match (wire.constant(), &wire.value) {
        (Constant::No, _) => return Ok(()),
        (Constant::PerPartition, _) => AcrossPartitions::Heterogeneous,
        (Constant::Everywhere, None) => AcrossPartitions::Uniform(None),
        (Constant::Everywhere, Some(value)) => {
            AcrossPartitions::Uniform(Some(ScalarValue::try_from(value)?))
        }
    };
    equivalence.add_constants([ConstExpr::new(Arc::clone(first), across)])
}
