//! One content of a cached table that the workers keep.
//!
//! The plan that makes it is cut once, into stages of which the last one's outputs are the
//! partitions. A query that reads the table has these stages in front of its own: as long as the
//! partitions are kept none of them runs.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result as DfResult;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use parking_lot::Mutex;
use skep_engine::{
    CacheScanExec, CacheScanParts, HostedFigures, HostedHold, HostedTable, PartitionSummary, Result,
};
use tokio::sync::OwnedMutexGuard;

use super::directory::CacheDirectory;
use super::groups::groups;
use crate::codec;
use crate::exchange::plan::{CachedTarget, Output};
use crate::ids::{Epoch, StageId};
use crate::membership::WorkerLife;
use crate::stage_planner::{Place, Stage, StagePlan, shifted};
use crate::worker::{EncodedStage, StageProgram};

/// How often making a table is begun again, when workers are lost meanwhile.
const ROUNDS: usize = 3;

/// In how many places of a query its programs are kept encoded; most queries have it in the first.
const KEPT_OFFSETS: usize = 32;

/// Has partitions made, and released.
#[async_trait]
pub trait Keeper: fmt::Debug + Send + Sync {
    /// Returns who keeps what.
    fn directory(&self) -> &CacheDirectory;

    /// Makes the partitions of which there are fewer copies, as far as workers live to keep them.
    ///
    /// # Errors
    /// What keeps them from being made; not that there is no room.
    async fn make(&self, table: &ClusterTable, copies: usize) -> Result<()>;

    /// Tells everybody to let go of a content.
    fn release(&self, table: &Arc<str>, epoch: Epoch);
}

/// A content that the workers keep.
#[derive(Debug)]
pub struct ClusterTable {
    target: Arc<CachedTarget>,
    copies: usize,
    stages: StagePlan,
    context: Arc<TaskContext>,
    /// By the number of the first stage in a query: what travels of them.
    encoded: Mutex<HashMap<usize, Arc<[Option<EncodedStage>]>>>,
    keeper: Arc<dyn Keeper>,
    uses: Arc<Uses>,
    /// Held while partitions or copies are made for their own sake.
    filling: Arc<tokio::sync::Mutex<()>>,
}

/// What keeps others from filling a table at the same time.
pub type Filling = OwnedMutexGuard<()>;

/// A cached table in a query: its stages begin at `offset`.
#[derive(Debug, Clone)]
pub struct TableUse {
    /// The number of its first stage in the query.
    pub offset: usize,
    /// The table.
    pub table: Arc<ClusterTable>,
}

/// Who uses a content.
#[derive(Debug)]
struct Uses {
    target: Arc<CachedTarget>,
    keeper: Arc<dyn Keeper>,
    state: Mutex<UseState>,
}

#[derive(Debug, Default)]
struct UseState {
    count: usize,
    is_ended: bool,
    /// Whether everybody has been told, and nobody used it since.
    is_released: bool,
    was_used: bool,
}

/// Keeps a content from being released while a query reads it.
#[derive(Debug)]
pub struct UseGuard(Arc<Uses>);

/// Returns the table that a scan reads, if the workers keep it.
pub fn cluster_table(scan: &CacheScanExec) -> Option<Arc<ClusterTable>> {
    let table: Arc<dyn Any + Send + Sync> = Arc::<dyn HostedTable>::clone(scan.hosted_table()?);
    table.downcast().ok()
}

impl ClusterTable {
    /// Takes over a content whose plan was cut into these stages, and notes it in the directory.
    pub fn new(
        target: Arc<CachedTarget>,
        copies: usize,
        stages: StagePlan,
        context: Arc<TaskContext>,
        keeper: Arc<dyn Keeper>,
    ) -> Self {
        keeper.directory().add(&target.shape);
        let uses = Arc::new(Uses {
            target: Arc::clone(&target),
            keeper: Arc::clone(&keeper),
            state: Mutex::default(),
        });
        let (encoded, filling) = (Mutex::default(), Arc::default());
        Self { target, copies, stages, context, encoded, keeper, uses, filling }
    }

    /// Returns how many copies are wanted.
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// Returns how many copies of all partitions there are, of each no more than wanted.
    pub fn copy_count(&self, wanted: usize) -> usize {
        self.keeper.directory().copy_count(&self.target.shape, wanted)
    }

    /// Returns what is to be held by whoever makes copies, if the table is still wanted, all of it is
    /// kept, some of it by fewer than are wanted, and nobody is at it.
    pub fn lacking(&self, wanted: usize) -> Option<Filling> {
        let is_ended = self.uses.state.lock().is_ended;
        let filling = Arc::clone(&self.filling).try_lock_owned().ok()?;
        let lacks = self.keeper.directory().lacks_copies(&self.target.shape, wanted);
        (lacks && !is_ended).then_some(filling)
    }

