//! Which worker keeps which partition of which cached table, as the coordinator knows it.
//!
//! What is said here may be old by a moment: a worker that has dropped a partition says so when it is
//! asked for it, and the query that asked makes it again.
//!
//! **Invariant:** a copy is in the directory only on a life that has not been lost.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::execution::memory_pool::MemoryPool;
use parking_lot::Mutex;
use skep_engine::{CachedShape, HostedFigures, PartitionSummary};
use tokio::sync::watch;
use tracing::warn;

use super::placement::place;
use crate::ids::{Epoch, WorkerId};
use crate::membership::{ClusterSnapshot, WorkerLife};
use crate::scheduler::{
    CachedCopy, CachedKey, CachedPart, CachedReport, CachedStage, CachedUsage, QueryGraph, Site,
};

/// The directory, shared by those who read and those who write it.
#[derive(Debug)]
pub struct CacheDirectory {
    pool: Arc<dyn MemoryPool>,
    state: Mutex<State>,
    /// How many lost partitions were made again.
    remade: watch::Sender<u64>,
}

type ContentKey = (Arc<str>, Epoch);

#[derive(Debug, Default)]
struct State {
    contents: HashMap<ContentKey, Entry>,
    /// Where the partitions of clustered tables belong, by how many there are.
    clustered: BTreeMap<usize, Vec<Option<WorkerId>>>,
    /// Contents of the coordinator before this one, and what was said of them.
    expected: HashMap<ContentKey, Expected>,
}

#[derive(Debug)]
struct Expected {
    reports: Vec<(WorkerLife, CachedReport)>,
    /// Told once somebody keeps a partition.
    found: watch::Sender<bool>,
}

#[derive(Debug)]
struct Entry {
    shape: Arc<CachedShape>,
    parts: Vec<Part>,
    /// What the copies of a life take, as it last said of all of them.
    measured: BTreeMap<WorkerLife, (u64, u64)>,
    hits: u64,
    passed: u64,
    rebuilt: u64,
}

/// After a partition was refused for want of room, so many queries read it from its files before it
/// is offered again; twice as many after each further time, up to the second number: to make it and
/// not keep it costs several times what reading its files does.
const USES_UNTIL_RETRY: u32 = 8;
const MOST_USES_UNTIL_RETRY: u32 = 64;

#[derive(Debug, Default)]
struct Part {
    /// Known once it was made, whether or not anybody keeps it now.
    summary: Option<Arc<PartitionSummary>>,
    copies: BTreeMap<WorkerLife, Size>,
    /// Uses until it is offered again, now and the last time that there was no room for it.
    waits: u32,
    waited: u32,
}

impl Part {
    /// Notes that there was no room for it.
    fn refuse(&mut self) {
        let twice = self.waited.saturating_mul(2);
        self.waited = twice.clamp(USES_UNTIL_RETRY, MOST_USES_UNTIL_RETRY);
        self.waits = self.waited;
    }

    fn is_refused(&self) -> bool {
        self.copies.is_empty() && self.waits > 0
    }
}

#[derive(Debug, Clone, Copy)]
struct Size {
    rows: u64,
    memory_bytes: u64,
    disk_bytes: u64,
}

/// Where a query finds a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Who keeps the copy that is read.
    pub life: WorkerLife,
    /// What it takes. Units: bytes as kept.
    pub bytes: u64,
}

/// What a query wants of the tables that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Their rows.
    Read,
    /// That of the table in its last stage, so many copies are kept.
    Keep(usize),
}

impl CacheDirectory {
    /// Makes an empty directory; what is known of partitions is accounted in `pool`.
    pub fn new(pool: Arc<dyn MemoryPool>) -> Self {
        Self { pool, state: Mutex::default(), remade: watch::Sender::new(0) }
    }

    /// Lets wait for lost partitions that are made again.
    pub fn remade(&self) -> watch::Receiver<u64> {
        self.remade.subscribe()
    }

    /// Takes note of a content.
    pub fn add(&self, shape: &Arc<CachedShape>) {
        let parts = std::iter::repeat_with(Part::default).take(shape.partition_count).collect();
        let (shape_here, measured) = (Arc::clone(shape), BTreeMap::new());
        let entry = Entry { shape: shape_here, parts, measured, hits: 0, passed: 0, rebuilt: 0 };
        let expected = {
            let mut state = self.state.lock();
            state.contents.insert(content_of(shape), entry);
            state.expected.remove(&content_of(shape))
        };
        for (life, report) in expected.into_iter().flat_map(|expected| expected.reports) {
            self.record(life, &report);
        }
    }

