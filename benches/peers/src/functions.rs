//! The functions that skep's plans name, for processes of other engines to find.

use std::sync::Arc;

use anyhow::Result;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder};
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use skep_engine::TaskSettings;

/// What a session of skep's has besides DataFusion's functions, or in their places.
#[derive(Debug, Clone)]
pub(crate) struct Functions {
    scalar: Vec<Arc<ScalarUDF>>,
    aggregate: Vec<Arc<AggregateUDF>>,
    window: Vec<Arc<WindowUDF>>,
}

impl Functions {
    /// Returns them.
    pub(crate) fn of_skep(runtime: &RuntimeEnv) -> Result<Self> {
        // Of a session in which nothing was set.
        let here = TaskSettings::from_bytes(b"{}")?.task_context(runtime)?;
        let theirs = SessionStateBuilder::new_with_default_features().build();
        Ok(Self {
            scalar: new_among(here.scalar_functions().values(), |name| theirs.udf(name).ok()),
            aggregate: new_among(here.aggregate_functions().values(), |name| {
                theirs.udaf(name).ok()
            }),
            window: new_among(here.window_functions().values(), |name| theirs.udwf(name).ok()),
        })
    }

    /// Puts them into a session of another engine.
    pub(crate) fn register_in(&self, state: &mut SessionState) -> datafusion::error::Result<()> {
        for function in &self.scalar {
            state.register_udf(Arc::clone(function))?;
        }
        for function in &self.aggregate {
            state.register_udaf(Arc::clone(function))?;
        }
        for function in &self.window {
            state.register_udwf(Arc::clone(function))?;
        }
        Ok(())
    }
}

/// A function that is found by its name.
trait Named: PartialEq {
    fn name(&self) -> &str;
}

impl Named for ScalarUDF {
    fn name(&self) -> &str {
        self.name()
    }
}

impl Named for AggregateUDF {
    fn name(&self) -> &str {
        self.name()
    }
}

impl Named for WindowUDF {
    fn name(&self) -> &str {
        self.name()
    }
}

/// Returns the functions that `theirs` does not have, or has another of that name.
fn new_among<'a, F: Named + 'a>(
    functions: impl Iterator<Item = &'a Arc<F>>,
    theirs: impl Fn(&str) -> Option<Arc<F>>,
) -> Vec<Arc<F>> {
    functions
        .filter(|function| theirs(function.name()).is_none_or(|other| &other != *function))
        .map(Arc::clone)
        .collect()
}
