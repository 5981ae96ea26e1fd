//! Which rows of an encoded batch pass a filter, found before anything else is decoded.
//!
//! A condition on one column is asked of a dictionary's values rather than of all rows, of all
//! integers of one or two bytes once, and a comparison with a constant of wider integers as they are
//! kept. Only rows that pass have their other columns decoded.
//!
//! **Invariant:** a scan applies only conditions that cannot fail ([`is_total`]): which rows another
//! condition would have kept them from must not matter.

use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray, RecordBatch,
    Scalar, new_null_array,
};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::kernels::cmp;
use datafusion::arrow::compute::{FilterBuilder, filter_record_batch};
use datafusion::arrow::datatypes::{
    DataType, Int8Type, Int16Type, Int32Type, Int64Type, Schema, SchemaRef, UInt8Type, UInt16Type,
};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NotExpr,
};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, conjunction_opt, split_conjunction};
use datafusion::scalar::ScalarValue;

use super::encode::{decode, decode_batch};
use super::output::RunOutput;

/// The conditions that a scan applies to each row, in both forms in which rows come to it.
#[derive(Debug)]
pub(super) struct Conditions {
    encoded: Selection,
    projected: Selection,
}

/// Conditions over columns.
#[derive(Debug)]
struct Selection {
    schema: SchemaRef,
    conditions: Vec<Condition>,
}

#[derive(Debug)]
struct Condition {
    /// The columns that it is about, of the content.
    columns: Vec<usize>,
    /// These columns.
    schema: SchemaRef,
    /// Over these columns.
    expr: Arc<dyn PhysicalExpr>,
    /// Over all columns.
    given: Arc<dyn PhysicalExpr>,
    comparison: Option<Comparison>,
    /// Which integers of one and of two bytes pass, once somebody asked.
    bytes: OnceLock<Vec<bool>>,
    shorts: OnceLock<Vec<bool>>,
}

/// A comparison of one column, on the left, with a constant.
#[derive(Debug, Clone, Copy)]
struct Comparison {
    op: Operator,
    constant: i128,
}

impl Conditions {
    /// Takes those conditions of a filter over the columns of `all` that cannot fail and are about
    /// columns of the projection.
    ///
    /// # Errors
    /// If the projection has a column that there is not.
    pub(super) fn of(
        filter: Option<&Arc<dyn PhysicalExpr>>,
        projection: &[usize],
        all: &SchemaRef,
    ) -> Result<Self> {
        let schema = Arc::new(all.project(projection)?);
        let (mut encoded, mut projected) = (Vec::new(), Vec::new());
        for expr in filter.map(|filter| split_conjunction(filter)).unwrap_or_default() {
            if !is_total(expr, all) {
                continue;
            }
            if let Some(moved) = moved(expr, projection)? {
                projected.push(Condition::new(&moved, &schema)?);
                encoded.push(Condition::new(expr, all)?);
            }
        }
        let encoded = Selection::new(encoded, Arc::clone(all));
        Ok(Self { encoded, projected: Selection::new(projected, schema) })
    }

    /// Gives the columns `projection` of the rows that pass their form. `None` if no row does.
    ///
    /// # Errors
    /// If the batch is not one of the content, or the form has no room for it.
    pub(super) fn of_encoded(
        &self,
        batch: &RecordBatch,
        projection: &[usize],
        output: &RunOutput,
    ) -> Result<Option<RecordBatch>> {
        self.encoded.decode(batch, projection, output)
    }

    /// Returns the rows that pass of a batch as queries see it; `None` if no row does.
    ///
    /// # Errors
    /// If the batch has other columns.
    pub(super) fn of_projected(&self, batch: RecordBatch) -> Result<Option<RecordBatch>> {
        match self.projected.passing(&batch)? {
            None => Ok(Some(batch)),
            Some(passing) if passing.count_set_bits() == 0 => Ok(None),
            Some(passing) => {
                Ok(Some(filter_record_batch(&batch, &BooleanArray::new(passing, None))?))
            }
        }
    }

    /// Returns all conditions as one, over the projected columns.
    pub(super) fn over_projected(&self) -> Option<Arc<dyn PhysicalExpr>> {
        let all = self.projected.conditions.iter().map(|condition| Arc::clone(&condition.given));
        conjunction_opt(all)
    }
}

