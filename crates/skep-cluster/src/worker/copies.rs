//! Outputs of other sites that every task of a stage reads: kept here once, not fetched by each.
//!
//! The first task that wants one fetches it into this site's store, and whoever else wants it waits
//! and reads it there. If the first one fails or is stopped, the next one fetches. A copy has a name
//! of its own in the same query, so it is spilled, read and dropped as everything else of it.
//!
//! **Invariant:** nobody reads a copy that is not sealed; a copy is of one attempt, and another
//! attempt of the same task is copied anew.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::error::Error;
use crate::ids::Attempt;
use crate::scheduler::TaskAttempt;
use crate::store::{PartitionKey, PartitionStore, StorageLevel, WriterKey, WriterSpec};

/// Marks the name of a copy; no task has that many attempts.
const COPY: u32 = 1 << 31;

/// The copies that the tasks of one query share on this site.
#[derive(Debug, Default)]
pub(super) struct Copies {
    by_producer: Mutex<HashMap<TaskAttempt, Arc<OnceCell<()>>>>,
}

impl Copies {
    /// Reads the only output of `producer`, out of `original` if there is no copy yet.
    ///
    /// What goes wrong with the original comes as it is; `lost` says what a copy that cannot be read
    /// means.
    pub(super) fn read(
        self: &Arc<Self>,
        store: &PartitionStore,
        producer: TaskAttempt,
        schema: SchemaRef,
        original: BoxStream<'static, Result<RecordBatch>>,
        lost: impl Fn(Error) -> DataFusionError + Clone + Send + 'static,
    ) -> BoxStream<'static, Result<RecordBatch>> {
        let (copies, store) = (Arc::clone(self), store.clone());
        let opened = async move {
            let cell = Arc::clone(copies.by_producer.lock().entry(producer).or_default());
            cell.get_or_try_init(|| keep(&store, producer, schema, original)).await?;
            let reader = store.read(&copy_of(producer).output(0), 0).map_err(lost.clone())?;
            Ok::<_, DataFusionError>(reader.map(move |batch| batch.map_err(lost.clone())))
        };
        stream::once(opened).try_flatten().boxed()
    }

    /// Returns the names of all copies.
    pub(super) fn keys(&self) -> Vec<PartitionKey> {
        self.by_producer.lock().keys().map(|producer| copy_of(*producer).output(0)).collect()
    }
}

/// Writes a copy into the store.
async fn keep(
    store: &PartitionStore,
    producer: TaskAttempt,
    schema: SchemaRef,
    mut original: BoxStream<'static, Result<RecordBatch>>,
) -> Result<()> {
    let mut writer = store.writer(WriterSpec {
        key: copy_of(producer),
        schema,
        output_count: 1,
        level: StorageLevel::MemoryAndDisk,
    })?;
    while let Some(batch) = original.try_next().await? {
        writer.append(0, batch).await?;
    }
    writer.seal().await?;
    Ok(())
}

fn copy_of(producer: TaskAttempt) -> WriterKey {
    WriterKey::Exchange {
        query: producer.task.query,
        stage: producer.task.stage,
        producer: producer.task.partition,
        attempt: Attempt(producer.attempt.0 | COPY),
    }
}
