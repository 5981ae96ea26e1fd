//! Pushes filters down by the positions of columns where their names are not enough.
//!
//! DataFusion's rules for filters find the column of a filter in the node below by its name. In
//! `x JOIN y` both sides may have an `id`, and the first one found gets the filter, so that rows
//! go missing. The same happens to the filters that joins, sorts and aggregates learn at run time.
//!
//! A plan where a name could mislead runs through the same rule with each of its nodes in a
//! [`PositionalExec`], which leaves to the node *whether* it lets a filter through and says by
//! itself *what* the filter is below. All other plans go to the rule as they are.
//!
//! **Invariant:** no [`PositionalExec`] is left in what the rule here returns.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::filter_pushdown::{
    ChildFilterDescription, ChildPushdownResult, FilterDescription, FilterPushdownPhase,
    FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
    ReplaceChildrenOptions, Statistics,
};

use super::columns::{ambiguous, column_below, repeats_a_name};

/// One of DataFusion's two rules for filters, told columns apart by their positions.
#[derive(Debug)]
pub(super) struct PushFiltersByPosition {
    pub(super) rule: Arc<dyn PhysicalOptimizerRule + Send + Sync>,
}

impl PhysicalOptimizerRule for PushFiltersByPosition {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !plan.exists(|node| Ok(ambiguous(node)))? {
            return self.rule.optimize(plan, config);
        }
        let wrap = |node| -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
            Ok(Transformed::yes(Arc::new(PositionalExec { node })))
        };
        let plan = self.rule.optimize(plan.transform_up(wrap).data()?, config)?;
        let unwrap = |plan: Arc<dyn ExecutionPlan>| {
            Ok(match plan.downcast_ref::<PositionalExec>() {
                Some(positional) => Transformed::yes(Arc::clone(&positional.node)),
                None => Transformed::no(plan),
            })
        };
        plan.transform_up(unwrap).data()
    }

    fn name(&self) -> &str {
        self.rule.name()
    }

    fn schema_check(&self) -> bool {
        self.rule.schema_check()
    }
}

/// A node that is asked for filters by position; it never runs.
#[derive(Debug, Clone)]
struct PositionalExec {
    node: Arc<dyn ExecutionPlan>,
}

impl PositionalExec {
    /// Whether the node itself would go by names with the filters that it is given to keep.
    fn keeps_out_filters(&self, phase: FilterPushdownPhase) -> bool {
        let absorbs = phase == FilterPushdownPhase::Pre
            && self.node.downcast_ref::<FilterExec>().is_some_and(|f| f.projection().is_some());
        let is_scan = self.node.children().is_empty();
        absorbs || is_scan && repeats_a_name(&self.node.schema())
    }

    /// The filter with the names that the node's columns have.
    fn named(&self, filter: &Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let schema = self.node.schema();
        let renamed = substituted(filter, |column| {
            let field = schema.fields().get(column.index())?;
            Some(Arc::new(Column::new(field.name(), column.index())) as _)
        })?;
        Ok(renamed.unwrap_or_else(|| Arc::clone(filter)))
    }
}

impl ExecutionPlan for PositionalExec {
    fn name(&self) -> &'static str {
        "PositionalExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.node.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        self.node.maintains_input_order()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.node.children()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.node.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() {
            return Ok(self);
        }
        let node = Arc::clone(&self.node).replace_children(children, options)?;
        Ok(Arc::new(Self { node }))
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
        self.node.execute(partition, context)
    }

    fn statistics_from_inputs(
        &self,
        input_stats: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        self.node.statistics_from_inputs(input_stats, args)
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        self.node.child_stats_requests(partition)
    }

    fn fetch(&self) -> Option<usize> {
        self.node.fetch()
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        self.node.with_fetch(limit)
    }

    fn gather_filters_for_pushdown(
        &self,
        phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        let named = parent_filters.iter().map(|filter| self.named(filter));
        let told = self.node.gather_filters_for_pushdown(
            phase,
            named.collect::<Result<Vec<_>>>()?,
            config,
        )?;
        let keeps_out = self.keeps_out_filters(phase);
        let mut description = FilterDescription::new();
        let own = told.self_filters().into_iter();
        let children = told.parent_filters().into_iter().zip(own).zip(self.node.children());
        for (idx, ((allowed, own), child)) in children.enumerate() {
            let mut below = Vec::with_capacity(parent_filters.len());
            for (filter, allowed) in parent_filters.iter().zip(allowed) {
                let rewritten = match allowed.discriminant {
                    PushedDown::Yes if !keeps_out => substituted(filter, |column| {
                        let expr = column_below(&self.node, column.index(), idx)?;
                        numbered(&expr)
                    })?,
                    _ => None,
                };
                below.push(rewritten.unwrap_or_else(out_of_reach));
            }
            let child = numbered_columns(child.schema().fields().len());
            let child = ChildFilterDescription::from_child(&below, &child)?;
            description = description.with_child(child.with_self_filters(own));
        }
        Ok(description)
    }

    fn handle_child_pushdown_result(
        &self,
        phase: FilterPushdownPhase,
        mut result: ChildPushdownResult,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        if self.keeps_out_filters(phase) {
            let kept_out = std::mem::take(&mut result.parent_filters).len();
            let mut told = self.node.handle_child_pushdown_result(phase, result, config)?;
            told.filters = vec![PushedDown::No; kept_out];
            return Ok(told);
        }
        for parent in &mut result.parent_filters {
            parent.filter = self.named(&parent.filter)?;
        }
        self.node.handle_child_pushdown_result(phase, result, config)
    }
}

impl DisplayAs for PositionalExec {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt_as(kind, f)
    }
}

/// Replaces all columns of a filter; `None` if `by` has nothing for one of them.
///
/// Bottom up, so that no replacement is looked at again.
fn substituted(
    filter: &Arc<dyn PhysicalExpr>,
    by: impl Fn(&Column) -> Option<Arc<dyn PhysicalExpr>>,
) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let mut complete = true;
    let replaced = Arc::clone(filter).transform_up(|expr| {
        let Some(column) = expr.downcast_ref::<Column>() else {
            return Ok(Transformed::no(expr));
        };
        if let Some(by) = by(column) {
            return Ok(Transformed::yes(by));
        }
        complete = false;
        Ok(Transformed::no(expr))
    })?;
    Ok(complete.then_some(replaced.data))
}

/// The expression with its columns named after their positions, as in [`numbered_columns`].
fn numbered(expr: &Arc<dyn PhysicalExpr>) -> Option<Arc<dyn PhysicalExpr>> {
    let number = |column: &Column| {
        let idx = column.index();
        Some(Arc::new(Column::new(&idx.to_string(), idx)) as _)
    };
    substituted(expr, number).ok().flatten()
}

/// A plan with columns whose names are their positions.
///
/// Only DataFusion can make the description of a filter that a child takes, and it does so by name.
fn numbered_columns(count: usize) -> Arc<dyn ExecutionPlan> {
    let fields: Vec<Field> =
        (0..count).map(|idx| Field::new(idx.to_string(), DataType::Null, true)).collect();
    Arc::new(EmptyExec::new(Arc::new(Schema::new(fields))))
}

/// A filter over no column of [`numbered_columns`], which is described as not taken.
fn out_of_reach() -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new("out of reach", usize::MAX))
}