    /// Returns the stages that copy it from those who keep it, and what their tasks run: those that
    /// make it, of which nothing runs as long as it is kept, and a last one that reads it as a query
    /// does.
    ///
    /// # Errors
    /// If the last one cannot travel.
    pub fn copying(self: &Arc<Self>) -> DfResult<(StagePlan, Vec<StageProgram>)> {
        let mut programs = self.programs(0)?;
        let mut stages = self.stages.stages.clone();
        let shape = &self.target.shape;
        let last = stages.len().saturating_sub(1) as u32;
        let scan = CacheScanExec::from_parts(CacheScanParts {
            shape: Arc::clone(shape),
            producer: last,
            projection: (0..shape.schema.fields().len()).collect(),
            filter: None,
            is_filter: false,
            dynamic_filters: Vec::new(),
            groups: None,
            batches: None,
            coded: Vec::new(),
            is_plain: false,
        })?;
        let output = Output::Cached(Arc::clone(&self.target));
        let copy = Stage::new(StageId(last + 1), Arc::new(scan), output, Place::Workers);
        let copy = Stage { lineage_of: Some(shape.name.as_str().into()), ..copy };
        let settings = codec::encode_settings(&self.context)?;
        let encoded = codec::encode_stage_with(&copy, &settings, &self.context)?;
        programs.push(StageProgram::Encoded(encoded));
        stages.push(copy);
        let tables = vec![TableUse { offset: 0, table: Arc::clone(self) }];
        Ok((StagePlan { stages, tables }, programs))
    }

    /// Returns how messages call it.
    pub fn name(&self) -> &str {
        &self.target.shape.name
    }

    /// Returns what makes its partitions, each with its own number, if that is one stage which reads
    /// no other table.
    pub fn files_plan(&self) -> Option<&Arc<dyn ExecutionPlan>> {
        match self.stages.stages.as_slice() {
            [stage] if self.target.shape.is_narrow => Some(&stage.plan),
            _ => None,
        }
    }

    /// Returns the partitions for which there was no room and that are not to be offered yet.
    pub fn refused(&self) -> Vec<usize> {
        self.keeper.directory().refused(&self.target.shape)
    }

    /// Takes note that a query reads these partitions from their files.
    pub fn pass(&self, partitions: &[usize]) {
        self.keeper.directory().pass(&self.target.shape, partitions);
    }

    /// Returns the stages that make it; the last one's outputs are its partitions.
    pub fn stages(&self) -> &StagePlan {
        &self.stages
    }

    /// Returns the context of the session that cached it.
    pub fn context(&self) -> &Arc<TaskContext> {
        &self.context
    }

    /// Notes that a query uses it, and the tables that it is made from.
    pub fn begin_use(&self) -> Vec<UseGuard> {
        self.uses.change(|state| {
            state.count += 1;
            state.is_released = false;
            state.was_used = true;
        });
        let mut guards = vec![UseGuard(Arc::clone(&self.uses))];
        guards.extend(self.stages.tables.iter().flat_map(|used| used.table.begin_use()));
        guards
    }

    /// Holds on to it and to the tables that it is made from, as a query does that is being planned.
    fn held(&self) -> Vec<UseGuard> {
        self.uses.change(|state| state.count += 1);
        let mut guards = vec![UseGuard(Arc::clone(&self.uses))];
        guards.extend(self.stages.tables.iter().flat_map(|used| used.table.held()));
        guards
    }

    /// Returns which of its partitions each task of a scan reads, if the live workers have so many
    /// slots; `None` if each partition is a task of its own.
    pub fn groups_of(
        &self,
        scan: &CacheScanExec,
        slots: &BTreeMap<WorkerLife, usize>,
    ) -> Option<Vec<Vec<usize>>> {
        let wanted = scan.wanted_partitions();
        if scan.is_clustered() {
            // The numbers mean something; but what nobody wants need not be there.
            let own = |(partition, is_wanted): (usize, &bool)| match is_wanted {
                true => vec![partition],
                false => Vec::new(),
            };
            let is_any_left_out = wanted.contains(&false);
            return is_any_left_out.then(|| wanted.iter().enumerate().map(own).collect());
        }
        let shape = &self.target.shape;
        let kept = self.keeper.directory().kept(shape, |life| slots.contains_key(life));
        Some(groups(&kept, &wanted, slots))
    }

