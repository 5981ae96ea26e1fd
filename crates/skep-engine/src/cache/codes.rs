//! Numbers in place of texts that few rows tell apart.
//!
//! A group compares the texts of every row with those of its groups. Of a cached column that is kept
//! as dictionaries the scan can number the values instead, once for each dictionary, and give all such
//! columns of a group as one number: comparing that is what a group does fastest. Above the group,
//! [`DecodeGroupsExec`] gives the texts back, a group at a time.
//!
//! **Invariant:** a number stands for one value of each column, and each combination of values for one
//! number, from the first row of a run of one partition to its last.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, StringViewArray,
    UInt64Array,
};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{DataType, SchemaRef, UInt8Type, UInt16Type, UInt64Type};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{HashMap, internal_err};
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    Partitioning, PlanProperties, ReplaceChildrenOptions,
};
use futures::StreamExt;
use parking_lot::Mutex;

/// What is accounted for a value beside its text, which is held twice.
const VALUE_BYTES: usize = 96;

/// The numbers of the values of one run of one partition.
///
/// The number of a row has the same share of its bits for each column; 0 is NULL.
#[derive(Debug)]
pub(super) struct GroupCodes {
    columns: Vec<Mutex<Values>>,
    memory: MemoryReservation,
}

/// The values of one column, in the order of their numbers.
#[derive(Debug, Default)]
struct Values {
    numbers: HashMap<Box<str>, u64>,
    texts: Vec<Box<str>>,
    /// All of them as an array behind a NULL, for as long as none has come since.
    array: Option<ArrayRef>,
}

/// Returns how many bits of a number each of so many columns has.
pub(super) fn bits_of(column_count: usize) -> usize {
    64 / column_count.max(1)
}

impl GroupCodes {
    fn new(column_count: usize, memory: MemoryReservation) -> Self {
        let columns = (0..column_count).map(|_| Mutex::default()).collect();
        Self { columns, memory }
    }

    /// Returns how many columns there are.
    pub(super) fn column_count(&self) -> usize {
        self.columns.len()
    }

    /// Returns the number of each row; the columns may be dictionaries.
    ///
    /// # Errors
    /// If a column has no texts, there are more values than numbers, or no memory for another.
    pub(super) fn key(&self, columns: &[&ArrayRef], rows: usize) -> Result<UInt64Array> {
        let bits = bits_of(self.columns.len());
        let mut key = vec![0; rows];
        for (place, (column, values)) in columns.iter().zip(&self.columns).enumerate() {
            let mut values = values.lock();
            let mut number = |text: &str| values.number(text, bits, &self.memory);
            let shift = place * bits;
            if let Some(dictionary) = column.as_any_dictionary_opt() {
                let numbers = texts(dictionary.values())?;
                let numbers = numbers
                    .map(|text| text.map_or(Ok(0), &mut number).map(|number| number << shift))
                    .collect::<Result<Vec<_>>>()?;
                add_by_keys(&mut key, dictionary.keys(), &numbers)?;
                continue;
            }
            let mut last: Option<(&str, u64)> = None;
            for (key, text) in key.iter_mut().zip(texts(column)?) {
                let Some(text) = text else { continue };
                let found = match last {
                    Some((known, number)) if known == text => number,
                    _ => number(text)?,
                };
                last = Some((text, found));
                *key |= found << shift;
            }
        }
        Ok(key.into())
    }

    /// Returns the values of one column that numbers stand for.
    fn texts(&self, place: usize, key: &UInt64Array, data_type: &DataType) -> Result<ArrayRef> {
        let bits = bits_of(self.columns.len());
        let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        let numbers: UInt64Array = key.unary(|key| key >> (place * bits) & mask);
        let Some(values) = self.columns.get(place) else {
            return internal_err!("there is no coded column {place}");
        };
        let values = values.lock().array(data_type)?;
        Ok(take(&values, &numbers, None)?)
    }
}

impl Values {
    fn number(&mut self, text: &str, bits: usize, memory: &MemoryReservation) -> Result<u64> {
        if let Some(number) = self.numbers.get(text) {
            return Ok(*number);
        }
        let number = self.texts.len() as u64 + 1;
        if bits < 64 && number >> bits > 0 {
            return internal_err!("a group of a cached table has more values than were known");
        }
        memory.try_grow(VALUE_BYTES + 2 * text.len())?;
        self.texts.push(text.into());
        self.numbers.insert(text.into(), number);
        self.array = None;
        Ok(number)
    }

