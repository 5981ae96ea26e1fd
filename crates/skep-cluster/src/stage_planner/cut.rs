//! The walk that cuts: from the leaves up, a fragment grows until its rows must move.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{internal_datafusion_err, internal_err};
use datafusion::error::Result;
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::sanity_checker::SanityCheckPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode,
};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::scalar_subquery::{ScalarSubqueryExec, ScalarSubqueryLink};
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions,
};
use skep_engine::{CacheScanExec, HostedTable};

use super::joins::{emits_build_rows, partitioned, without_shared_filter};
use super::reads::is_read_whole;
use super::remake::read_in_order;
use super::scans::{pinned, widened};
use super::stage::{Place, Stage, StagePlan};
use super::subqueries::Scope;
use super::travel::{Home, home_of_leaf, runs_whole, stays};
use crate::cache::{ClusterTable, TableUse};
use crate::exchange::plan::{CachedTarget, Exchange, ExchangeReadExec, Output};
use crate::ids::StageId;
use crate::membership::WorkerLife;

/// What the planner is told about the cluster.
#[derive(Debug, Clone)]
pub struct StageOptions {
    /// How many tasks a spread stage should have: what the plan was made with.
    pub target_partitions: usize,
    /// Bytes of files below which a scan is not split further. Units: bytes in the files.
    pub min_scan_bytes_per_task: u64,
    /// How many tasks each live worker runs at a time, if scans of cached tables shall have a task
    /// for each slot rather than for each partition.
    pub slots: Option<BTreeMap<WorkerLife, usize>>,
}

impl StageOptions {
    /// Returns the options for a cluster of this width.
    pub fn for_width(target_partitions: usize) -> Self {
        Self { target_partitions, min_scan_bytes_per_task: 1024 * 1024, slots: None }
    }
}

/// Cuts plans into stages.
#[derive(Debug, Clone)]
pub struct StagePlanner {
    options: StageOptions,
}

impl StagePlanner {
    /// Makes a planner.
    pub fn new(options: StageOptions) -> Self {
        Self { options }
    }

    /// Cuts an optimised physical plan, made with the same number of target partitions.
    ///
    /// # Errors
    /// If DataFusion refuses a plan that was changed, or a stage does not give its operators the
    /// order and distribution that they need: rather no answer than a wrong one.
    pub fn plan(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<StagePlan> {
        let mut cutter = Cutter::new(&self.options);
        let root = cutter.cut(plan)?;
        cutter.end_stage(root, Output::Result { in_order: false })?;
        read_in_order(&mut cutter.stages);
        Ok(cutter.finish())
    }

    /// Cuts the plan that makes a cached table: the outputs of the last stage are its partitions.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_cached(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        target: Arc<CachedTarget>,
    ) -> Result<StagePlan> {
        let name: Arc<str> = target.shape.name.as_str().into();
        let mut cutter = Cutter::new(&self.options);
        let mut root = cutter.cut(plan)?;
        if root.is_at_home_on_coordinator() {
            root = cutter.exchange(root, Output::Forward, Exchange::Forward)?;
        }
        root.home = Home::Workers;
        cutter.end_stage(root, Output::Cached(target))?;
        let mut cut = cutter.finish();
        for stage in &mut cut.stages {
            stage.lineage_of.get_or_insert_with(|| Arc::clone(&name));
        }
        Ok(cut)
    }

    /// Cuts a plan so that all of it runs in one task on the coordinator, but what makes the cached
    /// tables that it reads.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_whole(&self, plan: &Arc<dyn ExecutionPlan>, why: String) -> Result<StagePlan> {
        let mut cutter = Cutter::new(&self.options);
        let mut root = cutter.whole(plan, why)?;
        if matches!(root.home, Home::Anywhere) {
            root = cutter.gather(root, None)?;
        }
        cutter.end_stage(root, Output::Result { in_order: false })?;
        read_in_order(&mut cutter.stages);
        Ok(cutter.finish())
    }
}

/// A piece of a plan that may still grow upwards.
struct Fragment {
    plan: Arc<dyn ExecutionPlan>,
    home: Home,
}

