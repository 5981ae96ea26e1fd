//! What of a session must reach another process so that its tasks run there as they would here.
//!
//! Of every option the value that differs from the defaults, the settings of object stores as they
//! were set, and nothing else: functions and rules are the same in every process of one build, and
//! credentials of the environment are read where the task runs.
//!
//! **Invariant:** nothing shows a secret; [`fmt::Debug`] names the settings of object stores and
//! masks their values.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use datafusion::common::config::{ConfigEntry, ConfigField, ConfigOptions};
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::SessionConfig;

use crate::error::{Error, Result};
use crate::object_stores::{self, ObjectStores};
use crate::runtime::session_runtime;
use crate::session::state_with_functions;
use crate::settings::SkepSettings;

/// Defaults that depend on the machine, and so are always said.
const OF_THE_MACHINE: [&str; 2] =
    ["datafusion.execution.target_partitions", "datafusion.execution.planning_concurrency"];

/// Sets others with it, and so comes before them.
pub(crate) const OF_OTHERS: &str = "datafusion.optimizer.enable_dynamic_filter_pushdown";

/// Worked out once: it takes as long as writing a stage, and is asked for with each.
static DEFAULTS: LazyLock<BTreeMap<String, Option<String>>> =
    LazyLock::new(|| by_name(&base_options()));

/// The end of the names of those others: they are always said, or a default would be lost to it.
pub(crate) const SET_BY_IT: &str = "dynamic_filter_pushdown";

/// The settings of a session, for its tasks elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct TaskSettings {
    /// By name; no value where the default has one and the session has none.
    values: BTreeMap<String, Option<String>>,
}

impl TaskSettings {
    /// Takes the settings of the session that a context belongs to.
    pub fn of(context: &TaskContext) -> Self {
        let options = context.session_config().options();
        let mut values: BTreeMap<String, Option<String>> = by_name(options)
            .into_iter()
            .filter(|(name, value)| {
                !object_stores::is_store_setting(name)
                    && (DEFAULTS.get(name) != Some(value)
                        || OF_THE_MACHINE.contains(&name.as_str())
                        || name.ends_with(SET_BY_IT))
            })
            .collect();
        let stores = object_stores::raw_settings(options).into_iter();
        values.extend(stores.map(|(name, value)| (name, Some(value))));
        Self { values }
    }

    /// Writes the settings, with their secrets.
    ///
    /// # Errors
    /// [`Error::Internal`] if they cannot be written, which would be a defect.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(&self.values).map_err(|error| Error::Internal {
            message: format!("settings cannot be written: {error}"),
            source: None,
        })
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// [`Error::Internal`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        // The error's own text may quote what it read.
        let values = serde_json::from_slice(bytes).map_err(|error| Error::Internal {
            message: format!("settings cannot be read: {:?}", error.classify()),
            source: None,
        })?;
        Ok(Self { values })
    }

    /// Makes the context in which the session's tasks run in this process: its options and
    /// functions, this process's memory and disk, object stores of its own.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] if an option is not known here or does not take its value.
    pub fn task_context(&self, runtime: &RuntimeEnv) -> Result<TaskContext> {
        let options = self.options()?;
        let stores = ObjectStores::new();
        stores.configure(&options);
        let registry = stores as Arc<dyn ObjectStoreRegistry>;
        let state =
            state_with_functions(SessionConfig::from(options), session_runtime(runtime, registry));
        Ok(TaskContext::from(&state.build()))
    }

    fn options(&self) -> Result<ConfigOptions> {
        let mut options = base_options();
        let first = self.values.get_key_value(OF_OTHERS);
        let others = self.values.iter().filter(|(name, _)| *name != OF_OTHERS);
        for (name, value) in first.into_iter().chain(others) {
            let done = match value {
                Some(value) => options.set(name, value),
                None => options.reset(name),
            };
            done.map_err(|error| Error::InvalidSetting {
                name: name.clone(),
                message: Error::from(error).to_string(),
                hint: None,
            })?;
        }
        Ok(options)
    }
}

impl fmt::Debug for TaskSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.values.iter().map(|(name, value)| {
            let value = value.as_deref().unwrap_or("");
            (name, if object_stores::is_store_setting(name) { "***" } else { value })
        });
        f.debug_map().entries(shown).finish()
    }
}

