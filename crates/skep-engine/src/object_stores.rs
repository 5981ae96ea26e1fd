//! Object stores by URL: made when first named, from the environment and the session's settings.
//!
//! Each session has a registry of its own, since credentials set by one user must not open a
//! store for another.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::object_store::ObjectStoreRegistry;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};
use parking_lot::RwLock;
use url::Url;

use crate::error::{Error, closest};

/// A settings namespace of one kind of store: `SET s3.region = 'eu-central-1'`.
macro_rules! store_settings {
    ($name:ident, $prefix:literal, $key:ty, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, Default)]
        pub(crate) struct $name(BTreeMap<String, String>);

        impl ConfigExtension for $name {
            const PREFIX: &'static str = $prefix;
        }

        impl ExtensionOptions for $name {
            fn as_any(&self) -> &dyn Any {
                self
            }

            fn as_any_mut(&mut self) -> &mut dyn Any {
                self
            }

            fn cloned(&self) -> Box<dyn ExtensionOptions> {
                Box::new(self.clone())
            }

            fn set(&mut self, key: &str, value: &str) -> DataFusionResult<()> {
                let full = format!("{}_{key}", $prefix);
                if <$key>::from_str(key).is_err()
                    && <$key>::from_str(&full).is_err()
                    && ClientConfigKey::from_str(key).is_err()
                {
                    return Err(unknown_key($prefix, key));
                }
                self.0.insert(key.to_owned(), value.to_owned());
                Ok(())
            }

            fn entries(&self) -> Vec<ConfigEntry> {
                self.0
                    .iter()
                    .map(|(key, value)| ConfigEntry {
                        key: format!("{}.{key}", $prefix),
                        value: Some(masked(key, value)),
                        description: "setting of an object store",
                    })
                    .collect()
            }
        }
    };
}

store_settings!(S3Settings, "s3", AmazonS3ConfigKey, "Settings of `s3://` stores.");
store_settings!(GsSettings, "gs", GoogleConfigKey, "Settings of `gs://` stores.");
store_settings!(AzSettings, "az", AzureConfigKey, "Settings of `az://` and `abfss://` stores.");
store_settings!(HttpSettings, "http", ClientConfigKey, "Settings of `http(s)://` stores.");

const COMMON_KEYS: [&str; 14] = [
    "access_key_id",
    "secret_access_key",
    "session_token",
    "region",
    "endpoint",
    "bucket",
    "skip_signature",
    "virtual_hosted_style_request",
    "allow_http",
    "service_account",
    "account_name",
    "account_key",
    "sas_token",
    "timeout",
];

fn unknown_key(prefix: &str, key: &str) -> DataFusionError {
    let hint = closest(key, COMMON_KEYS)
        .map(|known| format!("did you mean \"{prefix}.{known}\"?"))
        .or_else(|| Some(format!("known are, among others: {}", COMMON_KEYS.join(", "))));
    DataFusionError::from(Error::NotFound {
        kind: "setting",
        name: format!("{prefix}.{key}"),
        position: None,
        hint,
    })
}

/// A value that grants access is never shown again.
fn masked(key: &str, value: &str) -> String {
    const PLAIN: [&str; 9] = [
        "region",
        "endpoint",
        "bucket",
        "allow_http",
        "skip_signature",
        "timeout",
        "virtual_hosted_style_request",
        "account_name",
        "connect_timeout",
    ];
    if PLAIN.contains(&key) { value.to_owned() } else { "***".to_owned() }
}

/// Adds the namespaces to a session's settings.
pub(crate) fn register_settings(options: &mut ConfigOptions) {
    options.extensions.insert(S3Settings::default());
    options.extensions.insert(GsSettings::default());
    options.extensions.insert(AzSettings::default());
    options.extensions.insert(HttpSettings::default());
}

