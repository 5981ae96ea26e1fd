//! Less room than the tables want: right answers, and the rows come back.

use super::*;

const LINES: &str = "SELECT count(*), sum(l_orderkey), max(l_comment) FROM lineitem";

#[tokio::test(flavor = "multi_thread")]
async fn what_memory_has_no_room_for_goes_to_disk() {
    let fixture = Fixture::new(|config| config.memory_limit = Some(6 << 20)).await;
    fixture.lineitem(0.02).await;
    let before = fixture.run(LINES).await;
    fixture.run("CACHE TABLE lineitem").await;
    assert!(fixture.figure("disk_bytes").await > 0);
    for _ in 0..3 {
        assert_eq!(fixture.run(LINES).await, before);
    }
    assert!(fixture.figure("hits").await > 0);
    assert_eq!(fixture.figure("misses").await, 0);
    assert_eq!(fixture.figure("rebuilt").await, 0);
    fixture.run("CLEAR CACHE").await;
    assert_eq!(fixture.reserved(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_memory_alone_are_kept_as_far_as_there_is_room() {
    let fixture = Fixture::new(|config| {
        config.memory_limit = Some(8 << 20);
        config.target_partitions = Some(8);
    })
    .await;
    fixture.lineitem(0.03).await;
    let before = fixture.run(LINES).await;
    fixture.run("CACHE TABLE lineitem OPTIONS ('storageLevel' 'MEMORY_ONLY')").await;
    let kept = fixture.figure("cached_partitions").await;
    assert!(kept > 0 && kept < fixture.figure("partitions").await, "{kept} partitions");
    for _ in 0..3 {
        assert_eq!(fixture.run(LINES).await, before);
    }
    assert!(fixture.figure("misses").await > 0);
    assert!(fixture.figure("hits").await > 0);
    assert_eq!(fixture.figure("disk_bytes").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_tables_have_no_more_memory_than_they_may() {
    const LIMIT: u64 = 3 << 20;
    let fixture = Fixture::new(|config| {
        config.cache_memory_limit = Some(LIMIT as usize);
        config.target_partitions = Some(8);
    })
    .await;
    fixture.lineitem(0.02).await;
    let before = fixture.run(LINES).await;
    fixture.run("CACHE TABLE lineitem OPTIONS ('storageLevel' 'MEMORY_ONLY')").await;
    let memory = fixture.figure("memory_bytes").await;
    assert!(memory > LIMIT / 3 && memory <= LIMIT, "{memory}");
    assert_eq!(fixture.run(LINES).await, before);
    assert!(fixture.figure("misses").await > 0);
    fixture.run("CLEAR CACHE").await;
    fixture.run("CACHE TABLE lineitem").await;
    assert!(fixture.figure("memory_bytes").await <= LIMIT);
    assert!(fixture.figure("disk_bytes").await > 0);
    assert_eq!(fixture.run(LINES).await, before);
    assert_eq!(fixture.figure("misses").await, 0);
}

/// Keeps a group for each row.
const HUNGRY: &str = "SELECT count(*), max(texts) FROM (SELECT l_orderkey, l_linenumber, \
    max(l_comment) AS texts FROM lineitem GROUP BY l_orderkey, l_linenumber)";

#[tokio::test(flavor = "multi_thread")]
async fn cached_tables_yield_to_queries_down_to_their_share() {
    let (mut left, mut answers) = (Vec::new(), Vec::new());
    for protected in [0, 3 << 20, 1 << 30] {
        let fixture = Fixture::new(|config| {
            config.memory_limit = Some(20 << 20);
            config.protected_cache = protected;
        })
        .await;
        fixture.lineitem(0.02).await;
        fixture.run("CACHE TABLE lineitem").await;
        let before = fixture.figure("memory_bytes").await;
        assert!(before > 6 << 20, "{before}");
        answers.push(fixture.run(HUNGRY).await);
        left.push((before, fixture.figure("memory_bytes").await));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let [(before, none), (_, some), (all_before, all)] = left[..] else { panic!("{left:?}") };
    assert!(none < 3 << 20 && none < before, "{left:?}");
    assert!(some >= 3 << 20 && some < before, "{left:?}");
    assert_eq!(all, all_before);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_would_come_out_otherwise_are_kept_all_or_not_at_all() {
    let fixture = Fixture::new(|config| config.memory_limit = Some(6 << 20)).await;
    fixture.lineitem(0.03).await;
    fixture
        .run(
            "CACHE TABLE some OPTIONS ('storageLevel' 'MEMORY_ONLY') CLUSTER BY (l_partkey) AS \
             SELECT * FROM lineitem",
        )
        .await;
    assert_eq!(fixture.figure("cached_partitions").await, 0);
    let lines = LINES.replace("FROM lineitem", "FROM some");
    assert_eq!(fixture.run(&lines).await, fixture.run(LINES).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_is_made_again_from_its_own_files() {
    let fixture = Fixture::new(|_| {}).await;
    fixture.lineitem(0.01).await;
    let before = fixture.run(LINES).await;
    fixture.run("CACHE TABLE lineitem").await;
    drop_partitions(&fixture, &[1]);
    assert_eq!(fixture.run(LINES).await, before);
    assert_eq!(fixture.figure("rebuilt").await, 1);
    // A clustered table is made again as a whole.
    fixture.run("CLEAR CACHE").await;
    fixture.run("CACHE TABLE lineitem CLUSTER BY (l_orderkey) INTO 3 PARTITIONS").await;
    drop_partitions(&fixture, &[2]);
    assert_eq!(fixture.run(LINES).await, before);
    assert_eq!(fixture.figure("rebuilt").await, 3);
    assert_eq!(fixture.figure("cached_partitions").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changed_is_found_when_rows_must_be_made_again() {
    let fixture = Fixture::new(|_| {}).await;
    fixture.lineitem(0.01).await;
    let before = fixture.run(LINES).await;
    fixture.run("CACHE TABLE lineitem").await;
    let path = fixture.path("lineitem.csv");
    write_lineitem(&path, 0.005);
    // What is there still answers as it was.
    assert_eq!(fixture.run(LINES).await, before);
    drop_partitions(&fixture, &[0]);
    let error = fixture.fail(LINES).await;
    assert!(
        error.to_string().contains("has changed since table \"lineitem\" was cached"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("REFRESH TABLE lineitem"), "{error:?}");
    fixture.run("REFRESH TABLE lineitem").await;
    let now = fixture.run(LINES).await;
    assert_ne!(now, before);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(fixture.run(LINES).await, now);
    drop_partitions(&fixture, &[0]);
    let error = fixture.fail(LINES).await;
    assert!(error.to_string().contains("is gone since table \"lineitem\" was cached"), "{error}");
    let error = fixture.fail("REFRESH TABLE lineitem").await;
    assert!(matches!(error, Error::File { missing: true, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_table_was_yields_to_what_it_becomes() {
    const MEMORY_ONLY: &str = "CACHE TABLE lineitem OPTIONS ('storageLevel' 'MEMORY_ONLY')";
    let taken = {
        let fixture = Fixture::new(|config| config.target_partitions = Some(8)).await;
        fixture.lineitem(0.02).await;
        fixture.run(MEMORY_ONLY).await;
        fixture.figure("memory_bytes").await as usize
    };
    let fixture = Fixture::new(|config| {
        config.target_partitions = Some(8);
        config.cache_memory_limit = Some(taken + taken / 3);
    })
    .await;
    fixture.lineitem(0.02).await;
    fixture.run(MEMORY_ONLY).await;
    for _ in 0..2 {
        let all = fixture.figure("partitions").await;
        assert_eq!(fixture.figure("cached_partitions").await, all);
        fixture.run("REFRESH TABLE lineitem").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_disk_has_no_room_for_goes_away_and_is_made_again() {
    const DISK_ONLY: &str = "OPTIONS ('storageLevel' 'DISK_ONLY')";
    let taken = {
        let fixture = Fixture::new(|_| {}).await;
        fixture.lineitem(0.02).await;
        fixture.run(&format!("CACHE TABLE lineitem {DISK_ONLY}")).await;
        fixture.figure("disk_bytes").await
    };
    let fixture = Fixture::new(|config| config.spill_limit = taken + taken / 3).await;
    fixture.lineitem(0.02).await;
    let before = fixture.run(LINES).await;
    fixture.run(&format!("CACHE TABLE lineitem {DISK_ONLY}")).await;
    let figure = async |column: &str| {
        let of = "FROM system.cached_tables WHERE table_name = 'lineitem'";
        fixture.run(&format!("SELECT {column} {of}")).await.remove(0).parse::<u64>().unwrap()
    };
    let all = figure("partitions").await;
    assert_eq!(figure("cached_partitions").await, all);
    let other = "SELECT * FROM lineitem WHERE l_linenumber < 4";
    fixture.run(&format!("CACHE TABLE other {DISK_ONLY} AS {other}")).await;
    let left = figure("cached_partitions").await;
    assert!(left < all, "{left} of {all}");
    assert_eq!(fixture.run(LINES).await, before);
    assert!(figure("rebuilt").await > 0);
}
