//! What runs tasks on a site: a worker's process, or the coordinator for what cannot travel.
//!
//! A [`Command`] says what is to be done, a [`TaskReport`] what became of it. Where they come from
//! and go to, a control stream or the coordinator's own channel, makes no difference here.

pub mod command;
pub mod site;

pub use command::{Command, EncodedStage, OperatorMetrics, StageProgram, TaskOutcome, TaskReport};
pub use site::TaskSite;
