//! The configuration as a TOML file.
//!
//! A table of keys for each role says what each sets and how its value reads. So an unknown key is
//! found, and told from what it probably meant; and no key can be read and then forgotten.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_engine::read_duration;
use toml::{Table, Value};

use super::{CoordinatorConfig, WorkerConfig};
use crate::error::{Error, Result};

/// What a configuration file says for a role; what it does not say stays as it was.
#[derive(Debug)]
pub struct ConfigFile<C: Keyed> {
    path: PathBuf,
    entries: Vec<(&'static Key<C>, Value)>,
}

/// A configuration that a file can set.
pub trait Keyed: Sized + 'static {
    /// All that can be set.
    const KEYS: &'static [Key<Self>];
}

/// How near a name must be to a known one to be taken for it.
const LIKENESS: f64 = 0.8;

/// One thing that a file can set.
#[derive(Debug)]
pub struct Key<C> {
    /// With its section: `scheduler.max_attempts`.
    name: &'static str,
    set: fn(&mut C, &Value) -> Result<(), String>,
}

macro_rules! keys {
    ($($name:literal => $($field:ident).+ : $read:ident),* $(,)?) => {
        &[$(Key {
            name: $name,
            set: |config, value| {
                config.$($field).+ = $read(value)?;
                Ok(())
            },
        }),*]
    };
}

impl Keyed for CoordinatorConfig {
    const KEYS: &'static [Key<Self>] = keys! {
        "listen" => listen: text,
        "advertise" => advertise: some_text,
        "http" => http: some_text,
        "insecure" => is_insecure: boolean,
        "token" => token: some_text,
        "users" => users: some_path,
        "token_lifetime" => token_lifetime: duration,
        "allowed_roots" => engine.allowed_roots: texts,
        "tls.cert" => tls.cert: some_path,
        "tls.key" => tls.key: some_path,
        "tls.ca" => tls.ca: some_path,
        "tls.client_ca" => tls.client_ca: some_path,
        "tls.server_name" => tls.server_name: some_text,
        "data_dir" => engine.data_dir: some_path,
        "spill_dir" => engine.spill_dir: some_path,
        "spill_limit_bytes" => engine.spill_limit: number,
        "memory_bytes" => engine.memory_limit: some_number,
        "protected_cache_bytes" => engine.protected_cache: whole,
        "partitions" => engine.target_partitions: some_number,
        "statement_timeout" => engine.statement_timeout: some_duration,
        "drain_timeout" => drain_timeout: duration,
        "sessions.max_count" => sessions.max_count: number,
        "sessions.idle_timeout" => sessions.idle_timeout: duration,
        "sessions.left_timeout" => sessions.left_timeout: duration,
        "results.max_pending_count" => results.max_pending_count: number,
        "results.fetch_timeout" => results.fetch_timeout: duration,
        "results.memory_bytes" => results.memory_bytes: number,
        "results.message_bytes" => results.message_bytes: number,
        "results.ticket_timeout" => results.ticket_timeout: duration,
        "results.prepared_timeout" => results.prepared_timeout: duration,
        "results.max_statement_bytes" => results.max_statement_bytes: number,
        "results.max_parameter_bytes" => results.max_parameter_bytes: number,
        "grpc.keepalive_interval" => grpc.keepalive_interval: duration,
        "grpc.keepalive_timeout" => grpc.keepalive_timeout: duration,
        "grpc.stream_window_bytes" => grpc.stream_window_bytes: number,
        "grpc.connection_window_bytes" => grpc.connection_window_bytes: number,
        "grpc.max_message_bytes" => grpc.max_message_bytes: number,
        "grpc.max_connection_count" => grpc.max_connection_count: number,
        "grpc.max_newcomer_count" => grpc.max_newcomer_count: number,
        "grpc.silence_timeout" => grpc.silence_timeout: duration,
        "grpc.handshake_timeout" => grpc.handshake_timeout: duration,
        "planner.small_query_bytes" => planner.small_query_bytes: whole,
        "planner.min_scan_bytes_per_task" => planner.min_scan_bytes_per_task: whole,
        "scheduler.heartbeat_interval" => heartbeat_interval: duration,
        "scheduler.heartbeat_timeout" => scheduler.membership.heartbeat_timeout: duration,
        "scheduler.reconnect_grace" => scheduler.membership.reconnect_grace: duration,
        "scheduler.remembered_worker_count" => scheduler.membership.remembered_worker_count: number,
        "scheduler.running_query_count" => scheduler.running_query_count: number,
        "scheduler.queued_query_count" => scheduler.queued_query_count: number,
        "scheduler.coordinator_slot_count" => scheduler.coordinator_slot_count: number,
        "scheduler.max_attempts" => scheduler.max_attempts: number,
        "scheduler.max_restarts" => scheduler.max_restarts: number,
        "scheduler.max_refusals" => scheduler.max_refusals: number,
        "scheduler.refusal_window" => scheduler.refusal_window: duration,
        "scheduler.quarantine" => scheduler.quarantine: duration,
        "scheduler.locality_wait" => scheduler.locality_wait: duration,
        "scheduler.cached_locality_wait" => scheduler.cached_locality_wait: duration,
        "scheduler.locality_share_percent" => scheduler.locality_share_percent: number,
        "scheduler.locality_min_bytes" => scheduler.locality_min_bytes: whole,
        "scheduler.no_worker_timeout" => scheduler.no_worker_timeout: duration,
        "scheduler.retained_generations" => scheduler.retained_generations: whole,
        "scheduler.result_window_bytes" => scheduler.result_window_bytes: number,
        "scheduler.max_tasks_per_message" => scheduler.max_tasks_per_message: number,
        "scheduler.remembered_query_count" => scheduler.remembered_query_count: number,
        "scheduler.remembered_task_count" => scheduler.remembered_task_count: number,
    };
}

