//! What one user has: temporary tables, settings, the current schema; and the way of a statement.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use datafusion::arrow::datatypes::FieldRef;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::config::ConfigOptions;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::ViewTable;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, Statement as PlanCommand};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement as PlanStatement;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{Query, Statement as SqlStatement};

use crate::access::{AccessPolicy, Principal};
use crate::cache::{CacheLease, CacheName, ViewIdentity, address_of, plain_texts};
use crate::catalog::{
    CATALOG, CatalogList, Definition, PUBLIC, SessionCatalog, TEMP, TableEntry, TableOpener,
    ViewText,
};
use crate::deadline::Deadline;
use crate::engine::EngineInner;
use crate::error::{Error, Result};
use crate::files::{self, Format};
use crate::guard::{guard, guarded_stream};
use crate::object_stores::{self, ObjectStores};
use crate::query::{QueryStream, QueryTag, QueryText, StatementKind};
use crate::runtime::session_runtime;
use crate::settings::SkepSettings;
use crate::sql::{self, ParserLimits, Planned, Planner, Statement, rewrite};
use crate::{functions, optimizer};

/// How deep views may name views before it is taken for a circle.
pub(crate) const MAX_VIEW_DEPTH: usize = 32;

/// One user's session: temporary tables, settings, current schema. Clones share it.
#[derive(Clone)]
pub struct Session {
    pub(crate) inner: Arc<SessionInner>,
    /// The statement that is being run.
    text: Option<Arc<QueryText>>,
    /// When it has to be done.
    deadline: Option<Arc<Deadline>>,
    /// The number under which it is known.
    tag: Option<Arc<QueryTag>>,
    /// Whether texts may come without views.
    is_plain: bool,
    /// Where its bare names are looked up, if not in the current schema.
    schema: Option<Arc<str>>,
}

pub(crate) struct SessionInner {
    pub(crate) context: SessionContext,
    pub(crate) catalog: Arc<SessionCatalog>,
    pub(crate) stores: Arc<ObjectStores>,
    pub(crate) engine: Arc<EngineInner>,
    /// The cached tables of the process, and which of them end with the session.
    pub(crate) cache: CacheLease,
    pub(crate) policy: Arc<AccessPolicy>,
    /// The settings at the session's start, for `RESET`.
    pub(crate) defaults: ConfigOptions,
    /// Whether the user set into how many partitions queries are cut.
    pub(crate) has_own_width: AtomicBool,
}

/// Where a statement's bare names are looked up.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) schema: String,
    /// Whether temporary tables count; they do not in the text of a persistent view.
    pub(crate) temporaries: bool,
    /// Whether whoever wrote the names was asked then whether they may name files.
    pub(crate) is_checked: bool,
    view_depth: usize,
}

impl Session {
    pub(crate) fn new(engine: Arc<EngineInner>, principal: Principal) -> Self {
        let policy = Arc::new(AccessPolicy::new(principal, Arc::clone(&engine.roots)));
        let stores = ObjectStores::new();
        let catalog = SessionCatalog::new(Arc::clone(&engine.catalog), engine.system.clone());
        let context = new_context(&engine, &policy, &catalog, &stores);
        let defaults = context.state_ref().read().config_options().as_ref().clone();
        let has_own_width = AtomicBool::new(false);
        let cache = engine.cache.lease();
        let inner = Arc::new(SessionInner {
            context,
            catalog,
            stores,
            engine,
            cache,
            policy,
            defaults,
            has_own_width,
        });
        let opener: Weak<SessionInner> = Arc::downgrade(&inner);
        inner.catalog.set_opener(opener);
        Self { inner, text: None, tag: None, is_plain: false, deadline: None, schema: None }
    }

    /// Runs one statement: a command is done when this returns, a query's rows come as they are
    /// asked for. Dropping the future or the stream stops the work.
    ///
    /// # Errors
    /// Whatever is wrong with the statement, with its place in the text.
    pub async fn execute(&self, statement: &str) -> Result<QueryStream> {
        let parsed = self.parse(statement)?;
        let running = self.running(statement, &parsed);
        running.until_late(Box::pin(running.run_statement(parsed))).await
    }

