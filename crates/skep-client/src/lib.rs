//! Talks to a skep coordinator: statements out, record batches in.
//!
//! ```no_run
//! # async fn run() -> skep_client::Result<()> {
//! use futures::TryStreamExt;
//!
//! let client = skep_client::Client::connect("grpc://127.0.0.1:50051").await?;
//! let mut statement = client.execute("SELECT 1 AS x").await?;
//! while let Some(batch) = statement.try_next().await? {
//!     assert_eq!(batch.num_columns(), 1);
//! }
//! client.close().await
//! # }
//! ```
//!
//! A [`Client`] has a session of its own there: settings and temporary tables last as long as it
//! does. Dropping a [`Statement`] cancels it. A [`Prepared`] statement takes parameters; an [`Ingest`]
//! puts rows into a table. With the feature `dataframe`, the coordinator's tables are DataFrames too,
//! which travel as Substrait plans.
//!
//! **Invariant:** an error keeps the code, text, place and hint that it had at the coordinator; what
//! happens on the way there names the address.

mod address;
mod client;
#[cfg(feature = "dataframe")]
mod dataframe;
mod error;
mod ingest;
mod prepared;
mod statement;

pub use client::{Client, ConnectOptions};
#[cfg(feature = "dataframe")]
pub use dataframe::substrait_plan;
#[cfg(feature = "dataframe")]
pub use datafusion::dataframe::DataFrame;
pub use error::{Error, Position, Result};
pub use prepared::Prepared;
pub use skep_proto::{ErrorCode, IfExists, IfMissing, Ingest};
pub use statement::{Outcome, Statement, StatementHandle};
