//! `EXPLAIN DISTRIBUTED`: how the executor would run a plan.
//!
//! The other forms of `EXPLAIN` are plans of DataFusion's own. What becomes of a plan behind the
//! seam only the executor knows.

use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::sql::parser::Statement as PlanStatement;

use crate::error::{Error, Result};
use crate::guard::guard;
use crate::query::QueryStream;
use crate::session::Session;
use crate::sql::describe::text_table;

impl Session {
    /// Plans a statement as if to run it, and asks the executor what it would do.
    ///
    /// Shape: `plan_type` and `plan`, as in the other forms; one row for each part of the plan, as
    /// [`QueryExecutor::explain`](crate::QueryExecutor::explain) has them.
    pub(crate) async fn explain_distributed(
        &self,
        statement: PlanStatement,
    ) -> Result<QueryStream> {
        let state = self.state();
        let planned = self.inner.plan(&state, statement, self.scope()).await?;
        let plan = rows_of(planned.plan)?;
        let physical = guard(state.create_physical_plan(&plan)).await??;
        let context = state.task_ctx();
        let parts = guard(self.inner.engine.executor.explain(&physical, &context)).await??;
        text_table(["plan_type", "plan"], parts.into_iter().map(<[String; 2]>::from).collect())
    }
}

/// Returns the query of a statement: what it writes is written by the session, from the rows that
/// the executor gives it.
fn rows_of(plan: LogicalPlan) -> Result<LogicalPlan> {
    let what = match plan {
        LogicalPlan::Dml(statement) => return Ok(statement.input.as_ref().clone()),
        LogicalPlan::Copy(copy) => return Ok(copy.input.as_ref().clone()),
        LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(table)) => {
            return Ok(table.input.as_ref().clone());
        }
        LogicalPlan::Ddl(other) => other.name().to_owned(),
        LogicalPlan::Statement(other) => other.name().to_owned(),
        LogicalPlan::Explain(_) => "EXPLAIN".to_owned(),
        LogicalPlan::Analyze(_) => "EXPLAIN ANALYZE".to_owned(),
        query => return Ok(query),
    };
    let hint = "write EXPLAIN DISTRIBUTED and a query";
    Err(Error::unsupported(format!("EXPLAIN DISTRIBUTED of the statement {what}"), hint))
}