    /// Plans one query as a DataFrame over the session's tables.
    ///
    /// # Errors
    /// Whatever is wrong with the query; [`Error::Unsupported`] for a statement that is no query.
    pub async fn sql(&self, query: &str) -> Result<DataFrame> {
        match self.parse(query)? {
            Statement::Plan(statement) if is_query(&statement) => {
                let state = self.with_text(query).state();
                let planned = self.inner.plan(&state, *statement, self.scope()).await?;
                if planned.has_renamed_outputs {
                    return Err(Error::Plan {
                        message: "the columns of a DataFrame need names of their own".to_owned(),
                        position: None,
                        hint: Some("give each an alias".to_owned()),
                    });
                }
                Ok(DataFrame::new(state, planned.plan))
            }
            _ => Err(Error::unsupported(
                "a statement that is no query, as a DataFrame",
                "run it with Session::execute",
            )),
        }
    }

    /// Returns a table of the session as a DataFrame; a path in quotes will do as well.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such table.
    pub async fn table(&self, name: &str) -> Result<DataFrame> {
        self.sql(&format!("SELECT * FROM {name}")).await
    }

    /// Makes a DataFrame a temporary view of the session, in place of one of that name.
    ///
    /// # Errors
    /// If the name is no single identifier.
    pub fn register_view(&self, name: &str, frame: DataFrame) -> Result<()> {
        let name = sql::normalize(None, name.to_owned());
        let definition = Definition::Provider { provider: frame.into_view(), text: None };
        let entry = Arc::new(TableEntry::new(definition, None));
        let replaced = self.inner.catalog.temporary(&name);
        self.inner.catalog.add_temporary(&name, entry, true)?;
        if let Some(replaced) = replaced {
            self.forget_cached(TEMP, &name, &replaced);
        }
        Ok(())
    }

    /// Runs a DataFrame through the engine's executor.
    ///
    /// # Errors
    /// Whatever keeps it from starting; later errors come through the stream.
    pub async fn execute_dataframe(&self, frame: DataFrame) -> Result<QueryStream> {
        let (mut state, plan) = frame.into_parts();
        // There may be more or less to run on than when it was made.
        self.inner.set_width(state.config_mut());
        let planned = Planned { plan, has_renamed_outputs: false };
        match self.new_deadline() {
            None => self.inner.run_plan(&state, planned).await,
            Some(deadline) => {
                state.config_mut().set_extension(Arc::clone(&deadline));
                let work = Box::pin(self.inner.run_plan(&state, planned));
                Ok(Arc::clone(&deadline).watch(deadline.bound(work).await?))
            }
        }
    }

    /// Returns whose session it is.
    pub fn principal(&self) -> &Principal {
        self.inner.policy.principal()
    }

    /// The same session, whose next statement is known under a number.
    pub fn tagged(&self, tag: Arc<QueryTag>) -> Self {
        Self { tag: Some(tag), ..self.clone() }
    }

    /// The same session, the rows of whose next query go to somebody who takes no views: texts may
    /// come without.
    pub fn without_views(&self) -> Self {
        Self { is_plain: true, ..self.clone() }
    }

    /// The same session, in which bare names mean what they mean in this schema, whatever the current
    /// one is; one that is not there has no tables.
    pub fn in_schema(&self, schema: &str) -> Self {
        Self { schema: Some(schema.into()), ..self.clone() }
    }

    /// The same session, in which this statement is being run.
    pub(crate) fn with_text(&self, statement: &str) -> Self {
        let text = Arc::new(QueryText(statement.into()));
        Self { text: Some(text), deadline: None, ..self.clone() }
    }

    /// The same session, in which this statement is being run until its deadline.
    pub(crate) fn running(&self, text: &str, statement: &Statement) -> Self {
        match may_be_late(statement) {
            true => self.running_text(text),
            false => self.with_text(text),
        }
    }

