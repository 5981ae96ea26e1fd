//! The wire contract of skep: what crosses a process boundary, free of DataFusion.
//!
//! For now this is the closed list of error codes, which the engine speaks and every protocol maps.

mod error_code;

pub use error_code::ErrorCode;
