//! The seam between the prompt and whatever runs its statements.
//!
//! That is the engine in this process, or a coordinator somewhere, which offers the same and nothing
//! more. So the rest of this crate reaches an engine only through [`Connection`].

use futures::future::{self, BoxFuture};
use futures::{FutureExt, StreamExt, TryStreamExt};
use skep_client::{Client, ConnectOptions, ErrorCode, Outcome};
use skep_engine::{
    Engine, EngineConfig, Error, Position, QueryStream, Result, Session, StatementKind,
};

/// Something that runs statements.
pub(crate) trait Connection: Send + Sync {
    /// Runs one statement. Dropping the future or the stream cancels it.
    fn execute<'a>(&'a self, statement: &'a str) -> BoxFuture<'a, Result<QueryStream>>;

    /// Says that no statement will come any more, as far as anybody wants to hear it.
    fn close(&self) -> BoxFuture<'_, ()> {
        future::ready(()).boxed()
    }
}

/// The engine in this process.
#[derive(Debug)]
pub(crate) struct EmbeddedConnection {
    session: Session,
}

impl EmbeddedConnection {
    /// Opens the engine and one session of it.
    pub(crate) async fn open(config: EngineConfig) -> Result<Self> {
        Ok(Self { session: Engine::open(config).await?.session() })
    }
}

impl Connection for EmbeddedConnection {
    fn execute<'a>(&'a self, statement: &'a str) -> BoxFuture<'a, Result<QueryStream>> {
        Box::pin(self.session.execute(statement))
    }
}

/// A session of a coordinator.
#[derive(Debug)]
pub(crate) struct RemoteConnection {
    client: Client,
}

impl RemoteConnection {
    /// Connects, and opens a session there.
    pub(crate) async fn open(url: &str, options: &ConnectOptions) -> Result<Self> {
        match Client::connect_with(url, options).await {
            Ok(client) => Ok(Self { client }),
            Err(error) => Err(remote_error(error)),
        }
    }
}

impl Connection for RemoteConnection {
    fn execute<'a>(&'a self, statement: &'a str) -> BoxFuture<'a, Result<QueryStream>> {
        Box::pin(async move {
            let statement = self.client.execute(statement).await.map_err(remote_error)?;
            let kind = match statement.outcome().clone() {
                Outcome::Query => {
                    let schema = statement.schema();
                    let batches = statement.map_err(remote_error).boxed();
                    return Ok(QueryStream::new(schema, batches));
                }
                Outcome::Write { row_count } => StatementKind::Write { row_count },
                Outcome::Command { tag } => StatementKind::Command { tag },
            };
            // What it did is done when all of its answer has come.
            statement.collect().await.map_err(remote_error)?;
            Ok(QueryStream::done(kind))
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // A session that cannot be closed ends by itself when it was idle for long enough.
            let _ = self.client.close().await;
        })
    }
}

/// Makes the engine's error of what a coordinator, or the way there, came back with.
fn remote_error(error: skep_client::Error) -> Error {
    if error.code() == ErrorCode::Cancelled {
        return Error::Cancelled;
    }
    let position =
        error.position().map(|place| Position { line: place.line, column: place.column });
    Error::Remote {
        code: error.code(),
        message: error.message().to_owned(),
        position,
        hint: error.hint().map(str::to_owned),
        is_retryable: error.is_retryable(),
    }
}

/// Why something is not a URL.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What is wrong.
    pub(crate) message: String,
    /// What to do instead.
    pub(crate) hint: String,
}

/// Refuses what cannot be the URL of a coordinator and was probably meant as something else.
pub(crate) fn check_url(url: &str) -> Result<(), Refusal> {
    if url.contains("://") {
        return Ok(());
    }
    let hint = match url.ends_with(".sql") {
        true => format!("to run the file: skep -f {url}"),
        false if url.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => {
            format!("to connect to a coordinator: skep grpc://{url}")
        }
        false if ["coordinator", "worker", "cluster", "user"].contains(&url) => {
            format!("a role comes first and takes no statements: skep {url} --help")
        }
        false => "to run a statement: skep -c 'SELECT ...'".to_owned(),
    };
    Err(Refusal { message: format!("\"{url}\" is not a URL"), hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_url_is_told_what_it_may_have_meant() {
        assert_eq!(check_url("grpc://h:1"), Ok(()));
        for (text, hint) in [
            ("load.sql", "skep -f load.sql"),
            ("localhost:50051", "skep grpc://localhost:50051"),
            ("SELECT", "skep -c"),
        ] {
            assert!(check_url(text).unwrap_err().hint.contains(hint), "{text}");
        }
    }
}
