//! What the cache shows of itself: `system.cached_tables`, and a line for `DESCRIBE EXTENDED`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::content::Content;
use super::hosted::HostedFigures;
use super::tables::{CachedTable, CachedTables};
use crate::access::Principal;
use crate::catalog::SystemTables;
use crate::error::{Error, Result};

/// The name of the table.
const CACHED_TABLES: &str = "cached_tables";
/// How the process that the engine is in is called.
const HERE: &str = "local";

/// The cached tables of a process as a table.
#[derive(Debug)]
pub(crate) struct CacheReport(pub(crate) Arc<CachedTables>);

fn schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, false);
    let count = |name| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![
        text("table_schema"),
        text("table_name"),
        text("storage_level"),
        Field::new("clustered_by", DataType::Utf8, true),
        count("partitions"),
        count("cached_partitions"),
        count("copies"),
        Field::new("row_count", DataType::Int64, true),
        count("memory_bytes"),
        count("disk_bytes"),
        count("hits"),
        count("misses"),
        count("rebuilt"),
        text("worker"),
    ]))
}

#[async_trait]
impl SystemTables for CacheReport {
    fn schemas(&self) -> Vec<(&'static str, SchemaRef)> {
        vec![(CACHED_TABLES, schema())]
    }

    /// Shape: a row for each cached table, by name.
    async fn rows(&self, _table: &str, _viewer: &Principal) -> Result<Vec<RecordBatch>> {
        let mut tables = self.0.all();
        tables.sort_by_key(|table| (table.name.schema.clone(), table.name.table.clone(), table.id));
        let contents: Vec<Arc<Content>> = tables.iter().map(|table| table.content()).collect();
        let text = |get: &dyn Fn(&CachedTable) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(tables.iter().map(|table| get(table))))
        };
        let count = |get: &dyn Fn(&Content) -> i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(contents.iter().map(|content| get(content))))
        };
        let figures = self.figures(&contents);
        let used = |get: &dyn Fn(&HostedFigures) -> u64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(figures.iter().map(|it| get(it) as i64)))
        };
        let clustered = contents.iter().map(|content| clustered_by(content));
        let rows = tables
            .iter()
            .zip(&contents)
            .map(|(table, content)| row_count(content).filter(|_| !table.is_stale_with(content)));
        let columns: Vec<ArrayRef> = vec![
            text(&|table| table.name.schema.clone()),
            text(&|table| table.name.table.clone()),
            text(&|table| table.options.level.to_string()),
            Arc::new(clustered.collect::<StringArray>()),
            count(&|content| content.partition_count() as i64),
            used(&|figures| figures.cached_partitions),
            used(&|figures| figures.copies),
            Arc::new(rows.collect::<Int64Array>()),
            used(&|figures| figures.memory_bytes),
            used(&|figures| figures.disk_bytes),
            used(&|figures| figures.hits),
            used(&|figures| figures.passed),
            used(&|figures| figures.rebuilt),
            Arc::new(StringArray::from_iter_values(figures.iter().map(|it| &it.keepers))),
        ];
        let batch = RecordBatch::try_new(schema(), columns).map_err(|error| Error::Internal {
            message: format!("the rows of {CACHED_TABLES}: {error}"),
            source: None,
        })?;
        Ok(vec![batch])
    }
}

impl CacheReport {
    fn figures(&self, contents: &[Arc<Content>]) -> Vec<HostedFigures> {
        let tables = self.0.opened_store().map(|store| store.stats().tables).unwrap_or_default();
        let of_content = |content: &Arc<Content>| {
            if let Some(table) = content.hosted() {
                return table.figures();
            }
            let key = (Arc::clone(&content.key), content.current().epoch);
            let usage = tables.get(&key).copied().unwrap_or_default();
            let counters = &content.counters;
            HostedFigures {
                copies: u64::from(usage.partitions >= content.partition_count()),
                cached_partitions: usage.partitions as u64,
                memory_bytes: usage.memory_bytes as u64,
                disk_bytes: usage.disk_bytes,
                hits: counters.hits.load(Ordering::Relaxed),
                passed: counters.passed.load(Ordering::Relaxed),
                rebuilt: counters.rebuilt.load(Ordering::Relaxed),
                keepers: HERE.to_owned(),
            }
        };
        contents.iter().map(of_content).collect()
    }
}

fn clustered_by(content: &Content) -> Option<String> {
    let columns = content.clustered.as_ref()?;
    let names = columns.iter().map(|column| content.schema.field(*column).name().as_str());
    Some(names.collect::<Vec<_>>().join(", "))
}

fn row_count(content: &Content) -> Option<i64> {
    let summaries = content.summaries()?;
    Some(summaries.iter().map(|summary| summary.row_count as i64).sum())
}

impl CachedTable {
    /// Says how the table is cached, in a line.
    pub(crate) fn describe(&self) -> String {
        let content = self.content();
        let mut line = format!("{}, {} partitions", self.options.level, content.partition_count());
        if let Some(columns) = clustered_by(&content) {
            line.push_str(&format!(" clustered by {columns}"));
        }
        let is_loaded = row_count(&content).is_some() && !self.is_stale_with(&content);
        line.push_str(if is_loaded { "" } else { ", not loaded yet" });
        line
    }
}
