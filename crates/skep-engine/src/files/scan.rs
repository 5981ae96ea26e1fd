//! Makes a scan of DataFusion's out of files that one reader can read.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::Result as DfResult;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Statistics, TableReference};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::table_schema::{TableSchema, TableSchemaBuilder};
use datafusion::execution::cache::TableScopedPath;
use datafusion::execution::cache::cache_manager::CachedFileMetadata;
use datafusion::physical_expr::{LexOrdering, Partitioning};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, TryStreamExt};

use super::check::{FileShape, Framing, guarded};
use super::delimited::Dialect;
use super::format::Format;
use super::listing::{FoundFile, store_of};
use super::open::format_of;
use super::options::Rules;
use super::partition::PartitionColumns;
use super::read::bad_file;
use super::schema::decoder_message;

/// Says of a scanned file, as an extension of its `PartitionedFile`, that it is one array of JSON
/// and not a value a line: a reader keeps that to itself, and who sends a scan elsewhere needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonArrayFile;

/// A file with the values of its directories.
#[derive(Debug, Clone)]
pub(crate) struct PartFile {
    pub(crate) found: FoundFile,
    pub(crate) shape: FileShape,
    pub(crate) values: Vec<ScalarValue>,
}

/// Files of one store, compression, framing and delimiter.
pub(crate) struct ScanGroup<'a> {
    pub(crate) rules: &'a Rules,
    pub(crate) file_schema: &'a SchemaRef,
    pub(crate) table_schema: &'a SchemaRef,
    pub(crate) partition_columns: &'a PartitionColumns,
    pub(crate) order: Vec<LexOrdering>,
    pub(crate) files: Vec<PartFile>,
}

/// Returns how much a scan reads of its files at most: of one that planning has cut, each piece counts
/// for itself. Units: bytes in the files.
pub fn planned_bytes(scan: &FileScanConfig) -> u64 {
    let files = scan.file_groups.iter().flat_map(|group| group.iter());
    files
        .map(|file| match &file.range {
            Some(range) => u64::try_from(range.end - range.start).unwrap_or(0),
            None => file.object_meta.size,
        })
        .fold(0, u64::saturating_add)
}

/// Plans the scan of a group.
///
/// Shape: the projected columns of the table; as many partitions as the session wants, at most.
///
/// # Errors
/// An [`Error::File`](crate::Error::File) if the statistics of a file cannot be read.
pub(crate) async fn scan_group(
    state: &dyn Session,
    group: ScanGroup<'_>,
    projection: Option<&Vec<usize>>,
    limit: Option<usize>,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    let Some(first) = group.files.first() else {
        return datafusion::common::internal_err!("a scan needs a file");
    };
    let store_url = first.found.store.clone();
    let dialect = Dialect::of(&group.rules.csv, first.found.name());
    let format = format_of(state, group.rules, first.shape, dialect)?;
    let concurrency = state.config_options().execution.meta_fetch_concurrency.get();
    let with_statistics: Vec<(PartitionedFile, Statistics)> =
        futures::stream::iter(group.files.clone())
            .map(|file| part_file(state, &group, format.as_ref(), file))
            .buffered(concurrency)
            .try_collect()
            .await?;
    let (files, is_all) = enough_files(with_statistics, limit);
    let statistics = Statistics::try_merge_iter(files.iter().map(|(_, s)| s), group.table_schema)?;
    let statistics = if is_all { statistics } else { statistics.to_inexact() };

    let files: Vec<PartitionedFile> = files.into_iter().map(|(file, _)| file).collect();
    let target = state.config().target_partitions().max(1);
    let file_groups = FileGroup::new(files).split_files(target);
    let file_groups = file_groups
        .into_iter()
        .map(|files| group_statistics(files, group.table_schema))
        .collect::<DfResult<Vec<_>>>()?;
    let source = format.file_source(table_schema(group.file_schema, group.partition_columns));
    // An array is read whole; a scan that says how it is partitioned is not split by bytes.
    let fixed = (first.shape.framing == Framing::JsonArray)
        .then(|| Partitioning::UnknownPartitioning(file_groups.len()));
    let config = FileScanConfigBuilder::new(store_url, source)
        .with_output_partitioning(fixed)
        .with_file_groups(file_groups)
        .with_statistics(statistics)
        .with_projection_indices(projection.cloned())?
        .with_limit(limit)
        .with_output_ordering(group.order)
        .build();
    format.create_physical_plan(state, config).await
}

