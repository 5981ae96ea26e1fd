//! Queries that come as Substrait plans in the place of text.
//!
//! DataFusion's consumer makes the logical plan; from there a plan goes the way of a statement: the
//! session's rules, its rights, its executor. What is read is ours: a table is what its name means in
//! the session, and a filter of a read is a filter of the plan, where the consumer would leave it to
//! a provider that may take it for a hint, or drop it.
//!
//! **Invariant:** nothing of a plan is left out without an error.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Field;
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, DFSchema, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion_substrait::extensions::Extensions;
use datafusion_substrait::logical_plan::consumer::{
    DefaultSubstraitConsumer, SubstraitConsumer, from_read_rel, from_substrait_named_struct,
    from_substrait_plan_with_consumer,
};
use datafusion_substrait::substrait::proto::expression::MaskExpression;
use datafusion_substrait::substrait::proto::plan_rel::RelType;
use datafusion_substrait::substrait::proto::read_rel::{NamedTable, ReadType};
use datafusion_substrait::substrait::proto::{Plan, ReadRel, Type};
use prost::Message;

use crate::error::{Error, Result};
use crate::guard::guard;
use crate::query::QueryStream;
use crate::session::{Scope, Session, SessionInner};
use crate::sql::{Description, Planned};

/// The versions of Substrait that are read: the least for which DataFusion's consumer has tests, and
/// the one that its messages are of.
pub const SUBSTRAIT_VERSIONS: [&str; 2] = ["0.29.0", "0.85.0"];

impl Session {
    /// Says what a query is that comes as a Substrait plan, without running it; as
    /// [`Session::describe`] otherwise.
    ///
    /// # Errors
    /// As [`Session::execute_substrait`].
    pub async fn describe_substrait(
        &self,
        plan: &[u8],
        values: Option<&RecordBatch>,
    ) -> Result<Description> {
        let session = self.with_text(&text_of(plan));
        let state = session.state();
        let planned = Box::pin(session.plan_substrait(&state, plan)).await?;
        Box::pin(session.describe_planned(&state, planned, values)).await
    }

    /// Runs a query that comes as a Substrait plan; as [`Session::execute_bound`] otherwise.
    ///
    /// # Errors
    /// [`Error::Plan`] for what is no such plan, or has no meaning; [`Error::Unsupported`] for
    /// relations, functions and types that there are not; [`Error::NotFound`] for tables.
    pub async fn execute_substrait(
        &self,
        plan: &[u8],
        values: Option<&RecordBatch>,
    ) -> Result<QueryStream> {
        let session = self.running_text(&text_of(plan));
        let work = async {
            let state = session.state();
            let planned = session.plan_substrait(&state, plan).await?;
            match values.filter(|values| values.num_columns() > 0) {
                None => session.inner.run_plan(&state, planned).await,
                Some(values) => session.run_bound_query(&state, planned, values).await,
            }
        };
        session.until_late(Box::pin(work)).await
    }

    async fn plan_substrait(&self, state: &SessionState, plan: &[u8]) -> Result<Planned> {
        let plan = Plan::decode(plan).map_err(|error| unreadable(&error.to_string()))?;
        check(&plan)?;
        let extensions = Extensions::try_from(&plan.extensions)?;
        let consumer = Consumer {
            inner: &self.inner,
            state,
            scope: self.scope(),
            base: DefaultSubstraitConsumer::new(&extensions, state),
            extensions: &extensions,
        };
        // The consumer takes for granted that a plan has what the specification wants it to have.
        let consumed = guard(from_substrait_plan_with_consumer(&consumer, &plan)).await;
        let plan = consumed.map_err(|panic| unreadable(&panic.to_string()))??;
        Ok(Planned { plan, has_renamed_outputs: false })
    }
}

/// What stands for a plan where the texts of statements are shown.
fn text_of(plan: &[u8]) -> String {
    format!("-- a Substrait plan of {} bytes", plan.len())
}

