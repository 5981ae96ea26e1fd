//! From a parsed statement to a logical plan, with the session's names.
//!
//! DataFusion's `SqlToRel` asks synchronously for tables, so all that a statement names are opened
//! before. Names that are no table may be files: `'path/x.parquet'` and ``parquet.`path` ``.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion::catalog::{TableFunctionArgs, TableProvider};
use datafusion::common::DFSchema;
use datafusion::common::DFSchemaRef;
use datafusion::common::TableReference;
use datafusion::common::config::ConfigOptions;
use datafusion::common::file_options::file_type::FileType;
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::datasource::file_format::format_as_file_type;
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::planner::{
    ContextProvider, ExprPlanner, RelationPlanner, TypePlanner,
};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::var_provider::{VarType, is_system_variables};
use datafusion::logical_expr::{
    AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::parser::{CopyToSource, Statement as PlanStatement};
use datafusion::sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast::{Query, Statement as SqlStatement};

use crate::error::{Error, Result};
use crate::sql::place::{place_of_function, place_of_table};
use crate::sql::rewrite::{self, RelationSchemas};

/// A plan, and whether its output names carry the marks of renamed duplicates.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) plan: LogicalPlan,
    pub(crate) has_renamed_outputs: bool,
}

/// What one statement's planning may look up.
pub(crate) struct Planner<'a> {
    state: &'a SessionState,
    tables: HashMap<TableReference, Arc<dyn TableSource>>,
    /// What a bare name could have meant, for suggestions.
    known_tables: Vec<String>,
    /// The types of the statement's parameters, in their order; empty if they are to be guessed.
    parameters: Vec<Option<FieldRef>>,
    /// Whether repeated names are being mended; the schemas asked for on the way must not start
    /// that again.
    is_renaming: AtomicBool,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(
        state: &'a SessionState,
        tables: HashMap<TableReference, Arc<dyn TableProvider>>,
        known_tables: Vec<String>,
    ) -> Self {
        let tables = tables
            .into_iter()
            .map(|(reference, provider)| (reference, provider_as_source(provider)))
            .collect();
        let is_renaming = AtomicBool::new(false);
        Self { state, tables, known_tables, parameters: Vec::new(), is_renaming }
    }

    /// Says what types the statement's parameters have.
    pub(crate) fn with_parameters(mut self, parameters: Vec<FieldRef>) -> Self {
        self.parameters = parameters.into_iter().map(Some).collect();
        self
    }

    /// Plans a statement after the rewrites.
    ///
    /// # Errors
    /// Whatever is wrong with the statement, with its place where one is known.
    pub(crate) fn plan(&self, mut statement: PlanStatement) -> Result<Planned> {
        rewrite_inner(&mut statement, self)?;
        let outcome = match self.to_plan(statement.clone()) {
            Ok(plan) => Ok(Planned { plan, has_renamed_outputs: false }),
            Err(error) if rewrite::is_duplicate_name(&error) => {
                self.plan_renamed(statement.clone(), error)
            }
            Err(error) => Err(Error::from(error)),
        };
        outcome.map_err(|error| locate(self.explain_window(error), &statement))
    }

    /// A window function is a function by another way of calling it.
    fn explain_window(&self, error: Error) -> Error {
        match error {
            Error::NotFound { kind: "function", name, position, .. }
                if self.state.window_functions().contains_key(&name) =>
            {
                let hint = Some(format!("{name}(...) OVER (ORDER BY ...)"));
                Error::Plan {
                    message: format!("the window function \"{name}\" needs OVER"),
                    position,
                    hint,
                }
            }
            other => other,
        }
    }

    /// Plans a statement again with its repeated output names marked.
    fn plan_renamed(
        &self,
        mut statement: PlanStatement,
        error: DataFusionError,
    ) -> Result<Planned> {
        let Some(inner) = inner_statement(&mut statement) else {
            return Err(error.into());
        };
        if self.is_renaming.swap(true, Ordering::Relaxed) {
            return Err(error.into());
        }
        let renamed = rewrite::rename_duplicate_outputs(inner, self);
        self.is_renaming.store(false, Ordering::Relaxed);
        if !renamed? {
            return Err(error.into());
        }
        match self.to_plan(statement) {
            Ok(plan) => Ok(Planned { plan, has_renamed_outputs: true }),
            Err(error) => {
                Err(rewrite::explain_renamed(&error).unwrap_or_else(|| Error::from(error)))
            }
        }
    }

    /// Plans a query, for callers that hold one.
    ///
    /// # Errors
    /// As [`Planner::plan`].
    pub(crate) fn plan_query(&self, query: Box<Query>) -> Result<Planned> {
        self.plan(PlanStatement::Statement(Box::new(SqlStatement::Query(query))))
    }

    fn to_plan(&self, statement: PlanStatement) -> DataFusionResult<LogicalPlan> {
        let planner = SqlToRel::new_with_options(self, self.parser_options());
        match statement {
            PlanStatement::Statement(statement) if !self.parameters.is_empty() => {
                let context = PlannerContext::new();
                let mut context = context.with_prepare_param_data_types(self.parameters.clone());
                planner.sql_statement_to_plan_with_context(*statement, &mut context)
            }
            statement => planner.statement_to_plan(statement),
        }
    }

    fn parser_options(&self) -> ParserOptions {
        let options = &self.state.config_options().sql_parser;
        ParserOptions {
            parse_float_as_decimal: options.parse_float_as_decimal,
            enable_ident_normalization: options.enable_ident_normalization,
            support_varchar_with_length: options.support_varchar_with_length,
            enable_options_value_normalization: options.enable_options_value_normalization,
            collect_spans: true,
            map_string_types_to_utf8view: options.map_string_types_to_utf8view,
            default_null_ordering: options.default_null_ordering.as_str().into(),
        }
    }

    /// Makes a schema of column definitions, with SQL's types as Arrow's.
    ///
    /// # Errors
    /// If a type is not known.
    pub(crate) fn schema_of_columns(
        &self,
        columns: Vec<datafusion::sql::sqlparser::ast::ColumnDef>,
    ) -> Result<datafusion::arrow::datatypes::Schema> {
        Ok(SqlToRel::new_with_options(self, self.parser_options()).build_schema(columns)?)
    }
}

