//! Figures of tasks at the plans of their stages, narrowed ones included.

use skep_engine::{Engine, EngineConfig, Session};
use skep_proto::cluster::Metric as Said;
use tempfile::TempDir;

use super::*;
use crate::stage_planner::{StageOptions, StagePlanner, TaskPlan};

const WIDTH: usize = 4;

/// A session with a table `big` of four files and a table `small` of one.
async fn session() -> (Session, TempDir) {
    let config = EngineConfig { target_partitions: Some(WIDTH), ..EngineConfig::default() };
    let session = Engine::open(config).await.unwrap().session();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    let mut statements = Vec::new();
    for table in ["big", "small"] {
        std::fs::create_dir(directory.path().join(table)).unwrap();
        for part in 0..if table == "big" { WIDTH } else { 1 } {
            statements.push(format!(
                "COPY (SELECT value AS k, value * 2 AS v FROM generate_series(1, 100)) \
                 TO '{path}/{table}/{part}.parquet'"
            ));
        }
        statements.push(format!(
            "CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{path}/{table}/'"
        ));
    }
    for statement in statements {
        session.execute(&statement).await.unwrap().collect().await.unwrap();
    }
    (session, directory)
}

async fn stages(session: &Session, query: &str) -> StagePlan {
    let (state, plan) = session.sql(query).await.unwrap().into_parts();
    let plan = state.create_physical_plan(&plan).await.unwrap();
    let options =
        StageOptions { target_partitions: WIDTH, min_scan_bytes_per_task: 1 << 20, slots: None };
    StagePlanner::new(options).plan(&plan).unwrap()
}

fn figures(name: &str, figures: &[(&str, Kind, u64)]) -> OperatorMetrics {
    let metric = |(name, kind, value): &(&str, Kind, u64)| {
        let name = (*name).to_owned();
        Said { name, kind: i32::from(*kind), value: *value }
    };
    OperatorMetrics { operator: name.to_owned(), metrics: figures.iter().map(metric).collect() }
}

/// What a task would say of a plan; each operator made one row.
fn said(plan: &Arc<dyn ExecutionPlan>) -> Vec<OperatorMetrics> {
    let mut all = vec![figures(plan.name(), &[("output_rows", Kind::Count, 1)])];
    all.extend(plan.children().into_iter().flat_map(said));
    all
}

#[tokio::test]
async fn counts_and_times_are_summed_and_the_largest_gauge_is_taken() {
    let (session, _directory) = session().await;
    let plan = stages(&session, "SELECT k, v FROM big WHERE v > 10").await;
    assert_eq!(plan.stages.len(), 1, "{}", crate::stage_planner::explain(&plan));
    let mut analysis = Analysis::new(&plan);
    let names: Vec<String> = said(&plan.stages[0].plan).into_iter().map(|op| op.operator).collect();
    assert_eq!(names, ["FilterExec", "DataSourceExec"]);
    for task in 0..WIDTH as u64 {
        let filter = [
            ("elapsed_compute", Kind::Time, 1_000_000 * (task + 1)),
            ("output_rows", Kind::Count, 10 + task),
            ("peak_mem_used", Kind::Gauge, 100 * (task + 1)),
            ("spilled_bytes", Kind::Count, 512),
            ("start_timestamp", Kind::Count, 5),
            ("wait", Kind::Time, 0),
        ];
        let list = [figures(&names[0], &filter), figures(&names[1], &[])];
        assert!(analysis.record(StageId(0), task as usize, &list));
    }
    let [(headline, tree)] = &analysis.sections()[..] else { panic!("one stage") };
    assert_eq!(headline, "Stage s0 · 4 tasks · result");
    let lines: Vec<&str> = tree.lines().collect();
    assert!(
        lines[0].starts_with("FilterExec: ")
            && lines[0].ends_with(
                ", metrics=[output_rows=46, elapsed_compute=10.00ms, spilled_bytes=2.0 KB, \
                 peak_mem_used=400.0 B, wait=NOT RECORDED]"
            ),
        "{tree}"
    );
    assert!(lines[1].starts_with("  DataSourceExec: ") && lines[1].ends_with(", metrics=[]"));
    assert_eq!(lines.len(), 2);
    let text = analysis.to_string();
    assert!(text.starts_with("Stage s0 · 4 tasks · result\n  FilterExec: "), "{text}");
    assert!(text.contains("\n    DataSourceExec: "), "{text}");
}