    /// The same session, in which what this text stands for is being run until its deadline.
    pub(crate) fn running_text(&self, text: &str) -> Self {
        Self { deadline: self.new_deadline(), ..self.with_text(text) }
    }

    /// Waits for work of this session, and watches over its rows, until the deadline.
    pub(crate) async fn until_late(
        &self,
        work: impl Future<Output = Result<QueryStream>>,
    ) -> Result<QueryStream> {
        match &self.deadline {
            None => work.await,
            Some(deadline) => Ok(Arc::clone(deadline).watch(deadline.bound(work).await?)),
        }
    }

    /// Returns when a statement that begins now has to be done, if there is a limit.
    fn new_deadline(&self) -> Option<Arc<Deadline>> {
        let state = self.inner.context.state_ref();
        let state = state.read();
        let settings = state.config_options().extensions.get::<SkepSettings>();
        let limit = settings.and_then(|settings| settings.statement_timeout)?;
        Deadline::after(limit).map(Arc::new)
    }

    /// Returns the state with which a statement is planned and run: the session's settings, and what
    /// the executor wants.
    pub(crate) fn state(&self) -> SessionState {
        let mut state = self.lasting_state();
        if let Some(deadline) = &self.deadline {
            state.config_mut().set_extension(Arc::clone(deadline));
        }
        if self.is_plain {
            state.config_mut().set_extension(Arc::new(WithoutViews));
        }
        state
    }

    /// The same for what outlives the statement: it has no deadline.
    pub(crate) fn lasting_state(&self) -> SessionState {
        let mut state = self.inner.context.state();
        self.inner.set_width(state.config_mut());
        if let Some(text) = &self.text {
            state.config_mut().set_extension(Arc::clone(text));
        }
        if let Some(tag) = &self.tag {
            state.config_mut().set_extension(Arc::clone(tag));
        }
        state
    }

    pub(crate) fn parse(&self, text: &str) -> Result<Statement> {
        let state = self.inner.context.state_ref();
        let limits = ParserLimits::of(state.read().config_options());
        sql::parse(text, limits)
    }

    pub(crate) fn scope(&self) -> Scope {
        let schema = match &self.schema {
            Some(schema) => schema.to_string(),
            None => {
                let state = self.inner.context.state_ref();
                state.read().config_options().catalog.default_schema.clone()
            }
        };
        Scope { schema, temporaries: true, is_checked: false, view_depth: 0 }
    }

    pub(crate) async fn run_statement(&self, statement: Statement) -> Result<QueryStream> {
        match statement {
            Statement::Plan(statement) => self.run_plan_statement(*statement).await,
            Statement::ExplainDistributed(statement) => self.explain_distributed(*statement).await,
            Statement::Copy(copy) => self.copy(*copy).await,
            Statement::CreateExternalTable(create) => self.create_external_table(*create).await,
            Statement::CreateTable(create) => self.create_table(*create).await,
            Statement::CreateView(create) => self.create_view(*create).await,
            Statement::CreateSchema { name, if_not_exists } => {
                self.create_schema(&name, if_not_exists)
            }
            Statement::Drop(drop) => self.drop(&drop),
            Statement::Show(show) => self.show(show).await,
            Statement::DescribeTable { name, extended } => {
                self.describe_table(&name, extended).await
            }
            Statement::DescribeQuery(query) => self.describe_query(query).await,
            Statement::Set { name, value } => self.set(&name, &value).await,
            Statement::Reset(name) => self.reset(name.as_deref()).await,
            Statement::Use(schema) => self.use_schema(&schema),
            Statement::Cache(cache) => self.cache_table(*cache).await,
            Statement::Uncache { name, if_exists } => self.uncache_table(&name, if_exists).await,
            Statement::ClearCache => self.clear_cache(),
            Statement::Refresh(name) => self.refresh_table(&name).await,
        }
    }

