//! The system tables, read by SQL as a user does.

use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::arrow::util::display::array_value_to_string;
use skep_engine::{Engine, EngineConfig, EngineParts, LocalExecutor, Role, build_runtime};

use super::*;
use crate::ids::{Attempt, Incarnation, QueryId, StageId, TaskId, WorkerId};
use crate::membership::{LossReason, Registration, WorkerLife, WorkerLoad};
use crate::scheduler::{QueryFailure, TaskOutput};

const SECOND: Duration = Duration::from_secs(1);

/// Shows the same at any time, and counts for whom.
#[derive(Debug)]
struct Still {
    views: Views,
    with_tasks: AtomicUsize,
    without_tasks: AtomicUsize,
}

#[async_trait]
impl ViewSource for Still {
    async fn views(&self, tasks: bool) -> Views {
        let count = if tasks { &self.with_tasks } else { &self.without_tasks };
        count.fetch_add(1, Ordering::Relaxed);
        let mut views = self.views.clone();
        if !tasks {
            views.tasks.clear();
        }
        views
    }
}

fn query(id: u64, state: QueryState) -> QueryView {
    QueryView {
        query: QueryId(id),
        state,
        weight: 1,
        submitted: SECOND,
        started: None,
        ended: None,
        error: None,
        stage_count: 2,
        task_count: 5,
        attempt_count: 0,
        rows: 0,
    }
}

fn failure(kind: FailureKind, message: &str) -> QueryFailure {
    QueryFailure { kind, message: message.to_owned(), hint: None, attempt: None, site: None }
}

fn worker(id: u64, state: WorkerState, is_quarantined: bool) -> WorkerView {
    let registration = Registration {
        life: life(id),
        slot_count: 4,
        memory_bytes: 1 << 30,
        data_address: format!("10.0.0.{id}:7000"),
        pid: 100 + id as u32,
        version: "1.2.3".to_owned(),
    };
    let load = WorkerLoad { memory_bytes: 500, stored_bytes: u64::MAX };
    let info = WorkerInfo { registration, state, load, last_heard: SECOND * 8 };
    WorkerView { info, running_count: 3, is_quarantined }
}

fn life(worker: u64) -> WorkerLife {
    WorkerLife { worker: WorkerId(worker), incarnation: Incarnation(7) }
}

fn task(partition: usize, state: AttemptState) -> TaskView {
    TaskView {
        task: TaskId { query: QueryId(12), stage: StageId(1), partition },
        attempt: None,
        state,
        site: None,
        output: TaskOutput::default(),
        started: None,
        ended: None,
        error: None,
        is_local: Some(partition == 0),
    }
}

fn views() -> Views {
    let failed = QueryView {
        started: Some(SECOND * 2),
        ended: Some(SECOND * 4),
        error: Some(failure(FailureKind::NoWorker, "no worker")),
        attempt_count: 6,
        rows: 11,
        ..query(12, QueryState::Failed)
    };
    let cancelled = QueryView {
        ended: Some(SECOND * 2),
        error: Some(failure(FailureKind::Cancelled, "cancelled")),
        ..query(13, QueryState::Failed)
    };
    let running = QueryView { started: Some(SECOND), ..query(14, QueryState::Running) };
    let output = TaskOutput {
        rows: 9,
        bytes: vec![10, 20],
        input_bytes: 5,
        spilled_bytes: 6,
        remote_bytes: 4,
        cached: None,
    };
    let sealed = TaskView {
        attempt: Some(Attempt(1)),
        site: Some(Site::Worker(life(3))),
        output,
        started: Some(SECOND * 2),
        ended: Some(SECOND * 3),
        ..task(0, AttemptState::Sealed)
    };
    let broken = TaskView {
        attempt: Some(Attempt(0)),
        site: Some(Site::Coordinator),
        error: Some("broken".to_owned()),
        ..task(1, AttemptState::Failed)
    };
    let stage = StageView {
        query: QueryId(12),
        stage: StageId(1),
        task_count: 5,
        waiting_count: 2,
        running_count: 1,
        attempt_count: 4,
        rows: 9,
        output_bytes: 30,
        started: Some(SECOND * 2),
        ended: None,
    };
    Views {
        now: SECOND * 9,
        clock_start: SystemTime::UNIX_EPOCH + SECOND * 1_000,
        queries: vec![
            (failed, Some("SELECT 1".into())),
            (cancelled, None),
            (running, None),
            (query(15, QueryState::Queued), None),
            (query(16, QueryState::Finished), None),
        ],
        users: HashMap::new(),
        stages: vec![stage],
        tasks: vec![sealed, broken, task(2, AttemptState::Waiting)],
        workers: vec![
            worker(1, WorkerState::Live, false),
            worker(2, WorkerState::Live, true),
            worker(3, WorkerState::Disconnected, false),
            worker(4, WorkerState::Lost(LossReason::Silent), false),
        ],
    }
}

