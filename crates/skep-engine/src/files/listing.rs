//! Which files a location holds.
//!
//! Files and directories whose names begin with `.` or `_` are not data (Spark's `_SUCCESS`, our
//! own staging names) and are left out, unless the location names them itself.

use std::io;
use std::sync::Arc;

use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::format::{Format, NamedContent};
use super::location::{Location, display};
use super::options::Rules;
use super::pattern::name_matches;
use crate::error::{Error, Result};

/// One file of a table.
#[derive(Debug, Clone)]
pub(crate) struct FoundFile {
    /// The store that holds it.
    pub(crate) store: ObjectStoreUrl,
    /// Where in the store, how large, how old.
    pub(crate) meta: ObjectMeta,
    /// The directories between the location's base and the file.
    pub(crate) directories: Vec<String>,
}

impl FoundFile {
    /// Returns how messages call the file.
    pub(crate) fn path(&self) -> String {
        display(&self.store, &self.meta.location)
    }

    /// Returns the file's own name.
    pub(crate) fn name(&self) -> &str {
        self.meta.location.filename().unwrap_or_default()
    }
}

/// Returns the store of a location.
///
/// # Errors
/// [`Error::Unavailable`] if there is no such store.
pub(crate) fn store_of(runtime: &RuntimeEnv, url: &ObjectStoreUrl) -> Result<Arc<dyn ObjectStore>> {
    runtime.object_store(url).map_err(|error| match error {
        datafusion::error::DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => unavailable(url, &other.to_string()),
        },
        other => unavailable(url, &other.strip_backtrace()),
    })
}

fn unavailable(url: &ObjectStoreUrl, message: &str) -> Error {
    Error::Unavailable {
        location: url.as_str().trim_end_matches('/').to_owned(),
        message: message.to_owned(),
        hint: Some("skep reads paths and file, http, https, s3, gs and az URLs".to_owned()),
    }
}

/// Lists the files of a location, in the order of their paths.
///
/// # Errors
/// [`Error::File`] if nothing is there; the store's error otherwise.
pub(crate) async fn list(
    runtime: &RuntimeEnv,
    location: &Location,
    rules: &Rules,
) -> Result<Vec<FoundFile>> {
    let store = store_of(runtime, &location.store)?;
    if location.pattern.is_none()
        && let Some(file) = single_file(store.as_ref(), location).await?
    {
        return Ok(vec![file]);
    }
    let mut files = below(store.as_ref(), location, rules).await?;
    files.sort_by(|a, b| a.meta.location.cmp(&b.meta.location));
    if location.pattern.is_none() && rules.name_pattern.is_none() {
        keep_data(&mut files, rules.format);
    }
    Ok(files)
}

/// Returns the file that the location names, `None` if it names a directory.
async fn single_file(store: &dyn ObjectStore, location: &Location) -> Result<Option<FoundFile>> {
    if let Some(path) = &location.local {
        let metadata = std::fs::metadata(path).map_err(|error| local_error(location, error))?;
        if metadata.is_dir() {
            // An unreadable directory would look like an empty one.
            std::fs::read_dir(path).map_err(|error| local_error(location, error))?;
            return Ok(None);
        }
        if location.is_directory {
            return Err(file_error(location, "it is a file, not a directory", false));
        }
        if !metadata.is_file() {
            return Err(file_error(location, "it is not a regular file", false));
        }
        std::fs::File::open(path).map_err(|error| local_error(location, error))?;
    } else if location.is_directory && !location.is_http() {
        return Ok(None);
    }
    match store.head(&location.base).await {
        Ok(meta) => {
            Ok(Some(FoundFile { store: location.store.clone(), meta, directories: Vec::new() }))
        }
        Err(object_store::Error::NotFound { .. })
            if location.local.is_none() && !location.is_http() =>
        {
            Ok(None)
        }
        Err(error) => Err(store_error(&location.text, error)),
    }
}

