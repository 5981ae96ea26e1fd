//! Who is in the cluster: which workers live, in which incarnation, and what the planner may know.
//!
//! Pure, like the scheduler that owns it: events with the time go in, changes come out. A worker is
//! known by its id, one of its lives by the incarnation; a life that was given up never comes back,
//! the process behind it has to join as a new one.
//!
//! **Invariant:** of one worker at most one life is not lost, and it is the one with the highest
//! incarnation seen.
//!
//! **Invariant:** the clock of the caller is the only clock; a caller that stood still itself (its
//! machine slept) does not hold that against the workers.

mod lives;
mod snapshot;
mod state;

pub use lives::{LifeRegistry, LifeRequest};
pub use snapshot::{ClusterSnapshot, WorkerInfo};
pub use state::{
    LossReason, Membership, MembershipChange, MembershipConfig, Registration, WorkerLife,
    WorkerLoad, WorkerState,
};
