//! Where files are: a path, a glob or a URL, taken apart once.

use std::path::{Component, Path as LocalPath, PathBuf};

use datafusion::execution::object_store::ObjectStoreUrl;
use object_store::path::Path;
use url::Url;

use super::pattern::{PathPattern, is_glob};
use crate::error::{Error, Result};

/// A file, a directory or a glob in some object store.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    /// As the user should see it, without credentials.
    pub(crate) text: String,
    /// The store that holds it.
    pub(crate) store: ObjectStoreUrl,
    /// The file, or the directory that everything found is below.
    pub(crate) base: Path,
    /// What the paths below `base` must match, if the location is a glob.
    pub(crate) pattern: Option<PathPattern>,
    /// Whether the text ends in a slash, and so must be a directory.
    pub(crate) is_directory: bool,
    /// The same as `base` on the local disk.
    pub(crate) local: Option<PathBuf>,
}

impl Location {
    /// Takes a location apart; relative paths are relative to the process.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if it cannot be a location at all.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        match scheme_of(text) {
            None => Self::parse_local(text),
            Some("file") => {
                let path = Url::parse(text)
                    .ok()
                    .and_then(|url| url.to_file_path().ok())
                    .ok_or_else(|| invalid(text, "is no valid file URL"))?;
                let path = path.to_str().ok_or_else(|| invalid(text, "is not UTF-8"))?;
                let slash = if text.ends_with('/') && !path.ends_with('/') { "/" } else { "" };
                Self::parse_local(&format!("{path}{slash}"))
            }
            Some(scheme) => Self::parse_remote(text, scheme),
        }
    }

    fn parse_local(text: &str) -> Result<Self> {
        let absolute = absolute(text)?;
        let is_directory = text.ends_with('/');
        // A file may really be called `a[1].csv`; what exists is meant literally.
        let exists = std::fs::symlink_metadata(&absolute).is_ok();
        let absolute_text = absolute.to_str().ok_or_else(|| invalid(text, "is not UTF-8"))?;
        let (base, pattern) = if !exists && is_glob(absolute_text, true) {
            let (base, pattern) = split_glob(absolute_text, true);
            (PathBuf::from(base), Some(PathPattern::parse(pattern)))
        } else {
            (absolute.clone(), None)
        };
        let path = if base == LocalPath::new("/") {
            Path::default()
        } else {
            Path::from_absolute_path(&base).map_err(|error| invalid(text, &error.to_string()))?
        };
        Ok(Self {
            text: text.to_owned(),
            store: ObjectStoreUrl::local_filesystem(),
            base: path,
            pattern,
            is_directory,
            local: Some(base),
        })
    }

    fn parse_remote(text: &str, scheme: &str) -> Result<Self> {
        let is_http = matches!(scheme, "http" | "https");
        let (head, tail) =
            if !is_http && is_glob(text, false) { split_glob(text, false) } else { (text, "") };
        let url = Url::parse(head).map_err(|error| invalid(text, &error.to_string()))?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(Error::unsupported(
                format!("a URL with a query or fragment ({})", redact(&url)),
                "only the path of a URL names the file",
            ));
        }
        let store =
            ObjectStoreUrl::parse(&url[url::Position::BeforeScheme..url::Position::BeforePath])
                .map_err(|error| invalid(text, &error.to_string()))?;
        let base =
            Path::from_url_path(url.path()).map_err(|error| invalid(text, &error.to_string()))?;
        Ok(Self {
            text: format!("{}{tail}", redact(&url)),
            store,
            base,
            pattern: (!tail.is_empty()).then(|| PathPattern::parse(tail)),
            is_directory: text.ends_with('/'),
            local: None,
        })
    }

    /// Returns whether files can only be read there, one by one.
    pub(crate) fn is_http(&self) -> bool {
        self.store.as_str().starts_with("http")
    }
}

/// Returns how a file of a store is called in messages: a plain path if it is local.
pub(crate) fn display(store: &ObjectStoreUrl, path: &Path) -> String {
    match store.as_str().strip_prefix("file://") {
        Some(_) => format!("/{path}"),
        None => match Url::parse(store.as_str()) {
            Ok(url) => format!("{}/{path}", redact(&url).trim_end_matches('/')),
            Err(_) => path.to_string(),
        },
    }
}

