//! Batches as Arrow IPC messages, one slot's at a time.
//!
//! Numbers travel in the narrowest integers that have room for those of a batch: a byte that does not
//! travel is not copied six times on its way.
//!
//! Arrow's decoder panics where a message contradicts itself. A checksum was compared before, so
//! that takes a defect of one of the ends; it is an error of the slot all the same.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::{RecordBatchDecoder, read_dictionary};
use datafusion::arrow::ipc::writer::{
    DictionaryTracker, EncodedData, IpcDataGenerator, IpcWriteContext, IpcWriteOptions,
};
use datafusion::arrow::ipc::{CompressionType, Message, convert, root_as_message};
use skep_proto::cluster::fetch_response::Content;
use skep_proto::cluster::{FetchBatch, FetchDictionary, FetchSchema};
use skep_store::narrow::{narrow, widen};

use super::wire::{ALIGNMENT, Response};

/// How batches are written on one stream.
#[derive(Debug)]
pub(super) struct Encoding {
    options: IpcWriteOptions,
    /// Of all slots: it holds the compressor's tables.
    context: IpcWriteContext,
}

impl Encoding {
    pub(super) fn new(is_compressed: bool) -> Result<Self, ArrowError> {
        let compression = is_compressed.then_some(CompressionType::LZ4_FRAME);
        let options = IpcWriteOptions::default().try_with_compression(compression)?;
        Ok(Self { options, context: IpcWriteContext::default() })
    }
}

/// Writes the batches of one slot.
#[derive(Debug)]
pub(super) struct SlotEncoder {
    slot: u32,
    dictionaries: DictionaryTracker,
}

impl SlotEncoder {
    /// Begins with the schema.
    pub(super) fn new(slot: u32, schema: &Schema, encoding: &Encoding) -> (Self, Response) {
        let mut dictionaries = DictionaryTracker::new(false);
        let encoded = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
            schema,
            &mut dictionaries,
            &encoding.options,
        );
        let announced = response(slot, Content::Schema(FetchSchema {}), encoded);
        (Self { slot, dictionaries }, announced)
    }

    /// Returns the messages of a batch: dictionaries that it needs, and last itself.
    ///
    /// # Errors
    /// What arrow says, also by panicking.
    pub(super) fn encode(
        &mut self,
        batch: &RecordBatch,
        encoding: &mut Encoding,
    ) -> Result<Vec<Response>, String> {
        let Encoding { options, context } = encoding;
        let encode = || {
            let (batch, widths) = narrowed(batch)?;
            let generator = IpcDataGenerator::default();
            let encoded = generator.encode(&batch, &mut self.dictionaries, options, context)?;
            Ok((encoded, widths))
        };
        let ((dictionaries, encoded), widths) = guarded(encode, "its encoder panicked")?;
        let rows = batch.num_rows() as u64;
        let mut messages: Vec<Response> = dictionaries
            .into_iter()
            .map(|data| response(self.slot, Content::Dictionary(FetchDictionary {}), data))
            .collect();
        messages.push(response(self.slot, Content::Batch(FetchBatch { rows, widths }), encoded));
        Ok(messages)
    }
}

/// Puts numbers into narrower integers; returns how wide those are, nothing if all columns are as they
/// were.
fn narrowed(batch: &RecordBatch) -> Result<(RecordBatch, Bytes), ArrowError> {
    let columns = batch.columns().iter().map(narrow).collect::<Result<Vec<_>, _>>()?;
    let widths = columns.iter().zip(batch.columns()).map(|(narrow, column)| {
        let is_same = narrow.data_type() == column.data_type();
        let width = narrow.data_type().primitive_width().filter(|_| !is_same);
        width.map_or(0, |bytes| bytes as u8)
    });
    let widths: Bytes = widths.collect();
    if widths.iter().all(|width| *width == 0) {
        return Ok((batch.clone(), Bytes::new()));
    }
    let schema = Arc::new(narrow_schema(batch.schema_ref(), &widths)?);
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok((RecordBatch::try_new_with_options(schema, columns, &options)?, widths))
}

