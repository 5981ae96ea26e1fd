//! The coordinator: performs what the scheduler decides, and gives queries their answers.
//!
//! - [`driver`]: the one task that owns the scheduler; everything that happens comes to it as a
//!   request, in one queue.
//! - [`connections`]: the control streams of the workers, seen from here.
//! - [`members`]: what those streams say, on its way to the driver.
//! - [`effort`]: whether a query is worth a worker.
//! - [`executor`]: the engine's [`QueryExecutor`](skep_engine::QueryExecutor) over all this.
//! - [`system_tables`], [`analyze`], [`monitor`]: what people see of it.
//! - [`local_queries`]: what runs in this very process, for those who look.
//! - [`cached_tables`]: has the workers keep cached tables.
//! - [`replicas`]: makes second copies of them again.
//! - [`owners`]: whose queries are whose.
//! - [`graph`]: a query's stages as the scheduler sees them.
//! - [`result`]: reads the last stage's outputs, and goes on where one is lost.
//! - [`ties`]: what has to be known of sorted rows for that.
//!
//! **Invariant:** nobody but the driver touches the scheduler, and the driver waits for nobody: what
//! it sends goes into bounded queues, and a worker whose queue is full is cut off.

pub mod analyze;
mod cached_tables;
pub mod connections;
pub mod driver;
mod effort;
pub mod executor;
mod failure;
pub mod graph;
pub(crate) mod local_queries;
pub mod members;
mod monitor;
pub mod options;
mod owners;
mod replicas;
pub mod result;
pub mod system_tables;
mod ties;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use skep_engine::{Principal, QueryTag};
use tokio::sync::{mpsc, oneshot, watch};

pub use analyze::Analysis;
pub use cached_tables::ClusterHost;
pub use monitor::{Progress, QueryMonitor};
pub use options::CoordinatorOptions;
pub use system_tables::{ClusterTables, ViewSource, Views};

use self::driver::{Driver, Request};
use self::executor::ClusterExecutor;
use self::local_queries::LocalQueries;
use self::members::DriverMembers;
use self::owners::Owners;
use self::replicas::Replicated;
use crate::cache::CacheDirectory;
use crate::codec::PlanDecoder;
use crate::exchange::fetch::Fetcher;
use crate::ids::QueryId;
use crate::membership::ClusterSnapshot;
use crate::store::PartitionStore;
use crate::worker::{RunnerConfig, TaskRunner};

/// The coordinator of a cluster. Dropping it ends its work.
#[derive(Debug)]
pub struct Coordinator {
    shared: Arc<Shared>,
    _driver: SpawnedTask<()>,
    _replicas: SpawnedTask<()>,
}

/// What everybody who talks to the driver holds.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: CoordinatorOptions,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) snapshot: watch::Receiver<Arc<ClusterSnapshot>>,
    pub(crate) store: PartitionStore,
    pub(crate) fetcher: Arc<dyn Fetcher>,
    pub(crate) clock: Clock,
    pub(crate) local: Arc<LocalQueries>,
    pub(crate) owners: Arc<Owners>,
    pub(crate) cache: Arc<CacheDirectory>,
    pub(crate) replicated: Replicated,
    next_query: AtomicU64,
}

/// The scheduler's clock: time since the coordinator started.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    /// When that was, for people.
    pub started_at: SystemTime,
}

impl Clock {
    fn start() -> Self {
        Self { start: Instant::now(), started_at: SystemTime::now() }
    }

