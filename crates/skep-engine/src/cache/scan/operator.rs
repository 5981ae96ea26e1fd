//! The scan as DataFusion sees it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use datafusion::common::Statistics;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{DynamicFilterTracking, PhysicalExpr};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
    ReplaceChildrenOptions, StatisticsArgs,
};

use super::super::select::is_total;
use super::CacheScanExec;

impl DisplayAs for CacheScanExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            self.output.seen().fields().iter().map(|field| field.name().as_str()).collect();
        if matches!(format, DisplayFormatType::TreeRender) {
            writeln!(f, "table={}", self.shape.name)?;
            return writeln!(f, "projection={}", names.join(", "));
        }
        let all = self.shape.partition_count;
        write!(f, "CacheScanExec: table={}, partitions=", self.shape.name)?;
        if let Some(groups) = &self.groups {
            let (read, tasks) = (groups.partition_count(), groups.all().len());
            let of_all = if read < all { format!(" of {all}") } else { String::new() };
            let plural = if tasks == 1 { "" } else { "s" };
            write!(f, "{read}{of_all} in {tasks} task{plural}")?;
        } else {
            write!(f, "{all}")?;
        }
        write!(f, ", projection=[{}]", names.join(", "))?;
        if let Some(columns) = &self.shape.clustered {
            let name = |column: &usize| self.shape.schema.field(*column).name().clone();
            let names: Vec<String> = columns.iter().map(name).collect();
            write!(f, ", clustered_by=[{}]", names.join(", "))?;
        }
        if let Some(filter) = &self.filter {
            let what = if self.is_filter { "filter" } else { "pruning" };
            write!(f, ", {what}={filter}")?;
            if let Some((wanted, all)) = self.batches {
                write!(f, ", batches={wanted} of {all}")?;
            }
        }
        for filter in &self.dynamic_filters {
            write!(f, ", pruning={filter}")?;
        }
        if !self.output.codes().is_empty() {
            let coded: Vec<&str> = self.output.codes().iter().map(|place| names[*place]).collect();
            write!(f, ", codes=[{}]", coded.join(", "))?;
        }
        Ok(())
    }
}

impl ExecutionPlan for CacheScanExec {
    fn name(&self) -> &'static str {
        "CacheScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for filter in self.filter.iter().chain(&self.dynamic_filters) {
            if f(filter)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    /// Forgets what it counted, and filters that come anew. What it is pinned to stays: all
    /// instances of one query's plan read the same rows.
    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self {
            dynamic_filters: Vec::new(),
            metrics: ExecutionPlanMetricsSet::new(),
            ..self.as_ref().clone()
        }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.rows(partition, context)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _input_stats: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let all = match (&self.known, args.partition()) {
            (Some(known), Some(partition)) => {
                known.of_partitions(&self.partitions_of(partition)?, &self.read_schema)?
            }
            (Some(known), None) => Arc::clone(&known.total),
            (None, _) => Arc::new(Statistics::new_unknown(&self.read_schema)),
        };
        if !self.gives_as_seen() {
            let rows = all.num_rows;
            return Ok(Arc::new(Statistics::new_unknown(self.output.schema()).with_num_rows(rows)));
        }
        let given = |all: Arc<Statistics>| match self.read.len() == self.width() {
            true => all,
            false => {
                let places: Vec<usize> = (0..self.width()).collect();
                Arc::new(all.as_ref().clone().project(Some(&places)))
            }
        };
        // As many rows as the operator would be thought to leave whose work this is.
        let Some(filter) = self.conditions.over_projected().filter(|_| self.is_filter) else {
            return Ok(given(all));
        };
        FilterExec::try_new(filter, Arc::new(EmptyExec::new(Arc::clone(&self.read_schema))))?
            .statistics_from_inputs(&[all], args)
            .map(given)
    }

    /// Gives fewer columns, or in another order; what only conditions are about is not given.
    fn try_swapping_with_projection(
        &self,
        projection: &ProjectionExec,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let seen = self.output.seen();
        let place = |expr: &ProjectionExpr| {
            let column = expr.expr.downcast_ref::<Column>()?.index();
            let is_named = seen.fields().get(column).is_some_and(|it| *it.name() == expr.alias);
            is_named.then(|| self.projection.get(column).copied()).flatten()
        };
        let Some(places) = projection.expr().iter().map(place).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let distinct: BTreeSet<usize> = places.iter().copied().collect();
        // Filters from above are in terms of what is given now.
        if distinct.len() < places.len()
            || !self.dynamic_filters.is_empty()
            || !self.gives_as_seen()
        {
            return Ok(None);
        }
        Ok(Some(Arc::new(self.clone().replanned(places, self.filter.clone())?)))
    }

    /// Takes conditions on rows that cannot fail; and the filters that operators above find while
    /// they run, to skip batches. The rest is filtered above.
    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        child_pushdown_result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let mut scan = self.clone();
        let mut answers = Vec::with_capacity(child_pushdown_result.parent_filters.len());
        let mut taken = Vec::new();
        for result in &child_pushdown_result.parent_filters {
            let filter = &result.filter;
            if !self.gives_as_seen() {
                answers.push(PushedDown::No);
            } else if DynamicFilterTracking::classify(filter).contains_dynamic_filter() {
                scan.dynamic_filters.push(Arc::clone(filter));
                answers.push(PushedDown::No);
            } else if is_total(filter, self.output.seen()) {
                taken.push(self.over_all(filter)?);
                answers.push(PushedDown::Yes);
            } else {
                answers.push(PushedDown::No);
            }
        }
        let is_changed =
            scan.dynamic_filters.len() > self.dynamic_filters.len() || !taken.is_empty();
        let propagation = FilterPushdownPropagation::with_parent_pushdown_result(answers);
        if !is_changed {
            return Ok(propagation);
        }
        if !taken.is_empty() {
            scan = scan.with_conditions(taken)?;
        }
        Ok(propagation.with_updated_node(Arc::new(scan)))
    }
}
