//! Lateral joins: a derived table that refers to the tables before it in `FROM`.

use datafusion::error::Result;
use datafusion::logical_expr::JoinType;
use datafusion::logical_expr::logical_plan::{Join, LogicalPlan, Subquery, SubqueryAlias};

use super::attach::{Unnesting, equal_columns, join_on, restore};
use super::eligibility;
use super::unnest::refuse;
use std::sync::Arc;

impl Unnesting {
    /// Unnests the right side of a join if it is lateral and DataFusion would not do it.
    ///
    /// Inside another subquery it is always unnested: what is left for a rule of DataFusion's could
    /// not be carried over a domain.
    pub(super) fn lateral_join(&mut self, join: &Join) -> Result<Option<LogicalPlan>> {
        let Some(lateral) = lateral_side(&join.right) else {
            return Ok(None);
        };
        let outer = self.resolved(join.left.schema(), &lateral);
        let left_alone =
            self.depth == 0 && eligibility::is_joinable_lateral(&lateral, join.left.schema())?;
        if outer.is_empty() || left_alone {
            return Ok(None);
        }
        if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
            return Err(refuse(format!("a lateral subquery in a {} join", join.join_type)));
        }
        let unnested = self.over_domain(&join.left, &lateral, &outer)?;
        let mut condition =
            equal_columns(&outer, &unnested.domain, join.left.schema(), unnested.plan.schema());
        condition.extend(join.on.iter().map(|(left, right)| left.clone().eq(right.clone())));
        condition.extend(join.filter.clone());
        let left = join.left.as_ref().clone();
        let joined = join_on(left, unnested.plan, join.join_type, condition)?;
        restore(joined, &join.schema).map(Some)
    }
}

/// The plan of a lateral side without its marks, or `None` if the side is not lateral.
fn lateral_side(plan: &LogicalPlan) -> Option<LogicalPlan> {
    match plan {
        LogicalPlan::Subquery(Subquery { subquery, .. }) => Some(subquery.as_ref().clone()),
        LogicalPlan::SubqueryAlias(alias) => {
            let input = lateral_side(&alias.input)?;
            let alias = SubqueryAlias::try_new(Arc::new(input), alias.alias.clone()).ok()?;
            Some(LogicalPlan::SubqueryAlias(alias))
        }
        _ => None,
    }
}
