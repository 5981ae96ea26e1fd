//! The schema `system`: what it shows, and that it can only be read.

use super::*;

async fn with_system() -> Session {
    let system_tables: Arc<dyn SystemTables> = Arc::new(Counts::default());
    let executor = Arc::new(LocalExecutor);
    engine(EngineConfig::default(), executor, Some(system_tables)).await.session()
}

async fn without_system() -> Session {
    engine(EngineConfig::default(), Arc::new(LocalExecutor), None).await.session()
}

#[tokio::test]
async fn rows_are_taken_anew_by_each_scan() {
    let session = with_system().await;
    let query = "SELECT value FROM system.counts WHERE name = 'reads'";
    assert_eq!(run(&session, query).await, ["1"]);
    assert_eq!(run(&session, query).await, ["2"]);
    assert_eq!(run(&session, "SELECT * FROM skep.system.counts LIMIT 1").await, ["reads|3"]);
    assert_eq!(run(&session, "SELECT count(*) FROM system.counts").await, ["2"]);
    assert_eq!(run(&session, "SELECT * FROM system.none").await, [""; 0]);
    assert_eq!(run(&session, "SELECT count(*) FROM system.none").await, ["0"]);
}

#[tokio::test]
async fn the_schema_can_be_the_current_one() {
    let session = with_system().await;
    run(&session, "USE system").await;
    assert_eq!(run(&session, "SELECT count(*) FROM counts").await, ["2"]);
    let error = fail(&session, "CREATE TABLE t (a INT)").await;
    assert!(error.contains("no table can be made in schema \"system\""), "{error}");
    let error = fail(&session, "DROP TABLE counts").await;
    assert!(error.contains("\"counts\" is a system table"), "{error}");
}

#[tokio::test]
async fn the_tables_are_listed_and_described() {
    let session = with_system().await;
    assert_eq!(
        run(&session, "SHOW TABLES IN system").await,
        ["system|counts|TABLE", "system|none|TABLE"]
    );
    assert_eq!(run(&session, "SHOW TABLES").await, [""; 0]);
    assert_eq!(run(&session, "SHOW SCHEMAS").await, ["information_schema", "public", "system"]);
    let listed = "SELECT table_name, table_type FROM information_schema.tables \
                  WHERE table_schema = 'system' ORDER BY 1";
    assert_eq!(run(&session, listed).await, ["counts|BASE TABLE", "none|BASE TABLE"]);
    let columns = "SELECT column_name, data_type FROM information_schema.columns \
                   WHERE table_schema = 'system' AND table_name = 'counts' ORDER BY 1";
    assert_eq!(run(&session, columns).await, ["name|Utf8", "value|Int64"]);
    let described = run(&session, "DESCRIBE system.counts").await;
    assert_eq!(described, ["name|Utf8|NO", "value|Int64|YES"]);
    let described = run(&session, "DESCRIBE EXTENDED system.counts").await;
    assert!(described.contains(&"Type|system|".to_owned()), "{described:?}");
    assert_eq!(run(&session, "SHOW COLUMNS FROM system.counts").await.len(), 2);
}

#[tokio::test]
async fn nothing_in_it_can_be_changed() {
    let session = with_system().await;
    let read_only = "is a system table";
    let closed = "no table can be made in schema \"system\"";
    for (statement, message) in [
        ("DROP TABLE system.counts", read_only),
        ("DROP TABLE IF EXISTS system.counts", read_only),
        ("DROP VIEW system.counts", read_only),
        ("INSERT INTO system.counts VALUES ('a', 1)", read_only),
        ("INSERT OVERWRITE system.counts VALUES ('a', 1)", read_only),
        ("CREATE TABLE system.t (a INT)", closed),
        ("CREATE OR REPLACE TABLE system.counts AS SELECT 1 AS a", closed),
        ("CREATE VIEW skep.system.v AS SELECT 1 AS a", closed),
        ("SHOW CREATE TABLE system.counts", "there is no statement for it"),
        ("DROP SCHEMA system", "schema \"system\" cannot be dropped"),
        ("DROP SCHEMA IF EXISTS system CASCADE", "schema \"system\" cannot be dropped"),
        ("CREATE SCHEMA system", "schema \"system\" already exists"),
    ] {
        let error = fail(&session, statement).await;
        assert!(error.contains(message), "{statement}: {error}");
    }
    run(&session, "CREATE SCHEMA IF NOT EXISTS system").await;
    assert_eq!(run(&session, "SELECT count(*) FROM system.counts").await, ["2"]);
}

#[tokio::test]
async fn views_and_new_tables_may_be_made_of_it() {
    let session = with_system().await;
    run(&session, "CREATE VIEW v AS SELECT value FROM system.counts WHERE value > 0").await;
    let first = run(&session, "SELECT * FROM v").await;
    assert_ne!(run(&session, "SELECT * FROM v").await, first, "a view reads it anew");
    run(&session, "CREATE TABLE t AS SELECT * FROM system.counts").await;
    assert_eq!(run(&session, "SELECT count(*) FROM t").await, ["2"]);
}

#[tokio::test]
async fn a_name_that_is_nearly_right_is_found_out() {
    let session = with_system().await;
    let error = fail(&session, "SELECT * FROM system.count").await;
    assert!(error.contains("did you mean \"system.counts\"?"), "{error}");
    let error = fail(&session, "DESCRIBE sytem.counts").await;
    assert!(error.contains("did you mean \"system.counts\"?"), "{error}");
}

#[tokio::test]
async fn an_engine_without_it_says_where_it_is() {
    let session = without_system().await;
    let hint = "[system tables exist on a coordinator only]";
    for statement in [
        "SELECT * FROM system.queries",
        "SELECT * FROM skep.system.queries",
        "EXPLAIN DISTRIBUTED SELECT * FROM system.queries",
        "DESCRIBE system.queries",
        "SHOW COLUMNS FROM system.queries",
        "SHOW TABLES IN system",
        "DROP TABLE system.queries",
        "DROP SCHEMA system",
        "USE system",
    ] {
        let error = fail(&session, statement).await;
        assert!(error.contains("not found") && error.contains(hint), "{statement}: {error}");
    }
    let error = fail(&session, "SELECT * FROM systems").await;
    assert!(!error.contains(hint), "{error}");
    assert_eq!(run(&session, "SHOW SCHEMAS").await, ["information_schema", "public"]);
    let error = session.execute("SELECT * FROM system.queries").await.unwrap_err();
    assert_eq!(error.position().map(|place| place.column), Some(15));
}

/// Rows that are not of the announced columns.
#[derive(Debug)]
struct Wrong;

#[async_trait]
impl SystemTables for Wrong {
    fn schemas(&self) -> Vec<(&'static str, SchemaRef)> {
        vec![("wrong", Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)])))]
    }

    async fn rows(&self, _table: &str, viewer: &Principal) -> Result<Vec<RecordBatch>> {
        Counts::default().rows("counts", viewer).await
    }
}

#[tokio::test]
async fn rows_of_other_columns_are_an_error() {
    let parts: Arc<dyn SystemTables> = Arc::new(Wrong);
    let engine = engine(EngineConfig::default(), Arc::new(LocalExecutor), Some(parts)).await;
    let error = fail(&engine.session(), "SELECT * FROM system.wrong").await;
    assert!(error.contains("the rows of system.wrong have other columns"), "{error}");
}
