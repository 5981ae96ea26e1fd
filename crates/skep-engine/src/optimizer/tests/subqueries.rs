//! Each correlated subquery against the same one asked row by row with the outer values written in.

use datafusion::prelude::SessionContext;

use super::{context, error, rows, run, sorted};

/// Rows of the outer table `t(a, b, y)`: doubles, NULLs, values without partners.
const OUTER: [[Option<i32>; 3]; 7] = [
    [Some(1), Some(10), Some(1)],
    [Some(2), Some(20), Some(2)],
    [Some(3), None, Some(3)],
    [Some(4), Some(20), None],
    [Some(5), Some(50), Some(5)],
    [Some(5), Some(50), Some(5)],
    [None, Some(0), Some(-1)],
];

fn literal(value: Option<i32>) -> String {
    value.map_or_else(|| "CAST(NULL AS INT)".to_owned(), |value| format!("CAST({value} AS INT)"))
}

async fn tables() -> SessionContext {
    let context = context();
    let row = |row: &[Option<i32>; 3]| row.map(literal).join(", ");
    let values = OUTER.iter().map(|values| format!("({})", row(values))).collect::<Vec<_>>();
    for statement in [
        format!("CREATE TABLE t(a INT, b INT, y INT) AS VALUES {}", values.join(", ")),
        "CREATE TABLE u(x INT, y INT) AS VALUES (1, 1), (2, 1), (3, 2), (4, NULL), (NULL, 4)"
            .to_owned(),
    ] {
        run(&context, &statement).await.expect("a table");
    }
    context
}

/// Asks for `value`, an expression with a subquery over `t.a`, `t.b` and `t.y`, of every row of
/// `t`, and of each row by itself with its values in place of the columns.
async fn compare(context: &SessionContext, value: &str) {
    let together = sorted(context, &format!("SELECT t.a, t.b, t.y, {value} FROM t")).await;
    let mut one_by_one = Vec::new();
    for [a, b, y] in OUTER.map(|row| row.map(literal)) {
        let value = value.replace("t.a", &a).replace("t.b", &b).replace("t.y", &y);
        one_by_one.extend(
            rows(context, &format!("SELECT {a} AS a, {b} AS b, {y} AS y, {value} AS v")).await,
        );
    }
    one_by_one.sort();
    assert_eq!(together, one_by_one, "{value}");
    // The same as a condition and as an order.
    let test = format!("SELECT t.a, t.b, t.y, '{{}}' FROM t WHERE ({value}) IS NULL");
    let nulls = together.iter().filter(|row| row.ends_with("NULL")).count();
    assert_eq!(rows(context, &test).await.len(), nulls, "{test}");
    let order = format!("SELECT t.a, t.b, t.y FROM t ORDER BY {value}, t.a, t.b, t.y");
    assert_eq!(rows(context, &order).await.len(), OUTER.len(), "{order}");
}

macro_rules! compared {
    ($($name:ident: [$($value:expr),* $(,)?];)*) => {$(
        #[tokio::test]
        async fn $name() {
            let context = tables().await;
            for value in [$($value),*] {
                compare(&context, value).await;
            }
        }
    )*};
}

