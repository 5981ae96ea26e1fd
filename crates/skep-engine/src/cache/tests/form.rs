//! What cached tables take, measured.

use super::*;

/// Returns bytes in memory, and bytes of the same rows as queries see them.
async fn cached_bytes(fixture: &Fixture, table: &str) -> (u64, u64) {
    fixture.run(&format!("CACHE TABLE {table}")).await;
    let name = table.to_owned();
    let cached = fixture.session.inner.engine.cache.all();
    let content = cached.iter().find(|cached| cached.name.table == name).unwrap().content();
    let summaries = content.current().summaries().unwrap();
    let bytes = summaries.iter().map(|summary| summary.statistics.total_byte_size);
    let decoded = bytes.map(|bytes| *bytes.get_value().unwrap() as u64).sum();
    let of = format!("SELECT memory_bytes FROM system.cached_tables WHERE table_name = '{table}'");
    (fixture.run(&of).await[0].parse().unwrap(), decoded)
}

#[tokio::test(flavor = "multi_thread")]
async fn lineitem_takes_less_than_its_text() {
    let fixture = Fixture::new(|_| {}).await;
    let text = fixture.lineitem(0.01).await;
    let before = fixture.run(SUMMARY).await;
    let (memory, decoded) = cached_bytes(&fixture, "lineitem").await;
    assert_eq!(fixture.run(SUMMARY).await, before);
    assert!(fixture.figure("hits").await > 0);
    assert!(memory * 10 < text * 7, "{memory} bytes of {text}");
    assert!(memory * 2 < decoded, "{memory} bytes of {decoded}");
    fixture.run("UNCACHE TABLE lineitem").await;
    assert_eq!(fixture.reserved(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flights_of_new_york_take_no_more_than_their_text() {
    let fixture = Fixture::new(|_| {}).await;
    let datasets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets");
    for (table, file, format) in [
        ("flights", "flights.parquet", "PARQUET"),
        ("weather", "weather.csv", "CSV"),
        ("planes", "planes.csv", "CSV"),
        ("airports", "airports.csv", "CSV"),
    ] {
        let location = datasets.join(file);
        fixture
            .run(&format!(
                "CREATE EXTERNAL TABLE {table} STORED AS {format} LOCATION '{}'",
                location.display()
            ))
            .await;
        let copy = fixture.path(&format!("{table}.copy.csv"));
        fixture.run(&format!("COPY {table} TO '{}'", copy.display())).await;
        let text = std::fs::metadata(&copy).unwrap().len();
        let (memory, decoded) = cached_bytes(&fixture, table).await;
        assert!(memory <= text, "{table}: {memory} bytes of {text}");
        assert!(memory * 2 <= decoded * 3, "{table}: {memory} bytes of {decoded}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_filters_and_joins_do_not_want_are_skipped() {
    let fixture = Fixture::new(|config| config.target_partitions = Some(1)).await;
    fixture
        .run("CREATE TABLE t AS SELECT value AS a FROM generate_series(1, 81920) AS s(value)")
        .await;
    fixture.run("CREATE TABLE few AS SELECT 81000 AS a UNION ALL SELECT 81001").await;
    fixture.run("CACHE TABLE t").await;
    for (query, skipped) in [
        ("SELECT count(*) FROM t WHERE a % 2 = 0", 0),
        ("SELECT count(*) FROM t WHERE a > 81910 AND a % 2 = 0", 9),
        ("SELECT count(*) FROM t WHERE a % 2 = 0 AND (a < 10 OR a > 81910)", 8),
        ("SELECT count(*) FROM few JOIN t ON few.a = t.a", 9),
    ] {
        let plan = fixture.run(&format!("EXPLAIN ANALYZE {query}")).await.join("\n");
        assert!(plan.contains(&format!("skipped_batches={skipped}")), "{query}: {plan}");
    }
    assert_eq!(fixture.run("SELECT count(*) FROM few JOIN t ON few.a = t.a").await, ["2"]);
}
