//! One query: its stages, its tasks, which of them are ready, and what they have left behind.
//!
//! **Invariant:** [`Query::set_phase`] is the only place where a task changes its phase, so that the
//! counters of its stage and the readiness of its readers are always those of the phases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, Launch, QueryFailure, Source};
use super::config::{QuerySettings, SchedulerConfig};
use super::event::{Site, TaskAttempt, TaskFailure, TaskOutput};
use super::graph::{CachedCopy, OutputKind, QueryGraph, Replay, StageInput, StageNode};
use super::reads::{ReadPattern, TaskSet};
use super::view::AttemptState;
use crate::ids::{Attempt, QueryId, StageId, TaskId, WorkerId};

/// Where a task stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// To be run, as soon as its inputs and a slot are there.
    Waiting,
    /// Running; maybe with all that it reads fetched already.
    Running { attempt: Attempt, site: Site, has_inputs: bool },
    /// Finished, and its output is held.
    Sealed { attempt: Attempt, site: Site, bytes: Arc<[u64]> },
    /// Neither run nor held, and nobody unfinished needs it.
    Absent,
    /// Not run, because its stage had enough rows without it: an empty output.
    Skipped,
}

impl Phase {
    pub(super) fn is_available(&self) -> bool {
        matches!(self, Self::Sealed { .. } | Self::Skipped)
    }

    pub(super) fn is_unfinished(&self) -> bool {
        matches!(self, Self::Waiting | Self::Running { .. })
    }

    /// Whether it has yet to read something of its inputs.
    pub(super) fn is_reading(&self) -> bool {
        matches!(self, Self::Waiting | Self::Running { has_inputs: false, .. })
    }
}

/// What became of one attempt.
#[derive(Debug, Clone)]
pub(super) struct AttemptRecord {
    pub(super) site: Site,
    pub(super) state: AttemptState,
    pub(super) started: Duration,
    pub(super) ended: Option<Duration>,
    pub(super) output: TaskOutput,
    pub(super) error: Option<String>,
    /// Of a task that reads cached tables, whether all that it reads of them is where it runs.
    pub(super) is_local: Option<bool>,
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) phase: Phase,
    /// All attempts; the index is the attempt's number.
    pub(super) attempts: Vec<AttemptRecord>,
    pub(super) failure_count: u32,
    pub(super) restart_count: u32,
    pub(super) first_failure: Option<QueryFailure>,
    /// Workers where it failed before.
    pub(super) avoid: Vec<WorkerId>,
    /// Since when it is ready, and for which worker.
    pub(super) ready: Option<(Option<Site>, Duration)>,
    /// Whether there has been an output of it of which something may have been made.
    pub(super) has_left_traces: bool,
    /// Of a cached partition, further copies.
    pub(super) copies: Vec<CachedCopy>,
}

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) node: StageNode,
    pub(super) tasks: Vec<Task>,
    /// Who reads it.
    pub(super) readers: Vec<(usize, ReadPattern)>,
    /// How many tasks are not available to readers.
    pub(super) missing_count: usize,
    /// How many tasks wait or run.
    pub(super) unfinished_count: usize,
    /// How many of them have yet to read something.
    pub(super) reading_count: usize,
    pub(super) running_count: usize,
    /// Rows of all that is sealed.
    pub(super) sealed_rows: u64,
    /// Whether there were once rows enough. Which tasks gave them is settled then: what is lost of
    /// them is made again, not replaced by others, or a begun result could not be continued.
    pub(super) is_limit_met: bool,
    /// Waiting tasks whose inputs are there, by the worker they would like, oldest first.
    pub(super) ready: BTreeMap<Option<Site>, BTreeSet<(Duration, usize)>>,
    /// How many of its tasks run or lie where.
    pub(super) spread: BTreeMap<Site, usize>,
    /// Whether it makes or reads partitions of cached tables.
    pub(super) is_about_cached: bool,
    /// What of it is sealed where. Kept up with every change, for it is asked for by every task of
    /// every reader: added up each time, an exchange would cost tasks times tasks.
    pub(super) held: BTreeMap<Site, HeldBytes>,
}

