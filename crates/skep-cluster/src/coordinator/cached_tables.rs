//! Cached tables, as the coordinator has the workers keep them.
//!
//! [`ClusterHost`] takes a table over if its plan can be cut into stages that travel and give the same
//! rows whenever they run. Making it is a query of these stages, whose result nobody reads.
//!
//! What stays in the coordinator's own process: rows that are picked by chance, plans that cannot
//! travel, tables that are too small to be worth a task, unless they are clustered, and all that is
//! cached while no worker lives.

use std::num::NonZeroU32;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::execution::TaskContext;
use futures::future::BoxFuture;
use skep_engine::{CacheHost, CachedShape, Deadline, Error, HostedParts, HostedTable, Result};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::info;

use super::Shared;
use super::driver::{Notice, Request, Submission};
use super::effort::work;
use super::executor::shown_text;
use super::failure::failure_error;
use super::graph::query_graph;
use super::replicas::AWAITED;
use super::result::Lease;
use crate::cache::directory::Purpose;
use crate::cache::{CacheDirectory, ClusterTable, Keeper};
use crate::exchange::plan::{CachedTarget, Output};
use crate::ids::Epoch;
use crate::scheduler::{Event, QuerySettings};
use crate::stage_planner::{Remake, StageOptions, StagePlan, StagePlanner, remakes};
use crate::worker::StageProgram;

/// Has the workers of a coordinator keep cached tables.
#[derive(Debug)]
pub struct ClusterHost {
    shared: Arc<Shared>,
}

impl ClusterHost {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl CacheHost for ClusterHost {
    /// The coordinator's start, in microseconds: one that is started again counts on from there.
    fn first_epoch(&self) -> u64 {
        let since = self.shared.clock.started_at.duration_since(std::time::UNIX_EPOCH);
        since.map_or(1, |since| since.as_micros() as u64)
    }

    fn expect(&self, table: &Arc<str>, epoch: Epoch) -> BoxFuture<'static, bool> {
        let mut found = self.shared.cache.expect(table, epoch);
        let patience = self.shared.options.expect_kept;
        Box::pin(async move {
            let finding = tokio::time::timeout(patience, found.wait_for(|found| *found));
            matches!(finding.await, Ok(Ok(_)))
        })
    }

    fn give_up(&self, table: &Arc<str>, epoch: Epoch) {
        if self.shared.cache.give_up(table, epoch) {
            self.release(table, epoch);
        }
    }

    fn adopt(&self, parts: HostedParts) -> Result<Option<Arc<dyn HostedTable>>> {
        let HostedParts { shape, level, plan, context } = parts;
        if self.shared.snapshot.borrow().live().next().is_none() {
            info!(table = shape.name, "no worker is there to cache a table");
            return Ok(None);
        }
        let options = &self.shared.options;
        let is_small = work(&plan).is_some_and(|bytes| bytes <= options.small_query_bytes);
        if is_small && shape.clustered.is_none() {
            info!(table = shape.name, "a small table is cached on the coordinator");
            return Ok(None);
        }
        let planner = StagePlanner::new(StageOptions {
            target_partitions: context.session_config().target_partitions(),
            min_scan_bytes_per_task: options.min_scan_bytes_per_task,
            // What is made of cached tables has the partitions of its plan, whoever keeps those now.
            slots: None,
        });
        let mut target = CachedTarget { shape, level: level.storage() };
        let mut stages = planner.plan_cached(&plan, Arc::new(target.clone()))?;
        let is_by_chance = remakes(&stages.stages).contains(&Remake::Other);
        let Some(last) = stages.stages.last_mut() else { return Ok(None) };
        if last.task_count != target.shape.partition_count {
            if target.shape.clustered.is_some() {
                return Ok(None);
            }
            let partition_count = last.task_count;
            let shape = CachedShape { partition_count, ..target.shape.as_ref().clone() };
            target.shape = Arc::new(shape);
        }
        let target = Arc::new(target);
        last.output = Output::Cached(Arc::clone(&target));
        if is_by_chance {
            info!(table = target.shape.name, "rows picked by chance are cached on the coordinator");
            return Ok(None);
        }
        let keeper = Arc::new(Self { shared: Arc::clone(&self.shared) });
        let copies = level.replicas();
        let table = Arc::new(ClusterTable::new(target, copies, stages, context, keeper));
        if let Err(error) = table.programs(0) {
            info!(%error, "a table is cached on the coordinator: what makes it cannot travel");
            return Ok(None);
        }
        if copies > 1 {
            self.shared.replicated.add(&table);
        }
        Ok(Some(table))
    }
}

