//! `CREATE` and `DROP`: changes of the catalog, done whole or not at all.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::TableReference;
use datafusion::datasource::ViewTable;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{DdlStatement, LogicalPlan, LogicalPlanBuilder, cast, col};
use datafusion::sql::parser::{CreateExternalTable, Statement as PlanStatement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{ColumnDef, ObjectName, ObjectNamePart};
use tempfile::TempDir;

use crate::access::Role;
use crate::catalog::{CATALOG, Definition, SYSTEM, TEMP, TableEntry, ViewText};
use crate::error::{Error, Result};
use crate::files::{self, FileTable, FileTarget, Format, WriteMode};
use crate::query::{QueryStream, StatementKind};
use crate::session::{MAX_VIEW_DEPTH, Scope, Session, command_done, named_columns};
use crate::sql::planner::Planner;
use crate::sql::statement::{CreateTable, CreateView, Drop, DropKind, Statement};
use crate::sql::{ParserLimits, normalize};

/// Where a new table goes.
#[derive(Debug)]
pub(crate) enum Place {
    Temporary { name: String },
    Persistent { schema: String, name: String },
}

impl Session {
    /// `CREATE TABLE` and `CREATE TEMPORARY VIEW ... USING`.
    pub(crate) async fn create_table(&self, create: CreateTable) -> Result<QueryStream> {
        let tag = if create.as_view { "CREATE VIEW" } else { "CREATE TABLE" };
        let place = self.place(create.name.as_ref(), create.temporary)?;
        if !create.or_replace && self.exists(&place)? {
            return already_there(&place, create.if_not_exists, tag);
        }
        match (&create.format, &create.query) {
            (Some(format), None) => {
                let format: Format = format.parse()?;
                let schema = self.declared_schema(create.columns.clone())?;
                let table = FileTable::from_spark(
                    format,
                    &create.options,
                    schema,
                    create.location.clone(),
                    create.partition_by.clone(),
                );
                match table {
                    // Spark makes a table without a path in its own warehouse.
                    Err(_) if !create.as_view && !names_a_path(&create) => {
                        self.create_managed(place, create, format).await
                    }
                    table => self.register_files(place, table?, &create, tag).await,
                }
            }
            (format, _) => {
                let format = format.as_deref().map_or(Ok(Format::Parquet), str::parse)?;
                self.create_managed(place, create, format).await
            }
        }
    }

    /// `CREATE EXTERNAL TABLE`, in DataFusion's dialect.
    pub(crate) async fn create_external_table(
        &self,
        create: CreateExternalTable,
    ) -> Result<QueryStream> {
        if create.unbounded {
            return Err(Error::unsupported("an UNBOUNDED table", ""));
        }
        let place = self.place(Some(&create.name), create.temporary)?;
        if !create.or_replace && self.exists(&place)? {
            return already_there(&place, create.if_not_exists, "CREATE EXTERNAL TABLE");
        }
        let or_replace = create.or_replace;
        let state = self.state();
        let statement = PlanStatement::CreateExternalTable(create);
        let planned = self.inner.plan(&state, statement, self.scope()).await?;
        let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(command)) = planned.plan else {
            return Err(Error::Internal {
                message: "CREATE EXTERNAL TABLE was planned as something else".to_owned(),
                source: None,
            });
        };
        let table = FileTable::from_external(&command)?;
        let create = CreateTable { or_replace, ..CreateTable::default() };
        self.register_files(place, table, &create, "CREATE EXTERNAL TABLE").await
    }

    /// Opens the files once, so that what is wrong with them is said now, and keeps what was found.
    async fn register_files(
        &self,
        place: Place,
        mut table: FileTable,
        create: &CreateTable,
        tag: &str,
    ) -> Result<QueryStream> {
        table.locations.iter().try_for_each(|text| self.inner.policy.check_location(text))?;
        let state = self.state();
        let provider = files::open(&state, &table).await?;
        files::keep_inferred(&mut table, provider.as_ref());
        let definition = Definition::Files { table, managed: false };
        let entry = TableEntry::new(definition, create.comment.clone());
        let _ = entry.opened.set(provider);
        self.add(place, entry, create.or_replace)?;
        Ok(command_done(tag))
    }

    /// A table whose files skep keeps: empty, or filled by a query.
    async fn create_managed(
        &self,
        place: Place,
        create: CreateTable,
        format: Format,
    ) -> Result<QueryStream> {
        self.inner.policy.require_writer("CREATE TABLE")?;
        let state = self.state();
        let plan = match &create.query {
            Some(query) => {
                let scope = self.scope();
                let planned = self.inner.plan_query(&state, query.clone(), scope).await?;
                Some(self.cast_to_columns(&state, named_columns(planned, &[])?, &create.columns)?)
            }
            None => None,
        };
        let Some(plan) = plan else {
            let schema = self.declared_schema(create.columns.clone())?;
            let schema = schema.ok_or_else(|| Error::Plan {
                message: "a new table needs columns".to_owned(),
                position: None,
                hint: Some("CREATE TABLE t (a INT, b TEXT), or CREATE TABLE t AS query".to_owned()),
            })?;
            let home = self.new_home(&place)?;
            let format = kept_format(&create, format, &schema);
            let table = managed_table(home.path(), format, &create, &schema)?;
            self.keep_managed(place, create, table, home)?;
            return Ok(command_done("CREATE TABLE"));
        };
        let row_count = self.fill_managed(place, create, format, plan).await?;
        Ok(QueryStream::done(StatementKind::Write { row_count }))
    }

    /// A table whose files skep keeps, with the rows of a plan; returns how many.
    pub(super) async fn fill_managed(
        &self,
        place: Place,
        create: CreateTable,
        format: Format,
        plan: LogicalPlan,
    ) -> Result<u64> {
        let declared = self.declared_schema(create.columns.clone())?;
        let schema = kept_schema(plan.schema().as_arrow(), declared.as_deref());
        let format = kept_format(&create, format, &schema);
        let home = self.new_home(&place)?;
        let table = managed_table(home.path(), format, &create, &schema)?;
        let target = FileTarget {
            location: table.locations[0].clone(),
            format,
            options: table.options.clone(),
            partition_by: create.partition_by.clone(),
            mode: WriteMode::Append,
            single_file: Some(false),
            schema: None,
        };
        let executor = self.inner.engine.executor.as_ref();
        let row_count = files::write(&self.state(), executor, plan, &target, || {}).await?;
        self.keep_managed(place, create, table, home)?;
        Ok(row_count)
    }

    /// Puts a table with its files into the catalog.
    fn keep_managed(
        &self,
        place: Place,
        create: CreateTable,
        table: FileTable,
        home: Home,
    ) -> Result<()> {
        let entry = TableEntry::new(Definition::Files { table, managed: true }, create.comment);
        match &place {
            Place::Temporary { .. } => {
                let entry = entry.with_directory(home.into_temporary()?);
                self.add(place, entry, create.or_replace)
            }
            Place::Persistent { .. } => {
                // What is refused takes its files with it.
                self.add(place, entry, create.or_replace)?;
                home.keep();
                Ok(())
            }
        }
    }

    /// `CREATE VIEW ... AS`.
    pub(crate) async fn create_view(&self, create: CreateView) -> Result<QueryStream> {
        let place = self.place(Some(&create.name), create.temporary)?;
        if !create.or_replace && self.exists(&place)? {
            return already_there(&place, create.if_not_exists, "CREATE VIEW");
        }
        let state = self.state();
        let view = ViewText {
            query: create.text,
            columns: create.columns,
            schema: self.scope().schema,
            by_admin: self.principal().role == Role::Admin,
        };
        let definition = match &place {
            Place::Temporary { .. } => {
                let scope = self.scope();
                let planned = self.inner.plan_query(&state, create.query, scope).await?;
                let plan = named_columns(planned, &view.columns)?;
                let provider = Arc::new(ViewTable::new(plan, Some(view.query.clone())));
                Definition::Provider { provider, text: Some(view.query) }
            }
            Place::Persistent { schema, name } => {
                self.refuse_temporaries(&create.query)?;
                self.refuse_circle(&view, schema, name, 0)?;
                // Planned to see that it can be; each use plans it anew.
                self.inner.plan_view(&state, &view, 0, false).await?;
                Definition::View(view)
            }
        };
        self.add(place, TableEntry::new(definition, create.comment), create.or_replace)?;
        Ok(command_done("CREATE VIEW"))
    }

    /// A view that is replaced must not name itself, be it through other views.
    fn refuse_circle(&self, view: &ViewText, schema: &str, name: &str, depth: usize) -> Result<()> {
        let limits = ParserLimits::of(self.inner.context.state_ref().read().config_options());
        let Statement::Plan(statement) = super::parse(&view.query, limits)? else {
            return Ok(());
        };
        let (references, _) = resolve_table_references(&statement, true)?;
        for reference in references {
            let in_schema = reference.schema().unwrap_or(&view.schema).to_owned();
            let snapshot = self.inner.catalog.persistent().snapshot()?;
            let Some(entry) = snapshot.table(&in_schema, reference.table()) else { continue };
            if in_schema == schema && reference.table() == name {
                return Err(Error::plan(format!("the view \"{name}\" would name itself")));
            }
            // Deeper ones fail when they are planned.
            if let Definition::View(inner) = &entry.definition
                && depth < MAX_VIEW_DEPTH
            {
                self.refuse_circle(inner, schema, name, depth + 1)?;
            }
        }
        Ok(())
    }

    /// A kept view must not hang on what ends with the session.
    fn refuse_temporaries(&self, query: &datafusion::sql::sqlparser::ast::Query) -> Result<()> {
        let statement = PlanStatement::Statement(Box::new(
            datafusion::sql::sqlparser::ast::Statement::Query(Box::new(query.clone())),
        ));
        let (references, _) = resolve_table_references(&statement, true)?;
        for reference in references {
            let is_bare = reference.schema().is_none() || reference.schema() == Some(TEMP);
            if is_bare && self.inner.catalog.temporary(reference.table()).is_some() {
                return Err(Error::Plan {
                    message: format!(
                        "a kept view cannot use the temporary table \"{}\"",
                        reference.table()
                    ),
                    position: None,
                    hint: Some("CREATE TEMPORARY VIEW can".to_owned()),
                });
            }
        }
        Ok(())
    }

    /// `CREATE SCHEMA`.
    pub(crate) fn create_schema(
        &self,
        name: &ObjectName,
        if_not_exists: bool,
    ) -> Result<QueryStream> {
        self.inner.policy.require_writer("CREATE SCHEMA")?;
        let name = schema_name(name)?;
        if if_not_exists && name == SYSTEM {
            return Ok(command_done("CREATE SCHEMA"));
        }
        let is_new = self.inner.catalog.persistent().add_schema(&name)?;
        if !is_new && !if_not_exists {
            return Err(Error::AlreadyExists { kind: "schema", name });
        }
        Ok(command_done("CREATE SCHEMA"))
    }

    /// `DROP TABLE | VIEW | SCHEMA`.
    pub(crate) fn drop(&self, drop: &Drop) -> Result<QueryStream> {
        if drop.kind == DropKind::Schema {
            drop.names.iter().try_for_each(|name| self.drop_schema(name, drop))?;
        } else {
            // All names are looked up before the first is dropped.
            let found = drop.names.iter().map(|name| self.find_to_drop(name, drop));
            let found = found.collect::<Result<Vec<_>>>()?;
            found.iter().flatten().try_for_each(|reference| self.drop_table(reference))?;
        }
        Ok(command_done(match drop.kind {
            DropKind::Table => "DROP TABLE",
            DropKind::View => "DROP VIEW",
            DropKind::Schema => "DROP SCHEMA",
        }))
    }

    /// Returns the table or view that a `DROP` means, or none if it is not there and need not be.
    fn find_to_drop(&self, name: &ObjectName, drop: &Drop) -> Result<Option<TableReference>> {
        let reference = table_reference(name)?;
        let scope = self.scope();
        let found = self.inner.find(&reference, &scope)?;
        let kind = if drop.kind == DropKind::View { "view" } else { "table" };
        let Some(entry) = found else {
            if drop.if_exists {
                return Ok(None);
            }
            let known = self.inner.catalog.table_names(&scope.schema);
            let known = known.iter().map(String::as_str);
            let error = Error::not_found(kind, reference.to_string(), known);
            return Err(self.inner.catalog.system().explain_missing(error));
        };
        if let Definition::System(_) = &entry.definition {
            return Err(read_only(&reference));
        }
        if !self.is_temporary(&reference) {
            self.inner.policy.require_writer("DROP")?;
        }
        // Spark drops a temporary view over files with either word.
        let is_other = entry.is_view() != (drop.kind == DropKind::View);
        if is_other && !self.is_temporary(&reference) {
            let is = if entry.is_view() { "view" } else { "table" };
            return Err(Error::Plan {
                message: format!("\"{reference}\" is a {is}, not a {kind}"),
                position: None,
                hint: Some(format!("DROP {} {reference}", is.to_uppercase())),
            });
        }
        Ok(Some(reference))
    }

    fn drop_table(&self, reference: &TableReference) -> Result<()> {
        if self.is_temporary(reference) {
            if let Some(entry) = self.inner.catalog.remove_temporary(reference.table()) {
                self.forget_cached(TEMP, reference.table(), &entry);
            }
            return Ok(());
        }
        let scope = self.scope();
        let schema = reference.schema().unwrap_or(&scope.schema);
        let removed = self.inner.catalog.persistent().remove_table(schema, reference.table())?;
        let Some(entry) = removed else { return Ok(()) };
        self.forget_cached(schema, reference.table(), &entry);
        self.inner.catalog.persistent().forget_files(&entry)
    }

    fn is_temporary(&self, reference: &TableReference) -> bool {
        matches!(reference.schema(), None | Some(TEMP))
            && self.inner.catalog.temporary(reference.table()).is_some()
    }

    fn drop_schema(&self, name: &ObjectName, drop: &Drop) -> Result<()> {
        self.inner.policy.require_writer("DROP SCHEMA")?;
        let name = schema_name(name)?;
        if name == SYSTEM {
            return Err(Error::plan(format!("schema \"{SYSTEM}\" cannot be dropped")));
        }
        let catalog = self.inner.catalog.persistent();
        match catalog.remove_schema(&name, drop.cascade)? {
            Some(tables) => tables.iter().try_for_each(|(table, entry)| {
                self.forget_cached(&name, table, entry);
                catalog.forget_files(entry)
            }),
            None if drop.if_exists => Ok(()),
            None => {
                let known = self.inner.catalog.schemas();
                let error = Error::not_found("schema", name, known.iter().map(String::as_str));
                Err(self.inner.catalog.system().explain_missing(error))
            }
        }
    }

    fn place(&self, name: Option<&ObjectName>, temporary: bool) -> Result<Place> {
        let Some(name) = name else {
            return Err(Error::Internal {
                message: "a table without a name".to_owned(),
                source: None,
            });
        };
        let reference = table_reference(name)?;
        if reference.catalog().is_some_and(|catalog| catalog != CATALOG) {
            let catalog = reference.catalog().unwrap_or_default();
            return Err(Error::not_found("catalog", catalog, [CATALOG]));
        }
        let name = reference.table().to_owned();
        match reference.schema() {
            None if temporary => Ok(Place::Temporary { name }),
            Some(TEMP) => Ok(Place::Temporary { name }),
            Some(schema) if temporary => Err(Error::plan(format!(
                "a temporary table has no schema, but \"{schema}\" is given"
            ))),
            Some(schema) => self.persistent_place(schema.to_owned(), name),
            None => self.persistent_place(self.scope().schema, name),
        }
    }

    /// Nobody's tables but the system's are in its schema.
    pub(super) fn persistent_place(&self, schema: String, name: String) -> Result<Place> {
        self.inner.policy.require_writer("CREATE")?;
        if schema == SYSTEM {
            return Err(Error::Plan {
                message: format!("no table can be made in schema \"{SYSTEM}\""),
                position: None,
                hint: Some("it shows what the cluster does, and can only be read".to_owned()),
            });
        }
        Ok(Place::Persistent { schema, name })
    }

    pub(super) fn exists(&self, place: &Place) -> Result<bool> {
        let catalog = &self.inner.catalog;
        Ok(match place {
            Place::Temporary { name } => catalog.temporary(name).is_some(),
            Place::Persistent { schema, name } => {
                let snapshot = catalog.persistent().snapshot()?;
                if !snapshot.schemas.contains_key(schema) {
                    let known = snapshot.schemas.keys().map(String::as_str);
                    return Err(Error::not_found("schema", schema, known));
                }
                snapshot.table(schema, name).is_some()
            }
        })
    }

    fn add(&self, place: Place, entry: TableEntry, or_replace: bool) -> Result<()> {
        let entry = Arc::new(entry);
        match place {
            Place::Temporary { name } => {
                let replaced = self.inner.catalog.temporary(&name);
                self.inner.catalog.add_temporary(&name, entry, or_replace)?;
                if let Some(replaced) = replaced {
                    self.forget_cached(TEMP, &name, &replaced);
                }
                Ok(())
            }
            Place::Persistent { schema, name } => {
                self.inner.policy.require_writer("CREATE")?;
                let catalog = self.inner.catalog.persistent();
                let replaced = catalog.add_table(&schema, &name, entry, or_replace)?;
                let Some(replaced) = replaced else { return Ok(()) };
                self.forget_cached(&schema, &name, &replaced);
                catalog.forget_files(&replaced)
            }
        }
    }

    fn declared_schema(&self, columns: Vec<ColumnDef>) -> Result<Option<SchemaRef>> {
        if columns.is_empty() {
            return Ok(None);
        }
        let state = self.state();
        let planner = Planner::new(&state, std::collections::HashMap::new(), Vec::new());
        let schema = planner.schema_of_columns(columns)?;
        let mut seen = HashSet::new();
        if let Some(field) = schema.fields().iter().find(|field| !seen.insert(field.name())) {
            return Err(Error::plan(format!("column \"{}\" appears more than once", field.name())));
        }
        Ok(Some(Arc::new(schema)))
    }

    fn cast_to_columns(
        &self,
        _state: &SessionState,
        plan: LogicalPlan,
        columns: &[ColumnDef],
    ) -> Result<LogicalPlan> {
        let Some(schema) = self.declared_schema(columns.to_vec())? else {
            return Ok(plan);
        };
        let given = plan.schema().columns();
        if given.len() != schema.fields().len() {
            return Err(Error::plan(format!(
                "{} columns for a query of {}",
                schema.fields().len(),
                given.len()
            )));
        }
        let casts = given.into_iter().zip(schema.fields()).map(|(column, field)| {
            cast(col(column), field.data_type().clone()).alias(field.name())
        });
        Ok(LogicalPlanBuilder::from(plan).project(casts)?.build()?)
    }

    fn new_home(&self, place: &Place) -> Result<Home> {
        let parent = match place {
            Place::Temporary { .. } => self.inner.engine.temporary_dir.clone(),
            Place::Persistent { schema, .. } => self.inner.catalog.persistent().warehouse(schema),
        };
        let prefix = match place {
            Place::Temporary { .. } => "skep-temp-".to_owned(),
            Place::Persistent { name, .. } => format!("{}-", file_name(name)),
        };
        let failed =
            |source| Error::Io { action: "create a directory in", path: parent.clone(), source };
        fs::create_dir_all(&parent).map_err(failed)?;
        let directory =
            tempfile::Builder::new().prefix(&prefix).tempdir_in(&parent).map_err(failed)?;
        Ok(Home { directory })
    }

    /// The scope in which a statement of this session looks names up.
    pub(crate) fn find_table(
        &self,
        name: &ObjectName,
    ) -> Result<(TableReference, Arc<TableEntry>)> {
        let reference = table_reference(name)?;
        let scope: Scope = self.scope();
        match self.inner.find(&reference, &scope)? {
            Some(entry) => Ok((reference, entry)),
            None => {
                let known = self.inner.catalog.table_names(&scope.schema);
                let known = known.iter().map(String::as_str);
                let error = Error::not_found("table", reference.to_string(), known)
                    .at(crate::sql::place::place(name));
                Err(self.inner.catalog.system().explain_missing(error))
            }
        }
    }
}

