//! The scheduler: which task runs where and when, what is made again after a loss, whose turn it is.
//!
//! Pure decisions. [`Scheduler::apply`] takes what happened and the time, and returns what is to be
//! done; a driver performs it over the control streams of the workers. So every schedule of faults
//! can be played through in a simulation, and a failing one replayed from its seed.
//!
//! A task runs when everything it reads is sealed and a slot is free on a site. What it leaves
//! behind stays on that site, named by the attempt, until no unfinished task needs it (and for some
//! generations more, to keep recovery short), or until the query ends.
//!
//! **Invariant:** no tokio, no clock, no I/O, no randomness here; equal events at equal times give
//! equal actions.
//!
//! **Invariant:** nothing unsealed is read: a launched task's sources are sealed outputs of the
//! current attempt on a site that has not been lost.
//!
//! **Invariant:** a site never has more attempts launched than slots that has not heard the last
//! word of; a cancelled attempt keeps its slot until it has said so.
//!
//! **Invariant:** nothing is made of two versions of an output that differ ([`rollback`]).
//!
//! **Invariant:** news of an attempt that is not the current one, or of a life that is over, changes
//! nothing but the slot it frees.
//!
//! **Invariant:** no action is addressed to a site after its [`Action::WorkerLost`].
//!
//! **Invariant:** when a query has ended, each connected site that had anything of it has been told
//! to drop it; one that was cut off is told when it reconnects.

mod action;
mod cached;
mod config;
mod event;
mod fairness;
mod graph;
mod machine;
mod placement;
mod reads;
mod recovery;
mod reports;
mod rollback;
mod state;
mod view;
mod workers;

#[cfg(test)]
mod cached_test;
#[cfg(test)]
mod rollback_test;
#[cfg(test)]
mod rules_test;
#[cfg(test)]
mod simulation;

pub use action::{Action, FailureKind, Launch, QueryFailure, Source};
pub use config::{QuerySettings, SchedulerConfig};
pub use event::{
    CachedKey, CachedReport, CachedUsage, CancelCause, Event, FetchFault, Heartbeat, Holdings,
    Site, TaskAttempt, TaskFailure, TaskOutput,
};
pub use graph::{
    CachedCopy, CachedPart, CachedStage, GraphError, OutputKind, QueryGraph, Replay, StageInput,
    StageNode, StagePlace,
};
pub use machine::Scheduler;
pub use reads::{ReadPattern, TaskGroups, TaskSet};
pub use view::{AttemptState, QueryState, QueryView, StageView, TaskView, WorkerView};
