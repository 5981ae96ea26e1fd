//! The one error type of the engine: kind, place, cause, hint.

use std::fmt;
use std::io;
use std::path::PathBuf;

use datafusion::error::DataFusionError;
use skep_proto::ErrorCode;

/// Shorthand for the engine's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A place in the text of a statement, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line of the statement's text, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Everything that can go wrong in the engine.
///
/// The text of each is a lowercase fragment that names the kind of thing; advice is in
/// [`Error::hint`], the place in [`Error::position`], the cause in `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not SQL that we know.
    #[error("syntax error: {message}")]
    Syntax {
        /// What the parser wanted and found.
        message: String,
        /// Where in the statement.
        position: Option<Position>,
        /// What to write instead, if we can guess it.
        hint: Option<String>,
    },

    /// A table, view, column, function, schema, catalog or setting is not there.
    #[error("{kind} \"{name}\" not found")]
    NotFound {
        /// What kind of thing: `table`, `column`, `function`, ...
        kind: &'static str,
        /// Its name as the user wrote it.
        name: String,
        /// Where in the statement, if known.
        position: Option<Position>,
        /// Likely the name that was meant.
        hint: Option<String>,
    },

    /// A thing of that name is there already.
    #[error("{kind} \"{name}\" already exists")]
    AlreadyExists {
        /// What kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
    },

    /// A file or location could not be read as what it was said to be.
    #[error("cannot read {path}{}: {message}", as_format(format))]
    File {
        /// The file or location, with credentials removed.
        path: String,
        /// The format it was read as, if one was known.
        format: Option<String>,
        /// What is wrong with it.
        message: String,
        /// Whether nothing is there at all.
        missing: bool,
        /// What to do about it.
        hint: Option<String>,
    },

    /// An option of a statement, or its value, is not known.
    #[error("invalid option \"{option}\": {message}")]
    InvalidOption {
        /// The option as written.
        option: String,
        /// What is wrong.
        message: String,
        /// What is allowed.
        hint: Option<String>,
    },

    /// A setting has a value that it cannot take.
    #[error("invalid setting \"{name}\": {message}")]
    InvalidSetting {
        /// The setting.
        name: String,
        /// What is wrong.
        message: String,
        /// What is allowed.
        hint: Option<String>,
    },

    /// The request is understood and not supported.
    #[error("{what} is not supported")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What to use instead.
        hint: Option<String>,
    },

    /// The statement is SQL but has no meaning: types, arguments, grouping, ambiguity.
    #[error("{message}")]
    Plan {
        /// What is wrong.
        message: String,
        /// Where in the statement, if known.
        position: Option<Position>,
        /// What to do about it.
        hint: Option<String>,
    },

    /// The data of a running query cannot be computed with: division by zero, bad cast, overflow.
    #[error("{message}")]
    Data {
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },

    /// A bound was reached: memory, disk, recursion.
    #[error("{message}")]
    ResourcesExhausted {
        /// Which bound, and how it was reached.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },

    /// This process or this user may not do that.
    #[error("{message}")]
    PermissionDenied {
        /// What may not be done.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },

    /// The caller gave up.
    #[error("query cancelled")]
    Cancelled,

    /// The statement's time limit ran out.
    #[error("the statement took longer than skep.statement_timeout, which is {limit}")]
    DeadlineExceeded {
        /// The limit, as the setting shows it.
        limit: String,
    },

    /// The operating system failed us.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `create`, ...
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A remote store failed us.
    #[error("cannot reach {location}: {message}")]
    Unavailable {
        /// The store, with credentials removed.
        location: String,
        /// What it said.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },

    /// What another process of the cluster reported, or a coordinator to its client.
    #[error("{message}")]
    Remote {
        /// Its code there.
        code: ErrorCode,
        /// Its text there, whole.
        message: String,
        /// Where in the statement, if known.
        position: Option<Position>,
        /// What to do about it.
        hint: Option<String>,
        /// Whether the same request may succeed when tried again.
        is_retryable: bool,
    },

    /// A defect of skep or of a library below it.
    #[error("internal error: {message}")]
    Internal {
        /// What broke.
        message: String,
        /// The error below, if there is one.
        source: Option<DataFusionError>,
    },
}

fn as_format(format: &Option<String>) -> String {
    format.as_ref().map(|format| format!(" as {format}")).unwrap_or_default()
}

impl Error {
    /// Returns what kind of failure this is.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Syntax { .. }
            | Self::InvalidOption { .. }
            | Self::InvalidSetting { .. }
            | Self::Plan { .. }
            | Self::Data { .. } => ErrorCode::InvalidArgument,
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::File { missing: true, .. } => ErrorCode::NotFound,
            Self::File { missing: false, .. } => ErrorCode::InvalidArgument,
            Self::AlreadyExists { .. } => ErrorCode::AlreadyExists,
            Self::Unsupported { .. } => ErrorCode::Unimplemented,
            Self::ResourcesExhausted { .. } => ErrorCode::ResourceExhausted,
            Self::PermissionDenied { .. } => ErrorCode::PermissionDenied,
            Self::Cancelled => ErrorCode::Cancelled,
            Self::DeadlineExceeded { .. } => ErrorCode::DeadlineExceeded,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorCode::NotFound,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    ErrorCode::PermissionDenied
                }
                io::ErrorKind::StorageFull => ErrorCode::ResourceExhausted,
                _ => ErrorCode::Unavailable,
            },
            Self::Unavailable { .. } => ErrorCode::Unavailable,
            Self::Remote { code, .. } => *code,
            Self::Internal { .. } => ErrorCode::Internal,
        }
    }

    /// Returns whether the same request may succeed when tried again, with nothing else changed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Remote { is_retryable, .. } => *is_retryable,
            Self::Syntax { .. }
            | Self::NotFound { .. }
            | Self::AlreadyExists { .. }
            | Self::File { .. }
            | Self::InvalidOption { .. }
            | Self::InvalidSetting { .. }
            | Self::Unsupported { .. }
            | Self::Plan { .. }
            | Self::Data { .. }
            | Self::ResourcesExhausted { .. }
            | Self::PermissionDenied { .. }
            | Self::Cancelled
            | Self::DeadlineExceeded { .. }
            | Self::Io { .. }
            | Self::Internal { .. } => false,
        }
    }

    /// Returns the place in the statement's text, if one is known.
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Syntax { position, .. }
            | Self::NotFound { position, .. }
            | Self::Plan { position, .. }
            | Self::Remote { position, .. } => *position,
            _ => None,
        }
    }

    /// Returns advice on what to do, if there is any.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Syntax { hint, .. }
            | Self::NotFound { hint, .. }
            | Self::File { hint, .. }
            | Self::InvalidOption { hint, .. }
            | Self::InvalidSetting { hint, .. }
            | Self::Unsupported { hint, .. }
            | Self::Plan { hint, .. }
            | Self::Data { hint, .. }
            | Self::ResourcesExhausted { hint, .. }
            | Self::PermissionDenied { hint, .. }
            | Self::Unavailable { hint, .. }
            | Self::Remote { hint, .. } => hint.as_deref(),
            Self::DeadlineExceeded { .. } => Some(
                "give it more with SET skep.statement_timeout = '10min', or 0 for as long as it takes",
            ),
            Self::AlreadyExists { .. }
            | Self::Cancelled
            | Self::Io { .. }
            | Self::Internal { .. } => None,
        }
    }

    /// Makes an [`Error::Unsupported`].
    pub(crate) fn unsupported(what: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        Self::Unsupported { what: what.into(), hint: (!hint.is_empty()).then_some(hint) }
    }

    /// Makes an [`Error::NotFound`] without a place, with a guess at what was meant.
    pub(crate) fn not_found<'a>(
        kind: &'static str,
        name: impl Into<String>,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let name = name.into();
        let hint = closest(&name, known).map(|known| format!("did you mean \"{known}\"?"));
        Self::NotFound { kind, name, position: None, hint }
    }

    /// Puts a place into an error that has none and can have one.
    pub(crate) fn at(mut self, place: Option<Position>) -> Self {
        if let Self::Syntax { position, .. }
        | Self::NotFound { position, .. }
        | Self::Plan { position, .. } = &mut self
            && position.is_none()
        {
            *position = place;
        }
        self
    }

    /// Moves the place of an error that has one.
    pub(crate) fn moved_to(mut self, place: Position) -> Self {
        if let Self::Syntax { position, .. }
        | Self::NotFound { position, .. }
        | Self::Plan { position, .. }
        | Self::Remote { position, .. } = &mut self
            && position.is_some()
        {
            *position = Some(place);
        }
        self
    }

    /// Copies an error, for sources that several readers share; an I/O cause keeps kind and text.
    pub(crate) fn duplicate(&self) -> Self {
        match self {
            Self::Syntax { message, position, hint } => {
                Self::Syntax { message: message.clone(), position: *position, hint: hint.clone() }
            }
            Self::NotFound { kind, name, position, hint } => {
                Self::NotFound { kind, name: name.clone(), position: *position, hint: hint.clone() }
            }
            Self::AlreadyExists { kind, name } => Self::AlreadyExists { kind, name: name.clone() },
            Self::File { path, format, message, missing, hint } => Self::File {
                path: path.clone(),
                format: format.clone(),
                message: message.clone(),
                missing: *missing,
                hint: hint.clone(),
            },
            Self::InvalidOption { option, message, hint } => Self::InvalidOption {
                option: option.clone(),
                message: message.clone(),
                hint: hint.clone(),
            },
            Self::InvalidSetting { name, message, hint } => Self::InvalidSetting {
                name: name.clone(),
                message: message.clone(),
                hint: hint.clone(),
            },
            Self::Unsupported { what, hint } => {
                Self::Unsupported { what: what.clone(), hint: hint.clone() }
            }
            Self::Plan { message, position, hint } => {
                Self::Plan { message: message.clone(), position: *position, hint: hint.clone() }
            }
            Self::Data { message, hint } => {
                Self::Data { message: message.clone(), hint: hint.clone() }
            }
            Self::ResourcesExhausted { message, hint } => {
                Self::ResourcesExhausted { message: message.clone(), hint: hint.clone() }
            }
            Self::PermissionDenied { message, hint } => {
                Self::PermissionDenied { message: message.clone(), hint: hint.clone() }
            }
            Self::Cancelled => Self::Cancelled,
            Self::DeadlineExceeded { limit } => Self::DeadlineExceeded { limit: limit.clone() },
            Self::Io { action, path, source } => Self::Io {
                action,
                path: path.clone(),
                source: io::Error::new(source.kind(), source.to_string()),
            },
            Self::Unavailable { location, message, hint } => Self::Unavailable {
                location: location.clone(),
                message: message.clone(),
                hint: hint.clone(),
            },
            Self::Remote { code, message, position, hint, is_retryable } => Self::Remote {
                code: *code,
                message: message.clone(),
                position: *position,
                hint: hint.clone(),
                is_retryable: *is_retryable,
            },
            Self::Internal { message, .. } => {
                Self::Internal { message: message.clone(), source: None }
            }
        }
    }

    /// Makes an [`Error::Plan`] without a place.
    pub(crate) fn plan(message: impl Into<String>) -> Self {
        Self::Plan { message: message.into(), position: None, hint: None }
    }
}

/// An engine error crosses DataFusion as `External` and is found again on the other side.
impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}

/// Returns the known name that `name` most likely meant, if one is near enough.
pub(crate) fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    known
        .into_iter()
        .map(|known| (strsim::jaro_winkler(&name, &known.to_lowercase()), known))
        .filter(|(score, _)| *score > 0.82)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, known)| known)
}