/// Returns the settings of all stores as they were set, secrets and all: for tasks elsewhere, never
/// to be shown.
pub(crate) fn raw_settings(options: &ConfigOptions) -> Vec<(String, String)> {
    fn named<T: ConfigExtension>(
        values: Option<&BTreeMap<String, String>>,
    ) -> Vec<(String, String)> {
        let named =
            |(key, value): (&String, &String)| (format!("{}.{key}", T::PREFIX), value.clone());
        values.into_iter().flatten().map(named).collect()
    }
    let extensions = &options.extensions;
    [
        named::<S3Settings>(extensions.get::<S3Settings>().map(|settings| &settings.0)),
        named::<GsSettings>(extensions.get::<GsSettings>().map(|settings| &settings.0)),
        named::<AzSettings>(extensions.get::<AzSettings>().map(|settings| &settings.0)),
        named::<HttpSettings>(extensions.get::<HttpSettings>().map(|settings| &settings.0)),
    ]
    .concat()
}

/// Returns whether a setting is one of a store.
pub(crate) fn is_store_setting(name: &str) -> bool {
    let prefixes =
        [S3Settings::PREFIX, GsSettings::PREFIX, AzSettings::PREFIX, HttpSettings::PREFIX];
    name.split_once('.').is_some_and(|(prefix, _)| prefixes.contains(&prefix))
}

/// Takes a store's setting away; returns whether `name` is one.
pub(crate) fn reset_setting(options: &mut ConfigOptions, name: &str) -> bool {
    let Some((prefix, key)) = name.split_once('.') else {
        return false;
    };
    let extensions = &mut options.extensions;
    let values = match prefix {
        S3Settings::PREFIX => extensions.get_mut::<S3Settings>().map(|settings| &mut settings.0),
        GsSettings::PREFIX => extensions.get_mut::<GsSettings>().map(|settings| &mut settings.0),
        AzSettings::PREFIX => extensions.get_mut::<AzSettings>().map(|settings| &mut settings.0),
        HttpSettings::PREFIX => {
            extensions.get_mut::<HttpSettings>().map(|settings| &mut settings.0)
        }
        _ => None,
    };
    values.map(|values| values.remove(key)).is_some()
}

#[derive(Debug, Clone, Default)]
struct Settings {
    s3: BTreeMap<String, String>,
    gs: BTreeMap<String, String>,
    az: BTreeMap<String, String>,
    http: BTreeMap<String, String>,
}

/// The stores of one session.
pub(crate) struct ObjectStores {
    local: Arc<dyn ObjectStore>,
    settings: RwLock<Settings>,
    made: RwLock<BTreeMap<String, Arc<dyn ObjectStore>>>,
}

impl ObjectStores {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            local: Arc::new(LocalFileSystem::new()),
            settings: RwLock::new(Settings::default()),
            made: RwLock::new(BTreeMap::new()),
        })
    }

    /// Takes over changed settings; stores made from the old ones are made anew.
    pub(crate) fn configure(&self, options: &ConfigOptions) {
        let values =
            |settings: Option<&BTreeMap<String, String>>| settings.cloned().unwrap_or_default();
        let extensions = &options.extensions;
        *self.settings.write() = Settings {
            s3: values(extensions.get::<S3Settings>().map(|settings| &settings.0)),
            gs: values(extensions.get::<GsSettings>().map(|settings| &settings.0)),
            az: values(extensions.get::<AzSettings>().map(|settings| &settings.0)),
            http: values(extensions.get::<HttpSettings>().map(|settings| &settings.0)),
        };
        self.made.write().clear();
    }

    fn make(&self, url: &Url) -> DataFusionResult<Arc<dyn ObjectStore>> {
        let settings = self.settings.read().clone();
        let store: Arc<dyn ObjectStore> = match url.scheme() {
            "s3" | "s3a" => Arc::new(make_s3(url, &settings.s3)?),
            "gs" | "gcs" => Arc::new(make_gs(url, &settings.gs)?),
            "az" | "azure" | "adl" | "abfs" | "abfss" => Arc::new(make_az(url, &settings.az)?),
            "http" | "https" => Arc::new(make_http(url, &settings.http)?),
            other => {
                return Err(DataFusionError::from(Error::unsupported(
                    format!("the URL scheme \"{other}\""),
                    "there are: a path or file://, s3://, gs://, az://, abfss://, http(s)://",
                )));
            }
        };
        Ok(store)
    }
}

