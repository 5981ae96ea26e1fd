//! Runs attempts and keeps account of them: what was launched, what is sealed, whose word is owed.
//!
//! Commands change the account at once and never wait; attempts run as tasks of the runtime that
//! the runner was made on. A cancelled attempt is dropped at its next await, with its writer, its
//! streams and their memory, and says its last word after that.
//!
//! **Invariant:** every attempt that is launched says one last word, whatever happens to it: the
//! word is a value ([`Word`]) that an attempt owns, and that speaks by itself if it is dropped.
//!
//! **Invariant:** a finished attempt that is not wanted any more, because it was cancelled, its
//! query dropped or its life ended, leaves nothing in the store and says that it was stopped.
//!
//! **Invariant:** an attempt is counted as running until it has said its last word, and as sealed
//! only after it has said that it finished.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::execution::runtime_env::RuntimeEnv;
use futures::FutureExt;
use futures::future::{AbortHandle, BoxFuture, abortable};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::arrivals::Arrivals;
use super::command::{Command, StageProgram, TaskOutcome, TaskReport};
use super::copies::Copies;
use super::failure;
use super::inputs::{Peers, output_key};
use super::program::{QueryContext, StageDecoder, StageEntry};
use super::site::TaskSite;
use super::task::{Services, Task};
use crate::cache::kept::KeptPartitions;
use crate::exchange::fetch::Fetcher;
use crate::ids::{QueryId, StageId};
use crate::membership::WorkerLoad;
use crate::scheduler::{Heartbeat, Holdings, Launch, Site, TaskAttempt, TaskFailure, TaskOutput};
use crate::store::{PartitionStore, Readers};

/// Bounds of a [`TaskRunner`].
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// Most attempts that run at once: the site's slots. The scheduler launches no more; one that
    /// it launches all the same fails at once as the worker's fault.
    pub max_running_attempts: usize,
    /// Most bytes that wait in one attempt to be put together into batches.
    pub max_waiting_bytes: usize,
    /// Rows of the batches that are written; the session's batch size if not set.
    pub batch_rows: Option<usize>,
    /// Most bytes that one attempt of a query's result keeps in memory when they are not read as
    /// fast as they are made; the rest goes to disk. As much as the store has room for if not set.
    pub result_memory_bytes: Option<usize>,
}

impl RunnerConfig {
    /// Makes a configuration for a number of slots; everything else has its default.
    pub fn new(max_running_attempts: usize) -> Self {
        Self {
            max_running_attempts,
            max_waiting_bytes: 32 << 20,
            batch_rows: None,
            result_memory_bytes: None,
        }
    }
}

/// What runs the tasks of one site.
pub struct TaskRunner {
    shared: Arc<Shared>,
    handle: Handle,
}

struct Shared {
    services: Arc<Services>,
    reports: mpsc::UnboundedSender<(Site, TaskReport)>,
    state: Mutex<State>,
}

struct State {
    site: Site,
    /// Counts the lives, so that what an old one left behind is known as such.
    life: u64,
    peers: Arc<Peers>,
    /// Of this life, until their last word.
    running: HashMap<TaskAttempt, Running>,
    queries: HashMap<QueryId, Query>,
}

struct Running {
    abort: AbortHandle,
    arrivals: Arc<Arrivals>,
}

#[derive(Default)]
struct Query {
    context: Arc<QueryContext>,
    stages: HashMap<StageId, Arc<StageEntry>>,
    sealed: BTreeMap<TaskAttempt, TaskOutput>,
    copies: Arc<Copies>,
    /// Attempts that have said their last word.
    over: HashSet<TaskAttempt>,
}

impl TaskRunner {
    /// Makes a runner whose attempts run on the present runtime, and the channel of their reports.
    ///
    /// It begins as the coordinator's; a worker's begins its life with
    /// [`begin_life`](TaskSite::begin_life). The channel has no bound of its own, but holds no more
    /// than one report per launch, and the scheduler launches no more than there are slots until it
    /// has heard.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(
        config: RunnerConfig,
        store: PartitionStore,
        runtime: Arc<RuntimeEnv>,
        fetcher: Arc<dyn Fetcher>,
        decoder: Arc<dyn StageDecoder>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<(Site, TaskReport)>) {
        #[expect(
            clippy::disallowed_methods,
            reason = "one report per launch, and launches are bounded by slots; a word must never wait"
        )]
        let (reports, receiver) = mpsc::unbounded_channel();
        let state = State {
            site: Site::Coordinator,
            life: 0,
            peers: Arc::default(),
            running: HashMap::new(),
            queries: HashMap::new(),
        };
        let kept = Arc::new(KeptPartitions::new(store.clone()));
        let services = Arc::new(Services { config, store, runtime, fetcher, decoder, kept });
        let shared = Arc::new(Shared { services, reports, state: Mutex::new(state) });
        (Arc::new(Self { shared, handle: Handle::current() }), receiver)
    }

    fn launch(&self, launches: Vec<Launch>) {
        let mut begun: Vec<BoxFuture<'static, ()>> = Vec::with_capacity(launches.len());
        let mut state = self.shared.state.lock();
        for launch in launches {
            begun.extend(self.shared.begin(&mut state, launch));
        }
        // A runtime that is shutting down drops what it is given, and the words speak.
        drop(state);
        for attempt in begun {
            self.handle.spawn(attempt);
        }
    }
}

