//! What the binary can be asked to do: one file a command.

pub(crate) mod sql;
