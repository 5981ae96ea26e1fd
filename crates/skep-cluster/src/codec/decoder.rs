//! Reads plans and expressions, node by node.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::common::{internal_datafusion_err, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::physical_planning_context::{ScalarSubqueryResults, SubqueryIndex};
use datafusion::physical_expr::expressions::CastExpr;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::scalar_subquery::{ScalarSubqueryExec, ScalarSubqueryLink};
use datafusion::physical_plan::sorts::partitioned_topk::{PartitionedTopKExec, WindowFnKind};
use datafusion_proto::physical_plan::from_proto::{
    parse_physical_expr_with_converter, parse_physical_sort_exprs,
};
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalPlanNodeExt,
    PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf;
use datafusion_proto::protobuf::physical_expr_node::ExprType;
use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;
use prost::Message;

use super::wire::{
    Cast, ExprExtension, ExprKind, PlanExtension, PlanKind, SortExprs, Subqueries, TopK,
};
use super::{aggregate, cached, exchange, scan, window};

/// Reads one stage.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    scopes: RefCell<HashMap<u32, ScalarSubqueryResults>>,
    /// Filters that operators share: whoever fills one and whoever reads it hold the same.
    shared: RefCell<HashMap<u64, Arc<dyn PhysicalExpr>>>,
}

impl Decoder {
    /// Reads a plan.
    ///
    /// # Errors
    /// If the bytes are not a plan of this build.
    pub(super) fn plan(
        &self,
        node: &protobuf::PhysicalPlanNode,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(PhysicalPlanType::Extension(extension)) = &node.physical_plan_type else {
            return node.try_into_physical_plan_with_context(ctx, self);
        };
        let PlanExtension { kind: Some(kind) } = read(&extension.node)? else {
            return internal_err!("an operator of no kind");
        };
        let inputs = || extension.inputs.iter().map(|input| self.plan(input, ctx));
        let input = || {
            let mut inputs = inputs();
            match (inputs.next(), inputs.next()) {
                (Some(input), None) => input,
                _ => internal_err!("the operator has one input"),
            }
        };
        match kind {
            PlanKind::Exchange(wire) => exchange::decode(&wire, self, ctx),
            PlanKind::CacheScan(wire) => cached::decode(&wire, self, ctx),
            PlanKind::DecodedGroups(wire) => cached::decode_groups(&wire, input()?),
            PlanKind::Subqueries(wire) => {
                let results = self.results_of(&wire);
                self.scopes.borrow_mut().insert(wire.scope, results.clone());
                self.subqueries(&wire, results, inputs().collect::<Result<Vec<_>>>()?)
            }
            PlanKind::Windows(wire) => window::decode(&wire, &input()?),
            PlanKind::Scan(wire) => scan::decode_files(&wire, &input()?, self, ctx),
            PlanKind::Series(wire) => scan::decode_series(&wire, &input()?, self, ctx),
            PlanKind::TopK(wire) => self.top_k(&wire, input()?, ctx),
            PlanKind::Groups(groups) => aggregate::decode(narrow(groups)?, &input()?),
            PlanKind::Segment(bytes) => self.plan(&read(&bytes)?, ctx),
        }
    }

    /// Reads an expression over a schema.
    ///
    /// # Errors
    /// If the bytes are not an expression of this build.
    pub(super) fn expr(
        &self,
        node: &protobuf::PhysicalExprNode,
        schema: &Schema,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let extension = match &node.expr_type {
            Some(ExprType::Extension(extension)) => extension,
            Some(ExprType::DynamicFilter(filter)) => {
                return self.dynamic_filter(node, filter, schema, ctx);
            }
            _ => return parse_physical_expr_with_converter(node, schema, ctx, self),
        };
        match read::<ExprExtension>(&extension.expr)?.kind {
            Some(ExprKind::Segment(bytes)) => self.expr(&read(&bytes)?, schema, ctx),
            Some(ExprKind::Subquery(subquery)) => {
                let results = self.scopes.borrow().get(&subquery.scope).cloned();
                let (Some(results), Some(node)) = (results, subquery.expr) else {
                    return internal_err!("a scalar subquery without its operator");
                };
                let scoped = ctx.with_scalar_subquery_results(results);
                parse_physical_expr_with_converter(&node, schema, &scoped, self)
            }
            Some(ExprKind::Cast(Cast { expr: Some(expr), field: Some(field) })) => {
                let expr = self.expr(&expr, schema, ctx)?;
                let field = Arc::new(Field::try_from(&field)?);
                Ok(Arc::new(CastExpr::new_with_target_field(expr, field, None)))
            }
            Some(ExprKind::Cast(_)) => internal_err!("a cast of nothing, or to nothing"),
            None => internal_err!("an expression of no kind"),
        }
    }

