//! The engines that run against each other, each with its processes and the same tables.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use skep_bench::baseline::skep_binary;
use skep_client::Client;
use skep_engine::{Engine, EngineConfig, EngineParts, QueryExecutor, Session, build_runtime};
use skep_testkit::cluster::{ClusterShape, MultiProcess};
use skep_testkit::tpch::{DataSet, Format, TABLES};
use tempfile::TempDir;

use crate::Race;
use crate::answer::Answer;
use crate::ballista::{self, BallistaExecutor};
use crate::distributed::{self, DistributedExecutor};
use crate::role::RoleProcess;

/// The first two contenders, which are always there.
pub(crate) const EMBEDDED: &str = "embedded";
pub(crate) const CLUSTER: &str = "cluster";

/// An engine beside skep's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    /// datafusion-distributed, behind skep's seam.
    DatafusionDistributed,
    /// Ballista, behind skep's seam, with its static planner.
    Ballista,
    /// Ballista's own session, with its adaptive planner.
    BallistaSql,
}

impl Peer {
    pub(crate) const ALL: [Self; 3] =
        [Self::DatafusionDistributed, Self::Ballista, Self::BallistaSql];

    fn name(self) -> &'static str {
        match self {
            Self::DatafusionDistributed => "datafusion-distributed",
            Self::Ballista => "ballista",
            Self::BallistaSql => "ballista-sql",
        }
    }
}

/// An engine that is ready to answer.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    side: Side,
    /// What runs for it, ended with it.
    _running: Running,
}

/// How an engine is asked.
enum Side {
    Session(Session),
    Client(Client),
    Context(SessionContext),
}

/// Processes end before the directories that they write to go.
#[derive(Default)]
struct Running {
    _cluster: Option<MultiProcess>,
    _processes: Vec<RoleProcess>,
    _directory: Option<TempDir>,
}

impl Contender {
    /// Runs a statement.
    pub(crate) async fn answer(&self, text: &str) -> Result<Answer> {
        match &self.side {
            Side::Session(session) => Answer::of_session(session, text).await,
            Side::Client(client) => Answer::of_client(client, text).await,
            Side::Context(context) => Answer::of_context(context, text).await,
        }
    }

    /// Names the tables in it.
    async fn add_tables(&self, scale: f64) -> Result<()> {
        let data_set = DataSet { scale, format: Format::Parquet };
        let directory = data_set.cached()?;
        for table in TABLES {
            let file = data_set.file(&directory, table).display().to_string();
            if let Side::Context(context) = &self.side {
                let options = ParquetReadOptions::default();
                context.register_parquet(table.name(), file, options).await?;
                continue;
            }
            let name = table.name();
            let text = format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{file}'");
            self.answer(&text).await?;
        }
        Ok(())
    }
}

/// Opens all that take part: skep embedded, skep's cluster, and the peers.
pub(crate) async fn open_all(race: &Race) -> Result<Vec<Contender>> {
    let mut contenders = vec![open_embedded(race).await?, open_cluster(race).await?];
    for peer in &race.peers {
        let opened = match peer {
            Peer::DatafusionDistributed => open_distributed(race).await,
            Peer::Ballista | Peer::BallistaSql => open_ballista(race, *peer).await,
        };
        contenders.push(opened.with_context(|| format!("cannot open {}", peer.name()))?);
    }
    for contender in &contenders {
        contender.add_tables(race.scale).await.with_context(|| contender.name)?;
    }
    Ok(contenders)
}

fn engine_config(race: &Race) -> EngineConfig {
    EngineConfig {
        memory_limit: Some(race.memory_mb << 20),
        target_partitions: Some(race.partitions()),
        ..EngineConfig::default()
    }
}

async fn open_embedded(race: &Race) -> Result<Contender> {
    let session = Engine::open(engine_config(race)).await?.session();
    let side = Side::Session(session);
    Ok(Contender { name: EMBEDDED, side, _running: Running::default() })
}

async fn open_cluster(race: &Race) -> Result<Contender> {
    let directory = tempfile::tempdir()?;
    let [data_dir, spill_dir] = ["data", "spill"].map(|name| directory.path().join(name));
    for path in [&data_dir, &spill_dir] {
        std::fs::create_dir(path)?;
    }
    let binary = match &race.skep {
        Some(path) => path.clone(),
        None => skep_binary().context("--skep says where it is")?,
    };
    let shape = ClusterShape {
        worker_count: race.workers,
        slot_count: race.slots,
        memory_limit: race.worker_memory(),
        partition_memory_limit: None,
        target_partitions: None,
        data_dir,
        spill_dir,
        spreads_small: false,
        extra_config: String::new(),
        extra_arguments: Vec::new(),
    };
    let cluster = MultiProcess::start(&binary, &shape)?;
    let side = Side::Client(Client::connect(&cluster.url).await?);
    let running =
        Running { _cluster: Some(cluster), _directory: Some(directory), ..Running::default() };
    Ok(Contender { name: CLUSTER, side, _running: running })
}

/// Opens a session of skep's whose plans another engine runs.
async fn open_behind_seam(
    race: &Race,
    executor: Arc<dyn QueryExecutor>,
    settings: &[&str],
) -> Result<Side> {
    let config = engine_config(race);
    let runtime = build_runtime(&config, |pool| pool)?;
    let parts = EngineParts { runtime, executor, system_tables: None };
    let session = Engine::open_with(config, parts).await?.session();
    for setting in settings {
        session.execute(setting).await?.collect().await?;
    }
    Ok(Side::Session(session))
}

async fn open_distributed(race: &Race) -> Result<Contender> {
    let options = ["--memory".to_owned(), race.worker_memory().to_string()];
    let workers = (0..race.workers)
        .map(|_| RoleProcess::start("distributed-worker", race.threads, &options))
        .collect::<Result<Vec<_>>>()?;
    let ports = workers.iter().map(|worker| worker.port);
    let executor = Arc::new(DistributedExecutor::new(ports, race.explain)?);
    let side = open_behind_seam(race, executor, &distributed::SETTINGS).await?;
    let running = Running { _processes: workers, ..Running::default() };
    Ok(Contender { name: Peer::DatafusionDistributed.name(), side, _running: running })
}

async fn open_ballista(race: &Race, peer: Peer) -> Result<Contender> {
    let directory = tempfile::tempdir()?;
    let options = ["--executors".to_owned(), race.workers.to_string()];
    let scheduler = RoleProcess::start("ballista-scheduler", race.threads, &options)?;
    let port = scheduler.port;
    let mut processes = vec![scheduler];
    for idx in 0..race.workers {
        let options = executor_options(race, port, &directory.path().join(idx.to_string()))?;
        processes.push(RoleProcess::start("ballista-executor", race.threads, &options)?);
    }
    ballista::wait_until_ready(port).await?;
    let side = match peer {
        Peer::BallistaSql => Side::Context(ballista::session(port, race.partitions())?),
        _ => {
            let executor = Arc::new(BallistaExecutor::new(port));
            open_behind_seam(race, executor, &ballista::SETTINGS).await?
        }
    };
    let running =
        Running { _processes: processes, _directory: Some(directory), ..Running::default() };
    Ok(Contender { name: peer.name(), side, _running: running })
}

fn executor_options(race: &Race, scheduler: u16, work_dir: &Path) -> Result<Vec<String>> {
    std::fs::create_dir(work_dir)?;
    let options = [
        ("--scheduler", scheduler.to_string()),
        ("--slots", race.slots.to_string()),
        ("--memory", race.worker_memory().to_string()),
        ("--work-dir", work_dir.display().to_string()),
    ];
    Ok(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect())
}
