//! What `system.queries`, `.stages`, `.tasks` and `.workers` show: copies, made when asked for, and
//! kept for the last queries after they ended.

use std::collections::VecDeque;
use std::time::Duration;

use super::action::QueryFailure;
use super::event::{Site, TaskOutput};
use super::machine::Scheduler;
use super::state::{AttemptRecord, Phase, Query, Stage, Task};
use crate::ids::{Attempt, QueryId, StageId, TaskId};
use crate::membership::WorkerInfo;

/// Where a query stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryState {
    /// Waiting for others to end.
    Queued,
    /// Running.
    Running,
    /// Ended with its result read, or enough of it.
    Finished,
    /// Ended otherwise.
    Failed,
}

/// Where an attempt stands, or a task that has none running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptState {
    /// Not started yet, or to be started again.
    Waiting,
    /// Running.
    Running,
    /// Finished.
    Sealed,
    /// Finished, and its output lost before it was done with.
    Lost,
    /// Failed.
    Failed,
    /// Told to stop.
    Cancelled,
    /// Never needed: its stage had enough rows without it.
    Skipped,
    /// Not run: somebody keeps the partition of a cached table that it would make.
    Kept,
}

/// One query. Times are on the scheduler's clock.
#[derive(Debug, Clone)]
pub struct QueryView {
    /// Its id.
    pub query: QueryId,
    /// Where it stands.
    pub state: QueryState,
    /// Its share.
    pub weight: u32,
    /// When it came.
    pub submitted: Duration,
    /// When it began to run.
    pub started: Option<Duration>,
    /// When it ended.
    pub ended: Option<Duration>,
    /// Why it failed.
    pub error: Option<QueryFailure>,
    /// How many stages it has.
    pub stage_count: usize,
    /// How many tasks it has.
    pub task_count: usize,
    /// How many attempts were started.
    pub attempt_count: usize,
    /// Rows of its result, as far as they are made.
    pub rows: u64,
}

/// One stage of a query.
#[derive(Debug, Clone)]
pub struct StageView {
    /// The query.
    pub query: QueryId,
    /// The stage.
    pub stage: StageId,
    /// How many tasks it has.
    pub task_count: usize,
    /// How many of them wait.
    pub waiting_count: usize,
    /// How many of them run.
    pub running_count: usize,
    /// How many attempts were started.
    pub attempt_count: usize,
    /// Rows of the latest sealed attempts.
    pub rows: u64,
    /// Bytes of the latest sealed attempts.
    pub output_bytes: u64,
    /// When its first attempt started.
    pub started: Option<Duration>,
    /// When its last attempt ended, once nothing waits or runs.
    pub ended: Option<Duration>,
}

/// One attempt; or, with no attempt, a task that waits or was skipped.
#[derive(Debug, Clone)]
pub struct TaskView {
    /// The task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: Option<Attempt>,
    /// Where it stands.
    pub state: AttemptState,
    /// Where it runs or ran.
    pub site: Option<Site>,
    /// What it made.
    pub output: TaskOutput,
    /// When it started.
    pub started: Option<Duration>,
    /// When it ended.
    pub ended: Option<Duration>,
    /// Why it failed.
    pub error: Option<String>,
    /// Of a task that reads cached tables, whether all that it reads of them is where it runs.
    pub is_local: Option<bool>,
}

/// One worker.
#[derive(Debug, Clone)]
pub struct WorkerView {
    /// Who it is and whether it lives.
    pub info: WorkerInfo,
    /// How many of its slots are taken.
    pub running_count: usize,
    /// Whether it gets tasks only when there is no other.
    pub is_quarantined: bool,
}

#[derive(Debug)]
struct Remembered {
    query: QueryView,
    stages: Vec<StageView>,
    tasks: Vec<TaskView>,
}

/// The last ended queries.
#[derive(Debug)]
pub(super) struct History {
    entries: VecDeque<Remembered>,
    query_bound: usize,
    task_bound: usize,
    task_count: usize,
}

impl History {
    pub(super) fn new(query_bound: usize, task_bound: usize) -> Self {
        Self { entries: VecDeque::new(), query_bound, task_bound, task_count: 0 }
    }

    pub(super) fn push(
        &mut self,
        query: &Query,
        state: QueryState,
        error: Option<QueryFailure>,
        now: Duration,
    ) {
        let mut view = query.view();
        view.state = state;
        view.ended = Some(now);
        view.error = error;
        let tasks = query.task_views();
        self.task_count += tasks.len();
        self.entries.push_back(Remembered { query: view, stages: query.stage_views(), tasks });
        while self.entries.len() > self.query_bound
            && let Some(oldest) = self.entries.pop_front()
        {
            self.task_count -= oldest.tasks.len();
        }
        for entry in &mut self.entries {
            if self.task_count <= self.task_bound {
                break;
            }
            self.task_count -= std::mem::take(&mut entry.tasks).len();
        }
    }
}

impl Scheduler {
    /// Returns the remembered queries, oldest first, then the queued and running ones by id.
    pub fn queries(&self) -> Vec<QueryView> {
        let ended = self.history.entries.iter().map(|entry| entry.query.clone());
        ended.chain(self.queries.values().map(Query::view)).collect()
    }