/// The error of changing a system table.
pub(super) fn read_only(table: &TableReference) -> Error {
    Error::Plan {
        message: format!("\"{table}\" is a system table"),
        position: None,
        hint: Some("it shows what the cluster does, and can only be read".to_owned()),
    }
}

/// A new table's directory; it goes again unless it is kept.
struct Home {
    directory: TempDir,
}

impl Home {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn keep(self) {
        let _: PathBuf = self.directory.keep();
    }

    fn into_temporary(self) -> Result<TempDir> {
        Ok(self.directory)
    }
}

fn managed_table(
    home: &Path,
    format: Format,
    create: &CreateTable,
    schema: &Schema,
) -> Result<FileTable> {
    for name in &create.partition_by {
        if schema.field_with_name(name).is_err() {
            let known = schema.fields().iter().map(|field| field.name().as_str());
            return Err(Error::not_found("column", name, known));
        }
    }
    FileTable::from_spark(
        format,
        &create.options,
        Some(Arc::new(schema.clone())),
        Some(format!("{}/", home.display())),
        create.partition_by.clone(),
    )
}

/// Parquet has no place for some of Arrow's types; Arrow's own files have.
fn kept_format(create: &CreateTable, format: Format, schema: &Schema) -> Format {
    let is_fitting = schema.fields().iter().all(|field| fits_parquet(field.data_type()));
    if create.format.is_none() && !is_fitting { Format::Arrow } else { format }
}

