//! What runs tasks on a site: a worker's process, or the coordinator for what cannot travel.
//!
//! A [`Command`] says what is to be done, a [`TaskReport`] what became of it. Where they come from
//! and go to, a control stream or the coordinator's own channel, makes no difference here.
//!
//! The life of an attempt: [`runner`] takes it into its account, [`program`] makes a plan for it,
//! [`inputs`] feeds it ([`copies`] what several share), [`output`] writes what it gives, [`failure`] judges what went wrong.

mod arrivals;
mod command;
mod copies;
mod failure;
pub mod inputs;
mod live;
mod metrics;
mod output;
pub mod program;
pub mod runner;
pub mod site;
mod task;

#[cfg(test)]
mod tests;

pub use command::{Command, EncodedStage, OperatorMetrics, StageProgram, TaskOutcome, TaskReport};
pub use inputs::InputError;
pub use program::StageDecoder;
pub use runner::{RunnerConfig, TaskRunner};
pub use site::TaskSite;