impl TaskSite for TaskRunner {
    fn perform(&self, command: Command) {
        match command {
            Command::Peers(peers) => {
                let mut state = self.shared.state.lock();
                Arc::make_mut(&mut state.peers).extend(peers);
            }
            Command::Plan { query, stage, program } => self.shared.plan(query, stage, program),
            Command::Launch(launches) => self.launch(launches),
            Command::Cancel(attempts) => self.shared.cancel(&attempts),
            Command::Release(outputs) => self.shared.forget_outputs(&outputs),
            Command::DropQuery(query) => self.shared.drop_query(query),
            Command::EndContent { table, epoch } => self.shared.services.kept.end(&table, epoch),
        }
    }

    fn holdings(&self) -> Holdings {
        let state = self.shared.state.lock();
        let mut running: Vec<TaskAttempt> = state.running.keys().copied().collect();
        running.sort_unstable();
        let sealed = state.queries.values().flat_map(|query| &query.sealed);
        let mut sealed: Vec<_> = sealed.map(|(at, output)| (*at, output.clone())).collect();
        sealed.sort_unstable_by_key(|(attempt, _)| *attempt);
        let known = state.queries.keys().copied();
        let queries: BTreeSet<QueryId> =
            known.chain(running.iter().map(|attempt| attempt.task.query)).collect();
        let cached = self.shared.services.kept.list();
        Holdings { running, sealed, queries: queries.into_iter().collect(), cached }
    }

    fn heartbeat(&self) -> Heartbeat {
        let Services { runtime, store, .. } = &*self.shared.services;
        let load = WorkerLoad {
            memory_bytes: runtime.memory_pool.reserved() as u64,
            stored_bytes: store.held_bytes(),
        };
        let cached = self.shared.services.kept.usage();
        let state = self.shared.state.lock();
        let fed = state.running.iter().filter(|(_, running)| running.arrivals.is_complete());
        Heartbeat { load, has_inputs: fed.map(|(attempt, _)| *attempt).collect(), cached }
    }

    fn begin_life(&self, site: Site) {
        let queries = {
            let mut state = self.shared.state.lock();
            state.site = site;
            state.life += 1;
            state.peers = Arc::default();
            for (_, attempt) in state.running.drain() {
                attempt.abort.abort();
            }
            std::mem::take(&mut state.queries)
        };
        // Who comes back as another is not known to have any of it.
        self.shared.services.kept.clear();
        // Not the end of the queries' leases: they may go on, and give this life tasks as well.
        for query in queries.into_values() {
            self.shared.services.store.release(&query.copies.keys(), Readers::Abort);
            for (attempt, output) in query.sealed {
                self.shared.release(attempt, &output);
            }
        }
    }
}

impl Drop for TaskRunner {
    fn drop(&mut self) {
        for attempt in self.shared.state.lock().running.values() {
            attempt.abort.abort();
        }
    }
}