    /// Returns what the tasks of its stages run in a query in which they begin at `offset`.
    ///
    /// # Errors
    /// If one of them cannot travel.
    pub fn programs(&self, offset: usize) -> DfResult<Vec<StageProgram>> {
        let encoded = self.encoded(offset)?;
        let mut programs: Vec<Option<StageProgram>> = Vec::with_capacity(encoded.len());
        for (stage, encoded) in self.stages.stages.iter().zip(encoded.iter()) {
            programs.push(match encoded {
                Some(encoded) => Some(StageProgram::Encoded(encoded.clone())),
                None if self.is_own(stage) => Some(self.live(stage, offset)?),
                None => None,
            });
        }
        for TableUse { offset: inner, table } in &self.stages.tables {
            for (idx, program) in table.programs(offset + inner)?.into_iter().enumerate() {
                if let Some(place) = programs.get_mut(inner + idx) {
                    *place = Some(program);
                }
            }
        }
        let missing = || internal_datafusion_err!("a stage of a cached table has no program");
        programs.into_iter().map(|program| program.ok_or_else(missing)).collect()
    }

    /// A plan of this very process, which has never run.
    fn live(&self, stage: &Stage, offset: usize) -> DfResult<StageProgram> {
        let mut stage = shifted(stage, offset)?;
        stage.plan = reset_plan_states(stage.plan)?;
        Ok(StageProgram::Live { stage: Arc::new(stage), context: Arc::clone(&self.context) })
    }

    fn encoded(&self, offset: usize) -> DfResult<Arc<[Option<EncodedStage>]>> {
        if let Some(known) = self.encoded.lock().get(&offset) {
            return Ok(Arc::clone(known));
        }
        let settings = codec::encode_settings(&self.context)?;
        let encode = |stage: &Stage| match (&stage.place, self.is_own(stage)) {
            (Place::Coordinator { .. }, _) | (_, false) => Ok(None),
            _ => {
                let stage = shifted(stage, offset)?;
                codec::encode_stage_with(&stage, &settings, &self.context).map(Some)
            }
        };
        let encoded: DfResult<Vec<_>> = self.stages.stages.iter().map(encode).collect();
        let encoded: Arc<[_]> = encoded?.into();
        let mut known = self.encoded.lock();
        if known.len() >= KEPT_OFFSETS {
            known.clear();
        }
        known.insert(offset, Arc::clone(&encoded));
        drop(known);
        Ok(encoded)
    }

    /// Whether a stage is this table's, and not of one that it is made from.
    fn is_own(&self, stage: &Stage) -> bool {
        let place = stage.id.0 as usize;
        let is_of = |used: &TableUse| {
            (used.offset..used.offset + used.table.stages.stages.len()).contains(&place)
        };
        !self.stages.tables.iter().any(is_of)
    }
}

#[async_trait]
impl HostedTable for ClusterTable {
    async fn fill(&self) -> Result<()> {
        let _filling = self.filling.lock().await;
        let _uses = self.begin_use();
        for copies in 1..=self.copies {
            let count = || self.copy_count(copies);
            for _round in 0..ROUNDS {
                let before = count();
                if before >= copies * self.target.shape.partition_count {
                    break;
                }
                self.keeper.make(self, copies).await?;
                if count() <= before || !self.refused().is_empty() {
                    // There is no room, or no other worker.
                    break;
                }
            }
        }
        Ok(())
    }

    fn is_used(&self) -> bool {
        self.uses.state.lock().was_used
    }

    fn hold(&self) -> HostedHold {
        Arc::new(self.held())
    }

    fn end(&self) {
        self.uses.change(|state| state.is_ended = true);
    }

    fn shape(&self) -> Arc<skep_engine::CachedShape> {
        Arc::clone(&self.target.shape)
    }

    fn summaries(&self) -> Option<Vec<Arc<PartitionSummary>>> {
        self.keeper.directory().summaries(&self.target.shape)
    }

    fn figures(&self) -> HostedFigures {
        self.keeper.directory().figures(&self.target.shape)
    }
}

impl Uses {
    /// Changes who uses the content, and releases it when the last use of an ended one is over.
    fn change(&self, change: impl FnOnce(&mut UseState)) {
        let mut state = self.state.lock();
        change(&mut state);
        if state.is_ended && state.count == 0 && !state.is_released {
            state.is_released = true;
            drop(state);
            let shape = &self.target.shape;
            self.keeper.directory().remove(&shape.key, shape.epoch);
            self.keeper.release(&shape.key, shape.epoch);
        }
    }
}

impl Drop for UseGuard {
    fn drop(&mut self) {
        self.0.change(|state| state.count -= 1);
    }
}

impl Drop for ClusterTable {
    fn drop(&mut self) {
        self.end();
    }
}
