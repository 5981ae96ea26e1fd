//! How far queries are, for whoever waits for them.

use std::sync::Arc;

use super::system_tables::ViewSource;
use super::{Shared, Views};
use crate::ids::QueryId;
use crate::scheduler::QueryState;

/// Names queries, and tells how far they are. Clones share it.
#[derive(Debug, Clone)]
pub struct QueryMonitor {
    shared: Arc<Shared>,
}

/// How far a query is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// The part of its tasks that have ended, from 0 to 1.
    pub fraction: f64,
    /// Whether rows can be read without waiting for a whole stage, or an error can.
    pub has_result: bool,
}

impl QueryMonitor {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Returns a name that no query had; one that is submitted under it is listed under it.
    pub fn next_query(&self) -> QueryId {
        self.shared.next_query()
    }

    /// Tells how far a query is; `None` if the cluster does not run it.
    pub async fn progress(&self, query: QueryId) -> Option<Progress> {
        progress(&self.shared.views(false).await, query)
    }

    /// Tells how much of what a query that runs in this process will read has been read, from 0 to 1
    /// as far as that is known; `None` if none of that name runs here.
    pub fn local_fraction(&self, query: QueryId) -> Option<f64> {
        self.shared.local.fraction(query)
    }
}

fn progress(views: &Views, query: QueryId) -> Option<Progress> {
    // What the coordinator runs by itself has no stages.
    let mut queries = views.queries.iter().map(|(view, _)| view);
    let view = queries.find(|view| view.query == query && view.stage_count > 0)?;
    let stages = || views.stages.iter().filter(|stage| stage.query == query);
    let count = |of: fn(&crate::scheduler::StageView) -> usize| stages().map(of).sum::<usize>();
    let all = count(|stage| stage.task_count);
    let ended = count(|stage| {
        stage.task_count.saturating_sub(stage.waiting_count).saturating_sub(stage.running_count)
    });
    let is_over = matches!(view.state, QueryState::Finished | QueryState::Failed);
    // The last stage is read output by output.
    let last = stages().max_by_key(|stage| stage.stage);
    let has_output =
        last.is_some_and(|stage| stage.waiting_count + stage.running_count < stage.task_count);
    let fraction = match all {
        _ if is_over => 1.0,
        0 => 0.0,
        all => ended as f64 / all as f64,
    };
    Some(Progress { fraction, has_result: is_over || has_output })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::ids::StageId;
    use crate::scheduler::{QueryView, StageView};

    fn views(state: QueryState, stages: &[(usize, usize, usize)]) -> Views {
        let mut views = Views::empty(Duration::ZERO, SystemTime::UNIX_EPOCH);
        let query = QueryView {
            query: QueryId(7),
            state,
            weight: 1,
            submitted: Duration::ZERO,
            started: None,
            ended: None,
            error: None,
            stage_count: stages.len(),
            task_count: stages.iter().map(|stage| stage.0).sum(),
            attempt_count: 0,
            rows: 0,
        };
        views.queries.push((query, None));
        for (idx, (task_count, waiting_count, running_count)) in stages.iter().enumerate() {
            views.stages.push(StageView {
                query: QueryId(7),
                stage: StageId(idx as u32),
                task_count: *task_count,
                waiting_count: *waiting_count,
                running_count: *running_count,
                attempt_count: 0,
                rows: 0,
                output_bytes: 0,
                started: None,
                ended: None,
            });
        }
        views
    }

    #[test]
    fn progress_is_the_part_of_tasks_that_have_ended() {
        let of = |state, stages: &[_]| progress(&views(state, stages), QueryId(7)).unwrap();
        let begun = of(QueryState::Running, &[(3, 1, 1), (1, 1, 0)]);
        assert_eq!(begun, Progress { fraction: 0.25, has_result: false });
        let read = of(QueryState::Running, &[(3, 0, 0), (2, 0, 1)]);
        assert_eq!(read, Progress { fraction: 0.8, has_result: true });
        let failed = of(QueryState::Failed, &[(3, 3, 0)]);
        assert_eq!(failed, Progress { fraction: 1.0, has_result: true });
        assert_eq!(progress(&views(QueryState::Queued, &[]), QueryId(8)), None);
    }
}