    /// Returns the time since the start.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

impl Coordinator {
    /// Starts the coordinator; must be called within a runtime.
    ///
    /// `store` and `runtime` are those of this process, `fetcher` reads from the workers.
    pub fn start(
        options: CoordinatorOptions,
        store: PartitionStore,
        runtime: RuntimeEnv,
        fetcher: Arc<dyn Fetcher>,
    ) -> Self {
        let (requests, inbox) = mpsc::channel(options.request_queue_length.max(1));
        let runner = RunnerConfig {
            result_memory_bytes: Some(options.result_memory_bytes),
            ..RunnerConfig::new(options.scheduler.coordinator_slot_count)
        };
        let cache = Arc::new(CacheDirectory::new(Arc::clone(&runtime.memory_pool)));
        let (site, reports) = TaskRunner::new(
            runner,
            store.clone(),
            Arc::new(runtime),
            Arc::clone(&fetcher),
            Arc::new(PlanDecoder::default()),
        );
        let clock = Clock::start();
        let (driver, snapshot) = Driver::new(&options, clock, site, Arc::clone(&cache));
        let driver = SpawnedTask::spawn(driver.run(inbox, reports));
        let next_query = AtomicU64::new(first_query(clock.started_at));
        let limits = &options.scheduler;
        let local = Arc::new(LocalQueries::new(clock, limits.remembered_query_count));
        let owners = Arc::new(Owners::new(
            // Local queries are remembered beside the scheduler's.
            2 * limits.remembered_query_count
                + limits.running_query_count
                + limits.queued_query_count,
        ));
        let shared = Shared {
            options,
            requests,
            snapshot,
            store,
            fetcher,
            clock,
            local,
            owners,
            cache,
            replicated: Replicated::default(),
            next_query,
        };
        let shared = Arc::new(shared);
        let replicas = SpawnedTask::spawn(replicas::keep_up(Arc::clone(&shared)));
        Self { shared, _driver: driver, _replicas: replicas }
    }

    /// Returns what runs the engine's plans on this cluster.
    pub fn executor(&self) -> Arc<ClusterExecutor> {
        Arc::new(ClusterExecutor::new(Arc::clone(&self.shared)))
    }

    /// Returns what has cached tables kept by the workers.
    pub fn cache_host(&self) -> Arc<ClusterHost> {
        Arc::new(ClusterHost::new(Arc::clone(&self.shared)))
    }

    /// Returns what the control streams of workers speak to.
    pub fn members(&self) -> Arc<DriverMembers> {
        Arc::new(DriverMembers::new(Arc::clone(&self.shared)))
    }

    /// Returns what `system` shows of this cluster.
    pub fn system_tables(&self) -> Arc<ClusterTables> {
        let source: Arc<dyn ViewSource> = Arc::<Shared>::clone(&self.shared);
        Arc::new(ClusterTables::new(source, Arc::clone(&self.shared.owners)))
    }

    /// Returns what names queries and tells how far they are.
    pub fn monitor(&self) -> QueryMonitor {
        QueryMonitor::new(Arc::clone(&self.shared))
    }

    /// Returns who is in the cluster now, and lets wait for changes.
    pub fn snapshot(&self) -> watch::Receiver<Arc<ClusterSnapshot>> {
        self.shared.snapshot.clone()
    }
}

impl Shared {
    /// Returns a name that no query had, of this coordinator or one before it.
    pub(crate) fn next_query(&self) -> QueryId {
        QueryId(self.next_query.fetch_add(1, Ordering::Relaxed))
    }

    /// Names a query, as its statement is known already or anew, and notes whose it is.
    pub(crate) fn name_query(&self, context: &TaskContext) -> QueryId {
        let config = context.session_config();
        let tag = config.get_extension::<QueryTag>();
        let known = tag.and_then(|tag| tag.take()).map(QueryId);
        let query = known.unwrap_or_else(|| self.next_query());
        if let Some(principal) = config.get_extension::<Principal>() {
            self.owners.note(query, &principal.user);
        }
        query
    }
}

#[async_trait]
impl ViewSource for Shared {
    async fn views(&self, with_tasks: bool) -> Views {
        let (reply, answer) = oneshot::channel();
        let is_asked = self.requests.send(Request::Views { with_tasks, reply }).await.is_ok();
        let mut views = match answer.await {
            Ok(views) if is_asked => views,
            // The coordinator has ended, and nobody will see this.
            _ => Views::empty(self.clock.now(), self.clock.started_at),
        };
        views.queries.extend(self.local.views());
        // They are named in the order in which they came.
        views.queries.sort_by_key(|(view, _text)| view.query);
        views
    }
}

/// Workers remember the names of ended queries, to refuse what late attempts of them would write.
/// So a coordinator that is started again goes on behind the names of the one before: it would have
/// to have named a thousand queries a second all its life for the two to meet.
fn first_query(now: SystemTime) -> u64 {
    /// The first of January 2026, in milliseconds since 1970.
    const EPOCH_MILLIS: u128 = 1_767_225_600_000;
    let millis = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    u64::try_from(millis.saturating_sub(EPOCH_MILLIS)).unwrap_or(0).max(1)
}
