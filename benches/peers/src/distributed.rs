//! datafusion-distributed behind skep's seam.
//!
//! It makes its distributed plan from a finished physical plan, as skep does, inside a DataFusion
//! query planner that wraps another. The other one here is [`Planned`]: it has the plan already.
//!
//! Its settings are its defaults, but for the metrics: collecting them costs time, and its own
//! benchmark goes without them too. So is the TCP of its workers without delay, as where tonic
//! listens itself.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::error::DataFusionError;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion_distributed::{
    DistributedExt, SessionStateBuilderExt, Worker, WorkerQueryContext, WorkerResolver,
    display_plan_ascii,
};
use skep_engine::{EngineConfig, QueryExecutor, build_runtime};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use url::Url;

use crate::functions::Functions;
use crate::role::say_ready;

/// What its planner cannot take: the results of scalar subqueries that are shared inside a process.
/// It switches them off itself where it plans from SQL.
pub(crate) const SETTINGS: [&str; 1] =
    ["SET datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery = false"];

/// Runs skep's plans on workers of datafusion-distributed.
#[derive(Debug)]
pub(crate) struct DistributedExecutor {
    workers: Vec<Url>,
    collects_metrics: bool,
}

impl DistributedExecutor {
    /// Runs plans on the workers at these ports of this machine.
    pub(crate) fn new(
        ports: impl IntoIterator<Item = u16>,
        collects_metrics: bool,
    ) -> Result<Self> {
        let urls = ports.into_iter().map(|port| Url::parse(&format!("http://127.0.0.1:{port}")));
        Ok(Self { workers: urls.collect::<Result<_, _>>()?, collects_metrics })
    }

    /// Makes the distributed plan, and the context in which it runs.
    async fn distribute(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: &TaskContext,
    ) -> Result<(Arc<dyn ExecutionPlan>, Arc<TaskContext>), DataFusionError> {
        let state = SessionStateBuilder::new()
            .with_config(context.session_config().clone())
            .with_runtime_env(context.runtime_env())
            .with_query_planner(Arc::new(Planned(plan)))
            .with_distributed_worker_resolver(Workers(self.workers.clone()))
            .with_distributed_metrics_collection(self.collects_metrics)?
            .with_distributed_planner()
            .build();
        let planner = Arc::clone(state.query_planner());
        let plan = planner.create_physical_plan(&LogicalPlan::default(), &state).await?;
        Ok((plan, state.task_ctx()))
    }
}

#[async_trait]
impl QueryExecutor for DistributedExecutor {
    async fn execute(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> skep_engine::Result<SendableRecordBatchStream> {
        let (plan, context) = self.distribute(plan, &context).await?;
        Ok(execute_stream(plan, context)?)
    }

    async fn explain(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        context: &Arc<TaskContext>,
    ) -> skep_engine::Result<Vec<(String, String)>> {
        let (plan, _) = self.distribute(Arc::clone(plan), context).await?;
        Ok(vec![("plan".to_owned(), display_plan_ascii(plan.as_ref(), false))])
    }
}

/// The planner that has its plan already, whatever it is asked for.
#[derive(Debug)]
struct Planned(Arc<dyn ExecutionPlan>);

#[async_trait]
impl QueryPlanner for Planned {
    async fn create_physical_plan(
        &self,
        _plan: &LogicalPlan,
        _session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        Ok(Arc::clone(&self.0))
    }
}

struct Workers(Vec<Url>);

impl WorkerResolver for Workers {
    fn get_urls(&self) -> Result<Vec<Url>, DataFusionError> {
        Ok(self.0.clone())
    }
}

/// Serves as a worker.
pub(crate) async fn serve(memory: usize) -> Result<()> {
    let config = EngineConfig { memory_limit: Some(memory), ..EngineConfig::default() };
    let runtime = Arc::new(build_runtime(&config, |pool| pool)?);
    let functions = Functions::of_skep(&runtime)?;
    let worker = Worker::from_session_builder(move |context: WorkerQueryContext| {
        let functions = functions.clone();
        async move {
            let mut state = context.builder.build();
            functions.register_in(&mut state)?;
            Ok::<_, DataFusionError>(state)
        }
    });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    say_ready(listener.local_addr()?.port())?;
    Server::builder()
        .add_service(worker.with_runtime_env(runtime).into_worker_server())
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}