#[async_trait]
impl Keeper for ClusterHost {
    fn directory(&self) -> &CacheDirectory {
        &self.shared.cache
    }

    async fn make(&self, table: &ClusterTable, copies: usize) -> Result<()> {
        let context = table.context();
        let deadline = context.session_config().get_extension::<Deadline>();
        let timeout = deadline.as_ref().map(|deadline| deadline.remaining());
        let settings = QuerySettings { timeout, weight: AWAITED };
        let making = Making { copies, settings, deadline };
        self.run(making, context, table.stages(), table.programs(0)?).await
    }

    fn release(&self, table: &Arc<str>, epoch: Epoch) {
        let request = Request::EndContent { table: Arc::clone(table), epoch };
        if let Err(mpsc::error::TrySendError::Full(request)) =
            self.shared.requests.try_send(request)
            && let Ok(runtime) = Handle::try_current()
        {
            let requests = self.shared.requests.clone();
            // The driver empties its queue at once; if it has ended, so have all workers' lives.
            drop(runtime.spawn(async move { drop(requests.send(request).await) }));
        }
    }
}

/// How partitions are made.
struct Making {
    /// So many of each.
    copies: usize,
    settings: QuerySettings,
    /// When whoever waits for them gives up.
    deadline: Option<Arc<Deadline>>,
}

impl ClusterHost {
    /// Copies the partitions of which there are fewer copies from those who keep them. Nobody waits
    /// for that: it has the smallest share of the slots.
    ///
    /// # Errors
    /// What keeps them from being copied; not that there is no room.
    pub(super) async fn copy(&self, table: &Arc<ClusterTable>, copies: usize) -> Result<()> {
        let _held = table.hold();
        let (stages, programs) = table.copying()?;
        let timeout = Some(self.shared.options.copy_timeout);
        let settings = QuerySettings { timeout, weight: NonZeroU32::MIN };
        let making = Making { copies, settings, deadline: None };
        self.run(making, table.context(), &stages, programs).await
    }

    /// Runs a query whose last stage makes partitions, to its end.
    async fn run(
        &self,
        making: Making,
        context: &TaskContext,
        stages: &StagePlan,
        programs: Vec<StageProgram>,
    ) -> Result<()> {
        let Making { copies, settings, deadline } = making;
        let shared = &self.shared;
        let query = shared.name_query(context);
        let mut lease = Lease::new(Arc::clone(shared), query, deadline);
        let internal =
            |error: crate::Error| Error::from(datafusion::error::DataFusionError::from(error));
        let mut graph = query_graph(stages).map_err(internal)?;
        let snapshot = Arc::clone(&shared.snapshot.borrow());
        shared.cache.tell(&mut graph, &snapshot, Purpose::Keep(copies));
        #[expect(
            clippy::disallowed_methods,
            reason = "as many notices as there are attempts of result tasks, and the driver never waits"
        )]
        let (notices, mut inbox) = mpsc::unbounded_channel();
        let text = shown_text(context);
        let submission =
            Submission { query, graph, settings, programs, text, keeps_operators: false, notices };
        let sent = shared.requests.send(Request::Submit(Box::new(submission))).await;
        sent.map_err(|_ended| Error::Cancelled)?;
        loop {
            match inbox.recv().await {
                // It is not read, and stays where it is.
                Some(Notice::Ready { result, .. }) => {
                    let fetched = Request::Event(Event::ResultFetched { result });
                    let sent = shared.requests.send(fetched).await;
                    sent.map_err(|_ended| Error::Cancelled)?;
                }
                Some(Notice::Finished { .. }) => {
                    lease.end();
                    return Ok(());
                }
                Some(Notice::Failed(failure)) => {
                    lease.end();
                    return Err(failure_error(failure));
                }
                Some(_) => {}
                None => return Err(Error::Cancelled),
            }
        }
    }
}