/// What one site holds of a stage.
#[derive(Debug, Default)]
pub(super) struct HeldBytes {
    all: u64,
    /// Of each output, of all its tasks there together.
    by_output: Vec<u64>,
}

impl HeldBytes {
    fn add(&mut self, bytes: &[u64]) {
        self.by_output.resize(self.by_output.len().max(bytes.len()), 0);
        for (sum, more) in self.by_output.iter_mut().zip(bytes) {
            *sum += more;
            self.all += more;
        }
    }

    fn remove(&mut self, bytes: &[u64]) {
        for (sum, less) in self.by_output.iter_mut().zip(bytes) {
            *sum -= less;
            self.all -= less;
        }
    }

    /// Returns the bytes that one task of a reader wants of it, if it reads all tasks.
    fn wanted(&self, output: OutputKind, partition: usize, width: usize) -> u64 {
        match output {
            OutputKind::Hashed { partition_count } if partition_count == width => {
                self.by_output.get(partition).copied().unwrap_or(0)
            }
            OutputKind::Hashed { .. } => self.all / width as u64,
            OutputKind::Whole | OutputKind::Broadcast => self.all,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct ResultPart {
    pub(super) delivered_rows: u64,
    pub(super) is_fetched: bool,
    /// The first attempt that gives what later ones give: one before it cannot be gone on with.
    pub(super) first_alike: Attempt,
    /// The first attempt that was not taken back.
    pub(super) first_valid: Attempt,
}

impl ResultPart {
    const NEW: Self = Self {
        delivered_rows: 0,
        is_fetched: false,
        first_alike: Attempt(0),
        first_valid: Attempt(0),
    };
}

/// What a change of one query asks of the outside.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) cancels: Vec<(Site, TaskAttempt)>,
    pub(super) releases: Vec<(Site, TaskAttempt)>,
    pub(super) actions: Vec<Action>,
}

#[derive(Debug)]
pub(super) struct Query {
    pub(super) id: QueryId,
    pub(super) config: Arc<SchedulerConfig>,
    pub(super) settings: QuerySettings,
    pub(super) stages: Vec<Stage>,
    pub(super) replay: Replay,
    pub(super) results: Vec<ResultPart>,
    pub(super) submitted: Duration,
    pub(super) admitted: Option<Duration>,
    pub(super) running_count: usize,
    pub(super) ready_count: usize,
    /// When it was last given a slot, on the scheduler's count of launches.
    pub(super) served: u64,
    /// Bytes of sealed result that wait to be fetched.
    pub(super) unfetched_bytes: u64,
    pub(super) first_unfetched: usize,
    pub(super) effects: Effects,
}

impl Query {
    pub(super) fn new(
        id: QueryId,
        graph: &QueryGraph,
        settings: QuerySettings,
        config: Arc<SchedulerConfig>,
        now: Duration,
    ) -> Self {
        let stages: Vec<_> = graph.stages().iter().map(|node| Stage::new(node, graph)).collect();
        let results = stages.last().map_or(0, |stage| stage.tasks.len());
        let mut query = Self {
            id,
            config,
            settings,
            stages,
            replay: graph.replay(),
            results: vec![ResultPart::NEW; results],
            submitted: now,
            admitted: None,
            running_count: 0,
            ready_count: 0,
            served: 0,
            unfetched_bytes: 0,
            first_unfetched: 0,
            effects: Effects::default(),
        };
        for stage in 0..query.stages.len() {
            query.refresh_stage(stage, now);
        }
        query
    }

    pub(super) fn result_stage(&self) -> usize {
        self.stages.len() - 1
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.settings.timeout.map(|timeout| self.submitted + timeout)
    }

    pub(super) fn attempt_id(
        &self,
        stage: usize,
        partition: usize,
        attempt: Attempt,
    ) -> TaskAttempt {
        let stage = self.stages[stage].node.id;
        TaskAttempt { task: TaskId { query: self.id, stage, partition }, attempt }
    }

    /// Returns the place of a task that a message names, if there is such a task.
    pub(super) fn find(&self, task: TaskId) -> Option<(usize, usize)> {
        let StageId(stage) = task.stage;
        let found = self.stages.get(stage as usize)?;
        (task.partition < found.tasks.len()).then_some((stage as usize, task.partition))
    }

    pub(super) fn phase(&self, stage: usize, partition: usize) -> &Phase {
        &self.stages[stage].tasks[partition].phase
    }

    /// Returns whether this is the attempt that runs there now.
    pub(super) fn is_running(&self, stage: usize, partition: usize, a: Attempt, s: Site) -> bool {
        matches!(self.phase(stage, partition), Phase::Running { attempt, site, .. } if *attempt == a && *site == s)
    }

    /// Returns whether this is the sealed output that is held there now.
    pub(super) fn is_sealed(&self, stage: usize, partition: usize, a: Attempt, s: Site) -> bool {
        matches!(self.phase(stage, partition), Phase::Sealed { attempt, site, .. } if *attempt == a && *site == s)
    }

    pub(super) fn set_phase(
        &mut self,
        stage: usize,
        partition: usize,
        phase: Phase,
        now: Duration,
    ) {
        let old = std::mem::replace(&mut self.stages[stage].tasks[partition].phase, phase);
        self.unready(stage, partition);
        if stage == self.result_stage() {
            self.unfetched_bytes -= sealed_bytes(&old);
            self.unfetched_bytes += sealed_bytes(self.phase(stage, partition));
            // Sealed, or only known to have its inputs, it can still be read.
            if let Phase::Running { attempt, .. } = old
                && !matches!(
                    self.phase(stage, partition),
                    Phase::Sealed { .. } | Phase::Running { .. }
                )
            {
                let result = self.attempt_id(stage, partition, attempt);
                self.effects.actions.push(Action::ResultWithdrawn { result });
            }
        }
        let new = self.stages[stage].tasks[partition].phase.clone();
        self.stages[stage].count(&old, &new, partition);
        self.running_count -= usize::from(matches!(old, Phase::Running { .. }));
        self.running_count += usize::from(matches!(new, Phase::Running { .. }));
        if new == Phase::Waiting {
            self.refresh_task(stage, partition, now);
        }
        if old.is_available() != new.is_available() {
            self.refresh_readers(stage, partition, now);
        }
    }

    fn refresh_readers(&mut self, stage: usize, partition: usize, now: Duration) {
        let missing_count = self.stages[stage].missing_count;
        let is_available = self.phase(stage, partition).is_available();
        for index in 0..self.stages[stage].readers.len() {
            let (reader, pattern) = self.stages[stage].readers[index].clone();
            match pattern.readers(partition) {
                TaskSet::All if is_available && missing_count > 0 => {}
                TaskSet::All if !is_available && missing_count > 1 => {}
                tasks => {
                    for task in tasks.of(self.stages[reader].tasks.len()) {
                        self.refresh_task(reader, task, now);
                    }
                }
            }
        }
    }

    fn refresh_stage(&mut self, stage: usize, now: Duration) {
        for partition in 0..self.stages[stage].tasks.len() {
            self.refresh_task(stage, partition, now);
        }
    }

    pub(super) fn refresh_task(&mut self, stage: usize, partition: usize, now: Duration) {
        self.unready(stage, partition);
        let is_waiting = *self.phase(stage, partition) == Phase::Waiting;
        if is_waiting && self.are_inputs_available(stage, partition) {
            let key = (self.preferred_site(stage, partition), now);
            self.stages[stage].tasks[partition].ready = Some(key);
            self.stages[stage].ready.entry(key.0).or_default().insert((now, partition));
            self.ready_count += 1;
        }
    }

    fn unready(&mut self, stage: usize, partition: usize) {
        let stage = &mut self.stages[stage];
        let Some((site, since)) = stage.tasks[partition].ready.take() else { return };
        self.ready_count -= 1;
        if let Some(bucket) = stage.ready.get_mut(&site) {
            bucket.remove(&(since, partition));
            if bucket.is_empty() {
                stage.ready.remove(&site);
            }
        }
    }

    pub(super) fn are_inputs_available(&self, stage: usize, partition: usize) -> bool {
        self.stages[stage].node.inputs.iter().all(|input| {
            let producer = &self.stages[input.producer.0 as usize];
            match input.pattern.reads(partition) {
                TaskSet::All => producer.missing_count == 0,
                // From the last one: they mostly become available in their order.
                tasks => {
                    let mut tasks = tasks.of(producer.tasks.len()).rev();
                    tasks.all(|task| producer.tasks[task].phase.is_available())
                }
            }
        })
    }

    /// Returns whether an unfinished task, or the client, has yet to read this output.
    pub(super) fn is_wanted(&self, stage: usize, partition: usize) -> bool {
        if stage == self.result_stage() {
            return !self.results[partition].is_fetched;
        }
        self.stages[stage].readers.iter().any(|(reader, pattern)| {
            let (reader, state) = (*reader, &self.stages[*reader]);
            match pattern.readers(partition) {
                TaskSet::All => state.unfinished_count > 0,
                tasks => {
                    tasks.of(state.tasks.len()).any(|task| self.phase(reader, task).is_unfinished())
                }
            }
        })
    }

    /// Returns whether an unfinished task that has not got all of this output, or the client, has yet
    /// to read it. What is wanted and not awaited is kept if it is there, and not made again if not.
    pub(super) fn is_awaited(&self, stage: usize, partition: usize) -> bool {
        if stage == self.result_stage() {
            return !self.results[partition].is_fetched;
        }
        self.stages[stage].readers.iter().any(|(reader, pattern)| {
            let (reader, state) = (*reader, &self.stages[*reader]);
            match pattern.readers(partition) {
                TaskSet::All => state.reading_count > 0,
                tasks => {
                    tasks.of(state.tasks.len()).any(|task| self.phase(reader, task).is_reading())
                }
            }
        })
    }

    /// Takes note that a running attempt has fetched all that it reads from other sites.
    pub(super) fn has_inputs(&mut self, id: TaskAttempt, site: Site, now: Duration) {
        let Some((stage, partition)) = self.find(id.task) else { return };
        if self.is_running(stage, partition, id.attempt, site) {
            let fed = Phase::Running { attempt: id.attempt, site, has_inputs: true };
            self.set_phase(stage, partition, fed, now);
        }
    }

    /// Returns the inputs of a task, all of which are available.
    pub(super) fn sources(&self, stage: usize, partition: usize) -> Vec<Source> {
        let mut sources = Vec::new();
        for input in &self.stages[stage].node.inputs {
            let index = input.producer.0 as usize;
            let producer = &self.stages[index];
            let width = self.stages[stage].tasks.len();
            for p in input.pattern.reads(partition).of(producer.tasks.len()) {
                let Phase::Sealed { attempt, site, bytes } = &producer.tasks[p].phase else {
                    continue;
                };
                let bytes =
                    wanted_bytes(producer.node.output, bytes, &input.pattern, partition, width);
                let producer = self.attempt_id(index, p, *attempt);
                sources.push(Source { producer, site: *site, bytes });
            }
        }
        sources
    }

    /// Returns where how many bytes of a task's input lie.
    pub(super) fn held_bytes(&self, stage: usize, partition: usize) -> BTreeMap<Site, u64> {
        let mut held = BTreeMap::<Site, u64>::new();
        let width = self.stages[stage].tasks.len();
        for input in &self.stages[stage].node.inputs {
            let producer = &self.stages[input.producer.0 as usize];
            match input.pattern.reads(partition) {
                TaskSet::All => {
                    for (site, bytes) in &producer.held {
                        let wanted = bytes.wanted(producer.node.output, partition, width);
                        *held.entry(*site).or_default() += wanted;
                    }
                }
                tasks => {
                    for task in tasks.of(producer.tasks.len()) {
                        if let Phase::Sealed { site, bytes, .. } = &producer.tasks[task].phase {
                            *held.entry(*site).or_default() += bytes.iter().sum::<u64>();
                        }
                    }
                }
            }
        }
        held
    }

    /// Starts the next attempt of a ready task.
    pub(super) fn start(
        &mut self,
        stage: usize,
        partition: usize,
        site: Site,
        now: Duration,
    ) -> Launch {
        let sources = self.sources(stage, partition);
        let is_local = self.is_local(stage, &sources, site);
        let task = &mut self.stages[stage].tasks[partition];
        let attempt = Attempt(task.attempts.len() as u32);
        task.attempts.push(AttemptRecord {
            site,
            state: AttemptState::Running,
            started: now,
            ended: None,
            output: TaskOutput::default(),
            error: None,
            is_local,
        });
        self.set_phase(stage, partition, Phase::Running { attempt, site, has_inputs: false }, now);
        Launch { attempt: self.attempt_id(stage, partition, attempt), sources }
    }

    /// Notes how an attempt ended.
    pub(super) fn close_attempt(
        &mut self,
        id: TaskAttempt,
        state: AttemptState,
        error: Option<String>,
        now: Duration,
    ) {
        let Some((stage, partition)) = self.find(id.task) else { return };
        let attempts = &mut self.stages[stage].tasks[partition].attempts;
        if let Some(record) = attempts.get_mut(id.attempt.0 as usize) {
            record.state = state;
            record.ended = record.ended.or(Some(now));
            record.error = error;
        }
    }

    /// Takes in the output of the running attempt.
    pub(super) fn seal(&mut self, id: TaskAttempt, site: Site, output: TaskOutput, now: Duration) {
        let Some((stage, partition)) = self.find(id.task) else { return };
        let bytes: Arc<[u64]> = output.bytes.clone().into();
        let rows = output.rows;
        self.close_attempt(id, AttemptState::Sealed, None, now);
        let task = &mut self.stages[stage].tasks[partition];
        if let Some(record) = task.attempts.get_mut(id.attempt.0 as usize) {
            record.output = output;
        }
        task.has_left_traces = true;
        self.set_phase(stage, partition, Phase::Sealed { attempt: id.attempt, site, bytes }, now);
        if stage == self.result_stage() {
            self.effects.actions.push(Action::ResultReady { result: id, site, rows });
        }
        self.stop_at_row_limit(stage, now);
        self.release_read_by(stage, partition, now);
    }

    /// Takes back a running attempt, without a word about whose fault it was.
    pub(super) fn stop(&mut self, stage: usize, partition: usize, next: Phase, now: Duration) {
        if let Phase::Running { attempt, site, .. } = *self.phase(stage, partition) {
            let id = self.attempt_id(stage, partition, attempt);
            self.effects.cancels.push((site, id));
            self.close_attempt(id, AttemptState::Cancelled, None, now);
        }
        self.set_phase(stage, partition, next, now);
    }

    fn stop_at_row_limit(&mut self, stage: usize, now: Duration) {
        let Some(limit) = self.stages[stage].node.row_limit else { return };
        if self.stages[stage].is_limit_met || self.stages[stage].sealed_rows < limit {
            return;
        }
        self.stages[stage].is_limit_met = true;
        for partition in 0..self.stages[stage].tasks.len() {
            if self.phase(stage, partition).is_unfinished() {
                self.stop(stage, partition, Phase::Skipped, now);
                if stage == self.result_stage() {
                    self.mark_fetched(partition);
                }
            }
        }
        self.prune(now);
    }

    pub(super) fn check_failure(
        &mut self,
        stage: usize,
        partition: usize,
        cause: QueryFailure,
    ) -> Result<(), QueryFailure> {
        let max_attempts = self.config.max_attempts;
        let task = &mut self.stages[stage].tasks[partition];
        task.failure_count += 1;
        let first = task.first_failure.get_or_insert(cause);
        if task.failure_count < max_attempts {
            return Ok(());
        }
        let mut failure = first.clone();
        failure.message = format!("task failed {max_attempts} times, first: {}", first.message);
        Err(failure)
    }

    /// Takes note that the running attempt failed for a reason that another try may not meet.
    pub(super) fn retry(
        &mut self,
        id: TaskAttempt,
        site: Site,
        cause: QueryFailure,
        now: Duration,
    ) -> Result<(), QueryFailure> {
        let Some((stage, partition)) = self.find(id.task) else { return Ok(()) };
        self.close_attempt(id, AttemptState::Failed, Some(cause.message.clone()), now);
        if let Site::Worker(life) = site {
            let avoid = &mut self.stages[stage].tasks[partition].avoid;
            if !avoid.contains(&life.worker) {
                avoid.push(life.worker);
            }
        }
        let verdict = self.check_failure(stage, partition, cause);
        self.set_phase(stage, partition, Phase::Waiting, now);
        verdict
    }

    /// Notes that rows of a result partition have left.
    pub(super) fn delivered(&mut self, id: TaskAttempt, rows: u64) -> Result<(), QueryFailure> {
        let part = self.results.get_mut(id.task.partition);
        let Some(part) = part.filter(|_| self.stages.len() == id.task.stage.0 as usize + 1) else {
            return Ok(());
        };
        if id.attempt < part.first_alike {
            return Err(QueryFailure::rows_have_left());
        }
        part.delivered_rows = part.delivered_rows.max(rows);
        Ok(())
    }

    /// Notes that the client has read a result partition to its end.
    pub(super) fn fetched(&mut self, id: TaskAttempt, now: Duration) -> Result<(), QueryFailure> {
        let Some((stage, partition)) = self.find(id.task) else { return Ok(()) };
        if stage != self.result_stage() {
            return Ok(());
        }
        if id.attempt < self.results[partition].first_valid {
            return Err(QueryFailure::rows_have_left());
        }
        self.mark_fetched(partition);
        if self.phase(stage, partition).is_unfinished() {
            // It was being made again after a loss that the reader did not notice.
            self.prune(now);
        }
        self.release(stage, partition, now);
        // What has been read counts towards a row limit, although it is held no longer.
        let attempts = &self.stages[stage].tasks[partition].attempts;
        let rows = attempts.iter().map(|record| record.output.rows).max();
        self.stages[stage].sealed_rows += rows.unwrap_or(0);
        self.release_one_to_one(stage, partition, now);
        Ok(())
    }

    pub(super) fn mark_fetched(&mut self, partition: usize) {
        self.results[partition].is_fetched = true;
        while self.results.get(self.first_unfetched).is_some_and(|part| part.is_fetched) {
            self.first_unfetched += 1;
        }
    }

    pub(super) fn is_fetched(&self) -> bool {
        self.first_unfetched == self.results.len()
    }

    /// Lets go of a sealed output.
    pub(super) fn release(&mut self, stage: usize, partition: usize, now: Duration) {
        if self.stages[stage].node.cached.is_some() {
            // It is not the query's to let go of. Readers may come again, but not to the result.
            if stage == self.result_stage() {
                self.set_phase(stage, partition, Phase::Absent, now);
            }
            return;
        }
        if let Phase::Sealed { attempt, site, .. } = *self.phase(stage, partition) {
            let id = self.attempt_id(stage, partition, attempt);
            self.effects.releases.push((site, id));
            self.set_phase(stage, partition, Phase::Absent, now);
        }
    }

    pub(super) fn fault(failure: &TaskFailure, id: TaskAttempt, site: Site) -> QueryFailure {
        use super::action::FailureKind as Kind;
        let kind = match failure {
            TaskFailure::Query { code, .. } => Kind::Query(*code),
            TaskFailure::OutOfMemory { .. } => Kind::OutOfMemory,
            TaskFailure::Panic { .. } => Kind::Panic,
            TaskFailure::Fetch { .. } | TaskFailure::WorkerFault { .. } => Kind::Attempts,
        };
        let hint = match failure {
            TaskFailure::Query { hint, .. } | TaskFailure::OutOfMemory { hint, .. } => hint.clone(),
            _ => None,
        };
        QueryFailure { hint, ..QueryFailure::new(kind, failure.to_string()).of(id, site) }
    }
}

impl Stage {
    fn new(node: &StageNode, graph: &QueryGraph) -> Self {
        let task = || Task {
            phase: Phase::Waiting,
            attempts: Vec::new(),
            failure_count: 0,
            restart_count: 0,
            first_failure: None,
            avoid: Vec::new(),
            ready: None,
            has_left_traces: false,
            copies: Vec::new(),
        };
        let mut readers = Vec::new();
        for (index, reader) in graph.stages().iter().enumerate() {
            let inputs = reader.inputs.iter().filter(|input| input.producer == node.id);
            readers.extend(inputs.map(|input| (index, input.pattern.clone())));
        }
        let is_cached = |input: &StageInput| {
            graph.stages().get(input.producer.0 as usize).is_some_and(|it| it.cached.is_some())
        };
        let is_about_cached = node.cached.is_some() || node.inputs.iter().any(is_cached);
        Self {
            node: node.clone(),
            tasks: std::iter::repeat_with(task).take(node.task_count).collect(),
            readers,
            missing_count: node.task_count,
            unfinished_count: node.task_count,
            reading_count: node.task_count,
            running_count: 0,
            sealed_rows: 0,
            is_limit_met: false,
            ready: BTreeMap::new(),
            spread: BTreeMap::new(),
            is_about_cached,
            held: BTreeMap::new(),
        }
    }

    fn count(&mut self, old: &Phase, new: &Phase, partition: usize) {
        let rows = |attempt: &Attempt| {
            self.tasks[partition].attempts.get(attempt.0 as usize).map_or(0, |a| a.output.rows)
        };
        if let Phase::Sealed { attempt, .. } = old {
            self.sealed_rows -= rows(attempt);
        }
        if let Phase::Sealed { attempt, .. } = new {
            self.sealed_rows += rows(attempt);
        }
        self.missing_count -= usize::from(new.is_available());
        self.missing_count += usize::from(old.is_available());
        self.unfinished_count += usize::from(new.is_unfinished());
        self.unfinished_count -= usize::from(old.is_unfinished());
        self.reading_count += usize::from(new.is_reading());
        self.reading_count -= usize::from(old.is_reading());
        self.running_count += usize::from(matches!(new, Phase::Running { .. }));
        self.running_count -= usize::from(matches!(old, Phase::Running { .. }));
        if let Phase::Running { site, .. } | Phase::Sealed { site, .. } = old
            && let Some(count) = self.spread.get_mut(site)
        {
            *count -= 1;
        }
        if let Phase::Running { site, .. } | Phase::Sealed { site, .. } = new {
            *self.spread.entry(*site).or_default() += 1;
        }
        if let Phase::Sealed { site, bytes, .. } = old
            && let Some(held) = self.held.get_mut(site)
        {
            held.remove(bytes);
        }
        if let Phase::Sealed { site, bytes, .. } = new {
            self.held.entry(*site).or_default().add(bytes);
        }
    }
}

fn sealed_bytes(phase: &Phase) -> u64 {
    match phase {
        Phase::Sealed { bytes, .. } => bytes.iter().sum(),
        _ => 0,
    }
}

/// Of one producer task's output, the bytes that one reader wants. A hash exchange is read by
/// partition number when both sides are equally wide; otherwise the share is a guess.
fn wanted_bytes(
    output: OutputKind,
    bytes: &[u64],
    pattern: &ReadPattern,
    partition: usize,
    width: usize,
) -> u64 {
    // The sum is taken only where it is wanted: a wide exchange has as many sums as readers times
    // producers.
    let all = || bytes.iter().sum::<u64>();
    match (output, pattern) {
        (OutputKind::Hashed { partition_count }, ReadPattern::All) if partition_count == width => {
            bytes.get(partition).copied().unwrap_or(0)
        }
        (OutputKind::Hashed { .. }, ReadPattern::All) => all() / width as u64,
        _ => all(),
    }
}
