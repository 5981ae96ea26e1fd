//! Looks at a file before any decoder does.
//!
//! A decoder that trusts a damaged length may panic, or ask for so much memory that the process
//! dies, which nothing can catch. So every file is checked once, when it is first seen: that it is
//! of its format at all, that every offset and length in its own tables lies inside it, and that
//! what it claims to grow to is plausible.

mod arrow;
mod avro;
mod parquet;

use std::any::Any;
use std::panic::AssertUnwindSafe;

use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::FutureExt;

use super::format::Format;
use super::listing::FoundFile;
use super::options::Rules;
use super::read::{bad_file, beginning, compression_of_file, range};
use crate::error::Result;

/// What has to be known of a file to open it, beyond its table's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileShape {
    /// How the whole file is compressed.
    pub(crate) compression: CompressionTypeVariant,
    /// How its content is framed.
    pub(crate) framing: Framing,
}

/// The two ways in which JSON and Arrow files are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Framing {
    /// JSON by lines, Arrow with a footer, and all other formats.
    Usual,
    /// A JSON array.
    JsonArray,
    /// An Arrow stream.
    ArrowStream,
}

/// Bytes of a text file that are looked at.
const HEAD_BYTES: usize = 4096;

/// Checks one file; `None` is an empty text file, which has no rows.
///
/// # Errors
/// [`Error::File`](crate::Error::File) that names the file and what is wrong with it.
pub(crate) async fn check(
    runtime: &RuntimeEnv,
    file: &FoundFile,
    rules: &Rules,
) -> Result<Option<FileShape>> {
    let format = rules.format;
    if format.is_text() {
        return check_text(runtime, file, rules).await;
    }
    let path = file.path();
    if file.meta.size == 0 {
        return Err(bad_file(path, format, "the file is empty", None));
    }
    let head = range(runtime, file, 0..HEAD_BYTES as u64).await?;
    match Format::from_magic(&head) {
        Some(found) if found == format => {}
        found => return Err(wrong_format(&path, format, found, &head)),
    }
    let checked = async {
        match format {
            Format::Parquet => parquet::check(runtime, file).await.map(|()| Framing::Usual),
            Format::Arrow => arrow::check(runtime, file, &head).await,
            _ => avro::check(runtime, file).await.map(|()| Framing::Usual),
        }
    };
    let framing = guarded(&path, format, checked).await?;
    Ok(Some(FileShape { compression: CompressionTypeVariant::UNCOMPRESSED, framing }))
}

/// Runs a decoder's future; a panic in it becomes an error that names the file.
///
/// # Errors
/// The future's error, or [`Error::File`](crate::Error::File) for its panic.
pub(crate) async fn guarded<T>(
    path: &str,
    format: Format,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => Err(panicked(path, format, panic.as_ref())),
    }
}

/// Makes the error for a decoder's panic.
pub(crate) fn panicked(
    path: &str,
    format: Format,
    panic: &(dyn Any + Send),
) -> crate::error::Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    let text = text.lines().next().unwrap_or_default();
    bad_file(path, format, format!("the file is damaged (its decoder panicked: {text})"), None)
}

/// Returns the largest memory that a file may claim for one piece of it.
pub(crate) fn claim_limit(runtime: &RuntimeEnv) -> u64 {
    const DEFAULT: u64 = 16 << 30;
    match runtime.memory_pool.memory_limit() {
        MemoryLimit::Finite(bytes) => u64::try_from(bytes).unwrap_or(DEFAULT).min(DEFAULT),
        MemoryLimit::Infinite | MemoryLimit::Unknown => DEFAULT,
    }
}

