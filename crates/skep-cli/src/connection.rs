//! The seam between the prompt and whatever runs its statements.
//!
//! Today that is the engine in this process; a remote coordinator has to offer the same and nothing
//! more. So the rest of this crate reaches an engine only through [`Connection`].

use futures::future::BoxFuture;
use skep_engine::{Engine, EngineConfig, QueryStream, Result, Session};

/// Something that runs statements.
pub(crate) trait Connection: Send + Sync {
    /// Runs one statement. Dropping the future or the stream cancels it.
    fn execute<'a>(&'a self, statement: &'a str) -> BoxFuture<'a, Result<QueryStream>>;
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

/// Why a URL cannot be connected to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What is wrong.
    pub(crate) message: String,
    /// What to do instead.
    pub(crate) hint: String,
}

/// Refuses to connect to `url`, which is remote, or is no URL at all.
pub(crate) fn refuse_remote(url: &str) -> Refusal {
    if url.contains("://") {
        let message = format!("cannot connect to {}: not supported yet", without_password(url));
        let hint = "leave the URL out to run statements in this process".to_owned();
        return Refusal { message, hint };
    }
    let hint = match url.ends_with(".sql") {
        true => format!("to run the file: skep -f {url}"),
        false => "to run a statement: skep -c 'SELECT ...'".to_owned(),
    };
    Refusal { message: format!("\"{url}\" is not a URL"), hint }
}

/// Returns the URL without what stands between `user:` and `@`, which must not reach a screen.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.split('/').next().unwrap_or(rest);
    let Some((user, _)) = authority.rsplit_once('@') else { return url.to_owned() };
    let Some((name, _)) = user.split_once(':') else { return url.to_owned() };
    format!("{scheme}://{name}:***{}", &rest[user.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_password("grpc://h:1/a@b"), "grpc://h:1/a@b");
        assert_eq!(without_password("grpc://me@h:1"), "grpc://me@h:1");
        assert_eq!(without_password("grpc://me:p@ss@h:1/x"), "grpc://me:***@h:1/x");
    }
}
