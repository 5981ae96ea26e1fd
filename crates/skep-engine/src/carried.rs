//! What of a session can be told to another, in place of it: where it looks names up, and what was
//! set.
//!
//! Not what only the session has: its temporary tables and views, and credentials, which are not
//! written down. A session with some of those cannot be carried over, and says so: in another, its
//! statements could mean something else without an error.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use datafusion::common::config::ConfigOptions;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::object_stores;
use crate::session::Session;
use crate::sql::settings::{DEFAULT_SCHEMA, TARGET_PARTITIONS};
use crate::task_settings::{OF_OTHERS, SET_BY_IT};

/// What another session needs to be told to be as one was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedSession {
    /// Where bare names are looked up.
    pub schema: String,
    /// What was set, by name.
    pub settings: BTreeMap<String, String>,
    /// What the session has that no other can have; nothing if it can be carried over.
    pub own: Option<String>,
}

impl Session {
    /// Returns what another session has to be told.
    pub fn carried(&self) -> CarriedSession {
        let state = self.inner.context.state_ref();
        let state = state.read();
        let options = state.config_options();
        let mut own = None;
        if !object_stores::raw_settings(options).is_empty() {
            own = Some("settings of object stores".to_owned());
        }
        let (now, before) = (by_name(options), by_name(&self.inner.defaults));
        let has_own_width = self.inner.has_own_width.load(Ordering::Relaxed);
        let sets_others = now.get(OF_OTHERS) != before.get(OF_OTHERS);
        let mut settings = BTreeMap::new();
        for (name, value) in now {
            let is_set = before.get(&name) != Some(&value)
                || (name == TARGET_PARTITIONS && has_own_width)
                || (name.ends_with(SET_BY_IT) && sets_others);
            if !is_set || name == DEFAULT_SCHEMA || object_stores::is_store_setting(&name) {
                continue;
            }
            match value {
                Some(value) => drop(settings.insert(name, value)),
                // There are no words for it.
                None => own = Some(format!("no {name}")),
            }
        }
        let schema = options.catalog.default_schema.clone();
        drop(state);
        if self.inner.catalog.has_temporaries() {
            own = Some("temporary tables or views".to_owned());
        }
        CarriedSession { schema, settings, own }
    }

    /// Makes a session of which nothing was set as another one was.
    ///
    /// # Errors
    /// Whatever cannot be set here, or is not there any more; then some of it may be set.
    pub async fn carry_over(&self, carried: &CarriedSession) -> Result<()> {
        if let Some(own) = &carried.own {
            return Err(Error::plan(format!("it had {own}")));
        }
        let settings = &carried.settings;
        let first = settings.get_key_value(OF_OTHERS);
        let others = settings.iter().filter(|(name, _)| *name != OF_OTHERS);
        for (name, value) in first.into_iter().chain(others) {
            self.set(name, value).await?;
        }
        self.use_schema_named(&carried.schema)?;
        match self.carried() == *carried {
            true => Ok(()),
            // As where the coordinator's own configuration has changed.
            false => Err(Error::plan("its settings would be others")),
        }
    }
}

fn by_name(options: &ConfigOptions) -> BTreeMap<String, Option<String>> {
    options.entries().into_iter().map(|entry| (entry.key, entry.value)).collect()
}

#[cfg(test)]
mod tests {
    use crate::{Engine, EngineConfig};

    use super::*;

    async fn engine() -> Engine {
        let config = EngineConfig { memory_limit: Some(64 << 20), ..EngineConfig::default() };
        Engine::open(config).await.unwrap()
    }

    async fn run(session: &Session, statement: &str) {
        session.execute(statement).await.unwrap().collect().await.unwrap();
    }

    #[tokio::test]
    async fn what_was_set_is_set_in_another() {
        let engine = engine().await;
        let session = engine.session();
        let fresh = session.carried();
        assert_eq!(fresh, CarriedSession { schema: "public".to_owned(), ..Default::default() });
        let width = session.inner.defaults.execution.target_partitions;
        for statement in [
            "CREATE SCHEMA sales".to_owned(),
            "USE sales".to_owned(),
            "SET datafusion.execution.batch_size = 77".to_owned(),
            "SET datafusion.execution.time_zone = 'Europe/Berlin'".to_owned(),
            "SET skep.statement_timeout = '90s'".to_owned(),
            "SET datafusion.optimizer.enable_dynamic_filter_pushdown = false".to_owned(),
            "SET datafusion.optimizer.enable_join_dynamic_filter_pushdown = true".to_owned(),
            // The default, but by choice.
            format!("SET datafusion.execution.target_partitions = {width}"),
        ] {
            run(&session, &statement).await;
        }
        let carried = session.carried();
        assert_eq!(carried.schema, "sales");
        assert!(carried.settings.len() > 5 && carried.own.is_none(), "{carried:?}");
        let other = engine.session();
        other.carry_over(&carried).await.unwrap();
        assert_eq!(other.carried(), carried);
        assert_eq!(
            other.inner.context.state_ref().read().config_options().entries().len(),
            session.inner.context.state_ref().read().config_options().entries().len(),
        );
        run(&session, "RESET ALL").await;
        run(&session, "USE public").await;
        assert_eq!(session.carried(), fresh);
    }

    #[tokio::test]
    async fn what_only_the_session_has_keeps_it_from_being_carried_over() {
        let engine = engine().await;
        let session = engine.session();
        run(&session, "CREATE TEMPORARY TABLE t AS SELECT 1 AS x").await;
        assert_eq!(session.carried().own.as_deref(), Some("temporary tables or views"));
        let error = engine.session().carry_over(&session.carried()).await.unwrap_err();
        assert!(error.to_string().contains("temporary tables"), "{error}");
        run(&session, "DROP TABLE t").await;
        assert_eq!(session.carried().own, None);
        run(&session, "SET s3.secret_access_key = 'hush'").await;
        let carried = session.carried();
        assert_eq!(carried.own.as_deref(), Some("settings of object stores"));
        assert!(!format!("{carried:?}").contains("hush"));
    }

    #[tokio::test]
    async fn what_is_not_there_any_more_is_an_error() {
        let engine = engine().await;
        let session = engine.session();
        let carried = CarriedSession { schema: "gone".to_owned(), ..Default::default() };
        assert!(matches!(session.carry_over(&carried).await, Err(Error::NotFound { .. })));
        let settings = [("datafusion.execution.nothing".to_owned(), "1".to_owned())].into();
        let carried = CarriedSession { settings, ..session.carried() };
        assert!(matches!(session.carry_over(&carried).await, Err(Error::NotFound { .. })));
    }
}