async fn below(
    store: &dyn ObjectStore,
    location: &Location,
    rules: &Rules,
) -> Result<Vec<FoundFile>> {
    if location.is_http() {
        let message = "http servers cannot list directories";
        return Err(file_error(location, message, false));
    }
    if let Some(path) = &location.local
        && std::fs::metadata(path).is_err()
    {
        return Ok(Vec::new());
    }
    let prefix = (!location.base.is_root()).then_some(&location.base);
    let metas: Vec<ObjectMeta> = store
        .list(prefix)
        .try_collect()
        .await
        .map_err(|error| store_error(&location.text, error))?;
    let mut files = Vec::new();
    let mut nested = 0_usize;
    for meta in metas {
        let Some(segments) = relative(&location.base, &meta.location) else { continue };
        let Some((name, directories)) = segments.split_last() else { continue };
        if is_hidden(name) || directories.iter().any(|directory| is_hidden(directory)) {
            continue;
        }
        match &location.pattern {
            Some(pattern) if !pattern.matches(&segments) => continue,
            Some(_) => {}
            None if !rules.recursive && directories.iter().any(|part| !part.contains('=')) => {
                nested += 1;
                continue;
            }
            None => {}
        }
        if rules.name_pattern.as_ref().is_some_and(|pattern| !name_matches(pattern, name)) {
            continue;
        }
        let directories = directories.iter().map(|part| (*part).to_owned()).collect();
        files.push(FoundFile { store: location.store.clone(), meta, directories });
    }
    if files.is_empty() && nested > 0 {
        return Err(Error::File {
            path: location.text.clone(),
            format: None,
            message: format!("the {nested} files in it are all in subdirectories"),
            missing: true,
            hint: Some("set the option recursiveFileLookup, or use a glob with **".to_owned()),
        });
    }
    Ok(files)
}

/// In a directory where some files have the format's extension, the others are not data, unless
/// they have no extension at all.
fn keep_data(files: &mut Vec<FoundFile>, format: Format) {
    let is_data = |file: &FoundFile| NamedContent::of(file.name()).format == Some(format);
    if files.iter().any(is_data) {
        files.retain(|file| is_data(file) || !file.name().contains('.'));
    }
}

fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || (name.starts_with('_') && !name.contains('='))
}

/// Splits a path below a base into its segments.
fn relative<'a>(base: &Path, path: &'a Path) -> Option<Vec<&'a str>> {
    let rest = path.as_ref().strip_prefix(base.as_ref())?;
    let rest = if base.is_root() { rest } else { rest.strip_prefix('/')? };
    Some(rest.split('/').filter(|part| !part.is_empty()).collect())
}

/// Says that a location holds nothing.
pub(crate) fn nothing_found(location: &Location, rules: &Rules) -> Error {
    let message = match (&location.pattern, &rules.name_pattern) {
        (Some(_), _) => "no file matches".to_owned(),
        (None, Some(pattern)) => format!("no file in it matches \"{pattern}\""),
        (None, None) if location.local.is_some() => "the directory has no data files".to_owned(),
        (None, None) => "no such file, and no files below it".to_owned(),
    };
    file_error(location, &message, true)
}

fn file_error(location: &Location, message: &str, missing: bool) -> Error {
    Error::File {
        path: location.text.clone(),
        format: None,
        message: message.to_owned(),
        missing,
        hint: None,
    }
}

fn local_error(location: &Location, source: io::Error) -> Error {
    io_error(&location.text, source)
}

/// Says what the system has against reading a file.
pub(crate) fn io_error(path: &str, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::File {
            path: path.to_owned(),
            format: None,
            message: "no such file or directory".to_owned(),
            missing: true,
            hint: None,
        },
        _ => Error::Io { action: "read", path: path.into(), source },
    }
}

/// Says what an object store has against reading a file.
pub(crate) fn store_error(path: &str, error: object_store::Error) -> Error {
    if let Some(kind) = io_kind(&error) {
        return io_error(path, io::Error::from(kind));
    }
    match error {
        object_store::Error::NotFound { .. } => io_error(path, io::ErrorKind::NotFound.into()),
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => Error::PermissionDenied {
            message: format!("cannot read {path}: access denied"),
            hint: Some("check the credentials of the object store".to_owned()),
        },
        other => {
            Error::Unavailable { location: path.to_owned(), message: other.to_string(), hint: None }
        }
    }
}

/// Finds what the operating system said, however deep.
pub(crate) fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.raw_os_error().is_some()
        {
            return Some(io.kind());
        }
        current = error.source();
    }
    None
}

/// Finds the number of what the operating system said, however deep.
pub(crate) fn root_os_error(
    error: &(dyn std::error::Error + Send + Sync + 'static),
) -> Option<i32> {
    let mut current: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = current {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(code);
        }
        current = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_below_a_base() {
        let base = Path::from("a/b");
        assert_eq!(relative(&base, &Path::from("a/b/k=1/x.csv")), Some(vec!["k=1", "x.csv"]));
        assert_eq!(relative(&base, &Path::from("a/bc/x.csv")), None);
        assert_eq!(relative(&Path::default(), &Path::from("x.csv")), Some(vec!["x.csv"]));
    }

    #[test]
    fn hidden_names() {
        assert!(is_hidden("_SUCCESS") && is_hidden(".x.crc"));
        assert!(!is_hidden("_year=2020") && !is_hidden("x.csv"));
    }
}
