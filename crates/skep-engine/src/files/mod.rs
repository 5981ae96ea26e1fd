//! Files as tables.

use crate::error::{Error, Result};
use crate::query::QueryExecutor;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{CreateExternalTable, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Csv,
    Json,
    Parquet,
    Arrow,
    Avro,
}
impl FromStr for Format {
    type Err = Error;
    fn from_str(_: &str) -> Result<Self> {
        Err(Error::unsupported("x", ""))
    }
}
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "x")
    }
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SortColumn {
    pub(crate) column: String,
    pub(crate) ascending: bool,
    pub(crate) nulls_first: bool,
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileTable {
    pub(crate) format: Format,
    pub(crate) locations: Vec<String>,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) schema: Option<SchemaRef>,
    pub(crate) partition_columns: Vec<(String, DataType)>,
    pub(crate) order: Vec<Vec<SortColumn>>,
}
impl FileTable {
    pub(crate) fn from_spark(
        _: Format,
        _: &[(String, String)],
        _: Option<SchemaRef>,
        _: Option<String>,
        _: Vec<String>,
    ) -> Result<Self> {
        Err(Error::unsupported("x", ""))
    }
    pub(crate) fn from_external(_: &CreateExternalTable) -> Result<Self> {
        Err(Error::unsupported("x", ""))
    }
}
pub(crate) enum WriteMode {
    Create,
    Append,
    Overwrite,
}
pub(crate) struct FileTarget {
    pub(crate) location: String,
    pub(crate) format: Format,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) partition_by: Vec<String>,
    pub(crate) mode: WriteMode,
    pub(crate) single_file: Option<bool>,
}
pub(crate) fn keep_inferred(_: &mut FileTable, _: &dyn TableProvider) {}
pub(crate) fn insert_target(_: &FileTable, _: WriteMode) -> Result<FileTarget> {
    Err(Error::unsupported("x", ""))
}
pub(crate) fn copy_target(
    _: &str,
    _: Option<&str>,
    _: Vec<(String, String)>,
    _: Vec<String>,
) -> Result<FileTarget> {
    Err(Error::unsupported("x", ""))
}
pub(crate) async fn open(_: &SessionState, _: &FileTable) -> Result<Arc<dyn TableProvider>> {
    Err(Error::unsupported("x", ""))
}
pub(crate) async fn open_path(
    _: &SessionState,
    _: &str,
    _: Option<Format>,
) -> Result<Option<Arc<dyn TableProvider>>> {
    Ok(None)
}
pub(crate) async fn explain_failure(
    _: &Arc<dyn ExecutionPlan>,
    _: &Arc<TaskContext>,
    error: DataFusionError,
) -> Error {
    error.into()
}
pub(crate) async fn write(
    _: &SessionState,
    _: &dyn QueryExecutor,
    _: LogicalPlan,
    _: &FileTarget,
) -> Result<u64> {
    Err(Error::unsupported("x", ""))
}