/// Puts an expression over all columns in terms of the projected ones; `None` if it is about others.
fn moved(
    expr: &Arc<dyn PhysicalExpr>,
    projection: &[usize],
) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let mut is_projected = true;
    let moved = Arc::clone(expr).transform(|expr| {
        let Some(column) = expr.downcast_ref::<Column>() else { return Ok(Transformed::no(expr)) };
        let place = projection.iter().position(|projected| *projected == column.index());
        is_projected &= place.is_some();
        let column = Column::new(column.name(), place.unwrap_or_default());
        Ok(Transformed::yes(Arc::new(column) as Arc<dyn PhysicalExpr>))
    });
    let moved = moved.data()?;
    Ok(is_projected.then_some(moved))
}

impl Selection {
    fn new(mut conditions: Vec<Condition>, schema: SchemaRef) -> Self {
        // What is cheap comes first: it may leave no row for the others.
        conditions
            .sort_by_key(|condition| (condition.comparison.is_none(), condition.columns.len()));
        Self { schema, conditions }
    }

    fn decode(
        &self,
        batch: &RecordBatch,
        projection: &[usize],
        output: &RunOutput,
    ) -> Result<Option<RecordBatch>> {
        let rows = batch.num_rows();
        let kept = projection.iter().map(|column| batch.column(*column));
        let passing = self.passing(batch)?.filter(|passing| passing.count_set_bits() < rows);
        let Some(passing) = passing else {
            let kept: Vec<ArrayRef> = kept.cloned().collect();
            return Ok(Some(output.batch(&kept, rows)?));
        };
        let count = passing.count_set_bits();
        if count == 0 {
            return Ok(None);
        }
        let passing = BooleanArray::new(passing, None);
        let filter = FilterBuilder::new(&passing).optimize().build();
        let kept = kept.map(|column| filter.filter(column)).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(output.batch(&kept, count)?))
    }

    /// Returns which rows pass; `None` if there is no condition.
    fn passing(&self, batch: &RecordBatch) -> Result<Option<BooleanBuffer>> {
        let mut passing: Option<BooleanBuffer> = None;
        for condition in &self.conditions {
            let of_condition = condition.passing(batch, &self.schema)?;
            let both = match &passing {
                Some(passing) => passing & &of_condition,
                None => of_condition,
            };
            if both.count_set_bits() == 0 {
                return Ok(Some(both));
            }
            passing = Some(both);
        }
        Ok(passing)
    }
}

impl Condition {
    fn new(expr: &Arc<dyn PhysicalExpr>, all: &SchemaRef) -> Result<Self> {
        let mut columns: Vec<usize> =
            collect_columns(expr).iter().map(|column| column.index()).collect();
        columns.sort_unstable();
        let schema = Arc::new(all.project(&columns)?);
        let Some(over_own) = moved(expr, &columns)? else {
            return datafusion::common::internal_err!("{expr} is not about its own columns");
        };
        let (comparison, given) = (Comparison::of(expr), Arc::clone(expr));
        let (bytes, shorts) = Default::default();
        Ok(Self { columns, schema, expr: over_own, given, comparison, bytes, shorts })
    }

