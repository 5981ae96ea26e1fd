//! Scans of cached tables whose partitions are read in groups: what the stages look like, and that
//! they answer as one process does that has nothing cached.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::execution::memory_pool::UnboundedMemoryPool;
use datafusion::physical_plan::collect_partitioned;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::future::BoxFuture;
use skep_engine::{
    CacheHost, CacheScanExec, CachedShape, Engine, EngineConfig, EngineParts, HostedParts,
    HostedTable, LocalExecutor, Result, build_runtime, cache_partition,
};
use tempfile::TempDir;

use super::{LocalRun, Tasks, rows};
use crate::cache::{CacheDirectory, ClusterTable, Keeper};
use crate::coordinator::graph::query_graph;
use crate::exchange::plan::{CachedTarget, Output};
use crate::ids::{Epoch, Incarnation, WorkerId};
use crate::membership::WorkerLife;
use crate::scheduler::{CachedReport, ReadPattern};
use crate::stage_planner::stage::Pattern;
use crate::stage_planner::{StageOptions, StagePlan, StagePlanner, explain, rejoin};
use crate::store::{PartitionStore, StoreConfig, WriterKey, WriterSpec};

/// Files of the table, and partitions of what is cached of it.
const PARTS: usize = 12;
/// Rows of each, and between the first of two.
const ROWS: usize = 100;

/// Workers of which the first keeps partition 0, the next partition 1, and so on in turn.
#[derive(Debug, Clone)]
struct Host {
    directory: Arc<CacheDirectory>,
    store: PartitionStore,
    workers: usize,
}

fn life(worker: usize) -> WorkerLife {
    WorkerLife { worker: WorkerId(worker as u64), incarnation: Incarnation(1) }
}

impl CacheHost for Host {
    fn first_epoch(&self) -> u64 {
        1
    }

    fn expect(&self, _table: &Arc<str>, _epoch: Epoch) -> BoxFuture<'static, bool> {
        Box::pin(async { false })
    }

    fn give_up(&self, _table: &Arc<str>, _epoch: Epoch) {}

    fn adopt(&self, parts: HostedParts) -> Result<Option<Arc<dyn HostedTable>>> {
        let HostedParts { shape, level, plan, context } = parts;
        let planner = StagePlanner::new(StageOptions::for_width(PARTS));
        let target = |shape| Arc::new(CachedTarget { shape, level: level.storage() });
        let mut stages = planner.plan_cached(&plan, target(Arc::clone(&shape)))?;
        let last = stages.stages.last_mut().unwrap();
        let partition_count = last.task_count;
        let target = target(Arc::new(CachedShape { partition_count, ..shape.as_ref().clone() }));
        last.output = Output::Cached(Arc::clone(&target));
        let keeper = Arc::new(self.clone());
        Ok(Some(Arc::new(ClusterTable::new(target, 1, stages, context, keeper))))
    }
}

#[async_trait]
impl Keeper for Host {
    fn directory(&self) -> &CacheDirectory {
        &self.directory
    }

    async fn make(&self, table: &ClusterTable, _copies: usize) -> Result<()> {
        let plan = rejoin(table.stages())?;
        let schema = plan.schema();
        let parts = collect_partitioned(plan, Arc::clone(table.context())).await?;
        let Output::Cached(target) = &table.stages().stages.last().unwrap().output else {
            panic!("the last stage makes the table");
        };
        for (partition, batches) in parts.into_iter().enumerate() {
            let key = target.key(partition);
            let spec = WriterSpec {
                key: WriterKey::Cached { table: key.table, epoch: key.epoch, partition },
                schema: Arc::clone(&target.shape.schema),
                output_count: 1,
                level: target.level,
            };
            let batches = futures::stream::iter(batches.into_iter().map(Ok));
            let batches = RecordBatchStreamAdapter::new(Arc::clone(&schema), batches);
            let pool = table.context().memory_pool();
            let kept = cache_partition(&self.store, spec, pool, Box::pin(batches)).await?;
            let report = CachedReport {
                table: Arc::clone(&target.shape.key),
                epoch: target.shape.epoch,
                partition,
                is_kept: true,
                summary: kept.unwrap().to_bytes()?.into(),
                memory_bytes: 100,
                disk_bytes: 0,
                rows: 0,
            };
            assert!(self.directory.record(life(partition % self.workers + 1), &report));
        }
        Ok(())
    }

