//! What a task runner asks of the codec.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;
use skep_engine::TaskSettings;

use super::stage::{DecodedStage, decode_stage};
use crate::worker::StageDecoder;

/// How many sessions' contexts are kept. Making one registers every function anew, which is most of
/// what a small query costs a worker; one that is kept is some tens of kilobytes, and its
/// connections to object stores.
const KEPT_CONTEXTS: usize = 16;

/// Decodes what [`encode_stage`](super::encode_stage) wrote.
///
/// The context of a session is kept for its next query: equal settings make equal contexts.
#[derive(Default)]
pub struct PlanDecoder {
    /// The last used last.
    contexts: Mutex<VecDeque<KeptContext>>,
}

struct KeptContext {
    settings: Bytes,
    runtime: Arc<RuntimeEnv>,
    context: Arc<TaskContext>,
}

impl PlanDecoder {
    fn kept(&self, settings: &[u8], runtime: &Arc<RuntimeEnv>) -> Option<Arc<TaskContext>> {
        let mut contexts = self.contexts.lock();
        let is_it =
            |kept: &KeptContext| kept.settings == settings && Arc::ptr_eq(&kept.runtime, runtime);
        let found = contexts.iter().position(is_it)?;
        let kept = contexts.remove(found)?;
        let context = Arc::clone(&kept.context);
        contexts.push_back(kept);
        Some(context)
    }

    fn keep(&self, settings: &[u8], runtime: &Arc<RuntimeEnv>, context: &Arc<TaskContext>) {
        let (runtime, context) = (Arc::clone(runtime), Arc::clone(context));
        let settings = Bytes::copy_from_slice(settings);
        let mut contexts = self.contexts.lock();
        if contexts.len() >= KEPT_CONTEXTS {
            contexts.pop_front();
        }
        contexts.push_back(KeptContext { settings, runtime, context });
    }
}

impl fmt::Debug for PlanDecoder {
    /// Shows a count alone: settings may hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlanDecoder").field("contexts", &self.contexts.lock().len()).finish()
    }
}

#[async_trait]
impl StageDecoder for PlanDecoder {
    fn task_context(
        &self,
        settings: &[u8],
        runtime: &Arc<RuntimeEnv>,
    ) -> skep_engine::Result<Arc<TaskContext>> {
        if let Some(kept) = self.kept(settings, runtime) {
            return Ok(kept);
        }
        let context = TaskSettings::from_bytes(settings)?.task_context(runtime).map(Arc::new)?;
        self.keep(settings, runtime, &context);
        Ok(context)
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

#[cfg(test)]
mod tests {
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    fn settings(batch_size: usize) -> Vec<u8> {
        let config = SessionConfig::new().with_batch_size(batch_size);
        let context = SessionContext::new_with_config(config).task_ctx();
        TaskSettings::of(&context).to_bytes().unwrap()
    }

    #[test]
    fn equal_settings_share_a_context_and_others_do_not() {
        let (decoder, runtime) = (PlanDecoder::default(), Arc::new(RuntimeEnv::default()));
        let context = |size| decoder.task_context(&settings(size), &runtime).unwrap();
        let first = context(100);
        assert_eq!(first.session_config().batch_size(), 100);
        assert!(Arc::ptr_eq(&first, &context(100)));
        assert_eq!(context(200).session_config().batch_size(), 200);
        let elsewhere = Arc::new(RuntimeEnv::default());
        let other = decoder.task_context(&settings(100), &elsewhere).unwrap();
        assert!(!Arc::ptr_eq(&first, &other));
    }

    #[test]
    fn what_was_not_used_for_long_goes() {
        let (decoder, runtime) = (PlanDecoder::default(), Arc::new(RuntimeEnv::default()));
        let context = |size| decoder.task_context(&settings(size), &runtime).unwrap();
        let (first, second) = (context(1), context(2));
        for size in 3..=KEPT_CONTEXTS + 1 {
            assert!(Arc::ptr_eq(&first, &context(1)));
            context(size);
        }
        assert_eq!(decoder.contexts.lock().len(), KEPT_CONTEXTS);
        assert!(Arc::ptr_eq(&first, &context(1)));
        assert!(!Arc::ptr_eq(&second, &context(2)));
    }
}
