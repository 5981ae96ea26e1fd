//! Reads pieces of files, decompressed where they are compressed.

use bytes::Bytes;
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;

use super::format::{Format, NamedContent};
use super::listing::{FoundFile, io_kind, store_error, store_of};
use super::options::Rules;
use crate::error::{Error, Result};

/// Returns how a file is compressed: as the table says, or as its name does.
pub(crate) fn compression_of_file(file: &FoundFile, rules: &Rules) -> CompressionTypeVariant {
    match rules.compression {
        Some(compression) => compression,
        None if rules.format.is_text() => NamedContent::of(file.name()).compression,
        None => CompressionTypeVariant::UNCOMPRESSED,
    }
}

/// Reads bytes of a file as it lies in its store.
///
/// # Errors
/// The store's error, naming the file.
pub(crate) async fn range(
    runtime: &RuntimeEnv,
    file: &FoundFile,
    range: std::ops::Range<u64>,
) -> Result<Bytes> {
    let end = range.end.min(file.meta.size);
    if range.start >= end {
        return Ok(Bytes::new());
    }
    let store = store_of(runtime, &file.store)?;
    store
        .get_range(&file.meta.location, range.start..end)
        .await
        .map_err(|error| store_error(&file.path(), error))
}

/// Returns the decompressed bytes of a file as they come.
///
/// # Errors
/// The store's error, naming the file; what is wrong with compressed data comes in the stream.
pub(crate) async fn decompressed(
    runtime: &RuntimeEnv,
    file: &FoundFile,
    compression: CompressionTypeVariant,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let store = store_of(runtime, &file.store)?;
    let path = file.path();
    let result = store.get(&file.meta.location).await.map_err(|error| store_error(&path, error))?;
    let bytes =
        result.into_stream().map_err(|error| DataFusionError::ObjectStore(Box::new(error))).boxed();
    let stream = FileCompressionType::from(compression).convert_stream(bytes)?;
    Ok(stream.map_err(move |error| stream_error(&path, compression, &error)).boxed())
}

/// Reads the beginning of a file, decompressed, until there are `limit` bytes; the flag says
/// whether that is all.
///
/// # Errors
/// As [`decompressed`].
pub(crate) async fn beginning(
    runtime: &RuntimeEnv,
    file: &FoundFile,
    compression: CompressionTypeVariant,
    limit: usize,
) -> Result<(Vec<u8>, bool)> {
    let mut stream = decompressed(runtime, file, compression).await?;
    let mut out = Vec::new();
    while let Some(chunk) = stream.try_next().await? {
        out.extend_from_slice(&chunk);
        if out.len() >= limit {
            return Ok((out, false));
        }
    }
    Ok((out, true))
}

fn stream_error(path: &str, compression: CompressionTypeVariant, error: &DataFusionError) -> Error {
    if let Some(kind) = io_kind(error) {
        return Error::Io { action: "read", path: path.into(), source: kind.into() };
    }
    let message = match compression {
        CompressionTypeVariant::UNCOMPRESSED => error.strip_backtrace(),
        _ => format!(
            "its {} data is damaged or cut off ({})",
            compression.to_string().to_ascii_lowercase(),
            error.find_root().strip_backtrace()
        ),
    };
    Error::File { path: path.to_owned(), format: None, message, missing: false, hint: None }
}

/// Makes the error for a file that is not what it should be.
pub(crate) fn bad_file(
    path: impl Into<String>,
    format: Format,
    message: impl Into<String>,
    hint: Option<String>,
) -> Error {
    Error::File {
        path: path.into(),
        format: Some(format.name().to_owned()),
        message: message.into(),
        missing: false,
        hint,
    }
}