    fn release(&self, _table: &Arc<str>, _epoch: Epoch) {}
}

/// A session whose workers keep tables, one that has nothing cached, and their files.
struct Cached {
    run: LocalRun,
    plain: LocalRun,
    directory: Arc<CacheDirectory>,
    _files: TempDir,
}

async fn tables(slots: &[usize]) -> Cached {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().display().to_string();
    let store_dir = files.path().join("store");
    std::fs::create_dir(&store_dir).unwrap();
    let pool = Arc::new(UnboundedMemoryPool::default());
    let host = Host {
        directory: Arc::new(CacheDirectory::new(Arc::clone(&pool) as _)),
        store: PartitionStore::open(StoreConfig::new(store_dir), pool).unwrap(),
        workers: slots.len(),
    };
    let directory = Arc::clone(&host.directory);
    let config = EngineConfig { target_partitions: Some(PARTS), ..EngineConfig::default() };
    let parts = EngineParts {
        runtime: build_runtime(&config, |pool| pool).unwrap(),
        executor: Arc::new(LocalExecutor),
        system_tables: None,
        store: None,
        cache_host: Some(Arc::new(host)),
    };
    let session = Engine::open_with(config, parts).await.unwrap().session();
    let slots: BTreeMap<_, _> =
        slots.iter().enumerate().map(|(idx, slots)| (life(idx + 1), *slots)).collect();
    let options = StageOptions { slots: Some(slots), ..StageOptions::for_width(PARTS) };
    let (run, plain) = (LocalRun::over(session, options), LocalRun::new(PARTS).await);
    for part in 0..PARTS {
        let first = part * ROWS;
        let rows = format!(
            "SELECT value AS a, value % 7 AS g, 'text ' || value % 5 AS s \
             FROM generate_series({first}, {}) AS v(value)",
            first + ROWS - 1
        );
        plain.command(&format!("COPY ({rows}) TO '{path}/t/{part:02}.parquet'")).await;
    }
    for session in [&run, &plain] {
        let named = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{path}/t/'");
        session.command(&named).await;
        session.command("CREATE VIEW c AS SELECT g, a, s FROM t WHERE a >= 0").await;
    }
    // From the files: what is made of cached tables runs where they are.
    run.command("CACHE TABLE c CLUSTER BY (g) INTO 12 PARTITIONS").await;
    run.command("CACHE TABLE t").await;
    Cached { run, plain, directory, _files: files }
}

/// Returns the tasks that read a scan, and what each reads of it.
async fn read(cached: &Cached, query: &str) -> (String, Vec<Vec<usize>>) {
    let plan = cached.run.stages(query).await;
    let mut found = Vec::new();
    for stage in plan.stages.iter().filter(|stage| stage.lineage_of.is_none()) {
        for input in &stage.inputs {
            if let Pattern::Groups(groups) = &input.pattern {
                found.extend(groups.iter().cloned());
            }
        }
    }
    (explain(&plan), found)
}

