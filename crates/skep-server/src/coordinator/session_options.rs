//! The options of a session, as Flight's actions have them.
//!
//! `catalog` and `schema` are where names are looked up; `string_view` is whether results may have
//! views; any other is a setting, as `SET` and `SHOW SETTINGS` have it.

use std::collections::HashMap;

use datafusion::arrow::array::cast::AsArray;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::error::DataFusionError;
use futures::TryStreamExt;
use skep_engine::Error;
use skep_proto::client::session_option_value::OptionValue;
use skep_proto::client::set_session_options_result::{Error as OptionError, ErrorValue};
use skep_proto::client::{
    GetSessionOptionsResult, SessionOptionValue, SetSessionOptionsRequest, SetSessionOptionsResult,
};
use tonic::Status;
use tracing::debug;

use super::queries::reported;
use super::sessions::{OpenSession, STRING_VIEW};

const CATALOG: &str = "catalog";
const SCHEMA: &str = "schema";

/// Sets options; those that cannot be set are in the answer, the others are set.
pub(super) async fn set_options(
    session: &OpenSession,
    request: SetSessionOptionsRequest,
) -> SetSessionOptionsResult {
    let mut options: Vec<_> = request.session_options.into_iter().collect();
    // The same order each time: of two options that exclude each other the later wins.
    options.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
    let mut errors = HashMap::new();
    for (name, value) in options {
        if let Err(error) = set_option(session, &name, value.option_value).await {
            errors.insert(name, OptionError { value: error.into() });
        }
    }
    SetSessionOptionsResult { errors }
}

async fn set_option(
    session: &OpenSession,
    name: &str,
    value: Option<OptionValue>,
) -> Result<(), ErrorValue> {
    let text = value.map(text).transpose()?;
    match (name, text) {
        (CATALOG, None) => Ok(()),
        (CATALOG, Some(catalog)) if catalog == session.session.catalog_name() => Ok(()),
        (CATALOG, Some(_)) => Err(ErrorValue::InvalidValue),
        (STRING_VIEW, text) => {
            let takes = match text.as_deref().map(str::to_ascii_lowercase).as_deref() {
                None | Some("false") => false,
                Some("true") => true,
                Some(_) => return Err(ErrorValue::InvalidValue),
            };
            session.set_takes_views(takes);
            Ok(())
        }
        (SCHEMA, None) => run(session, "USE public").await,
        (SCHEMA, Some(schema)) => run(session, &format!("USE {}", quoted(&schema, '"'))).await,
        (name, _) if !is_setting_name(name) => Err(ErrorValue::InvalidName),
        (name, None) => run(session, &format!("RESET {name}")).await,
        (name, Some(value)) => {
            run(session, &format!("SET {name} = {}", quoted(&value, '\''))).await
        }
    }
}

/// Returns a value as `SET` takes it.
fn text(value: OptionValue) -> Result<String, ErrorValue> {
    Ok(match value {
        OptionValue::StringValue(text) => text,
        OptionValue::BoolValue(value) => value.to_string(),
        OptionValue::Int64Value(value) => value.to_string(),
        OptionValue::DoubleValue(value) => value.to_string(),
        OptionValue::StringListValue(_) => return Err(ErrorValue::InvalidValue),
    })
}

fn quoted(text: &str, quote: char) -> String {
    let doubled = format!("{quote}{quote}");
    format!("{quote}{}{quote}", text.replace(quote, &doubled))
}

/// Anything else would be more than a name in the statement.
fn is_setting_name(name: &str) -> bool {
    let is_part = |part: &str| {
        let mut characters = part.chars();
        characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
            && characters.all(|next| next.is_ascii_alphanumeric() || next == '_')
    };
    name.split('.').all(is_part)
}

async fn run(session: &OpenSession, statement: &str) -> Result<(), ErrorValue> {
    match session.session.execute(statement).await {
        Ok(_) => Ok(()),
        Err(error) => {
            debug!(%error, "an option was not set");
            Err(match error {
                Error::NotFound { kind: "setting", .. } => ErrorValue::InvalidName,
                Error::NotFound { .. } | Error::InvalidSetting { .. } => ErrorValue::InvalidValue,
                _ => ErrorValue::Error,
            })
        }
    }
}

