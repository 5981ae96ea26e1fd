//! Rows as the text that a script expects.
//!
//! One text per value, the same on every machine and in every mode: `NULL`, `(empty)` for the
//! empty string, floats to twelve significant digits (the order of a parallel sum must not show),
//! timestamps in ISO 8601, line breaks as `\n`. Plans are the exception: each of their lines is a
//! row, numbered, with its indentation drawn, as a blank at the start of a line would not be seen.

use anyhow::Result;
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type, Schema};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

/// Renders the rows of an answer, one text per value.
///
/// # Errors
/// If a value cannot be displayed, such as a date out of range.
pub fn rows(schema: &Schema, batches: &[RecordBatch]) -> Result<Vec<Vec<String>>> {
    let options = FormatOptions::new().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let formatters = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect::<Result<Vec<_>, _>>()?;
        for row_idx in 0..batch.num_rows() {
            let values = batch.columns().iter().zip(&formatters);
            let row = values.map(|(column, formatter)| value(column, formatter, row_idx));
            rows.push(row.collect::<Result<Vec<_>>>()?);
        }
    }
    Ok(if is_plan(schema) { plan_lines(rows) } else { rows.into_iter().map(escape).collect() })
}

fn value(column: &dyn Array, formatter: &ArrayFormatter<'_>, row_idx: usize) -> Result<String> {
    if column.is_null(row_idx) {
        return Ok("NULL".to_owned());
    }
    Ok(match column.data_type() {
        DataType::Float64 => float(column.as_primitive::<Float64Type>().value(row_idx), 11),
        DataType::Float32 => float(column.as_primitive::<Float32Type>().value(row_idx).into(), 5),
        _ => formatter.value(row_idx).try_to_string()?,
    })
}

/// Writes `value` with so many digits after the first, and no more than it needs.
fn float(value: f64, digits: usize) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let rounded: f64 = format!("{value:.digits$e}").parse().unwrap_or(value);
    format!("{rounded:?}")
}

fn escape(row: Vec<String>) -> Vec<String> {
    let escape_value = |value: String| match value.as_str() {
        "" => "(empty)".to_owned(),
        _ => value.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t"),
    };
    row.into_iter().map(escape_value).collect()
}

/// Whether this is the answer of `EXPLAIN`.
fn is_plan(schema: &Schema) -> bool {
    schema.fields().iter().map(|field| field.name().as_str()).eq(["plan_type", "plan"])
}

fn plan_lines(rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    for row in rows {
        let [kind, plan] = row.as_slice() else { continue };
        lines.extend(plan.lines().enumerate().map(|(idx, line)| {
            let text = line.trim_start_matches(' ');
            let indentation = "-".repeat(line.len() - text.len());
            vec![kind.clone(), format!("{:02}){indentation}{}", idx + 1, text.trim_end())]
        }));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{
        ArrayRef, Decimal128Array, Float64Array, ListArray, StringArray, TimestampSecondArray,
    };
    use datafusion::arrow::datatypes::Int32Type;

    use super::*;

    fn render(columns: Vec<(&str, ArrayRef)>) -> Vec<Vec<String>> {
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, array)| (name, array, true)),
        )
        .unwrap();
        rows(&batch.schema(), &[batch]).unwrap()
    }

    #[test]
    fn floats_hide_the_order_of_a_sum_and_nothing_else() {
        assert_eq!(float(0.1 + 0.2, 11), "0.3");
        assert_eq!(float(1.0, 11), "1.0");
        assert_eq!(float(1234567.890123, 11), "1234567.89012");
        assert_eq!(float(1e300, 11), "1e300");
        assert_eq!(float(f64::NEG_INFINITY, 11), "-Infinity");
        assert_eq!(float(f64::NAN, 11), "NaN");
    }

    #[test]
    fn values_have_one_text_each() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1), None])]);
        let money = Decimal128Array::from(vec![1250]).with_precision_and_scale(15, 2).unwrap();
        let rows = render(vec![
            ("null", Arc::new(Float64Array::from(vec![None::<f64>]))),
            ("empty", Arc::new(StringArray::from(vec![""]))),
            ("lines", Arc::new(StringArray::from(vec!["a\nb"]))),
            ("time", Arc::new(TimestampSecondArray::from(vec![0]).with_timezone("+00:00"))),
            ("list", Arc::new(list)),
            ("money", Arc::new(money)),
        ]);
        assert_eq!(
            rows,
            [["NULL", "(empty)", "a\\nb", "1970-01-01T00:00:00Z", "[1, NULL]", "12.50"]]
        );
    }

    #[test]
    fn a_plan_is_a_row_a_line() {
        let rows = render(vec![
            ("plan_type", Arc::new(StringArray::from(vec!["logical_plan"]))),
            ("plan", Arc::new(StringArray::from(vec!["Sort\n  Scan\n"]))),
        ]);
        assert_eq!(rows, [["logical_plan", "01)Sort"], ["logical_plan", "02)--Scan"]]);
    }
}