compared! {
    aggregates_over_inequalities: [
        "(SELECT count(*) FROM u WHERE u.y < t.y)",
        "(SELECT count(*) + 1 FROM u WHERE u.y < t.y)",
        "(SELECT coalesce(sum(u.x), 0) FROM u WHERE u.y < t.y)",
        "(SELECT avg(u.x) FROM u WHERE u.y <> t.y)",
        "(SELECT max(u.x) FROM u WHERE u.y < t.y OR u.x = t.a)",
        "(SELECT count(*) FROM u WHERE u.y < t.y AND u.x > t.a - 2)",
        "(SELECT count(*) FROM u WHERE u.y = t.y AND u.x >= t.a)",
        "(SELECT count(*) FROM u WHERE u.y = t.y)",
        "(SELECT count(*) FROM u WHERE u.y IS NOT DISTINCT FROM t.y)",
        "(SELECT count(*) FILTER (WHERE u.x > t.a) FROM u)",
        "(SELECT count(DISTINCT u.y) FROM u WHERE u.x < t.a)",
        "(SELECT sum(u.x + t.a) FROM u)",
        "(SELECT sum(u.x) + t.a FROM u WHERE u.y < t.y)",
        "(SELECT count(*) FROM u WHERE u.y < t.y HAVING count(*) > 1)",
        "(SELECT count(*) + t.b FROM u WHERE u.y = t.y)",
    ];
    subqueries_within_expressions: [
        "CASE WHEN t.a > 2 THEN (SELECT count(*) FROM u WHERE u.y < t.y) ELSE -1 END",
        "(SELECT count(*) FROM u WHERE u.y < t.y) * (SELECT count(*) FROM u WHERE u.x > t.a)",
        "t.b + (SELECT t.a)",
        "(SELECT max(u.x) FROM u) + (SELECT count(*) FROM u WHERE u.y > t.y)",
    ];
    inner_shapes: [
        "(SELECT count(*) FROM u JOIN t AS q ON q.y = u.y WHERE u.x < t.a)",
        "(SELECT count(q.a) FROM u LEFT JOIN t AS q ON q.y = u.y AND q.a < t.a)",
        "(SELECT count(*) FROM u FULL JOIN t AS q ON q.y = u.y AND q.a < t.a)",
        "(SELECT count(*) FROM u RIGHT JOIN t AS q ON q.y = u.y AND q.a < t.a)",
        "(SELECT count(*) FROM u LEFT JOIN (SELECT * FROM t AS p WHERE p.a < t.a) AS q \
         ON q.y = u.y)",
        "(SELECT count(*) FROM (SELECT DISTINCT b FROM t AS q WHERE q.a < t.a) AS d)",
        "(SELECT sum(v) FROM (SELECT x AS v FROM u WHERE u.y < t.y \
         UNION ALL SELECT q.b FROM t AS q WHERE q.a = t.a) AS w)",
        "(SELECT count(*) FROM (SELECT x AS v FROM u WHERE u.y < t.y \
         UNION SELECT 1 FROM u) AS w)",
        "(SELECT count(*) FROM (SELECT x FROM u WHERE u.y < t.y INTERSECT SELECT q.a FROM t AS q) \
         AS w)",
        "(SELECT count(*) FROM (SELECT x FROM u EXCEPT SELECT q.a FROM t AS q WHERE q.a < t.a) \
         AS w)",
        "(SELECT max(c) FROM (SELECT y, count(*) AS c FROM u WHERE u.x <> t.a GROUP BY y) AS g)",
        "(SELECT max(c) FROM (SELECT count(*) AS c FROM u WHERE u.x > t.a) AS g)",
        "(SELECT max(c) FROM (SELECT sum(x) OVER (PARTITION BY y) AS c FROM u WHERE u.x > t.a) \
         AS g)",
        "(SELECT max(column1) FROM (VALUES (t.a), (t.b), (3)) AS v)",
        "(SELECT count(*) FROM (SELECT unnest([1, 2, q.a]) AS v FROM t AS q WHERE q.a < t.a) AS w)",
        "(SELECT count(*) FROM generate_series(1, 5) AS g(v) WHERE v < t.a)",
    ];
    rows_by_order: [
        "(SELECT x FROM u WHERE u.y = t.y ORDER BY x DESC LIMIT 1)",
        "(SELECT x FROM u WHERE u.y <= t.y ORDER BY x DESC NULLS LAST LIMIT 1 OFFSET 1)",
        "(SELECT sum(x) FROM (SELECT x FROM u WHERE u.y <= t.y ORDER BY x LIMIT 2) AS v)",
        "(SELECT x FROM u WHERE u.x = t.a)",
    ];
    nested: [
        "(SELECT (SELECT count(*) FROM t AS p WHERE p.b < q.b AND p.a <> t.a) \
         FROM t AS q WHERE q.a = t.a LIMIT 1)",
        "(SELECT sum((SELECT count(*) FROM u WHERE u.x < q.a AND u.y < t.y)) \
         FROM t AS q WHERE q.b <= t.b)",
        "(SELECT count(*) FROM u WHERE u.x > (SELECT avg(q.a) FROM t AS q WHERE q.y > u.y))",
        "(SELECT count(*) FROM u WHERE u.x >= (SELECT count(*) FROM t AS q WHERE q.y < t.y))",
        "(SELECT count(*) FROM u WHERE EXISTS (SELECT 1 FROM t AS q WHERE q.a > u.x AND q.b < t.b))",
    ];
    predicates: [
        "EXISTS (SELECT 1 FROM t AS q WHERE q.b < t.b)",
        "NOT EXISTS (SELECT 1 FROM t AS q WHERE q.b < t.b)",
        "EXISTS (SELECT count(*) FROM u WHERE u.y = t.y)",
        "EXISTS (SELECT 1 FROM u WHERE u.y = t.y HAVING count(*) > 1)",
        "t.b IN (SELECT q.b FROM t AS q WHERE q.a < t.a)",
        "t.b NOT IN (SELECT q.b FROM t AS q WHERE q.a < t.a)",
        "t.b NOT IN (SELECT q.b FROM t AS q WHERE q.a = t.a + 1)",
        "t.a IN (SELECT u.x FROM u)",
        "t.a NOT IN (SELECT u.x FROM u)",
        "t.a NOT IN (SELECT u.x FROM u WHERE u.x IS NOT NULL)",
        "t.a IN (SELECT u.x FROM u WHERE u.y > 100)",
        "t.b > ANY (SELECT q.b FROM t AS q WHERE q.a <> t.a)",
        "t.b >= ALL (SELECT q.b FROM t AS q WHERE q.a < t.a)",
        "t.b = ANY (SELECT q.b FROM t AS q WHERE q.b > 15)",
        "(t.a IN (SELECT u.x FROM u)) IS NULL",
    ];
}

