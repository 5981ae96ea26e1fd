//! What one user has.

use std::sync::Arc;

use datafusion::dataframe::DataFrame;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::{StreamExt, TryStreamExt};

use crate::error::Result;
use crate::query::QueryStream;

/// One user's session: temporary tables, settings, current schema.
#[derive(Clone)]
pub struct Session {
    context: SessionContext,
}

impl Session {
    pub(crate) fn new(runtime: Arc<RuntimeEnv>) -> Self {
        Self { context: SessionContext::new_with_config_rt(SessionConfig::new(), runtime) }
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// Whatever is wrong with the statement.
    pub async fn execute(&self, statement: &str) -> Result<QueryStream> {
        let frame = self.sql(statement).await?;
        self.execute_dataframe(frame).await
    }

    /// Plans one query.
    ///
    /// # Errors
    /// Whatever is wrong with the query.
    pub async fn sql(&self, query: &str) -> Result<DataFrame> {
        Ok(self.context.sql(query).await?)
    }

    /// Runs a DataFrame.
    ///
    /// # Errors
    /// Whatever keeps it from starting.
    pub async fn execute_dataframe(&self, frame: DataFrame) -> Result<QueryStream> {
        let stream = frame.execute_stream().await?;
        Ok(QueryStream::new(stream.schema(), stream.map_err(Into::into).boxed()))
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}
