//! The 22 queries of TPC-H: their answers at scale 0.01, and their stages.

use skep_testkit::tpch::{DataSet, QUERY_COUNT, TABLES, query};

use super::{LocalRun, Order, assert_same};
use crate::stage_planner::explain;

const DATA: DataSet = DataSet::SMALL;

async fn tpch(target_partitions: usize) -> LocalRun {
    let run = LocalRun::new(target_partitions).await;
    let directory = DATA.cached().unwrap();
    for table in TABLES {
        let (name, file) = (table.name(), DATA.file(&directory, table));
        let file = file.display();
        run.command(&format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{file}'"))
            .await;
    }
    // Thresholds scaled with the data, so that plans look as they do at scale 1.
    for (setting, value) in [
        ("hash_join_single_partition_threshold", 10_485),
        ("hash_join_single_partition_threshold_rows", 1_310),
        ("repartition_file_min_size", 104_857),
    ] {
        run.command(&format!("SET datafusion.optimizer.{setting} = {value}")).await;
    }
    run
}

async fn assert_answers(target_partitions: usize) {
    let mut run = tpch(target_partitions).await;
    for number in 1..=QUERY_COUNT {
        assert_same(&mut run, &query(number, DATA.scale), Order::Kept).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_partition_answers_tpch() {
    assert_answers(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_partitions_answer_tpch() {
    assert_answers(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_partitions_answer_tpch() {
    assert_answers(16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcasts_answer_tpch() {
    let mut run = tpch(3).await;
    for setting in
        ["hash_join_single_partition_threshold", "hash_join_single_partition_threshold_rows"]
    {
        run.command(&format!("SET datafusion.optimizer.{setting} = 1000000000")).await;
    }
    for number in 1..=QUERY_COUNT {
        assert_same(&mut run, &query(number, DATA.scale), Order::Kept).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stages_of_tpch_are_as_recorded() {
    let run = tpch(4).await;
    let directory = DATA.cached().unwrap();
    let directory = directory.to_str().unwrap().trim_start_matches('/');
    for number in 1..=QUERY_COUNT {
        let text = explain(&run.stages(&query(number, DATA.scale)).await);
        let again = explain(&run.stages(&query(number, DATA.scale)).await);
        assert_eq!(text, again, "query {number}");
        let text = without_ranges(&text.replace(directory, "TPCH"));
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(format!("tpch_q{number:02}"), text);
        });
    }
}

/// Takes byte ranges off file names: `a.parquet:0..123` becomes `a.parquet:RANGE`.
fn without_ranges(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(".parquet:") {
        let (head, tail) = rest.split_at(at + ".parquet:".len());
        out.push_str(head);
        out.push_str("RANGE");
        rest = tail.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    }
    out.push_str(rest);
    out
}
