//! The coordinator as a process: what it listens on, and what stands behind.
//!
//! One port for gRPC: Flight SQL for clients ([`flight_sql`]), exchanges and control streams for
//! workers, health. Another for HTTP probes, if wanted.

mod flight_sql;
mod front;
mod results;
mod server;
mod sessions;
mod wiring;

pub use server::CoordinatorServer;
