//! Exchanges: where rows change partition, place or both.
//!
//! - [`plan`]: what an exchange is in a plan: how a stage's output is split, and the leaf that
//!   reads it in the next stage.

pub mod fetch;
pub mod plan;
