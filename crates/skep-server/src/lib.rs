//! What listens: the coordinator and the worker, their gRPC and HTTP services.
//!
//! - [`CoordinatorServer`]: Flight SQL for clients, the control streams of workers, exchanges,
//!   gRPC health; HTTP for probes.
//! - [`WorkerServer`]: exchanges for others; a control stream of its own to the coordinator.
//! - [`auth`]: who asks, and the gate that every request passes.
//! - [`config`]: what both are told, by whoever starts them and by a file.
//!
//! **Invariant:** an address that other machines can reach is listened on only if somebody said
//! that this is wanted.
//!
//! **Invariant:** what a server began ends with it: dropping it cuts its connections, which drops
//! the streams behind them, which stops the queries behind those.

pub mod auth;
pub mod config;
pub mod coordinator;
pub mod error;
pub mod worker;

mod connection;
mod http;
mod io_runtime;
mod listen;
mod rpc;
mod secret;
mod status;
mod tls;

pub use config::{CoordinatorConfig, TlsConfig, WorkerConfig};
pub use coordinator::CoordinatorServer;
pub use error::{Error, Result};
pub use secret::fresh_cluster_token;
pub use worker::WorkerServer;