    /// Waits for somebody who keeps a partition of a content that is not known yet.
    pub fn expect(&self, table: &Arc<str>, epoch: Epoch) -> watch::Receiver<bool> {
        let (found, finding) = watch::channel(false);
        let expected = Expected { reports: Vec::new(), found };
        self.state.lock().expected.insert((Arc::clone(table), epoch), expected);
        finding
    }

    /// Gives up on a content that was expected; returns whether it was still.
    pub fn give_up(&self, table: &Arc<str>, epoch: Epoch) -> bool {
        self.state.lock().expected.remove(&(Arc::clone(table), epoch)).is_some()
    }

    /// Forgets a content, and what is kept of it.
    pub fn remove(&self, table: &Arc<str>, epoch: Epoch) {
        let mut state = self.state.lock();
        state.contents.remove(&(Arc::clone(table), epoch));
        let State { contents, clustered, .. } = &mut *state;
        // Once nobody is clustered like this any more, the next may be spread over newcomers.
        clustered.retain(|count, _| {
            contents.values().any(|entry| {
                entry.shape.clustered.is_some() && entry.shape.partition_count == *count
            })
        });
    }

    /// Takes note of a partition that a task made or found; returns whether anybody wants it.
    pub fn record(&self, life: WorkerLife, report: &CachedReport) -> bool {
        let key = (Arc::clone(&report.table), report.epoch);
        let Some((schema, is_known)) = self.schema_of(&key, report.partition) else {
            return self.note_expected(&key, life, report);
        };
        let summary = match report.is_kept && !is_known && !report.summary.is_empty() {
            true => match PartitionSummary::from_bytes(&report.summary, &schema, &self.pool) {
                Ok(summary) => Some(Arc::new(summary)),
                Err(error) => {
                    // Plans are made without it.
                    warn!(%error, table = %report.table, "statistics of a cached partition");
                    None
                }
            },
            false => None,
        };
        let mut state = self.state.lock();
        let Some(entry) = state.contents.get_mut(&key) else { return false };
        let Some(part) = entry.parts.get_mut(report.partition) else { return false };
        if !report.is_kept {
            entry.passed += 1;
            part.refuse();
            return true;
        }
        // Until it says so again.
        entry.measured.remove(&life);
        let was_made = part.summary.is_some();
        part.summary = summary.or(part.summary.take());
        (part.waits, part.waited) = (0, 0);
        let CachedReport { memory_bytes, disk_bytes, rows, .. } = *report;
        let size = Size { rows, memory_bytes, disk_bytes };
        let is_again = was_made && part.copies.is_empty();
        if part.copies.insert(life, size).is_none() && is_again {
            entry.rebuilt += 1;
            self.remade.send_modify(|count| *count += 1);
        }
        true
    }

    /// Keeps what is said of a content that is expected; returns whether it is.
    fn note_expected(&self, key: &ContentKey, life: WorkerLife, report: &CachedReport) -> bool {
        let mut state = self.state.lock();
        let Some(expected) = state.expected.get_mut(key) else { return false };
        if report.is_kept {
            expected.reports.push((life, report.clone()));
            expected.found.send_replace(true);
        }
        true
    }

    fn schema_of(
        &self,
        key: &ContentKey,
        partition: usize,
    ) -> Option<(datafusion::arrow::datatypes::SchemaRef, bool)> {
        let state = self.state.lock();
        let entry = state.contents.get(key)?;
        let part = entry.parts.get(partition)?;
        Some((Arc::clone(&entry.shape.schema), part.summary.is_some()))
    }

    /// Takes note of what the partitions of a life take now.
    pub fn measure(&self, life: WorkerLife, usages: &[CachedUsage]) {
        let mut state = self.state.lock();
        for CachedUsage { table, epoch, memory_bytes, disk_bytes } in usages {
            if let Some(entry) = state.contents.get_mut(&(Arc::clone(table), *epoch))
                && entry.parts.iter().any(|part| part.copies.contains_key(&life))
            {
                entry.measured.insert(life, (*memory_bytes, *disk_bytes));
            }
        }
    }

    /// Takes note that a life is over.
    pub fn lose_life(&self, life: WorkerLife) {
        let mut state = self.state.lock();
        for entry in state.contents.values_mut() {
            entry.measured.remove(&life);
            for part in &mut entry.parts {
                part.copies.remove(&life);
            }
        }
        for expected in state.expected.values_mut() {
            expected.reports.retain(|(of, _)| *of != life);
        }
    }

