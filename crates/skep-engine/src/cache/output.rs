//! In what form a scan of a cached table gives its columns.
//!
//! As queries see them, unless who reads them is served better: a group that only tells values apart
//! takes numbers in place of texts ([`super::codes`]), and a client that knows no views gets texts
//! without them, which are made no more than once.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::execution::TaskContext;

use super::codes::GroupCodes;
use super::encode::decode;

/// The form of a scan's columns.
#[derive(Debug, Clone)]
pub(super) struct ScanOutput {
    /// The columns as queries see them.
    seen: SchemaRef,
    /// As they are given.
    schema: SchemaRef,
    /// Which of them are given as one number of all: it stands in the place of the first.
    coded: Arc<[usize]>,
    /// Whether texts are given without views.
    is_plain: bool,
}

/// The form in one run of the scan.
#[derive(Debug, Clone)]
pub(super) struct RunOutput {
    output: ScanOutput,
    codes: Option<Arc<GroupCodes>>,
}

impl ScanOutput {
    /// Gives the columns as queries see them.
    pub(super) fn as_seen(seen: SchemaRef) -> Self {
        Self { schema: Arc::clone(&seen), seen, coded: Arc::new([]), is_plain: false }
    }

    /// Gives texts without views.
    pub(super) fn plain(&self) -> Self {
        Self { is_plain: true, ..self.clone() }.settled()
    }

    /// Gives these columns as one number.
    ///
    /// # Errors
    /// If there is no such column, or it is no text.
    pub(super) fn coded(&self, columns: &[usize]) -> Result<Self> {
        for column in columns {
            match self.seen.fields().get(*column) {
                Some(field) if is_text(field.data_type()) => {}
                _ => return internal_err!("column {column} of a cached table has no codes"),
            }
        }
        Ok(Self { coded: columns.into(), ..self.clone() }.settled())
    }

    fn settled(mut self) -> Self {
        let given = |(place, field): (usize, &FieldRef)| -> FieldRef {
            let data_type = match self.coded.iter().position(|coded| *coded == place) {
                Some(0) => DataType::UInt64,
                Some(_) => DataType::Null,
                None if self.is_plain => without_views(field.data_type()),
                None => return Arc::clone(field),
            };
            let is_nullable = data_type == DataType::Null || field.is_nullable();
            let given = field.as_ref().clone().with_data_type(data_type);
            Arc::new(given.with_nullable(is_nullable))
        };
        let fields: Vec<FieldRef> = self.seen.fields().iter().enumerate().map(given).collect();
        self.schema = Arc::new(Schema::new_with_metadata(fields, self.seen.metadata().clone()));
        self
    }

    /// Returns the columns as they are given.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns the columns as queries see them.
    pub(super) fn seen(&self) -> &SchemaRef {
        &self.seen
    }

    /// Returns which columns are given as one number.
    pub(super) fn codes(&self) -> &[usize] {
        &self.coded
    }

    /// Returns whether texts are given without views.
    pub(super) fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Returns the form in a run with this context.
    ///
    /// # Errors
    /// If it has codes, and nobody there takes them for what they stand for.
    pub(super) fn in_run(&self, context: &TaskContext) -> Result<RunOutput> {
        let codes = match self.coded.is_empty() {
            true => None,
            false => context.session_config().get_extension::<GroupCodes>(),
        };
        if codes.as_ref().map_or(0, |codes| codes.column_count()) != self.coded.len() {
            return internal_err!("a scan of a cached table gives codes that nobody reads");
        }
        Ok(RunOutput { output: self.clone(), codes })
    }
}

impl RunOutput {
    /// Makes a batch of columns as they are kept, or as queries see them.
    ///
    /// # Errors
    /// If they are not those of the scan, or there is no memory for another value.
    pub(super) fn batch(&self, columns: &[ArrayRef], rows: usize) -> Result<RecordBatch> {
        let ScanOutput { seen, schema, coded, .. } = &self.output;
        if columns.len() != seen.fields().len() {
            return internal_err!("{} columns of {}", columns.len(), seen.fields().len());
        }
        let key: Option<ArrayRef> = match &self.codes {
            Some(codes) => {
                let texts: Vec<&ArrayRef> = coded.iter().map(|place| &columns[*place]).collect();
                Some(Arc::new(codes.key(&texts, rows)?))
            }
            None => None,
        };
        let given = columns.iter().zip(schema.fields()).enumerate().map(
            |(place, (column, field))| match (&key, coded.iter().position(|coded| *coded == place))
            {
                (Some(key), Some(0)) => Ok(Arc::clone(key)),
                (Some(_), Some(_)) => Ok(new_null_array(&DataType::Null, rows)),
                _ => decode(column, field.data_type()),
            },
        );
        let given = given.collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), given, &options)?)
    }

    /// Makes a batch of one as queries see it, of its first columns.
    ///
    /// # Errors
    /// As [`batch`](Self::batch).
    pub(super) fn of_seen(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let width = self.output.seen.fields().len();
        match self.output.schema == self.output.seen && batch.num_columns() == width {
            true => Ok(batch),
            false => self.batch(batch.columns().get(..width).unwrap_or_default(), batch.num_rows()),
        }
    }
}

/// Whether values of a type can be told apart by codes.
pub(super) fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::Utf8View)
}

fn without_views(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        other => other.clone(),
    }
}
