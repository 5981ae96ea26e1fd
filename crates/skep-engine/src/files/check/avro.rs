//! Avro files: a chain of blocks, each with its length and the file's sync marker behind it.

use datafusion::execution::runtime_env::RuntimeEnv;

use super::super::format::Format;
use super::super::listing::FoundFile;
use super::super::read::{bad_file, range};
use crate::error::{Error, Result};

/// Bytes fetched at once; blocks' lengths are small, their data is skipped.
const WINDOW: u64 = 64 * 1024;
const SYNC: u64 = 16;
/// What a compressed block may grow by; beyond it a count of rows is not real.
const MAX_GROWTH: u64 = 1 << 16;

/// A place in the file that moves forward.
struct Cursor<'a> {
    runtime: &'a RuntimeEnv,
    file: &'a FoundFile,
    at: u64,
    window_start: u64,
    window: bytes::Bytes,
}

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
    while cursor.at < file.meta.size {
        let start = cursor.at;
        let rows = cursor.varint().await?;
        let before = cursor.at;
        let length = cursor.skip_bytes().await?;
        let largest = length.saturating_add(cursor.at - before).saturating_mul(MAX_GROWTH);
        if !u64::try_from(rows).is_ok_and(|rows| rows <= largest) {
            return Err(cursor.damaged(format!("the block at byte {start} claims {rows} rows")));
        }
        if cursor.take(SYNC).await? != sync {
            return Err(cursor.damaged(format!("the block at byte {start} is damaged")));
        }
    }
    Ok(())
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
