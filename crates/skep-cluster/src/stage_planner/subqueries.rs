//! Scalar subqueries: run once, their values read by every stage that uses them.
//!
//! DataFusion puts one `ScalarSubqueryExec` over a query. It runs the subqueries and leaves their
//! values where expressions below it look them up. A cut takes expressions out of its reach, so
//! every stage that has such an expression gets a `ScalarSubqueryExec` of its own at its root, over
//! the same values' container, with readers of broadcasts in place of the subqueries.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::physical_planning_context::ScalarSubqueryResults;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_plan::scalar_subquery::{ScalarSubqueryExec, ScalarSubqueryLink};
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};

use crate::exchange::plan::Output;

/// The subqueries of one `ScalarSubqueryExec`, each a reader of a broadcast.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) links: Vec<ScalarSubqueryLink>,
    pub(super) results: ScalarSubqueryResults,
}

impl Scope {
    /// Puts the subqueries over a plan if it, or the way its rows are split, uses one of them.
    ///
    /// # Errors
    /// If the plan's expressions cannot be walked.
    pub(super) fn wrap(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        output: &Output,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let is_used = match output {
            Output::Hash { exprs, .. } => self.is_in_any(exprs)?,
            _ => false,
        };
        if !is_used && !self.is_used_by(&plan)? {
            return Ok(plan);
        }
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
        let links = self.links.iter().map(|link| {
            let plan = Arc::clone(&link.plan).replace_children(Vec::new(), options)?;
            Ok(ScalarSubqueryLink { plan, index: link.index })
        });
        let links = links.collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(ScalarSubqueryExec::new(plan, links, self.results.clone())))
    }

    fn is_used_by(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
        let mut is_used = false;
        plan.apply(|node| {
            node.apply_expressions(&mut |expr| {
                is_used |= self.is_in(expr)?;
                Ok(TreeNodeRecursion::Continue)
            })?;
            Ok(if is_used { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        Ok(is_used)
    }

    fn is_in_any(&self, exprs: &[Arc<dyn PhysicalExpr>]) -> Result<bool> {
        exprs.iter().try_fold(false, |found, expr| Ok(found || self.is_in(expr)?))
    }

    fn is_in(&self, expr: &Arc<dyn PhysicalExpr>) -> Result<bool> {
        expr.exists(|expr| {
            Ok(expr.downcast_ref::<ScalarSubqueryExpr>().is_some_and(|subquery| {
                ScalarSubqueryResults::ptr_eq(subquery.results(), &self.results)
            }))
        })
    }
}