/// Returns a location as it may be shown: without a password.
pub(crate) fn shown_location(text: &str) -> String {
    // By hand, since what is no URL may have one too.
    let masked = text.split_once("://").and_then(|(scheme, rest)| {
        let end = rest.find('/').unwrap_or(rest.len());
        let (user, host) = rest[..end].rsplit_once('@')?;
        let (user, _) = user.split_once(':')?;
        Some(format!("{scheme}://{user}:***@{host}{}", &rest[end..]))
    });
    masked.unwrap_or_else(|| text.to_owned())
}

/// Makes a location independent of where the process runs, so that it can be kept.
///
/// # Errors
/// [`Error::InvalidOption`] if it cannot be a location at all.
pub(crate) fn absolute_location(text: &str) -> Result<String> {
    if text.is_empty() {
        return Err(invalid(text, "must not be empty"));
    }
    if scheme_of(text).is_some() {
        Location::parse(text)?;
        return Ok(text.to_owned());
    }
    let absolute = absolute(text)?;
    let slash = if text.ends_with('/') && absolute != LocalPath::new("/") { "/" } else { "" };
    let absolute = absolute.to_str().ok_or_else(|| invalid(text, "is not UTF-8"))?;
    Ok(format!("{absolute}{slash}"))
}

/// Returns the scheme of a URL, `None` for a plain path.
pub(crate) fn scheme_of(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    (!scheme.is_empty() && scheme.chars().all(plain)).then_some(scheme)
}

fn absolute(text: &str) -> Result<PathBuf> {
    let expanded = match (text.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    };
    let absolute = std::path::absolute(&expanded)
        .map_err(|error| invalid(text, &format!("cannot be made absolute: {error}")))?;
    let mut clean = PathBuf::new();
    for component in absolute.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    Ok(clean)
}

/// Splits before the first segment that is a glob; the base keeps no slash at its end.
fn split_glob(text: &str, question_mark: bool) -> (&str, &str) {
    let mut start = 0;
    for segment in text.split_inclusive('/') {
        if is_glob(segment, question_mark) {
            let base = &text[..start];
            let base = if base.len() > 1 && !base.ends_with("://") {
                base.trim_end_matches('/')
            } else {
                base
            };
            return (base, &text[start..]);
        }
        start += segment.len();
    }
    (text, "")
}

fn redact(url: &Url) -> String {
    if url.password().is_none() {
        return url.to_string();
    }
    let mut url = url.clone();
    match url.set_password(Some("***")) {
        Ok(()) => url.to_string(),
        Err(()) => url.scheme().to_owned(),
    }
}

fn invalid(text: &str, message: &str) -> Error {
    Error::InvalidOption {
        option: "path".to_owned(),
        message: format!("\"{}\" {message}", shown_location(text)),
        hint: Some("give a file, a directory, a glob or a URL".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_globs_split_at_the_first_special_segment() {
        let location = Location::parse("/data/x/*.csv").unwrap();
        assert_eq!(location.base.to_string(), "data/x");
        assert!(location.pattern.is_some());
        assert_eq!(location.local.as_deref(), Some(LocalPath::new("/data/x")));
        let location = Location::parse("/*.csv").unwrap();
        assert_eq!(location.base.to_string(), "");
    }

    #[test]
    fn remote_locations_know_their_store() {
        let location = Location::parse("s3://bucket/a/b%20c/*.parquet").unwrap();
        assert_eq!(location.store.as_str(), "s3://bucket/");
        assert_eq!(location.base.to_string(), "a/b c");
        assert!(location.pattern.is_some());
        assert!(Location::parse("https://x.org/a.csv?token=1").is_err());
        assert_eq!(
            Location::parse("https://u:secret@x.org/a.csv").unwrap().text,
            "https://u:***@x.org/a.csv"
        );
    }

    #[test]
    fn passwords_are_not_shown() {
        for text in ["/a b/*.csv", "s3://bucket/x/*.parquet", "https://u@x.org/a.csv"] {
            assert_eq!(shown_location(text), text);
        }
        let text = "https://u:secret@x.org/a.csv";
        assert_eq!(shown_location(text), "https://u:***@x.org/a.csv");
        let error = Location::parse("https://u:secret@x.org:99999/a.csv").unwrap_err();
        assert!(error.to_string().contains("u:***@x.org:99999"), "{error}");
    }

    #[test]
    fn paths_become_absolute_and_clean() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute_location("x/../y.csv").unwrap(), here.join("y.csv").to_str().unwrap());
        assert_eq!(absolute_location("/a/./b/").unwrap(), "/a/b/");
        assert_eq!(absolute_location("s3://b/x").unwrap(), "s3://b/x");
        assert!(absolute_location("").is_err());
    }
}