    fn passing(&self, batch: &RecordBatch, all: &Schema) -> Result<BooleanBuffer> {
        if let [column] = self.columns[..] {
            let stored = batch.column(column);
            if let Some(passing) = self.passing_values(stored, all.field(column).data_type())? {
                return Ok(passing);
            }
            if let Some(comparison) = self.comparison
                && let Some(passing) = comparison.passing(stored, all.field(column).data_type())?
            {
                return Ok(passing);
            }
        }
        let decoded = decode_batch(batch, &self.columns, &self.schema)?;
        self.evaluate(&decoded)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanBuffer> {
        let outcome = self.expr.evaluate(batch)?.into_array(batch.num_rows())?;
        let Some(outcome) = outcome.as_boolean_opt() else {
            return datafusion::common::internal_err!("a condition is no condition: {}", self.expr);
        };
        // NULL does not pass.
        Ok(match outcome.nulls() {
            Some(nulls) => outcome.values() & nulls.inner(),
            None => outcome.values().clone(),
        })
    }

    /// Asks the values that there are, if the column is kept as a dictionary or as small integers and
    /// was neither before.
    fn passing_values(
        &self,
        stored: &ArrayRef,
        data_type: &DataType,
    ) -> Result<Option<BooleanBuffer>> {
        if stored.data_type() == data_type {
            return Ok(None);
        }
        let null = match stored.null_count() {
            0 => false,
            _ => self.evaluate(&self.alone(new_null_array(data_type, 1))?)?.value(0),
        };
        Ok(match stored.data_type() {
            DataType::Dictionary(key, _) => {
                let dictionary = stored.as_any_dictionary();
                let values = self.table(decode(dictionary.values(), data_type)?)?;
                let keys = dictionary.keys();
                match key.as_ref() {
                    DataType::UInt8 => Some(spread::<UInt8Type>(keys, &values, null, usize::from)),
                    DataType::UInt16 => {
                        Some(spread::<UInt16Type>(keys, &values, null, usize::from))
                    }
                    _ => None,
                }
            }
            DataType::Int8 => {
                let all = (0..=u8::MAX).map(|bits| bits as i8);
                let values = self.table_of(&self.bytes, data_type, || {
                    Arc::new(PrimitiveArray::<Int8Type>::from_iter_values(all))
                })?;
                let place = |value: i8| usize::from(value as u8);
                Some(spread::<Int8Type>(stored, values, null, place))
            }
            DataType::Int16 => {
                let all = (0..=u16::MAX).map(|bits| bits as i16);
                let values = self.table_of(&self.shorts, data_type, || {
                    Arc::new(PrimitiveArray::<Int16Type>::from_iter_values(all))
                })?;
                let place = |value: i16| usize::from(value as u16);
                Some(spread::<Int16Type>(stored, values, null, place))
            }
            _ => None,
        })
    }

    /// Returns for each value whether it passes.
    fn table(&self, values: ArrayRef) -> Result<Vec<bool>> {
        // No key leads beyond the end.
        let mut table = vec![false; values.len().max(1 << 8)];
        let passing = self.evaluate(&self.alone(values)?)?;
        passing.set_indices().for_each(|value| table[value] = true);
        Ok(table)
    }

    /// Returns the same of all integers of a type, found once.
    fn table_of<'a>(
        &self,
        known: &'a OnceLock<Vec<bool>>,
        data_type: &DataType,
        all: impl FnOnce() -> ArrayRef,
    ) -> Result<&'a Vec<bool>> {
        if let Some(table) = known.get() {
            return Ok(table);
        }
        let table = self.table(decode(&all(), data_type)?)?;
        Ok(known.get_or_init(|| table))
    }

    fn alone(&self, column: ArrayRef) -> Result<RecordBatch> {
        // A dictionary of a column without NULLs is asked for none.
        let fields = self.schema.fields().iter();
        let fields = fields.map(|field| field.as_ref().clone().with_nullable(true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(RecordBatch::try_new(schema, vec![column])?)
    }
}

/// Gives each row what its value got.
fn spread<T: ArrowPrimitiveType>(
    rows: &dyn Array,
    values: &[bool],
    null: bool,
    place: impl Fn(T::Native) -> usize,
) -> BooleanBuffer {
    let rows = rows.as_primitive::<T>();
    let all = rows.values();
    // What lies below a NULL may have no place.
    let passes = |row: usize| values.get(place(all[row])).copied().unwrap_or_default();
    match rows.nulls() {
        None => BooleanBuffer::collect_bool(rows.len(), passes),
        Some(nulls) => BooleanBuffer::collect_bool(rows.len(), |row| {
            if nulls.is_valid(row) { passes(row) } else { null }
        }),
    }
}

impl Comparison {
    fn of(expr: &Arc<dyn PhysicalExpr>) -> Option<Self> {
        let binary = expr.downcast_ref::<BinaryExpr>()?;
        let (op, literal) = match (binary.left(), binary.right()) {
            (left, right) if left.is::<Column>() => (*binary.op(), right),
            (left, right) if right.is::<Column>() => (binary.op().swap()?, left),
            _ => return None,
        };
        let constant = integer(literal.downcast_ref::<Literal>()?.value())?;
        Some(Self { op, constant })
    }

    /// Compares integers that are narrower than those of the column's type.
    fn passing(self, stored: &ArrayRef, data_type: &DataType) -> Result<Option<BooleanBuffer>> {
        if stored.data_type() == data_type {
            return Ok(None);
        }
        match stored.data_type() {
            DataType::Int32 => self.passing_of::<Int32Type>(stored),
            DataType::Int64 => self.passing_of::<Int64Type>(stored),
            _ => Ok(None),
        }
    }

    fn passing_of<T>(self, stored: &ArrayRef) -> Result<Option<BooleanBuffer>>
    where
        T: ArrowPrimitiveType,
        T::Native: TryFrom<i128>,
    {
        let Ok(constant) = T::Native::try_from(self.constant) else {
            // All values lie on one side of it.
            let are_less = self.constant > 0;
            let passes = match self.op {
                Operator::Eq => false,
                Operator::NotEq => true,
                Operator::Lt | Operator::LtEq => are_less,
                Operator::Gt | Operator::GtEq => !are_less,
                _ => return Ok(None),
            };
            return Ok(Some(match (passes, stored.nulls()) {
                (false, _) => BooleanBuffer::new_unset(stored.len()),
                (true, None) => BooleanBuffer::new_set(stored.len()),
                (true, Some(nulls)) => nulls.inner().clone(),
            }));
        };
        let constant = Scalar::new(PrimitiveArray::<T>::from_iter_values([constant]));
        let outcome = match self.op {
            Operator::Eq => cmp::eq(stored, &constant),
            Operator::NotEq => cmp::neq(stored, &constant),
            Operator::Lt => cmp::lt(stored, &constant),
            Operator::LtEq => cmp::lt_eq(stored, &constant),
            Operator::Gt => cmp::gt(stored, &constant),
            Operator::GtEq => cmp::gt_eq(stored, &constant),
            _ => return Ok(None),
        };
        let outcome = outcome.map_err(DataFusionError::from)?;
        Ok(Some(match outcome.nulls() {
            Some(nulls) => outcome.values() & nulls.inner(),
            None => outcome.values().clone(),
        }))
    }
}

/// Returns the integer that stands for a value of a type that is kept as one.
fn integer(value: &ScalarValue) -> Option<i128> {
    match value {
        ScalarValue::Int16(value) => value.map(i128::from),
        ScalarValue::Int32(value) | ScalarValue::Date32(value) => value.map(i128::from),
        ScalarValue::Time32Second(value) | ScalarValue::Time32Millisecond(value) => {
            value.map(i128::from)
        }
        ScalarValue::Int64(value)
        | ScalarValue::Date64(value)
        | ScalarValue::Time64Microsecond(value)
        | ScalarValue::Time64Nanosecond(value)
        | ScalarValue::TimestampSecond(value, _)
        | ScalarValue::TimestampMillisecond(value, _)
        | ScalarValue::TimestampMicrosecond(value, _)
        | ScalarValue::TimestampNanosecond(value, _) => value.map(i128::from),
        ScalarValue::Decimal128(value, _, _) => *value,
        _ => None,
    }
}

/// Returns whether a condition has a value for all rows that there can be.
pub(super) fn is_total(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    let all = |exprs: &[&Arc<dyn PhysicalExpr>]| exprs.iter().all(|expr| is_total(expr, schema));
    if let Some(column) = expr.downcast_ref::<Column>() {
        return column.index() < schema.fields().len();
    }
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        return is_total_operation(binary, schema) && all(&[binary.left(), binary.right()]);
    }
    if let Some(list) = expr.downcast_ref::<InListExpr>() {
        return all(&[list.expr()]) && list.list().iter().all(|item| item.is::<Literal>());
    }
    if let Some(like) = expr.downcast_ref::<LikeExpr>() {
        return all(&[like.expr()]) && like.pattern().is::<Literal>();
    }
    if let Some(null) = expr.downcast_ref::<IsNullExpr>() {
        return all(&[null.arg()]);
    }
    if let Some(null) = expr.downcast_ref::<IsNotNullExpr>() {
        return all(&[null.arg()]);
    }
    if let Some(not) = expr.downcast_ref::<NotExpr>() {
        return all(&[not.arg()]);
    }
    if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        let from = cast.expr().data_type(schema);
        let to_float = *cast.cast_type() == DataType::Float64;
        let is_number = from.is_ok_and(|from| {
            from.is_integer() || matches!(from, DataType::Decimal128(_, _) | DataType::Float32)
        });
        return to_float && is_number && all(&[cast.expr()]);
    }
    expr.is::<Literal>()
}

fn is_total_operation(binary: &BinaryExpr, schema: &Schema) -> bool {
    let types = (binary.left().data_type(schema), binary.right().data_type(schema));
    let (Ok(left), Ok(right)) = types else { return false };
    match binary.op() {
        Operator::And | Operator::Or => left == DataType::Boolean && right == DataType::Boolean,
        Operator::Eq
        | Operator::NotEq
        | Operator::Lt
        | Operator::LtEq
        | Operator::Gt
        | Operator::GtEq => left == right && !left.is_nested(),
        _ => false,
    }
}