fn table_schema(file_schema: &SchemaRef, columns: &PartitionColumns) -> TableSchema {
    let partitions: Vec<_> = columns
        .iter()
        .map(|(name, data_type)| Arc::new(Field::new(name, data_type.clone(), true)))
        .collect();
    TableSchemaBuilder::from(file_schema).with_table_partition_cols(partitions).build()
}

/// Takes files until a limit without filters is met for sure; says whether those are all.
fn enough_files(
    files: Vec<(PartitionedFile, Statistics)>,
    limit: Option<usize>,
) -> (Vec<(PartitionedFile, Statistics)>, bool) {
    let Some(limit) = limit else { return (files, true) };
    let total = files.len();
    let mut rows = 0_usize;
    let mut taken = Vec::new();
    for (file, statistics) in files {
        let counted = statistics.num_rows;
        taken.push((file, statistics));
        match counted {
            Precision::Exact(count) => rows = rows.saturating_add(count),
            _ => continue,
        }
        if rows > limit {
            break;
        }
    }
    let is_all = taken.len() == total;
    (taken, is_all)
}

fn group_statistics(files: FileGroup, schema: &SchemaRef) -> DfResult<FileGroup> {
    let each = files.iter().filter_map(|file| file.statistics.as_deref());
    let merged = Statistics::try_merge_iter(each, schema)?;
    Ok(files.with_statistics(Arc::new(merged)))
}

async fn part_file(
    state: &dyn Session,
    group: &ScanGroup<'_>,
    format: &dyn datafusion::datasource::file_format::FileFormat,
    file: PartFile,
) -> DfResult<(PartitionedFile, Statistics)> {
    let mut out = PartitionedFile::new_from_meta(file.found.meta.clone())
        .with_partition_values(file.values.clone());
    if file.shape.framing == Framing::JsonArray {
        out = out.with_extension(JsonArrayFile);
    }
    let mut statistics = match state.config().collect_statistics() {
        true => file_statistics(state, group, format, &file).await?.as_ref().clone(),
        false => Statistics::new_unknown(group.file_schema),
    };
    // Not by `PartitionedFile::with_statistics`, which says that no partition value is NULL.
    for value in &file.values {
        statistics.column_statistics.push(partition_statistics(value, statistics.num_rows));
    }
    out.statistics = Some(Arc::new(statistics.clone()));
    Ok((out, statistics))
}

fn partition_statistics(value: &ScalarValue, rows: Precision<usize>) -> ColumnStatistics {
    if value.is_null() {
        return ColumnStatistics { null_count: rows, ..ColumnStatistics::new_unknown() };
    }
    ColumnStatistics {
        null_count: Precision::Exact(0),
        max_value: Precision::Exact(value.clone()),
        min_value: Precision::Exact(value.clone()),
        distinct_count: Precision::Exact(1),
        ..ColumnStatistics::new_unknown()
    }
}

/// Reads the statistics of a file's own columns, or finds them where an earlier query left them.
async fn file_statistics(
    state: &dyn Session,
    group: &ScanGroup<'_>,
    format: &dyn datafusion::datasource::file_format::FileFormat,
    file: &PartFile,
) -> DfResult<Arc<Statistics>> {
    if group.rules.format != Format::Parquet {
        return Ok(Arc::new(Statistics::new_unknown(group.file_schema)));
    }
    let runtime = state.runtime_env();
    let meta = &file.found.meta;
    let cache = runtime.cache_manager.get_file_statistic_cache();
    // Two stores may hold the same path; the cache tells tables apart, so the store is one.
    let key = TableScopedPath {
        table: Some(TableReference::bare(file.found.store.as_str())),
        path: meta.location.clone(),
    };
    let fingerprint =
        Arc::new(datafusion::execution::cache::cache_manager::SchemaFingerprint::from_schema(
            group.file_schema,
        ));
    if let Some(known) = cache.as_ref().and_then(|cache| cache.get(&key))
        && known.is_valid_for(meta, &fingerprint)
    {
        return Ok(Arc::clone(&known.statistics));
    }
    let store = store_of(runtime, &file.found.store)?;
    let path = file.found.path();
    let work = async {
        format
            .infer_stats(state, &store, Arc::clone(group.file_schema), meta)
            .await
            .map_err(|error| bad_file(&path, Format::Parquet, decoder_message(&error), None))
    };
    let statistics = Arc::new(guarded(&path, Format::Parquet, work).await?);
    if let Some(cache) = cache {
        let entry =
            CachedFileMetadata::new(meta.clone(), fingerprint, Arc::clone(&statistics), None);
        cache.put(&key, entry);
    }
    Ok(statistics)
}
