//! What each role may do, whichever way the statement comes.

use std::path::Path;

use skep_proto::ErrorCode;
use tempfile::TempDir;

use super::*;
use crate::Role;

/// An engine with tables `t` and `v`, and files of which one directory is open to all.
struct Place {
    engine: Engine,
    directory: TempDir,
}

impl Place {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["open", "closed"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            std::fs::write(directory.path().join(name).join("x.csv"), "x\n1\n").unwrap();
        }
        let root = directory.path().join("open").to_str().unwrap().to_owned();
        let config = EngineConfig {
            memory_limit: Some(64 << 20),
            allowed_roots: vec![root],
            ..EngineConfig::default()
        };
        let engine = engine(config, Arc::new(LocalExecutor), None).await;
        let place = Self { engine, directory };
        let admin = place.engine.session();
        run(&admin, "CREATE TABLE t AS VALUES (1)").await;
        run(&admin, &format!("CREATE VIEW v AS SELECT * FROM '{}'", place.path("closed/x.csv")))
            .await;
        run(
            &admin,
            &format!(
                "CREATE EXTERNAL TABLE e STORED AS csv LOCATION '{}'",
                place.path("closed/x.csv")
            ),
        )
        .await;
        place
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn session(&self, role: Role) -> Session {
        self.engine.session_of(Principal::new("ann", role))
    }
}

async fn refused(session: &Session, statement: &str) -> String {
    let outcome = match session.execute(statement).await {
        Ok(stream) => stream.collect().await.map(drop),
        Err(error) => Err(error),
    };
    let error = outcome.expect_err(statement);
    assert_eq!(error.code(), ErrorCode::PermissionDenied, "{statement}: {error}");
    format!("{error} [{}]", error.hint().unwrap_or_default())
}

#[tokio::test]
async fn a_reader_changes_nothing() {
    let place = Place::new().await;
    let reader = place.session(Role::Reader);
    let open = place.path("open");
    for statement in [
        "INSERT INTO t VALUES (2)".to_owned(),
        "INSERT OVERWRITE t VALUES (2)".to_owned(),
        "EXPLAIN ANALYZE INSERT INTO t VALUES (2)".to_owned(),
        "CREATE TABLE u (x INT)".to_owned(),
        "CREATE TABLE u AS SELECT 1 AS x".to_owned(),
        "CREATE TEMPORARY TABLE u AS SELECT 1 AS x".to_owned(),
        format!("CREATE TABLE u USING csv LOCATION '{open}/x.csv'"),
        format!("CREATE EXTERNAL TABLE u STORED AS csv LOCATION '{open}/x.csv'"),
        "CREATE OR REPLACE VIEW v AS SELECT 1 AS x".to_owned(),
        "CREATE VIEW w AS SELECT 1 AS x".to_owned(),
        "CREATE SCHEMA s".to_owned(),
        "DROP TABLE t".to_owned(),
        "DROP TABLE IF EXISTS t".to_owned(),
        "DROP VIEW v".to_owned(),
        "DROP SCHEMA public CASCADE".to_owned(),
        "CACHE TABLE t".to_owned(),
        "CACHE LAZY TABLE c AS SELECT * FROM t".to_owned(),
        "UNCACHE TABLE t".to_owned(),
        "UNCACHE TABLE IF EXISTS nope".to_owned(),
        "CLEAR CACHE".to_owned(),
        "REFRESH TABLE t".to_owned(),
        format!("COPY t TO '{open}/out.csv'"),
        "SET s3.endpoint = 'http://somewhere'".to_owned(),
    ] {
        let said = refused(&reader, &statement).await;
        assert!(said.contains("user \"ann\" is a reader [it takes the role writer"), "{said}");
    }
    assert!(!Path::new(&place.path("open/out.csv")).exists());
    assert_eq!(run(&reader, "SELECT count(*) FROM t").await, ["1"]);
}

