//! Statements that are looked at before they run, and that run with values for their parameters.
//!
//! A statement with values is planned with their types, as if they were columns, and the values are
//! put in after that: so an operator sees the types that it would see in a statement written out.
//!
//! **Invariant:** describing a statement changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::{
    DmlStatement, Expr, LogicalPlan, LogicalPlanBuilder, Statement as PlanCommand, Values, ident,
};
use datafusion::sql::parser::Statement as PlanStatement;

use crate::error::{Error, Result};
use crate::guard::guard;
use crate::query::{QueryStream, StatementKind};
use crate::session::Session;
use crate::sql::placeholder::Numbered;
use crate::sql::{Planned, Statement, rewrite};

/// The name under which rows of parameters are scanned.
const PARAMETERS: &str = "parameters";

/// What is known of a statement before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Whether its rows are its answer; otherwise it changes something, and has none.
    pub is_query: bool,
    /// The columns of the answer. With parameters that are not bound, types that hang on theirs are
    /// the most likely ones.
    pub schema: SchemaRef,
    /// The parameters in their order, `$1` first; of a type that cannot be guessed, text.
    pub parameters: Vec<Field>,
}

impl Description {
    fn change(parameters: Vec<Field>) -> Self {
        Self { is_query: false, schema: Arc::new(Schema::empty()), parameters }
    }

    fn query(schema: SchemaRef) -> Self {
        Self { is_query: true, schema, parameters: Vec::new() }
    }
}

impl Session {
    /// Says what a statement is without running it. Parameters are `$1`, `$2`, ... or `?`; `values`
    /// is one row of them, if they are known.
    ///
    /// # Errors
    /// Whatever is wrong with the statement, with its place in the text.
    pub async fn describe(
        &self,
        statement: &str,
        values: Option<&RecordBatch>,
    ) -> Result<Description> {
        let numbered = Numbered::of(statement);
        let described = async {
            let parsed = self.parse(&numbered.text)?;
            Box::pin(self.with_text(statement).describe_statement(parsed, values)).await
        };
        described.await.map_err(|error| numbered.restore(error))
    }

    /// Runs one statement with values for its parameters, `$1`, `$2`, ... or `?`.
    ///
    /// Shape of the values: a row is one run; its columns are the parameters in their order. A query
    /// takes one row. An `INSERT` of `VALUES` with many rows is one change, whole or not at all; any
    /// other statement runs once for each row.
    ///
    /// # Errors
    /// As [`Session::execute`]; if there are more or fewer values than parameters.
    pub async fn execute_bound(
        &self,
        statement: &str,
        values: &RecordBatch,
    ) -> Result<QueryStream> {
        let numbered = Numbered::of(statement);
        let executed = async {
            let parsed = self.parse(&numbered.text)?;
            let session = self.running(statement, &parsed);
            match parsed {
                Statement::Plan(statement) => {
                    session.until_late(Box::pin(session.run_bound(*statement, values))).await
                }
                statement if values.num_columns() == 0 => {
                    session.until_late(Box::pin(session.run_statement(statement))).await
                }
                _ => Err(Error::unsupported(
                    "parameters in this statement",
                    "queries and INSERT take parameters",
                )),
            }
        };
        executed.await.map_err(|error| numbered.restore(error))
    }

    async fn describe_statement(
        &self,
        statement: Statement,
        values: Option<&RecordBatch>,
    ) -> Result<Description> {
        match statement {
            Statement::Plan(statement) => self.describe_plan(*statement, values).await,
            // These look, and cost nothing else.
            Statement::ExplainDistributed(_)
            | Statement::Show(_)
            | Statement::DescribeTable { .. }
            | Statement::DescribeQuery(_) => {
                Ok(Description::query(self.run_statement(statement).await?.schema()))
            }
            Statement::Copy(_)
            | Statement::CreateExternalTable(_)
            | Statement::CreateTable(_)
            | Statement::CreateView(_)
            | Statement::CreateSchema { .. }
            | Statement::Drop(_)
            | Statement::Set { .. }
            | Statement::Reset(_)
            | Statement::Use(_)
            | Statement::Cache(_)
            | Statement::Uncache { .. }
            | Statement::ClearCache
            | Statement::Refresh(_) => Ok(Description::change(Vec::new())),
        }
    }

    async fn describe_plan(
        &self,
        statement: PlanStatement,
        values: Option<&RecordBatch>,
    ) -> Result<Description> {
        let state = self.state();
        let types = values.map(parameter_types).unwrap_or_default();
        let planned = self.inner.plan_with(&state, statement, self.scope(), types).await?;
        self.describe_planned(&state, planned, values).await
    }