fn unreadable(why: &str) -> Error {
    Error::Plan {
        message: format!("the Substrait plan cannot be read: {why}"),
        position: None,
        hint: Some(format!(
            "a plan is a substrait.Plan of the versions {} to {}",
            SUBSTRAIT_VERSIONS[0], SUBSTRAIT_VERSIONS[1]
        )),
    }
}

/// Refuses what the consumer would pass over.
fn check(plan: &Plan) -> Result<()> {
    let [relation] = plan.relations.as_slice() else {
        let count = plan.relations.len();
        return Err(unreadable(&format!("it has {count} relations, and not one")));
    };
    if let Some(RelType::Root(root)) = &relation.rel_type
        && root.input.is_none()
    {
        return Err(unreadable("its root has no input"));
    }
    let has_extension =
        plan.advanced_extensions.as_ref().is_some_and(|it| it.enhancement.is_some());
    if has_extension {
        return Err(unsupported("an enhancement of a Substrait plan"));
    }
    Ok(())
}

fn unsupported(what: &str) -> Error {
    Error::unsupported(what, "name tables that are there, or send the query as SQL")
}

/// Reads a plan with the names of a session.
struct Consumer<'a> {
    inner: &'a SessionInner,
    state: &'a SessionState,
    scope: Scope,
    extensions: &'a Extensions,
    /// Keeps account of what subqueries and lambdas stand in.
    base: DefaultSubstraitConsumer<'a>,
}

impl Consumer<'_> {
    /// Makes the scan of a table: the columns that the plan expects, in its order.
    async fn scan(&self, table: &NamedTable, read: &ReadRel) -> DataFusionResult<LogicalPlan> {
        let reference = match table.names.as_slice() {
            [] => return Err(unreadable("a table has no name").into()),
            [table] => TableReference::bare(table.as_str()),
            [schema, table] => TableReference::partial(schema.as_str(), table.as_str()),
            [catalog, schema, table] => {
                TableReference::full(catalog.as_str(), schema.as_str(), table.as_str())
            }
            names => {
                return Err(unreadable(&format!("{} is no table", names.join("."))).into());
            }
        };
        let Some(base) = &read.base_schema else {
            return Err(unreadable(&format!("the read of {reference} has no schema")).into());
        };
        let expected = from_substrait_named_struct(self, base)?;
        let provider = self.open(&reference).await?;
        let source = provider_as_source(provider);
        let scan = LogicalPlanBuilder::scan(reference.clone(), source, None)?.build()?;
        let columns = expected
            .fields()
            .iter()
            .map(|field| column_of(&scan, &reference, field))
            .collect::<DataFusionResult<Vec<_>>>()?;
        if columns == scan.schema().columns() {
            return Ok(scan);
        }
        let columns = columns.into_iter().map(Expr::Column);
        LogicalPlanBuilder::from(scan).project(columns)?.build()
    }

    async fn open(&self, reference: &TableReference) -> Result<Arc<dyn TableProvider>> {
        let opened = self.inner.open_reference(self.state, reference, &self.scope).await?;
        opened.ok_or_else(|| {
            let known = self.inner.catalog.table_names(&self.scope.schema);
            let known = known.iter().map(String::as_str);
            let error = Error::not_found("table", reference.to_string(), known);
            self.inner.catalog.system().explain_missing(error)
        })
    }
}

