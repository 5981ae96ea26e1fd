//! The driver against workers that the test plays.

use bytes::Bytes;
use datafusion::execution::memory_pool::UnboundedMemoryPool;

use super::*;
use crate::ids::{Attempt, TaskId};
use crate::scheduler::{
    Heartbeat, Holdings, OutputKind, ReadPattern, Replay, StageInput, StageNode, StagePlace,
    TaskOutput,
};
use crate::worker::EncodedStage;

const PATIENCE: Duration = Duration::from_secs(20);

/// The coordinator's own site, which gets nothing to do here.
#[derive(Debug)]
struct Idle;

impl TaskSite for Idle {
    fn perform(&self, _command: Command) {}

    fn holdings(&self) -> Holdings {
        Holdings::default()
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::default()
    }

    fn begin_life(&self, _site: Site) {}
}

async fn join(requests: &mpsc::Sender<Request>, address: &str) -> Joined {
    let request = JoinRequest {
        life: None,
        wanted_id: None,
        slot_count: 1,
        memory_bytes: 0,
        data_address: address.to_owned(),
        pid: 0,
        version: String::new(),
        token: String::new(),
        holdings: Holdings::default(),
    };
    let (reply, answer) = oneshot::channel();
    requests.send(Request::Join { request: Box::new(request), reply }).await.unwrap();
    answer.await.unwrap().unwrap()
}

/// Waits until a worker is told to start something.
async fn launched(joined: &mut Joined) -> TaskAttempt {
    loop {
        if let Command::Launch(launches) = joined.commands.recv().await.unwrap() {
            return launches[0].attempt;
        }
    }
}

fn node(id: u32, task_count: usize, inputs: Vec<StageInput>) -> StageNode {
    StageNode {
        id: StageId(id),
        task_count,
        inputs,
        output: OutputKind::Whole,
        place: StagePlace::Workers,
        row_limit: None,
        is_by_chance: false,
        cached: None,
    }
}

#[tokio::test]
async fn a_task_that_waited_long_enough_for_its_worker_goes_elsewhere() {
    let mut options = CoordinatorOptions {
        // Nothing but the moment that the scheduler names may wake the driver.
        tick: Duration::from_secs(3600),
        ..CoordinatorOptions::default()
    };
    options.scheduler.locality_min_bytes = 0;
    let cache = Arc::new(CacheDirectory::new(Arc::new(UnboundedMemoryPool::default())));
    let (driver, _snapshot) = Driver::new(&options, Clock::start(), Arc::new(Idle), cache);
    let (requests, inbox) = mpsc::channel(64);
    #[expect(clippy::disallowed_methods, reason = "the runner's own channel, which nobody fills")]
    let (_words, own_reports) = mpsc::unbounded_channel();
    let _driver = datafusion::common::runtime::SpawnedTask::spawn(driver.run(inbox, own_reports));
    let (mut one, mut other) = (join(&requests, "a:1").await, join(&requests, "b:1").await);

    let reads = StageInput { producer: StageId(0), pattern: ReadPattern::All };
    let stages = vec![node(0, 1, Vec::new()), node(1, 2, vec![reads])];
    let empty = EncodedStage { program: Bytes::new(), settings: Bytes::new() };
    #[expect(clippy::disallowed_methods, reason = "as in the executor")]
    let (notices, _inbox) = mpsc::unbounded_channel();
    let submission = Submission {
        query: QueryId(1),
        graph: QueryGraph::new(stages, Replay::Exact).unwrap(),
        settings: QuerySettings::default(),
        programs: vec![StageProgram::Encoded(empty.clone()), StageProgram::Encoded(empty)],
        text: None,
        keeps_operators: false,
        notices,
    };
    requests.send(Request::Submit(Box::new(submission))).await.unwrap();
    let is_first_on_one = tokio::select! {
        _ = launched(&mut one) => true,
        _ = launched(&mut other) => false,
    };
    let (mut holder, mut idle) = if is_first_on_one { (one, other) } else { (other, one) };
    let task = TaskId { query: QueryId(1), stage: StageId(0), partition: 0 };
    let output = TaskOutput { rows: 1, bytes: vec![10], ..TaskOutput::default() };
    let report = TaskReport {
        attempt: TaskAttempt { task, attempt: Attempt(0) },
        outcome: TaskOutcome::Finished { output, operators: Vec::new() },
    };
    let reports = Request::Reports { site: Site::Worker(holder.life), reports: vec![report] };
    requests.send(reports).await.unwrap();
    assert_eq!(launched(&mut holder).await.task.stage, StageId(1));
    let elsewhere = tokio::time::timeout(PATIENCE, launched(&mut idle)).await;
    assert_eq!(elsewhere.unwrap().task.stage, StageId(1));
}
