//! Texts without views, for clients that do not know them.
//!
//! What leaves a query for such a client is cast, batch by batch. Where nothing stands between it and
//! a scan of a cached table, the scan makes the texts as the client wants them in the first place.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::ProjectionExec;

use super::code_groups::over_other_types;
use super::scan::CacheScanExec;

/// Returns a plan whose scans of cached tables give texts without views, if they give them to whoever
/// reads the plan; else the plan as it is.
///
/// Shape: the columns of `plan`, some of other types.
///
/// # Errors
/// If DataFusion cannot put the plan together again.
pub(crate) fn plain_texts(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    Ok(plain(&plan)?.unwrap_or(plan))
}

fn plain(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(scan) = plan.downcast_ref::<CacheScanExec>() {
        return Ok(scan.gives_as_seen().then(|| Arc::new(scan.plain()) as _));
    }
    let passes = match plan.downcast_ref::<ProjectionExec>() {
        Some(projection) => projection.expr().iter().all(|expr| expr.expr.is::<Column>()),
        None => {
            plan.is::<CoalescePartitionsExec>()
                || plan.is::<CooperativeExec>()
                || plan.is::<LocalLimitExec>()
                || plan.is::<GlobalLimitExec>()
        }
    };
    match plan.children()[..] {
        [input] if passes => {
            let input = plain(input)?;
            input.map(|input| over_other_types(plan, input)).transpose()
        }
        _ => Ok(None),
    }
}