impl fmt::Debug for TaskRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("TaskRunner")
            .field("site", &state.site)
            .field("running", &state.running.len())
            .field("queries", &state.queries.len())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn plan(&self, query: QueryId, stage: StageId, program: StageProgram) {
        let mut state = self.state.lock();
        let query = state.queries.entry(query).or_default();
        // One that is said again is the same, and attempts may have run on it.
        if !query.stages.contains_key(&stage) {
            let entry = Arc::new(StageEntry::new(program, &query.context));
            query.stages.insert(stage, entry);
        }
    }

    /// Takes an attempt into the account and returns what runs it; `None` if its word was said here.
    fn begin(
        self: &Arc<Self>,
        state: &mut State,
        launch: Launch,
    ) -> Option<BoxFuture<'static, ()>> {
        let Launch { attempt, sources } = launch;
        let site = state.site;
        let refuse = |message: String| {
            warn!(%attempt, message, "attempt refused");
            self.send(site, attempt, failure::worker_fault(message));
        };
        let Some(query) = state.queries.get_mut(&attempt.task.query) else {
            refuse(format!("the plan of {} did not arrive", attempt.task.stage));
            return None;
        };
        if state.running.contains_key(&attempt) || query.over.contains(&attempt) {
            warn!(%attempt, "attempt launched twice");
            return None;
        }
        let Some(stage) = query.stages.get(&attempt.task.stage).map(Arc::clone) else {
            query.over.insert(attempt);
            refuse(format!("the plan of {} did not arrive", attempt.task.stage));
            return None;
        };
        let limit = self.services.config.max_running_attempts;
        if state.running.len() >= limit {
            query.over.insert(attempt);
            refuse(format!("{limit} attempts run already, as many as there are slots"));
            return None;
        }
        let (services, peers) = (Arc::clone(&self.services), Arc::clone(&state.peers));
        let copies = Arc::clone(&query.copies);
        let arrivals = Arc::<Arrivals>::default();
        let task = Task {
            services,
            attempt,
            site,
            sources,
            peers,
            stage,
            copies,
            arrivals: Arc::clone(&arrivals),
        };
        let (work, abort) = abortable(AssertUnwindSafe(task.run().boxed()).catch_unwind());
        state.running.insert(attempt, Running { abort, arrivals });
        let word =
            Word { shared: Arc::clone(self), attempt, site, life: state.life, is_said: false };
        Some(Box::pin(async move {
            // All that the attempt held is dropped with it, before its word.
            let outcome = match work.await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(panic)) => TaskOutcome::Failed(failure::of_panic(panic.as_ref())),
                Err(_aborted) => TaskOutcome::Stopped,
            };
            word.say(outcome);
        }))
    }

    fn cancel(&self, attempts: &[TaskAttempt]) {
        let finished: Vec<TaskAttempt> = {
            let state = self.state.lock();
            let is_over = |attempt: &&TaskAttempt| match state.running.get(*attempt) {
                Some(running) => {
                    running.abort.abort();
                    false
                }
                None => true,
            };
            attempts.iter().filter(is_over).copied().collect()
        };
        self.forget_outputs(&finished);
    }

    fn forget_outputs(&self, attempts: &[TaskAttempt]) {
        for attempt in attempts {
            let output = {
                let mut state = self.state.lock();
                let query = state.queries.get_mut(&attempt.task.query);
                query.and_then(|query| query.sealed.remove(attempt))
            };
            if let Some(output) = output {
                self.release(*attempt, &output);
            }
        }
    }

    fn drop_query(&self, query: QueryId) {
        {
            let mut state = self.state.lock();
            state.queries.remove(&query);
            for (attempt, running) in &state.running {
                if attempt.task.query == query {
                    running.abort.abort();
                }
            }
        }
        self.services.store.end_query(query, Readers::Abort);
    }

    fn release(&self, attempt: TaskAttempt, output: &TaskOutput) {
        let keys: Vec<_> =
            (0..output.bytes.len()).map(|output| output_key(attempt, output)).collect();
        self.services.store.release(&keys, Readers::Abort);
    }

    fn send(&self, site: Site, attempt: TaskAttempt, outcome: TaskOutcome) {
        if self.reports.send((site, TaskReport { attempt, outcome })).is_err() {
            debug!(%attempt, "nobody listens to reports any more");
        }
    }

    /// Says the last word of an attempt: its own if it is still wanted, that it was stopped if not.
    fn conclude(&self, attempt: TaskAttempt, site: Site, life: u64, outcome: TaskOutcome) {
        let mut state = self.state.lock();
        if !state.wants(attempt, life) {
            drop(state);
            if let TaskOutcome::Finished { output, .. } = &outcome {
                self.release(attempt, output);
            }
            let mut state = self.state.lock();
            if state.life == life {
                state.end(attempt);
            }
            self.send(site, attempt, TaskOutcome::Stopped);
            return;
        }
        state.end(attempt);
        if let TaskOutcome::Finished { output, .. } = &outcome
            && let Some(query) = state.queries.get_mut(&attempt.task.query)
        {
            query.sealed.insert(attempt, output.clone());
        }
        // Under the lock: whoever is told what is held has been sent the word or finds it running.
        self.send(site, attempt, outcome);
    }
}

impl State {
    fn wants(&self, attempt: TaskAttempt, life: u64) -> bool {
        let running = self.running.get(&attempt).filter(|_running| self.life == life);
        running.is_some_and(|running| !running.abort.is_aborted())
            && self.queries.contains_key(&attempt.task.query)
    }

    fn end(&mut self, attempt: TaskAttempt) {
        self.running.remove(&attempt);
        if let Some(query) = self.queries.get_mut(&attempt.task.query) {
            query.over.insert(attempt);
        }
    }
}

/// The last word that an attempt owes.
struct Word {
    shared: Arc<Shared>,
    attempt: TaskAttempt,
    site: Site,
    life: u64,
    is_said: bool,
}

impl Word {
    fn say(mut self, outcome: TaskOutcome) {
        self.is_said = true;
        self.shared.conclude(self.attempt, self.site, self.life, outcome);
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        if self.is_said {
            return;
        }
        let outcome = match std::thread::panicking() {
            true => TaskOutcome::Failed(TaskFailure::Panic {
                message: "what the attempt held could not be dropped".to_owned(),
            }),
            false => failure::worker_fault("the runtime dropped the attempt"),
        };
        self.shared.conclude(self.attempt, self.site, self.life, outcome);
    }
}
