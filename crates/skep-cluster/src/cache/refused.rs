//! Queries over cached tables for some of whose partitions there is no room.
//!
//! To make such a partition for one query means to take all columns of its files, to encode them, to
//! be refused, and to put them down as they are until a task reads them. Its files say the same: a
//! query reads the columns that it wants from there, in the tasks that need them, until the partition
//! is due to be offered again.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result as DfResult;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::union::UnionExec;
use skep_engine::{CacheScanExec, Result, check_files, slice_of_files};

use super::table::{ClusterTable, cluster_table};

/// A plan in which refused partitions are read from their files.
#[derive(Debug)]
pub struct AroundRefused {
    /// The plan.
    pub plan: Arc<dyn ExecutionPlan>,
    passes: Vec<Pass>,
}

/// What one scan reads from files.
#[derive(Debug)]
struct Pass {
    table: Arc<ClusterTable>,
    partitions: Vec<usize>,
    slice: Arc<dyn ExecutionPlan>,
}

impl AroundRefused {
    /// Finds the scans of refused partitions in a plan.
    ///
    /// # Errors
    /// If DataFusion cannot put the plan together again.
    pub fn of(plan: &Arc<dyn ExecutionPlan>) -> DfResult<Self> {
        let mut passes = Vec::new();
        let plan = Arc::clone(plan).transform_up(|node| {
            let Some(scan) = node.downcast_ref::<CacheScanExec>() else {
                return Ok(Transformed::no(node));
            };
            match around(scan)? {
                Some((plan, pass)) => {
                    passes.push(pass);
                    Ok(Transformed::yes(plan))
                }
                None => Ok(Transformed::no(node)),
            }
        });
        Ok(Self { plan: plan.data()?, passes })
    }

    /// Takes note of a query that runs the plan, and looks whether the files are as they were when
    /// their tables were cached.
    ///
    /// # Errors
    /// [`skep_engine::Error::File`] naming the first that changed or is gone.
    pub async fn begin(&self, context: &TaskContext) -> Result<()> {
        for Pass { table, partitions, slice } in &self.passes {
            table.pass(partitions);
            check_files(slice, context, table.name()).await?;
        }
        Ok(())
    }
}

fn around(scan: &CacheScanExec) -> DfResult<Option<(Arc<dyn ExecutionPlan>, Pass)>> {
    let Some(table) = cluster_table(scan) else { return Ok(None) };
    // Partitions of a clustered table hold what has their number, which files do not know.
    let Some(making) = table.files_plan().filter(|_| !scan.is_clustered()) else { return Ok(None) };
    let mut rest = scan.wanted_partitions();
    let mut partitions = table.refused();
    partitions.retain(|partition| rest[*partition]);
    if partitions.is_empty() {
        return Ok(None);
    }
    let Some(slice) = slice_of_files(making, &partitions)? else { return Ok(None) };
    let slice = reset_plan_states(slice)?;
    let passing = scan.over_lineage(Arc::clone(&slice))?;
    for partition in &partitions {
        rest[*partition] = false;
    }
    let rest = rest.iter().enumerate().filter(|(_, is_read)| **is_read);
    let rest: Vec<Vec<usize>> = rest.map(|(partition, _)| vec![partition]).collect();
    let plan = match rest.is_empty() {
        true => passing,
        false => UnionExec::try_new(vec![Arc::new(scan.in_groups(rest)?), passing])?,
    };
    Ok(Some((plan, Pass { table: Arc::clone(&table), partitions, slice })))
}
