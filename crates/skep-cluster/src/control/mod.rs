//! The control stream between a worker and the coordinator.
//!
//! A worker dials and keeps one bidirectional stream open ([`ControlClient`]); the coordinator
//! answers ([`ControlService`]) and passes on what is said between the stream and its [`Members`].
//! A broken stream is not the end of a life: the worker comes back with the life that it was given
//! and says what it holds, and goes on if it is let.
//!
//! What is under way when a stream breaks may be lost, commands and reports alike. Nobody repeats
//! it: the coordinator compares what the worker holds with what it thought, when it comes back.
//!
//! **Invariant:** commands are performed in the order in which the coordinator gave them, and each
//! in the life for which it was given.
//!
//! **Invariant:** of each worker that [`Members`] let in, it hears exactly once that the connection
//! ended, either as `left` or as `disconnected`, and nothing of that connection afterwards.

pub mod backoff;
pub mod client;
pub mod config;
mod connection;
pub mod members;
mod outbox;
pub mod service;
mod session;
pub mod wire;

#[cfg(test)]
mod tests;

pub use backoff::{Backoff, BackoffConfig};
pub use client::{ControlClient, ControlState};
pub use config::{ControlConfig, ControlServiceConfig};
pub use members::{JoinRequest, Joined, Members, Refusal};
pub use service::ControlService;
