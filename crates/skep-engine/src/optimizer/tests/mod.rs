//! What the rules must give, checked against answers computed by hand or by brute force.

mod arithmetic;
mod decimals;
mod joins;
mod recursion;
mod subqueries;
mod top_k;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::settings::SkepSettings;

/// A session with DataFusion's defaults and our rules, functions and settings.
pub(super) fn context() -> SessionContext {
    let config = SessionConfig::new()
        .with_target_partitions(3)
        .with_information_schema(true)
        .with_option_extension(SkepSettings::default());
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_analyzer_rules(super::analyzer_rules(None))
        .with_optimizer_rules(super::optimizer_rules())
        .with_physical_optimizer_rules(super::physical_optimizer_rules(None))
        .build();
    let context = SessionContext::new_with_state(state);
    for function in crate::functions::aggregate_functions() {
        context.register_udaf(function.as_ref().clone());
    }
    for function in crate::functions::scalar_functions() {
        context.register_udf(function.as_ref().clone());
    }
    context
}

pub(super) async fn run(
    context: &SessionContext,
    sql: &str,
) -> Result<Vec<RecordBatch>, DataFusionError> {
    context.sql(sql).await?.collect().await
}

/// The rows of a query, each as its values joined by blanks, in order.
pub(super) async fn rows(context: &SessionContext, sql: &str) -> Vec<String> {
    let batches = match run(context, sql).await {
        Ok(batches) => batches,
        Err(error) => panic!("{sql}\n{error}"),
    };
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).expect("a known type"))
            .collect();
        for row in 0..batch.num_rows() {
            let values: Vec<_> =
                columns.iter().map(|column| column.value(row).to_string()).collect();
            rows.push(values.join(" "));
        }
    }
    rows
}

/// The rows of a query in the order of their text.
pub(super) async fn sorted(context: &SessionContext, sql: &str) -> Vec<String> {
    let mut rows = rows(context, sql).await;
    rows.sort();
    rows
}

/// The text of the error that a query ends in.
pub(super) async fn error(context: &SessionContext, sql: &str) -> String {
    match run(context, sql).await {
        Ok(batches) => panic!("{sql}\ngave {batches:?}"),
        Err(error) => error.to_string(),
    }
}
