//! Rules for text values that DataFusion's CSV reader does not have: NULL markers, blanks, formats.
//!
//! Columns under such a rule are read as text, and a projection above the scan makes values of
//! them. It is made of ordinary expressions, so the plan stays one that can travel.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::functions::expr_fn::{btrim, ltrim, nullif, regexp_like, rtrim, to_date};
use datafusion::functions::expr_fn::{to_timestamp, to_timestamp_micros, to_timestamp_millis};
use datafusion::logical_expr::expr_fn::when;
use datafusion::logical_expr::{Expr, cast, ident, lit};
use datafusion::scalar::ScalarValue;

use super::options::CsvRules;
use crate::error::{Error, Result};

/// Returns the schema that the CSV reader gets: columns that a rule governs are text.
pub(crate) fn reader_schema(rules: &CsvRules, schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| match value_rule(rules, field.data_type()) {
            true => Field::new(field.name(), DataType::Utf8, true),
            false => field.as_ref().clone(),
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// Returns the expression that makes a column's value out of what was read, if it takes any.
pub(crate) fn value_expr(rules: &CsvRules, field: &Field) -> Result<Option<Expr>> {
    if !value_rule(rules, field.data_type()) {
        return Ok(None);
    }
    let mut value = ident(field.name());
    value = match (rules.trim_leading, rules.trim_trailing) {
        (true, true) => btrim(vec![value]),
        (true, false) => ltrim(vec![value]),
        (false, true) => rtrim(vec![value]),
        (false, false) => value,
    };
    if let Some(marker) = &rules.null_value {
        value = nullif(value, lit(marker.as_str()));
    }
    if let Some(regex) = &rules.null_regex {
        let is_null = regexp_like(value.clone(), lit(regex.as_str()), None);
        value = when(is_null, lit(ScalarValue::Utf8(None))).otherwise(value)?;
    }
    let data_type = field.data_type();
    value = match (data_type, &rules.date_format, &rules.timestamp_format) {
        (DataType::Date32 | DataType::Date64, Some(format), _) => {
            to_date(vec![value, lit(format.as_str())])
        }
        (DataType::Timestamp(unit, _), _, Some(format)) => {
            let arguments = vec![value, lit(format.as_str())];
            match unit {
                TimeUnit::Second | TimeUnit::Millisecond => to_timestamp_millis(arguments),
                TimeUnit::Microsecond => to_timestamp_micros(arguments),
                TimeUnit::Nanosecond => to_timestamp(arguments),
            }
        }
        _ if !is_text(data_type) && (rules.trim_leading || rules.trim_trailing) => {
            // Blanks around nothing are nothing, as an empty field is.
            nullif(value, lit(""))
        }
        _ => value,
    };
    Ok(Some(cast(value, data_type.clone()).alias(field.name())))
}

fn value_rule(rules: &CsvRules, data_type: &DataType) -> bool {
    rules.null_value.as_deref().is_some_and(|marker| !marker.is_empty())
        || rules.null_regex.is_some()
        || rules.trim_leading
        || rules.trim_trailing
        || (rules.date_format.is_some() && matches!(data_type, DataType::Date32 | DataType::Date64))
        || (rules.timestamp_format.is_some() && matches!(data_type, DataType::Timestamp(..)))
        || !is_native(data_type)
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Returns whether arrow's CSV reader makes values of this type itself.
fn is_native(data_type: &DataType) -> bool {
    match data_type {
        DataType::LargeUtf8 => false,
        DataType::Time32(unit) => matches!(unit, TimeUnit::Second | TimeUnit::Millisecond),
        DataType::Time64(unit) => matches!(unit, TimeUnit::Microsecond | TimeUnit::Nanosecond),
        DataType::Boolean
        | DataType::Date32
        | DataType::Date64
        | DataType::Timestamp(..)
        | DataType::Utf8
        | DataType::Utf8View
        | DataType::Null => true,
        other => other.is_numeric(),
    }
}

/// Translates a date pattern of Spark's (which is Java's) to one of chrono's.
///
/// # Errors
/// [`Error::InvalidOption`] naming the letters that have no counterpart.
pub(crate) fn chrono_pattern(option: &str, pattern: &str) -> Result<String> {
    let mut out = String::new();
    let chars: Vec<char> = pattern.chars().collect();
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if c == '\'' {
            i += 1;
            if chars.get(i) == Some(&'\'') {
                out.push('\'');
                i += 1;
                continue;
            }
            while i < chars.len() && chars[i] != '\'' {
                push_literal(&mut out, chars[i]);
                i += 1;
            }
            i += 1;
            continue;
        }
        if !c.is_ascii_alphabetic() {
            // An optional part is read as if it were there.
            if !matches!(c, '[' | ']') {
                push_literal(&mut out, c);
            }
            i += 1;
            continue;
        }
        let run = chars[i..].iter().take_while(|other| **other == c).count();
        let letters: String = chars[i..i + run].iter().collect();
        if c == 'S' && out.ends_with('.') {
            out.pop();
            out.push_str("%.f");
        } else {
            out.push_str(chrono_letters(&letters).ok_or_else(|| Error::InvalidOption {
                option: option.to_owned(),
                message: format!("\"{letters}\" in \"{pattern}\" is not supported"),
                hint: Some("use yyyy, MM, dd, HH, hh, mm, ss, SSS, a, MMM, EEE and XXX".to_owned()),
            })?);
        }
        i += run;
    }
    Ok(out)
}

fn push_literal(out: &mut String, c: char) {
    if c == '%' {
        out.push('%');
    }
    out.push(c);
}

fn chrono_letters(letters: &str) -> Option<&'static str> {
    Some(match letters {
        "yyyy" | "uuuu" | "y" | "u" => "%Y",
        "yy" | "uu" => "%y",
        "MM" | "LL" => "%m",
        "M" | "L" => "%-m",
        "MMM" | "LLL" => "%b",
        "MMMM" | "LLLL" => "%B",
        "dd" => "%d",
        "d" => "%-d",
        "DDD" => "%j",
        "HH" => "%H",
        "H" => "%-H",
        "hh" => "%I",
        "h" => "%-I",
        "mm" => "%M",
        "m" => "%-M",
        "ss" => "%S",
        "s" => "%-S",
        "SSS" => "%3f",
        "SSSSSS" => "%6f",
        "SSSSSSSSS" => "%9f",
        "a" => "%p",
        "E" | "EE" | "EEE" => "%a",
        "EEEE" => "%A",
        "XXX" | "xxx" | "ZZZZZ" => "%:z",
        "XX" | "xx" | "Z" | "ZZ" | "ZZZ" => "%z",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_patterns_become_chronos() {
        assert_eq!(chrono_pattern("f", "yyyy-MM-dd").unwrap(), "%Y-%m-%d");
        assert_eq!(
            chrono_pattern("f", "yyyy-MM-dd'T'HH:mm:ss.SSSXXX").unwrap(),
            "%Y-%m-%dT%H:%M:%S%.f%:z"
        );
        assert_eq!(chrono_pattern("f", "d MMM yy, h:mm a").unwrap(), "%-d %b %y, %-I:%M %p");
        assert!(chrono_pattern("f", "yyyy-'W'ww").is_err());
    }
}
