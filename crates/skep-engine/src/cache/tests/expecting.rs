//! What the process before this one had others keep, taken out before they come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use skep_store::ids::Epoch;
use tokio::sync::watch;

use super::super::definitions::{CachedDefinition, DefinitionFile, Identity};
use super::super::hosted::{CacheHost, HostedParts, HostedTable};
use super::*;
use crate::{CacheOptions, EngineParts, LocalExecutor, Result, build_runtime};

/// Takes nothing over, and finds what was kept when it is told to.
#[derive(Debug)]
struct Keeper {
    found: watch::Sender<bool>,
    given_up: Mutex<Vec<(String, u64)>>,
}

impl CacheHost for Keeper {
    fn first_epoch(&self) -> u64 {
        100
    }

    fn expect(&self, _table: &Arc<str>, _epoch: Epoch) -> BoxFuture<'static, bool> {
        let mut found = self.found.subscribe();
        async move { found.wait_for(|found| *found).await.is_ok() }.boxed()
    }

    fn give_up(&self, table: &Arc<str>, epoch: Epoch) {
        self.given_up.lock().push((table.to_string(), epoch.0));
    }

    fn adopt(&self, _parts: HostedParts) -> Result<Option<Arc<dyn HostedTable>>> {
        Ok(None)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_expected_can_be_taken_out_before_it_comes() {
    let statements = ["SELECT 1", "UNCACHE TABLE t", "CLEAR CACHE", "DROP TABLE t"];
    for (number, statement) in statements.into_iter().enumerate() {
        let directory = TempDir::new().unwrap();
        let config =
            EngineConfig { data_dir: Some(directory.path().to_owned()), ..EngineConfig::default() };
        let engine = Engine::open(config.clone()).await.unwrap();
        run(&engine.session(), "CREATE TABLE t AS SELECT 1 AS a").await;
        drop(engine);
        let identity = Identity { id: 3, key: "d#2".to_owned(), epoch: 7, fingerprint: 0 };
        let options = CacheOptions::default();
        let noted = CachedDefinition::new(("public", "t"), &options, false, 1, identity);
        DefinitionFile::open(Some(directory.path())).write(|| vec![noted]);
        let keeper =
            Arc::new(Keeper { found: watch::Sender::new(false), given_up: Mutex::default() });
        let parts = EngineParts {
            runtime: build_runtime(&config, |pool| pool).unwrap(),
            executor: Arc::new(LocalExecutor),
            system_tables: None,
            store: None,
            cache_host: Some(Arc::clone(&keeper) as _),
        };
        let engine = Engine::open_with(config, parts).await.unwrap();
        run(&engine.session(), statement).await;
        let is_out = number > 0;
        assert_eq!(keeper.given_up.lock().len(), usize::from(is_out), "{statement}");
        let left = DefinitionFile::open(Some(directory.path())).awaited.lock().len();
        assert_eq!(left, usize::from(!is_out), "{statement}");
        keeper.found.send_replace(true);
        let deadline = Instant::now() + Duration::from_secs(30);
        while keeper.given_up.lock().len() < 1 + usize::from(is_out) {
            assert!(Instant::now() < deadline, "{statement}");
            tokio::task::yield_now().await;
        }
        assert!(keeper.given_up.lock().iter().all(|it| *it == ("d#2".to_owned(), 7)));
        let cached = run(&engine.session(), "SELECT table_name FROM system.cached_tables").await;
        assert_eq!(cached.len(), usize::from(!is_out), "{statement}: {cached:?}");
    }
}