#[tokio::test]
async fn conditions_agree_with_values() {
    let context = tables().await;
    for predicate in [
        "EXISTS (SELECT 1 FROM t AS q WHERE q.b < t.b)",
        "EXISTS (SELECT 1 FROM u WHERE u.y = t.y) OR t.a = 3",
        "NOT EXISTS (SELECT 1 FROM u WHERE u.y = t.y AND u.x < t.a)",
        "EXISTS (SELECT count(*) FROM u WHERE u.y = t.y)",
        "t.b IN (SELECT q.b FROM t AS q WHERE q.a < t.a)",
        "t.b NOT IN (SELECT q.b FROM t AS q WHERE q.a < t.a)",
        "t.b NOT IN (SELECT q.b FROM t AS q WHERE q.a = t.a + 1)",
        "t.a NOT IN (SELECT u.x FROM u)",
        "t.a NOT IN (SELECT u.x FROM u WHERE u.x IS NOT NULL)",
        "(t.a NOT IN (SELECT u.x FROM u)) OR t.b = 20",
        "NOT (t.a IN (SELECT u.x FROM u) OR t.b = 20)",
        "t.a IN (SELECT u.x FROM u) OR t.b = 50",
        "t.b = ANY (SELECT q.b FROM t AS q WHERE q.b > 15)",
        "t.a > (SELECT avg(x) FROM u WHERE u.y < t.y)",
        "t.a > (SELECT avg(x) FROM u WHERE u.y = t.y)",
        "(SELECT count(*) FROM u WHERE u.y = t.y) = 0",
        "(SELECT count(*) FROM u WHERE u.y > t.y) = 0",
    ] {
        let chosen = format!("SELECT t.a, t.b, t.y FROM t WHERE {predicate}");
        let told = format!(
            "SELECT a, b, y FROM (SELECT t.a, t.b, t.y, ({predicate}) AS p FROM t) AS v WHERE p"
        );
        assert_eq!(sorted(&context, &chosen).await, sorted(&context, &told).await, "{predicate}");
    }
}

