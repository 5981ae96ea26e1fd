//! From text to statements to plans.

pub(crate) mod rewrite;
