//! Random numbers, random graphs, and what their tasks make.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::{QueryId, StageId};
use crate::scheduler::{
    OutputKind, QueryGraph, ReadPattern, Replay, StageInput, StageNode, StagePlace,
};

/// Of which attempt of each task that picks by chance something was made.
pub(super) type Versions = BTreeMap<(usize, usize), u32>;

/// An output, and what it was made of.
#[derive(Debug, Clone, Default)]
pub(super) struct Made {
    pub(super) rows: Vec<u64>,
    pub(super) versions: Versions,
}

/// Adds versions to others. Returns the task of which there are two.
pub(super) fn combine(versions: &mut Versions, others: &Versions) -> Option<(usize, usize)> {
    let clash = others.iter().find(|(task, version)| {
        let known = *versions.entry(**task).or_insert(**version);
        known != **version
    });
    clash.map(|(task, _)| *task)
}

pub(super) fn hash(values: &[u64]) -> u64 {
    values.iter().fold(0x9E37_79B9_7F4A_7C15, |state: u64, value| {
        let mut z = (state ^ value).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

#[derive(Debug)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = hash(&[self.0]);
        self.0 % bound.max(1)
    }

    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.between(low * 1000, high * 1000))
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        let index = self.below(from.len() as u64) as usize;
        from.get(index).cloned()
    }
}

pub(super) fn random_graph(rng: &mut Rng) -> QueryGraph {
    let count = rng.between(1, 5) as usize;
    let widths: Vec<_> = (0..count).map(|_| rng.between(1, 6) as usize).collect();
    let mut inputs: Vec<Vec<StageInput>> = vec![Vec::new(); count];
    for stage in 1..count {
        for _ in 0..rng.between(0, 2) {
            let producer = rng.below(stage as u64) as usize;
            add_input(rng, &widths, &mut inputs, producer, stage);
        }
    }
    for producer in 0..count - 1 {
        let id = StageId(producer as u32);
        if !inputs.iter().flatten().any(|input| input.producer == id) {
            let reader = rng.between(producer as u64 + 1, count as u64 - 1) as usize;
            add_input(rng, &widths, &mut inputs, producer, reader);
        }
    }
    let stages = (0..count).map(|stage| random_node(rng, stage, &widths, &inputs)).collect();
    let replay = if rng.chance(80) { Replay::Exact } else { Replay::Never };
    QueryGraph::new(stages, replay).unwrap()
}

fn add_input(
    rng: &mut Rng,
    widths: &[usize],
    inputs: &mut [Vec<StageInput>],
    producer: usize,
    reader: usize,
) {
    let id = StageId(producer as u32);
    if inputs[reader].iter().any(|input| input.producer == id) {
        return;
    }
    let is_even = widths[producer] == widths[reader] && rng.chance(50);
    let pattern = match is_even {
        true => ReadPattern::OneToOne,
        false if rng.chance(35) => random_groups(rng, widths[producer], widths[reader]),
        false => ReadPattern::All,
    };
    inputs[reader].push(StageInput { producer: id, pattern });
}

/// Most tasks have one reader, some two, or none.
fn random_groups(rng: &mut Rng, producers: usize, readers: usize) -> ReadPattern {
    let mut reads = vec![Vec::new(); readers];
    for producer in 0..producers {
        let times = [1, 1, 1, 1, 0, 2][rng.below(6) as usize];
        for _ in 0..times {
            reads[rng.below(readers as u64) as usize].push(producer);
        }
    }
    ReadPattern::groups(reads)
}

