//! The control stream between a worker and the coordinator.

pub mod members;

pub use members::{JoinRequest, Joined, Members, Refusal};
