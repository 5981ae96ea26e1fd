//! Keeps `=` and `IS NOT DISTINCT FROM` apart among the keys of a join.
//!
//! A join says once for all its keys whether NULL equals NULL. DataFusion makes keys of
//! `IS NOT DISTINCT FROM` by saying yes, and later adds to them the `=` that it finds in the join's
//! condition or in a filter above, where NULL then equals NULL too.
//!
//! [`StrictKeys`] comes first and adds such keys itself, with the condition that they are not NULL.
//! [`JoinsApart`] hides joins where NULL equals NULL from the rule that would merge them with
//! others. Joins where NULL equals nothing are planned as ever.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, NullEquality, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::logical_plan::{Extension, Join, LogicalPlan};
use datafusion::logical_expr::utils::{
    can_hash, conjunction, find_valid_equijoin_key_pair, split_conjunction,
};
use datafusion::logical_expr::{
    Expr, ExprSchemable, JoinType, Operator, UserDefinedLogicalNodeCore,
};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// Makes keys of the `=` in the condition of a join where NULL equals NULL.
#[derive(Debug, Default)]
pub(super) struct StrictKeys;

impl OptimizerRule for StrictKeys {
    fn name(&self) -> &'static str {
        "strict_keys"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        match plan {
            LogicalPlan::Join(join) if join.null_equality == NullEquality::NullEqualsNull => {
                strict_keys(join)
            }
            plan => Ok(Transformed::no(plan)),
        }
    }
}

fn strict_keys(mut join: Join) -> Result<Transformed<LogicalPlan>> {
    if join.on.is_empty() {
        // Keys that are found later are of an `=`.
        join.null_equality = NullEquality::NullEqualsNothing;
        return Ok(Transformed::yes(LogicalPlan::Join(join)));
    }
    let Some(filter) = join.filter.take() else {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    };
    let mut conditions = Vec::new();
    let mut changed = false;
    for condition in split_conjunction(&filter) {
        let Some((left, right)) = key_pair(&join, condition)? else {
            conditions.push(condition.clone());
            continue;
        };
        changed = true;
        if left.nullable(join.left.schema())? && right.nullable(join.right.schema())? {
            // The two are equal. The condition is on the side where it may become a filter.
            let side = match join.join_type {
                JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {
                    &right
                }
                _ => &left,
            };
            conditions.push(side.clone().is_not_null());
        }
        if !join.on.contains(&(left.clone(), right.clone())) {
            join.on.push((left, right));
        }
    }
    if !changed {
        join.filter = Some(filter);
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    }
    join.filter = conjunction(conditions);
    Ok(Transformed::yes(LogicalPlan::Join(join)))
}

/// The sides of an `=` that DataFusion would make a key.
fn key_pair(join: &Join, condition: &Expr) -> Result<Option<(Expr, Expr)>> {
    let Expr::BinaryExpr(binary) = condition else {
        return Ok(None);
    };
    if binary.op != Operator::Eq {
        return Ok(None);
    }
    let (left, right) = (join.left.schema(), join.right.schema());
    let pair = find_valid_equijoin_key_pair(&binary.left, &binary.right, left, right)?;
    let Some(pair) = pair else {
        return Ok(None);
    };
    let hashable = can_hash(&pair.0.get_type(left)?) && can_hash(&pair.1.get_type(right)?);
    Ok(hashable.then_some(pair))
}

/// DataFusion's rule that merges inner joins, which takes NULL's equality from one for all of them.
#[derive(Debug)]
pub(super) struct JoinsApart {
    pub(super) rule: Arc<dyn OptimizerRule + Send + Sync>,
}

impl OptimizerRule for JoinsApart {
    fn name(&self) -> &str {
        self.rule.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.rule.apply_order()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let mut found = false;
        plan.apply_with_subqueries(|node| {
            found |= equates_nulls(node);
            Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        if !found {
            return self.rule.rewrite(plan, config);
        }
        let hidden = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Join(join) if equates_nulls_inside(&join) => {
                let node = Arc::new(HiddenJoin { join });
                Ok(Transformed::yes(LogicalPlan::Extension(Extension { node })))
            }
            node => Ok(Transformed::no(node)),
        });
        self.rule.rewrite(hidden.data()?, config)?.transform_data(|plan| {
            plan.transform_up_with_subqueries(|node| {
                let join = match &node {
                    LogicalPlan::Extension(extension) => extension
                        .node
                        .as_any()
                        .downcast_ref::<HiddenJoin>()
                        .map(|hidden| &hidden.join),
                    _ => None,
                };
                Ok(match join {
                    Some(join) => Transformed::yes(LogicalPlan::Join(join.clone())),
                    None => Transformed::no(node),
                })
            })
        })
    }
}

fn equates_nulls(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Join(join) if equates_nulls_inside(join))
}

fn equates_nulls_inside(join: &Join) -> bool {
    join.join_type == JoinType::Inner
        && join.null_equality == NullEquality::NullEqualsNull
        && !join.on.is_empty()
}

/// A join that a rule is not to see as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct HiddenJoin {
    join: Join,
}

impl PartialOrd for HiddenJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.join.partial_cmp(&other.join).filter(|ordering| ordering.is_ne() || self == other)
    }
}

impl UserDefinedLogicalNodeCore for HiddenJoin {
    fn name(&self) -> &'static str {
        "HiddenJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.join.left, &self.join.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.join.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HiddenJoin")
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Ok([left, right]) = <[LogicalPlan; 2]>::try_from(inputs) else {
            return plan_err!("HiddenJoin has two inputs");
        };
        let (left, right) = (Arc::new(left), Arc::new(right));
        Ok(Self { join: Join { left, right, ..self.join.clone() } })
    }
}