#[tokio::test]
async fn a_reader_asks_and_has_views_of_its_own() {
    let place = Place::new().await;
    let reader = place.session(Role::Reader);
    for (statement, rows) in [
        ("SELECT * FROM t", vec!["1"]),
        ("SELECT * FROM v", vec!["1"]),
        ("SELECT * FROM e", vec!["1"]),
        ("CREATE TEMPORARY VIEW w AS SELECT * FROM t", vec![]),
        ("SELECT * FROM w", vec!["1"]),
        ("DROP VIEW w", vec![]),
        ("SET datafusion.execution.batch_size = 100", vec![]),
    ] {
        assert_eq!(run(&reader, statement).await, rows, "{statement}");
    }
    run(&reader, "PREPARE p AS SELECT * FROM t").await;
    assert_eq!(run(&reader, "EXECUTE p").await, ["1"]);
}

#[tokio::test]
async fn files_are_named_where_it_is_allowed() {
    let place = Place::new().await;
    let (open, closed) = (place.path("open/x.csv"), place.path("closed/x.csv"));
    for role in Role::ALL {
        let session = place.session(role);
        assert_eq!(run(&session, &format!("SELECT * FROM '{open}'")).await, ["1"]);
        let statements = [
            format!("SELECT * FROM '{closed}'"),
            format!("SELECT * FROM csv.`{closed}`"),
            format!("SELECT (SELECT max(x) FROM '{closed}')"),
            format!("CREATE TEMPORARY VIEW f AS SELECT * FROM '{closed}'"),
            format!("CREATE TEMPORARY VIEW g USING csv OPTIONS (path '{closed}')"),
            format!("EXPLAIN SELECT * FROM '{closed}'"),
            format!("SELECT * FROM '{}/../closed/x.csv'", place.path("open")),
        ];
        for statement in statements {
            match role {
                Role::Admin => drop(run(&session, &statement).await),
                _ => assert!(refused(&session, &statement).await.contains("files may be named")),
            }
        }
        let error = session.execute("SELECT * FROM nope").await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotFound);
    }
    let writer = place.session(Role::Writer);
    for statement in [
        format!("CREATE EXTERNAL TABLE u STORED AS csv LOCATION '{closed}'"),
        format!("CREATE VIEW u AS SELECT * FROM '{closed}'"),
        format!("CREATE TABLE u AS SELECT * FROM '{closed}'"),
        format!("INSERT INTO t SELECT x FROM '{closed}'"),
        format!("COPY t TO '{}'", place.path("closed/out.csv")),
    ] {
        refused(&writer, &statement).await;
    }
    assert!(!Path::new(&place.path("closed/out.csv")).exists());
    run(&writer, &format!("COPY t TO '{}'", place.path("open/out.csv"))).await;
    run(&writer, "CREATE VIEW w AS SELECT * FROM v").await;
    assert_eq!(run(&place.session(Role::Reader), "SELECT * FROM w").await, ["1"]);
}

#[tokio::test]
async fn roots_that_become_narrower_reach_kept_views_unless_an_admin_made_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(path("open")).unwrap();
    std::fs::write(path("open/x.csv"), "x\n1\n").unwrap();
    let open = async |roots: Vec<String>| {
        let config = EngineConfig {
            memory_limit: Some(64 << 20),
            data_dir: Some(path("data").into()),
            allowed_roots: roots,
            ..EngineConfig::default()
        };
        engine(config, Arc::new(LocalExecutor), None).await
    };
    let as_role = |engine: &Engine, role| engine.session_of(Principal::new("ann", role));
    let before = open(vec![path("open")]).await;
    for (role, view) in [(Role::Writer, "w"), (Role::Admin, "a")] {
        let create = format!("CREATE VIEW {view} AS SELECT * FROM '{}'", path("open/x.csv"));
        run(&as_role(&before, role), &create).await;
    }
    run(&as_role(&before, Role::Writer), "CREATE VIEW over AS SELECT * FROM w").await;
    for view in ["w", "a", "over"] {
        let query = format!("SELECT * FROM {view}");
        assert_eq!(run(&as_role(&before, Role::Reader), &query).await, ["1"]);
    }
    drop(before);
    let after = open(Vec::new()).await;
    for role in Role::ALL {
        let session = as_role(&after, role);
        assert_eq!(run(&session, "SELECT * FROM a").await, ["1"]);
        for query in ["SELECT * FROM w", "SELECT * FROM over"] {
            match role {
                Role::Admin => assert_eq!(run(&session, query).await, ["1"]),
                Role::Reader | Role::Writer => {
                    let said = refused(&session, query).await;
                    assert!(said.contains("no permission to name the files"), "{said}");
                }
            }
        }
    }
}
