//! Every statement of `sql-tests`: what of it leaves the coordinator travels, and a plan put
//! together from what arrived answers as the one that was sent.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, collect, execute_stream};
use parking_lot::Mutex;
use skep_engine::{
    Engine, EngineConfig, EngineParts, QueryExecutor, Session, TaskSettings, build_runtime,
};
use skep_testkit::slt::find_scripts;
use skep_testkit::tpch::DataSet;
use skep_testkit::workspace;

use crate::codec::stage::write;
use crate::codec::{DecodedStage, decode_stage, encode_stage};
use crate::stage_planner::tests::rows;
use crate::stage_planner::{Place, StageOptions, StagePlan, StagePlanner, rejoin};

const STATEMENT_LIMIT: Duration = Duration::from_secs(60);

/// Runs what it is given, and again after a journey.
#[derive(Debug, Default)]
struct Traveller {
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    stages: usize,
    compared: usize,
    stayed: Vec<String>,
    differences: Vec<String>,
}

impl Traveller {
    /// Sends the stages away; returns them as they came back, if all may leave.
    fn journey(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        context: &Arc<TaskContext>,
    ) -> Option<(Arc<dyn ExecutionPlan>, Arc<TaskContext>)> {
        let options =
            StageOptions { target_partitions: 4, min_scan_bytes_per_task: 64 * 1024, slots: None };
        let mut stages = StagePlanner::new(options).plan(plan).ok()?.stages;
        let settings = TaskSettings::of(context).task_context(&context.runtime_env()).unwrap();
        let mut is_whole = true;
        let mut found = self.found.lock();
        for stage in &mut stages {
            if matches!(stage.place, Place::Coordinator { .. }) {
                is_whole = false;
                continue;
            }
            found.stages += 1;
            let encoded = match encode_stage(stage, context) {
                Ok(encoded) => encoded,
                Err(error) => {
                    found.stayed.push(error.to_string().lines().next().unwrap().to_owned());
                    is_whole = false;
                    continue;
                }
            };
            let decoded = decode_stage(&encoded.program, &settings).unwrap();
            let DecodedStage { plan, output, task_count, .. } = decoded;
            assert_eq!(write(&plan, &output, task_count).unwrap(), encoded.program);
            stage.plan = plan;
            stage.output = output;
        }
        let plan = is_whole.then(|| rejoin(&StagePlan { stages, tables: Vec::new() }).unwrap());
        plan.map(|plan| (plan, Arc::new(settings)))
    }
}

fn sorted(batches: &[RecordBatch]) -> Vec<String> {
    let mut rows = rows(batches);
    rows.sort();
    rows
}

#[async_trait]
impl QueryExecutor for Traveller {
    async fn execute(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> skep_engine::Result<SendableRecordBatchStream> {
        let Some((travelled, settings)) = self.journey(&plan, &context) else {
            return Ok(execute_stream(plan, context)?);
        };
        let schema = plan.schema();
        let before = collect(plan, context).await;
        let after = collect(travelled, settings).await;
        self.found.lock().compared += 1;
        match (&before, &after) {
            (Ok(before), Ok(after)) => {
                let (before, after) = (sorted(before), sorted(after));
                if before != after {
                    let first = before.iter().zip(&after).find(|(before, after)| before != after);
                    let text = format!("{} and {} rows: {first:?}", before.len(), after.len());
                    self.found.lock().differences.push(text);
                }
            }
            (Err(_), Err(_)) => {}
            (before, after) => {
                let text = format!("{:?} and {:?}", before.as_ref().err(), after.as_ref().err());
                self.found.lock().differences.push(text);
            }
        }
        let batches = futures::stream::iter(before?.into_iter().map(Ok));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}

/// Runs the statements of a script, whatever is expected of them.
async fn run_script(script: &Path, traveller: &Arc<Traveller>) {
    let directory = tempfile::tempdir().unwrap();
    let [data_dir, test_dir, spill_dir] =
        ["data", "test", "spill"].map(|name| directory.path().join(name));
    for dir in [&data_dir, &test_dir, &spill_dir] {
        std::fs::create_dir(dir).unwrap();
    }
    let config = EngineConfig {
        data_dir: Some(data_dir),
        memory_limit: Some(2 << 30),
        spill_dir: Some(spill_dir),
        target_partitions: Some(4),
        ..EngineConfig::default()
    };
    let runtime = build_runtime(&config, |pool| pool).unwrap();
    let executor = Arc::clone(traveller) as Arc<dyn QueryExecutor>;
    let engine = Engine::open_with(
        config,
        EngineParts { runtime, executor, system_tables: None, store: None, cache_host: None },
    )
    .await
    .unwrap();
    let mut sessions: HashMap<String, Session> = HashMap::new();
    let text = text_of(script);
    let small = DataSet::SMALL.cached().unwrap();
    let text = text
        .replace("__TEST_DIR__", &test_dir.display().to_string())
        .replace("__DATASETS__", &workspace::root().join("datasets").display().to_string())
        .replace("__TPCH__", &small.display().to_string());
    for record in text.split("\n\n") {
        let mut lines = record.lines().filter(|line| !line.starts_with('#')).peekable();
        let mut connection = "";
        while let Some(rest) = lines.peek().and_then(|line| line.strip_prefix("connection ")) {
            connection = rest;
            lines.next();
        }
        let Some(head) = lines.next() else { continue };
        let body: Vec<&str> = lines.take_while(|line| *line != "----").collect();
        if head.starts_with("system") {
            let mut command = Command::new("sh");
            command.arg("-c").arg(body.join("\n")).current_dir(workspace::root());
            assert!(command.output().is_ok());
        } else if head.starts_with("statement") || head.starts_with("query") {
            let session =
                sessions.entry(connection.to_owned()).or_insert_with(|| engine.session()).clone();
            let statement = body.join("\n");
            let before = {
                let found = traveller.found.lock();
                (found.stayed.len(), found.differences.len())
            };
            let work = async { session.execute(&statement).await?.collect().await };
            // What is expected of it, be it an error, is what the script itself is for.
            let _ = tokio::time::timeout(STATEMENT_LIMIT, work).await;
            let place = format!("{}: {statement}: ", script.display());
            let mut found = traveller.found.lock();
            let Found { stayed, differences, .. } = &mut *found;
            for text in stayed[before.0..].iter_mut().chain(&mut differences[before.1..]) {
                text.insert_str(0, &place);
            }
        }
    }
}

/// Returns a script with its includes.
fn text_of(script: &Path) -> String {
    let text = std::fs::read_to_string(script).unwrap();
    let line = |line: &str| match line.strip_prefix("include ") {
        Some(name) => text_of(&script.parent().unwrap().join(name)),
        None => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_of_the_specification_travels() {
    let traveller = Arc::new(Traveller::default());
    for script in find_scripts(&workspace::root().join("sql-tests")).unwrap() {
        let name = script.display().to_string();
        // One is about running out of memory, and takes twice the memory here; one asks for rows
        // without end, which are gathered here.
        let is_left_out =
            ["memory.slt", "statement_timeout.slt"].iter().any(|it| name.ends_with(it));
        if script.extension().is_some_and(|it| it == "slt") && !is_left_out {
            run_script(&script, &traveller).await;
        }
    }
    let found = traveller.found.lock();
    let Found { stages, compared, stayed, differences } = &*found;
    assert!(stayed.is_empty(), "of {stages} stages: {stayed:#?}");
    assert!(differences.is_empty(), "of {compared} answers: {differences:#?}");
    assert!(*stages > 1000 && *compared > 500, "{stages} stages, {compared} answers");
}