/// The columns of a new table for rows of `given`: only NOT NULL forbids NULL in later rows, not that
/// the first rows have none.
fn kept_schema(given: &Schema, declared: Option<&Schema>) -> Schema {
    let fields = given.fields().iter().enumerate().map(|(idx, field)| {
        let nullable = declared.is_none_or(|declared| declared.field(idx).is_nullable());
        field.as_ref().clone().with_nullable(nullable)
    });
    Schema::new(fields.collect::<Vec<_>>())
}

/// Arrow types that the Parquet writer takes.
fn fits_parquet(data_type: &DataType) -> bool {
    match data_type {
        DataType::Interval(_)
        | DataType::Duration(_)
        | DataType::Union(..)
        | DataType::RunEndEncoded(..)
        | DataType::Null
        | DataType::ListView(_)
        | DataType::LargeListView(_) => false,
        DataType::Struct(fields) => {
            !fields.is_empty() && fields.iter().all(|field| fits_parquet(field.data_type()))
        }
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => fits_parquet(field.data_type()),
        _ => true,
    }
}

fn names_a_path(create: &CreateTable) -> bool {
    create.location.is_some()
        || create.options.iter().any(|(key, _)| key.eq_ignore_ascii_case("path"))
}

fn already_there(place: &Place, is_fine: bool, tag: &str) -> Result<QueryStream> {
    if is_fine {
        return Ok(command_done(tag));
    }
    let (Place::Temporary { name } | Place::Persistent { name, .. }) = place;
    Err(Error::AlreadyExists { kind: "table", name: name.clone() })
}