/// Returns a schema as its columns travel with these widths.
fn narrow_schema(schema: &Schema, widths: &[u8]) -> Result<Schema, ArrowError> {
    let fields = schema.fields();
    if widths.len() != fields.len() {
        let message = format!("{} widths of {} columns", widths.len(), fields.len());
        return Err(ArrowError::IpcError(message));
    }
    let narrow = |(field, width): (&FieldRef, &u8)| -> Result<FieldRef, ArrowError> {
        let is_unsigned = field.data_type().is_unsigned_integer();
        let data_type = match (width, is_unsigned) {
            (0, _) => return Ok(Arc::clone(field)),
            (1, false) => DataType::Int8,
            (2, false) => DataType::Int16,
            (4, false) => DataType::Int32,
            (8, false) => DataType::Int64,
            (1, true) => DataType::UInt8,
            (2, true) => DataType::UInt16,
            (4, true) => DataType::UInt32,
            _ => return Err(ArrowError::IpcError(format!("integers of {width} bytes"))),
        };
        Ok(Arc::new(Field::new(field.name(), data_type, field.is_nullable())))
    };
    let fields: Vec<FieldRef> = fields.iter().zip(widths).map(narrow).collect::<Result<_, _>>()?;
    Ok(Schema::new(fields))
}

fn response(slot: u32, content: Content, data: EncodedData) -> Response {
    Response { slot, content, header: data.ipc_message.into(), body: data.arrow_data.into() }
}

/// Reads the batches of one slot.
#[derive(Debug)]
pub(super) struct SlotDecoder {
    /// As the reader's plan has it: what every batch gets.
    expected: SchemaRef,
    /// As it was sent: it has the numbers of dictionaries.
    sent: Option<SchemaRef>,
    /// How the last batch travelled whose columns were narrower, and its schema then.
    narrow: Option<(Bytes, SchemaRef)>,
    dictionaries: HashMap<i64, ArrayRef>,
}

impl SlotDecoder {
    pub(super) fn new(expected: SchemaRef) -> Self {
        Self { expected, sent: None, narrow: None, dictionaries: HashMap::new() }
    }

    /// Takes the schema; returns what of it is not as expected.
    ///
    /// # Errors
    /// If it is no schema, or not the first.
    pub(super) fn schema(&mut self, header: &Bytes) -> Result<Option<String>, String> {
        if self.sent.is_some() {
            return Err("a second schema came".to_owned());
        }
        let read = || {
            let message = message(header)?;
            let schema = message.header_as_schema().ok_or_else(|| wrong("schema"))?;
            Ok(convert::fb_to_schema(schema))
        };
        let sent = guarded(read, "the decoder of its schema panicked")?;
        let difference = difference(&self.expected, &sent);
        self.sent = Some(Arc::new(sent));
        Ok(difference)
    }

    /// Takes a dictionary.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn dictionary(&mut self, header: &Bytes, body: Bytes) -> Result<(), String> {
        let sent = self.sent.clone().ok_or("a dictionary came before the schema")?;
        let dictionaries = &mut self.dictionaries;
        let read = || {
            let message = message(header)?;
            let batch =
                message.header_as_dictionary_batch().ok_or_else(|| wrong("dictionary batch"))?;
            let is_compressed = batch.data().is_some_and(|data| data.compression().is_some());
            let body = buffer(body, is_compressed);
            read_dictionary(&body, batch, &sent, dictionaries, &message.version())
        };
        guarded(read, "the decoder of its dictionary panicked")
    }

    /// Returns a batch, which must be as was said of it.
    ///
    /// # Errors
    /// If it is not, or none.
    pub(super) fn batch(
        &mut self,
        header: &Bytes,
        body: Bytes,
        FetchBatch { rows, widths }: FetchBatch,
    ) -> Result<RecordBatch, String> {
        let sent = self.sent_as(widths)?;
        let read = || {
            let message = message(header)?;
            let batch = message.header_as_record_batch().ok_or_else(|| wrong("record batch"))?;
            let body = buffer(body, batch.compression().is_some());
            let version = message.version();
            let decoded =
                RecordBatchDecoder::try_new(&body, batch, sent, &self.dictionaries, &version)?
                    .read_record_batch()?;
            // Names within types may differ; they were found to be the same types.
            let options = RecordBatchOptions::new()
                .with_row_count(Some(decoded.num_rows()))
                .with_match_field_names(false);
            let columns = decoded.columns().iter().zip(self.expected.fields());
            let columns = columns.map(|(column, field)| match column.data_type().is_nested() {
                true => Ok(Arc::clone(column)),
                false => widen(column, field.data_type()),
            });
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            RecordBatch::try_new_with_options(Arc::clone(&self.expected), columns, &options)
        };
        let batch = guarded(read, "its decoder panicked")?;
        match batch.num_rows() as u64 == rows {
            true => Ok(batch),
            false => Err(format!("a batch has {} rows, {rows} were sent", batch.num_rows())),
        }
    }

    /// Returns the schema that a batch travelled in.
    fn sent_as(&mut self, widths: Bytes) -> Result<SchemaRef, String> {
        let sent = self.sent.as_ref().ok_or("a batch came before the schema")?;
        if widths.is_empty() {
            return Ok(Arc::clone(sent));
        }
        if let Some((known, schema)) = &self.narrow
            && *known == widths
        {
            return Ok(Arc::clone(schema));
        }
        let schema = narrow_schema(sent, &widths).map_err(|error| error.to_string())?;
        let schema = Arc::new(schema);
        self.narrow = Some((widths, Arc::clone(&schema)));
        Ok(schema)
    }
}