/// Returns all options with their values; secrets are masked, as `SHOW SETTINGS` does.
///
/// # Errors
/// Whatever `SHOW SETTINGS` fails of.
pub(super) async fn options(session: &OpenSession) -> Result<GetSessionOptionsResult, Status> {
    let said = |text: &str| SessionOptionValue {
        option_value: Some(OptionValue::StringValue(text.to_owned())),
    };
    let mut session_options = HashMap::from([
        (CATALOG.to_owned(), said(session.session.catalog_name())),
        (SCHEMA.to_owned(), said(&session.session.current_schema())),
        (
            STRING_VIEW.to_owned(),
            SessionOptionValue {
                option_value: Some(OptionValue::BoolValue(session.takes_views())),
            },
        ),
    ]);
    let settings =
        async { session.session.execute("SHOW SETTINGS").await?.try_collect::<Vec<_>>().await };
    for batch in settings.await.map_err(|error| reported(&error, 0))? {
        let column = |idx: usize| {
            let text = cast(batch.column(idx), &DataType::Utf8).map_err(DataFusionError::from);
            text.map_err(|error| reported(&error.into(), 0))
        };
        let (names, values) = (column(0)?, column(1)?);
        for (name, value) in names.as_string::<i32>().iter().zip(values.as_string::<i32>()) {
            if let Some(name) = name {
                session_options.insert(name.to_owned(), said(value.unwrap_or_default()));
            }
        }
    }
    Ok(GetSessionOptionsResult { session_options })
}

#[cfg(test)]
mod tests {
    use skep_engine::{Engine, EngineConfig};

    use super::*;

    async fn session() -> OpenSession {
        let config = EngineConfig { memory_limit: Some(64 << 20), ..EngineConfig::default() };
        let session = Engine::open(config).await.unwrap().session();
        OpenSession::new("token".to_owned(), 1, session)
    }

    async fn set(session: &OpenSession, name: &str, value: Option<OptionValue>) -> Option<i32> {
        let value = SessionOptionValue { option_value: value };
        let session_options = HashMap::from([(name.to_owned(), value)]);
        let result = set_options(session, SetSessionOptionsRequest { session_options }).await;
        result.errors.get(name).map(|error| error.value)
    }

    fn said(text: &str) -> Option<OptionValue> {
        Some(OptionValue::StringValue(text.to_owned()))
    }

    #[tokio::test]
    async fn options_are_set_and_told() {
        let session = session().await;
        session.session.execute("CREATE SCHEMA \"it's\"").await.unwrap();
        let batch_size = "datafusion.execution.batch_size";
        assert_eq!(set(&session, "catalog", said("skep")).await, None);
        assert_eq!(set(&session, "schema", said("it's")).await, None);
        assert_eq!(set(&session, batch_size, Some(OptionValue::Int64Value(77))).await, None);
        assert_eq!(set(&session, STRING_VIEW, Some(OptionValue::BoolValue(true))).await, None);
        let told = options(&session).await.unwrap().session_options;
        assert_eq!(told["catalog"].option_value, said("skep"));
        assert_eq!(told["schema"].option_value, said("it's"));
        assert_eq!(told[batch_size].option_value, said("77"));
        assert!(session.takes_views());
        assert_eq!(set(&session, batch_size, None).await, None);
        assert_eq!(set(&session, "schema", None).await, None);
        let told = options(&session).await.unwrap().session_options;
        assert_eq!(told["schema"].option_value, said("public"));
        assert_eq!(told[batch_size].option_value, said("8192"));
    }

    #[tokio::test]
    async fn what_cannot_be_set_is_told_apart() {
        let session = session().await;
        let name = Some(ErrorValue::InvalidName.into());
        let value = Some(ErrorValue::InvalidValue.into());
        assert_eq!(set(&session, "catalog", said("other")).await, value);
        assert_eq!(set(&session, "schema", said("nowhere")).await, value);
        assert_eq!(set(&session, "datafusion.execution.nothing", said("1")).await, name);
        assert_eq!(set(&session, "a = 1; DROP TABLE t", said("1")).await, name);
        assert_eq!(set(&session, "datafusion.execution.batch_size", said("much")).await, value);
        assert_eq!(set(&session, STRING_VIEW, said("perhaps")).await, value);
    }
}
