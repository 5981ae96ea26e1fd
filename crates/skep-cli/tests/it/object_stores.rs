//! Files behind URLs, on a small server of our own.

use std::io::Read;

use skep_testkit::object_server::ObjectServer;

use crate::process::run;

const CSV: &str = "id,name\n1,one\n2,two\n";

fn serve(files: &[(&str, Vec<u8>)]) -> ObjectServer {
    ObjectServer::start(files.iter().map(|(path, bytes)| (*path, bytes.clone()))).unwrap()
}

fn parquet() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.parquet");
    let copy = format!("COPY (VALUES (1, 'one'), (2, 'two')) TO '{}'", file.display());
    run(&["-c", &copy]).success();
    let mut bytes = Vec::new();
    std::fs::File::open(file).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn files_are_read_over_http() {
    let server = serve(&[("data/x.csv", CSV.as_bytes().to_vec()), ("data/x.parquet", parquet())]);
    let csv = format!("SELECT sum(id) AS ids FROM '{}'", server.url("data/x.csv"));
    let parquet = format!("SELECT max(column2) AS last FROM '{}'", server.url("data/x.parquet"));
    let args = ["--format", "csv", "-c", &csv, "-c", &parquet];
    assert_eq!(run(&args).success(), "ids\n3\nlast\ntwo\n");
}

#[test]
fn a_missing_file_behind_a_url_is_named() {
    let server = serve(&[]);
    let url = server.url("nope.parquet");
    let outcome = run(&["-c", &format!("SELECT * FROM '{url}'")]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains(&url), "{}", outcome.stderr);
}

#[test]
fn buckets_are_listed_and_read_with_the_session_s_settings() {
    let server = serve(&[
        ("bucket/t/a.csv", CSV.as_bytes().to_vec()),
        ("bucket/t/b.csv", b"id,name\n5,five\n".to_vec()),
        ("bucket/other.csv", b"id,name\n100,hundred\n".to_vec()),
    ]);
    let args = [
        "--format",
        "csv",
        "-c",
        &server.s3_settings(),
        "-c",
        "SELECT count(*) AS n, sum(id) AS ids FROM 's3://bucket/t/*.csv'",
        "-c",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 's3://bucket/t/' OPTIONS ('has_header' 'true')",
        "-c",
        "SELECT max(id) AS most FROM t",
    ];
    assert_eq!(run(&args).success(), "n,ids\n3,8\nmost\n5\n");
}

#[test]
fn a_secret_shows_nowhere() {
    let server = serve(&[]);
    let outcome = run(&[
        "--format",
        "csv",
        "--continue-on-error",
        "-c",
        &server.s3_settings(),
        "-c",
        "SHOW SETTINGS",
        "-c",
        "SHOW s3.secret_access_key",
        "-c",
        "SELECT * FROM information_schema.df_settings",
        "-c",
        "SELECT * FROM 's3://bucket/nope.csv'",
        "-c",
        "SET s3.access_key_id = 'wrongkey'",
        "-c",
        "SELECT * FROM 's3://bucket/nope.csv'",
        "-c",
        "SET s3.secret_acess_key = 'verysecret'",
    ]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stdout.contains("s3.secret_access_key"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("***"), "{}", outcome.stdout);
    for text in [&outcome.stdout, &outcome.stderr] {
        assert!(!text.contains("verysecret"), "{text}");
    }
}
