//! `INSERT` and `COPY`: rows from queries into files.

use datafusion::common::TableReference;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{DmlStatement, WriteOp};
use datafusion::sql::parser::{CopyToSource, CopyToStatement, Statement as PlanStatement};
use datafusion::sql::sqlparser::ast::{Statement as SqlStatement, Value};

use crate::catalog::{Definition, TableEntry};
use crate::error::{Error, Result};
use crate::files::{self, FileTarget, WriteMode};
use crate::query::{QueryStream, StatementKind};
use crate::session::{Session, named_columns};
use crate::sql::ParserLimits;
use crate::sql::ddl::read_only;
use crate::sql::statement::Statement;

impl Session {
    /// Writes the rows of an `INSERT` beside those that are there.
    pub(crate) async fn insert(
        &self,
        state: &SessionState,
        statement: DmlStatement,
    ) -> Result<QueryStream> {
        self.inner.policy.require_writer("INSERT")?;
        let mode = match statement.op {
            WriteOp::Insert(InsertOp::Append) => WriteMode::Append,
            WriteOp::Insert(InsertOp::Overwrite) => WriteMode::Overwrite,
            other => return Err(Error::unsupported(format!("the statement {other}"), "")),
        };
        let reference = &statement.table_name;
        let entry = self.inner.find(reference, &self.scope())?;
        let Some(entry) = entry else {
            return Err(Error::plan(format!("\"{reference}\" is no table that can be written to")));
        };
        let target = self.write_target(reference, &entry, mode)?;
        let input = statement.input.as_ref().clone();
        let executor = self.inner.engine.executor.as_ref();
        let changed = self.cached_source_changed(&entry);
        let row_count = files::write(state, executor, input, &target, changed).await?;
        Ok(QueryStream::done(StatementKind::Write { row_count }))
    }

    /// Says where rows for a table are written.
    pub(crate) fn write_target(
        &self,
        reference: &TableReference,
        entry: &TableEntry,
        mode: WriteMode,
    ) -> Result<FileTarget> {
        match &entry.definition {
            Definition::System(_) => Err(read_only(reference)),
            Definition::Files { table, .. } => files::insert_target(table, mode),
            Definition::View(_) | Definition::Provider { .. } => Err(Error::Plan {
                message: format!("\"{reference}\" is a view: rows cannot be put into it"),
                position: None,
                hint: None,
            }),
        }
    }

    /// `COPY ... TO`: one new file or directory, and never over something that is there.
    pub(crate) async fn copy(&self, copy: CopyToStatement) -> Result<QueryStream> {
        self.inner.policy.require_writer("COPY")?;
        let state = self.state();
        let statement = match copy.source {
            CopyToSource::Query(query) => {
                PlanStatement::Statement(Box::new(SqlStatement::Query(query)))
            }
            CopyToSource::Relation(name) => {
                let limits = ParserLimits::of(state.config_options());
                match super::parse(&format!("SELECT * FROM {name}"), limits)? {
                    Statement::Plan(statement) => *statement,
                    _ => return Err(Error::plan(format!("{name} is no table"))),
                }
            }
        };
        let target = files::copy_target(
            &copy.target,
            copy.stored_as.as_deref(),
            option_texts(copy.options),
            copy.partitioned_by,
        )?;
        self.inner.policy.check_location(&target.location)?;
        let planned = self.inner.plan(&state, statement, self.scope()).await?;
        let input = named_columns(planned, &[])?;
        let executor = self.inner.engine.executor.as_ref();
        let row_count = files::write(&state, executor, input, &target, || {}).await?;
        Ok(QueryStream::done(StatementKind::Write { row_count }))
    }
}

fn option_texts(options: Vec<(String, Value)>) -> Vec<(String, String)> {
    options
        .into_iter()
        .map(|(key, value)| match value {
            Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => (key, text),
            Value::Number(digits, _) => (key, digits),
            other => (key, other.to_string()),
        })
        .collect()
}
