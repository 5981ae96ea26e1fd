//! Every format, over values that are hard to write.

use crate::process::run;

const VALUES: &str = "
SELECT * FROM (VALUES
  (1, 'plain', 1.5, true, CAST('12345678901234567890.0123456789' AS decimal(38, 10))),
  (-9223372036854775808, '', 1e300, false, 0),
  (9223372036854775807, 'a,b \"c\" | d\\e', CAST('NaN' AS double), NULL, -0.5),
  (NULL, NULL, CAST('inf' AS double), NULL, NULL),
  (0, 'NULL', -0.0, true, 1),
  (2, E'two\\nlines\\tand a tab', 0.1, true, 1),
  (3, '蜂蜜 é', 100, true, 1)
) AS t(\"int\", \"text\", \"float\", \"flag\", \"dec\")";

const TYPES: &str = "
SELECT
  DATE '2024-02-29' AS d,
  TIMESTAMP '2024-02-29 12:34:56.789' AS ts,
  arrow_cast(TIMESTAMP '2024-02-29 12:34:56', 'Timestamp(Second, Some(\"+02:00\"))') AS tz,
  TIME '23:59:59' AS t,
  INTERVAL '1 year 2 days' AS i,
  X'00ff' AS b,
  [1, NULL, 3] AS l,
  named_struct('a', 1, 'b', 'x\"y') AS s,
  MAP {1: 'one', 2: NULL} AS m,
  arrow_cast('word', 'Dictionary(Int32, Utf8)') AS dict,
  NULL AS n";

fn shown(format: &str, script: &str) -> String {
    run(&["--format", format, "-c", script]).success()
}

#[test]
fn values_in_every_format() {
    for format in ["box", "table", "csv", "tsv", "json", "ndjson", "markdown", "line", "null"] {
        insta::assert_snapshot!(format!("values_{format}"), shown(format, VALUES));
    }
}

#[test]
fn types_in_every_format() {
    for format in ["box", "csv", "tsv", "ndjson", "line"] {
        insta::assert_snapshot!(format!("types_{format}"), shown(format, TYPES));
    }
}

#[test]
fn results_without_rows_have_a_header() {
    let script = "SELECT 1 AS x, 'a' AS y WHERE false";
    for (format, text) in [
        ("csv", "x,y\n"),
        ("tsv", "x\ty\n"),
        ("json", "[]\n"),
        ("ndjson", ""),
        ("markdown", "| x | y |\n|---:|:---|\n"),
        ("line", ""),
        ("null", ""),
    ] {
        assert_eq!(shown(format, script), text, "{format}");
    }
    assert_eq!(shown("table", script).lines().count(), 5);
}

#[test]
fn results_in_json_are_one_array_each() {
    assert_eq!(shown("json", "SELECT 1 AS x; SELECT 2 AS y"), "[\n{\"x\":1}\n]\n[\n{\"y\":2}\n]\n");
}

#[test]
fn names_are_quoted_like_values() {
    let script = r#"SELECT 1 AS "a,b", 2 AS "say ""x""", 3 AS "tab	it""#;
    assert_eq!(shown("csv", script), "\"a,b\",\"say \"\"x\"\"\",tab\tit\n1,2,3\n");
    assert_eq!(shown("tsv", script), "a,b\tsay \"x\"\ttab\\tit\n1\t2\t3\n");
    assert_eq!(shown("ndjson", script), "{\"a,b\":1,\"say \\\"x\\\"\":2,\"tab\\tit\":3}\n");
}

#[test]
fn many_batches_are_one_result() {
    let script = "SELECT value FROM generate_series(1, 50000) ORDER BY value";
    let csv = shown("csv", script);
    let expected: String = (1..=50000).map(|number| format!("{number}\n")).collect();
    assert_eq!(csv, format!("value\n{expected}"));
    let json: serde_json::Value = serde_json::from_str(&shown("json", script)).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 50000);
    assert_eq!(json[49999]["value"], 50000);
}

#[test]
fn plans_are_readable_text() {
    let plan = shown("box", "EXPLAIN SELECT 1 AS x WHERE true");
    assert!(plan.starts_with("logical_plan:\n  "), "{plan}");
    assert!(plan.contains("\n\nphysical_plan:\n  "), "{plan}");
}
