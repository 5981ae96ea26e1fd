//! Whole queries, their tasks spread over two sites.

use std::sync::Arc;

use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;

use super::rows::{number_schema, numbered};
use super::*;
use crate::stage_planner::{StageOptions, StagePlan, StagePlanner};

async fn whole(query: &str) -> (SessionContext, Arc<dyn ExecutionPlan>) {
    let config = SessionConfig::new().with_target_partitions(3).with_batch_size(100);
    let session = SessionContext::new_with_config(config);
    let slices = (0..3).map(|i| (0..5).map(|k| numbered(i * 5000 + k * 1000, 1000)).collect());
    let table = MemTable::try_new(number_schema(), slices.collect()).unwrap();
    session.register_table("t", Arc::new(table)).unwrap();
    let plan = session.sql(query).await.unwrap().create_physical_plan().await.unwrap();
    (session, plan)
}

async fn stages(query: &str) -> StagePlan {
    let options = StageOptions { target_partitions: 3, min_scan_bytes_per_task: 1, slots: None };
    StagePlanner::new(options).plan(&whole(query).await.1).unwrap()
}

/// Two sites that know of each other.
async fn two_sites(query: &'static str, outline: &StagePlan) -> [Fixture; 2] {
    let mut sites = [Fixture::new(), Fixture::new()];
    sites[1].site = worker(2, 1);
    sites[1].runner.begin_life(sites[1].site);
    let peers = [(worker(1, 1), "first:1".to_owned()), (worker(2, 1), "second:1".to_owned())];
    let stores = [sites[0].store.clone(), sites[1].store.clone()];
    for site in &sites {
        site.runner.perform(Command::Peers(peers.to_vec()));
        let mut known = site.neighbours.stores.lock();
        for ((_, address), store) in peers.iter().zip(&stores) {
            known.insert(address.clone(), store.clone());
        }
        drop(known);
        for stage in &outline.stages {
            let id = stage.id;
            site.plan(1, id.0, move |_context| {
                let fresh = futures::executor::block_on(stages(query));
                let stage = fresh.stage(id).unwrap().clone();
                Ok(DecodedStage {
                    plan: stage.plan,
                    output: stage.output,
                    task_count: stage.task_count,
                    lineage_of: None,
                })
            });
        }
    }
    sites
}

async fn answer_on_two_sites(query: &'static str) -> Vec<RecordBatch> {
    let outline = stages(query).await;
    assert!(outline.stages.len() > 1);
    let mut sites = two_sites(query, &outline).await;
    let mut made: HashMap<(StageId, usize), Source> = HashMap::new();
    let mut spread = 0;
    for stage in &outline.stages {
        for task in 0..stage.task_count {
            let this = attempt(1, stage.id.0, task, 0);
            let read: HashMap<(StageId, usize), Source> = (stage.reads(task).into_iter())
                .flat_map(|part| part.tasks.map(move |of| (part.producer, of)))
                .map(|of| (of, made[&of]))
                .collect();
            // Not in the order that the launch promises: it is not relied on.
            let sources: Vec<Source> = read.into_values().collect();
            let site = &mut sites[spread % 2];
            spread += 1;
            let output = site.finish(this, sources).await;
            assert_eq!(output.bytes.len(), stage.output.partition_count());
            made.insert((stage.id, task), Source { bytes: 1, ..source(this, site.site) });
        }
    }
    let readers = sites.iter().map(|site| site.neighbours.readers.load(Ordering::Relaxed));
    assert!(readers.sum::<usize>() > 0, "nothing was fetched");
    let last = outline.stages.last().unwrap();
    let mut rows = Vec::new();
    for task in 0..last.task_count {
        let at = usize::from(made[&(last.id, task)].site == sites[1].site);
        rows.extend(sites[at].read(attempt(1, last.id.0, task, 0), 0).await);
    }
    for site in &sites {
        site.runner.perform(Command::DropQuery(QueryId(1)));
        site.await_empty().await;
    }
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_over_two_sites_have_the_answer_of_one_process() {
    let queries = [
        "SELECT number % 13 AS k, count(*) AS c, sum(number) AS s FROM t GROUP BY 1 ORDER BY 1",
        "SELECT a.number AS n, b.number AS m FROM t a JOIN t b ON a.number = b.number * 3 \
         WHERE b.number < 500 ORDER BY 1",
        "SELECT number AS n FROM t WHERE number > (SELECT avg(number) FROM t) ORDER BY 1 LIMIT 250",
        "SELECT count(*) AS c FROM t WHERE number % 2 = 0",
    ];
    for query in queries {
        let (session, plan) = whole(query).await;
        let expected = datafusion::physical_plan::collect(plan, session.task_ctx()).await.unwrap();
        let answer = answer_on_two_sites(query).await;
        let text = |batches: &[RecordBatch]| pretty_format_batches(batches).unwrap().to_string();
        assert_eq!(text(&answer), text(&expected), "{query}");
    }
}