    fn array(&mut self, data_type: &DataType) -> Result<ArrayRef> {
        if let Some(array) = self.array.as_ref().filter(|array| array.data_type() == data_type) {
            return Ok(Arc::clone(array));
        }
        let all = std::iter::once(None).chain(self.texts.iter().map(|text| Some(text.as_ref())));
        let array: ArrayRef = match data_type {
            DataType::Utf8 => Arc::new(all.collect::<StringArray>()),
            DataType::Utf8View => Arc::new(all.collect::<StringViewArray>()),
            other => return internal_err!("there are no codes of {other}"),
        };
        self.array = Some(Arc::clone(&array));
        Ok(array)
    }
}

type Texts<'a> = Box<dyn Iterator<Item = Option<&'a str>> + 'a>;

fn texts(array: &ArrayRef) -> Result<Texts<'_>> {
    match array.data_type() {
        DataType::Utf8 => Ok(Box::new(array.as_string::<i32>().iter())),
        DataType::Utf8View => Ok(Box::new(array.as_string_view().iter())),
        other => internal_err!("a column of {other} has no texts to number"),
    }
}

/// Adds to each row what the value of its key has.
fn add_by_keys(rows: &mut [u64], keys: &dyn Array, numbers: &[u64]) -> Result<()> {
    match keys.data_type() {
        DataType::UInt8 => {
            // One for each key that there can be: nobody has to look where it ends.
            let mut table = [0; 1 << 8];
            for (place, number) in table.iter_mut().zip(numbers) {
                *place = *number;
            }
            let keys = keys.as_primitive::<UInt8Type>();
            let found = rows.iter_mut().zip(keys.values());
            match keys.nulls() {
                None => found.for_each(|(row, key)| *row |= table[usize::from(*key)]),
                Some(nulls) => found
                    .zip(nulls)
                    .filter(|(_, is_valid)| *is_valid)
                    .for_each(|((row, key), _)| *row |= table[usize::from(*key)]),
            }
        }
        DataType::UInt16 => {
            let keys = keys.as_primitive::<UInt16Type>();
            for (row, key) in rows.iter_mut().zip(keys) {
                let number = key.and_then(|key| numbers.get(usize::from(key)));
                *row |= number.copied().unwrap_or_default();
            }
        }
        other => return internal_err!("a dictionary of a cached table has keys of {other}"),
    }
    Ok(())
}

/// Gives the groups of an aggregate over codes their texts.
///
/// Shape: the columns of the same aggregate over the texts, and its partitions. The input has the
/// codes as its first column, then the other groups in order, then what the aggregate makes.
#[derive(Debug)]
pub struct DecodeGroupsExec {
    input: Arc<dyn ExecutionPlan>,
    /// Which of the groups are coded, in the order of their share of the code.
    coded: Vec<usize>,
    properties: Arc<PlanProperties>,
    schema: SchemaRef,
}

impl DecodeGroupsExec {
    /// Makes it: `properties` are those of the aggregate over the texts.
    ///
    /// # Errors
    /// If the input has not as many columns as it must, or other groups than texts are coded.
    pub fn try_new(
        input: Arc<dyn ExecutionPlan>,
        coded: Vec<usize>,
        properties: Arc<PlanProperties>,
    ) -> Result<Self> {
        let schema = Arc::clone(properties.eq_properties.schema());
        let columns = input.schema().fields().len() + coded.len();
        let are_texts = coded.iter().all(|group| {
            schema.fields().get(*group).is_some_and(|it| super::output::is_text(it.data_type()))
        });
        if coded.is_empty() || !are_texts || columns != schema.fields().len() + 1 {
            return internal_err!("groups {coded:?} have no codes");
        }
        Ok(Self { input, coded, properties, schema })
    }

    /// Returns which of the groups are coded.
    pub fn coded(&self) -> &[usize] {
        &self.coded
    }

    /// Returns the aggregate over the codes.
    pub fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }
}

