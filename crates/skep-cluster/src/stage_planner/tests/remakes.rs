//! What of an answer may be other when it is made again.

use super::super::Remake::{self, Other, Reordered, Same};
use super::super::{Resume, explain, remakes, resume};
use super::traps::{Joins, tables};
use crate::exchange::plan::Output;

async fn assert_remakes(cases: &[(&str, &[Remake])]) {
    let (run, _directory) = tables(3, Joins::Collected).await;
    for (query, expected) in cases {
        let plan = run.stages(query).await;
        assert_eq!(remakes(&plan.stages), *expected, "{query}\n{}", explain(&plan));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_ask_for_an_order_is_the_same_rows() {
    assert_remakes(&[
        ("SELECT k + 1, v FROM big WHERE v > 3", &[Same]),
        ("SELECT v FROM big WHERE v > (SELECT max(a + 1) FROM l)", &[Same, Same, Same]),
        ("SELECT k, count(*), sum(v) FROM big GROUP BY k", &[Reordered, Reordered]),
        ("SELECT k, avg(v) FROM big GROUP BY k", &[Reordered, Reordered]),
        ("SELECT l.a, r.b FROM l JOIN r ON l.k = r.k", &[Same, Same]),
        ("SELECT k, v FROM big WHERE v % 2 = 0 LIMIT 11", &[Same, Same]),
        ("SELECT k, v FROM big ORDER BY k", &[Reordered, Reordered]),
        ("SELECT v, rank() OVER (PARTITION BY k ORDER BY g) FROM big", &[Same, Reordered]),
        ("SELECT v, sum(v) OVER (PARTITION BY k ORDER BY g) FROM big", &[Same, Reordered]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_picks_by_order_or_rolls_dice_may_be_other_rows() {
    assert_remakes(&[
        ("SELECT k, random() FROM big", &[Other]),
        ("SELECT k, count(*) FROM big WHERE random() < 0.5 GROUP BY k", &[Other, Reordered]),
        ("SELECT k, array_agg(v) FROM big GROUP BY k", &[Reordered, Other]),
        ("SELECT k, first_value(v) FROM big GROUP BY k", &[Reordered, Other]),
        ("SELECT v, row_number() OVER (PARTITION BY k ORDER BY g) FROM big", &[Same, Other]),
        ("SELECT k, count(*) FROM big GROUP BY k ORDER BY 2 LIMIT 3", &[Reordered, Other, Other]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_digits_of_a_float_count_where_they_decide() {
    assert_remakes(&[
        ("SELECT v FROM big WHERE v > (SELECT avg(v) FROM big)", &[Same, Other, Reordered]),
        (
            "SELECT s, count(*) FROM (SELECT k, avg(v) AS s FROM big GROUP BY k) GROUP BY s",
            &[Reordered, Other, Reordered],
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_flows_if_it_can_be_gone_on_with() {
    let (run, _directory) = tables(3, Joins::Collected).await;
    let cases = [
        ("SELECT l.a, r.b FROM l JOIN r ON l.k = r.k", "exact"),
        ("SELECT v FROM big WHERE v > (SELECT max(a + 1) FROM l)", "exact"),
        ("SELECT k, v FROM big ORDER BY k", "sorted"),
        ("SELECT k, count(*) AS n FROM big GROUP BY k ORDER BY n", "sorted"),
        ("SELECT k, count(*) FROM big GROUP BY k", "never"),
        ("SELECT k, avg(v) AS a FROM big GROUP BY k ORDER BY a", "never"),
        ("SELECT v FROM big ORDER BY k", "never"),
        ("SELECT k, random() FROM big ORDER BY k", "never"),
        ("SELECT v FROM big WHERE v > (SELECT min(a * random()) FROM l)", "never"),
    ];
    for (query, expected) in cases {
        let plan = run.stages(query).await;
        let found = match resume(&plan.stages) {
            Resume::Exact => "exact",
            Resume::Sorted(_) => "sorted",
            Resume::Never => "never",
        };
        assert_eq!(found, expected, "{query}\n{}", explain(&plan));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn producers_are_read_one_after_the_other_only_where_it_helps() {
    let cases = [
        (Joins::Partitioned, "SELECT l.a, r.b FROM l JOIN r ON l.k = r.k", true),
        (Joins::Partitioned, "SELECT k, v FROM big", false),
        (Joins::Partitioned, "SELECT k, count(*) FROM big GROUP BY k", false),
        (Joins::Partitioned, "SELECT k, v FROM big ORDER BY k", false),
    ];
    for (joins, query, expected) in cases {
        let (run, _directory) = tables(3, joins).await;
        let plan = run.stages(query).await;
        let output = &plan.stages.last().unwrap().output;
        let is_in_order = matches!(output, Output::Result { in_order: true });
        assert_eq!(is_in_order, expected, "{query}\n{}", explain(&plan));
    }
}
