//! What crosses the control stream, to and from the generated messages.
//!
//! The tasks of a stage mostly read the same outputs, so a launch message says each list of sources
//! once and each site once; tasks name a list by its place. How many bytes a reader wants of a
//! source is the scheduler's own concern and does not travel: it comes out as 0.
//!
//! **Invariant:** whatever arrives, decoding ends in a value or in
//! [`Error::MalformedMessage`](crate::Error::MalformedMessage), never in a panic.

pub mod command;
pub mod failure;
pub mod identity;
pub mod launch;
pub mod worker;

#[cfg(test)]
mod round_trip_test;

pub use command::{CommandEncoder, Encoded, FromCoordinator};
pub use worker::FromWorker;
