//! A cluster of real processes, and what tests see of it through a client.

use std::path::Path;
use std::time::{Duration, Instant};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use skep_client::Client;
use skep_testkit::cluster::{ClusterShape, MultiProcess, WorkerProcess};
use skep_testkit::render;
use tempfile::TempDir;

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running cluster with its own directories.
pub(crate) struct Cluster {
    pub(crate) processes: MultiProcess,
    pub(crate) client: Client,
    _directory: TempDir,
}

impl Cluster {
    pub(crate) async fn start(worker_count: usize, slot_count: usize, config: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("skep-it-").tempdir().unwrap();
        let [data_dir, spill_dir] = ["data", "spill"].map(|name| directory.path().join(name));
        for path in [&data_dir, &spill_dir] {
            std::fs::create_dir(path).unwrap();
        }
        let shape = ClusterShape {
            worker_count,
            slot_count,
            memory_limit: 512 << 20,
            partition_memory_limit: None,
            target_partitions: None,
            data_dir,
            spill_dir,
            spreads_small: true,
            extra_config: config.to_owned(),
            extra_arguments: Vec::new(),
        };
        let binary = Path::new(env!("CARGO_BIN_EXE_skep"));
        let processes = MultiProcess::start(binary, &shape).unwrap();
        let client = Client::connect(&processes.url).await.unwrap();
        Self { processes, client, _directory: directory }
    }

    /// Answers a question about the cluster, in a session of its own.
    pub(crate) async fn ask(&self, query: &str) -> Vec<Vec<String>> {
        rows(&self.client, query).await.unwrap()
    }

    /// Asks again and again until the answer is as wanted.
    pub(crate) async fn wait_for(
        &self,
        query: &str,
        is_wanted: impl Fn(&[Vec<String>]) -> bool,
    ) -> Vec<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rows = self.ask(query).await;
            if is_wanted(&rows) {
                return rows;
            }
            assert!(Instant::now() < deadline, "{query} still answers {rows:#?}");
        }
    }

    /// Returns the id of the query whose text has this mark, once there is one.
    pub(crate) async fn query_id(&self, mark: &str) -> String {
        // The question must not find itself.
        let query = format!(
            "SELECT query FROM system.queries WHERE sql LIKE '%{mark}%' AND sql NOT LIKE '%system.%'"
        );
        self.wait_for(&query, |rows| rows.len() == 1).await.remove(0).remove(0)
    }

    /// Returns the attempts of a query.
    pub(crate) async fn attempts(&self, query: &str) -> Vec<TaskRow> {
        let query = format!(
            "SELECT stage, partition, attempt, state, worker FROM system.tasks \
             WHERE query = '{query}' AND attempt IS NOT NULL ORDER BY stage, partition, attempt"
        );
        self.ask(&query).await.into_iter().map(TaskRow::of).collect()
    }

    /// Takes in a worker that was started beside the others, by the line that it printed.
    pub(crate) fn add_worker(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        let ["worker", id, "pid", pid, address] = words[..] else { panic!("{line}") };
        let (id, address) = (id.to_owned(), address.to_owned());
        self.processes.workers.push(WorkerProcess { id, pid: pid.parse().unwrap(), address });
    }

    /// Returns the process of a worker, as `system.tasks` names it.
    pub(crate) fn worker(&self, name: &str) -> &WorkerProcess {
        let id = name.split('#').next().unwrap_or(name).trim_start_matches('w');
        let workers = &self.processes.workers;
        let found = workers.iter().find(|worker| worker.id.trim_start_matches('w') == id);
        found.unwrap_or_else(|| panic!("no worker {name} among {workers:?}"))
    }
}

/// Runs a statement and renders its rows.
pub(crate) async fn rows(
    client: &Client,
    query: &str,
) -> Result<Vec<Vec<String>>, skep_client::Error> {
    let statement = client.execute(query).await?;
    let schema = statement.schema();
    let batches = statement.collect().await?;
    Ok(rendered(&schema, &batches))
}

fn rendered(schema: &SchemaRef, batches: &[RecordBatch]) -> Vec<Vec<String>> {
    render::rows(schema, batches).unwrap()
}

/// A row of `system.tasks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskRow {
    pub(crate) stage: String,
    pub(crate) partition: usize,
    pub(crate) attempt: usize,
    pub(crate) state: String,
    pub(crate) worker: String,
}

impl TaskRow {
    fn of(cells: Vec<String>) -> Self {
        let [stage, partition, attempt, state, worker] = <[String; 5]>::try_from(cells).unwrap();
        Self {
            stage,
            partition: partition.parse().unwrap(),
            attempt: attempt.parse().unwrap(),
            state,
            worker,
        }
    }
}
