//! Arrow files and streams: every message, body and buffer inside the file.

use bytes::Bytes;
use datafusion::arrow::ipc::{self, MessageHeader, RecordBatch, root_as_footer, root_as_message};
use datafusion::execution::runtime_env::RuntimeEnv;

use super::super::format::Format;
use super::super::listing::FoundFile;
use super::super::read::{bad_file, range};
use super::{Framing, claim_limit};
use crate::error::{Error, Result};

const MAGIC: &[u8; 6] = b"ARROW1";
/// The footer's length and the magic at the end of a file.
const TAIL: u64 = 10;
const CONTINUATION: u32 = 0xffff_ffff;
/// More rows in one batch than arrow itself can index in most of its arrays.
const MAX_BATCH_ROWS: i64 = i32::MAX as i64;
/// Files up to this size are read at once, not message by message.
const READ_WHOLE: u64 = 16 << 20;

/// The file, its bytes as far as they are at hand.
struct Bodies<'a> {
    runtime: &'a RuntimeEnv,
    file: &'a FoundFile,
    whole: Option<Bytes>,
    limit: u64,
}

/// Where one message lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u64,
    metadata_length: u64,
    body_length: u64,
}

pub(super) async fn check(runtime: &RuntimeEnv, file: &FoundFile, head: &[u8]) -> Result<Framing> {
    let size = file.meta.size;
    let whole = match size <= READ_WHOLE {
        true => Some(range(runtime, file, 0..size).await?),
        false => None,
    };
    let bodies = Bodies { runtime, file, whole, limit: claim_limit(runtime) };
    if head.starts_with(MAGIC) {
        bodies.check_file().await?;
        Ok(Framing::Usual)
    } else {
        bodies.check_stream().await?;
        Ok(Framing::ArrowStream)
    }
}