    async fn run_plan_statement(&self, statement: PlanStatement) -> Result<QueryStream> {
        let state = self.state();
        let planned = self.inner.plan(&state, statement, self.scope()).await?;
        match planned.plan {
            LogicalPlan::Dml(statement) => self.insert(&state, statement).await,
            LogicalPlan::Statement(PlanCommand::Execute(execute)) => {
                let plan = LogicalPlan::Statement(PlanCommand::Execute(execute));
                let frame = self.inner.context.execute_logical_plan(plan).await?;
                let (_, plan) = frame.into_parts();
                self.inner.run_plan(&state, Planned { plan, has_renamed_outputs: false }).await
            }
            LogicalPlan::Statement(
                command @ (PlanCommand::Prepare(_) | PlanCommand::Deallocate(_)),
            ) => {
                let tag = match &command {
                    PlanCommand::Prepare(_) => "PREPARE",
                    _ => "DEALLOCATE",
                };
                let plan = LogicalPlan::Statement(command);
                let done = guard(self.inner.context.execute_logical_plan(plan)).await?;
                done?;
                Ok(command_done(tag))
            }
            LogicalPlan::Statement(other) => {
                Err(Error::unsupported(format!("the statement {}", other.name()), ""))
            }
            LogicalPlan::Ddl(other) => {
                Err(Error::unsupported(format!("the statement {}", other.name()), ""))
            }
            plan => self.inner.run_plan(&state, Planned { plan, ..planned }).await,
        }
    }
}

/// Tells whether the time limit is for a statement: not for those by which a session gets out of a
/// limit that is too short.
fn may_be_late(statement: &Statement) -> bool {
    !matches!(
        statement,
        Statement::Set { .. } | Statement::Reset(_) | Statement::Show(_) | Statement::Use(_)
    )
}

/// Returns the empty result of a command.
pub(crate) fn command_done(tag: &str) -> QueryStream {
    QueryStream::done(StatementKind::Command { tag: tag.to_owned() })
}

fn is_query(statement: &PlanStatement) -> bool {
    matches!(statement, PlanStatement::Statement(inner) if matches!(**inner, SqlStatement::Query(_)))
}

fn new_context(
    engine: &EngineInner,
    policy: &Arc<AccessPolicy>,
    catalog: &Arc<SessionCatalog>,
    stores: &Arc<ObjectStores>,
) -> SessionContext {
    let mut config = SessionConfig::new()
        .with_information_schema(true)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(CATALOG, PUBLIC)
        .with_option_extension(SkepSettings {
            statement_timeout: engine.config.statement_timeout,
            ..SkepSettings::default()
        })
        .with_extension(Arc::clone(policy))
        .with_extension(Arc::new(policy.principal().clone()));
    if let Some(partitions) = engine.config.target_partitions {
        config = config.with_target_partitions(partitions);
    }
    let options = config.options_mut();
    // The logical plan may know that a CASE is never NULL where the physical one does not; DataFusion
    // takes that for a defect, and fails.
    options.execution.skip_physical_aggregate_schema_check = true;
    options.sql_parser.collect_spans = true;
    // Without one, TIMESTAMP WITH TIME ZONE would be a timestamp without.
    options.execution.time_zone = Some("+00:00".to_owned());
    options.explain.show_statistics = false;
    object_stores::register_settings(options);
    stores.configure(options);
    let registry =
        Arc::clone(stores) as Arc<dyn datafusion::execution::object_store::ObjectStoreRegistry>;
    let state = state_with_functions(config, session_runtime(&engine.runtime, registry))
        .with_catalog_list(Arc::new(CatalogList(Arc::clone(catalog))))
        .with_analyzer_rules(optimizer::analyzer_rules(Some((&engine.cache, None))))
        .with_optimizer_rules(optimizer::optimizer_rules())
        .with_physical_optimizer_rules(optimizer::physical_optimizer_rules(Some(&engine.cache)));
    SessionContext::new_with_state(state.build())
}

