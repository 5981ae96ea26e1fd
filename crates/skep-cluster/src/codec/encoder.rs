//! Writes plans and expressions, node by node.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use datafusion::common::tree_node::TreeNode;
use datafusion::common::{internal_err, not_impl_err};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::physical_planning_context::ScalarSubqueryResults;
use datafusion::physical_expr::expressions::CastExpr;
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::sorts::partitioned_topk::{PartitionedTopKExec, WindowFnKind};
use datafusion_proto::physical_plan::to_proto::{
    serialize_physical_expr_with_converter, serialize_physical_sort_exprs,
};
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalPlanNodeExt,
    PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf;
use datafusion_proto::protobuf::physical_expr_node::ExprType;
use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;
use prost::Message;
use skep_engine::{CacheScanExec, DecodeGroupsExec};

use super::wire::{
    Cast, ExprExtension, ExprKind, PlanExtension, PlanKind, SortExprs, Subqueries, Subquery, TopK,
};
use super::{aggregate, cached, exchange, scan, window};
use crate::exchange::plan::ExchangeReadExec;

/// How many nodes of a plan, or of an expression, are nested in one message. Up to four levels of
/// protobuf each, of the hundred that its decoder follows; types and literals need the rest.
const SEGMENT_DEPTH: usize = 8;

/// What DataFusion asks for what it does not know itself: functions travel by name, all else is in
/// our messages.
#[derive(Debug)]
pub(super) struct NamesOnly;

impl PhysicalExtensionCodec for NamesOnly {
    fn try_decode(
        &self,
        _buf: &[u8],
        _inputs: &[Arc<dyn ExecutionPlan>],
        _ctx: &TaskContext,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        internal_err!("an operator of no known kind")
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        _buf: &mut Vec<u8>,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        not_impl_err!("{} does not travel", node.name())
    }
}

/// Writes one stage.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    /// The results of scalar subqueries, each with whether their operator was seen.
    scopes: RefCell<Vec<(ScalarSubqueryResults, bool)>>,
    plan_depth: Cell<usize>,
    expr_depth: Cell<usize>,
}