fn make_s3(
    url: &Url,
    settings: &BTreeMap<String, String>,
) -> DataFusionResult<impl ObjectStore + use<>> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket(url)?)
        .with_retry(retries())
        .with_client_options(client());
    for (key, value) in settings {
        if let Some(key) = parse_key::<AmazonS3ConfigKey>("aws", key) {
            builder = builder.with_config(key, value);
        }
    }
    Ok(builder.build()?)
}

fn make_gs(
    url: &Url,
    settings: &BTreeMap<String, String>,
) -> DataFusionResult<impl ObjectStore + use<>> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket(url)?)
        .with_retry(retries())
        .with_client_options(client());
    for (key, value) in settings {
        if let Some(key) = parse_key::<GoogleConfigKey>("google", key) {
            builder = builder.with_config(key, value);
        }
    }
    Ok(builder.build()?)
}

fn make_az(
    url: &Url,
    settings: &BTreeMap<String, String>,
) -> DataFusionResult<impl ObjectStore + use<>> {
    let mut builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str());
    builder = builder.with_retry(retries()).with_client_options(client());
    for (key, value) in settings {
        if let Some(key) = parse_key::<AzureConfigKey>("azure", key) {
            builder = builder.with_config(key, value);
        }
    }
    Ok(builder.build()?)
}

fn make_http(
    url: &Url,
    settings: &BTreeMap<String, String>,
) -> DataFusionResult<impl ObjectStore + use<>> {
    let mut options = client().with_allow_http(true);
    for (key, value) in settings {
        if let Ok(key) = ClientConfigKey::from_str(key) {
            options = options.with_config(key, value);
        }
    }
    Ok(HttpBuilder::new()
        .with_url(origin(url))
        .with_retry(retries())
        .with_client_options(options)
        .build()?)
}

fn parse_key<K: FromStr>(prefix: &str, key: &str) -> Option<K> {
    K::from_str(key).or_else(|_| K::from_str(&format!("{prefix}_{key}"))).ok()
}

fn bucket(url: &Url) -> DataFusionResult<&str> {
    url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| {
        DataFusionError::from(Error::plan(format!("the URL {}:// names no bucket", url.scheme())))
    })
}

/// A person waits at the other end: give up after seconds, not after the default three minutes.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 3,
        retry_timeout: Duration::from_secs(30),
    }
}

fn client() -> ClientOptions {
    ClientOptions::new().with_connect_timeout(Duration::from_secs(5))
}

/// Scheme, host and port: what one store serves.
fn origin(url: &Url) -> String {
    url[..url::Position::BeforePath].to_owned()
}

impl ObjectStoreRegistry for ObjectStores {
    fn register_store(
        &self,
        url: &Url,
        store: Arc<dyn ObjectStore>,
    ) -> Option<Arc<dyn ObjectStore>> {
        self.made.write().insert(origin(url), store)
    }

    fn deregister_store(&self, url: &Url) -> DataFusionResult<Arc<dyn ObjectStore>> {
        self.made.write().remove(&origin(url)).ok_or_else(|| {
            DataFusionError::from(Error::plan(format!("no object store for {}", origin(url))))
        })
    }

    fn get_store(&self, url: &Url) -> DataFusionResult<Arc<dyn ObjectStore>> {
        if url.scheme() == "file" {
            return Ok(Arc::clone(&self.local));
        }
        let origin = origin(url);
        if let Some(store) = self.made.read().get(&origin) {
            return Ok(Arc::clone(store));
        }
        let store = self.make(url)?;
        self.made.write().insert(origin, Arc::clone(&store));
        Ok(store)
    }
}

impl fmt::Debug for ObjectStores {
    /// Names the stores without their settings, which hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStores")
            .field("made", &self.made.read().keys())
            .finish_non_exhaustive()
    }
}
