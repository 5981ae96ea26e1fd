//! The stages of a query as text, for `EXPLAIN` and for tests.

use std::fmt::Write;

use datafusion::physical_plan::displayable;

use super::stage::{Place, Stage, StagePlan};

/// Returns the stages as text, leaves first: a line for each and its plan below.
///
/// The same plan gives the same text.
pub fn explain(plan: &StagePlan) -> String {
    let mut text = String::new();
    // What makes cached tables is no part of the query, as long as they are kept.
    for stage in plan.stages.iter().filter(|stage| stage.lineage_of.is_none()) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", headline(stage));
        let tree = displayable(stage.plan.as_ref()).indent(false).to_string();
        for line in tree.lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

/// Returns a stage in one line: its tasks, where they run, and what becomes of their rows.
pub fn headline(stage: &Stage) -> String {
    let Stage { id, task_count, output, .. } = stage;
    let tasks = if *task_count == 1 { "task" } else { "tasks" };
    let place = match &stage.place {
        Place::Workers => String::new(),
        Place::Anywhere => " anywhere".to_owned(),
        Place::Coordinator { why } => format!(" on the coordinator ({why})"),
    };
    format!("Stage {id}: {task_count} {tasks}{place}, {output}")
}
