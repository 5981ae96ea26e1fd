//! Tests of the binary as a user meets it: its streams, its exit status, its terminal.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod batch;
mod cached;
mod cancelling;
mod cluster;
mod errors;
mod flight;
mod formats;
mod matrix;
mod object_stores;
mod operations;
mod panics;
mod process;
mod prompt;
mod recovery;
mod remote;
mod role;
mod roles;
mod stdin;
mod suspended;
mod system_tables;
mod task_settings;
mod terminal;
mod tls;
mod users;
