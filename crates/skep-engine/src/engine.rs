//! What a process has once.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnv;
use skep_store::{PartitionStore, StoreConfig, StorePool};
use tempfile::TempDir;

use crate::access::{AllowedRoots, Principal};
use crate::cache::{CacheHost, CacheReport, CachedTables, DefinitionFile, Hosting, StoreSlot};
use crate::catalog::{PersistentCatalog, SystemSchema, SystemTables};
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::query::{LocalExecutor, QueryExecutor};
use crate::runtime::build_runtime;
use crate::session::Session;

/// The engine of a process: memory, disk, object stores and the persistent catalog.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<EngineInner>,
}

/// What an engine stands on that it does not make itself.
#[derive(Debug)]
pub struct EngineParts {
    /// Memory, disk and caches, which others of the process may share.
    pub runtime: RuntimeEnv,
    /// What runs queries: seam 1.
    pub executor: Arc<dyn QueryExecutor>,
    /// The tables that a cluster shows in the schema `system`, beside the engine's own.
    pub system_tables: Option<Arc<dyn SystemTables>>,
    /// Where cached tables are kept; `None` opens a store when the first one is cached. If the
    /// runtime's memory pool is a `StorePool`, it must be this store's.
    pub store: Option<PartitionStore>,
    /// Who may keep cached tables in place of this process: seam 2.
    pub cache_host: Option<Arc<dyn CacheHost>>,
}

#[derive(Debug)]
pub(crate) struct EngineInner {
    pub(crate) config: EngineConfig,
    pub(crate) runtime: RuntimeEnv,
    pub(crate) catalog: Arc<PersistentCatalog>,
    pub(crate) executor: Arc<dyn QueryExecutor>,
    pub(crate) system: SystemSchema,
    pub(crate) cache: Arc<CachedTables>,
    pub(crate) roots: Arc<AllowedRoots>,
    /// Where the rows of temporary tables go.
    pub(crate) temporary_dir: PathBuf,
    /// The data directory of an engine that keeps nothing, removed with it.
    _scratch: Option<TempDir>,
}

impl Engine {
    /// Opens the engine; queries run in this process.
    ///
    /// # Errors
    /// [`Error::Io`] if the data or the spill directory cannot be used, [`Error::File`] if the
    /// catalog there cannot be read.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        let building = config.clone();
        let built = tokio::task::spawn_blocking(move || build_runtime(&building, with_store));
        let runtime = built
            .await
            .map_err(|error| Error::Internal { message: error.to_string(), source: None })??;
        let executor = Arc::new(LocalExecutor);
        let parts =
            EngineParts { runtime, executor, system_tables: None, store: None, cache_host: None };
        Self::open_with(config, parts).await
    }

    /// Opens the engine over these parts.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open_with(config: EngineConfig, parts: EngineParts) -> Result<Self> {
        let EngineParts { runtime, executor, system_tables, store, cache_host } = parts;
        let opened = tokio::task::spawn_blocking(move || {
            let roots = Arc::new(AllowedRoots::parse(&config.allowed_roots)?);
            let temporary_dir = config.spill_dir.clone().unwrap_or_else(std::env::temp_dir);
            let (data_dir, scratch) = match &config.data_dir {
                Some(directory) => (directory.clone(), None),
                None => {
                    let scratch = tempfile::Builder::new()
                        .prefix("skep-data-")
                        .tempdir_in(&temporary_dir)
                        .map_err(|source| Error::Io {
                            action: "create a directory in",
                            path: temporary_dir.clone(),
                            source,
                        })?;
                    (scratch.path().to_owned(), Some(scratch))
                }
            };
            let catalog = Arc::new(PersistentCatalog::open(&data_dir)?);
            let pool = Arc::clone(&runtime.memory_pool);
            let slot = StoreSlot::new(store, store_config(&config, &temporary_dir), pool);
            // What nobody else keeps need not be found again.
            let noted = config.data_dir.as_deref().filter(|_| cache_host.is_some());
            let hosting = Hosting {
                host: cache_host,
                executor: Arc::clone(&executor),
                definitions: DefinitionFile::open(noted),
            };
            let cache = CachedTables::new(slot, hosting);
            let report = CacheReport(Arc::clone(&cache));
            let system = SystemSchema::new(system_tables, Arc::new(report));
            Ok::<_, Error>(EngineInner {
                config,
                runtime,
                catalog,
                executor,
                system,
                cache,
                roots,
                temporary_dir,
                _scratch: scratch,
            })
        })
        .await;
        match opened {
            Ok(inner) => {
                let inner = Arc::new(inner?);
                let engine = Arc::downgrade(&inner);
                inner.cache.find_again(move |definition| {
                    let engine = Weak::clone(&engine);
                    async move {
                        let Some(inner) = engine.upgrade() else { return Ok(()) };
                        Self { inner }.session().restore_cached(definition).await
                    }
                });
                Ok(Self { inner })
            }
            Err(error) => Err(Error::Internal { message: error.to_string(), source: None }),
        }
    }

    /// Starts a session that may do everything.
    pub fn session(&self) -> Session {
        self.session_of(Principal::anonymous())
    }

    /// Starts a session that may do what this user may.
    pub fn session_of(&self, principal: Principal) -> Session {
        Session::new(Arc::clone(&self.inner), principal)
    }

    /// Returns whether persistent tables outlive the process.
    pub fn keeps_data(&self) -> bool {
        self.inner.config.data_dir.is_some()
    }
}

/// Returns the bounds of a store that is opened for cached tables alone.
fn store_config(config: &EngineConfig, directory: &Path) -> StoreConfig {
    let mut store = StoreConfig::new(directory.join("skep-partitions"));
    store.disk_limit_bytes = config.spill_limit;
    store.protected_cache_bytes = config.protected_cache;
    if let Some(limit) = config.cache_memory_limit {
        store.memory_limit_bytes = limit;
        // Else each writer would keep more than all of them may.
        store.write_buffer_bytes = store.write_buffer_bytes.min(limit);
    }
    store
}

/// Puts a pool around another that makes cached tables yield to queries.
fn with_store(pool: Arc<dyn MemoryPool>) -> Arc<dyn MemoryPool> {
    Arc::new(StorePool::new(pool))
}
