//! The closed list of error codes.

use std::fmt;

/// What kind of failure an error is, for callers that must decide and not read.
///
/// Each code has one HTTP status and one gRPC status; this type alone knows both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The request is wrong and stays wrong: syntax, a type that cannot be cast, a bad option.
    InvalidArgument,
    /// The caller has not said who they are.
    Unauthenticated,
    /// The caller, or this process, may not do this.
    PermissionDenied,
    /// A table, column, function or file is not there.
    NotFound,
    /// A thing of that name is there already.
    AlreadyExists,
    /// A bound was reached: memory, disk, queue, recursion.
    ResourceExhausted,
    /// The caller gave up.
    Cancelled,
    /// A defect of skep.
    Internal,
    /// The request is understood and not supported.
    Unimplemented,
    /// Something needed is away for now; trying again may help.
    Unavailable,
    /// A time limit ran out.
    DeadlineExceeded,
}

impl ErrorCode {
    /// Returns the HTTP status of this code.
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidArgument => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::AlreadyExists => 409,
            Self::ResourceExhausted => 429,
            Self::Cancelled => 499,
            Self::Internal => 500,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
            Self::DeadlineExceeded => 504,
        }
    }

    /// Returns the gRPC status number of this code.
    ///
    /// Source: the gRPC core specification, "Status codes and their use in gRPC".
    pub fn grpc_status(self) -> i32 {
        match self {
            Self::Cancelled => 1,
            Self::InvalidArgument => 3,
            Self::DeadlineExceeded => 4,
            Self::NotFound => 5,
            Self::AlreadyExists => 6,
            Self::PermissionDenied => 7,
            Self::ResourceExhausted => 8,
            Self::Unimplemented => 12,
            Self::Internal => 13,
            Self::Unavailable => 14,
            Self::Unauthenticated => 16,
        }
    }

    /// Returns the code that has this gRPC status number; `None` for a number that no code has.
    pub fn from_grpc_status(status: i32) -> Option<Self> {
        Some(match status {
            1 => Self::Cancelled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            16 => Self::Unauthenticated,
            _ => return None,
        })
    }

    /// Returns the name that people and logs see, in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission_denied",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
            Self::Unimplemented => "unimplemented",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;

    #[test]
    fn a_code_is_found_again_by_its_number() {
        let codes: Vec<_> = (0..32).filter_map(ErrorCode::from_grpc_status).collect();
        assert_eq!(codes.len(), 11);
        for code in codes {
            assert_eq!(ErrorCode::from_grpc_status(code.grpc_status()), Some(code));
        }
        assert_eq!(ErrorCode::from_grpc_status(0), None);
    }
}