impl Fragment {
    fn partition_count(&self) -> usize {
        self.plan.output_partitioning().partition_count()
    }

    fn is_at_home_on_coordinator(&self) -> bool {
        matches!(self.home, Home::Coordinator(_))
    }
}

struct Cutter<'a> {
    options: &'a StageOptions,
    stages: Vec<Stage>,
    scopes: Vec<Scope>,
    tables: Vec<TableUse>,
}

impl<'a> Cutter<'a> {
    fn new(options: &'a StageOptions) -> Self {
        Self { options, stages: Vec::new(), scopes: Vec::new(), tables: Vec::new() }
    }

    fn finish(self) -> StagePlan {
        StagePlan { stages: self.stages, tables: self.tables }
    }

    /// Puts the stages that make a cached table before those that read it, once.
    fn table_of(&mut self, scan: &CacheScanExec) -> Result<Option<CacheScanExec>> {
        let Some(table) = cluster_table(scan) else { return Ok(None) };
        let known = self.tables.iter().find(|known| Arc::ptr_eq(&known.table, &table));
        let offset = match known {
            Some(known) => known.offset,
            None => {
                let offset = self.stages.len();
                for stage in &table.stages().stages {
                    self.stages.push(shifted(stage, offset)?);
                }
                self.tables.push(TableUse { offset, table: Arc::clone(&table) });
                offset
            }
        };
        let last = offset + table.stages().stages.len() - 1;
        let producer = u32::try_from(last);
        let producer = producer.map_err(|_error| internal_datafusion_err!("too many stages"))?;
        Ok(Some(scan.of_producer(producer)))
    }

    /// Has each task read as much of a cached table as is good for one.
    fn grouped(&self, scan: CacheScanExec) -> Result<CacheScanExec> {
        let (Some(slots), Some(table)) = (&self.options.slots, cluster_table(&scan)) else {
            return Ok(scan);
        };
        match table.groups_of(&scan, slots) {
            Some(groups) => scan.in_groups(groups),
            None => Ok(scan),
        }
    }