/// Begins the state of a session, or of a task of one: DataFusion's functions, with ours beside
/// them and in their places.
pub(crate) fn state_with_functions(
    config: SessionConfig,
    runtime: Arc<RuntimeEnv>,
) -> SessionStateBuilder {
    let mut state = SessionStateBuilder::new_with_default_features()
        .with_config(config)
        .with_runtime_env(runtime);
    state.scalar_functions().get_or_insert_default().extend(functions::scalar_functions());
    state.aggregate_functions().get_or_insert_default().extend(functions::aggregate_functions());
    state.window_functions().get_or_insert_default().extend(functions::window_functions());
    state
}

impl SessionInner {
    /// Plans a statement: opens what it names, rewrites it, plans it.
    pub(crate) async fn plan(
        &self,
        state: &SessionState,
        statement: PlanStatement,
        scope: Scope,
    ) -> Result<Planned> {
        self.plan_with(state, statement, scope, Vec::new()).await
    }

    /// Plans a statement whose parameters have these types, in their order.
    pub(crate) async fn plan_with(
        &self,
        state: &SessionState,
        statement: PlanStatement,
        scope: Scope,
        parameters: Vec<FieldRef>,
    ) -> Result<Planned> {
        let normalizes = state.config_options().sql_parser.enable_ident_normalization;
        let (references, _) = resolve_table_references(&statement, normalizes)?;
        let tables = self.open_all(state, references, &scope).await?;
        let known = self.catalog.table_names(&scope.schema);
        let planner = Planner::new(state, tables, known).with_parameters(parameters);
        // DataFusion's planner panics on some input; that is its defect and our error.
        let planned = guard(async { planner.plan(statement) }).await?;
        planned.map_err(|error| self.catalog.system().explain_missing(error))
    }

    /// Puts the executor's number of partitions into a configuration, unless there is one that goes
    /// before it.
    fn set_width(&self, config: &mut SessionConfig) {
        let is_given = self.engine.config.target_partitions.is_some()
            || self.has_own_width.load(Ordering::Relaxed);
        if is_given {
            return;
        }
        if let Some(width) = self.engine.executor.target_partitions()
            && width > 0
            && width != config.target_partitions()
        {
            config.options_mut().execution.target_partitions = width;
        }
    }

    pub(crate) async fn plan_query(
        &self,
        state: &SessionState,
        query: Box<Query>,
        scope: Scope,
    ) -> Result<Planned> {
        let statement = PlanStatement::Statement(Box::new(SqlStatement::Query(query)));
        self.plan(state, statement, scope).await
    }

    async fn open_all(
        &self,
        state: &SessionState,
        references: Vec<TableReference>,
        scope: &Scope,
    ) -> Result<HashMap<TableReference, Arc<dyn TableProvider>>> {
        let mut tables = HashMap::with_capacity(references.len());
        for reference in references {
            if let Some(provider) = self.open_reference(state, &reference, scope).await? {
                tables.insert(reference, provider);
            }
        }
        Ok(tables)
    }

    /// Opens what a name means: a temporary table, a table, a file.
    pub(crate) async fn open_reference(
        &self,
        state: &SessionState,
        reference: &TableReference,
        scope: &Scope,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        if let Some(entry) = self.find(reference, scope)? {
            if let Some(view) = self.cached_view(reference, &entry, scope) {
                return Ok(Some(view));
            }
            return self.open_entry_in(state, &entry, scope.view_depth).await.map(Some);
        }
        if reference.schema() == Some("information_schema") {
            let schema = state.schema_for_ref(reference.clone())?;
            return Ok(schema.table(reference.table()).await?);
        }
        let (path, format) = match reference {
            TableReference::Bare { table } => (table, None),
            TableReference::Partial { schema, table } => match schema.parse::<Format>() {
                Ok(format) => (table, Some(format)),
                Err(_) => return Ok(None),
            },
            TableReference::Full { .. } => return Ok(None),
        };
        if !scope.is_checked && files::names_files(path, format) {
            self.policy.check_location(path)?;
        }
        files::open_path(state, path, format).await
    }

