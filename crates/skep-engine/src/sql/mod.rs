//! From text to statements to plans.

pub(crate) mod rewrite;
pub(crate) mod split;
