//! The catalog's file: JSON, one version, put in place by a rename.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::catalog::entry::{Definition, TableEntry, ViewText};
use crate::catalog::persistent::Snapshot;
use crate::error::{Error, Result};
use crate::files::{FileTable, Format, SortColumn};

const VERSION: u32 = 1;

/// Where the catalog is kept.
#[derive(Debug)]
pub(crate) struct CatalogFile {
    path: PathBuf,
    lock: PathBuf,
}

impl CatalogFile {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join("catalog.json"), lock: data_dir.join("catalog.lock") }
    }

    /// Waits until no other process changes the catalog; the lock ends with the file.
    pub(crate) fn lock(&self) -> Result<File> {
        let failed = |source| Error::Io { action: "lock", path: self.lock.clone(), source };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.lock)
            .map_err(failed)?;
        file.lock().map_err(failed)?;
        Ok(file)
    }

    /// Reads the file; nothing if there is none yet.
    ///
    /// The text itself tells one version from another: times and sizes are too coarse when two
    /// processes take turns.
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        match fs::read(&self.path) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(Error::Io { action: "read", path: self.path.clone(), source }),
        }
    }

    pub(crate) fn parse(&self, text: &[u8]) -> Result<Snapshot> {
        if text.is_empty() {
            return Ok(Snapshot::default());
        }
        let stored: StoredCatalog =
            serde_json::from_slice(text).map_err(|error| self.broken(error.to_string()))?;
        if stored.version != VERSION {
            return Err(self.broken(format!("it has version {}, not {VERSION}", stored.version)));
        }
        stored.into_snapshot().map_err(|message| self.broken(message))
    }

    /// Writes beside the file and renames, so that a reader sees the old or the new whole.
    pub(crate) fn write(&self, snapshot: &Snapshot) -> Result<Vec<u8>> {
        let failed = |source| Error::Io { action: "write", path: self.path.clone(), source };
        let stored = StoredCatalog::from_snapshot(snapshot)?;
        let text = serde_json::to_vec_pretty(&stored).map_err(|error| Error::Internal {
            message: format!("the catalog cannot be written as JSON: {error}"),
            source: None,
        })?;
        let staged = self.path.with_extension("json.new");
        let mut file = File::create(&staged).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&staged, &self.path).map_err(failed)?;
        if let Some(directory) = self.path.parent() {
            // The rename itself is durable only once the directory is.
            File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        }
        Ok(text)
    }

    fn broken(&self, message: String) -> Error {
        Error::File {
            path: self.path.display().to_string(),
            format: Some("a skep catalog".to_owned()),
            message,
            missing: false,
            hint: Some("move the file away to start with an empty catalog".to_owned()),
        }
    }
}

