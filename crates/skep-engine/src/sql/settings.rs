//! `SET`, `RESET`, `SHOW SETTINGS` and `USE`.

use std::sync::atomic::Ordering;

use datafusion::arrow::array::timezone::Tz;
use datafusion::common::config::{ConfigEntry, ConfigField};
use datafusion::logical_expr::{LogicalPlan, SetVariable, Statement as PlanCommand};
use datafusion::sql::sqlparser::ast::ObjectName;

use crate::catalog::SYSTEM;
use crate::error::{Error, Result, closest};
use crate::object_stores;
use crate::query::QueryStream;
use crate::session::{Session, command_done};
use crate::sql::describe::text_table;
use crate::sql::parser::TIME_ZONE;
use crate::sql::show::matches;

pub(crate) const TARGET_PARTITIONS: &str = "datafusion.execution.target_partitions";
pub(crate) const DEFAULT_SCHEMA: &str = "datafusion.catalog.default_schema";

/// Settings whose change would be ignored or would break the session, with what to do instead.
const FIXED: [(&str, &str); 6] = [
    ("datafusion.catalog.default_catalog", "there is one catalog, skep"),
    ("datafusion.catalog.information_schema", "it is always there"),
    ("datafusion.catalog.create_default_catalog_and_schema", "they are always there"),
    ("datafusion.catalog.location", "CREATE EXTERNAL TABLE names a location"),
    ("datafusion.catalog.format", "CREATE EXTERNAL TABLE names a format"),
    ("datafusion.sql_parser.dialect", "skep reads one dialect, which takes Spark's words too"),
];

impl Session {
    /// `SET name = value`, for this session.
    pub(crate) async fn set(&self, name: &str, value: &str) -> Result<QueryStream> {
        if name == DEFAULT_SCHEMA {
            return self.use_schema_named(value);
        }
        refuse_fixed(name)?;
        self.check_known(name)?;
        if object_stores::is_store_setting(name) {
            // It would lead others' tables to another server.
            self.inner.policy.require_writer("a setting of object stores")?;
        }
        if name == TIME_ZONE {
            check_time_zone(value)?;
        }
        self.apply(name, value).await?;
        if name == TARGET_PARTITIONS {
            // DataFusion takes 0 for "you choose".
            let is_own = value.trim().parse() != Ok(0_usize);
            self.inner.has_own_width.store(is_own, Ordering::Relaxed);
        }
        Ok(command_done("SET"))
    }

    /// `RESET name`, or all settings.
    pub(crate) async fn reset(&self, name: Option<&str>) -> Result<QueryStream> {
        match name {
            None => {
                let state = self.inner.context.state_ref();
                *state.write().config_mut().options_mut() = self.inner.defaults.clone();
                self.inner.has_own_width.store(false, Ordering::Relaxed);
                self.settings_changed()?;
            }
            Some(name) => {
                refuse_fixed(name)?;
                self.check_known(name)?;
                self.reset_one(name).await?;
                if name == TARGET_PARTITIONS {
                    self.inner.has_own_width.store(false, Ordering::Relaxed);
                }
            }
        }
        Ok(command_done("RESET"))
    }

    async fn reset_one(&self, name: &str) -> Result<()> {
        let default = self
            .inner
            .defaults
            .entries()
            .into_iter()
            .find(|entry| entry.key == name)
            .and_then(|entry| entry.value);
        if let Some(value) = default {
            return self.apply(name, &value).await;
        }
        let state = self.inner.context.state_ref();
        let mut state = state.write();
        let options = state.config_mut().options_mut();
        if !object_stores::reset_setting(options, name) {
            options.reset(name)?;
        }
        drop(state);
        self.settings_changed()
    }

    /// Goes through DataFusion, which makes functions anew that depend on a setting.
    async fn apply(&self, name: &str, value: &str) -> Result<()> {
        let set = SetVariable { variable: name.to_owned(), value: value.to_owned() };
        let plan = LogicalPlan::Statement(PlanCommand::SetVariable(set));
        let outcome = self.inner.context.execute_logical_plan(plan).await;
        outcome.map_err(|error| match Error::from(error) {
            error @ (Error::NotFound { .. } | Error::InvalidSetting { .. }) => error,
            other => Error::InvalidSetting {
                name: name.to_owned(),
                message: format!("it cannot be '{value}': {other}"),
                hint: other.hint().map(str::to_owned),
            },
        })?;
        self.settings_changed()
    }

