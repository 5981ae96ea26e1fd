//! How a stage travels between the processes of a cluster.
//!
//! A stage travels as DataFusion's own protobuf (`datafusion-proto`), with nodes of ours where that
//! one has none or forgets something ([`wire`] lists them and why). What a task then runs is the
//! same plan: same rows, same partitions, same order, same schema.
//!
//! [`encode_stage`] decodes what it has written and compares, so that a stage that cannot travel is
//! known before any worker is involved, with the reason. How a scan is told which row groups are best
//! read first, over something else than plain columns, is the one thing that may stay behind: the
//! answer does not depend on it.
//!
//! **Invariant:** a stage that [`encode_stage`] returns is decoded to the same plan by any process of
//! the same build; what cannot be said on the wire is an error there, never a different plan.
//!
//! **Invariant:** a decoded plan shares nothing with any other: no filter, no subquery's value.

mod aggregate;
mod cached;
mod decoder;
mod encoder;
mod exchange;
mod parquet_order;
mod plan_decoder;
mod scan;
pub mod stage;
pub(crate) mod window;
mod wire;

#[cfg(test)]
mod tests;

pub use plan_decoder::PlanDecoder;
pub use stage::{DecodedStage, decode_stage, encode_settings, encode_stage, encode_stage_with};