impl Encoder {
    /// Writes a plan.
    ///
    /// # Errors
    /// If the plan holds what cannot travel; the error says what.
    pub(super) fn plan(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<protobuf::PhysicalPlanNode> {
        let depth = self.plan_depth.get();
        self.plan_depth.set(depth + 1);
        let node = self.plan_node(plan);
        self.plan_depth.set(depth);
        let node = node?;
        Ok(match depth > 0 && depth.is_multiple_of(SEGMENT_DEPTH) {
            true => extension(PlanKind::Segment(node.encode_to_vec()), Vec::new()),
            false => node,
        })
    }

    /// Writes an expression.
    ///
    /// # Errors
    /// If it holds what cannot travel.
    pub(super) fn expr(&self, expr: &Arc<dyn PhysicalExpr>) -> Result<protobuf::PhysicalExprNode> {
        let depth = self.expr_depth.get();
        self.expr_depth.set(depth + 1);
        let node = self.expr_node(expr);
        self.expr_depth.set(depth);
        let node = node?;
        Ok(match depth > 0 && depth.is_multiple_of(SEGMENT_DEPTH) {
            true => expr_extension(ExprKind::Segment(node.encode_to_vec())),
            false => node,
        })
    }

    /// Writes an order.
    ///
    /// # Errors
    /// If it holds what cannot travel.
    pub(super) fn order(&self, order: &LexOrdering) -> Result<SortExprs> {
        let exprs = order.iter().cloned();
        Ok(SortExprs { exprs: serialize_physical_sort_exprs(exprs, &NamesOnly, self)? })
    }

    /// Checks that each scalar subquery that is used has its operator in the stage.
    ///
    /// # Errors
    /// If not, which is a defect of the planner.
    pub(super) fn finish(&self) -> Result<()> {
        match self.scopes.borrow().iter().all(|(_, is_seen)| *is_seen) {
            true => Ok(()),
            false => internal_err!("a scalar subquery is used where it is not computed"),
        }
    }

    /// Tells whether this stage computes all scalar subqueries that an expression uses, as far as
    /// it was written.
    ///
    /// # Errors
    /// If the expression cannot be walked.
    pub(super) fn computes(&self, expr: &Arc<dyn PhysicalExpr>) -> Result<bool> {
        let scopes = self.scopes.borrow();
        let is_strange = expr.exists(|expr| {
            Ok(expr.downcast_ref::<ScalarSubqueryExpr>().is_some_and(|subquery| {
                !scopes.iter().any(|(known, is_seen)| {
                    *is_seen && ScalarSubqueryResults::ptr_eq(known, subquery.results())
                })
            }))
        })?;
        Ok(!is_strange)
    }

    fn plan_node(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<protobuf::PhysicalPlanNode> {
        check_limits(plan.as_ref())?;
        if let Some(read) = plan.downcast_ref::<ExchangeReadExec>() {
            return Ok(extension(PlanKind::Exchange(exchange::encode(read, self)?), Vec::new()));
        }
        if let Some(scan) = plan.downcast_ref::<CacheScanExec>() {
            return Ok(extension(
                PlanKind::CacheScan(Box::new(cached::encode(scan, self)?)),
                Vec::new(),
            ));
        }
        if let Some(groups) = plan.downcast_ref::<DecodeGroupsExec>() {
            let wire = cached::encode_groups(groups)?;
            return Ok(extension(PlanKind::DecodedGroups(wire), vec![self.plan(groups.input())?]));
        }
        if let Some(subqueries) = plan.downcast_ref::<ScalarSubqueryExec>() {
            return self.subqueries(subqueries);
        }
        if let Some(top_k) = plan.downcast_ref::<PartitionedTopKExec>() {
            return self.top_k(top_k);
        }
        if let Some((forward, windows)) = window::forward(plan)? {
            let ignores_nulls = window::ignores_nulls(&forward)?;
            let mut node = self.by_datafusion(&forward)?;
            if let Some(PhysicalPlanType::Window(window)) = &mut node.physical_plan_type {
                for (expr, ignores) in window.window_expr.iter_mut().zip(ignores_nulls) {
                    expr.ignore_nulls |= ignores;
                }
            }
            return Ok(extension(PlanKind::Windows(windows), vec![node]));
        }
        if let Some(groups) = aggregate::empty_groups(plan.as_ref()) {
            return Ok(extension(PlanKind::Groups(wide(groups)), vec![self.by_datafusion(plan)?]));
        }
        if let Some(scan) = scan::encode_files(plan.as_ref(), self)? {
            return Ok(extension(PlanKind::Scan(scan), vec![self.by_datafusion(plan)?]));
        }
        if let Some(series) = scan::encode_series(plan.as_ref(), self)? {
            let mut node = self.by_datafusion(plan)?;
            scan::widen_series(&mut node)?;
            return Ok(extension(PlanKind::Series(series), vec![node]));
        }
        self.by_datafusion(plan)
    }

    fn by_datafusion(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<protobuf::PhysicalPlanNode> {
        let plan = Arc::clone(plan);
        protobuf::PhysicalPlanNode::try_from_physical_plan_with_converter(plan, &NamesOnly, self)
    }

    fn subqueries(&self, subqueries: &ScalarSubqueryExec) -> Result<protobuf::PhysicalPlanNode> {
        let scope = self.scope(subqueries.results(), true)?;
        let mut inputs = vec![self.plan(subqueries.input())?];
        let mut places = Vec::with_capacity(subqueries.subqueries().len());
        for link in subqueries.subqueries() {
            inputs.push(self.plan(&link.plan)?);
            places.push(narrow(link.index.as_usize())?);
        }
        Ok(extension(PlanKind::Subqueries(Subqueries { scope, places }), inputs))
    }

    fn top_k(&self, top_k: &PartitionedTopKExec) -> Result<protobuf::PhysicalPlanNode> {
        let wire = TopK {
            order: Some(self.order(top_k.expr())?),
            prefix_len: wide(top_k.partition_prefix_len()),
            fetch: wide(top_k.fetch()),
            keeps_ties: match top_k.fn_kind() {
                WindowFnKind::RowNumber => false,
                WindowFnKind::Rank => true,
            },
        };
        Ok(extension(PlanKind::TopK(wire), vec![self.plan(top_k.input())?]))
    }

    fn expr_node(&self, expr: &Arc<dyn PhysicalExpr>) -> Result<protobuf::PhysicalExprNode> {
        if let Some(subquery) = expr.downcast_ref::<ScalarSubqueryExpr>() {
            let scope = self.scope(subquery.results(), false)?;
            let node = serialize_physical_expr_with_converter(expr, &NamesOnly, self)?;
            return Ok(expr_extension(ExprKind::Subquery(Subquery { scope, expr: Some(node) })));
        }
        if let Some(cast) = expr.downcast_ref::<CastExpr>() {
            if cast.cast_options().safe {
                return not_impl_err!(
                    "a cast that gives NULL for what it cannot cast does not travel"
                );
            }
            if cast.target_nullable().is_some() {
                let field = Some(cast.target_field().as_ref().try_into()?);
                let expr = Some(self.expr(cast.expr())?);
                return Ok(expr_extension(ExprKind::Cast(Cast { expr, field })));
            }
        }
        serialize_physical_expr_with_converter(expr, &NamesOnly, self)
    }

    fn scope(&self, results: &ScalarSubqueryResults, is_seen: bool) -> Result<u32> {
        let mut scopes = self.scopes.borrow_mut();
        let known =
            scopes.iter().position(|(known, _)| ScalarSubqueryResults::ptr_eq(known, results));
        let idx = known.unwrap_or_else(|| {
            scopes.push((results.clone(), false));
            scopes.len() - 1
        });
        scopes[idx].1 |= is_seen;
        narrow(idx)
    }
}

impl PhysicalProtoConverterExtension for Encoder {
    fn proto_to_execution_plan(
        &self,
        _proto: &protobuf::PhysicalPlanNode,
        _ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        internal_err!("an encoder does not decode")
    }

    fn execution_plan_to_proto(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        _codec: &dyn PhysicalExtensionCodec,
    ) -> Result<protobuf::PhysicalPlanNode> {
        self.plan(plan)
    }

    fn proto_to_physical_expr(
        &self,
        _proto: &protobuf::PhysicalExprNode,
        _schema: &datafusion::arrow::datatypes::Schema,
        _ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        internal_err!("an encoder does not decode")
    }

    fn physical_expr_to_proto(
        &self,
        expr: &Arc<dyn PhysicalExpr>,
        _codec: &dyn PhysicalExtensionCodec,
    ) -> Result<protobuf::PhysicalExprNode> {
        self.expr(expr)
    }
}

/// Refuses what DataFusion would cut off to 32 bits without a word.
fn check_limits(plan: &dyn ExecutionPlan) -> Result<()> {
    let skip = plan.downcast_ref::<GlobalLimitExec>().map(GlobalLimitExec::skip);
    match [plan.fetch(), skip].into_iter().flatten().find(|rows| u32::try_from(*rows).is_err()) {
        Some(rows) => not_impl_err!("a limit of {rows} rows does not travel"),
        None => Ok(()),
    }
}

fn extension(
    kind: PlanKind,
    inputs: Vec<protobuf::PhysicalPlanNode>,
) -> protobuf::PhysicalPlanNode {
    let node = PlanExtension { kind: Some(kind) }.encode_to_vec();
    let extension = protobuf::PhysicalExtensionNode { node, inputs };
    protobuf::PhysicalPlanNode { physical_plan_type: Some(PhysicalPlanType::Extension(extension)) }
}

fn expr_extension(kind: ExprKind) -> protobuf::PhysicalExprNode {
    let expr = ExprExtension { kind: Some(kind) }.encode_to_vec();
    let extension = protobuf::PhysicalExtensionExprNode { expr, inputs: Vec::new() };
    protobuf::PhysicalExprNode { expr_id: None, expr_type: Some(ExprType::Extension(extension)) }
}

/// Widens a count for the wire.
pub(super) fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn narrow(idx: usize) -> Result<u32> {
    match u32::try_from(idx) {
        Ok(idx) => Ok(idx),
        Err(_) => internal_err!("{idx} does not fit"),
    }
}
