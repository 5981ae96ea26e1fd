//! `SHOW`: lists of what there is.

use datafusion::logical_expr::{Documentation, Signature};
use datafusion::sql::sqlparser::ast::ObjectName;

use crate::catalog::{CATALOG, Definition, TEMP, TableEntry, TableOpener};
use crate::error::{Error, Result};
use crate::query::QueryStream;
use crate::session::Session;
use crate::sql::describe::text_table;
use crate::sql::statement::Show;

impl Session {
    /// Answers a `SHOW`.
    pub(crate) async fn show(&self, show: Show) -> Result<QueryStream> {
        match show {
            Show::Tables { schema, pattern } => {
                self.show_tables(schema.as_ref(), pattern.as_deref(), |_| true)
            }
            Show::Views { schema, pattern } => {
                self.show_tables(schema.as_ref(), pattern.as_deref(), TableEntry::is_view)
            }
            Show::Columns { table } => self.show_columns(&table).await,
            Show::CreateTable { table } => self.show_create_table(&table).await,
            Show::Functions { pattern } => self.show_functions(pattern.as_deref()),
            Show::Settings { pattern } => self.show_settings(pattern.as_deref()),
            Show::Setting { name } => self.show_setting(&name),
            Show::Schemas { pattern } => {
                let mut names = self.inner.catalog.schemas();
                names.push("information_schema".to_owned());
                names.sort();
                one_column("schema_name", names, pattern.as_deref())
            }
            Show::Catalogs { pattern } => {
                one_column("catalog_name", vec![CATALOG.to_owned()], pattern.as_deref())
            }
        }
    }

    fn show_tables(
        &self,
        schema: Option<&ObjectName>,
        pattern: Option<&str>,
        keep: impl Fn(&TableEntry) -> bool,
    ) -> Result<QueryStream> {
        let catalog = &self.inner.catalog;
        let schemas = match schema {
            None => vec![TEMP.to_owned(), self.scope().schema],
            Some(name) => {
                let name = super::ddl::schema_name(name)?;
                let known = catalog.schemas();
                if !known.contains(&name) && name != TEMP {
                    let known = known.iter().map(String::as_str);
                    let error = Error::not_found("schema", name, known);
                    return Err(catalog.system().explain_missing(error));
                }
                vec![name]
            }
        };
        let mut rows = Vec::new();
        for schema in schemas {
            for (name, entry) in catalog.tables(&schema) {
                if keep(&entry) && matches(pattern, &name) {
                    rows.push([schema.clone(), name, kind(&schema, &entry).to_owned()]);
                }
            }
        }
        rows.sort_by(|left, right| left[1].cmp(&right[1]));
        text_table(["table_schema", "table_name", "table_type"], rows)
    }

    async fn show_columns(&self, table: &ObjectName) -> Result<QueryStream> {
        let (reference, entry) = self.find_table(table)?;
        let provider = self.inner.open_entry(&entry).await?;
        let rows = provider
            .schema()
            .fields()
            .iter()
            .map(|field| {
                let nullable = if field.is_nullable() { "YES" } else { "NO" };
                [
                    reference.table().to_owned(),
                    field.name().clone(),
                    field.data_type().to_string(),
                    nullable.to_owned(),
                ]
            })
            .collect();
        text_table(["table_name", "column_name", "data_type", "is_nullable"], rows)
    }

    /// A statement that makes the table again.
    async fn show_create_table(&self, table: &ObjectName) -> Result<QueryStream> {
        let (reference, entry) = self.find_table(table)?;
        let is_temporary = self.inner.catalog.temporary(reference.table()).is_some()
            && matches!(reference.schema(), None | Some(TEMP));
        let temporary = if is_temporary { "TEMPORARY " } else { "" };
        let name = quoted(reference.table());
        let text = match &entry.definition {
            Definition::System(_) => {
                return Err(Error::plan(format!(
                    "{reference} is a system table: there is no statement for it"
                )));
            }
            Definition::View(view) => {
                let columns = match view.columns.is_empty() {
                    true => String::new(),
                    false => format!(" ({})", quoted_list(&view.columns)),
                };
                format!("CREATE {temporary}VIEW {name}{columns} AS {}", view.query)
            }
            Definition::Provider { text: Some(text), .. } => {
                format!("CREATE {temporary}VIEW {name} AS {text}")
            }
            Definition::Provider { text: None, .. } => {
                return Err(Error::plan(format!(
                    "{name} was made from a DataFrame: there is no statement for it"
                )));
            }
            Definition::Files { table: files, managed } => {
                let provider = self.inner.open_entry(&entry).await?;
                let schema = provider.schema();
                match managed {
                    true => create_managed_text(temporary, &name, files, schema.as_ref()),
                    false => create_files_text(temporary, &name, files, schema.as_ref()),
                }
            }
        };
        text_table(["table_name", "create_statement"], vec![[reference.table().to_owned(), text]])
    }

