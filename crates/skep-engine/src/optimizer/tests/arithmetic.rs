//! Arithmetic and sums give the right number or an error.

use super::{context, error, rows};

const MAX: &str = "9223372036854775807";
const DIGITS: &str = "99999999999999999999999999999999999999";

#[tokio::test]
async fn operations_past_their_range_are_errors() {
    let context = context();
    for sql in [
        format!("SELECT {MAX} + 1"),
        format!("SELECT -{MAX} - 2"),
        format!("SELECT {MAX} * 2"),
        "SELECT -(-9223372036854775808)".to_owned(),
        "SELECT -arrow_cast(-128, 'Int8')".to_owned(),
        "SELECT abs(-9223372036854775808)".to_owned(),
        "SELECT -9223372036854775808 / -1".to_owned(),
        "SELECT 1 / 0".to_owned(),
        "SELECT 1 % 0".to_owned(),
        // A constant that only later becomes one.
        format!("SELECT a + 1 FROM (SELECT {MAX} AS a) AS v"),
        // Over rows.
        format!("SELECT a + 1 FROM (VALUES ({MAX}), (1)) AS v(a)"),
        "SELECT -a FROM (VALUES (-9223372036854775808), (1)) AS v(a)".to_owned(),
        format!("SELECT a FROM (VALUES ({MAX}), (1)) AS v(a) WHERE a * 2 > 5"),
        format!("SELECT count(*) FROM (VALUES ({MAX}), (1)) AS v(a) GROUP BY a + 1"),
        format!("SELECT sum(a * 2) FROM (VALUES ({MAX}), (1)) AS v(a)"),
        format!(
            "SELECT decimal_a + 1::DECIMAL(38, 0) FROM (SELECT '{DIGITS}'::DECIMAL(38, 0) AS decimal_a) AS v"
        ),
        format!("SELECT '-{DIGITS}'::DECIMAL(38, 0) - 1::DECIMAL(38, 0)"),
        format!("SELECT '{DIGITS}'::DECIMAL(38, 0) * 2::DECIMAL(38, 0)"),
    ] {
        let error = error(&context, &sql).await.to_lowercase();
        let told = ["overflow", "out of range", "divide by zero", "division by zero"];
        assert!(told.iter().any(|told| error.contains(told)), "{sql}\n{error}");
    }
    for (data_type, max) in [
        ("Int8", "127"),
        ("Int16", "32767"),
        ("Int32", "2147483647"),
        ("UInt8", "255"),
        ("UInt16", "65535"),
        ("UInt32", "4294967295"),
        ("UInt64", "18446744073709551615"),
    ] {
        let value = |value: &str| format!("arrow_cast('{value}', '{data_type}')");
        for sql in [
            format!("SELECT {} + {}", value(max), value("1")),
            format!("SELECT a * a FROM (SELECT {} AS a) AS v", value(max)),
            format!(
                "SELECT a - {} - a - {} FROM (SELECT {} AS a) AS v",
                value(max),
                value("2"),
                value("0")
            ),
        ] {
            let error = error(&context, &sql).await;
            assert!(error.contains("out of range"), "{sql}\n{error}");
        }
    }
}

#[tokio::test]
async fn operations_within_their_range_are_right() {
    let context = context();
    for (sql, expected) in [
        (format!("SELECT {MAX} - 1 + 1"), MAX),
        ("SELECT -9223372036854775808".to_owned(), "-9223372036854775808"),
        ("SELECT 1 + NULL".to_owned(), "NULL"),
        ("SELECT a + 5 FROM (VALUES (1)) AS v(a)".to_owned(), "6"),
        ("SELECT -a FROM (VALUES (1)) AS v(a)".to_owned(), "-1"),
        ("SELECT DATE '2024-01-31' + INTERVAL '1 month'".to_owned(), "2024-02-29"),
        ("SELECT 1.5 + 2.25".to_owned(), "3.75"),
        ("SELECT TRY_CAST(300 AS TINYINT)".to_owned(), "NULL"),
        ("SELECT TRY_CAST(1e30 AS BIGINT)".to_owned(), "NULL"),
        ("SELECT TRY_CAST(123456.789 AS DECIMAL(5, 2))".to_owned(), "NULL"),
    ] {
        assert_eq!(rows(&context, &sql).await, [expected], "{sql}");
    }
}

