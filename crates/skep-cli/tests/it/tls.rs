//! TLS with an authority of our own: clients, and the processes of a cluster among each other.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::process::{Outcome, run, skep};
use crate::role::{Coordinator, Role, word};

/// An authority, and what it has signed.
pub(crate) struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { directory, issuer: Issuer::new(params, key) }
    }

    /// Signs a certificate for these names; returns it and its key.
    pub(crate) fn sign(&self, file: &str, names: &[&str]) -> [String; 2] {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, file);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        [("pem", certificate.pem()), ("key", key.serialize_pem())].map(|(ending, text)| {
            let path = self.directory.path().join(format!("{file}.{ending}"));
            fs::write(&path, text).unwrap();
            text_of(path)
        })
    }

    pub(crate) fn ca(&self) -> String {
        text_of(self.directory.path().join("ca.pem"))
    }
}

fn text_of(path: PathBuf) -> String {
    path.into_os_string().into_string().unwrap()
}

fn ask(url: &str, more: &[&str]) -> Outcome {
    run(&[&[url, "--format", "csv", "-c", "SELECT 1 AS x"][..], more].concat())
}

#[test]
fn a_client_connects_by_tls_and_knows_the_coordinator() {
    let (authority, other) = (Authority::new("ours"), Authority::new("another"));
    let [cert, key] = authority.sign("server", &["127.0.0.1"]);
    let coordinator = Coordinator::start(&["--tls-cert", &cert, "--tls-key", &key]);
    let url = coordinator.url.as_str();
    assert!(url.starts_with("grpc+tls://127.0.0.1:"), "{url}");
    assert_eq!(ask(url, &["--tls-ca", &authority.ca()]).success(), "x\n1\n");
    let by_environment = skep(&[url, "--format", "null", "-c", "SELECT 1"])
        .env("SKEP_TLS_CA", authority.ca())
        .output()
        .unwrap();
    assert!(by_environment.status.success());
    for (url, more, message) in [
        (url.to_owned(), vec!["--tls-ca".to_owned(), other.ca()], "invalid peer certificate"),
        (
            url.replace("127.0.0.1", "localhost"),
            vec!["--tls-ca".to_owned(), authority.ca()],
            "not valid for",
        ),
        (url.replace("+tls", ""), vec![], "grpc+tls://"),
        (url.to_owned(), vec!["--tls-ca".to_owned(), "/nowhere".to_owned()], "cannot read"),
    ] {
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let outcome = ask(&url, &more);
        assert_eq!(outcome.code, Some(1), "{url} {more:?}: {outcome:?}");
        assert!(outcome.stderr.contains(message), "{url} {more:?}: {}", outcome.stderr);
    }
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart() {
    let (authority, next) = (Authority::new("ours"), Authority::new("next"));
    let [cert, key] = authority.sign("server", &["127.0.0.1"]);
    let base = ["coordinator", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let own = ["--tls-cert", &cert, "--tls-key", &key, "--exit-with-stdin"];
    let mut command = skep(&[&base[..], &own].concat());
    command.env("SKEP_LOG", "skep=warn");
    let coordinator = Role::spawn(command);
    let line = coordinator.line();
    let url = word(&line, "grpc+tls://");
    let ask_as = |authority: &Authority| ask(url, &["--tls-ca", &authority.ca()]);
    assert_eq!(ask_as(&authority).success(), "x\n1\n");
    // The files are not looked at more often than each second.
    let wait = || std::thread::park_timeout(Duration::from_millis(1100));
    let [next_cert, next_key] = next.sign("server", &["127.0.0.1"]);
    fs::copy(&next_key, &key).unwrap();
    wait();
    // The two do not fit together: what held before holds.
    assert_eq!(ask_as(&authority).success(), "x\n1\n");
    let said = coordinator.error_line();
    assert!(said.contains("certificates not renewed"), "{said}");
    assert!(!said.contains("PRIVATE KEY"), "{said}");
    fs::copy(&next_cert, &cert).unwrap();
    wait();
    assert_eq!(ask_as(&next).success(), "x\n1\n");
    assert!(ask_as(&authority).stderr.contains("invalid peer certificate"));
}

#[test]
fn what_does_not_fit_together_is_said_at_the_start() {
    let authority = Authority::new("ours");
    let [cert, key] = authority.sign("server", &["127.0.0.1"]);
    let [_, other_key] = authority.sign("other", &["127.0.0.1"]);
    let coordinator = ["coordinator", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    for (more, message) in [
        (vec!["--tls-cert", &cert], "the key of the certificate is missing"),
        (vec!["--tls-key", &key], "the certificate of the key is missing"),
        (vec!["--tls-client-ca", &cert], "a certificate and its key is missing"),
        (vec!["--tls-cert", &cert, "--tls-key", &other_key], "cannot be used"),
        (vec!["--tls-cert", &key, "--tls-key", &cert], "there is no certificate in"),
        (vec!["--tls-cert", "/nowhere", "--tls-key", &key], "cannot read the certificate"),
    ] {
        let outcome = run(&[&coordinator[..], &more].concat());
        assert_eq!(outcome.code, Some(1), "{more:?}");
        assert!(outcome.stderr.contains(message), "{more:?}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("PRIVATE KEY"), "{}", outcome.stderr);
    }
    let worker = run(&["worker", "--coordinator", "grpc+tls://127.0.0.1:1"]);
    assert!(worker.stderr.contains("--tls-cert"), "{}", worker.stderr);
}

fn cluster(directory: &Path, more: &[&str]) -> (Role, String) {
    let config = directory.join("skep.toml");
    fs::write(&config, "[planner]\nsmall_query_bytes = 1\nmin_scan_bytes_per_task = 1024\n")
        .unwrap();
    let config = text_of(config);
    let mut args = vec!["cluster", "--workers", "2", "--slots", "2", "--memory", "256MiB"];
    args.extend(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--config", &config]);
    args.push("--exit-with-stdin");
    args.extend(more);
    let cluster = Role::start(&args);
    for _ in 0..2 {
        let line = cluster.line();
        assert!(word(&line, "grpc").starts_with("grpc+tls://127.0.0.1:"), "{line}");
    }
    let ready = cluster.line();
    let url = word(&ready, "grpc+tls://").to_owned();
    (cluster, url)
}

/// Runs a join whose rows must travel between the workers.
fn join(url: &str, ca: &str) {
    let script = "CREATE TABLE a AS SELECT value AS k, value % 100 AS g FROM generate_series(1, 50000); \
                  CREATE TABLE b AS SELECT value AS k, value % 7 AS h FROM generate_series(1, 50000); \
                  SELECT count(*) AS n, sum(g * h) AS s FROM a JOIN b USING (k)";
    let here = run(&["--format", "csv", "-c", script]).success();
    let there = run(&[url, "--tls-ca", ca, "--format", "csv", "-c", script]).success();
    assert_eq!(there, here);
    let who = "SELECT count(DISTINCT worker) AS n FROM system.tasks WHERE worker LIKE 'w%'";
    let workers = run(&[url, "--tls-ca", ca, "--format", "csv", "-c", who]).success();
    assert_eq!(workers, "n\n2\n");
}

#[test]
fn a_cluster_speaks_tls_within() {
    let authority = Authority::new("ours");
    // Not of an address: the name that all of them have.
    let [cert, key] = authority.sign("bees", &["bees.internal", "127.0.0.1"]);
    let ca = authority.ca();
    let directory = tempfile::tempdir().unwrap();
    let more = ["--tls-cert", &cert, "--tls-key", &key, "--tls-ca", &ca];
    let more = [&more[..], &["--tls-server-name", "bees.internal"]].concat();
    let (_cluster, url) = cluster(directory.path(), &more);
    join(&url, &ca);
}

#[test]
fn processes_of_a_cluster_show_each_other_their_certificates() {
    let (authority, other) = (Authority::new("ours"), Authority::new("another"));
    let [cert, key] = authority.sign("bees", &["127.0.0.1"]);
    let ca = authority.ca();
    let directory = tempfile::tempdir().unwrap();
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-ca", &ca, "--tls-client-ca", &ca];
    let (cluster, url) = cluster(directory.path(), &tls);
    // A client has none, and needs none.
    join(&url, &ca);
    // All of them go on with new ones, for the connections that they have and for those to come.
    authority.sign("bees", &["127.0.0.1"]);
    std::thread::park_timeout(Duration::from_millis(1100));
    join(&url, &ca);
    // A worker that shows none, or one of another authority, does not come in.
    let [stranger, strangers_key] = other.sign("stranger", &["127.0.0.1"]);
    let base = ["worker", "--coordinator", &url, "--exit-with-stdin", "--tls-ca", &ca];
    for own in [
        vec!["--tls-cert", cert.as_str(), "--tls-key", &key],
        vec!["--tls-cert", stranger.as_str(), "--tls-key", &strangers_key, "--tls-client-ca", &ca],
    ] {
        let mut worker = skep(&[&base[..], &own].concat());
        worker.env("SKEP_LOG", "skep=warn");
        let worker = Role::spawn(worker);
        let said = worker.error_line();
        assert!(said.contains("cannot attach to the coordinator"), "{said}");
    }
    let live = "SELECT count(*) AS n FROM system.workers WHERE state = 'live'";
    let live = run(&[&url, "--tls-ca", &ca, "--format", "csv", "-c", live]).success();
    assert_eq!(live, "n\n2\n");
    drop(cluster);
}