    fn cut(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<Fragment> {
        if let Some(scan) = plan.downcast_ref::<CacheScanExec>()
            && let Some(scan) = self.table_of(scan)?
        {
            // Whatever stands above is put together anew, over as many partitions as there are then.
            let plan = Arc::new(self.grouped(scan)?);
            return Ok(Fragment { plan, home: Home::Workers });
        }
        if plan.children().is_empty() {
            return Ok(Fragment { home: home_of_leaf(plan.as_ref()), plan: pinned(plan) });
        }
        if let Some(why) = runs_whole(plan.as_ref()) {
            return self.whole(plan, why);
        }
        if let Some(repartition) = plan.downcast_ref::<RepartitionExec>() {
            return self.repartition(repartition);
        }
        if let Some(coalesce) = plan.downcast_ref::<CoalescePartitionsExec>() {
            return self.coalesce(coalesce);
        }
        if let Some(merge) = plan.downcast_ref::<SortPreservingMergeExec>() {
            return self.merge(plan, merge);
        }
        if let Some(subqueries) = plan.downcast_ref::<ScalarSubqueryExec>() {
            return self.subqueries(subqueries);
        }
        if let Some(join) = plan.downcast_ref::<HashJoinExec>()
            && *join.partition_mode() == PartitionMode::CollectLeft
        {
            return self.collect_left(plan, join);
        }
        if plan.is::<NestedLoopJoinExec>() || plan.is::<CrossJoinExec>() {
            return self.loop_join(plan);
        }
        let children = plan.children().into_iter().map(|child| self.cut(child));
        let children = children.collect::<Result<Vec<_>>>()?;
        self.assemble(plan, children)
    }

    /// Keeps a subtree together, in one task on the coordinator.
    fn whole(&mut self, plan: &Arc<dyn ExecutionPlan>, why: String) -> Result<Fragment> {
        let home = Home::Coordinator(why);
        let plan = Arc::clone(plan).transform_up(|node| {
            let bound = match node.downcast_ref::<CacheScanExec>() {
                Some(scan) => self.table_of(scan)?,
                None => None,
            };
            let bound = bound.map(|scan| Arc::new(scan) as Arc<dyn ExecutionPlan>);
            Ok(bound.map_or_else(|| Transformed::no(node), Transformed::yes))
        });
        let plan = &plan.data()?;
        let partitioning = plan.output_partitioning().clone();
        if partitioning.partition_count() <= 1 {
            return Ok(Fragment { plan: Arc::clone(plan), home });
        }
        let single: Arc<dyn ExecutionPlan> = match plan.output_ordering() {
            Some(order) => Arc::new(SortPreservingMergeExec::new(order.clone(), Arc::clone(plan))),
            None => Arc::new(CoalescePartitionsExec::new(Arc::clone(plan))),
        };
        let single = Fragment { plan: single, home };
        // Whoever stands above may count on the keys.
        match partitioning {
            Partitioning::Hash(exprs, partitions) => {
                self.exchange(single, Output::Hash { exprs, partitions }, Exchange::Shuffle)
            }
            Partitioning::Range(range) => {
                self.exchange(single, Output::Range(range), Exchange::Shuffle)
            }
            _ => Ok(single),
        }
    }

    fn repartition(&mut self, repartition: &RepartitionExec) -> Result<Fragment> {
        let output = match repartition.partitioning() {
            Partitioning::Hash(exprs, partitions) => {
                Output::Hash { exprs: exprs.clone(), partitions: *partitions }
            }
            Partitioning::Range(range) => Output::Range(range.clone()),
            Partitioning::RoundRobinBatch(partitions) => {
                // To one partition it would be a gather, which somebody above may count on.
                if *partitions > 1
                    && let Some(wide) = widened(repartition.input(), self.options)?
                {
                    return self.cut(&wide);
                }
                Output::RoundRobin { partitions: *partitions }
            }
            other => return internal_err!("a repartitioning by {other}"),
        };
        let input = self.cut(repartition.input())?;
        let order = input.plan.output_ordering().cloned();
        let exchange = match order {
            Some(order) if repartition.preserve_order() && input.partition_count() > 1 => {
                Exchange::ShuffleMerge(order)
            }
            _ => Exchange::Shuffle,
        };
        self.exchange(input, output, exchange)
    }

    fn coalesce(&mut self, coalesce: &CoalescePartitionsExec) -> Result<Fragment> {
        let input = self.cut(coalesce.input())?;
        let fetch = coalesce.fetch();
        let mut gathered = self.gather(input, fetch)?;
        if let Some(fetch) = fetch {
            gathered.plan = Arc::new(GlobalLimitExec::new(gathered.plan, 0, Some(fetch)));
        }
        Ok(gathered)
    }

    fn merge(
        &mut self,
        plan: &Arc<dyn ExecutionPlan>,
        merge: &SortPreservingMergeExec,
    ) -> Result<Fragment> {
        let input = self.cut(merge.input())?;
        if input.partition_count() <= 1 {
            return self.assemble(plan, vec![input]);
        }
        let input = limited(input, merge.fetch());
        let input = self.exchange(input, Output::Merge, Exchange::Merge)?;
        self.assemble(plan, vec![input])
    }

    fn subqueries(&mut self, subqueries: &ScalarSubqueryExec) -> Result<Fragment> {
        let links = subqueries.subqueries().iter().map(|link| {
            let value = self.cut(&link.plan)?;
            let read = self.exchange(value, Output::Broadcast, Exchange::Broadcast)?;
            Ok(ScalarSubqueryLink { plan: read.plan, index: link.index })
        });
        let links = links.collect::<Result<Vec<_>>>()?;
        self.scopes.push(Scope { links, results: subqueries.results().clone() });
        let input = self.cut(subqueries.input());
        let scope = self.scopes.pop();
        let (Fragment { plan, home }, Some(scope)) = (input?, scope) else {
            return internal_err!("the scopes of scalar subqueries are nested");
        };
        Ok(Fragment { plan: scope.wrap(plan, &Output::Result { in_order: false })?, home })
    }

    fn collect_left(
        &mut self,
        plan: &Arc<dyn ExecutionPlan>,
        join: &HashJoinExec,
    ) -> Result<Fragment> {
        let right = self.cut(join.right())?;
        if right.partition_count() <= 1 {
            let left = self.cut(join.left())?;
            return self.assemble(plan, vec![left, right]);
        }
        if !emits_build_rows(*join.join_type()) {
            let left = self.broadcast(join.left())?;
            return self.assemble(plan, vec![left, right]);
        }
        if join.null_aware {
            let left = self.cut(join.left())?;
            let right = self.gather(right, None)?;
            return self.assemble(plan, vec![left, right]);
        }
        let (left_keys, right_keys) = join.on().iter().cloned().unzip();
        let left = self.cut(uncollected(join.left()))?;
        let left = self.by_keys(left, left_keys)?;
        let right = self.by_keys(right, right_keys)?;
        let home = Home::Anywhere;
        Ok(Fragment { plan: partitioned(join, left.plan, right.plan)?, home })
    }

    fn loop_join(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<Fragment> {
        let [left, right] = plan.children()[..] else {
            return internal_err!("{} has two children", plan.name());
        };
        let right = self.cut(right)?;
        let emits_build_rows = plan
            .downcast_ref::<NestedLoopJoinExec>()
            .is_some_and(|join| emits_build_rows(*join.join_type()));
        if right.partition_count() > 1 && !emits_build_rows {
            let left = self.broadcast(left)?;
            return self.assemble(plan, vec![left, right]);
        }
        let left = self.cut(left)?;
        let right = self.gather(right, None)?;
        self.assemble(plan, vec![left, right])
    }

    /// Ends a stage below a build side that every task above reads.
    fn broadcast(&mut self, build: &Arc<dyn ExecutionPlan>) -> Result<Fragment> {
        let input = self.cut(uncollected(build))?;
        self.exchange(input, Output::Broadcast, Exchange::Broadcast)
    }

    fn gather(&mut self, input: Fragment, fetch: Option<usize>) -> Result<Fragment> {
        if input.partition_count() <= 1 {
            return Ok(input);
        }
        self.exchange(limited(input, fetch), Output::Gather, Exchange::Gather)
    }

    /// Brings rows with equal keys into one of the target partitions, unless they are.
    fn by_keys(&mut self, input: Fragment, exprs: Vec<Arc<dyn PhysicalExpr>>) -> Result<Fragment> {
        let partitions = self.options.target_partitions.max(1);
        // What a scan declares about its files need not be our hash.
        if input.home == Home::Anywhere
            && let Partitioning::Hash(known, count) = input.plan.output_partitioning()
            && *count == partitions
            && *known == exprs
        {
            return Ok(input);
        }
        self.exchange(input, Output::Hash { exprs, partitions }, Exchange::Shuffle)
    }

    /// Puts a node over its children, and cuts where they cannot run in one place.
    fn assemble(
        &mut self,
        node: &Arc<dyn ExecutionPlan>,
        children: Vec<Fragment>,
    ) -> Result<Fragment> {
        let stays = stays(node.as_ref());
        let has_workers = children.iter().any(|child| child.home == Home::Workers);
        let is_spread = children.iter().enumerate().any(|(idx, child)| {
            !child.is_at_home_on_coordinator()
                && child.partition_count() > 1
                && !is_read_whole(node.as_ref(), idx)
        });
        let is_for_workers = stays.is_none() && (has_workers || is_spread);
        let mut home = match stays {
            Some(why) => Home::Coordinator(why),
            None if has_workers => Home::Workers,
            None => Home::Anywhere,
        };
        let mut plans = Vec::with_capacity(children.len());
        for child in children {
            let must_move = match (&home, &child.home) {
                (Home::Coordinator(_), child_home) => *child_home == Home::Workers,
                (_, Home::Coordinator(why)) if !is_for_workers => {
                    home = Home::Coordinator(why.clone());
                    false
                }
                (_, Home::Coordinator(_)) => true,
                _ => false,
            };
            let child = match must_move {
                true => self.exchange(child, Output::Forward, Exchange::Forward)?,
                false => child,
            };
            plans.push(child.plan);
        }
        Ok(Fragment { plan: without_shared_filter(over(node, plans)?)?, home })
    }

    /// Ends a stage and begins the next with its reader.
    fn exchange(
        &mut self,
        input: Fragment,
        output: Output,
        exchange: Exchange,
    ) -> Result<Fragment> {
        let id = self.end_stage(input, output)?;
        let Some(Stage { plan, output, .. }) = self.stages.last() else {
            return internal_err!("stage {id} is the last");
        };
        let read = ExchangeReadExec::over(id, plan, output, exchange)?;
        Ok(Fragment { plan: Arc::new(read), home: Home::Anywhere })
    }

    fn end_stage(&mut self, fragment: Fragment, output: Output) -> Result<StageId> {
        let id = u32::try_from(self.stages.len()).map(StageId);
        let id = id.map_err(|_error| internal_datafusion_err!("too many stages"))?;
        let mut plan = fragment.plan;
        for scope in &self.scopes {
            plan = scope.wrap(plan, &output)?;
        }
        let place = match fragment.home {
            Home::Anywhere => Place::Anywhere,
            Home::Workers => Place::Workers,
            Home::Coordinator(why) => Place::Coordinator { why },
        };
        let plan = SanityCheckPlan::new().optimize(plan, &ConfigOptions::new())?;
        self.stages.push(Stage::new(id, plan, output, place));
        Ok(id)
    }
}

/// Returns the table of a scan, if the workers keep it.
fn cluster_table(scan: &CacheScanExec) -> Option<Arc<ClusterTable>> {
    let table: Arc<dyn Any + Send + Sync> = Arc::<dyn HostedTable>::clone(scan.hosted_table()?);
    table.downcast().ok()
}

/// Returns a stage as it is in a query in which `offset` others come before all that it knows.
///
/// # Errors
/// If DataFusion cannot put its plan together again.
pub fn shifted(stage: &Stage, offset: usize) -> Result<Stage> {
    if offset == 0 {
        return Ok(stage.clone());
    }
    let offset = u32::try_from(offset);
    let offset = offset.map_err(|_error| internal_datafusion_err!("too many stages"))?;
    let plan = Arc::clone(&stage.plan).transform_up(|node| {
        if let Some(read) = node.downcast_ref::<ExchangeReadExec>() {
            let (id, tasks) = (StageId(read.producer().0 + offset), read.producer_tasks());
            let (exchange, properties) = (read.exchange().clone(), Arc::clone(read.properties()));
            let moved = ExchangeReadExec::new(id, tasks, exchange, properties);
            return Ok(Transformed::yes(Arc::new(moved) as Arc<dyn ExecutionPlan>));
        }
        if let Some(scan) = node.downcast_ref::<CacheScanExec>()
            && let Some(producer) = scan.producer()
        {
            let moved = scan.of_producer(producer + offset);
            return Ok(Transformed::yes(Arc::new(moved) as Arc<dyn ExecutionPlan>));
        }
        Ok(Transformed::no(node))
    });
    let mut stage = stage.clone();
    stage.plan = plan.data()?;
    stage.id = StageId(stage.id.0 + offset);
    for input in &mut stage.inputs {
        input.producer = StageId(input.producer.0 + offset);
    }
    Ok(stage)
}

/// Stops each partition at the rows that a reader of all wants at most.
///
/// In one process the reader stops pulling; a task would run to its end.
fn limited(input: Fragment, fetch: Option<usize>) -> Fragment {
    match fetch {
        Some(fetch) if input.plan.fetch().is_none_or(|known| known > fetch) => {
            let plan = Arc::new(LocalLimitExec::new(input.plan, fetch));
            Fragment { plan, home: input.home }
        }
        _ => input,
    }
}

/// Returns what stands below a gather without a limit: whoever reads it reads all partitions.
fn uncollected(build: &Arc<dyn ExecutionPlan>) -> &Arc<dyn ExecutionPlan> {
    match build.downcast_ref::<CoalescePartitionsExec>() {
        Some(coalesce) if coalesce.fetch().is_none() => coalesce.input(),
        _ => build,
    }
}

fn over(
    node: &Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let old = node.children();
    if old.iter().zip(&children).all(|(old, new)| Arc::ptr_eq(old, new)) {
        return Ok(Arc::clone(node));
    }
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    Arc::clone(node).replace_children(children, options)
}