fn random_node(
    rng: &mut Rng,
    stage: usize,
    widths: &[usize],
    inputs: &[Vec<StageInput>],
) -> StageNode {
    let id = StageId(stage as u32);
    let mut readers = Vec::new();
    for (reader, inputs) in inputs.iter().enumerate() {
        let mine = inputs.iter().filter(|input| input.producer == id);
        readers.extend(mine.map(|input| (widths[reader], input.pattern.clone())));
    }
    let all = readers.iter().all(|(_, pattern)| *pattern == ReadPattern::All);
    let even = readers.windows(2).all(|pair| pair[0].0 == pair[1].0);
    let output = match readers.first() {
        Some((width, _)) if all && even && rng.chance(60) => {
            OutputKind::Hashed { partition_count: *width }
        }
        Some(_) if rng.chance(50) => OutputKind::Broadcast,
        _ => OutputKind::Whole,
    };
    let place = if rng.chance(10) { StagePlace::Coordinator } else { StagePlace::Workers };
    StageNode {
        id,
        task_count: widths[stage],
        inputs: inputs[stage].clone(),
        output,
        place,
        row_limit: (all && rng.chance(15)).then(|| rng.between(1, 8)),
        is_by_chance: rng.chance(20),
        cached: None,
    }
}

/// What a task makes of what it reads: of another partition, or of one row more or less, or another
/// time if it picks by chance, something else. Bounded, so that broadcasts do not grow without end.
pub(super) fn derive(
    query: QueryId,
    node: &StageNode,
    partition: usize,
    version: u32,
    input: &[u64],
) -> Vec<u64> {
    let version = if node.is_by_chance { u64::from(version) } else { 0 };
    let place = [query.0, u64::from(node.id.0), partition as u64, version];
    let mut rows: Vec<u64> = if node.inputs.is_empty() {
        let count = 1 + hash(&place) % 4;
        (0..count).map(|row| hash(&[hash(&place), row])).collect()
    } else {
        input.iter().map(|row| hash(&[*row, hash(&place)])).collect()
    };
    if rows.len() > 12 {
        let mut folded = vec![0u64; 12];
        for row in rows {
            let slot = &mut folded[(row % 12) as usize];
            *slot = slot.wrapping_add(hash(&[row]));
        }
        rows = folded;
    }
    rows.sort_unstable();
    rows
}

/// The rows of a producer's output that one reader task wants.
pub(super) fn wanted(producer: &StageNode, rows: &[u64], partition: usize) -> Vec<u64> {
    match producer.output {
        OutputKind::Hashed { partition_count: n } => {
            rows.iter().copied().filter(|row| row % n as u64 == partition as u64).collect()
        }
        OutputKind::Whole | OutputKind::Broadcast => rows.to_vec(),
    }
}

pub(super) fn byte_counts(node: &StageNode, rows: &[u64]) -> Vec<u64> {
    match node.output {
        OutputKind::Hashed { partition_count: n } => {
            (0..n).map(|p| wanted(node, rows, p).len() as u64 * 10).collect()
        }
        OutputKind::Whole | OutputKind::Broadcast => vec![rows.len() as u64 * 10],
    }
}

/// The result of a query that nothing happens to, for a given choice of tasks in limited stages, and
/// given dice.
pub(super) fn expected(
    query: QueryId,
    graph: &QueryGraph,
    chosen: &BTreeMap<usize, BTreeSet<usize>>,
    versions: &Versions,
) -> Vec<Vec<u64>> {
    made(query, graph, chosen, versions).pop().unwrap()
}

/// What all tasks make, by stage and partition.
pub(super) fn made(
    query: QueryId,
    graph: &QueryGraph,
    chosen: &BTreeMap<usize, BTreeSet<usize>>,
    versions: &Versions,
) -> Vec<Vec<Vec<u64>>> {
    let mut made: Vec<Vec<Vec<u64>>> = Vec::new();
    for (index, node) in graph.stages().iter().enumerate() {
        let mut stage = Vec::new();
        for partition in 0..node.task_count {
            let mut input = Vec::new();
            for StageInput { producer, pattern } in &node.inputs {
                let from = producer.0 as usize;
                for (p, rows) in made[from].iter().enumerate() {
                    if pattern.reads(partition).contains(p) {
                        input.extend(wanted(&graph.stages()[from], rows, partition));
                    }
                }
            }
            let is_skipped = chosen.get(&index).is_some_and(|set| !set.contains(&partition));
            let version = versions.get(&(index, partition)).copied().unwrap_or(0);
            let rows = || derive(query, node, partition, version, &input);
            stage.push(if is_skipped { vec![] } else { rows() });
        }
        made.push(stage);
    }
    made
}
