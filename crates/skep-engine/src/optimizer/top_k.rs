//! Sorts on disk where the rows of an `ORDER BY ... LIMIT` are too many for memory.
//!
//! DataFusion answers every sort with a limit by a heap of the best rows, which cannot spill.
//! `LIMIT 1 OFFSET 4000000` is a heap of four million rows, though the sort without a limit would
//! go to disk.
//! Above `skep.max_top_k_rows` a sort is a sort, and the limit a node of its own.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;

use crate::settings::{DEFAULT_MAX_TOP_K_ROWS, SkepSettings};

/// The rule before which ours comes: it gives heaps a filter for their input, which holds on to
/// the heap.
const SUCCESSOR: &str = "FilterPushdown(Post)";

/// Puts the rule among DataFusion's.
///
/// No rule after it pushes limits down, which would make a heap again.
pub(super) fn bounded(
    mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>>,
) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let place = rules.iter().position(|rule| rule.name() == SUCCESSOR).unwrap_or(rules.len());
    rules.insert(place, Arc::new(BoundTopK));
    rules
}

#[derive(Debug)]
struct BoundTopK;

impl PhysicalOptimizerRule for BoundTopK {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let settings = config.extensions.get::<SkepSettings>();
        let bound = settings.map_or(DEFAULT_MAX_TOP_K_ROWS, |settings| settings.max_top_k_rows);
        plan.transform_up(|plan| {
            let sort = plan.downcast_ref::<SortExec>();
            let Some((sort, fetch)) = sort.and_then(|sort| Some((sort, sort.fetch()?))) else {
                return Ok(Transformed::no(plan));
            };
            if fetch <= bound {
                return Ok(Transformed::no(plan));
            }
            // A limit for each partition, as the sort's own.
            let whole = Arc::new(sort.with_fetch(None));
            Ok(Transformed::yes(Arc::new(LocalLimitExec::new(whole, fetch))))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "bound_top_k"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