fn guarded<T>(run: impl FnOnce() -> Result<T, ArrowError>, panicked: &str) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_panic) => Err(panicked.to_owned()),
    }
}

fn message(header: &Bytes) -> Result<Message<'_>, ArrowError> {
    root_as_message(header).map_err(|error| ArrowError::IpcError(error.to_string()))
}

fn wrong(wanted: &str) -> ArrowError {
    ArrowError::IpcError(format!("a message is no {wanted}"))
}

/// Makes a buffer whose pieces are aligned as the sender aligned them.
///
/// A sender pads a message so that its body is aligned if the message is, as most are that get a
/// buffer of their own. Where gRPC put it elsewhere, arrow would copy each misaligned column by itself;
/// one copy of the whole is cheaper. Compressed columns get new memory anyway.
fn buffer(body: Bytes, is_compressed: bool) -> Buffer {
    let is_aligned = (body.as_ptr() as usize).is_multiple_of(ALIGNMENT);
    match is_compressed || is_aligned {
        true => Buffer::from(body),
        false => Buffer::from_slice_ref(&body),
    }
}

fn difference(expected: &Schema, sent: &Schema) -> Option<String> {
    let (wanted, found) = (expected.fields().len(), sent.fields().len());
    if wanted != found {
        return Some(format!("{found} columns instead of {wanted}"));
    }
    expected.fields().iter().zip(sent.fields()).find_map(|(wanted, found)| {
        let is_same =
            wanted.name() == found.name() && wanted.data_type().equals_datatype(found.data_type());
        (!is_same).then(|| {
            format!(
                "column \"{}\" of type {} instead of \"{}\" of type {}",
                found.name(),
                found.data_type(),
                wanted.name(),
                wanted.data_type()
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Decimal128Array, Int64Array};

    use super::*;

    fn prices() -> RecordBatch {
        let keys = Arc::new(Int64Array::from_iter_values(0..8192));
        let prices = Decimal128Array::from_iter_values(0..8192);
        let columns: [(&str, ArrayRef); 2] = [("key", keys), ("price", Arc::new(prices))];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// Returns the messages of the schema and of the batch, and who has read the first.
    fn sent(batch: &RecordBatch) -> (Response, SlotDecoder) {
        let mut encoding = Encoding::new(false).unwrap();
        let (mut encoder, schema) = SlotEncoder::new(1, batch.schema_ref(), &encoding);
        let mut messages = encoder.encode(batch, &mut encoding).unwrap();
        assert_eq!(messages.len(), 1);
        let mut decoder = SlotDecoder::new(batch.schema());
        assert_eq!(decoder.schema(&schema.header).unwrap(), None);
        (messages.remove(0), decoder)
    }

    #[test]
    fn small_numbers_travel_in_few_bytes() {
        let batch = prices();
        let (message, mut decoder) = sent(&batch);
        let Response { content: Content::Batch(said), header, body, .. } = message else {
            panic!("{message:?}");
        };
        assert!(body.len() < 2 * 2 * 8192 + 1024, "{} bytes", body.len());
        assert_eq!(decoder.batch(&header, body, said).unwrap(), batch);
    }

    #[test]
    fn widths_that_no_column_has_are_refused() {
        let (Response { header, body, .. }, mut decoder) = sent(&prices());
        for (widths, message) in [
            (vec![2], "1 widths of 2 columns"),
            (vec![2, 3], "integers of 3 bytes"),
            (vec![2, 16], "integers of 16 bytes"),
        ] {
            let said = FetchBatch { rows: 8192, widths: widths.into() };
            let error = decoder.batch(&header, body.clone(), said).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
