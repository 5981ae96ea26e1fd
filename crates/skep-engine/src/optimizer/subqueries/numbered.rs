//! A scalar aggregate over outer rows that may be evaluated only once.
//!
//! Where the outer rows come from a `LIMIT`, `random()` or a sum of floats there can be no domain
//! beside them.
//! For the one common shape, an aggregate over a filter, there is another way: number the outer
//! rows, join each with the rows that the filter gives it, keeping those that have none, and
//! aggregate by number.
//! It carries all outer columns through the aggregate and joins for equal outer values again and
//! again, so it is not the way for rows that can be evaluated twice.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::error::Result;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::logical_plan::{Aggregate, Filter, LogicalPlan, Projection, Window};
use datafusion::logical_expr::{Expr, JoinType, WindowFunctionDefinition, lit};

use super::attach::join_on;
use super::unnest::{Domain, Unnested, named_as, outer_references};
use crate::functions::row_number;

impl Domain<'_> {
    /// Computes `plan` for every row of the source, whose columns are the domain; `None` if it has
    /// not the shape.
    pub(super) fn numbered(&mut self, plan: &LogicalPlan) -> Result<Option<Unnested>> {
        match plan {
            LogicalPlan::Projection(projection) => match self.numbered(&projection.input)? {
                Some(input) => self.projection(projection, input).map(Some),
                None => Ok(None),
            },
            LogicalPlan::SubqueryAlias(alias) => match self.numbered(&alias.input)? {
                Some(input) => self.alias(alias, input).map(Some),
                None => Ok(None),
            },
            LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.is_empty() => {
                match aggregate.input.as_ref() {
                    LogicalPlan::Filter(filter) if outer_references(&filter.input).is_empty() => {
                        self.numbered_aggregate(aggregate, filter)
                    }
                    _ => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    fn numbered_aggregate(
        &mut self,
        aggregate: &Aggregate,
        filter: &Filter,
    ) -> Result<Option<Unnested>> {
        let rows = self.numbered_rows()?;
        let matched = self.names.next("matched");
        let columns = filter.input.schema().columns().into_iter().map(Expr::Column);
        let exprs = columns.chain([lit(true).alias(matched.as_str())]).collect();
        let inner = Projection::try_new(exprs, Arc::clone(&filter.input))?;
        let condition = vec![self.substitute(&filter.predicate, &rows.domain)?];
        let inner = LogicalPlan::Projection(inner);
        let groups = rows.plan.schema().columns().into_iter().map(Expr::Column).collect();
        let joined = join_on(rows.plan, inner, JoinType::Left, condition)?;
        let mut aggregates = Vec::with_capacity(aggregate.aggr_expr.len());
        for expr in &aggregate.aggr_expr {
            let name = expr.qualified_name();
            let Expr::AggregateFunction(mut function) =
                self.substitute(&expr.clone().unalias(), &rows.domain)?
            else {
                return Ok(None);
            };
            let present = Expr::Column(Column::new_unqualified(&matched)).is_not_null();
            function.params.filter = Some(Box::new(match function.params.filter.take() {
                Some(filter) => filter.and(present),
                None => present,
            }));
            aggregates.push(named_as(Expr::AggregateFunction(function), &name));
        }
        let plan = Aggregate::try_new(Arc::new(joined), groups, aggregates)?;
        Ok(Some(Unnested { plan: LogicalPlan::Aggregate(plan), domain: rows.domain }))
    }

    /// The source's rows, each with a number of its own, under names that clash with no others.
    fn numbered_rows(&mut self) -> Result<Unnested> {
        let number = self.names.next("number");
        let function = WindowFunctionDefinition::WindowUDF(row_number());
        let window = Expr::from(WindowFunction::new(function, vec![])).alias(number.as_str());
        let source = Arc::new(self.source.clone());
        let window = LogicalPlan::Window(Window::try_new(vec![window], source)?);
        let names: Vec<String> = self.outer.iter().map(|_| self.names.next("outer")).collect();
        let kept = self.outer.iter().zip(&names);
        let kept = kept.map(|(column, name)| Expr::Column(column.clone()).alias(name));
        let number = Expr::Column(Column::new_unqualified(number));
        let rows = Projection::try_new(kept.chain([number]).collect(), Arc::new(window))?;
        Ok(Unnested {
            plan: LogicalPlan::Projection(rows),
            domain: names.into_iter().map(Column::new_unqualified).collect(),
        })
    }
}
