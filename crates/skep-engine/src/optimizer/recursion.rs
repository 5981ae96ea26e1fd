//! A bound on the steps of a recursive query.
//!
//! DataFusion runs the recursive term until it gives no row, for ever if it always does.
//! The rule here wraps both terms of every recursive query: the start of the static term sets a
//! count to zero, each start of the recursive term adds one to it, and one too many is an error.
//! A consumer that stops early, such as `LIMIT`, never comes that far.
//!
//! Memory is DataFusion's to bound: it accounts for the rows of a step, and for all rows when the
//! terms are joined by `UNION`.
//!
//! The wrapper is a node of ours that no default codec can serialise; neither is DataFusion's
//! recursive query itself, so both run where the query was planned.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::config::ConfigOptions;
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
    ReplaceChildrenOptions,
};

use crate::error::Error;
use crate::settings::{DEFAULT_MAX_RECURSION_DEPTH, SkepSettings};

/// The rule that bounds recursive queries by `skep.max_recursion_depth`.
#[derive(Debug, Default)]
pub(super) struct BoundRecursion;

impl PhysicalOptimizerRule for BoundRecursion {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let settings = config.extensions.get::<SkepSettings>();
        let bound =
            settings.map_or(DEFAULT_MAX_RECURSION_DEPTH, |settings| settings.max_recursion_depth);
        plan.transform_up(|plan| {
            let Some(recursive) = plan.downcast_ref::<RecursiveQueryExec>() else {
                return Ok(Transformed::no(plan));
            };
            let steps = Arc::new(Steps {
                query: recursive.name().to_owned(),
                bound,
                taken: AtomicUsize::new(0),
            });
            let term = |term, input: &Arc<dyn ExecutionPlan>| -> Arc<dyn ExecutionPlan> {
                let input = Arc::clone(input);
                Arc::new(RecursionBoundExec { term, input, steps: Arc::clone(&steps) })
            };
            let children = vec![
                term(Term::Static, recursive.static_term()),
                term(Term::Recursive, recursive.recursive_term()),
            ];
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            plan.replace_children(children, options).map(Transformed::yes)
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "bound_recursion"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// How far one recursive query has come.
#[derive(Debug)]
struct Steps {
    query: String,
    bound: usize,
    taken: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Term {
    Static,
    Recursive,
}

/// Counts how often the recursive term is started.
#[derive(Debug, Clone)]
struct RecursionBoundExec {
    term: Term,
    input: Arc<dyn ExecutionPlan>,
    steps: Arc<Steps>,
}

impl DisplayAs for RecursionBoundExec {
    fn fmt_as(&self, _kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.term {
            Term::Static => write!(f, "RecursionBoundExec: static term"),
            Term::Recursive => write!(f, "RecursionBoundExec: max_steps={}", self.steps.bound),
        }
    }
}

impl ExecutionPlan for RecursionBoundExec {
    fn name(&self) -> &'static str {
        "RecursionBoundExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return internal_err!("RecursionBoundExec has one child");
        };
        Ok(Arc::new(Self { input, ..Self::clone(&self) }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        match self.term {
            Term::Static => self.steps.taken.store(0, Ordering::Relaxed),
            Term::Recursive => {
                let taken = self.steps.taken.fetch_add(1, Ordering::Relaxed);
                if taken >= self.steps.bound {
                    return Err(exhausted(&self.steps));
                }
            }
        }
        self.input.execute(partition, context)
    }
}

fn exhausted(steps: &Steps) -> datafusion::error::DataFusionError {
    let Steps { query, bound, .. } = steps;
    let hint = format!(
        "if the recursion does end, raise the bound with SET skep.max_recursion_depth = {}",
        bound.saturating_mul(10).max(100)
    );
    Error::ResourcesExhausted {
        message: format!(
            "recursive query \"{query}\" is not done after {bound} steps \
             (skep.max_recursion_depth)"
        ),
        hint: Some(hint),
    }
    .into()
}