    fn show_functions(&self, pattern: Option<&str>) -> Result<QueryStream> {
        let state = self.state();
        let mut rows = Vec::new();
        for (name, function) in state.scalar_functions() {
            rows.push(function_row(name, "scalar", function.documentation(), function.signature()));
        }
        for (name, function) in state.aggregate_functions() {
            let documentation = function.documentation();
            rows.push(function_row(name, "aggregate", documentation, function.signature()));
        }
        for (name, function) in state.window_functions() {
            rows.push(function_row(name, "window", function.documentation(), function.signature()));
        }
        for name in state.higher_order_functions().keys() {
            rows.push([name.clone(), "higher-order".to_owned(), String::new(), String::new()]);
        }
        for name in state.table_functions().keys() {
            rows.push([name.clone(), "table".to_owned(), String::new(), String::new()]);
        }
        rows.retain(|row| matches(pattern, &row[0]));
        rows.sort();
        text_table(["function_name", "kind", "syntax", "description"], rows)
    }
}

fn function_row(
    name: &str,
    kind: &str,
    documentation: Option<&Documentation>,
    signature: &Signature,
) -> [String; 4] {
    let syntax = match documentation {
        Some(documentation) => documentation.syntax_example.clone(),
        None => format!("{name}(...) {:?}", signature.volatility),
    };
    let description = documentation.map(|text| text.description.trim().replace('\n', " "));
    [name.to_owned(), kind.to_owned(), syntax, description.unwrap_or_default()]
}

/// A table whose files skep keeps is made again without saying where.
fn create_managed_text(
    temporary: &str,
    name: &str,
    table: &crate::files::FileTable,
    schema: &datafusion::arrow::datatypes::Schema,
) -> String {
    let mut text = format!("CREATE {temporary}TABLE {name} ({}\n)", column_lines(schema));
    text.push_str(&format!(" USING {}", table.format));
    if !table.partition_columns.is_empty() {
        text.push_str(&format!("\nPARTITIONED BY ({})", partition_names(table)));
    }
    text
}

fn column_lines(schema: &datafusion::arrow::datatypes::Schema) -> String {
    let columns = schema.fields().iter().map(|field| {
        let required = if field.is_nullable() { "" } else { " NOT NULL" };
        format!("\n  {} {}{required}", quoted(field.name()), sql_type(field.data_type()))
    });
    columns.collect::<Vec<_>>().join(",")
}

fn partition_names(table: &crate::files::FileTable) -> String {
    let names: Vec<String> = table.partition_columns.iter().map(|(name, _)| name.clone()).collect();
    quoted_list(&names)
}

fn create_files_text(
    temporary: &str,
    name: &str,
    table: &crate::files::FileTable,
    schema: &datafusion::arrow::datatypes::Schema,
) -> String {
    let mut text = format!("CREATE EXTERNAL {temporary}TABLE {name} ({}\n)", column_lines(schema));
    text.push_str(&format!(" STORED AS {}", table.format.to_string().to_uppercase()));
    if !table.partition_columns.is_empty() {
        text.push_str(&format!("\nPARTITIONED BY ({})", partition_names(table)));
    }
    let locations: Vec<String> =
        table.locations.iter().map(|path| literal(&crate::files::shown_location(path))).collect();
    text.push_str(&format!("\nLOCATION {}", locations.join(", ")));
    if !table.options.is_empty() {
        let options: Vec<String> = table
            .options
            .iter()
            .map(|(key, value)| format!("{} {}", literal(key), literal(value)))
            .collect();
        text.push_str(&format!("\nOPTIONS ({})", options.join(", ")));
    }
    text
}