    fn settings_changed(&self) -> Result<()> {
        let state = self.inner.context.state_ref();
        self.inner.stores.configure(state.read().config_options());
        Ok(())
    }

    fn check_known(&self, name: &str) -> Result<()> {
        // Stores check their own keys; there are too many to list.
        if ["s3.", "gs.", "az.", "http."].iter().any(|prefix| name.starts_with(prefix)) {
            return Ok(());
        }
        let entries = self.inner.defaults.entries();
        if entries.iter().any(|entry| entry.key == name) {
            return Ok(());
        }
        let tail = name.rsplit('.').next().unwrap_or(name);
        let hint = closest(name, entries.iter().map(|entry| entry.key.as_str()))
            .or_else(|| {
                entries
                    .iter()
                    .map(|entry| entry.key.as_str())
                    .find(|key| key.rsplit('.').next() == Some(tail))
            })
            .map(|key| format!("did you mean \"{key}\"? SHOW SETTINGS lists all"))
            .or_else(|| Some("SHOW SETTINGS lists all".to_owned()));
        Err(Error::NotFound { kind: "setting", name: name.to_owned(), position: None, hint })
    }

    /// `SHOW SETTINGS`. Shape: `name`, `value` (empty for none), `description`.
    pub(crate) fn show_settings(&self, pattern: Option<&str>) -> Result<QueryStream> {
        let rows = self
            .setting_entries()
            .into_iter()
            .filter(|entry| matches(pattern, &entry.key))
            .map(|entry| {
                let description = entry.description.split_whitespace().collect::<Vec<_>>();
                [entry.key, entry.value.unwrap_or_default(), description.join(" ")]
            })
            .collect();
        text_table(["name", "value", "description"], rows)
    }

    /// `SHOW name`.
    pub(crate) fn show_setting(&self, name: &str) -> Result<QueryStream> {
        self.check_known(name)?;
        let value = self
            .setting_entries()
            .into_iter()
            .find(|entry| entry.key == name)
            .and_then(|entry| entry.value)
            .unwrap_or_default();
        text_table(["name", "value"], vec![[name.to_owned(), value]])
    }

    /// Lists the settings with which a query would run now.
    fn setting_entries(&self) -> Vec<ConfigEntry> {
        let mut entries = self.state().config_options().entries();
        entries.sort_by(|left, right| left.key.cmp(&right.key));
        entries
    }

    /// `USE schema`.
    pub(crate) fn use_schema(&self, schema: &ObjectName) -> Result<QueryStream> {
        self.use_schema_named(&super::ddl::schema_name(schema)?)
    }

    pub(crate) fn use_schema_named(&self, name: &str) -> Result<QueryStream> {
        let snapshot = self.inner.catalog.persistent().snapshot()?;
        let is_system = name == SYSTEM;
        if !snapshot.schemas.contains_key(name) && !is_system {
            let known = snapshot.schemas.keys().map(String::as_str);
            let error = Error::not_found("schema", name, known);
            return Err(self.inner.catalog.system().explain_missing(error));
        }
        let state = self.inner.context.state_ref();
        state.write().config_mut().options_mut().catalog.default_schema = name.to_owned();
        Ok(command_done("USE"))
    }
}

/// DataFusion takes any text, and fails in each query after.
fn check_time_zone(value: &str) -> Result<()> {
    match value.parse::<Tz>() {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::InvalidSetting {
            name: TIME_ZONE.to_owned(),
            message: format!("there is no time zone \"{value}\""),
            hint: Some(
                "write a name such as Europe/Berlin, or an offset such as +02:00".to_owned(),
            ),
        }),
    }
}

fn refuse_fixed(name: &str) -> Result<()> {
    if name.starts_with("datafusion.runtime.") {
        return Err(Error::InvalidSetting {
            name: name.to_owned(),
            message: "it belongs to the process".to_owned(),
            hint: Some("start skep with --memory or --spill-dir".to_owned()),
        });
    }
    match FIXED.iter().find(|(fixed, _)| *fixed == name) {
        Some((_, hint)) => Err(Error::InvalidSetting {
            name: name.to_owned(),
            message: "it cannot be changed".to_owned(),
            hint: Some((*hint).to_owned()),
        }),
        None => Ok(()),
    }
}
