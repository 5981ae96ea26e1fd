//! What a table over files is, in plain words, so that it can be kept and opened again.

use std::str::FromStr;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::logical_expr::{CreateExternalTable, Expr};

use super::format::Format;
use super::location::absolute_location;
use super::options::{self, Options, Rules};
use super::partition::PartitionColumns;
use crate::error::{Error, Result};

/// One column of a declared order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SortColumn {
    pub(crate) column: String,
    pub(crate) ascending: bool,
    pub(crate) nulls_first: bool,
}

/// A table over files: enough to open it again after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileTable {
    pub(crate) format: Format,
    /// Files, directories, globs or URLs; local paths are absolute.
    pub(crate) locations: Vec<String>,
    /// Options under their canonical names.
    pub(crate) options: Options,
    /// The declared columns, partition columns apart; `None` infers them.
    pub(crate) schema: Option<SchemaRef>,
    /// The declared partition columns; if empty, directories called `k=v` are discovered.
    pub(crate) partition_columns: PartitionColumns,
    /// The orders that the rows of every file are declared to have.
    pub(crate) order: Vec<Vec<SortColumn>>,
}

impl FileTable {
    /// Declares a table as Spark does: `USING csv OPTIONS (path '...', header 'true')`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] or [`Error::Unsupported`] for an option, [`Error::Plan`] if no path
    /// is given or a partition column is not declared.
    pub(crate) fn from_spark(
        format: Format,
        options: &[(String, String)],
        schema: Option<SchemaRef>,
        location: Option<String>,
        partition_columns: Vec<String>,
    ) -> Result<Self> {
        let mut locations = Vec::new();
        for (name, value) in options {
            match name.to_ascii_lowercase().as_str() {
                "path" => locations.push(value.clone()),
                "paths" => locations.extend(path_list(value)?),
                _ => {}
            }
        }
        locations.extend(location);
        if locations.is_empty() {
            return Err(Error::Plan {
                message: format!("a table of {format} files needs a path"),
                position: None,
                hint: Some("write OPTIONS (path '...') or LOCATION '...'".to_owned()),
            });
        }
        let (schema, partition_columns) = split_partitions(schema, &partition_columns)?;
        Ok(Self {
            format,
            locations: absolute_locations(&locations)?,
            options: options::from_spark(format, options)?,
            schema,
            partition_columns,
            order: Vec::new(),
        })
    }

    /// Declares a table as DataFusion does: `CREATE EXTERNAL TABLE ... STORED AS ... LOCATION ...`.
    ///
    /// # Errors
    /// As [`FileTable::from_spark`]; [`Error::Unsupported`] for UNBOUNDED, DEFAULT, and orders by
    /// anything but columns.
    pub(crate) fn from_external(statement: &CreateExternalTable) -> Result<Self> {
        if statement.unbounded {
            return Err(Error::unsupported("UNBOUNDED", ""));
        }
        if !statement.column_defaults.is_empty() {
            return Err(Error::unsupported("DEFAULT for columns of a table over files", ""));
        }
        if statement.constraints.iter().next().is_some() {
            return Err(Error::unsupported("a constraint on a table over files", ""));
        }
        let format = Format::from_str(&statement.file_type)?;
        let declared: &Schema = statement.schema.as_arrow();
        let schema = match declared.fields().is_empty() {
            true => None,
            false => Some(SchemaRef::new(Schema::new(declared.fields().clone()))),
        };
        let (schema, partition_columns) = match schema {
            // Without columns the names alone are given, and values tell the types.
            None => (
                None,
                statement
                    .table_partition_cols
                    .iter()
                    .map(|name| (name.clone(), DataType::Null))
                    .collect(),
            ),
            some => split_partitions(some, &statement.table_partition_cols)?,
        };
        Ok(Self {
            format,
            locations: absolute_locations(&statement.locations)?,
            options: options::from_datafusion(format, &statement.options)?,
            schema,
            partition_columns,
            order: sort_columns(&statement.order_exprs)?,
        })
    }

    /// Makes a table over one location with nothing declared.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if the location is none.
    pub(crate) fn undeclared(format: Format, location: &str) -> Result<Self> {
        Ok(Self {
            format,
            locations: vec![absolute_location(location)?],
            options: Options::new(),
            schema: None,
            partition_columns: Vec::new(),
            order: Vec::new(),
        })
    }

    /// Returns what the options mean.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if they have no meaning.
    pub(crate) fn rules(&self) -> Result<Rules> {
        Rules::parse(self.format, &self.options)
    }
}

/// Reads Spark's `paths`: a JSON array, or paths split by commas.
fn path_list(text: &str) -> Result<Vec<String>> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).map_err(|error| Error::InvalidOption {
            option: "paths".to_owned(),
            message: format!("no list of paths: {error}"),
            hint: Some("write paths '[\"a.csv\", \"b.csv\"]'".to_owned()),
        });
    }
    Ok(text.split(',').map(|path| path.trim().to_owned()).collect())
}

fn absolute_locations(locations: &[String]) -> Result<Vec<String>> {
    locations.iter().map(|location| absolute_location(location)).collect()
}

/// Text in a directory's name is plain text, whatever kind of string was declared.
pub(crate) fn directory_type(declared: &DataType) -> DataType {
    match declared {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        other => other.clone(),
    }
}

/// Takes the partition columns out of the declared ones.
fn split_partitions(
    schema: Option<SchemaRef>,
    names: &[String],
) -> Result<(Option<SchemaRef>, PartitionColumns)> {
    if names.is_empty() {
        return Ok((schema, Vec::new()));
    }
    let Some(schema) = schema else {
        return Ok((None, names.iter().map(|name| (name.clone(), DataType::Null)).collect()));
    };
    let mut partitions = Vec::with_capacity(names.len());
    for name in names {
        let field = schema.field_with_name(name).map_err(|_| Error::NotFound {
            kind: "partition column",
            name: name.clone(),
            position: None,
            hint: Some("declare it among the columns of the table".to_owned()),
        })?;
        let data_type = directory_type(field.data_type());
        partitions.push((name.clone(), data_type));
    }
    let rest: Vec<Field> = schema
        .fields()
        .iter()
        .filter(|field| !names.contains(field.name()))
        .map(|field| field.as_ref().clone())
        .collect();
    Ok((Some(SchemaRef::new(Schema::new(rest))), partitions))
}

fn sort_columns(
    orders: &[Vec<datafusion::logical_expr::SortExpr>],
) -> Result<Vec<Vec<SortColumn>>> {
    let sort_column = |sort: &datafusion::logical_expr::SortExpr| match &sort.expr {
        Expr::Column(column) => Ok(SortColumn {
            column: column.name.clone(),
            ascending: sort.asc,
            nulls_first: sort.nulls_first,
        }),
        other => Err(Error::unsupported(format!("WITH ORDER by {other}"), "order by columns")),
    };
    orders.iter().map(|order| order.iter().map(sort_column).collect()).collect()
}