/// SQL's word for a type, or Arrow's where SQL has none; `arrow_cast` takes the latter.
fn sql_type(data_type: &datafusion::arrow::datatypes::DataType) -> String {
    use datafusion::arrow::datatypes::{DataType, TimeUnit};

    match data_type {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::UInt8 => "TINYINT UNSIGNED".to_owned(),
        DataType::UInt16 => "SMALLINT UNSIGNED".to_owned(),
        DataType::UInt32 => "INT UNSIGNED".to_owned(),
        DataType::UInt64 => "BIGINT UNSIGNED".to_owned(),
        DataType::Float32 => "REAL".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "BYTEA".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Time64(TimeUnit::Nanosecond) => "TIME".to_owned(),
        DataType::Timestamp(TimeUnit::Nanosecond, None) => "TIMESTAMP".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::List(field) => format!("{}[]", sql_type(field.data_type())),
        DataType::Dictionary(_, value) => sql_type(value),
        other => other.to_string(),
    }
}

fn kind(schema: &str, entry: &TableEntry) -> &'static str {
    match (schema == TEMP, entry.is_view()) {
        (true, true) => "TEMPORARY VIEW",
        (true, false) => "TEMPORARY TABLE",
        (false, true) => "VIEW",
        (false, false) => "TABLE",
    }
}

fn one_column(name: &str, values: Vec<String>, pattern: Option<&str>) -> Result<QueryStream> {
    let rows = values.into_iter().filter(|value| matches(pattern, value)).map(|value| [value]);
    text_table([name], rows.collect())
}

/// `%` and `*` stand for any letters, `_` for one, `|` for "or"; capitals do not matter.
pub(crate) fn matches(pattern: Option<&str>, text: &str) -> bool {
    let Some(pattern) = pattern else {
        return true;
    };
    let text: Vec<char> = text.to_lowercase().chars().collect();
    pattern.split('|').any(|pattern| {
        let pattern: Vec<char> = pattern.to_lowercase().chars().collect();
        matches_one(&pattern, &text)
    })
}

/// Goes back to the last star only, so the time is bounded by the product of the lengths.
fn matches_one(pattern: &[char], text: &[char]) -> bool {
    let (mut at_pattern, mut at_text) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at_text < text.len() {
        match pattern.get(at_pattern) {
            Some('%' | '*') => {
                star = Some((at_pattern, at_text));
                at_pattern += 1;
            }
            Some(letter) if *letter == '_' || *letter == text[at_text] => {
                at_pattern += 1;
                at_text += 1;
            }
            _ => match star {
                Some((star_pattern, star_text)) => {
                    star = Some((star_pattern, star_text + 1));
                    at_pattern = star_pattern + 1;
                    at_text = star_text + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at_pattern..].iter().all(|letter| matches!(letter, '%' | '*'))
}

/// An identifier, quoted where it must be.
pub(crate) fn quoted(name: &str) -> String {
    let is_plain = name.chars().enumerate().all(|(at, letter)| {
        letter == '_' || letter.is_ascii_lowercase() || (at > 0 && letter.is_ascii_digit())
    });
    if is_plain && !name.is_empty() {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn quoted_list(names: &[String]) -> String {
    names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_sql_and_in_spark() {
        assert!(matches(None, "anything"));
        assert!(matches(Some("fl%"), "flights"));
        assert!(matches(Some("*light*"), "flights"));
        assert!(matches(Some("a|B_"), "bc"));
        assert!(!matches(Some("fl"), "flights"));
        assert!(!matches(Some("%x"), "flights"));
        assert!(matches(Some("%%%"), ""));
    }

    #[test]
    fn identifiers_are_quoted_where_they_must_be() {
        assert_eq!(quoted("a_1"), "a_1");
        assert_eq!(quoted("A"), "\"A\"");
        assert_eq!(quoted("1a"), "\"1a\"");
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
