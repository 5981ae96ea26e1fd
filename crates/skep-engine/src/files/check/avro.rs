//! Avro files: a chain of blocks, each with its length and the file's sync marker behind it.
//!
//! Beyond that, every block is decoded once. arrow's reader trusts the number of rows that a block
//! claims, and spins for ever where the block holds more; so the claim is proven first.

use std::io::Cursor as ByteCursor;

use datafusion::arrow_avro::reader::ReaderBuilder;
use datafusion::execution::runtime_env::RuntimeEnv;

use super::super::format::Format;
use super::super::listing::FoundFile;
use super::super::read::{bad_file, range};
use crate::error::{Error, Result};

/// Bytes fetched at once; blocks' lengths are small, their data is skipped.
const WINDOW: u64 = 64 * 1024;
const SYNC: u64 = 16;
/// More rows in one block are not real: writers make blocks of some kilobytes.
const MAX_BLOCK_ROWS: i64 = 1 << 24;

/// A place in the file that moves forward.
struct Cursor<'a> {
    runtime: &'a RuntimeEnv,
    file: &'a FoundFile,
    at: u64,
    window_start: u64,
    window: bytes::Bytes,
}

/// Checks the header, the blocks and what is in them.
pub(super) async fn check(runtime: &RuntimeEnv, file: &FoundFile) -> Result<()> {
    let mut cursor = Cursor { runtime, file, at: 4, window_start: 0, window: bytes::Bytes::new() };
    loop {
        // The header is a map: blocks of pairs until one of zero; a negative count has a size.
        let count = cursor.varint().await?;
        if count == 0 {
            break;
        }
        if count < 0 {
            cursor.varint().await?;
        }
        for _ in 0..count.unsigned_abs().saturating_mul(2) {
            cursor.skip_bytes().await?;
        }
    }
    let sync = cursor.take(SYNC).await?;
    let header = range(runtime, file, 0..cursor.at).await?;
    while cursor.at < file.meta.size {
        let start = cursor.at;
        let rows = cursor.varint().await?;
        let length_at = cursor.at;
        let length = cursor.skip_bytes().await?;
        let end = cursor.at;
        if !(0..=MAX_BLOCK_ROWS).contains(&rows) || (rows == 0) != (length == 0) {
            return Err(cursor.damaged(format!("the block at byte {start} claims {rows} rows")));
        }
        if cursor.take(SYNC).await? != sync {
            return Err(cursor.damaged(format!("the block at byte {start} is damaged")));
        }
        if rows > 0 {
            let block = range(runtime, file, length_at..end).await?;
            prove_rows(&header, rows as usize, &block, &sync).map_err(|message| {
                cursor.damaged(format!("the block at byte {start} is damaged ({message})"))
            })?;
        }
    }
    Ok(())
}

/// Decodes a block as if it held more rows than anything could, in one batch of what it claims: it
/// must give that batch, and then have nothing left.
fn prove_rows(header: &[u8], rows: usize, block: &[u8], sync: &[u8]) -> Result<(), String> {
    // The zigzag number 2^40.
    const ENDLESS: [u8; 6] = [0x80, 0x80, 0x80, 0x80, 0x80, 0x40];
    let alone = [header, &ENDLESS, block, sync].concat();
    let mut reader = ReaderBuilder::new()
        .with_batch_size(rows)
        .build(ByteCursor::new(alone))
        .map_err(|error| error.to_string())?;
    match reader.next() {
        Some(Ok(batch)) if batch.num_rows() == rows => {}
        Some(Ok(batch)) => return Err(format!("{} rows, not {rows}", batch.num_rows())),
        Some(Err(error)) => return Err(error.to_string()),
        None => return Err(format!("no rows, not {rows}")),
    }
    match reader.next() {
        None => Ok(()),
        Some(_) => Err(format!("more than {rows} rows")),
    }
}

impl Cursor<'_> {
    fn damaged(&self, message: impl Into<String>) -> Error {
        bad_file(self.file.path(), Format::Avro, message, None)
    }

    async fn take(&mut self, length: u64) -> Result<bytes::Bytes> {
        let end = self
            .at
            .checked_add(length)
            .filter(|end| *end <= self.file.meta.size)
            .ok_or_else(|| self.damaged("the file is cut off"))?;
        let in_window =
            self.at >= self.window_start && end <= self.window_start + self.window.len() as u64;
        if !in_window {
            let fetched = self.at..end.max(self.at.saturating_add(WINDOW));
            self.window = range(self.runtime, self.file, fetched).await?;
            self.window_start = self.at;
        }
        let from = (self.at - self.window_start) as usize;
        let to = (end - self.window_start) as usize;
        if to > self.window.len() {
            return Err(self.damaged("the file got shorter while it was read"));
        }
        self.at = end;
        Ok(self.window.slice(from..to))
    }

    /// Reads a zigzag number of at most ten bytes.
    async fn varint(&mut self) -> Result<i64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1).await?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(self.damaged("a number in it is too long"))
    }

    /// Skips a length and so many bytes; returns the length.
    async fn skip_bytes(&mut self) -> Result<u64> {
        let length = self.varint().await?;
        let end = u64::try_from(length)
            .ok()
            .and_then(|length| self.at.checked_add(length))
            .filter(|end| *end <= self.file.meta.size)
            .ok_or_else(|| self.damaged("the file is cut off"))?;
        self.at = end;
        Ok(length.unsigned_abs())
    }
}