async fn check_text(
    runtime: &RuntimeEnv,
    file: &FoundFile,
    rules: &Rules,
) -> Result<Option<FileShape>> {
    let format = rules.format;
    let path = file.path();
    if file.meta.size == 0 {
        return Ok(None);
    }
    let compression = compression_of_file(file, rules);
    let raw = range(runtime, file, 0..16).await?;
    let found = compression_of_magic(&raw);
    if found != compression && (found != CompressionTypeVariant::UNCOMPRESSED) {
        let hint = format!("set the option compression to '{}'", name_of(found));
        let message = format!("the file is compressed with {}", name_of(found));
        return Err(bad_file(path, format, message, Some(hint)));
    }
    if compression != found {
        let message = format!("the file is not compressed with {}", name_of(compression));
        let hint = "set the option compression, which goes by the file's name if it is not set";
        return Err(bad_file(path, format, message, Some(hint.to_owned())));
    }
    let (head, _) = beginning(runtime, file, compression, HEAD_BYTES).await?;
    if let Some(found) = Format::from_magic(&head) {
        return Err(wrong_format(&path, format, Some(found), &head));
    }
    if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
        let hint = Some("convert it to UTF-8".to_owned());
        return Err(bad_file(path, format, "the file is UTF-16 text", hint));
    }
    if head[..head.len().min(HEAD_BYTES)].contains(&0) {
        return Err(bad_file(path, format, "the file is not text (it has NUL bytes)", None));
    }
    let framing = match format {
        Format::Json => match json_framing(&head, rules, &path)? {
            Some(framing) => framing,
            None => return Ok(None),
        },
        _ => Framing::Usual,
    };
    Ok(Some(FileShape { compression, framing }))
}

/// Tells an array from lines by the first character that counts.
fn json_framing(head: &[u8], rules: &Rules, path: &str) -> Result<Option<Framing>> {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let framing = match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => return Ok(None),
        Some(b'[') => Framing::JsonArray,
        Some(b'{') => Framing::Usual,
        Some(_) => {
            let message = "it begins with neither { nor [, as JSON rows do";
            return Err(bad_file(path, Format::Json, message, None));
        }
    };
    match (rules.json_array, framing) {
        (Some(false), Framing::JsonArray) => {
            let hint = "leave out the option that says it has one object a line";
            let message = "the file is an array";
            Err(bad_file(path, Format::Json, message, Some(hint.to_owned())))
        }
        (Some(true), Framing::Usual) => {
            let hint = "leave out the option that says it is an array";
            let message = "the file is no array";
            Err(bad_file(path, Format::Json, message, Some(hint.to_owned())))
        }
        _ => Ok(Some(framing)),
    }
}

fn wrong_format(
    path: &str,
    format: Format,
    found: Option<Format>,
    head: &[u8],
) -> crate::error::Error {
    let message = match found {
        Some(found) => format!("it is {} {found} file", article(found)),
        None if compression_of_magic(head) != CompressionTypeVariant::UNCOMPRESSED => {
            format!("it is compressed with {}", name_of(compression_of_magic(head)))
        }
        None if head.first() == Some(&b'{') || head.first() == Some(&b'[') => {
            format!("it is no {format} file; it looks like JSON")
        }
        None if std::str::from_utf8(&head[..head.len().min(64)]).is_ok() => {
            format!("it is no {format} file; it looks like text")
        }
        None => format!("it is no {format} file"),
    };
    let hint = found.map(|found| format!("read it as {found}"));
    bad_file(path, format, message, hint)
}

fn article(format: Format) -> &'static str {
    if matches!(format, Format::Arrow | Format::Avro) { "an" } else { "a" }
}

fn name_of(compression: CompressionTypeVariant) -> &'static str {
    match compression {
        CompressionTypeVariant::GZIP => "gzip",
        CompressionTypeVariant::BZIP2 => "bzip2",
        CompressionTypeVariant::XZ => "xz",
        CompressionTypeVariant::ZSTD => "zstd",
        CompressionTypeVariant::UNCOMPRESSED => "none",
    }
}

fn compression_of_magic(head: &[u8]) -> CompressionTypeVariant {
    if head.starts_with(&[0x1f, 0x8b]) {
        CompressionTypeVariant::GZIP
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        CompressionTypeVariant::ZSTD
    } else if head.starts_with(b"BZh") && head.len() > 9 && head[4..].starts_with(b"\x31\x41\x59") {
        CompressionTypeVariant::BZIP2
    } else if head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        CompressionTypeVariant::XZ
    } else {
        CompressionTypeVariant::UNCOMPRESSED
    }
}
