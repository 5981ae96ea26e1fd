//! `single_value`: the one value of a group, for scalar subqueries that must not have two rows.

use std::mem::size_of_val;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
};

use crate::error::Error;

/// The function, one for the process.
pub(crate) fn single_value_udaf() -> Arc<AggregateUDF> {
    static FUNCTION: LazyLock<Arc<AggregateUDF>> =
        LazyLock::new(|| Arc::new(AggregateUDF::from(SingleValue::new())));
    Arc::clone(&FUNCTION)
}

/// The value of a group's only row; NULL for no row; an error for two.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SingleValue {
    signature: Signature,
}

impl SingleValue {
    fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for SingleValue {
    fn name(&self) -> &'static str {
        "single_value"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let value = args.return_field.data_type().clone();
        Ok(vec![
            Arc::new(Field::new(format_state_name(args.name, "value"), value, true)),
            Arc::new(Field::new(format_state_name(args.name, "seen"), DataType::Boolean, false)),
        ])
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let value = ScalarValue::try_new_null(args.return_field.data_type())?;
        Ok(Box::new(SingleValueAccumulator { value, seen: false }))
    }
}

#[derive(Debug)]
struct SingleValueAccumulator {
    value: ScalarValue,
    seen: bool,
}

impl SingleValueAccumulator {
    fn take(&mut self, values: &ArrayRef, row: usize) -> Result<()> {
        if self.seen {
            return Err(Error::Data {
                message: "a subquery used as a value returned more than one row".to_owned(),
                hint: Some("aggregate it, or end it with LIMIT 1".to_owned()),
            }
            .into());
        }
        self.seen = true;
        self.value = ScalarValue::try_from_array(values, row)?;
        self.value.compact();
        Ok(())
    }
}

impl Accumulator for SingleValueAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        // The second row is an error whatever comes after.
        (0..values[0].len().min(2)).try_for_each(|row| self.take(&values[0], row))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.value.clone())
    }

    fn size(&self) -> usize {
        size_of_val(self) - size_of_val(&self.value) + self.value.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.value.clone(), ScalarValue::from(self.seen)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let seen = states[1].as_boolean();
        (0..seen.len())
            .filter(|row| seen.value(*row))
            .try_for_each(|row| self.take(&states[0], row))
    }
}
