//! The wire contract of skep: what crosses a process boundary, free of DataFusion.
//!
//! The closed list of error codes, which the engine speaks and every protocol maps; what can be said
//! of rows that go into a table; and with the feature `grpc` the messages between the processes of a cluster.

mod error_code;
mod ingest;

/// The messages and services between the processes of a cluster, as `proto/cluster.proto` has them.
#[cfg(feature = "grpc")]
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    clippy::missing_errors_doc,
    reason = "generated; the .proto has the docs"
)]
pub mod cluster {
    tonic::include_proto!("skep.cluster.v1");
}

/// What skep adds to Flight SQL, as `proto/client.proto` has it.
#[cfg(feature = "grpc")]
#[expect(missing_docs, reason = "generated; the .proto has the docs")]
pub mod client {
    tonic::include_proto!("skep.client.v1");
}

pub use error_code::ErrorCode;
pub use ingest::{IfExists, IfMissing, Ingest};