/// A table's name as part of a directory's, for people who look there.
fn file_name(name: &str) -> String {
    name.chars()
        .map(|character| if character.is_ascii_alphanumeric() { character } else { '_' })
        .take(40)
        .collect()
}

pub(crate) fn schema_name(name: &ObjectName) -> Result<String> {
    let parts = parts(name)?;
    match parts.as_slice() {
        [schema] => Ok(schema.clone()),
        [catalog, schema] if catalog == CATALOG => Ok(schema.clone()),
        [catalog, _] => Err(Error::not_found("catalog", catalog, [CATALOG])),
        _ => Err(Error::plan(format!("\"{name}\" is no name of a schema"))),
    }
}

/// Reads a name of up to three parts; unquoted ones in lower case.
pub(crate) fn table_reference(name: &ObjectName) -> Result<TableReference> {
    let parts = parts(name)?;
    Ok(match parts.as_slice() {
        [table] => TableReference::bare(table.as_str()),
        [schema, table] => TableReference::partial(schema.as_str(), table.as_str()),
        [catalog, schema, table] => {
            TableReference::full(catalog.as_str(), schema.as_str(), table.as_str())
        }
        _ => return Err(Error::plan(format!("the name {name} has too many parts"))),
    })
}

fn parts(name: &ObjectName) -> Result<Vec<String>> {
    name.0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) => {
                Ok(normalize(ident.quote_style, ident.value.clone()))
            }
            ObjectNamePart::Function(_) => {
                Err(Error::plan(format!("\"{name}\" is no name of a table")))
            }
        })
        .collect()
}
