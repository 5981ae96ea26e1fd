//! Opening partitions for a query: from the store, made for the store, or made for the query alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;
use parking_lot::Mutex;
use skep_store::PartitionReader;

use super::content::{Content, Generation, HeldContent, KeptPartition};
use super::lineage::Run;
use super::summary::PartitionSummary;
use crate::error::Result;

/// A partition that can be read.
pub(super) enum Opened {
    /// From the store, encoded.
    Kept(Box<KeptPartition>),
    /// From the lineage, with all columns as that makes them: there is no room for it.
    Passing(SendableRecordBatchStream),
    /// From a lineage whose partitions are made one by one, and which has not run yet.
    Lineage(Run),
}

/// What a scan holds on to, so that all its partitions are of one content.
#[derive(Debug)]
pub(super) enum Pin {
    /// What is there of a generation: each partition is the same whenever it is made.
    Narrow { content: Arc<Content>, generation: Arc<Generation> },
    /// A generation, with readers that keep it from being dropped.
    Generation {
        content: Arc<Content>,
        generation: Arc<Generation>,
        /// One for each partition. Behind a lock only to be shared.
        readers: Mutex<Vec<PartitionReader>>,
    },
    /// A run of the lineage, of which nothing is kept.
    Passing { content: Arc<Content>, run: Run },
}

impl Pin {
    /// Pins what is there, if that is all; makes nothing.
    pub(super) fn ready(held: &HeldContent) -> Option<Self> {
        let HeldContent { content, generation, .. } = held.clone();
        if content.is_narrow() {
            return Some(Self::Narrow { content, generation });
        }
        let readers = content.pinned(&generation)?;
        Some(Self::Generation { content, generation, readers: Mutex::new(readers) })
    }

    /// Pins a content, making what must be made at once.
    ///
    /// # Errors
    /// If a source changed, or cannot be read.
    pub(super) async fn new(content: &Arc<Content>) -> Result<Self> {
        content.begin();
        if let Some(pin) = Self::ready(&content.hold()) {
            return Ok(pin);
        }
        if content.make_all().await?
            && let Some(pin) = Self::ready(&content.hold())
        {
            return Ok(pin);
        }
        content.lineage.check_sources(&content.name, None).await?;
        Ok(Self::Passing { content: Arc::clone(content), run: content.lineage.fresh()? })
    }

    /// Opens a partition.
    ///
    /// # Errors
    /// If a source changed, or cannot be read.
    pub(super) async fn open(&self, partition: usize) -> DfResult<Opened> {
        match self {
            Self::Narrow { content, generation } => {
                content.begin();
                let mut kept = content.kept(generation, partition);
                if kept.is_none() && content.make(generation, partition).await? {
                    kept = content.kept(generation, partition);
                }
                match kept {
                    Some(kept) => Ok(hit(content, kept)),
                    None => {
                        content.lineage.check_sources(&content.name, Some(partition)).await?;
                        content.counters.passed.fetch_add(1, Ordering::Relaxed);
                        Ok(Opened::Lineage(content.lineage.fresh()?))
                    }
                }
            }
            Self::Generation { content, generation, readers } => {
                let reader = readers.lock().get(partition).map(PartitionReader::again);
                match (reader, generation.summary(partition)) {
                    (Some(reader), Some(summary)) => {
                        Ok(hit(content, KeptPartition { reader, summary }))
                    }
                    _ => datafusion::common::internal_err!(
                        "there is no partition {partition} of table \"{}\" ({})",
                        content.name,
                        generation.epoch
                    ),
                }
            }
            Self::Passing { content, run } => pass(content, run, partition),
        }
    }

    /// Returns what is known of all partitions, if it is.
    pub(super) fn summaries(&self) -> Option<Vec<Arc<PartitionSummary>>> {
        match self {
            Self::Narrow { generation, .. } | Self::Generation { generation, .. } => {
                generation.summaries()
            }
            Self::Passing { .. } => None,
        }
    }
}

fn hit(content: &Content, kept: KeptPartition) -> Opened {
    content.counters.hits.fetch_add(1, Ordering::Relaxed);
    Opened::Kept(Box::new(kept))
}

fn pass(content: &Content, run: &Run, partition: usize) -> DfResult<Opened> {
    content.counters.passed.fetch_add(1, Ordering::Relaxed);
    explained(run, partition).map(Opened::Passing)
}

/// Returns the rows of a partition of a run; what they fail with names the file to blame.
///
/// # Errors
/// What keeps the plan from running.
pub(super) fn explained(run: &Run, partition: usize) -> DfResult<SendableRecordBatchStream> {
    let rows = run.execute(partition)?;
    let (schema, run) = (rows.schema(), run.clone());
    let rows = rows.or_else(move |error| {
        let run = run.clone();
        async move { Err(DataFusionError::from(run.explain(error).await)) }
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
}
