//! Finds the groups over cached tables that are better done over numbers.
//!
//! An aggregate qualifies if a column that it groups by is a text that it uses for nothing else, and
//! the column is kept as small dictionaries: to number their values must cost next to nothing against
//! the rows. It has to read a scan, through nothing but filters and projections that pass the column
//! on.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, InputOrderMode};

use super::codes::{DecodeGroupsExec, bits_of};
use super::scan::CacheScanExec;

/// The most columns of one code.
const MAX_COLUMNS: usize = 4;

/// The physical rule, for tables that this process keeps. It has to run after DataFusion's.
#[derive(Debug)]
pub(crate) struct CodeGroups;

impl PhysicalOptimizerRule for CodeGroups {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        coded(plan, &|scan| scan.hosted_table().is_none())
    }

    fn name(&self) -> &'static str {
        "code_groups"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Returns a plan that does its groups over cached tables over numbers in place of texts, where that
/// is worth it: for who runs plans over tables that are kept elsewhere, once it is known where.
///
/// # Errors
/// If DataFusion cannot put the plan together again.
pub fn code_groups(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    coded(plan, &|_| true)
}

fn coded(
    plan: Arc<dyn ExecutionPlan>,
    is_meant: &dyn Fn(&CacheScanExec) -> bool,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| match over_codes(&node, is_meant)? {
        Some(decoded) => Ok(Transformed::yes(decoded)),
        None => Ok(Transformed::no(node)),
    })
    .data()
}

fn over_codes(
    plan: &Arc<dyn ExecutionPlan>,
    is_meant: &dyn Fn(&CacheScanExec) -> bool,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(aggregate) = plan.downcast_ref::<AggregateExec>() else { return Ok(None) };
    let is_of_rows = matches!(
        aggregate.mode(),
        AggregateMode::Partial | AggregateMode::Single | AggregateMode::SinglePartitioned
    );
    let groups = aggregate.group_expr();
    if !is_of_rows
        || !groups.is_single()
        || aggregate.limit_options().is_some()
        || *aggregate.input_order_mode() != InputOrderMode::Linear
    {
        return Ok(None);
    }
    let Some(scan) = scan_below(aggregate.input()).filter(|scan| is_meant(scan)) else {
        return Ok(None);
    };
    // The columns of the input that have to stay what they are.
    let mut used = BTreeSet::new();
    for function in aggregate.aggr_expr() {
        let order = function.order_bys().iter().map(|sort| Arc::clone(&sort.expr));
        for expr in function.expressions().into_iter().chain(order) {
            use_of(&expr, &mut used);
        }
    }
    for filter in aggregate.filter_expr().iter().flatten() {
        use_of(filter, &mut used);
    }
    for (expr, _) in groups.expr().iter().filter(|(expr, _)| !expr.is::<Column>()) {
        use_of(expr, &mut used);
    }
    let used = used_of_scan(aggregate.input(), used);
    // For each group, its column of the scan.
    let mut taken = Vec::new();
    let mut places = Vec::new();
    for (group, (expr, _)) in groups.expr().iter().enumerate() {
        let Some(column) = expr.downcast_ref::<Column>() else { continue };
        let Some(place) = place_in_scan(aggregate.input(), column.index()) else { continue };
        if taken.len() < MAX_COLUMNS && !used.contains(&place) && !places.contains(&place) {
            taken.push(group);
            places.push(place);
        }
    }
    // Fewer columns leave more numbers to each.
    while let Some(many) =
        places.iter().position(|place| !scan.has_few(*place, bits_of(places.len())))
    {
        places.remove(many);
        taken.remove(many);
    }
    let is_left = |(group, (expr, _)): (usize, &(Arc<dyn PhysicalExpr>, String))| {
        let column = expr.downcast_ref::<Column>().filter(|_| !taken.contains(&group));
        let place = column.and_then(|column| place_in_scan(aggregate.input(), column.index()));
        place.is_some_and(|place| places.contains(&place))
    };
    // A column that is grouped by twice could be coded for only one of the two.
    if places.is_empty() || groups.expr().iter().enumerate().any(is_left) {
        return Ok(None);
    }
    let input = over_coded_scan(aggregate.input(), &places)?;
    let rest = groups.expr().iter().enumerate().filter(|(group, _)| !taken.contains(group));
    let rest = rest.map(|(_, group)| group.clone());
    let exprs = std::iter::once(groups.expr()[taken[0]].clone()).chain(rest).collect();
    let over = AggregateExec::try_new(
        *aggregate.mode(),
        PhysicalGroupBy::new_single(exprs),
        aggregate.aggr_expr().to_vec(),
        aggregate.filter_expr().to_vec(),
        Arc::clone(&input),
        input.schema(),
    )?;
    let properties = Arc::clone(aggregate.properties());
    Ok(Some(Arc::new(DecodeGroupsExec::try_new(Arc::new(over), taken, properties)?)))
}