impl Keyed for WorkerConfig {
    const KEYS: &'static [Key<Self>] = keys! {
        "coordinator" => coordinator: text,
        "listen" => listen: text,
        "advertise" => advertise: some_text,
        "insecure" => is_insecure: boolean,
        "token" => token: some_text,
        "slots" => slot_count: number,
        "memory_bytes" => memory_limit: some_number,
        "partition_memory_bytes" => partition_memory_limit: some_number,
        "protected_cache_bytes" => protected_cache: whole,
        "data_dir" => data_dir: some_path,
        "spill_dir" => spill_dir: some_path,
        "drain_timeout" => drain_timeout: duration,
        "tls.cert" => tls.cert: some_path,
        "tls.key" => tls.key: some_path,
        "tls.ca" => tls.ca: some_path,
        "tls.client_ca" => tls.client_ca: some_path,
        "tls.server_name" => tls.server_name: some_text,
        "grpc.keepalive_interval" => grpc.keepalive_interval: duration,
        "grpc.keepalive_timeout" => grpc.keepalive_timeout: duration,
        "grpc.stream_window_bytes" => grpc.stream_window_bytes: number,
        "grpc.connection_window_bytes" => grpc.connection_window_bytes: number,
        "grpc.max_message_bytes" => grpc.max_message_bytes: number,
        "grpc.max_connection_count" => grpc.max_connection_count: number,
        "grpc.max_newcomer_count" => grpc.max_newcomer_count: number,
        "grpc.silence_timeout" => grpc.silence_timeout: duration,
        "grpc.handshake_timeout" => grpc.handshake_timeout: duration,
    };
}