/// Finds the column that a plan expects in a table.
fn column_of(
    scan: &LogicalPlan,
    table: &TableReference,
    expected: &Field,
) -> DataFusionResult<Column> {
    let schema = scan.schema();
    let Some((qualifier, field)) = schema.iter().find(|(_, field)| field.name() == expected.name())
    else {
        let known = schema.fields().iter().map(|field| field.name().as_str());
        return Err(Error::not_found("column", expected.name(), known).into());
    };
    let is_same = DFSchema::datatype_is_logically_equal(field.data_type(), expected.data_type());
    // A plan that takes a column for one without NULL may count on it.
    let is_null_safe = expected.is_nullable() || !field.is_nullable();
    if is_same && is_null_safe {
        return Ok(Column::new(qualifier.cloned(), field.name()));
    }
    let shown = |field: &Field| {
        let null = if field.is_nullable() { "" } else { " NOT NULL" };
        format!("{}{null}", field.data_type())
    };
    let error = Error::Plan {
        message: format!(
            "column \"{}\" of table \"{table}\" is {}, and the plan expects {}",
            field.name(),
            shown(field),
            shown(expected)
        ),
        position: None,
        hint: Some("make the plan anew with the schema of the table".to_owned()),
    };
    Err(error.into())
}

/// Returns the columns that a mask picks.
fn masked(mask: &MaskExpression, schema: &DFSchema) -> DataFusionResult<Vec<Expr>> {
    let columns = schema.columns();
    let items = mask.select.iter().flat_map(|select| &select.struct_items);
    items
        .map(|item| {
            if item.child.is_some() {
                return Err(unsupported("a mask of a column's inside").into());
            }
            let idx = usize::try_from(item.field).unwrap_or(usize::MAX);
            match columns.get(idx) {
                Some(column) => Ok(Expr::Column(column.clone())),
                None => {
                    let why = format!("a mask picks column {} of a table", item.field);
                    Err(unreadable(&why).into())
                }
            }
        })
        .collect()
}

#[async_trait]
impl SubstraitConsumer for Consumer<'_> {
    async fn resolve_table_ref(
        &self,
        reference: &TableReference,
    ) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        Ok(self.open(reference).await.map(Some)?)
    }

    fn get_extensions(&self) -> &Extensions {
        self.extensions
    }

    fn get_function_registry(&self) -> &impl FunctionRegistry {
        self.state
    }

    async fn consume_read(&self, read: &ReadRel) -> DataFusionResult<LogicalPlan> {
        let plan = match &read.read_type {
            Some(ReadType::NamedTable(table)) => self.scan(table, read).await?,
            Some(ReadType::VirtualTable(_)) => {
                let bare = ReadRel {
                    filter: None,
                    best_effort_filter: None,
                    projection: None,
                    ..read.clone()
                };
                from_read_rel(self, &bare).await?
            }
            Some(ReadType::LocalFiles(_)) => {
                return Err(unsupported("a read of files in a Substrait plan").into());
            }
            Some(_) => return Err(unsupported("this read of a Substrait plan").into()),
            None => return Err(unreadable("a read names nothing").into()),
        };
        let plan = match &read.filter {
            None => plan,
            Some(filter) => {
                let filter = self.consume_expression(filter, plan.schema()).await?;
                LogicalPlanBuilder::from(plan).filter(filter)?.build()?
            }
        };
        match read.projection.as_ref().filter(|mask| mask.select.is_some()) {
            None => Ok(plan),
            Some(mask) => {
                let columns = masked(mask, plan.schema())?;
                LogicalPlanBuilder::from(plan).project(columns)?.build()
            }
        }
    }

    fn push_outer_schema(&self, schema: Arc<DFSchema>) {
        self.base.push_outer_schema(schema);
    }

    fn pop_outer_schema(&self) {
        self.base.pop_outer_schema();
    }

    fn get_outer_schema(&self, steps_out: usize) -> Option<Arc<DFSchema>> {
        self.base.get_outer_schema(steps_out)
    }

    fn push_lambda_parameters(
        &self,
        parameters: &[Type],
        input_schema: &DFSchema,
    ) -> DataFusionResult<Vec<String>> {
        self.base.push_lambda_parameters(parameters, input_schema)
    }

    fn pop_lambda_parameters(&self) {
        self.base.pop_lambda_parameters();
    }

    fn lambda_variable(&self, steps_out: usize, field_idx: usize) -> DataFusionResult<Expr> {
        self.base.lambda_variable(steps_out, field_idx)
    }
}
