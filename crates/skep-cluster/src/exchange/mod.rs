//! Exchanges: where rows change partition, place or both.
//!
//! - [`plan`]: what an exchange is in a plan: how a stage's output is split, and the leaf that
//!   reads it in the next stage.
//! - [`fetch`]: what a task sees of outputs that lie in other processes.
//! - [`serve`] and [`flight_fetch`]: the two ends of the stream that brings them, one Flight
//!   `DoExchange` per reading task and keeping process.

pub mod config;
pub mod fetch;
pub mod plan;
// What both ends say.
mod ipc;
mod wire;
// The keeper's end.
pub mod serve;
pub mod service;
// The reader's end.
mod channels;
pub mod flight_fetch;
mod flow;
mod link;

#[cfg(test)]
mod tests;