impl<C: Keyed> ConfigFile<C> {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::ReadConfig`] if there is none; [`Error::InvalidConfig`] if it is no TOML, or has a
    /// key that is not known.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .map_err(|source| Error::ReadConfig { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        let invalid =
            |message: String, hint| Error::InvalidConfig { path: path.to_owned(), message, hint };
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            invalid(format!("not TOML: {}", error.to_string().trim_end()), None)
        })?;
        let mut entries = Vec::new();
        for (name, value) in flatten(table) {
            let Some(key) = C::KEYS.iter().find(|key| key.name == name) else {
                return Err(invalid(format!("unknown key \"{name}\""), suggest::<C>(&name)));
            };
            entries.push((key, value));
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    /// Puts what the file says into a configuration.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if a value is not of its key's kind, or out of its bounds.
    pub fn apply(&self, config: &mut C) -> Result<()> {
        for (key, value) in &self.entries {
            (key.set)(config, value).map_err(|message| Error::InvalidConfig {
                path: self.path.clone(),
                message: format!("invalid value of \"{}\": {message}", key.name),
                hint: None,
            })?;
        }
        Ok(())
    }
}

/// Returns the entries of a file with their sections before their names.
fn flatten(table: Table) -> Vec<(String, Value)> {
    let mut entries = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(section) => {
                let prefixed = |(entry, value)| (format!("{name}.{entry}"), value);
                entries.extend(section.into_iter().map(prefixed));
            }
            value => entries.push((name, value)),
        }
    }
    entries
}

/// Returns what an unknown key probably meant: by its whole name, or by its last part elsewhere.
fn suggest<C: Keyed>(name: &str) -> Option<String> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |key: &Key<C>| {
        let whole = strsim::jaro_winkler(name, key.name);
        whole.max(strsim::jaro_winkler(&last(name), &last(key.name)))
    };
    C::KEYS
        .iter()
        .map(|key| (likeness(key), key.name))
        .filter(|(likeness, _)| *likeness > LIKENESS)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, name)| match name.split_once('.') {
            Some((section, entry)) => format!("did you mean \"{entry}\" in [{section}]?"),
            None => format!("did you mean \"{name}\"?"),
        })
}

fn text(value: &Value) -> Result<String, String> {
    let text = value.as_str().ok_or("expected a text in quotes")?;
    Ok(text.to_owned())
}

fn some_text(value: &Value) -> Result<Option<String>, String> {
    text(value).map(Some)
}

fn texts(value: &Value) -> Result<Vec<String>, String> {
    let values = value.as_array().ok_or("expected a list of texts, as in [\"a\", \"b\"]")?;
    values.iter().map(text).collect()
}

fn some_path(value: &Value) -> Result<Option<PathBuf>, String> {
    Ok(Some(text(value)?.into()))
}

fn boolean(value: &Value) -> Result<bool, String> {
    Ok(value.as_bool().ok_or("expected true or false")?)
}

/// Reads a number that may be zero.
fn whole<N: TryFrom<i64>>(value: &Value) -> Result<N, String> {
    let number = value.as_integer().ok_or("expected a whole number")?;
    N::try_from(number).map_err(|_range| format!("{number} is out of range"))
}

/// Reads a number of at least one: a bound of nothing stops everything.
fn number<N: TryFrom<i64>>(value: &Value) -> Result<N, String> {
    match value.as_integer() {
        Some(..1) => Err("must be at least 1".to_owned()),
        _ => whole(value),
    }
}

fn some_number<N: TryFrom<i64>>(value: &Value) -> Result<Option<N>, String> {
    number(value).map(Some)
}

fn duration(value: &Value) -> Result<Duration, String> {
    let text = value.as_str().ok_or("expected a time in quotes, such as \"5s\"")?;
    match read_duration(text)? {
        Duration::ZERO => Err("must be more than nothing".to_owned()),
        duration => Ok(duration),
    }
}

fn some_duration(value: &Value) -> Result<Option<Duration>, String> {
    duration(value).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<CoordinatorConfig> {
        let mut config = CoordinatorConfig::default();
        ConfigFile::parse(Path::new("skep.toml"), text)?.apply(&mut config)?;
        Ok(config)
    }

    #[test]
    fn a_file_sets_what_it_names() {
        let text = "
            listen = '127.0.0.1:1234'
            data_dir = '/data'
            memory_bytes = 1073741824
            statement_timeout = '2h'
            allowed_roots = ['/open', 's3://bucket/open']
            [tls]
            cert = 'cert.pem'
            [sessions]
            idle_timeout = '10min'
            [scheduler]
            max_attempts = 7
            retained_generations = 0
            heartbeat_interval = '100ms'
            locality_wait = '5ms'";
        let config = read(text).unwrap();
        assert_eq!(config.listen, "127.0.0.1:1234");
        assert_eq!(config.engine.data_dir, Some("/data".into()));
        assert_eq!(config.engine.memory_limit, Some(1 << 30));
        assert_eq!(config.sessions.idle_timeout, Duration::from_secs(600));
        assert_eq!(config.scheduler.max_attempts, 7);
        assert_eq!(config.scheduler.retained_generations, 0);
        assert_eq!(config.scheduler.locality_wait, Duration::from_millis(5));
        assert_eq!(config.heartbeat_interval, Duration::from_millis(100));
        assert_eq!(config.engine.statement_timeout, Some(Duration::from_secs(7200)));
        assert_eq!(config.http, None);
        assert_eq!(config.engine.allowed_roots, ["/open", "s3://bucket/open"]);
        assert_eq!(config.tls.cert, Some("cert.pem".into()));
    }

    #[test]
    fn an_unknown_key_is_refused_with_a_suggestion() {
        for (text, message, hint) in [
            ("lisen = 'x'", "unknown key \"lisen\"", "did you mean \"listen\"?"),
            (
                "[scheduler]\nmax_attempt = 1",
                "unknown key \"scheduler.max_attempt\"",
                "did you mean \"max_attempts\" in [scheduler]?",
            ),
            (
                "idle_timeout = '1s'",
                "unknown key \"idle_timeout\"",
                "did you mean \"idle_timeout\" in [sessions]?",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.to_string(), format!("skep.toml: {message}"));
            assert_eq!(error.hint(), Some(hint));
        }
        assert_eq!(read("zzz = 1").unwrap_err().hint(), None);
    }

    #[test]
    fn a_wrong_value_is_refused() {
        for (text, message) in [
            ("listen = 1", "\"listen\": expected a text"),
            ("drain_timeout = 5", "\"drain_timeout\": expected a time"),
            ("drain_timeout = '5 parsecs'", "expected a time"),
            ("drain_timeout = '0s'", "more than nothing"),
            ("insecure = 'yes'", "expected true or false"),
            ("allowed_roots = '/open'", "\"allowed_roots\": expected a list"),
            ("[sessions]\nmax_count = 0", "\"sessions.max_count\": must be at least 1"),
            ("[grpc]\nstream_window_bytes = 99999999999", "out of range"),
            ("listen = ", "not TOML"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_for_a_worker_has_keys_of_its_own() {
        let read = |text: &str| {
            let mut config = WorkerConfig::new("");
            ConfigFile::parse(Path::new("worker.toml"), text)?.apply(&mut config)?;
            Ok::<_, Error>(config)
        };
        let text = "
            coordinator = 'grpc://bees:50051'
            slots = 3
            memory_bytes = 1048576
            [grpc]
            keepalive_timeout = '1min'";
        let config = read(text).unwrap();
        assert_eq!(config.coordinator, "grpc://bees:50051");
        assert_eq!((config.slot_count, config.memory_limit), (3, Some(1 << 20)));
        assert_eq!(config.grpc.keepalive_timeout, Duration::from_secs(60));
        let error = read("users = '/users'").unwrap_err().to_string();
        assert_eq!(error, "worker.toml: unknown key \"users\"");
    }

    fn names<C: Keyed>() -> Vec<&'static str> {
        C::KEYS.iter().map(|key| key.name).collect()
    }

    #[test]
    fn every_key_has_one_name() {
        for mut names in [names::<CoordinatorConfig>(), names::<WorkerConfig>()] {
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count);
        }
    }
}