    /// Says what a plan is, without running it.
    pub(crate) async fn describe_planned(
        &self,
        state: &SessionState,
        planned: Planned,
        values: Option<&RecordBatch>,
    ) -> Result<Description> {
        let parameters = parameters_of(&planned.plan)?;
        let plan = match planned.plan {
            LogicalPlan::Dml(_) => return Ok(Description::change(parameters)),
            LogicalPlan::Statement(PlanCommand::Execute(execute)) => {
                let plan = LogicalPlan::Statement(PlanCommand::Execute(execute));
                let frame = self.inner.context.execute_logical_plan(plan).await?;
                frame.into_parts().1
            }
            LogicalPlan::Statement(_) | LogicalPlan::Ddl(_) => {
                return Ok(Description::change(Vec::new()));
            }
            plan => plan,
        };
        let plan = match values {
            Some(values) if !parameters.is_empty() => bind(plan, &row(values, 0)?)?,
            _ => plan,
        };
        let is_bound = parameters.is_empty() || values.is_some();
        self.inner.policy.check_plan(&plan)?;
        // Only the physical plan knows for sure which columns may be NULL.
        let schema = match is_bound {
            true => guard(state.create_physical_plan(&plan)).await??.schema(),
            false => Arc::new(plan.schema().as_arrow().clone()),
        };
        let schema = match planned.has_renamed_outputs {
            true => rewrite::restore_output_names(&schema),
            false => schema,
        };
        Ok(Description { is_query: true, schema, parameters })
    }

    async fn run_bound(
        &self,
        statement: PlanStatement,
        values: &RecordBatch,
    ) -> Result<QueryStream> {
        let state = self.state();
        let types = parameter_types(values);
        let is_plain = values.num_columns() == 0;
        if is_plain {
            let statement = Statement::Plan(Box::new(statement));
            return Box::pin(self.run_statement(statement)).await;
        }
        let planned = self.inner.plan_with(&state, statement, self.scope(), types).await?;
        match planned.plan {
            LogicalPlan::Dml(change) => self.insert_rows(&state, change, values).await,
            LogicalPlan::Statement(_) | LogicalPlan::Ddl(_) => Err(Error::unsupported(
                "parameters in this statement",
                "queries and INSERT take parameters",
            )),
            plan => self.run_bound_query(&state, Planned { plan, ..planned }, values).await,
        }
    }

    /// Runs the plan of a query with one row of values for its parameters.
    pub(crate) async fn run_bound_query(
        &self,
        state: &SessionState,
        planned: Planned,
        values: &RecordBatch,
    ) -> Result<QueryStream> {
        if values.num_rows() != 1 {
            return Err(Error::Plan {
                message: format!("a query takes one row of parameters, not {}", values.num_rows()),
                position: None,
                hint: Some("run it once for each row".to_owned()),
            });
        }
        let plan = bind(planned.plan, &row(values, 0)?)?;
        self.inner.run_plan(state, Planned { plan, ..planned }).await
    }

    async fn insert_rows(
        &self,
        state: &SessionState,
        change: DmlStatement,
        values: &RecordBatch,
    ) -> Result<QueryStream> {
        let whole = LogicalPlan::Dml(change.clone());
        check_count(&whole, values.num_columns())?;
        if let Some(input) = rows_for_values(&change.input, values)? {
            let change = DmlStatement { input: Arc::new(input), ..change };
            return self.insert(state, change).await;
        }
        let mut row_count = 0;
        for idx in 0..values.num_rows() {
            let LogicalPlan::Dml(bound) = bind(whole.clone(), &row(values, idx)?)? else {
                return Err(Error::Internal {
                    message: "a change became something else".to_owned(),
                    source: None,
                });
            };
            if let StatementKind::Write { row_count: count } =
                self.insert(state, bound).await?.kind()
            {
                row_count += count;
            }
        }
        Ok(QueryStream::done(StatementKind::Write { row_count }))
    }
}

/// The types of values, as those of parameters.
fn parameter_types(values: &RecordBatch) -> Vec<FieldRef> {
    let schema = values.schema();
    let fields = schema.fields().iter().enumerate();
    let field = |(idx, field): (usize, &FieldRef)| {
        Arc::new(Field::new(format!("${}", idx + 1), field.data_type().clone(), true))
    };
    fields.map(field).collect()
}

/// Lists a plan's parameters in their order.
fn parameters_of(plan: &LogicalPlan) -> Result<Vec<Field>> {
    let mut types = HashMap::new();
    let mut count = 0;
    for (id, field) in plan.get_parameter_fields()? {
        let idx = parameter_idx(&id)?;
        count = count.max(idx + 1);
        types.insert(idx, field);
    }
    if count > usize::from(u16::MAX) {
        return Err(Error::plan(format!("the parameter ${count} is too many")));
    }
    let field = |idx| {
        let known: Option<FieldRef> = types.remove(&idx).flatten();
        let known = known.map(|field| field.data_type().clone());
        let data_type = known.filter(|known| *known != DataType::Null).unwrap_or(DataType::Utf8);
        Field::new(format!("${}", idx + 1), data_type, true)
    };
    Ok((0..count).map(field).collect())
}

