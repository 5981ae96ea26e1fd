//! The coordinator as a process: what it listens on, and what stands behind.
//!
//! One port for gRPC: Flight SQL for clients ([`flight_sql`]), exchanges and control streams for
//! workers, health. Another for HTTP probes, if wanted.
//!
//! A call of a client comes in through [`front`], which finds its session ([`sessions`]; [`kept_sessions`] are
//! found again after a restart), and goes on by its command: statements to [`queries`], lists to [`metadata`], rows for a table to
//! [`ingest`]. What a client hands back to be recognised by is made and read in [`tickets`].

mod cancel;
mod columns;
mod flight_sql;
mod front;
mod ingest;
mod kept_sessions;
mod metadata;
mod parameters;
mod place;
mod poll;
mod queries;
mod results;
mod server;
mod session_options;
mod sessions;
mod sql_info;
mod statements;
mod tickets;
mod wiring;
mod xdbc;

pub use server::CoordinatorServer;
