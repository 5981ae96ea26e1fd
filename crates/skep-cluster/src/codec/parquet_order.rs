//! In which order a scan of Parquet had best read its row groups, for a sort above it.
//!
//! DataFusion 55.2 neither sends the order nor has an accessor for it; it stands in what a scan shows
//! of itself. No answer depends on it: the sort is still there. A scan reads it as far as it is one of
//! plain columns of the file, and so does this.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::Schema;
use datafusion::datasource::physical_plan::{FileSource, ParquetSource};
use datafusion::error::Result;
use datafusion::physical_expr::expressions::{Column, lit};
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::{DisplayFormatType, SortOrderPushdownResult};

/// How a key's direction is shown, longer texts before those that they begin with.
const DIRECTIONS: [(&str, SortOptions); 4] = [
    (" ASC NULLS LAST", SortOptions { descending: false, nulls_first: false }),
    (" DESC NULLS LAST", SortOptions { descending: true, nulls_first: false }),
    (" ASC", SortOptions { descending: false, nulls_first: true }),
    (" DESC", SortOptions { descending: true, nulls_first: true }),
];

/// Returns the order that a scan was asked for, as far as it is one of columns.
pub(super) fn wanted_order(source: &ParquetSource) -> Option<LexOrdering> {
    // With a predicate of which nothing is to be said.
    let shown = Shown(&source.with_predicate(lit(true))).to_string();
    let mut rest = shown.strip_prefix(", predicate=true, sort_order_for_reorder=[")?;
    let mut keys = Vec::new();
    while let Some((key, after)) = read_key(rest, source.table_schema().file_schema()) {
        keys.push(key);
        match after.strip_prefix(", ") {
            Some(after) => rest = after,
            None => break,
        }
    }
    LexOrdering::new(keys)
}

/// Asks a scan for an order, as a sort above it did before.
///
/// # Errors
/// If the order cannot be examined.
pub(super) fn with_wanted_order(
    source: &ParquetSource,
    order: &LexOrdering,
) -> Result<Option<Arc<dyn FileSource>>> {
    // Of rows of which nothing is known.
    let nothing = EquivalenceProperties::new(Arc::new(Schema::empty()));
    Ok(match source.try_pushdown_sort(order, &nothing)? {
        SortOrderPushdownResult::Inexact { inner } => Some(inner),
        SortOrderPushdownResult::Exact { .. } | SortOrderPushdownResult::Unsupported => None,
    })
}

/// Reads `name@index direction` at the beginning of a text; returns the rest too.
fn read_key<'a>(text: &'a str, schema: &Schema) -> Option<(PhysicalSortExpr, &'a str)> {
    schema.fields().iter().find_map(|field| {
        let rest = text.strip_prefix(field.name().as_str())?.strip_prefix('@')?;
        let digits = rest.find(|char: char| !char.is_ascii_digit())?;
        let (index, rest) = rest.split_at(digits);
        let column = Column::new(field.name(), index.parse().ok()?);
        let (options, rest) = DIRECTIONS
            .iter()
            .find_map(|(shown, options)| Some((*options, rest.strip_prefix(shown)?)))?;
        Some((PhysicalSortExpr::new(Arc::new(column), options), rest))
    })
}

struct Shown<'a>(&'a ParquetSource);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_extra(DisplayFormatType::Default, f)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn an_order_is_read_as_it_was_asked_for() {
        let names = ["a", "a, b", "b@1 ASC", "", "x]"];
        let fields = names.map(|name| Field::new(name, DataType::Int64, true));
        let source = ParquetSource::new(Arc::new(Schema::new(fields.to_vec())));
        assert_eq!(wanted_order(&source), None);
        let filtered = source.with_predicate(lit(false));
        assert_eq!(wanted_order(&filtered), None);
        for first in 0..names.len() {
            for (turn, (_, direction)) in DIRECTIONS.iter().enumerate() {
                let keys = (0..names.len()).map(|place| {
                    let column = (first + place) % names.len();
                    let (_, options) = if place == 0 {
                        ("", *direction)
                    } else {
                        DIRECTIONS[(turn + place) % DIRECTIONS.len()]
                    };
                    let column = Column::new(names[column], 10 + column);
                    PhysicalSortExpr::new(Arc::new(column), options)
                });
                let order = LexOrdering::new(keys).unwrap();
                let asked = with_wanted_order(&filtered, &order).unwrap().unwrap();
                let asked = asked.downcast_ref::<ParquetSource>().unwrap();
                assert_eq!(wanted_order(asked), Some(order.clone()));
                let shown = Shown(asked).to_string();
                assert_eq!(shown.contains("reverse_row_groups=true"), direction.descending);
            }
        }
    }
}
