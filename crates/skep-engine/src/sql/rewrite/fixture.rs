//! Statements through the rewrites and a plain DataFusion session, for the tests of this module.

use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::DFSchemaRef;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement as ScriptStatement;
use datafusion::sql::sqlparser::ast::{Query, Statement};
use datafusion::sql::sqlparser::parser::Parser;

use super::{
    RelationSchemas, explain_renamed, is_duplicate_name, rename_duplicate_outputs,
    restore_output_names, rewrite_statement,
};
use crate::error::Result;
use crate::sql::dialect::SkepDialect;

/// A session with tables.
pub(super) struct Fixture {
    context: SessionContext,
}

impl RelationSchemas for Fixture {
    fn schema_of(&self, query: &Query) -> Result<DFSchemaRef> {
        let plan = self.rewrite_and_plan(Statement::Query(Box::new(query.clone())))?;
        Ok(DFSchemaRef::clone(plan.schema()))
    }
}

/// Parses one statement.
pub(super) fn parse(sql: &str) -> Statement {
    Parser::parse_sql(&SkepDialect, sql).expect(sql).remove(0)
}

impl Fixture {
    pub(super) async fn new(setup: &[&str]) -> Self {
        let config = SessionConfig::new().with_target_partitions(2);
        let context = SessionContext::new_with_config(config);
        for function in crate::functions::scalar_functions() {
            context.register_udf(function.as_ref().clone());
        }
        for statement in setup {
            context.sql(statement).await.expect(statement).collect().await.expect(statement);
        }
        Self { context }
    }

    fn plan(&self, statement: Statement) -> Result<LogicalPlan, DataFusionError> {
        let statement = ScriptStatement::Statement(Box::new(statement));
        // Only tables in memory, so nothing ever waits.
        futures::executor::block_on(self.context.state().statement_to_plan(statement))
    }

    fn rewrite_and_plan(&self, mut statement: Statement) -> Result<LogicalPlan> {
        rewrite_statement(&mut statement, self)?;
        match self.plan(statement.clone()) {
            Err(error) if is_duplicate_name(&error) => {
                if !rename_duplicate_outputs(&mut statement, self)? {
                    return Err(error.into());
                }
                self.plan(statement).map_err(|error| match explain_renamed(&error) {
                    Some(explained) => explained,
                    None => error.into(),
                })
            }
            plan => Ok(plan?),
        }
    }

    /// Returns the text of a statement after the rewrites.
    pub(super) fn rewritten(&self, sql: &str) -> Result<String> {
        let mut statement = parse(sql);
        rewrite_statement(&mut statement, self)?;
        Ok(statement.to_string())
    }

    /// Returns the error of a statement.
    pub(super) async fn error(&self, sql: &str) -> String {
        match self.run(sql).await {
            Ok(result) => panic!("{sql} answers {result:?}"),
            Err(error) => error.to_string(),
        }
    }

    /// Returns the rows of a query, sorted, with `|` between values.
    pub(super) async fn rows(&self, sql: &str) -> Vec<String> {
        let (_, mut rows) = self.run(sql).await.expect(sql);
        rows.sort();
        rows
    }

    /// Returns the rows of a query in their order.
    pub(super) async fn ordered(&self, sql: &str) -> Vec<String> {
        self.run(sql).await.expect(sql).1
    }

    /// Returns the column names of a query.
    pub(super) async fn names(&self, sql: &str) -> Vec<String> {
        self.run(sql).await.expect(sql).0
    }

    async fn run(&self, sql: &str) -> Result<(Vec<String>, Vec<String>)> {
        let plan = self.rewrite_and_plan(parse(sql))?;
        let frame = self.context.execute_logical_plan(plan).await?;
        let batches = frame.collect().await?;
        let mut names = vec![];
        let mut rows = vec![];
        for batch in batches {
            let schema = restore_output_names(&batch.schema());
            names = schema.fields().iter().map(|field| field.name().clone()).collect();
            let options = FormatOptions::default().with_null("NULL");
            let columns: Vec<_> = batch
                .columns()
                .iter()
                .map(|column| ArrayFormatter::try_new(column, &options).expect("formats"))
                .collect();
            for row in 0..batch.num_rows() {
                let values: Vec<_> =
                    columns.iter().map(|column| column.value(row).to_string()).collect();
                rows.push(values.join("|"));
            }
        }
        Ok((names, rows))
    }
}

/// Returns whether a `FROM` item is in the dialect.
pub(super) fn parses(from: &str) -> bool {
    Parser::parse_sql(&SkepDialect, &format!("SELECT * FROM {from}")).is_ok()
}
