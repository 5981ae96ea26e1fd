//! What the benchmarks share with `benches/peers`, which is a workspace of its own: how figures are
//! put together and where they are kept.

pub mod baseline;
pub mod figures;
