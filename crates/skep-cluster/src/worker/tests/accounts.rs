//! One last word for each launch, whatever is said in between and when.

use std::collections::HashMap;

use super::rows::{RowsExec, numbered};
use super::*;

/// A small generator: the test must not depend on a crate's.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Five kinds of stages: quick, long, endless, failing, panicking.
fn plan_all(site: &Fixture, query: u64) {
    site.plan(query, 0, |_context| {
        Ok(decoded(RowsExec::batches(vec![numbered(0, 50)]), Output::RoundRobin { partitions: 2 }))
    });
    site.plan(query, 1, |_context| {
        let all = (0..60).map(|i| numbered(i, 200)).collect();
        Ok(decoded(RowsExec::batches(all), Output::Gather))
    });
    site.plan(query, 2, |_context| Ok(decoded(RowsExec::endless(numbered(0, 10)), Output::Gather)));
    site.plan(query, 3, |_context| Err(DataFusionError::Plan("no".to_owned())));
    site.plan(query, 4, |_context| panic!("broken"));
}

async fn interleave(seed: u64) {
    let mut site = Fixture::with(1 << 28, |_config| {}, |config| config.max_running_attempts = 6);
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let (mut life, mut number) = (1, 0);
    let mut launched: Vec<(Site, TaskAttempt)> = Vec::new();
    for query in 0..3 {
        plan_all(&site, query);
    }
    for _ in 0..60 {
        let chosen = launched.get(random.below(launched.len().max(1) as u64) as usize);
        let chosen = chosen.map(|(_, attempt)| *attempt);
        match random.below(12) {
            0..=4 => {
                number += 1;
                let new = attempt(random.below(3), random.below(5) as u32, 0, number);
                site.launch(new, vec![]);
                launched.push((site.site, new));
            }
            5 | 6 => site.runner.perform(Command::Cancel(chosen.into_iter().collect())),
            7 => site.runner.perform(Command::Release(chosen.into_iter().collect())),
            8 if random.below(3) == 0 => {
                let query = random.below(3);
                site.runner.perform(Command::DropQuery(QueryId(query)));
            }
            9 if random.below(5) == 0 => {
                life += 1;
                site.site = worker(1, life);
                site.runner.begin_life(site.site);
                for query in 0..3 {
                    plan_all(&site, query);
                }
            }
            _ => tokio::task::yield_now().await,
        }
    }
    for query in 0..3 {
        site.runner.perform(Command::DropQuery(QueryId(query)));
    }
    let mut words: HashMap<(Site, TaskAttempt), usize> = HashMap::new();
    for _ in &launched {
        let (said_by, report) = site.word().await;
        *words.entry((said_by, report.attempt)).or_default() += 1;
    }
    for launch in &launched {
        assert_eq!(words.get(launch), Some(&1), "seed {seed}: {launch:?}");
    }
    site.await_empty().await;
    assert!(site.reports.try_recv().is_err(), "seed {seed}: more words than launches");
    assert_eq!(site.runner.holdings(), crate::scheduler::Holdings::default(), "seed {seed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_launch_has_one_last_word() {
    // Panics are part of the schedules; their traces are not worth reading.
    for seed in 1..=60 {
        interleave(seed).await;
    }
}

#[tokio::test]
async fn a_site_says_what_it_holds() {
    let mut site = Fixture::new();
    plan_all(&site, 5);
    let output = site.finish(attempt(5, 0, 0, 0), vec![]).await;
    assert_eq!((output.rows, output.bytes.len()), (50, 2));
    // One that is launched while it runs is not launched again.
    site.launch(attempt(5, 2, 0, 0), vec![]);
    site.launch(attempt(5, 2, 0, 0), vec![]);
    let holdings = site.runner.holdings();
    assert_eq!(holdings.running, [attempt(5, 2, 0, 0)]);
    assert_eq!(holdings.sealed, [(attempt(5, 0, 0, 0), output)]);
    assert_eq!(holdings.queries, [QueryId(5)]);
    site.runner.perform(Command::DropQuery(QueryId(5)));
    assert_eq!(site.word().await.1.outcome, TaskOutcome::Stopped);
    assert!(site.reports.try_recv().is_err());
    site.await_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_of_nothing_costs_little() {
    let mut site = Fixture::new();
    site.plan(1, 0, |_context| {
        Ok(decoded(RowsExec::batches(vec![numbered(0, 1)]), Output::RoundRobin { partitions: 4 }))
    });
    let begun = Instant::now();
    let count: u32 = 500;
    for wave in 0..count / 50 {
        let launch = |n| Launch { attempt: attempt(1, 0, 0, wave * 50 + n), sources: vec![] };
        site.runner.perform(Command::Launch((0..50).map(launch).collect()));
        for _ in 0..50 {
            let (_, report) = site.word().await;
            assert!(matches!(report.outcome, TaskOutcome::Finished { .. }), "{report:?}");
        }
    }
    let each = begun.elapsed() / count;
    println!("{each:?} for each attempt, unoptimised");
    assert!(each < Duration::from_millis(10), "{each:?}");
}
