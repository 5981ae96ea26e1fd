//! What a task runner asks of the codec.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::ExecutionPlan;
use skep_engine::TaskSettings;

use super::stage::{DecodedStage, decode_stage};
use crate::worker::StageDecoder;

/// Decodes what [`encode_stage`](super::encode_stage) wrote.
#[derive(Debug, Default, Clone, Copy)]
pub struct PlanDecoder;

#[async_trait]
impl StageDecoder for PlanDecoder {
    fn task_context(
        &self,
        settings: &[u8],
        runtime: &Arc<RuntimeEnv>,
    ) -> skep_engine::Result<Arc<TaskContext>> {
        TaskSettings::from_bytes(settings)?.task_context(runtime).map(Arc::new)
    }

    fn decode(&self, program: &[u8], context: &TaskContext) -> Result<DecodedStage> {
        decode_stage(program, context)
    }

    async fn explain(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        context: &Arc<TaskContext>,
        error: DataFusionError,
    ) -> skep_engine::Error {
        skep_engine::explain_failure(plan, context, error).await
    }
}
