//! The types of results as clients take them.
//!
//! Drivers cast by hand to plain strings and bytes, and older ones know no views; so views become
//! plain and dictionaries are written out, in the announced schema and in every batch alike. A client
//! that says `string_view: true`, in a header or as an option of its session, gets the engine's own.

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use skep_engine::Result;

/// Returns the schema with the types that every client takes; the same one if it has no others.
pub(super) fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    if schema.fields().iter().all(|field| plain_type(field.data_type()).is_none()) {
        return Arc::clone(schema);
    }
    let fields: Vec<_> = schema.fields().iter().map(plain_field).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Gives a batch the types of a plain schema.
///
/// # Errors
/// If a batch holds more text than a plain column can.
pub(super) fn plain_batch(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => cast_with_options(column, field.data_type(), &options),
        }
    });
    let plain = columns
        .collect::<Result<Vec<_>, _>>()
        .and_then(|columns| RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows));
    Ok(plain.map_err(DataFusionError::from)?)
}

/// Cuts a batch into what fits in a message; only a row that is longer by itself makes a longer one.
///
/// Not arrow-flight's own cutting: that goes by the size of whole buffers, which a batch shares with
/// others, and cuts into equally many rows, however long they are.
///
/// Units: bytes of a message's body.
pub(super) fn messages(
    batch: RecordBatch,
    most_bytes: usize,
) -> impl Iterator<Item = Result<RecordBatch>> {
    skep_store::pieces(batch, most_bytes).map(|(piece, _bytes)| {
        let piece = skep_store::compact_views(piece);
        Ok(piece.map_err(DataFusionError::from)?)
    })
}

fn plain_field(field: &FieldRef) -> FieldRef {
    match plain_type(field.data_type()) {
        None => Arc::clone(field),
        Some(plain) => Arc::new(
            Field::new(field.name(), plain, field.is_nullable())
                .with_metadata(field.metadata().clone()),
        ),
    }
}

/// Returns the plain type in place of another; `None` if it is plain.
fn plain_type(data_type: &DataType) -> Option<DataType> {
    let inner =
        |field: &FieldRef| plain_type(field.data_type()).is_some().then(|| plain_field(field));
    match data_type {
        DataType::Utf8View => Some(DataType::Utf8),
        DataType::BinaryView => Some(DataType::Binary),
        DataType::Dictionary(_, values) => {
            Some(plain_type(values).unwrap_or_else(|| values.as_ref().clone()))
        }
        DataType::List(field) => inner(field).map(DataType::List),
        DataType::LargeList(field) => inner(field).map(DataType::LargeList),
        DataType::FixedSizeList(field, length) => {
            inner(field).map(|field| DataType::FixedSizeList(field, *length))
        }
        DataType::Map(field, is_sorted) => {
            inner(field).map(|field| DataType::Map(field, *is_sorted))
        }
        DataType::Struct(fields) => {
            let is_plain = fields.iter().all(|field| plain_type(field.data_type()).is_none());
            (!is_plain).then(|| DataType::Struct(fields.iter().map(plain_field).collect()))
        }
        // No kernel casts the inside of these; a union or run of views stays as it is.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        Array, ArrayRef, AsArray, DictionaryArray, Int32Array, ListArray, StringArray,
        StringViewArray,
    };
    use datafusion::arrow::buffer::{Buffer, OffsetBuffer};
    use datafusion::arrow::compute::concat_batches;
    use datafusion::arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn views_and_dictionaries_become_plain_at_any_depth() {
        let text: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), None]));
        let words: DictionaryArray<Int32Type> = vec!["x", "x"].into_iter().collect();
        let item = Arc::new(Field::new("item", DataType::Utf8View, true));
        let offsets = OffsetBuffer::from_lengths([1, 1]);
        let list = ListArray::new(Arc::clone(&item), offsets, Arc::clone(&text), None);
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
        let metadata = [("kept".to_owned(), "yes".to_owned())].into();
        let fields = vec![
            Field::new("text", DataType::Utf8View, true).with_metadata(metadata),
            Field::new("words", words.data_type().clone(), false),
            Field::new("list", DataType::List(item), true),
            Field::new("numbers", DataType::Int32, false),
        ];
        let columns: Vec<ArrayRef> = vec![text, Arc::new(words), Arc::new(list), numbers];
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let schema = plain_schema(batch.schema_ref());
        let types: Vec<_> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
        let item = Arc::new(Field::new("item", DataType::Utf8, true));
        assert_eq!(types, [DataType::Utf8, DataType::Utf8, DataType::List(item), DataType::Int32]);
        assert_eq!(schema.field(0).metadata()["kept"], "yes");
        assert!(!schema.field(1).is_nullable());
        let plain = plain_batch(batch, &schema).unwrap();
        assert_eq!(plain.schema(), schema);
        let words = plain.column(1).as_any().downcast_ref::<StringArray>().unwrap();
        assert_eq!(words, &StringArray::from(vec!["x", "x"]));
        // What is plain is not touched.
        assert!(Arc::ptr_eq(&plain_schema(&schema), &schema));
    }

    #[test]
    fn messages_are_cut_by_what_their_rows_need() {
        let most = 1 << 20;
        // Long texts side by side, among many short ones.
        let text = |row: usize| if row < 10 { "x".repeat(most / 2) } else { row.to_string() };
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..8192).map(text)));
        let batch = RecordBatch::try_from_iter([("text", Arc::clone(&texts))]).unwrap();
        let pieces: Vec<_> = messages(batch.clone(), most).map(|piece| piece.unwrap()).collect();
        assert!(pieces.iter().all(|piece| skep_store::data_bytes(piece) <= most));
        assert!(pieces.len() < 30, "{} messages", pieces.len());
        let joined = concat_batches(&batch.schema(), &pieces).unwrap();
        assert_eq!(joined, batch);
        // A short window on them is one message, and views take their buffers along only if wanted.
        let short = batch.slice(4096, 1000);
        assert_eq!(messages(short.clone(), most).count(), 1);
        let views = cast_with_options(&texts, &DataType::Utf8View, &CastOptions::default());
        let views = RecordBatch::try_from_iter([("text", views.unwrap())]).unwrap();
        let window = messages(views.slice(4096, 1000), most).next().unwrap().unwrap();
        let kept = window.column(0).as_string_view().data_buffers();
        assert!(kept.iter().map(Buffer::len).sum::<usize>() < most / 2);
        assert_eq!(window, views.slice(4096, 1000));
    }
}