/// Returns the pattern by which the scheduler has the last table read, and how many tasks it makes.
fn scheduled(plan: &StagePlan) -> (ReadPattern, usize) {
    let graph = query_graph(plan).unwrap();
    let made = graph.stages().iter().rfind(|stage| stage.cached.is_some()).unwrap();
    let mut inputs = graph.stages().iter().flat_map(|stage| &stage.inputs);
    let read = inputs.rfind(|input| input.producer == made.id).unwrap();
    (read.pattern.clone(), made.task_count)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_slot_of_a_keeper_reads_what_it_keeps() {
    let cached = tables(&[1, 1, 1]).await;
    let query = "SELECT g, count(*) FROM t GROUP BY g";
    let (text, groups) = read(&cached, query).await;
    assert!(text.contains("partitions=12 in 3 tasks"), "{text}");
    let all = [vec![0, 3, 6, 9], vec![1, 4, 7, 10], vec![2, 5, 8, 11]];
    assert_eq!(groups, all, "{text}");
    let plan = cached.run.stages(query).await;
    assert_eq!(scheduled(&plan), (ReadPattern::groups(all.to_vec()), PARTS));
    let stage = plan.stages.iter().find(|stage| stage.lineage_of.is_none()).unwrap();
    assert_eq!(stage.task_count, 3);
    let parts: Vec<_> = stage.reads(1).into_iter().map(|part| part.tasks).collect();
    assert_eq!(parts, [1..2, 4..5, 7..8, 10..11]);
    // One who is lost leaves what it kept to be made, side by side.
    cached.directory.lose_life(life(2));
    let (text, groups) = read(&cached, query).await;
    assert!(text.contains("partitions=12 in 6 tasks"), "{text}");
    let lost = [vec![0, 3, 6, 9], vec![1], vec![2, 5, 8, 11], vec![4], vec![7], vec![10]];
    assert_eq!(groups, lost, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_filter_wants_nothing_of_is_in_no_group() {
    let cached = tables(&[1, 1, 1]).await;
    // Of what is lost nothing is wanted.
    cached.directory.lose_life(life(3));
    let query = "SELECT g, count(*) FROM t WHERE a BETWEEN 650 AND 750 OR a BETWEEN 300 AND 310 \
                 GROUP BY g";
    let (text, groups) = read(&cached, query).await;
    assert!(text.contains("partitions=3 of 12 in 2 tasks"), "{text}");
    assert_eq!(groups, [vec![3, 6], vec![7]], "{text}");
    let (text, groups) = read(&cached, "SELECT g, count(*) FROM t WHERE a < 0 GROUP BY g").await;
    assert!(text.contains("partitions=0 of 12 in 1 task,"), "{text}");
    assert_eq!(groups, [Vec::<usize>::new()], "{text}");
    // Where partitions are numbered by values they keep their numbers.
    let (text, groups) = read(&cached, "SELECT g, count(*) FROM c WHERE g = 3 GROUP BY g").await;
    assert!(text.contains("of 12 in 12 tasks"), "{text}");
    assert!(!text.contains("shuffle"), "{text}");
    let of_one = groups.iter().enumerate().all(|(idx, group)| group.iter().all(|it| *it == idx));
    assert!(groups.len() == PARTS && of_one, "{groups:?}");
    assert!((1..PARTS).contains(&groups.concat().len()), "{groups:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_scans_of_one_table_have_groups_of_their_own() {
    let cached = tables(&[1, 1, 1]).await;
    let query = "SELECT a FROM t WHERE a < 400 UNION ALL SELECT g FROM t WHERE a >= 1100";
    let plan = cached.run.stages(query).await;
    let groups = vec![vec![0, 3], vec![1], vec![2], vec![11]];
    assert_eq!(scheduled(&plan).0, ReadPattern::groups(groups), "{}", explain(&plan));
    let query = "SELECT count(*) FROM t AS x, t AS y WHERE x.a < 200 AND y.a >= 1000 AND x.g = y.g";
    let (text, groups) = read(&cached, query).await;
    assert_eq!(groups.concat().len(), 4, "{text}");
}

/// Queries over the tables, with all ways in which something is read: alone, by several, by all.
const QUERIES: [&str; 14] = [
    "SELECT * FROM t",
    "SELECT g, count(*), sum(a) FROM t GROUP BY g",
    "SELECT g, s, count(*) FROM t WHERE a BETWEEN 150 AND 420 GROUP BY g, s",
    "SELECT count(*), min(a), max(s) FROM t WHERE a < 0 AND g = 2",
    "SELECT a FROM t ORDER BY a DESC LIMIT 7",
    "SELECT a, s FROM t WHERE a > 555 ORDER BY s, a",
    "SELECT count(*), count(DISTINCT g) FROM (SELECT g FROM t LIMIT 1150)",
    "SELECT a FROM t WHERE a < 250 UNION ALL SELECT g FROM t UNION ALL SELECT a FROM c WHERE g = 1",
    "SELECT x.a, y.s FROM t AS x JOIN t AS y ON x.a = y.a + 1 WHERE x.a < 333",
    "SELECT x.g, count(*) FROM t AS x JOIN c ON x.g = c.g AND x.a = c.a GROUP BY x.g",
    "SELECT c.g, count(*), max(d.a) FROM c JOIN c AS d ON c.g = d.g WHERE d.a < 90 GROUP BY c.g",
    "SELECT g, sum(a) FROM c WHERE g IN (2, 5) GROUP BY g",
    "SELECT a, row_number() OVER (PARTITION BY g ORDER BY a) FROM t WHERE a < 450",
    "SELECT a FROM t WHERE a > (SELECT avg(a) FROM t WHERE a < 900) AND a NOT IN (SELECT a FROM c WHERE s = 'text 3')",
];

#[tokio::test(flavor = "multi_thread")]
async fn groups_give_the_answers_of_one_process() {
    for (slots, lost) in [(&[1_usize, 1, 1][..], None), (&[3], None), (&[2, 1, 2], Some(1))] {
        let mut cached = tables(slots).await;
        if let Some(lost) = lost {
            cached.directory.lose_life(life(lost));
        }
        for query in QUERIES {
            let sorted = |batches: Vec<_>| {
                let mut rows = rows(&batches);
                rows.sort();
                rows
            };
            let expected = sorted(cached.plain.answer_whole(query).await.unwrap());
            let text = explain(&cached.run.stages(query).await);
            assert!(text.contains("CacheScanExec"), "{text}");
            for tasks in [Tasks::AsPlanned, Tasks::Narrowed, Tasks::Decoded] {
                cached.run.tasks = tasks;
                let answer = cached.run.answer_in_stages(query).await;
                let answer = answer.unwrap_or_else(|error| panic!("{query}\n{error}\n{text}"));
                assert_eq!(sorted(answer), expected, "{slots:?} {tasks:?}: {query}\n{text}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_do_not_fit_the_table_are_refused_where_they_arrive() {
    let cached = tables(&[1, 1, 1]).await;
    let parts_of = async |query: &str| {
        let plan = cached.run.stages(query).await;
        let mut leaf =
            Arc::clone(&plan.stages.iter().find(|it| it.lineage_of.is_none()).unwrap().plan);
        while let Some(child) = leaf.children().first().map(|child| Arc::clone(child)) {
            leaf = child;
        }
        leaf.downcast_ref::<CacheScanExec>().unwrap().parts().unwrap()
    };
    let with = |parts: &skep_engine::CacheScanParts, groups: Vec<Vec<usize>>| {
        let parts = skep_engine::CacheScanParts { groups: Some(groups), ..parts.clone() };
        CacheScanExec::from_parts(parts).map(|scan| scan.groups().cloned())
    };
    let parts = parts_of("SELECT g, count(*) FROM t GROUP BY g").await;
    assert_eq!(parts.groups.as_ref().unwrap().len(), 3);
    let known = with(&parts, vec![vec![11], vec![0]]).unwrap().unwrap();
    assert_eq!(known.all(), [vec![11], vec![0]]);
    assert!(with(&parts, vec![vec![0], vec![PARTS]]).is_err());
    assert!(with(&parts, vec![vec![0, 1], vec![1]]).is_err());
    assert!(with(&parts, vec![]).is_err());
    // Numbers that mean something.
    let parts = parts_of("SELECT g, count(*) FROM c GROUP BY g").await;
    let mut groups: Vec<Vec<usize>> = (0..PARTS).map(|partition| vec![partition]).collect();
    groups[1].clear();
    assert!(with(&parts, groups.clone()).is_ok());
    groups.swap(0, 2);
    assert!(with(&parts, groups).is_err());
    assert!(with(&parts, vec![vec![0, 1], vec![2, 3]]).is_err());
}
