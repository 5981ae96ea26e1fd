//! Files in a temporary directory, read and written through the module's own surface.

mod bad_input;
mod fuzz;
mod reading;
mod writing;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::FutureExt;
use tempfile::TempDir;

use super::{
    FileTable, FileTarget, Format, WriteMode, copy_target, explain_failure, open, open_path, write,
};
use crate::error::Error;
use crate::query::LocalExecutor;

/// A directory with files and a session to read them with.
struct Place {
    directory: TempDir,
    context: SessionContext,
}

impl Place {
    fn new() -> Self {
        let config = SessionConfig::new().with_target_partitions(3);
        Self {
            directory: tempfile::tempdir().unwrap(),
            context: SessionContext::new_with_config(config),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and the directories above it; returns its path.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        self.text(name)
    }

    fn state(&self) -> SessionState {
        self.context.state()
    }

    /// Opens a table as `t`.
    async fn open(&self, table: &FileTable) -> Result<(), Error> {
        let provider = open(&self.state(), table).await?;
        self.context.deregister_table("t").unwrap();
        self.context.register_table("t", provider).unwrap();
        Ok(())
    }

    /// Opens a path as `t`.
    async fn open_path(&self, path: &str) -> Result<(), Error> {
        let provider = open_path(&self.state(), path, None).await?.expect("a path");
        self.context.deregister_table("t").unwrap();
        self.context.register_table("t", provider).unwrap();
        Ok(())
    }

    /// Runs a query as the engine does: a failure, or a panic, is explained.
    async fn query(&self, sql: &str) -> Result<String, Error> {
        let frame = self.context.sql(sql).await.map_err(ours)?;
        let plan = frame.create_physical_plan().await.map_err(ours)?;
        let task = self.context.task_ctx();
        let work = AssertUnwindSafe(collect(Arc::clone(&plan), Arc::clone(&task)));
        let result = match work.catch_unwind().await {
            Ok(result) => result,
            Err(_) => Err(DataFusionError::Execution("panic".to_owned())),
        };
        match result {
            Ok(batches) => {
                let text = pretty_format_batches(&batches).unwrap().to_string();
                let rows = text.lines().filter(|line| line.starts_with('|')).map(|line| {
                    line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(",")
                });
                Ok(rows.skip(1).collect::<Vec<_>>().join(";"))
            }
            Err(error) => Err(explain_failure(&plan, &task, error).await),
        }
    }

    /// Opens a Spark table and runs a query over it as `t`.
    async fn spark(
        &self,
        format: Format,
        options: &[(&str, &str)],
        sql: &str,
    ) -> Result<String, Error> {
        self.open(&spark_table(format, options)?).await?;
        self.query(sql).await
    }

    /// Opens a path and runs a query over it as `t`.
    async fn direct(&self, path: &str, sql: &str) -> Result<String, Error> {
        self.open_path(path).await?;
        self.query(sql).await
    }

    /// Returns the columns of `t` with their types.
    async fn columns(&self) -> String {
        let table = self.context.table_provider("t").await.unwrap();
        let fields: Vec<String> = table
            .schema()
            .fields()
            .iter()
            .map(|field| format!("{} {}", field.name(), field.data_type()))
            .collect();
        fields.join(", ")
    }

    async fn write(&self, sql: &str, target: &FileTarget) -> Result<u64, Error> {
        let plan = self.context.state().create_logical_plan(sql).await.unwrap();
        let plan = self.context.state().optimize(&plan).unwrap();
        write(&self.state(), &LocalExecutor, plan, target, || {}).await
    }

    /// Copies a query's rows to a file or directory.
    async fn copy(&self, sql: &str, name: &str, options: &[(&str, &str)]) -> Result<u64, Error> {
        let target = self.target(name, options, &[], WriteMode::Create)?;
        self.write(sql, &target).await
    }

    fn target(
        &self,
        name: &str,
        options: &[(&str, &str)],
        partition_by: &[&str],
        mode: WriteMode,
    ) -> Result<FileTarget, Error> {
        let options = pairs(options);
        let partition_by = partition_by.iter().map(|name| (*name).to_owned()).collect();
        let target = copy_target(&self.text(name), None, options, partition_by)?;
        Ok(FileTarget { mode, ..target })
    }

    /// Returns the names of everything in a directory, hidden or not, below it too.
    fn names(&self, name: &str) -> Vec<String> {
        let mut names = Vec::new();
        collect_names(&self.path(name), "", &mut names);
        names.sort();
        names
    }
}

fn collect_names(directory: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            collect_names(&entry.path(), &format!("{name}/"), names);
        }
        names.push(name);
    }
}

fn pairs(options: &[(&str, &str)]) -> Vec<(String, String)> {
    options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn spark_table(format: Format, options: &[(&str, &str)]) -> Result<FileTable, Error> {
    FileTable::from_spark(format, &pairs(options), None, None, Vec::new())
}

/// Finds the engine's error again behind DataFusion's.
fn ours(error: DataFusionError) -> Error {
    let mut error = error;
    loop {
        error = match error {
            DataFusionError::Context(_, inner) => *inner,
            DataFusionError::External(inner) => match inner.downcast::<Error>() {
                Ok(ours) => return *ours,
                Err(other) => return Error::plan(other.to_string()),
            },
            other => return Error::plan(other.to_string()),
        };
    }
}
