//! The directories in which skep keeps the rows of managed tables.
//!
//! A table that was dropped or replaced may still be read, by this process or by another one that
//! shares the data directory. So its directory is only marked, and removed when whoever was reading
//! has had time to end. What a killed process left behind is removed when it is old.
//!
//! **Invariant:** a directory that the catalog names is never removed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::catalog::entry::{Definition, TableEntry};
use crate::catalog::persistent::Snapshot;
use crate::error::{Error, Result};

/// How long a dropped table's files stay for those who are reading them.
const GRACE: Duration = Duration::from_secs(10 * 60);
/// After which a directory that no catalog ever named is taken for the leavings of a dead process.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);
/// What marks a directory as dropped: a file beside it with this at its end.
const MARK: &str = ".dropped";

/// The part of a data directory that holds rows.
#[derive(Debug)]
pub(crate) struct Warehouse {
    root: PathBuf,
}

impl Warehouse {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.join("warehouse") }
    }

    /// Returns where the tables of a schema are.
    pub(crate) fn schema_dir(&self, schema: &str) -> PathBuf {
        self.root.join(schema)
    }

    /// Marks a managed table's directory for removal.
    pub(crate) fn forget(&self, entry: &TableEntry) -> Result<()> {
        for directory in directories(entry) {
            if !directory.exists() {
                continue;
            }
            let mark = mark_of(&directory);
            File::create(&mark).map_err(|source| Error::Io {
                action: "create",
                path: mark.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// Removes directories that were dropped long enough ago, and old ones that nobody names.
    ///
    /// To be called under the catalog's lock. What cannot be removed is left for the next time.
    pub(crate) fn sweep(&self, snapshot: &Snapshot, now: SystemTime) {
        let named: BTreeSet<PathBuf> = snapshot
            .schemas
            .values()
            .flat_map(|tables| tables.values())
            .flat_map(|entry| directories(entry))
            .collect();
        let Ok(schemas) = fs::read_dir(&self.root) else { return };
        for schema in schemas.flatten() {
            let Ok(children) = fs::read_dir(schema.path()) else { continue };
            for child in children.flatten() {
                let path = child.path();
                if path.is_dir() && !named.contains(&path) && is_over(&path, now) {
                    let _ = fs::remove_dir_all(&path);
                    let _ = fs::remove_file(mark_of(&path));
                }
            }
        }
    }
}

/// The directories of a managed table, without a slash at the end; none for other tables.
fn directories(entry: &TableEntry) -> Vec<PathBuf> {
    match &entry.definition {
        Definition::Files { table, managed: true } => table
            .locations
            .iter()
            .map(|location| {
                let path = location.strip_prefix("file://").unwrap_or(location);
                PathBuf::from(path.trim_end_matches('/'))
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn mark_of(directory: &Path) -> PathBuf {
    let mut mark = directory.as_os_str().to_owned();
    mark.push(MARK);
    PathBuf::from(mark)
}

/// Whether nobody can need a directory that no catalog names.
fn is_over(directory: &Path, now: SystemTime) -> bool {
    let age = |path: &Path| {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
        now.duration_since(modified).ok()
    };
    age(&mark_of(directory)).is_some_and(|age| age > GRACE)
        || age(directory).is_some_and(|age| age > ABANDONED)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::files::{FileTable, Format};

    fn managed(directory: &Path) -> TableEntry {
        let table = FileTable {
            format: Format::Parquet,
            locations: vec![format!("{}/", directory.display())],
            options: BTreeMap::new(),
            schema: None,
            partition_columns: Vec::new(),
            order: Vec::new(),
        };
        TableEntry::new(Definition::Files { table, managed: true }, None)
    }

    #[test]
    fn files_go_when_they_are_dropped_and_those_who_read_them_had_time() {
        let data_dir = tempfile::tempdir().unwrap();
        let warehouse = Warehouse::new(data_dir.path());
        let schema = warehouse.schema_dir("public");
        let (kept, dropped) = (schema.join("kept-1"), schema.join("dropped-1"));
        let left = schema.join(".left.skep-1");
        for directory in [&kept, &dropped, &left] {
            fs::create_dir_all(directory).unwrap();
        }
        let mut snapshot = Snapshot::default();
        let tables = snapshot.schemas.entry("public".to_owned()).or_default();
        tables.insert("kept".to_owned(), Arc::new(managed(&kept)));
        warehouse.forget(&managed(&dropped)).unwrap();
        let there = || [kept.exists(), dropped.exists(), left.exists()];

        let now = SystemTime::now();
        warehouse.sweep(&snapshot, now);
        assert_eq!(there(), [true, true, true]);
        warehouse.sweep(&snapshot, now + GRACE + Duration::from_secs(60));
        assert_eq!(there(), [true, false, true]);
        assert!(!mark_of(&dropped).exists());
        warehouse.sweep(&snapshot, now + ABANDONED + Duration::from_secs(60));
        assert_eq!(there(), [true, false, false]);
    }
}