/// The first query is ann's; whose the others are is not known.
fn owners() -> Arc<Owners> {
    let owners = Owners::new(10);
    owners.note(views().queries[0].0.query, &"ann".into());
    Arc::new(owners)
}

#[tokio::test]
async fn only_an_admin_sees_what_others_do() {
    let source = Still {
        views: views(),
        with_tasks: AtomicUsize::new(0),
        without_tasks: AtomicUsize::new(0),
    };
    let tables = ClusterTables::new(Arc::new(source), owners());
    let ann_first = views().queries[0].0.query;
    for (viewer, is_all) in [
        (Principal::new("ann", Role::Reader), false),
        (Principal::new("bob", Role::Writer), false),
        (Principal::new("bob", Role::Admin), true),
    ] {
        let expected = |query: QueryId| is_all || (query == ann_first && *viewer.user == *"ann");
        let (queries, stages, tasks) = (views().queries, views().stages, views().tasks);
        for (name, count) in [
            ("queries", queries.iter().filter(|(view, _)| expected(view.query)).count()),
            ("stages", stages.iter().filter(|view| expected(view.query)).count()),
            ("tasks", tasks.iter().filter(|view| expected(view.task.query)).count()),
            ("workers", views().workers.len()),
        ] {
            let rows = tables.rows(name, &viewer).await.unwrap();
            let seen: usize = rows.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(seen, count, "{name} for {viewer:?}");
        }
    }
    assert!(views().queries.len() > 1);
}

async fn open() -> (skep_engine::Session, Arc<Still>) {
    let source = Arc::new(Still {
        views: views(),
        with_tasks: AtomicUsize::new(0),
        without_tasks: AtomicUsize::new(0),
    });
    let tables = ClusterTables::new(Arc::clone(&source) as Arc<dyn ViewSource>, owners());
    let config = EngineConfig::default();
    let parts = EngineParts {
        runtime: build_runtime(&config, |pool| pool).unwrap(),
        executor: Arc::new(LocalExecutor),
        system_tables: Some(Arc::new(tables)),
        store: None,
        cache_host: None,
    };
    (Engine::open_with(config, parts).await.unwrap().session(), source)
}

async fn rows(session: &skep_engine::Session, query: &str) -> Vec<String> {
    let stream = session.execute(query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    let batches = stream.collect().await.unwrap();
    let row = |batch: &RecordBatch, idx| {
        let cells =
            batch.columns().iter().map(|column| array_value_to_string(column, idx).unwrap());
        cells.collect::<Vec<_>>().join("|")
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |idx| row(batch, idx))).collect()
}

