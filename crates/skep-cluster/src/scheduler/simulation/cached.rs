//! Cached tables: some outputs of a query are kept on workers before it begins.

use super::data::{Made, Versions, made};
use super::sites::SimSite;
use super::world::World;
use crate::ids::{Attempt, Epoch, QueryId, TaskId};
use crate::membership::WorkerState;
use crate::scheduler::{
    CachedCopy, CachedPart, CachedReport, CachedStage, Launch, QueryGraph, Site, Source,
    StagePlace, TaskAttempt,
};

/// The content that a query's cached stage is of.
fn content(query: QueryId) -> CachedStage {
    CachedStage { table: query.to_string().into(), epoch: Epoch(query.0), parts: Vec::new() }
}

impl World {
    /// Makes a stage of some graphs one that makes a cached table, of which something is kept
    /// already.
    pub(super) fn with_cached(&mut self, query: QueryId, graph: QueryGraph) -> QueryGraph {
        let count = graph.stages().len();
        if count < 2 || !self.rng.chance(40) {
            return graph;
        }
        let (mut stages, replay) = (graph.stages().to_vec(), graph.replay());
        for stage in &mut stages {
            // What is kept is what is made again, whatever was picked by chance.
            stage.is_by_chance = false;
            stage.row_limit = None;
        }
        let cached = self.rng.below(count as u64 - 1) as usize;
        stages[cached].place = StagePlace::Workers;
        let width = stages[cached].task_count;
        let graph = QueryGraph::new(stages, replay).unwrap();
        let rows = made(query, &graph, &Default::default(), &Versions::new()).swap_remove(cached);
        let mut stage = content(query);
        for (partition, rows) in rows.into_iter().enumerate().take(width) {
            let copies = self.copies(query, cached, partition, &rows);
            let wish = self.rng.pick(&self.live_sites());
            stage.parts.push(CachedPart { copies, wish, avoid: Vec::new() });
        }
        let mut stages = graph.stages().to_vec();
        stages[cached].cached = Some(stage);
        QueryGraph::new(stages, replay).unwrap()
    }

    /// Lets some workers keep a partition.
    fn copies(
        &mut self,
        query: QueryId,
        stage: usize,
        partition: usize,
        rows: &[u64],
    ) -> Vec<CachedCopy> {
        let mut copies: Vec<CachedCopy> = Vec::new();
        for _copy in 0..self.rng.below(2) {
            let Some(site) = self.rng.pick(&self.live_sites()) else { break };
            let made = Made { rows: rows.to_vec(), versions: Versions::new() };
            self.site_mut(site).unwrap().kept.insert((query, stage, partition), made);
            copies.push(CachedCopy { site, rows: rows.len() as u64, bytes: 10 });
        }
        copies
    }

    fn live_sites(&self) -> Vec<Site> {
        let snapshot = self.scheduler.snapshot();
        let live = snapshot.workers.iter().filter(|worker| worker.state == WorkerState::Live);
        let sites = live.map(|worker| Site::Worker(worker.registration.life));
        sites.filter(|site| self.site(*site).is_alive && self.site(*site).site() == *site).collect()
    }

    /// Returns what else of a cached table a task would miss at a site.
    pub(super) fn also_missing(&self, launch: &Launch, missing: &Source) -> Vec<TaskAttempt> {
        let Some(site) = self.site(missing.site).is_alive.then(|| self.site(missing.site)) else {
            return Vec::new();
        };
        let is_meant = |other: &&Source| {
            other.site == missing.site
                && other.producer != missing.producer
                && other.producer.task.stage == missing.producer.task.stage
                && site.output_of(&other.producer).is_none()
        };
        launch.sources.iter().filter(is_meant).map(|other| other.producer).collect()
    }

    /// Lets a worker have no more room for a partition that it keeps.
    pub(super) fn evict(&mut self, site: Site, producer: TaskAttempt) {
        if !self.profile.is_clean
            && self.rng.chance(5)
            && let Some(state) = self.site_mut(site)
            && state.kept.remove(&place(producer)).is_some()
        {
            self.fired("cached partition dropped");
        }
    }
}

fn place(id: TaskAttempt) -> (QueryId, usize, usize) {
    let TaskId { query, stage, partition } = id.task;
    (query, stage.0 as usize, partition)
}

impl SimSite {
    /// Returns the output of an attempt, or the cached partition that stands for it.
    pub(super) fn output_of(&self, id: &TaskAttempt) -> Option<&Made> {
        self.sealed.get(id).or_else(|| self.kept.get(&place(*id)))
    }

    /// Says what it keeps.
    pub(super) fn kept_reports(&self) -> Vec<CachedReport> {
        let report = |(query, _stage, partition): &(QueryId, usize, usize)| CachedReport {
            table: content(*query).table,
            epoch: content(*query).epoch,
            partition: *partition,
            is_kept: true,
            summary: Default::default(),
            memory_bytes: 10,
            disk_bytes: 0,
            rows: 0,
        };
        self.kept.keys().map(report).collect()
    }
}

/// Returns the outputs with which a query begins: where each is, and its rows.
pub(super) fn begun(graph: &QueryGraph) -> Vec<(usize, usize, Attempt, CachedCopy)> {
    let mut begun = Vec::new();
    for (stage, node) in graph.stages().iter().enumerate() {
        for (partition, part) in node.cached.iter().flat_map(|it| it.parts.iter().enumerate()) {
            if let Some(copy) = part.copies.last() {
                begun.push((stage, partition, Attempt(0), *copy));
            }
        }
    }
    begun
}
