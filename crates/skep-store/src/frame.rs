//! The form of batches on disk: frames of Arrow IPC, each with its counts and a checksum.
//!
//! A corrupt IPC message makes arrow's decoder panic or ask for absurd amounts of memory, so
//! nothing reaches it before its checksum was seen to be right. A panic all the same is an error of
//! this partition.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::reader::StreamDecoder;
use datafusion::arrow::ipc::writer::{IpcWriteOptions, StreamWriter};

use crate::config::Compression;

/// Little endian: magic, checksum of all that follows, length of the payload (8 bytes), rows
/// (8 bytes), batches, who it belongs to; then the payload, an Arrow IPC stream.
pub(super) const HEADER_BYTES: usize = 32;
const MAGIC: [u8; 4] = *b"SKF1";
const LENGTH_BYTES: usize = 8;
/// What the checksum covers begins here.
const CHECKED_FROM: usize = 8;

/// What a frame must be, as known since it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameCounts {
    pub(super) rows: u64,
    pub(super) batches: u32,
    /// A mark of the partition, so that a frame of another one is not taken for this one's.
    pub(super) owner: u32,
}

/// How the batches of a frame are written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form<'a> {
    /// As one stream; all have this schema.
    OneSchema(&'a SchemaRef),
    /// As a stream each, behind its length (8 bytes, little endian): every batch of a cached table
    /// is encoded for itself.
    OwnSchemas,
}

/// Makes a frame of batches.
///
/// # Errors
/// If arrow cannot write a type.
pub(super) fn encode(
    form: Form<'_>,
    batches: &[RecordBatch],
    counts: FrameCounts,
    compression: Compression,
) -> Result<Vec<u8>, ArrowError> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&[0; HEADER_BYTES]);
    let compression = match compression {
        Compression::Lz4 => Some(CompressionType::LZ4_FRAME),
        Compression::None => None,
    };
    let options = IpcWriteOptions::default().try_with_compression(compression)?;
    let mut frame = match form {
        Form::OneSchema(schema) => append_stream(frame, schema, batches, options)?,
        Form::OwnSchemas => {
            for batch in batches {
                let length_at = frame.len();
                frame.extend_from_slice(&[0; LENGTH_BYTES]);
                let (schema, one) = (batch.schema_ref(), std::slice::from_ref(batch));
                frame = append_stream(frame, schema, one, options.clone())?;
                let from = length_at + LENGTH_BYTES;
                let length = (frame.len() - from) as u64;
                frame[length_at..from].copy_from_slice(&length.to_le_bytes());
            }
            frame
        }
    };
    let payload_length = (frame.len() - HEADER_BYTES) as u64;
    frame[..4].copy_from_slice(&MAGIC);
    frame[8..16].copy_from_slice(&payload_length.to_le_bytes());
    frame[16..24].copy_from_slice(&counts.rows.to_le_bytes());
    frame[24..28].copy_from_slice(&counts.batches.to_le_bytes());
    frame[28..32].copy_from_slice(&counts.owner.to_le_bytes());
    let checksum = crc32fast::hash(&frame[CHECKED_FROM..]);
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
    Ok(frame)
}

fn append_stream(
    frame: Vec<u8>,
    schema: &SchemaRef,
    batches: &[RecordBatch],
    options: IpcWriteOptions,
) -> Result<Vec<u8>, ArrowError> {
    let end = frame.len() as u64;
    let mut cursor = Cursor::new(frame);
    cursor.set_position(end);
    let mut writer = StreamWriter::try_new_with_options(cursor, schema, options)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    Ok(writer.into_inner()?.into_inner())
}

/// Checks a frame against what is known of it and takes its batches out.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn decode(
    form: Form<'_>,
    frame: Vec<u8>,
    counts: FrameCounts,
) -> Result<Vec<RecordBatch>, String> {
    check(&frame, counts)?;
    let unwinding = AssertUnwindSafe(|| decode_payload(form, frame, counts));
    let batches = match catch_unwind(unwinding) {
        Ok(decoded) => decoded.map_err(|error| error.to_string())?,
        Err(_) => return Err("its decoder panicked".to_owned()),
    };
    let rows: u64 = batches.iter().map(|batch| batch.num_rows() as u64).sum();
    if batches.len() as u64 != u64::from(counts.batches) || rows != counts.rows {
        return Err(format!(
            "a frame has {rows} rows in {} batches, {} in {} were written",
            batches.len(),
            counts.rows,
            counts.batches
        ));
    }
    Ok(batches)
}