impl Bodies<'_> {
    fn damaged(&self, message: impl Into<String>) -> Error {
        bad_file(self.file.path(), Format::Arrow, message, None)
    }

    async fn bytes(&self, start: u64, length: u64) -> Result<Bytes> {
        let end = start
            .checked_add(length)
            .filter(|end| *end <= self.file.meta.size)
            .ok_or_else(|| self.damaged("the file is cut off"))?;
        match &self.whole {
            Some(whole) if end <= whole.len() as u64 => {
                Ok(whole.slice(start as usize..end as usize))
            }
            _ => range(self.runtime, self.file, start..end).await,
        }
    }

    async fn check_file(&self) -> Result<()> {
        let size = self.file.meta.size;
        if size < 8 + TAIL {
            return Err(self.damaged(format!("the file is cut off ({size} bytes)")));
        }
        let tail = self.bytes(size - TAIL, TAIL).await?;
        if &tail[4..] != MAGIC {
            return Err(self.damaged("the file is cut off (it has no footer at its end)"));
        }
        let length = i32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
        let data_end = u64::try_from(length)
            .ok()
            .and_then(|length| size.checked_sub(TAIL + length))
            .filter(|start| *start >= 8)
            .ok_or_else(|| self.damaged(format!("its footer claims {length} of {size} bytes")))?;
        // Copied: the verifier wants its bytes aligned, and a slice may not be.
        let footer_bytes = self.bytes(data_end, size - TAIL - data_end).await?.to_vec();
        let places = {
            let footer = root_as_footer(&footer_bytes)
                .map_err(|error| self.damaged(format!("its footer is damaged ({error})")))?;
            if footer.schema().is_none() {
                return Err(self.damaged("its footer has no schema"));
            }
            let blocks = footer.recordBatches().into_iter().flatten();
            let blocks = blocks.chain(footer.dictionaries().into_iter().flatten());
            blocks
                .map(|block| place_of(block, data_end))
                .collect::<Option<Vec<Place>>>()
                .ok_or_else(|| self.damaged("a batch lies outside of the file"))?
        };
        for place in places {
            self.check_message(place).await?;
        }
        Ok(())
    }

    async fn check_stream(&self) -> Result<()> {
        let size = self.file.meta.size;
        let mut start = 0;
        let mut is_first = true;
        while start < size {
            let prefix = self.bytes(start, 8).await?;
            let word = |at: usize| {
                u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]])
            };
            if word(0) != CONTINUATION {
                return Err(self.damaged(format!("no message begins at byte {start}")));
            }
            let length = u64::from(word(4));
            if length == 0 {
                // The end of the stream; what follows it is nobody's.
                break;
            }
            let metadata = self.bytes(start + 8, length).await?.to_vec();
            let body_length = {
                let message = root_as_message(&metadata)
                    .map_err(|error| self.damaged(format!("a message is damaged ({error})")))?;
                if is_first && message.header_type() != MessageHeader::Schema {
                    return Err(self.damaged("its first message is not the schema"));
                }
                u64::try_from(message.bodyLength())
                    .map_err(|_error| self.damaged("a message has a negative length"))?
            };
            let place = Place { start, metadata_length: 8 + length, body_length };
            self.check_message(place).await?;
            is_first = false;
            // `check_message` has seen that the body ends inside the file.
            start += 8 + length + body_length;
        }
        match is_first {
            true => Err(self.damaged("the file has no messages")),
            false => Ok(()),
        }
    }

    async fn check_message(&self, place: Place) -> Result<()> {
        let body_start = place.start + place.metadata_length;
        if body_start.checked_add(place.body_length).is_none_or(|end| end > self.file.meta.size) {
            return Err(self.damaged("the file is cut off inside a batch"));
        }
        let metadata = self.bytes(place.start, place.metadata_length).await?;
        // The eight bytes of continuation and length, or the four of the length alone.
        let skip = match metadata.first_chunk::<4>() {
            Some(word) if u32::from_le_bytes(*word) == CONTINUATION => 8,
            _ => 4,
        };
        let metadata = metadata
            .get(skip..)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| self.damaged("a message is too short"))?;
        let message = root_as_message(&metadata)
            .map_err(|error| self.damaged(format!("a message is damaged ({error})")))?;
        if u64::try_from(message.bodyLength()) != Ok(place.body_length) {
            return Err(self.damaged("a message and the footer disagree about its length"));
        }
        let batch = match message.header_type() {
            MessageHeader::RecordBatch => message.header_as_record_batch(),
            MessageHeader::DictionaryBatch => {
                message.header_as_dictionary_batch().and_then(|batch| batch.data())
            }
            MessageHeader::Schema => return Ok(()),
            _ => return Err(self.damaged("a message is of no kind that is known")),
        };
        let batch = batch.ok_or_else(|| self.damaged("a message has no batch"))?;
        let claims = self.check_batch(&batch, place)?;
        for claim in claims {
            let bytes = self.bytes(body_start + claim, 8).await?;
            let mut word = [0; 8];
            word.copy_from_slice(&bytes);
            let length = i64::from_le_bytes(word);
            if length != -1 && !u64::try_from(length).is_ok_and(|length| length <= self.limit) {
                return Err(self.damaged(format!("a compressed buffer claims {length} bytes")));
            }
        }
        Ok(())
    }

    /// Checks a batch's own tables; returns where its compressed buffers say how large they get.
    fn check_batch(&self, batch: &RecordBatch<'_>, place: Place) -> Result<Vec<u64>> {
        let plausible = |rows: i64| (0..=MAX_BATCH_ROWS).contains(&rows);
        if !plausible(batch.length()) {
            return Err(self.damaged(format!("a batch claims {} rows", batch.length())));
        }
        for node in batch.nodes().into_iter().flatten() {
            if !plausible(node.length()) || !(0..=node.length()).contains(&node.null_count()) {
                return Err(self.damaged(format!(
                    "a column claims {} rows and {} NULLs",
                    node.length(),
                    node.null_count()
                )));
            }
        }
        let is_compressed = batch.compression().is_some();
        let mut claims = Vec::new();
        for buffer in batch.buffers().into_iter().flatten() {
            let (start, length) = buffer_range(buffer, place.body_length)
                .ok_or_else(|| self.damaged("a buffer lies outside of its batch"))?;
            if is_compressed && length > 0 {
                if length < 8 {
                    return Err(self.damaged("a compressed buffer has no length"));
                }
                claims.push(start);
            }
        }
        Ok(claims)
    }
}

fn place_of(block: &ipc::Block, data_end: u64) -> Option<Place> {
    let start = u64::try_from(block.offset()).ok()?;
    let metadata_length = u64::try_from(block.metaDataLength()).ok()?;
    let body_length = u64::try_from(block.bodyLength()).ok()?;
    let end = start.checked_add(metadata_length)?.checked_add(body_length)?;
    (start >= 8 && metadata_length >= 8 && end <= data_end).then_some(Place {
        start,
        metadata_length,
        body_length,
    })
}

fn buffer_range(buffer: &ipc::Buffer, body_length: u64) -> Option<(u64, u64)> {
    let start = u64::try_from(buffer.offset()).ok()?;
    let length = u64::try_from(buffer.length()).ok()?;
    (start.checked_add(length)? <= body_length).then_some((start, length))
}
