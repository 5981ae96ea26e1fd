//! Batches as Arrow IPC messages, one slot's at a time.
//!
//! Arrow's decoder panics where a message contradicts itself. A checksum was compared before, so
//! that takes a defect of one of the ends; it is an error of the slot all the same.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::{RecordBatchDecoder, read_dictionary};
use datafusion::arrow::ipc::writer::{
    DictionaryTracker, EncodedData, IpcDataGenerator, IpcWriteContext, IpcWriteOptions,
};
use datafusion::arrow::ipc::{CompressionType, Message, convert, root_as_message};
use skep_proto::cluster::fetch_response::Content;
use skep_proto::cluster::{FetchBatch, FetchDictionary, FetchSchema};

use super::wire::Response;

/// Arrow wants the widest values at multiples of it.
const ALIGNMENT: usize = 16;

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
        let encode =
            || IpcDataGenerator::default().encode(batch, &mut self.dictionaries, options, context);
        let (dictionaries, encoded) = guarded(encode, "its encoder panicked")?;
        let rows = batch.num_rows() as u64;
        let mut messages: Vec<Response> = dictionaries
            .into_iter()
            .map(|data| response(self.slot, Content::Dictionary(FetchDictionary {}), data))
            .collect();
        messages.push(response(self.slot, Content::Batch(FetchBatch { rows }), encoded));
        Ok(messages)
    }
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
    dictionaries: HashMap<i64, ArrayRef>,
}

impl SlotDecoder {
    pub(super) fn new(expected: SchemaRef) -> Self {
        Self { expected, sent: None, dictionaries: HashMap::new() }
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

    /// Returns a batch, which must have so many rows.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn batch(
        &self,
        header: &Bytes,
        body: Bytes,
        rows: u64,
    ) -> Result<RecordBatch, String> {
        let sent = self.sent.as_ref().ok_or("a batch came before the schema")?;
        let read = || {
            let message = message(header)?;
            let batch = message.header_as_record_batch().ok_or_else(|| wrong("record batch"))?;
            let body = buffer(body, batch.compression().is_some());
            let version = message.version();
            let schema = Arc::clone(sent);
            let decoded =
                RecordBatchDecoder::try_new(&body, batch, schema, &self.dictionaries, &version)?
                    .read_record_batch()?;
            // Names within types may differ; they were found to be the same types.
            let options = RecordBatchOptions::new()
                .with_row_count(Some(decoded.num_rows()))
                .with_match_field_names(false);
            let columns = decoded.columns().to_vec();
            RecordBatch::try_new_with_options(Arc::clone(&self.expected), columns, &options)
        };
        let batch = guarded(read, "its decoder panicked")?;
        match batch.num_rows() as u64 == rows {
            true => Ok(batch),
            false => Err(format!("a batch has {} rows, {rows} were sent", batch.num_rows())),
        }
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
/// gRPC puts a body anywhere, and arrow would copy each misaligned column by itself; one copy of
/// the whole is cheaper, and lets go of gRPC's own buffer, which is larger. Compressed columns get
/// new memory anyway.
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
