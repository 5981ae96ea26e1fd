//! Cuts DataFusion's physical plan, made as for one process, into stages that run apart.
//!
//! [`StagePlanner::plan`](cut::StagePlanner::plan) walks the plan once from its leaves. Wherever
//! rows change partition it ends a stage and puts an
//! [`ExchangeReadExec`](crate::exchange::plan::ExchangeReadExec) in its place:
//!
//! - `RepartitionExec`, with the order kept where it says so;
//! - `CoalescePartitionsExec` and `SortPreservingMergeExec`, with their limit already below the cut;
//! - below the build side of a join whose probe side is spread ([`joins`]);
//! - below each scalar subquery, which every stage that uses its value reads ([`subqueries`]);
//! - around what cannot leave this process ([`travel`]): the coordinator runs that part and hands
//!   its rows over.
//!
//! A round robin over a scan is not cut: the scan itself is split, or left narrow ([`scans`]).
//!
//! Pure: no I/O, no clock, nothing unseeded.
//!
//! **Invariant:** joining the pieces again ([`rejoin`]) gives a valid plan for one process with the
//! same meaning.
//!
//! **Invariant:** partition `p` of a stage is the same rows wherever and however often it runs,
//! alone or beside others, as far as its inputs and functions are the same: no operator of a stage
//! waits for, or takes work from, another partition of it. The exception are stages that pick rows by
//! chance ([`remake`]): who makes one of their tasks again must make again all that was made of its
//! first rows.
//!
//! **Invariant:** a plan instance runs at most one attempt. Operators keep state: hash tables,
//! filters, the values of scalar subqueries.

pub mod cut;
pub mod explain;
pub mod joins;
pub mod reads;
pub mod rejoin;
pub mod remake;
pub mod scans;
pub mod stage;
pub mod subqueries;
pub mod task_plan;
pub mod travel;

#[cfg(test)]
mod local_run;
#[cfg(test)]
pub(crate) mod tests;

pub use cut::{StageOptions, StagePlanner, shifted};
pub use explain::{explain, headline};
pub use rejoin::rejoin;
pub use remake::{Remake, Resume, minds_batches, remakes, resume};
pub use stage::{Pattern, Place, Stage, StageInput, StagePlan};
pub use task_plan::TaskPlan;