#[tokio::test]
async fn a_task_counts_once_and_a_strange_list_not_at_all() {
    let (session, _directory) = session().await;
    let plan = stages(&session, "SELECT k, count(*) FROM big GROUP BY k").await;
    assert!(plan.stages.len() > 1);
    let stage = &plan.stages[0];
    let mut analysis = Analysis::new(&plan);
    let good = said(&stage.plan);
    assert!(analysis.record(stage.id, 0, &good));
    assert!(!analysis.record(stage.id, 0, &good), "a second attempt");
    assert!(!analysis.record(stage.id, stage.task_count, &good), "no such task");
    assert!(!analysis.record(StageId(99), 0, &good), "no such stage");
    let mut other = good.clone();
    other[0].operator = "OtherExec".to_owned();
    let mut longer = good.clone();
    longer.push(good[0].clone());
    for strange in [&other[..], &longer[..], &good[1..], &good[..good.len() - 1], &[]] {
        assert!(!analysis.record(stage.id, 1, strange), "{strange:?}");
    }
    let (headline, tree) = &analysis.sections()[0];
    assert!(
        headline.starts_with("Stage s0 · 4 tasks · hash(k@0) to 4 · figures of 1"),
        "{headline}"
    );
    assert!(tree.lines().all(|line| line.ends_with("metrics=[output_rows=1]")), "{tree}");
    assert!(analysis.record(stage.id, 1, &good), "what did not fit left nothing behind");
    let (_, tree) = &analysis.sections()[0];
    assert!(tree.lines().all(|line| line.ends_with("metrics=[output_rows=2]")), "{tree}");
}

#[tokio::test]
async fn narrowed_plans_are_found_again_in_their_stages() {
    let (session, _directory) = session().await;
    let query = "SELECT u.k, s.v FROM \
                 (SELECT k, v FROM big UNION ALL SELECT k, v FROM big WHERE v > 10) u \
                 JOIN small s ON u.k = s.k";
    let outline = stages(&session, query).await;
    let text = crate::stage_planner::explain(&outline);
    let (state, _) = session.sql("SELECT 1").await.unwrap().into_parts();
    let mut analysis = Analysis::new(&outline);
    let (mut narrowed_count, mut missing_union_count) = (0, 0);
    for (idx, stage) in outline.stages.iter().enumerate() {
        for task in 0..stage.task_count {
            // Each task has a plan of its own, as if it had been decoded for it.
            let fresh = stages(&session, query).await;
            let whole = said(&fresh.stages[idx].plan);
            let options = state.config_options();
            let narrowed = TaskPlan::new(&fresh.stages[idx].plan, task, options).unwrap();
            let list = said(&narrowed.plan);
            let count = |list: &[OperatorMetrics], name: &str| {
                list.iter().filter(|said| said.operator == name).count()
            };
            narrowed_count += count(&list, NARROWING);
            missing_union_count += count(&whole, "UnionExec") - count(&list, "UnionExec");
            assert!(
                analysis.record(stage.id, task, &list),
                "{} {task}: {list:?}\n{text}",
                stage.id
            );
        }
    }
    // Without these the test shows nothing.
    assert!(narrowed_count > 0, "{text}");
    assert!(missing_union_count > 0, "{text}");
    for ((headline, tree), stage) in analysis.sections().iter().zip(&outline.stages) {
        assert!(!headline.contains("figures of"), "{headline}");
        let total = format!("metrics=[output_rows={}]", stage.task_count);
        assert!(tree.lines().next().unwrap().ends_with(&total), "{tree}");
    }
    // Each branch of the union was counted by its own tasks alone.
    let text = analysis.to_string();
    let scans: Vec<&str> = text.lines().filter(|line| line.contains("/big/")).collect();
    assert_eq!(scans.len(), 2, "{text}");
    assert!(scans.iter().all(|line| line.ends_with("output_rows=4]")), "{text}");
}
