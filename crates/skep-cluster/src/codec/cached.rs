//! The leaf that reads a cached table, and the table itself.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::{ExecutionPlan, Partitioning, PlanProperties};
use datafusion_proto::physical_plan::PhysicalPlanDecodeContext;
use skep_engine::{CacheScanExec, CacheScanParts, CachedShape, DecodeGroupsExec};

use super::decoder::{Decoder, narrow};
use super::encoder::{Encoder, wide};
use super::wire::{CacheScan, Cached, DecodedGroups, Level, Places};
use crate::exchange::plan::CachedTarget;
use crate::ids::Epoch;
use crate::store::StorageLevel;

pub(super) fn encode(scan: &CacheScanExec, encoder: &Encoder) -> Result<CacheScan> {
    let parts = scan.parts();
    let parts = parts.ok_or_else(|| internal_datafusion_err!("a cached table of this process"))?;
    let CacheScanParts {
        shape,
        producer,
        projection,
        filter,
        is_filter,
        dynamic_filters,
        groups,
        batches,
        coded,
        is_plain,
    } = parts;
    Ok(CacheScan {
        table: Some(encode_shape(&shape, StorageLevel::default())?),
        producer,
        projection: Some(encode_places(&projection)),
        filter: filter.map(|filter| encoder.expr(&filter)).transpose()?,
        dynamic_filters: dynamic_filters
            .iter()
            .map(|filter| encoder.expr(filter))
            .collect::<Result<_>>()?,
        batches: batches.map(|(wanted, all)| encode_places(&[wanted, all])),
        is_filter,
        groups: groups.iter().flatten().map(|group| encode_places(group)).collect(),
        coded: Some(encode_places(&coded)),
        is_plain,
    })
}

pub(super) fn decode(
    wire: &CacheScan,
    decoder: &Decoder,
    ctx: &PhysicalPlanDecodeContext<'_>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let missing = || internal_datafusion_err!("a scan of a cached table lacks a part");
    let target = decode_target(wire.table.as_ref().ok_or_else(missing)?)?;
    let shape = target.shape;
    let projection = decode_places(wire.projection.as_ref().ok_or_else(missing)?)?;
    let schema = shape.schema.project(&projection)?;
    let filter = wire.filter.as_ref();
    let filter = filter.map(|filter| decoder.expr(filter, &shape.schema, ctx)).transpose()?;
    let found = wire.dynamic_filters.iter().map(|filter| decoder.expr(filter, &schema, ctx));
    let batches = match wire.batches.as_ref().map(decode_places).transpose()?.as_deref() {
        Some([wanted, all]) => Some((*wanted, *all)),
        _ => None,
    };
    // There is no scan without a group.
    let groups = (!wire.groups.is_empty())
        .then(|| wire.groups.iter().map(decode_places).collect::<Result<Vec<_>>>());
    Ok(Arc::new(CacheScanExec::from_parts(CacheScanParts {
        groups: groups.transpose()?,
        dynamic_filters: found.collect::<Result<_>>()?,
        producer: wire.producer,
        shape,
        projection,
        filter,
        is_filter: wire.is_filter,
        batches,
        coded: decode_places(wire.coded.as_ref().ok_or_else(missing)?)?,
        is_plain: wire.is_plain,
    })?))
}

/// Writes what gives groups their texts back, but for its input.
///
/// # Errors
/// If a type cannot be written.
pub(super) fn encode_groups(groups: &DecodeGroupsExec) -> Result<DecodedGroups> {
    let schema = Some(groups.schema().as_ref().try_into()?);
    Ok(DecodedGroups { coded: Some(encode_places(groups.coded())), schema })
}

/// Reads it.
///
/// # Errors
/// If a part is missing, or does not go with the input.
pub(super) fn decode_groups(
    wire: &DecodedGroups,
    input: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let missing = || internal_datafusion_err!("coded groups lack a part");
    let schema = Schema::try_from(wire.schema.as_ref().ok_or_else(missing)?)?;
    let coded = decode_places(wire.coded.as_ref().ok_or_else(missing)?)?;
    let properties = input.properties().as_ref().clone();
    let properties = PlanProperties::new(
        EquivalenceProperties::new(Arc::new(schema)),
        Partitioning::UnknownPartitioning(properties.partitioning.partition_count()),
        properties.emission_type,
        properties.boundedness,
    );
    Ok(Arc::new(DecodeGroupsExec::try_new(input, coded, Arc::new(properties))?))
}

/// Writes a cached table.
///
/// # Errors
/// If its columns cannot be written.
pub(super) fn encode_target(target: &CachedTarget) -> Result<Cached> {
    encode_shape(&target.shape, target.level)
}

/// Reads a cached table.
///
/// # Errors
/// If a part is missing or not of this build.
pub(super) fn decode_target(wire: &Cached) -> Result<CachedTarget> {
    let schema = wire.schema.as_ref();
    let schema = schema.ok_or_else(|| internal_datafusion_err!("a table without columns"))?;
    let shape = CachedShape {
        name: wire.name.clone(),
        key: wire.key.as_str().into(),
        epoch: Epoch(wire.epoch),
        schema: Arc::new(Schema::try_from(schema)?),
        clustered: wire.clustered.as_ref().map(decode_places).transpose()?,
        partition_count: narrow(wire.partition_count)?,
        is_narrow: wire.is_narrow,
    };
    let level = match wire.level() {
        Level::MemoryAndDisk => StorageLevel::MemoryAndDisk,
        Level::MemoryOnly => StorageLevel::MemoryOnly,
        Level::DiskOnly => StorageLevel::DiskOnly,
    };
    Ok(CachedTarget { shape: Arc::new(shape), level })
}

fn encode_shape(shape: &CachedShape, level: StorageLevel) -> Result<Cached> {
    let CachedShape { name, key, epoch, schema, clustered, partition_count, is_narrow } = shape;
    Ok(Cached {
        name: name.clone(),
        key: key.to_string(),
        epoch: epoch.0,
        schema: Some(schema.as_ref().try_into()?),
        clustered: clustered.as_deref().map(encode_places),
        partition_count: wide(*partition_count),
        is_narrow: *is_narrow,
        level: match level {
            StorageLevel::MemoryAndDisk => Level::MemoryAndDisk,
            StorageLevel::MemoryOnly => Level::MemoryOnly,
            StorageLevel::DiskOnly => Level::DiskOnly,
        }
        .into(),
    })
}

fn encode_places(places: &[usize]) -> Places {
    Places { places: places.iter().map(|place| wide(*place)).collect() }
}

fn decode_places(places: &Places) -> Result<Vec<usize>> {
    places.places.iter().map(|place| narrow(*place)).collect()
}