#[tokio::test]
async fn a_null_beside_a_huge_number_is_no_overflow() {
    let sql = format!("SELECT a + b FROM (VALUES ({MAX}, NULL), (1, 2)) AS v(a, b)");
    assert_eq!(rows(&context(), &sql).await, ["NULL", "3"]);
}

#[tokio::test]
async fn columns_keep_the_names_of_the_operation() {
    let context = context();
    let frame = context
        .sql("SELECT a + b, -a, sum(a * b) FROM (VALUES (1, 2)) AS v(a, b) GROUP BY a, b")
        .await
        .expect("a plan");
    let names = |schema: &datafusion::common::DFSchema| schema.field_names();
    let before = names(frame.schema());
    let plan = frame.into_optimized_plan().expect("a plan");
    assert_eq!(names(plan.schema()), before);
}

#[tokio::test]
async fn what_cannot_overflow_is_left_to_datafusion() {
    let context = context();
    let sql = "SELECT a + 1, d * d, f + f FROM (SELECT arrow_cast(1, 'Int32') AS a, \
               1::DECIMAL(10, 2) AS d, 1.0::DOUBLE AS f FROM (VALUES (1))) AS v";
    let plan = context.sql(sql).await.expect("a plan").into_unoptimized_plan();
    let plan = super::super::analyzer_rules(None).iter().fold(plan, |plan, rule| {
        rule.analyze(plan, &datafusion::config::ConfigOptions::default()).expect("a plan")
    });
    assert!(!format!("{plan:?}").contains("CheckedBinary"), "{plan:?}");
}

#[tokio::test]
async fn sums_past_their_range_are_errors() {
    let context = context();
    let big = format!("(VALUES ({MAX}), (1), (1)) AS v(a)");
    let decimals =
        format!("(SELECT '{DIGITS}'::DECIMAL(38, 0) AS a UNION ALL SELECT 1::DECIMAL(38, 0)) AS v");
    for sql in [
        format!("SELECT sum(a) FROM {big}"),
        format!("SELECT sum(DISTINCT a) FROM {big}"),
        format!("SELECT sum(a), count(DISTINCT a) FROM {big}"),
        format!("SELECT a % 2, sum(a) FROM {big} GROUP BY a % 2"),
        format!("SELECT sum(a) FILTER (WHERE a > 0) FROM {big}"),
        format!("SELECT sum(a) OVER () FROM {big}"),
        format!("SELECT sum(a) OVER (ORDER BY a) FROM {big}"),
        format!(
            "SELECT sum(a) OVER (ORDER BY a ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM {big}"
        ),
        format!(
            "SELECT sum(DISTINCT a) OVER (ORDER BY a ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM {big}"
        ),
        format!("SELECT sum(arrow_cast(a, 'UInt64') * arrow_cast(2, 'UInt64')) FROM {big}"),
        format!("SELECT sum(a + 1), sum(a + 2) FROM (VALUES ({MAX}), (5)) AS v(a)"),
        format!("SELECT sum(a) FROM {decimals}"),
        format!("SELECT sum(DISTINCT a) FROM {decimals}"),
        format!("SELECT 1 AS k, sum(a) FROM {decimals} GROUP BY k"),
        format!(
            "SELECT sum(a) OVER (ORDER BY a ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM {decimals}"
        ),
    ] {
        let error = error(&context, &sql).await;
        assert!(error.contains("out of"), "{sql}\n{error}");
    }
}

