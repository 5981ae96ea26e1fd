//! A coordinator and its workers in this process, with real connections between them.

use anyhow::Result;
use skep_engine::EngineConfig;
use skep_server::{CoordinatorConfig, CoordinatorServer, WorkerConfig, WorkerServer};

use super::ClusterShape;

/// A running cluster. Dropping it ends it at once.
#[derive(Debug)]
pub struct InProcess {
    // Clients first lose the coordinator, or they would see the workers go.
    coordinator: CoordinatorServer,
    workers: Vec<WorkerServer>,
}

impl InProcess {
    /// Starts the cluster and waits until all workers have registered.
    ///
    /// # Errors
    /// Whatever keeps one of them from starting.
    pub async fn start(shape: &ClusterShape) -> Result<Self> {
        let mut config = CoordinatorConfig {
            listen: "127.0.0.1:0".to_owned(),
            engine: EngineConfig {
                data_dir: Some(shape.data_dir.clone()),
                memory_limit: Some(shape.memory_limit),
                spill_dir: Some(shape.spill_dir.clone()),
                target_partitions: shape.target_partitions,
                ..EngineConfig::default()
            },
            ..CoordinatorConfig::default()
        };
        if shape.spreads_small {
            config.planner.small_query_bytes = 0;
            config.planner.min_scan_bytes_per_task = 1024;
        }
        let coordinator = CoordinatorServer::start(config).await?;
        let mut workers = Vec::with_capacity(shape.worker_count);
        for number in 1..=shape.worker_count {
            let worker = WorkerServer::start(WorkerConfig {
                slot_count: shape.slot_count,
                memory_limit: Some(shape.memory_limit),
                partition_memory_limit: shape.partition_memory_limit,
                data_dir: Some(shape.spill_dir.join(format!("worker-{number}"))),
                spill_dir: Some(shape.spill_dir.clone()),
                ..WorkerConfig::new(coordinator.address().to_string())
            })
            .await?;
            workers.push(worker);
        }
        for worker in &workers {
            worker.ready().await?;
        }
        Ok(Self { coordinator, workers })
    }

    /// Returns where clients connect.
    pub fn url(&self) -> String {
        format!("grpc://{}", self.coordinator.address())
    }

    /// Returns how many bytes of partitions the workers have written to disk so far.
    pub fn spilled_bytes(&self) -> u64 {
        self.workers.iter().map(|worker| worker.store_stats().spilled_bytes_total).sum()
    }

    /// Returns how many bytes of partitions the workers keep, in memory and on disk.
    pub fn kept_bytes(&self) -> u64 {
        let stats = self.workers.iter().map(WorkerServer::store_stats);
        stats.map(|stats| stats.memory_bytes as u64 + stats.disk_bytes).sum()
    }

    /// Stops the cluster in order.
    pub async fn shut_down(self) {
        self.coordinator.shutdown().await;
        for worker in self.workers {
            worker.shutdown().await;
        }
    }
}
