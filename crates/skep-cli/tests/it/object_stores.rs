//! Files behind URLs: a small server of our own on loopback speaks as much HTTP, and as much of
//! S3's dialect, as reading needs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use crate::process::run;

const CSV: &str = "id,name\n1,one\n2,two\n";

/// Serves files until the test process ends.
struct FileServer {
    address: String,
}

impl FileServer {
    fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let files: Arc<BTreeMap<String, Vec<u8>>> = Arc::new(
            files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect(),
        );
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let files = Arc::clone(&files);
                thread::spawn(move || while answer(&connection, &files).is_some() {});
            }
        });
        Self { address }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }
}

/// Answers one request; `None` ends the connection.
fn answer(connection: &TcpStream, files: &BTreeMap<String, Vec<u8>>) -> Option<()> {
    let mut lines = BufReader::new(connection).lines();
    let request = lines.next()?.ok()?;
    let mut range = None;
    let mut is_refused = false;
    for line in lines {
        let line = line.ok()?.to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(bytes) = line.strip_prefix("range: bytes=") {
            range = Some(bytes.to_owned());
        }
        is_refused |= line.starts_with("authorization:") && line.contains("wrongkey");
    }
    let mut words = request.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.trim_start_matches('/');
    let (status, body, extra) = match files.get(path) {
        _ if is_refused => ("403 Forbidden", b"<Error/>".to_vec(), String::new()),
        _ if query.contains("list-type=2") => {
            ("200 OK", listing(files, path, query), String::new())
        }
        None => ("404 Not Found", Vec::new(), String::new()),
        Some(bytes) => part(bytes, range.as_deref()),
    };
    let mut out = connection;
    write!(
        out,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nLast-Modified: Sat, 21 Nov 2026 12:00:00 GMT\r\n\
         ETag: \"1\"\r\nAccept-Ranges: bytes\r\n{extra}\r\n",
        body.len()
    )
    .ok()?;
    if method != "HEAD" {
        out.write_all(&body).ok()?;
    }
    out.flush().ok()
}

fn part(bytes: &[u8], range: Option<&str>) -> (&'static str, Vec<u8>, String) {
    let Some((from, to)) = range.and_then(|range| range.split_once('-')) else {
        return ("200 OK", bytes.to_vec(), String::new());
    };
    let last = bytes.len() - 1;
    let (from, to) = match (from.parse::<usize>(), to.parse::<usize>()) {
        (Ok(from), Ok(to)) => (from, to.min(last)),
        (Ok(from), Err(_)) => (from, last),
        (Err(_), Ok(suffix)) => (bytes.len() - suffix.min(bytes.len()), last),
        (Err(_), Err(_)) => (0, last),
    };
    let header = format!("Content-Range: bytes {from}-{to}/{}\r\n", bytes.len());
    ("206 Partial Content", bytes[from..=to].to_vec(), header)
}

/// S3's answer to ListObjectsV2, for a bucket that is the path's first part.
fn listing(files: &BTreeMap<String, Vec<u8>>, bucket: &str, query: &str) -> Vec<u8> {
    let prefix = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("prefix="))
        .unwrap_or("")
        .replace("%2F", "/");
    let mut body =
        "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated>".to_owned();
    for (path, bytes) in files {
        let Some(key) = path.strip_prefix(&format!("{bucket}/")) else { continue };
        if key.starts_with(&prefix) {
            write!(
                body,
                "<Contents><Key>{key}</Key><LastModified>2026-11-21T12:00:00.000Z</LastModified>\
                 <ETag>\"1\"</ETag><Size>{}</Size></Contents>",
                bytes.len()
            )
            .unwrap();
        }
    }
    body.push_str("</ListBucketResult>");
    body.into_bytes()
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
    let server = FileServer::start(&[
        ("data/x.csv", CSV.as_bytes().to_vec()),
        ("data/x.parquet", parquet()),
    ]);
    let csv = format!("SELECT sum(id) AS ids FROM '{}'", server.url("data/x.csv"));
    let parquet = format!("SELECT max(column2) AS last FROM '{}'", server.url("data/x.parquet"));
    let args = ["--format", "csv", "-c", &csv, "-c", &parquet];
    assert_eq!(run(&args).success(), "ids\n3\nlast\ntwo\n");
}

#[test]
fn a_missing_file_behind_a_url_is_named() {
    let server = FileServer::start(&[]);
    let url = server.url("nope.parquet");
    let outcome = run(&["-c", &format!("SELECT * FROM '{url}'")]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains(&url), "{}", outcome.stderr);
}

fn s3_settings(server: &FileServer) -> String {
    format!(
        "SET s3.endpoint = 'http://{}'; SET s3.allow_http = 'true'; \
         SET s3.access_key_id = 'someone'; SET s3.secret_access_key = 'verysecret'; \
         SET s3.region = 'somewhere'",
        server.address
    )
}

#[test]
fn buckets_are_listed_and_read_with_the_session_s_settings() {
    let server = FileServer::start(&[
        ("bucket/t/a.csv", CSV.as_bytes().to_vec()),
        ("bucket/t/b.csv", b"id,name\n5,five\n".to_vec()),
        ("bucket/other.csv", b"id,name\n100,hundred\n".to_vec()),
    ]);
    let args = [
        "--format",
        "csv",
        "-c",
        &s3_settings(&server),
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
    let server = FileServer::start(&[]);
    let outcome = run(&[
        "--format",
        "csv",
        "--continue-on-error",
        "-c",
        &s3_settings(&server),
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