    /// Returns a view by the plan by which it is cached, if it is.
    pub(crate) fn cached_view(
        &self,
        reference: &TableReference,
        entry: &TableEntry,
        scope: &Scope,
    ) -> Option<Arc<dyn TableProvider>> {
        let schema = match &entry.definition {
            Definition::View(_) => reference.schema().unwrap_or(&scope.schema),
            Definition::Provider { .. } => TEMP,
            Definition::Files { .. } | Definition::System(_) => return None,
        };
        let name = CacheName { schema: schema.to_owned(), table: reference.table().to_owned() };
        let tables = &self.cache.tables;
        // Most are not cached, and need not be looked at.
        tables.named(&name, self.cache.id)?;
        // A view that cannot be looked at is planned anew, which says why.
        let view = self.view_identity(entry).ok()??;
        let plan = tables.plan_of_view(&name, &view, self.cache.id)?;
        Some(Arc::new(ViewTable::new(plan, None)))
    }

    /// Returns by what a view is known again; `None` of a table.
    ///
    /// # Errors
    /// If its text, or that of a view which it names, is no query.
    pub(crate) fn view_identity(&self, entry: &TableEntry) -> Result<Option<ViewIdentity>> {
        match &entry.definition {
            Definition::View(view) => {
                let mut nested = Vec::new();
                self.add_nested(view, &mut nested)?;
                Ok(Some(ViewIdentity::Text { view: view.clone(), nested }))
            }
            Definition::Provider { provider, .. } if entry.is_view() => {
                Ok(Some(ViewIdentity::Provider(address_of(provider))))
            }
            _ => Ok(None),
        }
    }

    /// Adds the views that the text of a view names, and those that theirs name, each once.
    fn add_nested(&self, view: &ViewText, nested: &mut Vec<(CacheName, ViewText)>) -> Result<()> {
        let state = self.context.state_ref();
        let (limits, normalizes) = {
            let state = state.read();
            let options = state.config_options();
            (ParserLimits::of(options), options.sql_parser.enable_ident_normalization)
        };
        let Statement::Plan(statement) = sql::parse(&view.query, limits)? else { return Ok(()) };
        let scope = Scope {
            schema: view.schema.clone(),
            temporaries: false,
            is_checked: false,
            view_depth: 0,
        };
        for reference in resolve_table_references(&statement, normalizes)?.0 {
            let Some(entry) = self.find(&reference, &scope)? else { continue };
            let Definition::View(inner) = &entry.definition else { continue };
            let schema = reference.schema().unwrap_or(&scope.schema).to_owned();
            let name = CacheName { schema, table: reference.table().to_owned() };
            if !nested.iter().any(|(known, _)| *known == name) {
                nested.push((name, inner.clone()));
                self.add_nested(inner, nested)?;
            }
        }
        Ok(())
    }

    pub(crate) fn find(
        &self,
        reference: &TableReference,
        scope: &Scope,
    ) -> Result<Option<Arc<TableEntry>>> {
        if scope.temporaries {
            return self.catalog.find(reference, &scope.schema);
        }
        let qualified = match reference {
            TableReference::Bare { table } => {
                TableReference::partial(scope.schema.as_str(), table.as_ref())
            }
            other => other.clone(),
        };
        match qualified.schema() {
            Some(TEMP) => Ok(None),
            _ => self.catalog.find(&qualified, &scope.schema),
        }
    }

    pub(crate) async fn open_entry_in(
        &self,
        state: &SessionState,
        entry: &Arc<TableEntry>,
        view_depth: usize,
    ) -> Result<Arc<dyn TableProvider>> {
        match &entry.definition {
            Definition::Provider { provider, .. } | Definition::System(provider) => {
                Ok(Arc::clone(provider))
            }
            Definition::Files { table, .. } => {
                let opened = entry.opened.get_or_try_init(|| files::open(state, table)).await?;
                Ok(Arc::clone(opened))
            }
            Definition::View(view) => {
                // What an admin's view names is open to all.
                let plan = Box::pin(self.plan_view(state, view, view_depth, view.by_admin)).await?;
                Ok(Arc::new(ViewTable::new(plan, Some(view.query.clone()))))
            }
        }
    }

