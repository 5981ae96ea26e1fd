//! Puts the stages together again: the plan for one process that they were cut from, or one that
//! means the same.

use std::sync::Arc;

use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use datafusion::logical_expr::physical_planning_context::ScalarSubqueryResults;
use datafusion::physical_plan::scalar_subquery::{ScalarSubqueryExec, ScalarSubqueryLink};
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};

use super::stage::{Stage, StagePlan};
use crate::exchange::plan::{ExchangeReadExec, stand_in};
use crate::ids::StageId;

/// Returns one plan for one process, with DataFusion's own operators in place of the exchanges.
///
/// # Errors
/// If a stage is missing or its output does not fit its reader.
pub fn rejoin(plan: &StagePlan) -> Result<Arc<dyn ExecutionPlan>> {
    let last = plan.stages.last().ok_or_else(|| internal_datafusion_err!("no stages"))?;
    Rejoin { plan, scopes: Vec::new() }.query(last.id)
}

/// The stages of one query block, below one place for its scalar subqueries.
struct Rejoin<'a> {
    plan: &'a StagePlan,
    scopes: Vec<(Vec<ScalarSubqueryLink>, ScalarSubqueryResults)>,
}

impl Rejoin<'_> {
    /// Joins a stage with all below it, its scalar subqueries once and on top of it all.
    fn query(mut self, id: StageId) -> Result<Arc<dyn ExecutionPlan>> {
        let stage = self.stage(id)?;
        let mut plan = self.node(&stage.plan)?;
        for (links, results) in self.scopes {
            plan = Arc::new(ScalarSubqueryExec::new(plan, links, results));
        }
        Ok(plan)
    }

    fn stage(&self, id: StageId) -> Result<Stage> {
        let stage = self.plan.stage(id).cloned();
        stage.ok_or_else(|| internal_datafusion_err!("stage {id} is missing"))
    }

    fn node(&mut self, node: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(read) = node.downcast_ref::<ExchangeReadExec>() {
            let producer = self.stage(read.producer())?;
            let input = self.node(&producer.plan)?;
            return stand_in(&input, &producer.output, read.exchange());
        }
        if let Some(subqueries) = node.downcast_ref::<ScalarSubqueryExec>() {
            self.open(subqueries)?;
            return self.node(subqueries.input());
        }
        let children = node.children();
        if children.is_empty() {
            return Ok(Arc::clone(node));
        }
        let children =
            children.into_iter().map(|child| self.node(child)).collect::<Result<Vec<_>>>()?;
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        Arc::clone(node).replace_children(children, options)
    }

    /// Notes the subqueries, unless another stage of the block had them too.
    fn open(&mut self, subqueries: &ScalarSubqueryExec) -> Result<()> {
        let results = subqueries.results();
        if self.scopes.iter().any(|(_, known)| ScalarSubqueryResults::ptr_eq(known, results)) {
            return Ok(());
        }
        let links = subqueries.subqueries().iter().map(|link| {
            let plan = match link.plan.downcast_ref::<ExchangeReadExec>() {
                Some(read) => {
                    let producer = self.stage(read.producer())?;
                    let nested = Rejoin { plan: self.plan, scopes: Vec::new() };
                    stand_in(&nested.query(producer.id)?, &producer.output, read.exchange())?
                }
                // Of a subtree that was not cut.
                None => Arc::clone(&link.plan),
            };
            Ok(ScalarSubqueryLink { plan, index: link.index })
        });
        let links = links.collect::<Result<Vec<_>>>()?;
        self.scopes.push((links, results.clone()));
        Ok(())
    }
}