    /// Reads an order over a schema.
    ///
    /// # Errors
    /// If the bytes are not an order of this build.
    pub(super) fn order(
        &self,
        wire: &SortExprs,
        schema: &Schema,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<LexOrdering> {
        let exprs = parse_physical_sort_exprs(&wire.exprs, ctx, schema, self)?;
        LexOrdering::new(exprs).ok_or_else(|| internal_datafusion_err!("an order by nothing"))
    }

    /// Reads a filter that operators share: who fills it and who reads it get the same, each over
    /// columns of its own.
    fn dynamic_filter(
        &self,
        node: &protobuf::PhysicalExprNode,
        filter: &protobuf::PhysicalDynamicFilterNode,
        schema: &Schema,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let Some(id) = node.expr_id else { return internal_err!("a filter of no identity") };
        let known = self.shared.borrow().get(&id).cloned();
        let filled = match known {
            Some(known) => known,
            None => {
                // As its owner holds it. A derived filter knows the owner's columns too.
                let owned = protobuf::PhysicalDynamicFilterNode {
                    remapped_children: Vec::new(),
                    ..filter.clone()
                };
                let expr_type = Some(ExprType::DynamicFilter(Box::new(owned)));
                let owned = protobuf::PhysicalExprNode { expr_id: Some(id), expr_type };
                let owned = parse_physical_expr_with_converter(&owned, schema, ctx, self)?;
                self.shared.borrow_mut().insert(id, Arc::clone(&owned));
                owned
            }
        };
        if filter.remapped_children.is_empty() {
            return Ok(filled);
        }
        let columns = filter.remapped_children.iter().map(|child| self.expr(child, schema, ctx));
        filled.with_new_children(columns.collect::<Result<_>>()?)
    }

    fn results_of(&self, wire: &Subqueries) -> ScalarSubqueryResults {
        if let Some(known) = self.scopes.borrow().get(&wire.scope) {
            return known.clone();
        }
        let count = wire.places.iter().map(|place| usize::try_from(*place).unwrap_or(0) + 1).max();
        ScalarSubqueryResults::new(count.unwrap_or(0))
    }

    fn subqueries(
        &self,
        wire: &Subqueries,
        results: ScalarSubqueryResults,
        mut inputs: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if inputs.len() != wire.places.len() + 1 {
            return internal_err!("{} inputs, {} subqueries", inputs.len(), wire.places.len());
        }
        let input = inputs.remove(0);
        let links = wire.places.iter().zip(inputs).map(|(place, plan)| {
            let place = usize::try_from(*place).unwrap_or(usize::MAX);
            ScalarSubqueryLink { plan, index: SubqueryIndex::new(place) }
        });
        Ok(Arc::new(ScalarSubqueryExec::new(input, links.collect(), results)))
    }

    fn top_k(
        &self,
        wire: &TopK,
        input: Arc<dyn ExecutionPlan>,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(order) = &wire.order else { return internal_err!("a top k by nothing") };
        let order = self.order(order, input.schema().as_ref(), ctx)?;
        let (prefix_len, fetch) = (narrow(wire.prefix_len)?, narrow(wire.fetch)?);
        let kind = match wire.keeps_ties {
            true => WindowFnKind::Rank,
            false => WindowFnKind::RowNumber,
        };
        Ok(Arc::new(PartitionedTopKExec::try_new(input, order, prefix_len, fetch, kind)?))
    }
}

impl PhysicalProtoConverterExtension for Decoder {
    fn proto_to_execution_plan(
        &self,
        proto: &protobuf::PhysicalPlanNode,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.plan(proto, ctx)
    }

    fn execution_plan_to_proto(
        &self,
        _plan: &Arc<dyn ExecutionPlan>,
        _codec: &dyn PhysicalExtensionCodec,
    ) -> Result<protobuf::PhysicalPlanNode> {
        internal_err!("a decoder does not encode")
    }

    fn proto_to_physical_expr(
        &self,
        proto: &protobuf::PhysicalExprNode,
        schema: &Schema,
        ctx: &PhysicalPlanDecodeContext<'_>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        self.expr(proto, schema, ctx)
    }

    fn physical_expr_to_proto(
        &self,
        _expr: &Arc<dyn PhysicalExpr>,
        _codec: &dyn PhysicalExtensionCodec,
    ) -> Result<protobuf::PhysicalExprNode> {
        internal_err!("a decoder does not encode")
    }
}

/// Reads a message.
///
/// # Errors
/// If the bytes are none.
pub(super) fn read<M: Message + Default>(bytes: &[u8]) -> Result<M> {
    M::decode(bytes).map_err(|error| internal_datafusion_err!("a plan cannot be read: {error}"))
}

/// Narrows a count from the wire.
///
/// # Errors
/// If this machine cannot count so far.
pub(super) fn narrow(count: u64) -> Result<usize> {
    usize::try_from(count).map_err(|_error| internal_datafusion_err!("{count} does not fit"))
}