    /// Plans a view's text anew, so that it follows its tables. `is_checked` says whether its files
    /// may be named, whoever asks.
    pub(crate) async fn plan_view(
        &self,
        state: &SessionState,
        view: &ViewText,
        depth: usize,
        is_checked: bool,
    ) -> Result<LogicalPlan> {
        if depth >= MAX_VIEW_DEPTH {
            return Err(Error::Plan {
                message: format!("views are nested more than {MAX_VIEW_DEPTH} deep"),
                position: None,
                hint: Some("does a view name itself?".to_owned()),
            });
        }
        let limits = ParserLimits::of(state.config_options());
        let Statement::Plan(statement) = sql::parse(&view.query, limits)? else {
            return Err(Error::Internal {
                message: "the text of a view is no query".to_owned(),
                source: None,
            });
        };
        let scope = Scope {
            schema: view.schema.clone(),
            temporaries: false,
            is_checked,
            view_depth: depth + 1,
        };
        let planned = self.plan(state, *statement, scope).await?;
        named_columns(planned, &view.columns)
    }

    /// Optimises a plan, runs it through the executor and guards its stream.
    pub(crate) async fn run_plan(
        &self,
        state: &SessionState,
        planned: Planned,
    ) -> Result<QueryStream> {
        self.policy.check_plan(&planned.plan)?;
        let mut physical = guard(state.create_physical_plan(&planned.plan)).await??;
        if state.config().get_extension::<WithoutViews>().is_some() {
            physical = plain_texts(physical)?;
        }
        let context = state.task_ctx();
        let started =
            guard(self.engine.executor.execute(Arc::clone(&physical), Arc::clone(&context))).await;
        let stream = match started.and_then(|stream| stream) {
            Ok(stream) => stream,
            Err(error) => {
                return Err(files::explain_failure(&physical, &context, error.into()).await);
            }
        };
        let schema = match planned.has_renamed_outputs {
            true => rewrite::restore_output_names(&stream.schema()),
            false => stream.schema(),
        };
        Ok(guarded_stream(stream, schema, physical, context))
    }
}

/// That whoever reads the rows takes no views: an extension of the session configuration.
#[derive(Debug)]
struct WithoutViews;

/// Gives a plan's columns the names that a view or table declares.
pub(crate) fn named_columns(planned: Planned, names: &[String]) -> Result<LogicalPlan> {
    unique_names(&planned, names)?;
    if names.is_empty() {
        return Ok(planned.plan);
    }
    let columns: Vec<_> = planned.plan.schema().columns();
    if columns.len() != names.len() {
        return Err(Error::plan(format!(
            "{} names for a query of {} columns",
            names.len(),
            columns.len()
        )));
    }
    let renamed = columns
        .into_iter()
        .zip(names)
        .map(|(column, name)| datafusion::logical_expr::Expr::Column(column).alias(name));
    Ok(LogicalPlanBuilder::from(planned.plan).project(renamed)?.build()?)
}

fn unique_names(planned: &Planned, names: &[String]) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    let mut schema = Arc::new(planned.plan.schema().as_arrow().clone());
    if planned.has_renamed_outputs {
        schema = rewrite::restore_output_names(&schema);
    }
    let all = match names.is_empty() {
        true => schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(),
        false => names.iter().map(String::as_str).collect(),
    };
    for name in all {
        if !seen.insert(name) {
            return Err(Error::Plan {
                message: format!("column \"{name}\" appears more than once"),
                position: None,
                hint: Some("give each an alias of its own".to_owned()),
            });
        }
    }
    Ok(())
}

#[async_trait]
impl TableOpener for SessionInner {
    async fn open_entry(&self, entry: &Arc<TableEntry>) -> Result<Arc<dyn TableProvider>> {
        let state = self.context.state();
        self.open_entry_in(&state, entry, 0).await
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("catalog", &self.inner.catalog).finish_non_exhaustive()
    }
}
