//! Which tables others keep, noted beside the catalog: a coordinator that is started again finds what
//! its workers still keep.
//!
//! Only tables of the catalog are noted; what a session cached of its own went with it. A note says by
//! which name and in which way a table was cached, and what its lineage was, as a fingerprint: if the
//! plan or a file is not what it was, what the workers keep is of no use.
//!
//! **Invariant:** what cannot be noted or read costs a table that is loaded again, never an answer.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::displayable;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::level::{CacheOptions, ClusterBy};
use super::lineage::Lineage;
use crate::error::Result;

/// One table that others keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CachedDefinition {
    pub(crate) schema: String,
    pub(crate) table: String,
    level: String,
    cluster_by: Option<Clustering>,
    pub(crate) is_lazy: bool,
    /// Into how many partitions the plan was cut.
    pub(crate) width: usize,
    pub(crate) identity: Identity,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Clustering {
    columns: Vec<String>,
    partitions: Option<usize>,
}

/// How keepers know a content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// The table's number.
    pub(crate) id: u64,
    /// How stores call it: after whoever cached these rows first.
    pub(crate) key: String,
    pub(crate) epoch: u64,
    /// What its lineage was.
    pub(crate) fingerprint: u64,
}

impl CachedDefinition {
    pub(crate) fn new(
        (schema, table): (&str, &str),
        options: &CacheOptions,
        is_lazy: bool,
        width: usize,
        identity: Identity,
    ) -> Self {
        Self {
            schema: schema.to_owned(),
            table: table.to_owned(),
            level: options.level.to_string(),
            cluster_by: options
                .cluster_by
                .as_ref()
                .map(|it| Clustering { columns: it.columns.clone(), partitions: it.partitions }),
            is_lazy,
            width,
            identity,
        }
    }

    /// Returns how the table was cached.
    ///
    /// # Errors
    /// If there is no such storage level any more.
    pub(crate) fn options(&self) -> Result<CacheOptions> {
        let cluster_by = self
            .cluster_by
            .as_ref()
            .map(|it| ClusterBy { columns: it.columns.clone(), partitions: it.partitions });
        Ok(CacheOptions { level: self.level.parse()?, cluster_by })
    }
}

/// Tells lineages from each other: the operators, the files as they were, the columns.
pub(crate) fn fingerprint(lineage: &Lineage, schema: &SchemaRef, partition_count: usize) -> u64 {
    // Its keys are fixed; and both processes are of one build.
    let mut hasher = DefaultHasher::new();
    displayable(lineage.plan().as_ref()).indent(true).to_string().hash(&mut hasher);
    lineage.sources_text().hash(&mut hasher);
    format!("{schema:?}").hash(&mut hasher);
    partition_count.hash(&mut hasher);
    hasher.finish()
}

/// The file of notes.
#[derive(Debug)]
pub(crate) struct DefinitionFile {
    /// `None` notes nothing.
    path: Option<PathBuf>,
    /// Noted by the process before this one, and not found yet.
    pub(crate) awaited: Mutex<Vec<CachedDefinition>>,
    writing: Mutex<()>,
}

impl DefinitionFile {
    /// Reads what was noted in a data directory; what cannot be read is passed over.
    pub(crate) fn open(data_dir: Option<&Path>) -> Arc<Self> {
        let path = data_dir.map(|directory| directory.join("cached_tables.json"));
        let awaited = match path.as_deref().map(fs::read) {
            Some(Ok(text)) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                warn!(%error, "the notes of cached tables cannot be read");
                Vec::new()
            }),
            Some(Err(error)) if error.kind() != ErrorKind::NotFound => {
                warn!(%error, "the notes of cached tables cannot be read");
                Vec::new()
            }
            Some(Err(_)) | None => Vec::new(),
        };
        Arc::new(Self { path, awaited: Mutex::new(awaited), writing: Mutex::default() })
    }

    /// Notes these tables, and those that are awaited still.
    pub(crate) fn write(&self, tables: impl FnOnce() -> Vec<CachedDefinition>) {
        let Some(path) = &self.path else { return };
        let _one_at_a_time = self.writing.lock();
        let mut all = tables();
        all.extend(self.awaited.lock().iter().cloned());
        let staged = path.with_extension("json.new");
        let written = serde_json::to_vec_pretty(&all)
            .map_err(std::io::Error::from)
            .and_then(|text| fs::write(&staged, text))
            .and_then(|()| fs::rename(&staged, path));
        if let Err(error) = written {
            warn!(%error, "cached tables are not noted");
        }
    }

    /// Awaits a table no longer.
    pub(crate) fn forget(&self, definition: &CachedDefinition) {
        self.awaited.lock().retain(|awaited| awaited != definition);
    }

    /// Returns whether a content is still awaited.
    pub(crate) fn awaits(&self, identity: &Identity) -> bool {
        self.awaited.lock().iter().any(|awaited| awaited.identity == *identity)
    }

    /// Awaits these tables no longer, and returns them.
    pub(crate) fn take(
        &self,
        is_meant: impl Fn(&CachedDefinition) -> bool,
    ) -> Vec<CachedDefinition> {
        self.awaited.lock().extract_if(.., |awaited| is_meant(awaited)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(id: u64) -> CachedDefinition {
        let cluster_by = Some(ClusterBy { columns: vec!["k".to_owned()], partitions: Some(3) });
        let options = CacheOptions { cluster_by, ..CacheOptions::default() };
        let key = format!("t#{id}");
        let identity = Identity { id, key, epoch: 7, fingerprint: u64::MAX };
        CachedDefinition::new(("public", "t"), &options, false, 4, identity)
    }

    #[test]
    fn what_is_noted_is_awaited_by_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let file = DefinitionFile::open(Some(directory.path()));
        assert!(file.awaited.lock().is_empty());
        file.write(|| vec![definition(1), definition(2)]);
        let next = DefinitionFile::open(Some(directory.path()));
        assert_eq!(*next.awaited.lock(), [definition(1), definition(2)]);
        assert_eq!(definition(1).options().unwrap().cluster_by.unwrap().partitions, Some(3));
        next.forget(&definition(1));
        next.write(|| vec![definition(3)]);
        let last = DefinitionFile::open(Some(directory.path()));
        assert_eq!(*last.awaited.lock(), [definition(3), definition(2)]);
        fs::write(directory.path().join("cached_tables.json"), "{").unwrap();
        assert!(DefinitionFile::open(Some(directory.path())).awaited.lock().is_empty());
    }
}
