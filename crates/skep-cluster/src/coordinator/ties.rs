//! Going on with a sorted output that was made again, with its ties perhaps in another order.
//!
//! Both times the rows are the same and sorted. So where `n` rows were passed on, of which the last
//! `t` have the same key, the first `n - t` rows of the new output are those that were passed on
//! before these; and of the rows with that key, those are left out that were passed on, wherever
//! they come now. Only the rows of the last key need to be remembered.
//!
//! **Invariant:** what is remembered is bounded by `max_bytes`. Who would pass on more rows of one
//! key must first make sure that the output cannot be lost ([`Ties::try_pass`]).

use std::collections::HashMap;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::error::Result;
use datafusion::physical_expr::LexOrdering;

use crate::store::data_bytes;

/// Remembers the rows of the key that was passed on last.
#[derive(Debug)]
pub(super) struct Ties {
    order: LexOrdering,
    keys: RowConverter,
    rows: RowConverter,
    max_bytes: usize,
    /// The last key that was passed on.
    key: Option<OwnedRow>,
    /// Rows that were passed on, all in all.
    passed: u64,
    /// Those of them with the last key, and how many.
    group: HashMap<OwnedRow, u64>,
    group_rows: u64,
    group_bytes: usize,
    /// Of these, the ones that this reading of the output has not met yet.
    left: HashMap<OwnedRow, u64>,
    left_rows: u64,
}

/// The output is not the same rows as before: nobody can go on with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Differs;

impl Ties {
    /// Makes the memory of an output of this schema and order; `None` if rows of this schema cannot
    /// be compared.
    pub(super) fn new(schema: &Schema, order: LexOrdering, max_bytes: usize) -> Option<Self> {
        let fields = schema.fields().iter();
        let fields = fields.map(|field| SortField::new(field.data_type().clone())).collect();
        let keys = order.iter().map(|sort| {
            let kind = sort.expr.data_type(schema).ok()?;
            Some(SortField::new_with_options(kind, sort.options))
        });
        Some(Self {
            keys: RowConverter::new(keys.collect::<Option<_>>()?).ok()?,
            rows: RowConverter::new(fields).ok()?,
            order,
            max_bytes,
            key: None,
            passed: 0,
            group: HashMap::new(),
            group_rows: 0,
            group_bytes: 0,
            left: HashMap::new(),
            left_rows: 0,
        })
    }

    /// The output is read from its beginning.
    pub(super) fn begin(&mut self) {
        self.left = self.group.clone();
        self.left_rows = self.group_rows;
    }

    /// Returns those rows of a batch that were not passed on before. `before` rows of the output came
    /// before it.
    ///
    /// # Errors
    /// If arrow fails; the inner error if the rows are not those that were passed on.
    pub(super) fn fresh(
        &mut self,
        batch: RecordBatch,
        before: u64,
    ) -> Result<Result<RecordBatch, Differs>> {
        let settled = self.passed.saturating_sub(self.group_rows).saturating_sub(before);
        let settled = usize::try_from(settled).unwrap_or(usize::MAX).min(batch.num_rows());
        let batch = batch.slice(settled, batch.num_rows() - settled);
        if self.left_rows == 0 || batch.num_rows() == 0 {
            return Ok(Ok(batch));
        }
        let keys = self.keys.convert_columns(&self.key_columns(&batch)?)?;
        let rows = self.rows.convert_columns(batch.columns())?;
        let mut is_fresh = vec![true; batch.num_rows()];
        for (idx, is_fresh) in is_fresh.iter_mut().enumerate() {
            if self.left_rows == 0 {
                break;
            }
            // Behind the last key, and some of its rows did not come.
            if self.key.as_ref().is_none_or(|key| key.row() != keys.row(idx)) {
                return Ok(Err(Differs));
            }
            if let Some(count) = self.left.get_mut(&rows.row(idx).owned())
                && *count > 0
            {
                *count -= 1;
                self.left_rows -= 1;
                *is_fresh = false;
            }
        }
        Ok(Ok(filter_record_batch(&batch, &BooleanArray::from(is_fresh))?))
    }