#[tokio::test]
async fn sums_within_their_range_are_right() {
    let context = context();
    for (sql, expected) in [
        (format!("SELECT sum(a) FROM (VALUES ({MAX}), (NULL)) AS v(a)"), &[MAX][..]),
        ("SELECT sum(a), sum(DISTINCT a) FROM (VALUES (7), (1), (1)) AS v(a)".to_owned(), &["9 8"]),
        ("SELECT sum(a) FROM (VALUES (1)) AS v(a) WHERE a > 1".to_owned(), &["NULL"]),
        (
            "SELECT k, sum(a), sum(a) FILTER (WHERE a > 1) FROM \
             (VALUES (1, 1), (1, 2), (2, NULL), (3, 0)) AS v(k, a) GROUP BY k ORDER BY k"
                .to_owned(),
            &["1 3 2", "2 NULL NULL", "3 0 NULL"],
        ),
        (
            format!(
                "SELECT sum(a) OVER (ORDER BY a ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS s \
                 FROM (VALUES ({MAX}), (-1), (-5), (NULL)) AS v(a) ORDER BY s"
            ),
            &["-6", "-5", MAX, "9223372036854775806"],
        ),
        (
            "SELECT sum(DISTINCT a) OVER (ORDER BY k ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) \
             FROM (VALUES (1, 4), (2, 4), (3, 5), (4, NULL), (5, NULL)) AS v(k, a) ORDER BY k"
                .to_owned(),
            &["4", "4", "9", "5", "NULL"],
        ),
        (
            "SELECT sum(a + 1), sum(a + 2) FROM (VALUES (9223372036854775800), (2)) AS v(a)"
                .to_owned(),
            &["9223372036854775804 9223372036854775806"],
        ),
        ("SELECT sum(a) FROM (VALUES (1.5), (2.5)) AS v(a)".to_owned(), &["4.0"]),
        (
            "SELECT sum(a) FROM (VALUES (1.5::DECIMAL(38, 2)), (2.5::DECIMAL(38, 2))) AS v(a)"
                .to_owned(),
            &["4.00"],
        ),
    ] {
        let mut found = rows(&context, &sql).await;
        if sql.contains("ORDER BY s") {
            found.sort();
            let mut expected: Vec<_> = expected.iter().map(|row| (*row).to_owned()).collect();
            expected.sort();
            assert_eq!(found, expected, "{sql}");
        } else {
            assert_eq!(found, expected, "{sql}");
        }
    }
}

#[tokio::test]
async fn casts_out_of_range_are_errors() {
    let context = context();
    for sql in [
        "SELECT CAST(1e30 AS BIGINT)",
        "SELECT CAST(300 AS TINYINT)",
        "SELECT CAST(a AS TINYINT) FROM (VALUES (300)) AS v(a)",
        "SELECT CAST('nan'::DOUBLE AS INT)",
        "SELECT CAST(-1 AS INT UNSIGNED)",
        "SELECT CAST(123456.789 AS DECIMAL(5, 2))",
        "SELECT CAST(1e39 AS DECIMAL(38, 0))",
    ] {
        error(&context, sql).await;
    }
}

/// The price of checking is paid only where a number could really leave its type.
#[tokio::test]
async fn decimals_that_have_room_are_not_checked() {
    let context = context();
    let plan = |sql: &'static str| {
        let context = &context;
        async move {
            let frame = context.sql(sql).await.expect("plan");
            format!("{}", frame.into_optimized_plan().expect("optimize"))
        }
    };
    let roomy = plan(
        "SELECT p * (1 - d) FROM (VALUES (1.0::DECIMAL(15, 2), 0.1::DECIMAL(15, 2))) AS v(p, d)",
    )
    .await;
    assert!(!roomy.contains("checked"), "{roomy}");
    let tight =
        plan("SELECT p * d FROM (VALUES (1.0::DECIMAL(30, 2), 0.1::DECIMAL(15, 2))) AS v(p, d)")
            .await;
    assert!(tight.contains("checked"), "{tight}");
}

/// Narrow and wide digits take different ways to the same numbers.
#[tokio::test]
async fn decimal_products_are_right_on_every_path() {
    let context = context();
    for (left, right, expected) in [
        ("'12345678.90'", "'-0.25'", "-3086419.725000"),
        ("'92233720368547758.08'", "'1.0001'", "92242943740584612.855808"),
    ] {
        let sql = format!(
            "SELECT a * b FROM (VALUES ({left}::DECIMAL(30, 2), {right}::DECIMAL(10, 4)), \
             (NULL, 1), (1, NULL)) AS v(a, b) ORDER BY a IS NULL, b IS NULL LIMIT 1"
        );
        assert_eq!(rows(&context, &sql).await.join(" "), expected, "{sql}");
    }
    let nulls = "SELECT count(a * b) FROM (VALUES (1.5::DECIMAL(30, 2), 2::DECIMAL(10, 4)), \
                 (NULL, 1), (1, NULL)) AS v(a, b)";
    assert_eq!(rows(&context, nulls).await.join(" "), "1");
}