#[tokio::test]
async fn rows_of_lateral_joins() {
    let context = tables().await;
    let sql = "SELECT t.a, s.c FROM t, LATERAL (SELECT count(*) AS c FROM u WHERE u.y < t.y) AS s \
               ORDER BY t.a";
    assert_eq!(rows(&context, sql).await, ["1 0", "2 2", "3 3", "4 0", "5 4", "5 4", "NULL 0"]);
    let sql = "SELECT t.a, s.x FROM t LEFT JOIN LATERAL (SELECT x FROM u WHERE u.y < t.y) AS s \
               ON s.x > 1 WHERE t.a < 4 ORDER BY t.a, s.x";
    assert_eq!(rows(&context, sql).await, ["1 NULL", "2 2", "3 2", "3 3"]);
    let sql = "SELECT t.a, s.x FROM t, LATERAL \
               (SELECT x FROM u WHERE u.y < t.y ORDER BY x DESC NULLS LAST LIMIT 1) AS s \
               ORDER BY t.a";
    assert_eq!(rows(&context, sql).await, ["2 2", "3 3", "5 3", "5 3"]);
    let sql = "SELECT t.a, s.x FROM t, LATERAL (SELECT x FROM u WHERE u.y = t.y) AS s \
               ORDER BY t.a, s.x";
    assert_eq!(rows(&context, sql).await, ["1 1", "1 2", "2 3"]);
}