    /// Takes note that a worker has not got a partition.
    pub fn lose_copy(&self, life: WorkerLife, key: &CachedKey) {
        let mut state = self.state.lock();
        let content = (Arc::clone(&key.table), key.epoch);
        let entry = state.contents.get_mut(&content);
        if let Some(part) = entry.and_then(|entry| entry.parts.get_mut(key.partition)) {
            part.copies.remove(&life);
        }
    }

    /// Takes note of all that a life keeps; returns the contents that nobody wants.
    pub fn compare(&self, life: WorkerLife, kept: &[CachedReport]) -> BTreeSet<(Arc<str>, Epoch)> {
        let mut unwanted = BTreeSet::new();
        for report in kept {
            if !self.record(life, report) {
                unwanted.insert((Arc::clone(&report.table), report.epoch));
            }
        }
        let kept: BTreeSet<CachedKey> = kept.iter().map(CachedReport::key).collect();
        let mut state = self.state.lock();
        for ((table, epoch), entry) in &mut state.contents {
            for (partition, part) in entry.parts.iter_mut().enumerate() {
                let key = CachedKey { table: Arc::clone(table), epoch: *epoch, partition };
                if !kept.contains(&key) {
                    part.copies.remove(&life);
                }
            }
        }
        unwanted
    }

    /// Tells a query what is kept of the tables that it names, and where the rest is to be made.
    pub fn tell(&self, graph: &mut QueryGraph, snapshot: &ClusterSnapshot, purpose: Purpose) {
        let live: BTreeMap<WorkerId, WorkerLife> = snapshot
            .live()
            .map(|worker| (worker.registration.life.worker, worker.registration.life))
            .collect();
        let mut state = self.state.lock();
        let last = graph.cached_stages().count().saturating_sub(1);
        for (idx, stage) in graph.cached_stages().enumerate() {
            let copies = match purpose {
                Purpose::Keep(copies) if idx == last => copies,
                _ => 1,
            };
            state.tell_stage(stage, &live, copies);
            if purpose == Purpose::Read
                && let Some(entry) =
                    state.contents.get_mut(&(Arc::clone(&stage.table), stage.epoch))
            {
                let kept = stage.parts.iter().filter(|part| !part.copies.is_empty());
                entry.hits += kept.count() as u64;
            }
        }
    }

    /// Returns how many copies of all partitions there are, of each partition no more than wanted.
    pub fn copy_count(&self, shape: &CachedShape, wanted: usize) -> usize {
        let state = self.state.lock();
        let entry = state.contents.get(&content_of(shape));
        entry.map_or(0, |entry| entry.parts.iter().map(|it| it.copies.len().min(wanted)).sum())
    }

    /// Tells whether somebody keeps each partition, and some of them fewer than are wanted.
    pub fn lacks_copies(&self, shape: &CachedShape, wanted: usize) -> bool {
        let state = self.state.lock();
        let Some(entry) = state.contents.get(&content_of(shape)) else { return false };
        let counts = || entry.parts.iter().map(|part| part.copies.len());
        counts().all(|count| count > 0) && counts().any(|count| count < wanted)
    }

    /// Returns where a query would find the partitions of a content, among these lives.
    ///
    /// Shape: an entry for each partition; `None` for one that must be made.
    pub fn kept(
        &self,
        shape: &CachedShape,
        is_live: impl Fn(&WorkerLife) -> bool,
    ) -> Vec<Option<Kept>> {
        let state = self.state.lock();
        let Some(entry) = state.contents.get(&content_of(shape)) else {
            return vec![None; shape.partition_count];
        };
        let first = |part: &Part| {
            // As a query is told: the first copy is the last of the list, which is taken first.
            let (life, size) = part.copies.iter().find(|(life, _)| is_live(life))?;
            Some(Kept { life: *life, bytes: size.memory_bytes + size.disk_bytes })
        };
        entry.parts.iter().map(first).collect()
    }

    /// Returns the partitions of a content for which there was no room and that are not to be offered
    /// yet. Shape: ascending.
    pub fn refused(&self, shape: &CachedShape) -> Vec<usize> {
        let state = self.state.lock();
        let Some(entry) = state.contents.get(&content_of(shape)) else { return Vec::new() };
        let refused = entry.parts.iter().enumerate().filter(|(_, part)| part.is_refused());
        refused.map(|(partition, _)| partition).collect()
    }

