//! What listens: the coordinator and the worker, their gRPC and HTTP services.
//!
//! - [`CoordinatorServer`]: Flight SQL for clients, the control streams of workers, exchanges,
//!   gRPC health; HTTP for probes.
//! - [`WorkerServer`]: exchanges for others; a control stream of its own to the coordinator.
//! - [`config`]: what both are told, by whoever starts them and by a file.
//!
//! **Invariant:** an address that other machines can reach is listened on only if somebody said
//! that this is wanted.
//!
//! **Invariant:** what a server began ends with it: dropping it cuts its connections, which drops
//! the streams behind them, which stops the queries behind those.

pub mod config;
pub mod coordinator;
pub mod error;
pub mod worker;

mod http;
mod io_runtime;
mod listen;
mod rpc;
mod secret;
mod status;

pub use config::{CoordinatorConfig, WorkerConfig};
pub use coordinator::CoordinatorServer;
pub use error::{Error, Result};
pub use worker::WorkerServer;