#[tokio::test]
async fn queries_show_how_they_stand_and_for_how_long() {
    let (session, source) = open().await;
    assert_eq!(
        rows(&session, "SELECT * FROM system.queries").await,
        [
            "q12|failed|ann|SELECT 1|1970-01-01T00:16:41Z|1970-01-01T00:16:42Z|1970-01-01T00:16:44Z|\
             3.0|2|5|6|11|unavailable|no worker",
            "q13|cancelled|||1970-01-01T00:16:41Z||1970-01-01T00:16:42Z|1.0|2|5|0|0|cancelled|\
             cancelled",
            "q14|running|||1970-01-01T00:16:41Z|1970-01-01T00:16:41Z||8.0|2|5|0|0||",
            "q15|queued|||1970-01-01T00:16:41Z|||8.0|2|5|0|0||",
            "q16|finished|||1970-01-01T00:16:41Z|||8.0|2|5|0|0||",
        ]
    );
    assert_eq!(source.with_tasks.load(Ordering::Relaxed), 0, "tasks are asked for only if needed");
}

#[tokio::test]
async fn stages_show_their_counts() {
    let (session, _) = open().await;
    assert_eq!(
        rows(&session, "SELECT * FROM system.stages").await,
        ["q12|s1|5|2|1|4|9|30|1970-01-01T00:16:42Z|"]
    );
}

#[tokio::test]
async fn tasks_show_each_attempt_and_where_it_ran() {
    let (session, source) = open().await;
    assert_eq!(
        rows(&session, "SELECT * FROM system.tasks").await,
        [
            "q12|s1|0|1|sealed|w3|7|9|5|30|6|4|local|1970-01-01T00:16:42Z|1970-01-01T00:16:43Z|",
            "q12|s1|1|0|failed|coordinator||0|0|0|0|0|remote|||broken",
            "q12|s1|2||waiting|||0|0|0|0|0|remote|||",
        ]
    );
    assert_eq!(source.without_tasks.load(Ordering::Relaxed), 0);
    // Each column by its name, without quotes.
    let named = "SELECT query, stage, partition, attempt, state, worker, incarnation, rows, \
                 input_bytes, output_bytes, spilled_bytes, ended - started AS took, error \
                 FROM system.tasks WHERE rows > 0 AND partition = 0 ORDER BY started";
    assert_eq!(rows(&session, named).await.len(), 1);
    let joined = "SELECT t.worker, w.state FROM system.tasks t JOIN system.workers w \
                  ON t.worker = w.id AND t.incarnation = w.incarnation";
    assert_eq!(rows(&session, joined).await, ["w3|disconnected"]);
}

#[tokio::test]
async fn workers_show_whether_they_live() {
    let (session, _) = open().await;
    // What does not fit is the most that does.
    let rest = format!("4|3|1073741824|500|{}|1970-01-01T00:16:48Z|1.2.3", i64::MAX);
    assert_eq!(
        rows(&session, "SELECT * FROM system.workers").await,
        [
            format!("w1|7|101|10.0.0.1:7000|live||{rest}"),
            format!("w2|7|102|10.0.0.2:7000|quarantined||{rest}"),
            format!("w3|7|103|10.0.0.3:7000|disconnected||{rest}"),
            format!("w4|7|104|10.0.0.4:7000|lost|no heartbeat|{rest}"),
        ]
    );
}

#[tokio::test]
async fn rows_have_the_announced_columns_and_other_tables_are_not_there() {
    let source = Still {
        views: views(),
        with_tasks: AtomicUsize::new(0),
        without_tasks: AtomicUsize::new(0),
    };
    let tables = ClusterTables::new(Arc::new(source), owners());
    let viewer = Principal::anonymous();
    let schemas = tables.schemas();
    assert_eq!(schemas.len(), 4);
    for (name, schema) in schemas {
        for batch in tables.rows(name, &viewer).await.unwrap() {
            assert_eq!(batch.schema(), schema, "{name}");
        }
    }
    let error = tables.rows("nope", &viewer).await.unwrap_err();
    assert_eq!(error.to_string(), "table \"system.nope\" not found");
}
