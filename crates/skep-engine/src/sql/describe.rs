//! `DESCRIBE`: what columns a table or a query has.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::TableReference;
use datafusion::sql::sqlparser::ast::{ObjectName, Query};
use futures::StreamExt;

use crate::catalog::{CATALOG, Definition, TEMP, TableEntry, TableOpener};
use crate::error::{Error, Result};
use crate::files;
use crate::query::QueryStream;
use crate::session::Session;

impl Session {
    /// `DESCRIBE [EXTENDED] t`.
    ///
    /// Shape: `column_name`, `data_type`, `is_nullable`; extended, then lines on the table itself
    /// below an empty one, as Spark has them.
    pub(crate) async fn describe_table(
        &self,
        name: &ObjectName,
        extended: bool,
    ) -> Result<QueryStream> {
        let (schema, details) = match self.find_table(name) {
            Ok((reference, entry)) => {
                let provider = self.inner.open_entry(&entry).await?;
                (provider.schema(), self.details(&reference, &entry))
            }
            Err(error) => match self.table(&name.to_string()).await {
                // A file in quotes can be described too.
                Ok(frame) => (Arc::new(frame.schema().as_arrow().clone()), Vec::new()),
                Err(_) => return Err(error),
            },
        };
        let mut rows = column_rows(&schema);
        if extended {
            rows.push([String::new(), String::new(), String::new()]);
            rows.extend(details.into_iter().map(|(name, value)| [name, value, String::new()]));
        }
        text_table(["column_name", "data_type", "is_nullable"], rows)
    }

    /// `DESCRIBE query`.
    pub(crate) async fn describe_query(&self, query: Box<Query>) -> Result<QueryStream> {
        let state = self.state();
        let planned = self.inner.plan_query(&state, query, self.scope()).await?;
        let mut schema: SchemaRef = Arc::new(planned.plan.schema().as_arrow().clone());
        if planned.has_renamed_outputs {
            schema = super::rewrite::restore_output_names(&schema);
        }
        text_table(["column_name", "data_type", "is_nullable"], column_rows(&schema))
    }

    /// What `EXTENDED` adds: where a table is and how it is read.
    fn details(&self, reference: &TableReference, entry: &TableEntry) -> Vec<(String, String)> {
        let is_temporary = matches!(reference.schema(), None | Some(TEMP))
            && self.inner.catalog.temporary(reference.table()).is_some();
        let schema = match is_temporary {
            true => TEMP.to_owned(),
            false => reference.schema().map_or_else(|| self.scope().schema, str::to_owned),
        };
        let mut details = vec![
            ("Catalog".to_owned(), CATALOG.to_owned()),
            ("Schema".to_owned(), schema),
            ("Table".to_owned(), reference.table().to_owned()),
        ];
        match &entry.definition {
            Definition::Files { table, managed } => {
                let kind = if *managed { "managed" } else { "external" };
                details.push(("Type".to_owned(), kind.to_owned()));
                details.push(("Provider".to_owned(), table.format.to_string()));
                for location in &table.locations {
                    details.push(("Location".to_owned(), files::shown_location(location)));
                }
                for (key, value) in &table.options {
                    details.push((format!("Option {key}"), value.clone()));
                }
                for (name, data_type) in &table.partition_columns {
                    details.push((format!("Partitioned by {name}"), data_type.to_string()));
                }
            }
            Definition::System(_) => details.push(("Type".to_owned(), "system".to_owned())),
            Definition::View(view) => {
                details.push(("Type".to_owned(), "view".to_owned()));
                details.push(("View text".to_owned(), view.query.clone()));
            }
            Definition::Provider { text, .. } => {
                details.push(("Type".to_owned(), "temporary view".to_owned()));
                if let Some(text) = text {
                    details.push(("View text".to_owned(), text.clone()));
                }
            }
        }
        if let Some(comment) = &entry.comment {
            details.push(("Comment".to_owned(), comment.clone()));
        }
        details
    }
}

fn column_rows(schema: &Schema) -> Vec<[String; 3]> {
    let row = |field: &Arc<Field>| {
        let nullable = if field.is_nullable() { "YES" } else { "NO" };
        [field.name().clone(), field.data_type().to_string(), nullable.to_owned()]
    };
    schema.fields().iter().map(row).collect()
}

/// Makes a result of text columns.
pub(crate) fn text_table<const N: usize>(
    names: [&str; N],
    rows: Vec<[String; N]>,
) -> Result<QueryStream> {
    let fields: Vec<Field> =
        names.iter().map(|name| Field::new(*name, DataType::Utf8, false)).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let columns = (0..N)
        .map(|column| {
            let values = rows.iter().map(|row| row[column].as_str());
            Arc::new(StringArray::from_iter_values(values)) as ArrayRef
        })
        .collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(|error| {
        Error::Internal { message: format!("a table of text: {error}"), source: None }
    })?;
    Ok(QueryStream::new(schema, futures::stream::iter([Ok(batch)]).boxed()))
}