/// Gives a batch of groups its texts.
fn decoded(
    batch: &RecordBatch,
    coded: &[usize],
    codes: &GroupCodes,
    schema: &SchemaRef,
) -> Result<RecordBatch> {
    let Some(key) = batch.columns().first().and_then(|key| key.as_primitive_opt::<UInt64Type>())
    else {
        return internal_err!("groups without their codes");
    };
    let mut others = batch.columns().iter().skip(1);
    let columns = schema.fields().iter().enumerate().map(|(place, field)| {
        match coded.iter().position(|group| *group == place) {
            Some(share) => codes.texts(share, key, field.data_type()),
            None => match others.next() {
                Some(column) => Ok(Arc::clone(column)),
                None => internal_err!("a group too few"),
            },
        }
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

impl DisplayAs for DecodeGroupsExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |group: &usize| self.schema.field(*group).name().as_str();
        let names: Vec<&str> = self.coded.iter().map(name).collect();
        match format {
            DisplayFormatType::TreeRender => writeln!(f, "groups={}", names.join(", ")),
            _ => write!(f, "DecodeGroupsExec: groups=[{}]", names.join(", ")),
        }
    }
}

impl ExecutionPlan for DecodeGroupsExec {
    fn name(&self) -> &'static str {
        "DecodeGroupsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return internal_err!("codes of one input");
        };
        let count = input.output_partitioning().partition_count();
        let properties = match count == self.properties.partitioning.partition_count() {
            true => Arc::clone(&self.properties),
            // A task may have narrowed what it runs to its own partition.
            false => {
                let partitioning = Partitioning::UnknownPartitioning(count);
                Arc::new(self.properties.as_ref().clone().with_partitioning(partitioning))
            }
        };
        Ok(Arc::new(Self::try_new(input, self.coded.clone(), properties)?))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let memory = MemoryConsumer::new("codes of groups").register(context.memory_pool());
        let codes = Arc::new(GroupCodes::new(self.coded.len(), memory));
        let shared: Arc<GroupCodes> = Arc::clone(&codes);
        let context = TaskContext::new(
            context.task_id(),
            context.session_id(),
            context.session_config().clone().with_extension(shared),
            context.scalar_functions().clone(),
            context.higher_order_functions().clone(),
            context.aggregate_functions().clone(),
            context.window_functions().clone(),
            context.runtime_env(),
        );
        let groups = self.input.execute(partition, Arc::new(context))?;
        let (schema, coded) = (Arc::clone(&self.schema), self.coded.clone());
        let given = Arc::clone(&self.schema);
        let groups = groups.map(move |batch| decoded(&batch?, &coded, &codes, &given));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, groups)))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool, UnboundedMemoryPool};

    use super::*;

    fn codes(column_count: usize, pool: Arc<dyn MemoryPool>) -> GroupCodes {
        GroupCodes::new(column_count, MemoryConsumer::new("test").register(&pool))
    }

    fn texts_of(all: &[Option<&str>]) -> ArrayRef {
        Arc::new(all.iter().copied().collect::<StringViewArray>())
    }

    #[test]
    fn a_number_stands_for_the_same_value_in_every_batch_and_form() {
        let codes = codes(2, Arc::new(UnboundedMemoryPool::default()));
        let first = texts_of(&[Some("a"), None, Some(""), Some("a")]);
        let other = texts_of(&[Some("x"), Some("x"), None, Some("y")]);
        let plain = codes.key(&[&first, &other], 4).unwrap();
        let dictionary =
            super::super::encode::encode(&texts_of(&[Some("a"), None, Some("")].repeat(40)));
        let dictionary = dictionary.unwrap();
        assert!(dictionary.as_any_dictionary_opt().is_some());
        let others = texts_of(&[Some("x"), Some("x"), None].repeat(40));
        let again = codes.key(&[&dictionary, &others], 120).unwrap();
        assert_eq!(again.values()[..3], plain.values()[..3]);
        assert_ne!(plain.value(0), plain.value(3));
        for (place, column) in [&first, &other].into_iter().enumerate() {
            assert_eq!(&codes.texts(place, &plain, &DataType::Utf8View).unwrap(), column);
        }
    }

    #[test]
    fn more_values_than_numbers_are_refused() {
        let codes = codes(4, Arc::new(UnboundedMemoryPool::default()));
        let most = (1 << 16) - 1;
        let texts: Vec<String> = (0..=most).map(|number| number.to_string()).collect();
        let column = |count: usize| -> ArrayRef {
            Arc::new(texts[..count].iter().map(Some).collect::<StringArray>())
        };
        let all = column(most);
        codes.key(&[&all, &all, &all, &all], most).unwrap();
        let more = column(most + 1);
        let error = codes.key(&[&more, &more, &more, &more], most + 1).unwrap_err();
        assert!(error.to_string().contains("more values than were known"), "{error}");
    }

    #[test]
    fn memory_is_asked_for_before_a_value_is_kept() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(VALUE_BYTES + 10));
        let codes = codes(1, Arc::clone(&pool));
        let column = texts_of(&[Some("12345")]);
        codes.key(&[&column], 1).unwrap();
        assert_eq!(pool.reserved(), VALUE_BYTES + 10);
        let more = texts_of(&[Some("12345"), Some("6")]);
        let error = codes.key(&[&more], 2).unwrap_err();
        assert!(error.to_string().contains("Resources exhausted"), "{error}");
        drop(codes);
        assert_eq!(pool.reserved(), 0);
    }
}