/// Finds the SQL statement inside `EXPLAIN` and its like.
fn inner_statement(statement: &mut PlanStatement) -> Option<&mut SqlStatement> {
    match statement {
        PlanStatement::Statement(inner) => Some(inner),
        PlanStatement::Explain(explain) => inner_statement(&mut explain.statement),
        PlanStatement::CreateExternalTable(_)
        | PlanStatement::CopyTo(_)
        | PlanStatement::Reset(_) => None,
    }
}

/// Rewrites the SQL statement or the query inside a statement.
fn rewrite_inner(statement: &mut PlanStatement, schemas: &dyn RelationSchemas) -> Result<()> {
    match statement {
        PlanStatement::Statement(inner) => rewrite::rewrite_statement(inner, schemas),
        PlanStatement::Explain(explain) => rewrite_inner(&mut explain.statement, schemas),
        PlanStatement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => rewrite::rewrite_query(query, schemas),
            CopyToSource::Relation(_) => Ok(()),
        },
        PlanStatement::CreateExternalTable(_) | PlanStatement::Reset(_) => Ok(()),
    }
}

/// Looks for the place of what an error names, where the planner did not say it.
fn locate(error: Error, statement: &PlanStatement) -> Error {
    let place = match &error {
        Error::NotFound { kind: "table", name, position: None, .. } => {
            place_of_table(statement, name)
        }
        Error::NotFound { kind: "function", name, position: None, .. } => {
            place_of_function(statement, name)
        }
        _ => None,
    };
    error.at(place)
}

impl RelationSchemas for Planner<'_> {
    fn schema_of(&self, query: &Query) -> Result<DFSchemaRef> {
        Ok(Arc::clone(self.plan_query(Box::new(query.clone()))?.plan.schema()))
    }
}

impl ContextProvider for Planner<'_> {
    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        self.state.relation_planners()
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        None
    }

    fn get_table_source(&self, name: TableReference) -> DataFusionResult<Arc<dyn TableSource>> {
        self.tables.get(&name).cloned().ok_or_else(|| {
            let known = self.known_tables.iter().map(String::as_str);
            DataFusionError::from(Error::not_found("table", name.to_string(), known))
        })
    }

    fn get_file_type(&self, extension: &str) -> DataFusionResult<Arc<dyn FileType>> {
        self.state.get_file_format_factory(extension).map(format_as_file_type).ok_or_else(|| {
            DataFusionError::from(Error::not_found(
                "file format",
                extension,
                ["csv", "json", "parquet", "arrow", "avro"],
            ))
        })
    }

    fn get_table_function_source(
        &self,
        name: &str,
        arguments: Vec<Expr>,
    ) -> DataFusionResult<Arc<dyn TableSource>> {
        let functions = self.state.table_functions();
        let function = functions.get(name).ok_or_else(|| {
            let known = functions.keys().map(String::as_str);
            DataFusionError::from(Error::not_found("function", name, known))
        })?;
        let context = SimplifyContext::builder()
            .with_config_options(Arc::clone(self.state.config_options()))
            .with_query_execution_start_time(
                self.state.execution_props().query_execution_start_time,
            )
            .build();
        let simplifier = ExprSimplifier::new(context);
        let empty = DFSchema::empty();
        let arguments = arguments
            .into_iter()
            .map(|argument| {
                let coerced = simplifier.coerce(argument, &empty)?;
                simplifier.simplify(coerced)
            })
            .collect::<DataFusionResult<Vec<_>>>()?;
        let provider = function
            .create_table_provider_with_args(TableFunctionArgs::new(&arguments, self.state))?;
        Ok(provider_as_source(provider))
    }

    fn create_cte_work_table(
        &self,
        name: &str,
        schema: SchemaRef,
    ) -> DataFusionResult<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, names: &[String]) -> Option<DataType> {
        let kind = match names.is_empty() {
            true => return None,
            false if is_system_variables(names) => VarType::System,
            false => VarType::UserDefined,
        };
        let providers = self.state.execution_props().var_providers.as_ref()?;
        providers.get(&kind)?.get_type(names)
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.state.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}