#[tokio::test]
async fn subqueries_in_every_clause() {
    let context = tables().await;
    for (sql, expected) in [
        (
            "SELECT y FROM t GROUP BY y HAVING count(*) > (SELECT count(*) FROM u WHERE u.y < t.y) \
             ORDER BY y",
            &["-1", "1", "NULL"][..],
        ),
        (
            "SELECT count(*), (SELECT count(*) FROM u WHERE u.y < t.y) AS n FROM t GROUP BY 2 ORDER BY 2",
            &["3 0", "1 2", "1 3", "2 4"],
        ),
        ("SELECT sum((SELECT count(*) FROM u WHERE u.y < t.y)) FROM t", &["13"]),
        (
            "SELECT t.a FROM t JOIN u ON t.y = u.y \
             AND u.x > (SELECT avg(q.x) FROM u AS q WHERE q.y <= t.y)",
            &["1", "2"],
        ),
        (
            "SELECT t.a, u.x FROM t LEFT JOIN u ON t.y = u.y \
             AND u.x > (SELECT min(q.x) FROM u AS q WHERE q.y <= u.y) WHERE t.a < 3 ORDER BY t.a",
            &["1 2", "2 3"],
        ),
        (
            "SELECT t.a, rank() OVER (ORDER BY (SELECT count(*) FROM u WHERE u.y < t.y)) AS r \
             FROM t WHERE t.a < 4 ORDER BY t.a",
            &["1 1", "2 2", "3 3"],
        ),
        ("SELECT t.a FROM t ORDER BY (SELECT max(x) FROM u) - t.a, t.a LIMIT 1", &["5"]),
        ("VALUES ((SELECT max(x) FROM u))", &["4"]),
        ("VALUES ((SELECT max(x) FROM u), 1), (1, (SELECT 2.5))", &["4 1.0", "1 2.5"]),
        ("SELECT (SELECT 1 FROM u WHERE x > 100) IS NULL, (SELECT 1 WHERE false)", &["true NULL"]),
        (
            "SELECT t.a FROM t WHERE (SELECT 1 FROM u WHERE x > 100) IS NULL ORDER BY 1 LIMIT 1",
            &["1"],
        ),
        (
            "SELECT t.a FROM t ORDER BY (SELECT count(*) FROM u WHERE u.y < t.y), t.b",
            &["NULL", "1", "4", "2", "3", "5", "5"],
        ),
        ("SELECT (SELECT max(x) FROM u), EXISTS (SELECT 1 FROM u)", &["4 true"]),
        ("SELECT CASE WHEN (SELECT max(x) FROM u) > 3 THEN 'y' ELSE 'n' END", &["y"]),
    ] {
        assert_eq!(rows(&context, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn outer_rows_that_cannot_be_evaluated_twice() {
    let context = tables().await;
    for (sql, expected) in [
        (
            "SELECT a, (SELECT count(*) + s.a FROM u WHERE u.y < s.y) AS n, \
             (SELECT sum(u.x) FILTER (WHERE u.x > s.a - 2) FROM u WHERE u.y < s.y) AS m \
             FROM (SELECT * FROM t ORDER BY a LIMIT 5) AS s ORDER BY a",
            &["1 1 NULL", "2 4 3", "3 6 5", "4 4 NULL", "5 9 NULL"][..],
        ),
        // Equal rows stay apart, and rows with no partner stay.
        (
            "SELECT (SELECT count(*) FROM u WHERE u.y < s.y) AS n \
             FROM (SELECT y FROM t ORDER BY y NULLS FIRST LIMIT 9) AS s ORDER BY n",
            &["0", "0", "0", "2", "3", "4", "4"],
        ),
        (
            "SELECT sum(ok) FROM (SELECT CASE WHEN (SELECT count(*) FROM u WHERE u.x <= r.y) = \
             CAST(floor(r.y) AS INT) THEN 1 ELSE 0 END AS ok FROM \
             (SELECT random() * 4.5 AS y FROM generate_series(1, 50)) AS r) AS v",
            &["50"],
        ),
        (
            "SELECT y, (SELECT count(*) FROM u WHERE u.y * 10 < g.av) AS n FROM \
             (SELECT y, avg(b) AS av FROM t GROUP BY y) AS g WHERE y > 0 ORDER BY y",
            &["1 0", "2 2", "3 0", "5 4"],
        ),
    ] {
        assert_eq!(rows(&context, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn a_second_row_is_an_error() {
    let context = tables().await;
    for sql in [
        "SELECT (SELECT x FROM u WHERE u.y = t.y) FROM t",
        "SELECT t.a FROM t WHERE t.a > (SELECT x FROM u WHERE u.y < t.y)",
        "SELECT (SELECT count(*) FROM u WHERE u.y < t.y GROUP BY u.x) FROM t",
    ] {
        let error = error(&context, sql).await;
        assert!(error.contains("returned more than one row"), "{error}");
    }
}

#[tokio::test]
async fn what_stays_impossible_says_so() {
    let context = tables().await;
    for (sql, what) in [
        (
            "SELECT EXISTS (SELECT 1 FROM u WHERE u.y < r.y) \
             FROM (SELECT CAST(random() * 9 AS INT) AS y FROM u) AS r",
            "a volatile function",
        ),
        (
            "SELECT EXISTS (SELECT 1 FROM u WHERE u.y < r.y) FROM (SELECT * FROM t LIMIT 3) AS r",
            "LIMIT",
        ),
        (
            "SELECT t.a FROM t LEFT JOIN u ON t.y = u.y \
             AND t.a > (SELECT count(*) FROM u AS q WHERE q.x < t.a AND q.y < u.y)",
            "both sides",
        ),
        ("SELECT a FROM t LIMIT (SELECT 2)", "a subquery in LIMIT"),
        ("DELETE FROM t WHERE a > (SELECT count(*) FROM u)", "a subquery in UPDATE or DELETE"),
        (
            "DELETE FROM t WHERE a > (SELECT count(*) FROM u WHERE u.y < t.y)",
            "a subquery in UPDATE or DELETE",
        ),
        ("DELETE FROM t WHERE a IN (SELECT x FROM u)", "a subquery in UPDATE or DELETE"),
        (
            "SELECT DISTINCT a FROM t ORDER BY (SELECT count(*) FROM u WHERE u.y < t.y)",
            "the outer column t.y",
        ),
    ] {
        let error = error(&context, sql).await;
        assert!(error.contains(what) && error.contains("not supported"), "{sql}\n{error}");
    }
}

#[tokio::test]
async fn plain_correlations_are_left_to_datafusion() {
    let context = tables().await;
    for sql in [
        "SELECT t.a FROM t WHERE t.a > (SELECT avg(x) FROM u WHERE u.y = t.y)",
        "SELECT t.a FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.y = t.y AND u.x <> t.a)",
        "SELECT t.a FROM t WHERE t.a IN (SELECT x FROM u WHERE u.y = t.y)",
        "SELECT t.a FROM t WHERE t.a NOT IN (SELECT x FROM u)",
    ] {
        let plan = rows(&context, &format!("EXPLAIN {sql}")).await.join("\n");
        assert!(!plan.contains("__outer_"), "{plan}");
    }
}