    /// Takes note that a query reads these partitions from their files.
    pub fn pass(&self, shape: &CachedShape, partitions: &[usize]) {
        let mut state = self.state.lock();
        let Some(entry) = state.contents.get_mut(&content_of(shape)) else { return };
        entry.passed += partitions.len() as u64;
        for partition in partitions {
            if let Some(part) = entry.parts.get_mut(*partition) {
                part.waits = part.waits.saturating_sub(1);
            }
        }
    }

    /// Returns what is known of all partitions, once all were made.
    pub fn summaries(&self, shape: &CachedShape) -> Option<Vec<Arc<PartitionSummary>>> {
        let state = self.state.lock();
        let entry = state.contents.get(&content_of(shape))?;
        entry.parts.iter().map(|part| part.summary.clone()).collect()
    }

    /// Returns what people see of a content.
    pub fn figures(&self, shape: &CachedShape) -> HostedFigures {
        let state = self.state.lock();
        let Some(entry) = state.contents.get(&content_of(shape)) else {
            return HostedFigures::default();
        };
        let copies = || entry.parts.iter().flat_map(|part| &part.copies);
        let keepers: BTreeSet<String> = copies().map(|(life, _)| life.worker.to_string()).collect();
        let reported = copies().filter(|(life, _)| !entry.measured.contains_key(life));
        let reported = reported.map(|(_, size)| (size.memory_bytes, size.disk_bytes));
        let sizes: Vec<(u64, u64)> = entry.measured.values().copied().chain(reported).collect();
        HostedFigures {
            copies: entry.parts.iter().map(|part| part.copies.len()).min().unwrap_or(0) as u64,
            cached_partitions: entry.parts.iter().filter(|it| !it.copies.is_empty()).count() as u64,
            memory_bytes: sizes.iter().map(|(memory, _)| memory).sum(),
            disk_bytes: sizes.iter().map(|(_, disk)| disk).sum(),
            hits: entry.hits,
            passed: entry.passed,
            rebuilt: entry.rebuilt,
            keepers: keepers.into_iter().collect::<Vec<_>>().join(", "),
        }
    }
}

impl State {
    fn tell_stage(
        &mut self,
        stage: &mut CachedStage,
        live: &BTreeMap<WorkerId, WorkerLife>,
        copies: usize,
    ) {
        let load = self.load();
        let content = (Arc::clone(&stage.table), stage.epoch);
        let Some(entry) = self.contents.get(&content) else { return };
        let workers: BTreeSet<WorkerId> = live.keys().copied().collect();
        let is_clustered = entry.shape.clustered.is_some();
        let count = entry.parts.len();
        let holder = |part: &Part| part.copies.keys().next().map(|life| life.worker);
        let mut known: Vec<Option<WorkerId>> = entry.parts.iter().map(holder).collect();
        if let Some(shared) = self.clustered.get(&count).filter(|_| is_clustered) {
            for (known, shared) in known.iter_mut().zip(shared) {
                *known = known.or(*shared);
            }
        }
        let avoided: Vec<Vec<WorkerId>> = match copies {
            0 | 1 => vec![Vec::new(); count],
            _ => entry
                .parts
                .iter()
                .map(|part| part.copies.keys().map(|life| life.worker).collect())
                .collect(),
        };
        let wishes = place(&workers, &known, &avoided, &load);
        stage.parts = entry
            .parts
            .iter()
            .zip(wishes.iter().zip(avoided))
            .map(|(part, (wish, avoid))| CachedPart {
                // Those who want more copies than there are get none of them.
                copies: match part.copies.len() >= copies {
                    true => part.copies.iter().rev().map(cached_copy).collect(),
                    false => Vec::new(),
                },
                wish: wish.and_then(|id| live.get(&id)).map(|life| Site::Worker(*life)),
                avoid,
            })
            .collect();
        if is_clustered && copies <= 1 {
            self.clustered.insert(count, wishes);
        }
    }

    fn load(&self) -> BTreeMap<WorkerId, u64> {
        let mut load = BTreeMap::new();
        let parts = self.contents.values().flat_map(|entry| &entry.parts);
        for (life, size) in parts.flat_map(|part| &part.copies) {
            *load.entry(life.worker).or_default() += size.memory_bytes + size.disk_bytes;
        }
        load
    }
}

fn cached_copy((life, size): (&WorkerLife, &Size)) -> CachedCopy {
    let bytes = size.memory_bytes + size.disk_bytes;
    CachedCopy { site: Site::Worker(*life), rows: size.rows, bytes }
}

fn content_of(shape: &CachedShape) -> ContentKey {
    (Arc::clone(&shape.key), shape.epoch)
}

#[cfg(test)]
#[path = "directory_test.rs"]
mod tests;
