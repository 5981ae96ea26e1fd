//! The distributed executor of skep.
//!
//! Built from its pure parts outward: identities, the cutting of plans into stages, the scheduler's
//! decisions, the store that keeps partitions. The drivers that perform decisions over a network
//! come on top of these.

pub mod cache;
pub mod client_tls;
pub mod codec;
pub mod control;
pub mod coordinator;
pub mod exchange;
pub mod membership;
pub mod scheduler;
mod secret;
pub mod stage_planner;
pub mod worker;

pub use skep_store as store;
pub use skep_store::{Error, Result, error, ids};