    /// Takes note of rows that are passed on. Returns whether there was room for that; if not,
    /// nothing has changed.
    ///
    /// # Errors
    /// If arrow fails.
    pub(super) fn try_pass(&mut self, batch: &RecordBatch) -> Result<bool> {
        let Some(last) = batch.num_rows().checked_sub(1) else { return Ok(true) };
        let key = self.key_at(batch, last)?;
        // Sorted: the rows with the last key are the last ones.
        let (mut low, mut high) = (0, last);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key_at(batch, middle)? == key {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        let tail = batch.slice(low, batch.num_rows() - low);
        let is_new = low > 0 || self.key.as_ref() != Some(&key);
        let known_bytes = if is_new { 0 } else { self.group_bytes };
        let entry_bytes = size_of::<(OwnedRow, u64)>() * tail.num_rows();
        // The rows are compared in another form, which may be somewhat larger.
        let bytes = known_bytes + 2 * data_bytes(&tail) + entry_bytes;
        if bytes > self.max_bytes {
            return Ok(false);
        }
        if is_new {
            self.group.clear();
            self.group_rows = 0;
            self.key = Some(key);
        }
        for row in &self.rows.convert_columns(tail.columns())? {
            *self.group.entry(row.owned()).or_default() += 1;
        }
        self.group_bytes = bytes;
        self.group_rows += tail.num_rows() as u64;
        self.passed += batch.num_rows() as u64;
        Ok(true)
    }

    fn key_at(&self, batch: &RecordBatch, idx: usize) -> Result<OwnedRow> {
        let columns = self.key_columns(&batch.slice(idx, 1))?;
        Ok(self.keys.convert_columns(&columns)?.row(0).owned())
    }

    fn key_columns(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let column =
            |value: datafusion::logical_expr::ColumnarValue| value.into_array(batch.num_rows());
        self.order.iter().map(|sort| sort.expr.evaluate(batch).and_then(column)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{AsArray, Int64Array};
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type};
    use datafusion::physical_expr::PhysicalSortExpr;
    use datafusion::physical_expr::expressions::Column;

    use super::*;

    fn batch(rows: &[(i64, i64)]) -> RecordBatch {
        let field = |name| Field::new(name, DataType::Int64, false);
        let schema = Arc::new(Schema::new(vec![field("key"), field("value")]));
        let column = |values: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
        let (keys, values) = rows.iter().copied().unzip();
        RecordBatch::try_new(schema, vec![column(keys), column(values)]).unwrap()
    }

    fn rows(batch: &RecordBatch) -> Vec<(i64, i64)> {
        let column = |idx: usize| batch.column(idx).as_primitive::<Int64Type>().values().to_vec();
        column(0).into_iter().zip(column(1)).collect()
    }

    fn ties() -> Ties {
        let sort = PhysicalSortExpr::new_default(Arc::new(Column::new("key", 0)));
        let order = LexOrdering::new([sort]).unwrap();
        Ties::new(&batch(&[]).schema(), order, 1 << 20).unwrap()
    }

    /// Reads an output in pieces until so many rows were passed on, all if there is no bound.
    fn read(ties: &mut Ties, output: &[(i64, i64)], piece: usize, most: usize) -> Vec<(i64, i64)> {
        let mut got = Vec::new();
        ties.begin();
        for (idx, piece_rows) in output.chunks(piece).enumerate() {
            if got.len() >= most {
                break;
            }
            let fresh = ties.fresh(batch(piece_rows), (idx * piece) as u64).unwrap().unwrap();
            assert!(ties.try_pass(&fresh).unwrap());
            got.extend(rows(&fresh));
        }
        got
    }

    #[test]
    fn rows_are_passed_on_once_whatever_the_order_of_ties() {
        let first = [(1, 1), (1, 2), (2, 3), (2, 4), (2, 4), (2, 5), (3, 6), (3, 7), (4, 8)];
        let second = [(1, 2), (1, 1), (2, 5), (2, 4), (2, 3), (2, 4), (3, 7), (3, 6), (4, 8)];
        for piece in 1..=9 {
            for most in 1..=9 {
                let mut ties = ties();
                let mut got = read(&mut ties, &first, piece, most);
                got.extend(read(&mut ties, &second, 2, got.len().min(3)));
                got.extend(read(&mut ties, &first, 4, usize::MAX));
                assert!(got.is_sorted_by_key(|(key, _)| *key), "{piece} {most}: {got:?}");
                got.sort_unstable();
                assert_eq!(got, first, "{piece} {most}");
            }
        }
    }

    #[test]
    fn an_output_of_other_rows_is_refused() {
        let mut ties = ties();
        assert_eq!(read(&mut ties, &[(1, 1), (2, 2)], 2, 2).len(), 2);
        ties.begin();
        assert_eq!(ties.fresh(batch(&[(1, 1), (3, 2)]), 0).unwrap().unwrap_err(), Differs);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten_with_its_key() {
        let mut ties = ties();
        ties.max_bytes = 2000;
        let many = batch(&[(1, 1); 10]);
        let passed = (0..10).take_while(|_| ties.try_pass(&many).unwrap()).count();
        assert!((1..10).contains(&passed), "{passed} times ten rows");
        assert!(!ties.try_pass(&many).unwrap());
        // Of a batch with other keys only the last one's rows count.
        let mut others: Vec<_> = (2..1000).map(|key| (key, 1)).collect();
        assert!(ties.try_pass(&batch(&others)).unwrap());
        others.fill((1000, 1));
        assert!(!ties.try_pass(&batch(&others)).unwrap());
        assert!(ties.try_pass(&batch(&[(1000, 1); 10])).unwrap());
    }
}