/// Reads `$1` as 0.
fn parameter_idx(id: &str) -> Result<usize> {
    let number = id.strip_prefix('$').and_then(|number| number.parse::<usize>().ok());
    number.and_then(|number| number.checked_sub(1)).ok_or_else(|| Error::Plan {
        message: format!("the parameter {id} has no number"),
        position: None,
        hint: Some("write ?, or $1, $2 and so on".to_owned()),
    })
}

fn check_count(plan: &LogicalPlan, given: usize) -> Result<()> {
    let wanted = parameters_of(plan)?.len();
    if wanted == given {
        return Ok(());
    }
    let parameters = if wanted == 1 { "parameter" } else { "parameters" };
    let values = if given == 1 { "value is" } else { "values are" };
    Err(Error::plan(format!("the statement has {wanted} {parameters}, but {given} {values} given")))
}

fn row(values: &RecordBatch, idx: usize) -> Result<Vec<ScalarValue>> {
    if idx >= values.num_rows() {
        return Err(Error::plan("the parameters have no values"));
    }
    let columns = values.columns().iter();
    Ok(columns.map(|column| ScalarValue::try_from_array(column, idx)).collect::<Result<_, _>>()?)
}

/// Puts values in the places of a plan's parameters.
fn bind(plan: LogicalPlan, values: &[ScalarValue]) -> Result<LogicalPlan> {
    check_count(&plan, values.len())?;
    let mut bound = values.to_vec();
    for (id, field) in plan.get_parameter_fields()? {
        let value = &mut bound[parameter_idx(&id)?];
        // Only the VALUES of an INSERT have types of their own: the table's.
        if let Some(field) = field
            && *field.data_type() != value.data_type()
        {
            *value = value.cast_to(field.data_type())?;
        }
    }
    Ok(plan.with_param_values(ParamValues::from(bound))?)
}

/// Makes one plan of `VALUES ($1, ...)` and many rows of parameters; `None` if the parameters are
/// anywhere else too.
fn rows_for_values(input: &LogicalPlan, values: &RecordBatch) -> Result<Option<LogicalPlan>> {
    let (mut lists, mut others) = (0, 0);
    input.apply_with_subqueries(|plan| {
        let mut has_parameter = false;
        plan.apply_expressions(|expr| {
            has_parameter |= expr.exists(|expr| Ok(matches!(expr, Expr::Placeholder(_))))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        match plan {
            LogicalPlan::Values(list) if list.values.len() == 1 && has_parameter => lists += 1,
            _ if has_parameter => others += 1,
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if (lists, others) != (1, 0) {
        return Ok(None);
    }
    let schema = Schema::new(parameter_types(values));
    let batch = RecordBatch::try_new(Arc::new(schema), values.columns().to_vec());
    let batch = batch.map_err(datafusion::error::DataFusionError::from)?;
    let table = Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?);
    let replaced = input.clone().transform_up(|plan| match plan {
        LogicalPlan::Values(list) if list.values.len() == 1 => {
            let source = provider_as_source(Arc::<MemTable>::clone(&table));
            let scan = LogicalPlanBuilder::scan(PARAMETERS, source, None)?;
            Ok(Transformed::yes(scan.project(columns_for(&list)?)?.build()?))
        }
        other => Ok(Transformed::no(other)),
    })?;
    // The columns have another relation now, but the same names.
    Ok(Some(replaced.data.recompute_schema()?))
}

/// The expressions of a row of `VALUES`, with columns in the places of parameters.
fn columns_for(list: &Values) -> Result<Vec<Expr>, datafusion::error::DataFusionError> {
    let Some(row) = list.values.first() else { return Ok(Vec::new()) };
    let columns = row.iter().zip(list.schema.fields()).map(|(expr, field)| {
        let replaced = expr.clone().transform_up(|expr| match expr {
            Expr::Placeholder(Placeholder { id, field }) => {
                let column = ident(id);
                Ok(Transformed::yes(match field {
                    Some(field) => {
                        datafusion::logical_expr::cast(column, field.data_type().clone())
                    }
                    None => column,
                }))
            }
            other => Ok(Transformed::no(other)),
        })?;
        let cast = datafusion::logical_expr::cast(replaced.data, field.data_type().clone());
        Ok(cast.alias(field.name()))
    });
    columns.collect()
}