    /// Returns their stages.
    pub fn stages(&self) -> Vec<StageView> {
        let ended = self.history.entries.iter().flat_map(|entry| entry.stages.clone());
        ended.chain(self.queries.values().flat_map(Query::stage_views)).collect()
    }

    /// Returns all attempts of one query, by stage, partition and attempt.
    pub fn tasks(&self, query: QueryId) -> Vec<TaskView> {
        let ended = self.history.entries.iter().rev().find(|entry| entry.query.query == query);
        match (self.queries.get(&query), ended) {
            (Some(query), _) => query.task_views(),
            (None, Some(entry)) => entry.tasks.clone(),
            (None, None) => Vec::new(),
        }
    }

    /// Returns the workers by id, lost ones included for as long as they are remembered.
    pub fn workers(&self, now: Duration) -> Vec<WorkerView> {
        let view = |info: WorkerInfo| {
            let state = self.sites.states.get(&Site::Worker(info.registration.life));
            WorkerView {
                running_count: state.map_or(0, |state| state.occupied.len()),
                is_quarantined: state.is_some_and(|state| state.quarantined_until > now),
                info,
            }
        };
        self.membership.snapshot().workers.into_iter().map(view).collect()
    }
}

impl Query {
    /// Marks what still runs as stopped.
    pub(super) fn close_all(&mut self, now: Duration) {
        for task in self.stages.iter_mut().flat_map(|stage| &mut stage.tasks) {
            for record in &mut task.attempts {
                if record.state == AttemptState::Running {
                    record.state = AttemptState::Cancelled;
                    record.ended = Some(now);
                }
            }
        }
    }

    fn view(&self) -> QueryView {
        let tasks = || self.stages.iter().flat_map(|stage| &stage.tasks);
        QueryView {
            query: self.id,
            state: if self.admitted.is_some() { QueryState::Running } else { QueryState::Queued },
            weight: self.settings.weight.get(),
            submitted: self.submitted,
            started: self.admitted,
            ended: None,
            error: None,
            stage_count: self.stages.len(),
            task_count: tasks().count(),
            attempt_count: tasks().flat_map(|task| &task.attempts).filter(was_started).count(),
            rows: self.stages.last().map_or(0, |stage| self.stage_view(stage).rows),
        }
    }

    fn stage_views(&self) -> Vec<StageView> {
        self.stages.iter().map(|stage| self.stage_view(stage)).collect()
    }

    fn stage_view(&self, stage: &Stage) -> StageView {
        let attempts = || stage.tasks.iter().flat_map(|task| &task.attempts).filter(was_started);
        let sealed = |task: &Task| {
            let sealed = |record: &&AttemptRecord| record.state == AttemptState::Sealed;
            let output = task.attempts.iter().rev().find(sealed).map(|record| &record.output);
            output.map_or((0, 0), |output| (output.rows, output.bytes.iter().sum()))
        };
        let is_done = stage.unfinished_count == 0;
        StageView {
            query: self.id,
            stage: stage.node.id,
            task_count: stage.tasks.len(),
            waiting_count: stage.unfinished_count - stage.running_count,
            running_count: stage.running_count,
            attempt_count: attempts().count(),
            rows: stage.tasks.iter().map(|task| sealed(task).0).sum(),
            output_bytes: stage.tasks.iter().map(|task| sealed(task).1).sum(),
            started: attempts().map(|record| record.started).min(),
            ended: attempts().filter_map(|record| record.ended).max().filter(|_| is_done),
        }
    }

    fn task_views(&self) -> Vec<TaskView> {
        let mut views = Vec::new();
        for stage in &self.stages {
            for (partition, task) in stage.tasks.iter().enumerate() {
                let id = TaskId { query: self.id, stage: stage.node.id, partition };
                views.extend(attempt_views(id, task));
                let idle = match task.phase {
                    Phase::Waiting => AttemptState::Waiting,
                    Phase::Skipped => AttemptState::Skipped,
                    Phase::Running { .. } | Phase::Sealed { .. } | Phase::Absent => continue,
                };
                views.push(TaskView::idle(id, idle));
            }
        }
        views
    }
}

fn attempt_views(task: TaskId, state: &Task) -> impl Iterator<Item = TaskView> {
    let started = state.attempts.iter().enumerate().filter(|(_, record)| was_started(record));
    started.map(move |(attempt, record)| TaskView {
        task,
        attempt: Some(Attempt(attempt as u32)),
        state: record.state,
        site: Some(record.site),
        output: record.output.clone(),
        started: Some(record.started),
        ended: record.ended,
        error: record.error.clone(),
        is_local: record.is_local,
    })
}

/// Tells whether an attempt was run at all.
fn was_started(record: &&AttemptRecord) -> bool {
    record.state != AttemptState::Kept
}

impl TaskView {
    fn idle(task: TaskId, state: AttemptState) -> Self {
        Self {
            task,
            attempt: None,
            state,
            site: None,
            output: TaskOutput::default(),
            started: None,
            ended: None,
            error: None,
            is_local: None,
        }
    }
}
