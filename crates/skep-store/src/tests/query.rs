//! A query of DataFusion beside a store that holds most of the memory.

use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::*;

const POOL: usize = 12 << 20;

/// Joins a table with itself: the build side of a hash join cannot spill.
async fn join_beside(pool: Arc<dyn MemoryPool>) -> Result<Vec<RecordBatch>, DataFusionError> {
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc()?;
    let config = SessionConfig::new().with_target_partitions(2);
    let context = SessionContext::new_with_config_rt(config, runtime);
    let batches = (0..20).map(|n| batch(n * 4096, 4096)).collect();
    let table = MemTable::try_new(schema(), vec![batches])?;
    context.register_table("t", Arc::new(table))?;
    let sql = "SELECT count(*) FROM t a JOIN t b ON a.number = b.number AND a.text = b.text";
    context.sql(sql).await?.collect().await
}

async fn fill(store: &PartitionStore) -> PartitionCounts {
    let spec = WriterSpec {
        key: task(1, 0),
        schema: schema(),
        output_count: 1,
        level: StorageLevel::MemoryAndDisk,
    };
    let mut writer = store.writer(spec).unwrap();
    for n in 0..100 {
        writer.append(0, batch(n * 4096, 4096)).await.unwrap();
    }
    writer.seal().await.unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_join_makes_the_store_yield_and_both_are_right() {
    for has_store_pool in [false, true] {
        let directory = TempDir::new().unwrap();
        let inner: Arc<dyn MemoryPool> = Arc::new(FairSpillPool::new(POOL));
        let pool = match has_store_pool {
            true => Arc::new(StorePool::new(inner)),
            false => inner,
        };
        let mut config = StoreConfig::new(directory.path());
        config.yield_step_bytes = 1 << 20;
        let store = PartitionStore::open(config, Arc::clone(&pool)).unwrap();
        let counts = fill(&store).await;
        assert!(pool.reserved() > POOL / 4 * 3, "{}", pool.reserved());
        let outcome = join_beside(Arc::clone(&pool)).await;
        match has_store_pool {
            false => assert!(matches!(
                outcome.unwrap_err().find_root(),
                DataFusionError::ResourcesExhausted(_)
            )),
            true => {
                let with_text = (0..20 * 4096).filter(|n| n % 7 != 0).count() as i64;
                assert_eq!(numbers(&outcome.unwrap()), [with_text]);
                assert!(store.stats().spilled_bytes_total > 0);
            }
        }
        let read: Vec<RecordBatch> =
            store.read(&counts.partition, 0).unwrap().try_collect().await.unwrap();
        assert_eq!(numbers(&read), (0..100 * 4096).collect::<Vec<_>>());
        store.end_query(QueryId(1), Readers::Finish);
        assert_eq!(pool.reserved(), 0);
    }
}
