//! Hive-style partitions: directories called `column=value`.

use datafusion::arrow::datatypes::DataType;
use datafusion::scalar::ScalarValue;

use super::listing::FoundFile;
use crate::error::{Error, Result};

/// How Hive and Spark write NULL in the name of a directory.
pub(crate) const NULL_DIRECTORY: &str = "__HIVE_DEFAULT_PARTITION__";

/// The columns that a table has from the names of its directories.
pub(crate) type PartitionColumns = Vec<(String, DataType)>;

/// Finds the partition columns of files, and their types from all their values.
///
/// A column is an integer or a date if each of its values is one; text otherwise.
///
/// # Errors
/// [`Error::File`] if the files disagree on the columns.
pub(crate) fn discover(files: &[FoundFile]) -> Result<PartitionColumns> {
    let Some(first) = files.first() else { return Ok(Vec::new()) };
    let names: Vec<String> = pairs(first).into_iter().map(|(name, _)| name).collect();
    let mut values: Vec<Vec<Option<String>>> = vec![Vec::new(); names.len()];
    for file in files {
        let found = pairs(file);
        if found.len() != names.len() || found.iter().zip(&names).any(|((a, _), b)| a != b) {
            let list = |names: Vec<String>| match names.is_empty() {
                true => "no partition columns".to_owned(),
                false => format!("({})", names.join(", ")),
            };
            return Err(Error::File {
                path: file.path(),
                format: None,
                message: format!(
                    "its directories say {}, but those of {} say {}",
                    list(found.into_iter().map(|(name, _)| name).collect()),
                    first.path(),
                    list(names),
                ),
                missing: false,
                hint: Some("all files of a table need the same partition directories".to_owned()),
            });
        }
        for (slot, (_, value)) in values.iter_mut().zip(found) {
            slot.push(value);
        }
    }
    Ok(names.into_iter().zip(values.iter().map(|values| type_of(values))).collect())
}

/// Returns the values that a file's rows have in the partition columns.
///
/// # Errors
/// [`Error::File`] if the directories do not fit the columns.
pub(crate) fn values(file: &FoundFile, columns: &PartitionColumns) -> Result<Vec<ScalarValue>> {
    if columns.is_empty() {
        return Ok(Vec::new());
    }
    let found = pairs(file);
    let misfit = |message: String| Error::File {
        path: file.path(),
        format: None,
        message,
        missing: false,
        hint: None,
    };
    columns
        .iter()
        .map(|(name, data_type)| {
            let value = found
                .iter()
                .find(|(other, _)| other == name)
                .or_else(|| found.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)))
                .map(|(_, value)| value)
                .ok_or_else(|| {
                    misfit(format!("it is in no directory called \"{name}=...\""))
                })?;
            let Some(value) = value else {
                return Ok(ScalarValue::try_from(data_type)?);
            };
            ScalarValue::try_from_string(value.clone(), data_type).map_err(|_error| {
                misfit(format!(
                    "\"{value}\" in the name of its directory is no {data_type} for column \"{name}\""
                ))
            })
        })
        .collect()
}

fn pairs(file: &FoundFile) -> Vec<(String, Option<String>)> {
    file.directories
        .iter()
        .filter_map(|directory| directory.split_once('='))
        .map(|(name, value)| {
            let value = (value != NULL_DIRECTORY).then(|| decode(value));
            (decode(name), value)
        })
        .collect()
}

fn type_of(values: &[Option<String>]) -> DataType {
    let mut present = values.iter().flatten().peekable();
    if present.peek().is_none() {
        return DataType::Utf8;
    }
    let all = |test: fn(&str) -> bool| values.iter().flatten().all(|value| test(value));
    if all(is_integer) {
        DataType::Int64
    } else if all(is_date) {
        DataType::Date32
    } else {
        DataType::Utf8
    }
}

/// An integer that reads back as it was written: `01` is text, or its zero would be lost.
fn is_integer(text: &str) -> bool {
    text.parse::<i64>().is_ok_and(|number| number.to_string() == text)
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && ScalarValue::try_from_string(text.to_owned(), &DataType::Date32).is_ok()
}

/// Undoes the percent-encoding of a directory's name; what is no valid encoding stays.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'%')
            .then(|| bytes.get(i + 1..i + 3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match hex {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// Returns what a value is called in the name of a directory, before the store encodes it.
pub(crate) fn directory_value(value: Option<&str>) -> &str {
    // Hive cannot tell an empty value from none either.
    value.filter(|value| !value.is_empty()).unwrap_or(NULL_DIRECTORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(values: &[&str]) -> Vec<Option<String>> {
        values.iter().map(|value| Some((*value).to_owned())).collect()
    }

    #[test]
    fn types_from_all_values() {
        assert_eq!(type_of(&some(&["1", "20", "-3"])), DataType::Int64);
        assert_eq!(type_of(&some(&["1", "x"])), DataType::Utf8);
        assert_eq!(type_of(&some(&["01", "02"])), DataType::Utf8);
        assert_eq!(type_of(&some(&["2024-01-31"])), DataType::Date32);
        assert_eq!(type_of(&some(&["2024-01-32"])), DataType::Utf8);
        assert_eq!(type_of(&[None, Some("7".to_owned())]), DataType::Int64);
        assert_eq!(type_of(&[None]), DataType::Utf8);
    }

    #[test]
    fn names_are_decoded() {
        assert_eq!(decode("a%2Fb%3Dc"), "a/b=c");
        assert_eq!(decode("100%zz"), "100%zz");
        assert_eq!(decode("%C3%A4"), "ä");
        assert_eq!(directory_value(None), NULL_DIRECTORY);
        assert_eq!(directory_value(Some("x")), "x");
    }
}
