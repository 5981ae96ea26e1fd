//! Where a session looks names up, as drivers say it that can say nothing but headers.
//!
//! JDBC's driver makes a header of each parameter of its URL that it does not know, and says it with
//! every call. So the first call that says one counts; later ones do not undo a `USE`.

use skep_engine::Error;
use skep_proto::ErrorCode;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::queries::reported;
use super::sessions::OpenSession;
use crate::status::refuse;

const CATALOG: &str = "catalog";
const SCHEMA: &str = "schema";
/// To some the one, to some the other.
const DATABASE: &str = "database";

/// What the headers of a call say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    catalog: Option<String>,
    schema: Option<String>,
    database: Option<String>,
}

impl Place {
    /// Reads the headers of a call.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for one that is no text.
    pub(super) fn of(headers: &MetadataMap) -> Result<Self, Status> {
        let said = |name: &str| match headers.get(name).map(|value| value.to_str()) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text.to_owned()).filter(|text| !text.is_empty())),
            Some(Err(_not_ascii)) => Err(refuse(
                ErrorCode::InvalidArgument,
                format!("the header \"{name}\" is no text"),
                "headers are ASCII; USE names a schema in any",
            )),
        };
        Ok(Self { catalog: said(CATALOG)?, schema: said(SCHEMA)?, database: said(DATABASE)? })
    }

    /// Tells whether nothing is said.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Makes a session look names up here.
    ///
    /// # Errors
    /// `NOT_FOUND` for a catalog or schema that there is not.
    pub(super) fn apply(&self, session: &OpenSession) -> Result<(), Status> {
        let session = &session.session;
        let known = session.catalog_name();
        if let Some(catalog) = self.catalog.as_ref().filter(|catalog| *catalog != known) {
            return Err(no_catalog(catalog, known));
        }
        let database = self.database.as_ref().filter(|database| *database != known);
        let schema = match (&self.schema, database) {
            (Some(schema), Some(database)) if schema != database => {
                return Err(no_catalog(database, known));
            }
            (Some(schema), _) => schema,
            (None, Some(database)) => database,
            (None, None) => return Ok(()),
        };
        session.set_current_schema(schema).map_err(|error: Error| reported(&error, 0))
    }
}

fn no_catalog(name: &str, known: &str) -> Status {
    refuse(
        ErrorCode::NotFound,
        format!("catalog \"{name}\" not found"),
        &format!("there is one catalog, {known}; name a schema by \"{SCHEMA}\""),
    )
}

#[cfg(test)]
mod tests {
    use skep_engine::{Engine, EngineConfig};
    use tonic::Code;

    use super::*;

    fn place(said: &[(&'static str, &str)]) -> Place {
        let mut headers = MetadataMap::new();
        for (name, value) in said {
            headers.insert(*name, value.parse().unwrap());
        }
        Place::of(&headers).unwrap()
    }

    async fn session() -> OpenSession {
        let config = EngineConfig { memory_limit: Some(64 << 20), ..EngineConfig::default() };
        let session = Engine::open(config).await.unwrap().session();
        session.execute("CREATE SCHEMA sales").await.unwrap();
        session.execute("CREATE SCHEMA other").await.unwrap();
        OpenSession::new("token".to_owned(), 1, session)
    }

    #[tokio::test]
    async fn the_first_that_is_said_counts() {
        let session = session().await;
        let current = || session.session.current_schema();
        session.begin_in(&place(&[])).unwrap();
        assert_eq!(current(), "public");
        session.begin_in(&place(&[("catalog", "skep"), ("schema", "sales")])).unwrap();
        assert_eq!(current(), "sales");
        session.session.execute("USE public").await.unwrap();
        session.begin_in(&place(&[("schema", "other")])).unwrap();
        assert_eq!(current(), "public");
    }

    #[tokio::test]
    async fn a_database_is_the_catalog_or_a_schema() {
        for (said, schema) in [
            (&[("database", "sales")][..], "sales"),
            (&[("database", "skep")], "public"),
            (&[("database", "skep"), ("schema", "sales")], "sales"),
            (&[("database", "sales"), ("schema", "sales")], "sales"),
            (&[("catalog", "skep"), ("database", "sales")], "sales"),
        ] {
            let session = session().await;
            session.begin_in(&place(said)).unwrap();
            assert_eq!(session.session.current_schema(), schema, "{said:?}");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_refused_until_it_is() {
        for said in [
            &[("catalog", "other")][..],
            &[("schema", "nowhere")],
            &[("database", "nowhere")],
            &[("database", "other"), ("schema", "sales")],
        ] {
            let session = session().await;
            for _ in 0..2 {
                let refused = session.begin_in(&place(said)).unwrap_err();
                assert_eq!(refused.code(), Code::NotFound, "{said:?}");
            }
            assert_eq!(session.session.current_schema(), "public", "{said:?}");
        }
    }
}