/// Whether two entries are kept as the same text.
pub(crate) fn is_same(left: &TableEntry, right: &TableEntry) -> bool {
    match (StoredTable::from_entry(left), StoredTable::from_entry(right)) {
        (Ok(left), Ok(right)) => left == right,
        _ => false,
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredCatalog {
    version: u32,
    schemas: BTreeMap<String, BTreeMap<String, StoredTable>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum StoredTable {
    Files {
        format: String,
        locations: Vec<String>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        options: BTreeMap<String, String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        columns: Option<Vec<StoredColumn>>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        partition_columns: Vec<(String, String)>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        order: Vec<Vec<StoredSort>>,
        managed: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comment: Option<String>,
    },
    View {
        query: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        columns: Vec<String>,
        schema: String,
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        by_admin: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comment: Option<String>,
    },
}

/// What is kept without a word on it.
fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredColumn {
    name: String,
    /// Arrow's own notation, which it reads back.
    r#type: String,
    nullable: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSort {
    column: String,
    ascending: bool,
    nulls_first: bool,
}

impl StoredCatalog {
    fn from_snapshot(snapshot: &Snapshot) -> Result<Self> {
        let mut schemas = BTreeMap::new();
        for (schema, tables) in &snapshot.schemas {
            let mut stored = BTreeMap::new();
            for (name, entry) in tables {
                stored.insert(name.clone(), StoredTable::from_entry(entry)?);
            }
            schemas.insert(schema.clone(), stored);
        }
        Ok(Self { version: VERSION, schemas })
    }

    fn into_snapshot(self) -> Result<Snapshot, String> {
        let mut snapshot = Snapshot::default();
        for (schema, tables) in self.schemas {
            let mut entries = BTreeMap::new();
            for (name, table) in tables {
                let entry =
                    table.into_entry().map_err(|error| format!("table \"{name}\": {error}"))?;
                entries.insert(name, Arc::new(entry));
            }
            snapshot.schemas.insert(schema, entries);
        }
        Ok(snapshot)
    }
}

impl StoredTable {
    fn from_entry(entry: &TableEntry) -> Result<Self> {
        match &entry.definition {
            Definition::Files { table, managed } => Ok(Self::Files {
                format: table.format.to_string(),
                locations: table.locations.clone(),
                options: table.options.clone(),
                columns: table.schema.as_ref().map(store_columns).transpose()?,
                partition_columns: table
                    .partition_columns
                    .iter()
                    .map(|(name, data_type)| Ok((name.clone(), store_type(name, data_type)?)))
                    .collect::<Result<_>>()?,
                order: table
                    .order
                    .iter()
                    .map(|columns| columns.iter().map(store_sort).collect())
                    .collect(),
                managed: *managed,
                comment: entry.comment.clone(),
            }),
            Definition::View(view) => Ok(Self::View {
                query: view.query.clone(),
                columns: view.columns.clone(),
                schema: view.schema.clone(),
                by_admin: view.by_admin,
                comment: entry.comment.clone(),
            }),
            Definition::Provider { .. } | Definition::System(_) => Err(Error::Internal {
                message: "a table of this process cannot be kept in the catalog".to_owned(),
                source: None,
            }),
        }
    }

    fn into_entry(self) -> Result<TableEntry, String> {
        match self {
            Self::Files {
                format,
                locations,
                options,
                columns,
                partition_columns,
                order,
                managed,
                comment,
            } => {
                let table = FileTable {
                    format: format.parse::<Format>().map_err(|error| error.to_string())?,
                    locations,
                    options,
                    schema: columns.map(load_columns).transpose()?,
                    partition_columns: partition_columns
                        .into_iter()
                        .map(|(name, data_type)| Ok((name, load_type(&data_type)?)))
                        .collect::<Result<_, String>>()?,
                    order: order
                        .into_iter()
                        .map(|columns| columns.into_iter().map(load_sort).collect())
                        .collect(),
                };
                Ok(TableEntry::new(Definition::Files { table, managed }, comment))
            }
            Self::View { query, columns, schema, by_admin, comment } => {
                let text = ViewText { query, columns, schema, by_admin };
                Ok(TableEntry::new(Definition::View(text), comment))
            }
        }
    }
}

fn store_columns(schema: &SchemaRef) -> Result<Vec<StoredColumn>> {
    schema
        .fields()
        .iter()
        .map(|field| {
            Ok(StoredColumn {
                name: field.name().clone(),
                r#type: store_type(field.name(), field.data_type())?,
                nullable: field.is_nullable(),
                metadata: field.metadata().clone().into_iter().collect(),
            })
        })
        .collect()
}

fn load_columns(columns: Vec<StoredColumn>) -> Result<SchemaRef, String> {
    let fields = columns
        .into_iter()
        .map(|column| {
            let field = Field::new(column.name, load_type(&column.r#type)?, column.nullable);
            Ok(field.with_metadata(column.metadata.into_iter().collect()))
        })
        .collect::<Result<Vec<Field>, String>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

/// Writes a type so that it reads back as the same, or says that it cannot.
fn store_type(column: &str, data_type: &DataType) -> Result<String> {
    let text = data_type.to_string();
    if load_type(&text).as_ref() == Ok(data_type) {
        return Ok(text);
    }
    Err(Error::unsupported(format!("column \"{column}\" of type {data_type} in a kept table"), ""))
}

fn load_type(text: &str) -> Result<DataType, String> {
    text.parse::<DataType>().map_err(|error| error.to_string())
}

fn store_sort(sort: &SortColumn) -> StoredSort {
    StoredSort {
        column: sort.column.clone(),
        ascending: sort.ascending,
        nulls_first: sort.nulls_first,
    }
}

fn load_sort(sort: StoredSort) -> SortColumn {
    SortColumn { column: sort.column, ascending: sort.ascending, nulls_first: sort.nulls_first }
}