fn use_of(expr: &Arc<dyn PhysicalExpr>, used: &mut BTreeSet<usize>) {
    used.extend(collect_columns(expr).iter().map(Column::index));
}

fn scan_below(plan: &Arc<dyn ExecutionPlan>) -> Option<&CacheScanExec> {
    if let Some(scan) = plan.downcast_ref::<CacheScanExec>() {
        return scan.gives_as_seen().then_some(scan);
    }
    scan_below(passing(plan)?)
}

/// Returns the input of an operator that may stand between a group and its scan.
fn passing(plan: &Arc<dyn ExecutionPlan>) -> Option<&Arc<dyn ExecutionPlan>> {
    let passes =
        plan.is::<FilterExec>() || plan.is::<ProjectionExec>() || plan.is::<CooperativeExec>();
    plan.children().first().copied().filter(|_| passes)
}

/// Returns which column of the scan a column is, if it is one.
fn place_in_scan(plan: &Arc<dyn ExecutionPlan>, column: usize) -> Option<usize> {
    if plan.is::<CacheScanExec>() {
        return Some(column);
    }
    let input = passing(plan)?;
    let below = if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        projection.expr().get(column)?.expr.downcast_ref::<Column>()?.index()
    } else if let Some(kept) =
        plan.downcast_ref::<FilterExec>().and_then(|it| it.projection().as_ref())
    {
        *kept.get(column)?
    } else {
        column
    };
    place_in_scan(input, below)
}

/// Returns which columns of the scan are used above it, if these are of a plan.
fn used_of_scan(plan: &Arc<dyn ExecutionPlan>, used: BTreeSet<usize>) -> BTreeSet<usize> {
    let Some(input) = passing(plan) else { return used };
    let mut below = BTreeSet::new();
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        for (place, expr) in projection.expr().iter().enumerate() {
            if used.contains(&place) || !expr.expr.is::<Column>() {
                use_of(&expr.expr, &mut below);
            }
        }
    } else if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        use_of(filter.predicate(), &mut below);
        match filter.projection() {
            Some(kept) => below.extend(used.iter().filter_map(|place| kept.get(*place)).copied()),
            None => below.extend(used),
        }
    } else {
        below = used;
    }
    used_of_scan(input, below)
}

/// Puts operators over the scan that gives codes.
fn over_coded_scan(
    plan: &Arc<dyn ExecutionPlan>,
    places: &[usize],
) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(scan) = plan.downcast_ref::<CacheScanExec>() {
        return Ok(Arc::new(scan.coded(places)?));
    }
    let Some(input) = passing(plan) else { return internal_err!("no scan to code") };
    over_other_types(plan, over_coded_scan(input, places)?)
}

/// Puts an operator over an input some of whose columns have other types, which it passes on.
pub(super) fn over_other_types(
    plan: &Arc<dyn ExecutionPlan>,
    input: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    match plan.downcast_ref::<ProjectionExec>() {
        // One that gets another input keeps the types that it had.
        Some(projection) => {
            Ok(Arc::new(ProjectionExec::try_new(projection.expr().to_vec(), input)?))
        }
        None => replace_children_if_necessary(Arc::clone(plan), vec![input]),
    }
}
