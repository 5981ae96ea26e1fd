//! The footer of a Parquet file: every column chunk inside the file, every count plausible.

use bytes::Bytes;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::parquet::arrow::ARROW_SCHEMA_META_KEY;
use datafusion::parquet::basic::ConvertedType;
use datafusion::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::super::format::Format;
use super::super::listing::FoundFile;
use super::super::read::{bad_file, range};
use crate::error::{Error, Result};

/// The magic and the length of the footer.
const TAIL: u64 = 8;

/// Bytes read at once from the end, which hold most footers whole.
const FIRST_READ: u64 = 64 * 1024;

/// More rows than this in one row group are not real: writers count them in 32 bits.
const MAX_GROUP_ROWS: i64 = 1 << 32;

pub(super) async fn check(runtime: &RuntimeEnv, file: &FoundFile) -> Result<()> {
    let size = file.meta.size;
    let damaged = |message: String| bad_file(file.path(), Format::Parquet, message, None);
    if size < TAIL + 4 {
        return Err(damaged(format!("the file is cut off ({size} bytes)")));
    }
    let read_from = size.saturating_sub(FIRST_READ);
    let end = range(runtime, file, read_from..size).await?;
    let tail = end
        .len()
        .checked_sub(TAIL as usize)
        .map(|start| &end[start..])
        .ok_or_else(|| damaged("the file got shorter while it was read".to_owned()))?;
    if &tail[4..] == b"PARE" {
        return Err(Error::unsupported(format!("encrypted Parquet ({})", file.path()), ""));
    }
    if &tail[4..] != b"PAR1" {
        return Err(damaged("the file is cut off (it has no footer at its end)".to_owned()));
    }
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    let footer_start = size
        .checked_sub(TAIL + length)
        .filter(|start| *start >= 4)
        .ok_or_else(|| damaged(format!("its footer claims {length} of {size} bytes")))?;
    let footer: Bytes = if footer_start >= read_from {
        let start = (footer_start - read_from) as usize;
        end.slice(start..end.len() - TAIL as usize)
    } else {
        range(runtime, file, footer_start..size - TAIL).await?
    };
    let metadata = ParquetMetaDataReader::decode_metadata(&footer)
        .map_err(|error| damaged(format!("its footer is damaged ({error})")))?;
    inside(&metadata, footer_start).map_err(damaged)?;
    refuse_intervals(&metadata, file.path())
}

/// The decoder drops the months of Parquet's INTERVAL, unless Arrow's schema is there: then the
/// writer has had none, or nothing else.
fn refuse_intervals(metadata: &ParquetMetaData, path: String) -> Result<()> {
    let file = metadata.file_metadata();
    let has_arrow_schema = file
        .key_value_metadata()
        .is_some_and(|entries| entries.iter().any(|entry| entry.key == ARROW_SCHEMA_META_KEY));
    let mut columns = file.schema_descr().columns().iter();
    match columns.find(|column| column.converted_type() == ConvertedType::INTERVAL) {
        Some(column) if !has_arrow_schema => Err(bad_file(
            path,
            Format::Parquet,
            format!("column \"{}\" is an INTERVAL, which cannot be read", column.path().string()),
            Some("write it as text, or as months, days and milliseconds".to_owned()),
        )),
        _ => Ok(()),
    }
}

fn inside(metadata: &ParquetMetaData, data_end: u64) -> Result<(), String> {
    let mut rows = 0_i64;
    for (g, group) in metadata.row_groups().iter().enumerate() {
        if !(0..MAX_GROUP_ROWS).contains(&group.num_rows()) {
            return Err(format!("row group {g} claims {} rows", group.num_rows()));
        }
        rows = rows.saturating_add(group.num_rows());
        for chunk in group.columns() {
            let column = chunk.column_path().string();
            let start = match chunk.dictionary_page_offset() {
                Some(offset) if offset > 0 => offset.min(chunk.data_page_offset()),
                _ => chunk.data_page_offset(),
            };
            let place = u64::try_from(start)
                .ok()
                .zip(u64::try_from(chunk.compressed_size()).ok())
                .and_then(|(start, length)| Some((start, start.checked_add(length)?)));
            match place {
                Some((start, end)) if start >= 4 && end <= data_end => {}
                _ if group.num_rows() == 0 => {}
                _ => {
                    return Err(format!(
                        "column \"{column}\" of row group {g} lies outside of the file \
                         (the file is damaged or cut off)"
                    ));
                }
            }
            let flat = chunk.column_descr().max_rep_level() == 0;
            if chunk.num_values() < 0
                || chunk.uncompressed_size() < 0
                || (flat && chunk.num_values() != group.num_rows())
            {
                return Err(format!(
                    "column \"{column}\" of row group {g} claims {} values for {} rows",
                    chunk.num_values(),
                    group.num_rows()
                ));
            }
        }
    }
    if rows != metadata.file_metadata().num_rows() {
        return Err(format!(
            "its footer claims {} rows, its row groups {rows}",
            metadata.file_metadata().num_rows()
        ));
    }
    Ok(())
}
