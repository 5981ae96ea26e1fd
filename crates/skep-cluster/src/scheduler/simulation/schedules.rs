//! The schedules, and what must hold at their ends.

use std::collections::BTreeMap;
use std::time::Duration;

use super::faults::world;
use super::world::World;
use crate::scheduler::{CachedPart, Replay, StageNode};

const ORDINARY_SEEDS: u64 = 2_000;

/// No schedule takes longer than this in virtual time, 40 s without a worker included.
const LONGEST: Duration = Duration::from_secs(300);

/// Runs one schedule to its end and checks what must hold there.
fn run(seed: u64, is_traced: bool) -> World {
    let mut world = world(seed, is_traced);
    while world.now < Duration::from_secs(2) || !world.all_ended() {
        if !world.step() || world.now > LONGEST {
            world.fail("a query does not end");
        }
    }
    check_results(&world);
    // Whoever is down or asleep comes back, and everything still under way arrives.
    let end = world.now + Duration::from_secs(20);
    while world.now < end && world.step() {}
    if !world.scheduler.is_idle() {
        world.fail(&format!("not idle: {:?}", world.scheduler));
    }
    let leftovers = world.leftovers();
    if !leftovers.is_empty() {
        world.fail(&format!("left on workers: {leftovers:?}"));
    }
    check_launches(&world);
    world
}

fn check_results(world: &World) {
    for (query, account) in &world.oracle.accounts {
        if account.outcome != Some(Ok(())) {
            continue;
        }
        let expected = world.expected_rows(*query);
        let last = account.graph.stages().len() - 1;
        for (partition, expected) in expected.iter().enumerate() {
            let mut got = world.readers[&(*query, partition)].rows.clone();
            let is_whole = world.readers[&(*query, partition)].is_done;
            let is_skipped =
                account.chosen.get(&last).is_some_and(|chosen| !chosen.contains(&partition));
            if !is_whole && !account.is_enough && !is_skipped {
                world.fail(&format!("{query}: partition {partition} is not read"));
            }
            let mut expected = expected.clone();
            if account.graph.replay() == Replay::Never {
                got.sort_unstable();
                expected.sort_unstable();
            }
            let is_right = if is_whole { got == expected } else { is_part(&got, &expected) };
            if !is_right {
                world.fail(&format!("{query}.{partition}: {got:?} is not {expected:?}"));
            }
        }
    }
}

fn is_part(got: &[u64], expected: &[u64]) -> bool {
    got.iter().all(|row| expected.contains(row)) && got.len() <= expected.len()
}

fn check_launches(world: &World) {
    let is_plain = world.profile.is_clean
        && world
            .oracle
            .accounts
            .values()
            .all(|account| account.outcome == Some(Ok(())) && account.chosen.is_empty());
    if is_plain {
        let (mut tasks, mut kept) = (0, 0);
        for account in world.oracle.accounts.values() {
            let stages = account.graph.stages();
            for (stage, wanted) in stages.iter().zip(wanted_tasks(stages)) {
                tasks += wanted.iter().filter(|is_wanted| **is_wanted).count();
                // What is kept of a cached table does not run, nor what only that would read.
                let parts = stage.cached.iter().flat_map(|cached| &cached.parts).zip(wanted);
                let is_kept =
                    |(part, is_wanted): &(&CachedPart, bool)| *is_wanted && !part.copies.is_empty();
                kept += parts.filter(is_kept).count();
            }
        }
        let (most, launches) = (tasks - kept, world.oracle.launch_count);
        let is_right = if kept == 0 { launches == tasks } else { launches <= most };
        if !is_right {
            world.fail(&format!("{launches} launches for {most} of {tasks} tasks"));
        }
    }
}

/// Returns, by stage, whose rows come into the result: a group may leave a task out.
fn wanted_tasks(stages: &[StageNode]) -> Vec<Vec<bool>> {
    let mut wanted: Vec<Vec<bool>> = stages.iter().map(|it| vec![false; it.task_count]).collect();
    for (stage, node) in stages.iter().enumerate().rev() {
        if stage + 1 == stages.len() {
            wanted[stage].fill(true);
        }
        let tasks: Vec<usize> = (0..node.task_count).filter(|task| wanted[stage][*task]).collect();
        for input in &node.inputs {
            let producers = wanted[input.producer.0 as usize].iter_mut().enumerate();
            for (producer, is_wanted) in producers {
                *is_wanted |= tasks.iter().any(|it| input.pattern.reads(*it).contains(producer));
            }
        }
    }
    wanted
}

fn count_from_env(name: &str) -> Option<u64> {
    std::env::vars().find(|(key, _)| key == name).and_then(|(_, value)| value.parse().ok())
}

#[test]
fn every_schedule_of_faults_gives_the_fault_free_result() {
    let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let (mut flows, mut lost_flows) = (0, 0);
    for seed in 0..count_from_env("SEEDS").unwrap_or(ORDINARY_SEEDS) {
        let failed =
            std::panic::catch_unwind(|| run(seed, false)).map_err(|_error| run(seed, true));
        let Ok(world) = failed else { unreachable!("a schedule failed once only") };
        for (fault, count) in &world.fault_count {
            *faults.entry(fault).or_default() += count;
        }
        flows += world.flow_count;
        lost_flows += world.lost_flow_count;
        for account in world.oracle.accounts.values() {
            *outcomes.entry(format!("{:?}", account.outcome.unwrap())).or_default() += 1;
        }
        assert!(!world.profile.is_clean || world.faults().is_empty(), "seed {seed} is not clean");
    }
    println!("{faults:?}\n{outcomes:?}\n{flows} reads of unsealed results, {lost_flows} lost");
    assert!(flows > 0 && lost_flows > 0, "results have been read while they were made, and lost");
    let every = [
        "all lost",
        "cached partition dropped",
        "cancel",
        "corrupt",
        "cut",
        "disconnect",
        "doubled message",
        "enough",
        "final failure",
        "inputs outlived",
        "kill",
        "pause",
        "worker fault",
    ];
    assert_eq!(faults.keys().copied().collect::<Vec<_>>(), every, "each fault has been met");
    for kind in
        ["Cancelled", "Deadline", "NoWorker", "Attempts", "ResultLost", "QueueFull", "Panic"]
    {
        assert!(outcomes.keys().any(|outcome| outcome.contains(kind)), "{kind} has been met");
    }
}

#[test]
fn a_seed() {
    if let Some(seed) = count_from_env("SEED") {
        run(seed, true);
    }
}

#[test]
fn a_schedule_is_its_seed() {
    let one = run(7, true);
    let other = run(7, true);
    assert_eq!(one.now, other.now);
    assert_eq!(one.oracle.launch_count, other.oracle.launch_count);
}
