//! Ballista behind skep's seam, and beside it.
//!
//! Its scheduler takes finished physical plans, so it stands behind the seam as the others do. But it
//! plans those statically; its adaptive planner, which is its default, starts from a logical plan.
//! So [`session`] is its own way from SQL to rows, without anything of skep's.
//!
//! Settings are its defaults: tasks are pushed to executors, and results are announced to the client.
//! Only the limits of gRPC's messages are higher, or query 10 would fail at scale 1.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use async_trait::async_trait;
use ballista_core::execution_plans::execute_physical_plan;
use ballista_core::extension::{SessionConfigExt, SessionStateExt};
use ballista_core::ids::new_instance_id;
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_core::utils::default_session_builder;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service_with_listener};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use skep_engine::QueryExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::functions::Functions;
use crate::role::{self, say_ready};

/// What its own session switches off, because its stages cannot carry it between processes. Sort-merge
/// joins in place of hash joins, which it prefers as they can spill, are not among them: hash joins
/// are faster as long as memory lasts.
pub(crate) const SETTINGS: [&str; 5] = [
    "SET datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery = false",
    "SET datafusion.optimizer.enable_dynamic_filter_pushdown = false",
    "SET datafusion.optimizer.enable_round_robin_repartition = false",
    "SET datafusion.execution.parquet.schema_force_view_types = false",
    "SET datafusion.sql_parser.map_string_types_to_utf8view = false",
];

/// Bytes of a message; the default is 16 MiB.
const MESSAGE_LIMIT: u32 = 256 << 20;

/// Runs skep's plans on executors of Ballista's.
pub(crate) struct BallistaExecutor {
    scheduler: String,
    session_id: String,
}

impl BallistaExecutor {
    /// Runs plans by the scheduler at this port of this machine.
    pub(crate) fn new(port: u16) -> Self {
        Self { scheduler: scheduler_url(port), session_id: new_instance_id() }
    }
}

impl fmt::Debug for BallistaExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BallistaExecutor").field("scheduler", &self.scheduler).finish()
    }
}

#[async_trait]
impl QueryExecutor for BallistaExecutor {
    async fn execute(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> skep_engine::Result<SendableRecordBatchStream> {
        let config = upgrade(context.session_config().clone());
        let codec = config.ballista_physical_extension_codec();
        let ballista_config = config.ballista_config();
        let stream = execute_physical_plan::<PhysicalPlanNode>(
            self.scheduler.clone(),
            &ballista_config,
            plan,
            codec.as_ref(),
            self.session_id.clone(),
            config,
        );
        Ok(stream.await?)
    }
}

/// Opens a session of Ballista's own.
pub(crate) fn session(port: u16, partitions: usize) -> Result<SessionContext> {
    let config = upgrade(SessionConfig::new().with_target_partitions(partitions));
    let state = SessionStateBuilder::new_with_default_features().with_config(config).build();
    let state = state.upgrade_for_ballista(scheduler_url(port))?;
    Ok(SessionContext::new_with_state(state))
}

fn upgrade(config: SessionConfig) -> SessionConfig {
    config.upgrade_for_ballista().with_ballista_grpc_client_max_message_size(MESSAGE_LIMIT as usize)
}

fn scheduler_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// Waits until the scheduler has all of its executors.
pub(crate) async fn wait_until_ready(port: u16) -> Result<()> {
    let deadline = Instant::now() + role::PATIENCE;
    while !is_ready(port).await.unwrap_or(false) {
        if Instant::now() > deadline {
            bail!("Ballista's executors do not get ready");
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Asks the scheduler's readiness probe.
async fn is_ready(port: u16) -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = "GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    Ok(&status == b"HTTP/1.1 200")
}

/// Serves as the scheduler.
pub(crate) async fn serve_scheduler(executors: usize) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let functions = Functions::of_skep(&RuntimeEnv::default())?;
    let config = SchedulerConfig {
        bind_port: port,
        external_host: "127.0.0.1".to_owned(),
        min_ready_executors: executors,
        grpc_server_max_decoding_message_size: MESSAGE_LIMIT,
        grpc_server_max_encoding_message_size: MESSAGE_LIMIT,
        grpc_client_max_message_size: MESSAGE_LIMIT,
        override_session_builder: Some(Arc::new(move |config: SessionConfig| {
            let mut state = default_session_builder(config)?;
            functions.register_in(&mut state)?;
            Ok(state)
        })),
        ..SchedulerConfig::default()
    };
    let cluster = BallistaCluster::new_from_config(&config).await?;
    let scheduler =
        create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, Arc::new(config)).await?;
    say_ready(port)?;
    start_grpc_service_with_listener(listener, scheduler).await?;
    Ok(())
}

/// Serves as an executor.
pub(crate) async fn serve_executor(
    scheduler: u16,
    slots: usize,
    memory: usize,
    work_dir: PathBuf,
) -> Result<()> {
    let mut state = SessionStateBuilder::new_with_default_features().build();
    Functions::of_skep(&RuntimeEnv::default())?.register_in(&mut state)?;
    let [port, grpc_port] = free_ports()?;
    let config = ExecutorProcessConfig {
        port,
        grpc_port,
        external_host: Some("127.0.0.1".to_owned()),
        scheduler_host: "127.0.0.1".to_owned(),
        scheduler_port: scheduler,
        vcores: slots,
        work_dir: Some(work_dir.display().to_string()),
        memory_pool_size: Some(memory as u64),
        grpc_max_decoding_message_size: MESSAGE_LIMIT,
        grpc_max_encoding_message_size: MESSAGE_LIMIT,
        override_function_registry: Some(Arc::new(BallistaFunctionRegistry::from(&state))),
        ..ExecutorProcessConfig::default()
    };
    say_ready(port)?;
    start_executor_process(Arc::new(config)).await?;
    Ok(())
}

/// Finds two ports that nobody listens on: the executor must know its ports before it listens.
fn free_ports() -> Result<[u16; 2]> {
    let [first, second] = [0_u16, 0].map(|port| std::net::TcpListener::bind(("127.0.0.1", port)));
    let (first, second) = (first?, second?);
    Ok([first.local_addr()?.port(), second.local_addr()?.port()])
}
