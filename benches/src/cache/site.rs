//! Where statements run: in this process, or on a cluster of processes.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use skep_engine::{Engine, EngineConfig, Session};
use skep_testkit::render;
use tempfile::TempDir;

use super::CacheArguments;
use crate::processes::{Processes, Rows, Size, quantile};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// In this process, on all of its cores.
    Embedded,
    /// A coordinator and workers as processes.
    Cluster,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded",
            Self::Cluster => "cluster",
        })
    }
}

/// A fresh engine or cluster, and one session there.
pub(super) enum Site {
    Embedded { session: Session, _directory: TempDir },
    Cluster(Box<Processes>),
}

impl Site {
    /// Starts one; `cache_bytes` is what all of it may keep of cached tables in memory.
    pub(super) async fn open(
        arguments: &CacheArguments,
        cache_bytes: Option<usize>,
    ) -> Result<Self> {
        let memory = arguments.memory_mb << 20;
        if arguments.mode == Mode::Cluster {
            let size = Size {
                workers: arguments.workers,
                slots: arguments.slots,
                memory_limit: memory / arguments.workers,
                // No worker does without any.
                partition_memory_limit: cache_bytes.map(|bytes| (bytes / arguments.workers).max(1)),
                ..Size::default()
            };
            return Ok(Self::Cluster(Box::new(Processes::start(&size).await?)));
        }
        let directory = tempfile::tempdir()?;
        let engine = Engine::open(EngineConfig {
            memory_limit: Some(memory),
            cache_memory_limit: cache_bytes,
            spill_dir: Some(directory.path().to_owned()),
            ..EngineConfig::default()
        })
        .await?;
        Ok(Self::Embedded { session: engine.session(), _directory: directory })
    }

    /// Runs a statement and returns its rows.
    pub(super) async fn ask(&self, text: &str) -> Result<Rows> {
        Ok(self.time(text).await?.0)
    }

    /// Runs a statement and returns its rows and how long they took to be here.
    pub(super) async fn time(&self, text: &str) -> Result<(Rows, Duration)> {
        match self {
            Self::Cluster(cluster) => cluster.time(text).await,
            Self::Embedded { session, .. } => {
                let begin = Instant::now();
                let stream = session.execute(text).await?;
                let schema = stream.schema();
                let batches = stream.collect().await?;
                let elapsed = begin.elapsed();
                Ok((render::rows(&schema, &batches)?, elapsed))
            }
        }
        .with_context(|| text.to_owned())
    }

    /// Runs a query several times; returns its rows, which must be the same each time, and the
    /// median time.
    pub(super) async fn median(&self, text: &str, runs: usize) -> Result<(Rows, Duration)> {
        let (rows, first) = self.time(text).await?;
        let mut times = vec![first];
        for _ in 1..runs {
            let (again, time) = self.time(text).await?;
            anyhow::ensure!(again == rows, "{text}: two runs answer differently");
            times.push(time);
        }
        times.sort_unstable();
        Ok((rows, quantile(&times, 0.5)))
    }

    /// Runs a statement and returns its one number.
    pub(super) async fn ask_number(&self, text: &str) -> Result<f64> {
        let rows = self.ask(text).await?;
        let cell = rows.first().and_then(|row| row.first());
        let cell = cell.with_context(|| format!("{text}: no row"))?;
        cell.parse().with_context(|| format!("{text}: \"{cell}\" is no number"))
    }

    /// Returns the bytes in memory of a cached table, wherever they are.
    pub(super) async fn cached_bytes(&self, table: &str) -> Result<f64> {
        self.ask_number(&format!(
            "SELECT coalesce(sum(memory_bytes), 0) FROM system.cached_tables \
             WHERE table_name = '{table}'"
        ))
        .await
    }
}

/// Returns how many tasks run at a time; more than there are cores share them.
pub(super) fn slot_count(arguments: &CacheArguments) -> Result<usize> {
    Ok(match arguments.mode {
        Mode::Embedded => core_count()?,
        Mode::Cluster => arguments.workers * arguments.slots,
    })
}

pub(super) fn core_count() -> Result<usize> {
    Ok(std::thread::available_parallelism()?.get())
}

pub(super) fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// Returns how many times longer one took than another.
pub(super) fn ratio(of: Duration, to: Duration) -> f64 {
    seconds(of) / seconds(to)
}