fn check(frame: &[u8], counts: FrameCounts) -> Result<(), String> {
    let Some(header) = frame.first_chunk::<HEADER_BYTES>() else {
        return Err("a frame is cut off".to_owned());
    };
    let mut expected = [0; HEADER_BYTES];
    expected[..4].copy_from_slice(&MAGIC);
    expected[4..8].copy_from_slice(&crc32fast::hash(&frame[CHECKED_FROM..]).to_le_bytes());
    expected[8..16].copy_from_slice(&((frame.len() - HEADER_BYTES) as u64).to_le_bytes());
    expected[16..24].copy_from_slice(&counts.rows.to_le_bytes());
    expected[24..28].copy_from_slice(&counts.batches.to_le_bytes());
    expected[28..].copy_from_slice(&counts.owner.to_le_bytes());
    if header[..4] != expected[..4] {
        Err("no frame begins where one was written".to_owned())
    } else if header[4..8] != expected[4..8] {
        Err("a frame does not have its checksum".to_owned())
    } else if header[8..] != expected[8..] {
        Err("a frame is not the one that was written there".to_owned())
    } else {
        Ok(())
    }
}

fn decode_payload(
    form: Form<'_>,
    frame: Vec<u8>,
    counts: FrameCounts,
) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut payload = Buffer::from_vec(frame).slice(HEADER_BYTES);
    let mut batches = Vec::new();
    match form {
        Form::OneSchema(schema) => {
            decode_stream(payload, counts, &mut batches)?;
            for batch in &mut batches {
                let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                let columns = batch.columns().to_vec();
                let schema = Arc::clone(schema);
                // The writer's own: the decoded one has lost what IPC has no place for.
                *batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
            }
        }
        Form::OwnSchemas => {
            while let Some(length) = payload.first_chunk::<LENGTH_BYTES>() {
                let length = u64::from_le_bytes(*length) as usize;
                let rest = payload.len() - LENGTH_BYTES;
                if length > rest {
                    return Err(ArrowError::IpcError("a batch goes beyond its frame".to_owned()));
                }
                let stream = payload.slice_with_length(LENGTH_BYTES, length);
                decode_stream(stream, counts, &mut batches)?;
                payload = payload.slice_with_length(LENGTH_BYTES + length, rest - length);
            }
        }
    }
    Ok(batches)
}

fn decode_stream(
    mut stream: Buffer,
    counts: FrameCounts,
    batches: &mut Vec<RecordBatch>,
) -> Result<(), ArrowError> {
    let mut decoder = StreamDecoder::new();
    while let Some(batch) = decoder.decode(&mut stream)? {
        if batches.len() as u64 >= u64::from(counts.batches) {
            return Err(ArrowError::IpcError("a frame has more batches than written".to_owned()));
        }
        batches.push(batch);
    }
    decoder.finish()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int32Array};

    use super::*;

    const COUNTS: FrameCounts = FrameCounts { rows: 5, batches: 2, owner: 77 };

    fn batches() -> Vec<RecordBatch> {
        [vec![1, 2, 3], vec![4, 5]]
            .into_iter()
            .map(|numbers| {
                let column: ArrayRef = Arc::new(Int32Array::from(numbers));
                RecordBatch::try_from_iter([("n", column)]).unwrap()
            })
            .collect()
    }

    fn frame(compression: Compression) -> Vec<u8> {
        encode(Form::OneSchema(&batches()[0].schema()), &batches(), COUNTS, compression).unwrap()
    }

    fn decode_with(frame: Vec<u8>, counts: FrameCounts) -> Result<Vec<RecordBatch>, String> {
        decode(Form::OneSchema(&batches()[0].schema()), frame, counts)
    }

    #[test]
    fn batches_come_back_if_everything_is_as_written() {
        for compression in [Compression::Lz4, Compression::None] {
            assert_eq!(decode_with(frame(compression), COUNTS).unwrap(), batches());
            for counts in [
                FrameCounts { rows: 6, ..COUNTS },
                FrameCounts { batches: 1, ..COUNTS },
                FrameCounts { owner: 78, ..COUNTS },
            ] {
                decode_with(frame(compression), counts).unwrap_err();
            }
        }
    }

    /// Gives a changed frame the header that it would have had.
    fn mend(frame: &mut [u8]) {
        let payload_length = (frame.len() - HEADER_BYTES) as u64;
        frame[8..16].copy_from_slice(&payload_length.to_le_bytes());
        let checksum = crc32fast::hash(&frame[CHECKED_FROM..]);
        frame[4..8].copy_from_slice(&checksum.to_le_bytes());
    }

    #[test]
    fn a_payload_with_a_right_checksum_is_still_counted() {
        let whole = frame(Compression::None);
        for length in HEADER_BYTES..whole.len() - 8 {
            let mut cut = whole[..length].to_vec();
            mend(&mut cut);
            decode_with(cut, COUNTS).unwrap_err();
        }
        let claims = FrameCounts { rows: 4, ..COUNTS };
        let mut other =
            encode(Form::OneSchema(&batches()[0].schema()), &batches(), claims, Compression::None)
                .unwrap();
        mend(&mut other);
        assert!(decode_with(other, claims).unwrap_err().contains("were written"));
    }

    #[test]
    fn a_panic_of_the_decoder_is_an_error() {
        // Found by trying every byte: the decoder trusts this one.
        let mut frame = frame(Compression::None);
        frame[140] = 127;
        mend(&mut frame);
        assert_eq!(decode_with(frame, COUNTS).unwrap_err(), "its decoder panicked");
    }
}