/// The options of a session of which nothing was set.
fn base_options() -> ConfigOptions {
    let mut options = ConfigOptions::new();
    options.extensions.insert(SkepSettings::default());
    object_stores::register_settings(&mut options);
    options
}

fn by_name(options: &ConfigOptions) -> BTreeMap<String, Option<String>> {
    options.entries().into_iter().map(|ConfigEntry { key, value, .. }| (key, value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, EngineConfig, build_runtime};

    async fn context_after(statements: &[&str]) -> Arc<TaskContext> {
        let config = EngineConfig { target_partitions: Some(7), ..Default::default() };
        let session = Engine::open(config).await.unwrap().session();
        for statement in statements {
            session.execute(statement).await.unwrap().collect().await.unwrap();
        }
        session.sql("SELECT 1").await.unwrap().task_ctx().into()
    }

    fn elsewhere(settings: &TaskSettings) -> TaskContext {
        let settings = TaskSettings::from_bytes(&settings.to_bytes().unwrap()).unwrap();
        let runtime = build_runtime(&EngineConfig::default(), |pool| pool).unwrap();
        settings.task_context(&runtime).unwrap()
    }

    const SETTINGS: [&str; 11] = [
        "SET datafusion.execution.batch_size = 123",
        "SET datafusion.execution.time_zone = 'Europe/Berlin'",
        "SET datafusion.execution.parquet.pushdown_filters = true",
        "SET datafusion.optimizer.enable_dynamic_filter_pushdown = false",
        "SET datafusion.optimizer.enable_topk_dynamic_filter_pushdown = true",
        "SET datafusion.format.null = 'nichts'",
        "SET skep.max_top_k_rows = 17",
        "SET s3.secret_access_key = 'hush1'",
        "SET gs.service_account = 'hush2'",
        "SET az.account_key = 'hush3'",
        "SET http.timeout = '7 seconds'",
    ];

    #[tokio::test]
    async fn a_session_s_options_are_the_same_elsewhere() {
        for statements in [&SETTINGS[..], &[]] {
            let here = context_after(statements).await;
            let settings = TaskSettings::of(&here);
            let there = elsewhere(&settings);
            let options = |context: &TaskContext| by_name(context.session_config().options());
            assert_eq!(options(&here), options(&there));
            let raw = |context: &TaskContext| {
                object_stores::raw_settings(context.session_config().options())
            };
            assert_eq!(raw(&here), raw(&there));
            assert_eq!(TaskSettings::of(&there), settings);
            assert_eq!(there.session_config().target_partitions(), 7);
        }
    }

    #[tokio::test]
    async fn secrets_travel_and_are_not_shown() {
        let settings = TaskSettings::of(&*context_after(&SETTINGS).await);
        let raw = object_stores::raw_settings(elsewhere(&settings).session_config().options());
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert!(raw.contains(&pair("s3.secret_access_key", "hush1")), "{}", raw.len());
        assert!(raw.contains(&pair("gs.service_account", "hush2")));
        assert!(raw.contains(&pair("az.account_key", "hush3")));
        let shown = format!("{settings:?} {settings:#?}");
        assert!(shown.contains("s3.secret_access_key") && shown.contains("max_top_k_rows"));
        assert!(!shown.contains("hush"), "{shown}");
        let error = TaskSettings::from_bytes(b"{\"s3.secret\": 17}").unwrap_err();
        assert!(!error.to_string().contains("17"), "{error}");
    }

    #[tokio::test]
    async fn the_functions_of_a_session_are_there() {
        let here = context_after(&["SET datafusion.execution.time_zone = 'Asia/Tokyo'"]).await;
        let there = elsewhere(&TaskSettings::of(&here));
        assert!(!here.scalar_functions().is_empty());
        // Those that depend on a setting, as `now` and `to_timestamp`, too.
        assert_eq!(here.scalar_functions(), there.scalar_functions());
        assert_eq!(here.aggregate_functions(), there.aggregate_functions());
        assert_eq!(here.window_functions(), there.window_functions());
        let names = |context: &TaskContext| {
            let mut names: Vec<_> = context.higher_order_functions().keys().cloned().collect();
            names.sort();
            names
        };
        assert_eq!(names(&here), names(&there));
    }
}
