//! A plan of this very process, which several tasks share and which cannot be decoded anew.
//!
//! The first attempt of each task runs its partition of one instance. A later attempt runs on an
//! instance that was reset. Two things outlive DataFusion's reset, because expressions hold them:
//! the values of scalar subqueries, which a reset empties for everybody, and the dynamic filters of
//! scans, which go on hiding rows that an earlier run had no use for. A plan with either is
//! *entangled*: it is reset only while nobody runs on it, its filters are opened, and everybody
//! after runs on the new instance.
//!
//! **Invariant:** no partition of an instance runs twice, and nobody empties what another reads.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{DynamicFilterPhysicalExpr, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use crate::ids::Attempt;
use crate::stage_planner::Stage;

/// A live stage and the instance of its plan that is run now.
#[derive(Debug)]
pub(super) struct LivePlan {
    stage: Arc<Stage>,
    context: Arc<TaskContext>,
    is_entangled: bool,
    /// Read-locked by whoever runs on it.
    current: Arc<RwLock<Arc<dyn ExecutionPlan>>>,
}

/// The right to run on a plan; given back by dropping.
#[derive(Debug)]
pub(super) struct LiveLease {
    plan: Arc<dyn ExecutionPlan>,
    _guard: OwnedRwLockReadGuard<Arc<dyn ExecutionPlan>>,
}

impl LivePlan {
    pub(super) fn new(stage: Arc<Stage>, context: Arc<TaskContext>) -> Self {
        let is_entangled = is_entangled(&stage.plan);
        let current = Arc::new(RwLock::new(Arc::clone(&stage.plan)));
        Self { stage, context, is_entangled, current }
    }

    pub(super) fn stage(&self) -> &Stage {
        &self.stage
    }

    pub(super) fn context(&self) -> &TaskContext {
        &self.context
    }

    /// Returns an instance for an attempt. Of an entangled plan, a later attempt waits for those
    /// that run to end.
    ///
    /// # Errors
    /// If DataFusion cannot reset the plan.
    pub(super) async fn lease(&self, attempt: Attempt) -> Result<LiveLease> {
        let current = Arc::clone(&self.current);
        if attempt.0 == 0 || !self.is_entangled {
            let guard = current.read_owned().await;
            let plan = match attempt.0 {
                0 => Arc::clone(&guard),
                _ => reset_plan_states(Arc::clone(&guard))?,
            };
            return Ok(LiveLease { plan, _guard: guard });
        }
        let mut guard = current.write_owned().await;
        open_filters(&guard)?;
        let plan = reset_plan_states(Arc::clone(&guard))?;
        *guard = Arc::clone(&plan);
        Ok(LiveLease { plan, _guard: guard.downgrade() })
    }
}

impl LiveLease {
    pub(super) fn plan(&self) -> &Arc<dyn ExecutionPlan> {
        &self.plan
    }
}

fn is_entangled(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut found = false;
    // A plan that cannot be looked through is taken for the worse.
    let looked = plan.apply(|node| {
        found |= node.is::<ScalarSubqueryExec>();
        visit_filters(node, &mut |_filter| {
            found = true;
            Ok(())
        })
    });
    found || looked.is_err()
}

/// Lets every row through the filters that earlier runs have left behind.
fn open_filters(plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
    plan.apply(|node| visit_filters(node, &mut |filter| filter.update(lit(true))))?;
    Ok(())
}

fn visit_filters(
    node: &Arc<dyn ExecutionPlan>,
    visit: &mut dyn FnMut(&DynamicFilterPhysicalExpr) -> Result<()>,
) -> Result<TreeNodeRecursion> {
    node.apply_expressions(&mut |root: &Arc<dyn PhysicalExpr>| {
        root.apply(|expr| {
            if let Some(filter) = expr.downcast_ref::<DynamicFilterPhysicalExpr>() {
                visit(filter)?;
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(TreeNodeRecursion::Continue)
}
