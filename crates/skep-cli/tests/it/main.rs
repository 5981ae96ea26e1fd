//! Tests of the binary as a user meets it: its streams, its exit status, its terminal.

mod batch;
mod errors;
mod formats;
mod process;
mod prompt;
mod stdin;
mod terminal;
